//! The real server over TLS, in front of a runtime played by the test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod apiserver;
mod authentication;
mod authorization;
mod client;
mod cluster;
mod configuration;
mod connections;
mod cri;
mod crio;
mod frames;
mod freezer;
mod hostile;
mod limits;
mod load;
mod log;
mod pki;
mod reviews;
mod runs;
mod stage;
mod start;
mod statuses;
mod tls;
