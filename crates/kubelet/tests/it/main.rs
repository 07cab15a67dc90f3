//! The real server over TLS, in front of a runtime played by the test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod apiserver;
mod audit;
mod authentication;
mod authorization;
mod client;
mod cluster;
mod connections;
mod contract;
mod cri;
mod health;
mod load;
mod log;
mod metrics;
mod pki;
mod reviews;
mod runs;
mod stage;
mod start;
mod statuses;
mod tls;
mod upstream;
