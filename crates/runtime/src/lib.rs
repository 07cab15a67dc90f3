//! Containers: bundle, root filesystem, namespaces, mounts, cgroups, shim, lifecycle.
