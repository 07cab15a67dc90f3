//! Dump and restore of a process tree.
