//! Black-box tests of the binary `cryopod`: each module keeps one promise to users. They need root
//! (namespaces, mounts, cgroups), and work in folders of their own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "clean-up that fails is said, not hidden")]

mod harness;

mod command_line;
mod doors;
