//! Every victim program of the test kit goes through the engine: dumped and left running it must
//! not notice, dumped, killed and restored it must not notice either.
//!
//! The engine runs as the example program `engine`, since it needs a process with a single thread.
//! Needs root and Linux >= 6.7; a victim whose own needs are not met is printed as skipped.
#![allow(clippy::print_stdout, reason = "what was skipped is told loudly")]

mod death;
mod files;
mod late;
mod program;
mod sockets;
mod victims;
