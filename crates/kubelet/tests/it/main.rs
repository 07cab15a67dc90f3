//! The real server over TLS, in front of a runtime played by the test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod audit;
mod authentication;
mod authorization;
mod client;
mod connections;
mod contract;
mod cri;
mod health;
mod metrics;
mod pki;
mod runs;
mod stage;
mod start;
mod statuses;
mod tls;
mod upstream;
