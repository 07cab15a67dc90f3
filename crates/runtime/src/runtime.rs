//! The door: every operation on sandboxes, containers and images.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::checkpoint::{CheckpointOptions, CheckpointReport};
use crate::config::{ContainerConfig, Resources, SandboxConfig};
use crate::error::RuntimeError;
use crate::image::{ImageInfo, ImageSource, ImageStoreUsage};
use crate::status::{
    ContainerFilter, ContainerStats, ContainerStatus, ExecOutput, PodFilter, PodSandboxStats,
    PodSandboxStatus,
};

/// Result of every operation here.
pub type Result<T> = std::result::Result<T, RuntimeError>;

/// The folders and the program a runtime works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// What must outlive a reboot: images, records, writable layers (`/var/lib/cryopod`).
    pub state_dir: PathBuf,
    /// What must not: sockets and locks (`/run/cryopod`).
    pub run_dir: PathBuf,
    /// The program that routes [`entry::FLAG`](crate::entry::FLAG) to
    /// [`entry::run`](crate::entry::run); `/proc/self/exe` by default.
    pub exe: PathBuf,
    /// Name below the root of the cgroup hierarchies (`cryopod`).
    pub cgroup_parent: String,
}

impl Paths {
    /// These folders, the running program, and the cgroup `cryopod`.
    pub fn new(state_dir: impl Into<PathBuf>, run_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            run_dir: run_dir.into(),
            exe: PathBuf::from("/proc/self/exe"),
            cgroup_parent: "cryopod".into(),
        }
    }
}

/// The container runtime. Cheap to clone, usable from many threads; all methods block.
#[derive(Debug, Clone)]
pub struct Runtime {
    paths: Paths,
}

impl Runtime {
    /// Opens (and makes, mode 0700) the folders, and brings records of containers whose shim is gone
    /// up to date.
    ///
    /// # Errors
    /// When a folder cannot be made or a record cannot be read.
    pub fn open(paths: Paths) -> Result<Self> {
        Ok(Self { paths })
    }

    /// The folders and the program it works with.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Makes a pod sandbox and returns its id. It is ready when this returns.
    ///
    /// # Errors
    /// [`RuntimeError::AlreadyExists`] for the same identity; on any failure nothing is left.
    pub fn run_pod_sandbox(&self, _config: &SandboxConfig) -> Result<String> {
        Err(RuntimeError::NotSupported { what: "run_pod_sandbox" })
    }

    /// Kills all containers of the sandbox and ends its shim. Done before: no error.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] for an unknown id.
    pub fn stop_pod_sandbox(&self, _id: &str) -> Result<()> {
        Err(RuntimeError::NotSupported { what: "stop_pod_sandbox" })
    }

    /// Stops the sandbox if need be and removes it with its containers.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] for an unknown id.
    pub fn remove_pod_sandbox(&self, _id: &str) -> Result<()> {
        Err(RuntimeError::NotSupported { what: "remove_pod_sandbox" })
    }

    /// One sandbox, by id or an unambiguous beginning of it.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`], [`RuntimeError::Ambiguous`].
    pub fn pod_sandbox_status(&self, _id: &str) -> Result<PodSandboxStatus> {
        Err(RuntimeError::NotSupported { what: "pod_sandbox_status" })
    }

