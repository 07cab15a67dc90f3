//! Containers for real: root, namespaces, mounts and cgroups of the machine the tests run on.

mod host;
mod lifecycle;
mod security;
mod shim;
