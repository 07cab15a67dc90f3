//! Development only: victim programs and the ways to run them; with the feature `api-server`, an
//! API server played by the test.
//!
//! A *victim* is a small C program that owns one kind of kernel object, waits while it is checkpointed and restored, and
//! then judges by itself whether the object is as it was (`victims/victim.h` has the protocol). [`victims`] lists them,
//! [`victim`] finds one by name, [`Running`] starts one and reads its verdict.
//!
//! What is proven of the victims themselves, in this crate's tests: each passes when nobody touches it, and each fails
//! after every one of the damages it knows to do to its own object.

#[cfg(feature = "api-server")]
pub mod api_server;
mod catalogue;
pub mod death;
mod gaps;
pub mod loads;
mod orphans;
mod run;

pub use catalogue::{Criu, Fate, Need, Victim, victim, victims};
pub use gaps::gap;
pub use orphans::{Owned, adopt, reap};
pub use run::{Running, Verdict, VictimError, Workplace, isolate};
