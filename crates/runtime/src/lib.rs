//! Containers: bundle, root filesystem, namespaces, mounts, cgroups, shim, lifecycle.
//!
//! Everything here is blocking std code. [`Runtime`] is the door: it works on state kept on disk, so
//! any number of processes may open the same folders, and one that is killed with `SIGKILL` loses
//! nothing. The containers belong to a *shim*, one process per pod sandbox, which outlives whoever
//! asked for them; the runtime talks to it through a unix socket.
//!
//! The binary that links this crate must route a few hidden subcommands to [`entry::run`]: the
//! runtime starts `Paths::exe` with [`entry::FLAG`] as its first argument, because a process that
//! makes namespaces or traces others has to be fresh and single-threaded.
//!
//! # Example
//!
//! ```no_run
//! use std::time::Duration;
//! use cryopod_runtime::{ContainerConfig, ImageSpec, Paths, Runtime, SandboxConfig};
//!
//! # fn main() -> Result<(), cryopod_runtime::RuntimeError> {
//! let runtime = Runtime::open(Paths::new("/var/lib/cryopod", "/run/cryopod"))?;
//! let sandbox = runtime.run_pod_sandbox(&SandboxConfig::named("default", "counter"))?;
//! let mut config = ContainerConfig::named("counter", ImageSpec::Host);
//! config.command = vec!["/bin/sh".into(), "-c".into(), "while :; do date; sleep 1; done".into()];
//! let container = runtime.create_container(&sandbox, &config)?;
//! runtime.start_container(&container)?;
//! runtime.stop_container(&container, Duration::from_secs(10))?;
//! # Ok(())
//! # }
//! ```

mod capability;
mod cgroup;
pub mod checkpoint;
pub mod config;
pub mod entry;
pub mod error;
mod helper;
pub mod image;
mod init;
mod manifest;
mod mounts;
mod policy;
mod process;
mod record;
mod root;
mod runtime;
mod seccomp;
mod shim;
mod spec;
pub mod status;
mod surroundings;
mod tree;
mod users;
mod window;
mod wire;

pub use checkpoint::{ArchiveDescription, CancelToken, CheckpointOptions, CheckpointReport};
pub use config::{
    ContainerConfig, Device, ImageSpec, Mount, MountPropagation, NamespaceMode, NetworkMode,
    PodIdentity, Resources, Rlimit, RunAs, SandboxConfig, SeccompPolicy, Security,
};
pub use error::{ErrorKind, RuntimeError};
pub use image::{ImageInfo, ImageSource, ImageStoreUsage};
pub use runtime::restores::MEMORY_ANNOTATION;
pub use runtime::{Paths, Runtime};
pub use status::{
    ContainerFilter, ContainerState, ContainerStats, ContainerStatus, CpuUsage, ExecOutput,
    FilesystemUsage, MemoryUsage, PodFilter, PodSandboxState, PodSandboxStats, PodSandboxStatus,
};
