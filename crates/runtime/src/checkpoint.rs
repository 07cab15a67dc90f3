//! Checkpoint and restore as a caller sees them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{ContainerConfig, PodIdentity, SandboxConfig};

/// Asks a running operation to stop. Clones share one state; once set it stays set.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets it: the operation ends soon with an error of kind
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled), the container goes on, nothing is left.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// True once [`cancel`](Self::cancel) was called on any clone.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How to take a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct CheckpointOptions {
    /// Capture and stop in one freeze; otherwise the container goes on.
    pub stop: bool,
    /// Put the base image into the archive, so that it alone can be restored elsewhere.
    pub with_image: bool,
    /// Compare the archive with all memory as it was in the freeze, before it gets its name.
    pub self_check: bool,
    /// Longest time for the whole; `None`: no limit.
    pub timeout: Option<Duration>,
    /// Ends the operation early when set.
    pub cancel: CancelToken,
}

/// What a checkpoint was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointReport {
    /// The archive.
    pub location: PathBuf,
    /// Its size in bytes.
    pub archive_bytes: u64,
    /// Microseconds from the first task stopped to the last let go.
    pub frozen_micros: u64,
    /// Microseconds of the whole operation.
    pub total_micros: u64,
    /// Tasks (processes) in the image.
    pub tasks: u64,
    /// Pages of memory written, 4096 bytes each.
    pub pages: u64,
    /// True when the container was stopped.
    pub stopped: bool,
    /// Things worth knowing: tasks left out, connections that will be closed, and so on.
    pub notes: Vec<String>,
}

/// What an archive says of the container it was taken of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveDescription {
    /// The pod it was in; name and namespace are set in archives of other runtimes too.
    pub pod: PodIdentity,
    /// Name of the container.
    pub container: String,
    /// The sandbox it was in; `None`: another runtime's archive.
    pub sandbox: Option<SandboxConfig>,
    /// The container as it was asked for; `None`: another runtime's archive.
    pub config: Option<ContainerConfig>,
    /// Id of the base image (`sha256:…`, `host`); empty: unknown.
    pub image_id: String,
    /// Name of the base image.
    pub image_name: String,
    /// The base image is in the archive.
    pub image_embedded: bool,
    /// When it was taken, nanoseconds since 1970; 0: unknown.
    pub checkpointed_at: i64,
}
