//! Checkpoint and restore.

use std::path::Path;

use super::{Result, Runtime};
use crate::checkpoint::{CheckpointOptions, CheckpointReport};
use crate::config::ContainerConfig;
use crate::error::RuntimeError;

impl Runtime {
    /// Takes a checkpoint of a running container into an archive at `location`, which appears only
    /// when it is whole.
    ///
    /// # Errors
    /// Kind [`Refused`](crate::ErrorKind::Refused) when the container holds what cannot be carried
    /// over; on any failure the container goes on and no file is left.
    pub fn checkpoint_container(
        &self,
        _id: &str,
        _location: &Path,
        _options: &CheckpointOptions,
    ) -> Result<CheckpointReport> {
        Err(RuntimeError::NotSupported { what: "checkpoint_container" })
    }

    /// Makes a container from a checkpoint archive and returns its id. The archive is verified
    /// (digests, base image, identity against `config`) and unpacked;
    /// [`start_container`](Self::start_container) makes it go on. `config.image`, `command`, `args`
    /// and `env` are not used: they come from the archive. `config.mounts` must offer every bind
    /// mount of the archive's container.
    ///
    /// # Errors
    /// Kind [`Refused`](crate::ErrorKind::Refused) when the archive is damaged, its base image is
    /// missing (the digest is named) or it does not fit; nothing is left.
    pub fn create_container_from_archive(
        &self,
        _sandbox: &str,
        _config: &ContainerConfig,
        _archive: &Path,
    ) -> Result<String> {
        Err(RuntimeError::NotSupported { what: "create_container_from_archive" })
    }
}
