//! Images of stock criu, and images nobody should have written.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod golden;
mod hostile;