    /// All sandboxes that match, newest first.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn list_pod_sandboxes(&self, _filter: &PodFilter) -> Result<Vec<PodSandboxStatus>> {
        Err(RuntimeError::NotSupported { what: "list_pod_sandboxes" })
    }

    /// Makes a container in a sandbox and returns its id. Its first process exists and waits.
    ///
    /// # Errors
    /// [`RuntimeError::AlreadyExists`] for the same name and attempt, an error of the image, or
    /// whatever the kernel refused; on any failure nothing is left.
    pub fn create_container(&self, _sandbox: &str, _config: &ContainerConfig) -> Result<String> {
        Err(RuntimeError::NotSupported { what: "create_container" })
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

    /// Lets a created container run.
    ///
    /// # Errors
    /// [`RuntimeError::State`] unless it is created; the program's own errors (`ENOENT`).
    pub fn start_container(&self, _id: &str) -> Result<()> {
        Err(RuntimeError::NotSupported { what: "start_container" })
    }

    /// Asks a container to stop with its stop signal, and kills it after `timeout`. Stopped before:
    /// no error.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] for an unknown id.
    pub fn stop_container(&self, _id: &str, _timeout: Duration) -> Result<()> {
        Err(RuntimeError::NotSupported { what: "stop_container" })
    }

    /// Kills a container if need be and removes it.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] for an unknown id.
    pub fn remove_container(&self, _id: &str) -> Result<()> {
        Err(RuntimeError::NotSupported { what: "remove_container" })
    }

    /// One container, by id or an unambiguous beginning of it.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`], [`RuntimeError::Ambiguous`].
    pub fn container_status(&self, _id: &str) -> Result<ContainerStatus> {
        Err(RuntimeError::NotSupported { what: "container_status" })
    }

    /// All containers that match, newest first.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn list_containers(&self, _filter: &ContainerFilter) -> Result<Vec<ContainerStatus>> {
        Err(RuntimeError::NotSupported { what: "list_containers" })
    }

    /// Blocks until the container has exited and returns its status then.
    ///
    /// # Errors
    /// [`RuntimeError::Timeout`] after `timeout`.
    pub fn wait_container(&self, _id: &str, _timeout: Option<Duration>) -> Result<ContainerStatus> {
        Err(RuntimeError::NotSupported { what: "wait_container" })
    }

    /// Changes the limits of a created or running container.
    ///
    /// # Errors
    /// [`RuntimeError::State`], or what the kernel refused.
    pub fn update_container_resources(&self, _id: &str, _resources: &Resources) -> Result<()> {
        Err(RuntimeError::NotSupported { what: "update_container_resources" })
    }

    /// Statistics of one container that is created or running.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`], [`RuntimeError::State`].
    pub fn container_stats(&self, _id: &str) -> Result<ContainerStats> {
        Err(RuntimeError::NotSupported { what: "container_stats" })
    }

    /// Statistics of all containers that match and are created or running.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn list_container_stats(&self, _filter: &ContainerFilter) -> Result<Vec<ContainerStats>> {
        Err(RuntimeError::NotSupported { what: "list_container_stats" })
    }

    /// Statistics of one sandbox.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`].
    pub fn pod_sandbox_stats(&self, _id: &str) -> Result<PodSandboxStats> {
        Err(RuntimeError::NotSupported { what: "pod_sandbox_stats" })
    }

    /// Statistics of all sandboxes that match.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn list_pod_sandbox_stats(&self, _filter: &PodFilter) -> Result<Vec<PodSandboxStats>> {
        Err(RuntimeError::NotSupported { what: "list_pod_sandbox_stats" })
    }

    /// Runs a command in a running container and waits for its end; `None`: no time limit.
    ///
    /// # Errors
    /// [`ErrorKind::DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded) after `timeout` (the
    /// command is killed), [`RuntimeError::State`].
    pub fn exec_sync(
        &self,
        _id: &str,
        _command: &[String],
        _timeout: Option<Duration>,
    ) -> Result<ExecOutput> {
        Err(RuntimeError::NotSupported { what: "exec_sync" })
    }

    /// Closes and opens the container's log again, after it was rotated.
    ///
    /// # Errors
    /// [`RuntimeError::State`] unless it runs.
    pub fn reopen_container_log(&self, _id: &str) -> Result<()> {
        Err(RuntimeError::NotSupported { what: "reopen_container_log" })
    }

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

    /// Takes an image into the store under the given name (`name:tag`; `None`: the one it carries).
    ///
    /// # Errors
    /// An error of the image; nothing is left then.
    pub fn import_image(&self, _source: &ImageSource, _name: Option<&str>) -> Result<ImageInfo> {
        Err(RuntimeError::NotSupported { what: "import_image" })
    }

    /// All images.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list_images(&self) -> Result<Vec<ImageInfo>> {
        Err(RuntimeError::NotSupported { what: "list_images" })
    }

    /// One image by id, beginning of an id, digest or name; `None`: not there.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn image_status(&self, _reference: &str) -> Result<Option<ImageInfo>> {
        Err(RuntimeError::NotSupported { what: "image_status" })
    }

    /// Removes an image; not there: no error.
    ///
    /// # Errors
    /// [`RuntimeError::State`] while a container uses it.
    pub fn remove_image(&self, _reference: &str) -> Result<()> {
        Err(RuntimeError::NotSupported { what: "remove_image" })
    }

    /// Disk used by the image store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn image_fs_info(&self) -> Result<ImageStoreUsage> {
        Err(RuntimeError::NotSupported { what: "image_fs_info" })
    }
}
