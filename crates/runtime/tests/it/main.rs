//! Containers for real: root, namespaces, mounts and cgroups of the machine the tests run on.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is what is wanted")]

mod checkpoint;
mod deaths;
mod endurance;
mod files;
mod host;
mod late;
mod lifecycle;
mod namespaces;
mod security;
mod shim;
mod victims;
