//! Black-box tests of the binary `cryopod`: each module keeps one promise to users. They need root
//! (namespaces, mounts, cgroups), and work in folders of their own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "clean-up that fails is said, not hidden")]

#[path = "../crates/cli/src/demo/certificates.rs"]
mod certificates;
#[path = "../crates/cli/src/demo/https.rs"]
mod client;
mod door;
mod harness;

mod checkpoints;
mod command_line;
mod configuration;
mod containers;
mod crash;
mod cri;
mod cuts;
mod demo;
mod deploy;
mod doors;
mod elsewhere;
mod hostile;
mod https;
mod images;
mod node_e2e;
mod probes;
mod remote;
mod retention;
mod statuses;
mod telemetry;
