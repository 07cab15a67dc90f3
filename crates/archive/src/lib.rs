//! The checkpoint tar: layout, written once, read by seeking, verified.
