//! The real server over TLS, in front of a runtime played by the test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod authentication;
mod authorization;
mod client;
mod connections;
mod cri;
mod crio;
mod freezer;
mod limits;
mod pki;
mod runs;
mod stage;
mod start;
mod statuses;
mod tls;
