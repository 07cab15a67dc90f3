//! The real server over TLS, in front of a runtime played by the test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod authentication;
mod authorization;
mod beyond;
mod client;
mod connections;
mod cri;
mod pki;
mod restores;
mod runs;
mod stage;
mod start;
mod statuses;
mod tls;
