//! The real server over TLS, in front of a runtime played by the test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod apiserver;
mod archives;
mod audit;
mod authentication;
mod authorization;
mod beyond;
mod client;
mod cluster;
mod configuration;
mod connections;
mod contract;
mod cri;
mod crio;
mod frames;
mod freezer;
mod health;
mod hostile;
mod limits;
mod load;
mod log;
mod metrics;
mod pki;
mod restores;
mod retention;
mod reviews;
mod runs;
mod small;
mod stage;
mod start;
mod statuses;
mod tls;
mod upstream;
