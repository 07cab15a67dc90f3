//! The real server over TLS, in front of a runtime played by the test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod archives;
mod authentication;
mod authorization;
mod beyond;
mod client;
mod connections;
mod cri;
mod crio;
mod freezer;
mod limits;
mod pki;
mod restores;
mod retention;
mod runs;
mod small;
mod stage;
mod start;
mod statuses;
mod tls;
