//! Archives: written, read, damaged, made by enemies; trees: packed and unpacked.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod big;
mod damage;
mod foreign;
mod hostile;
mod layout;
mod listing;
mod overlay;
mod snapshot;
mod trees;
mod unpacking;
