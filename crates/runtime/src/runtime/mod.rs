//! The door: every operation on sandboxes, containers and images.

mod checkpoints;
mod containers;
mod images;
mod recovery;
pub(crate) mod restores;
mod sandboxes;
mod stats;

use std::path::PathBuf;

use crate::error::RuntimeError;
use crate::image::Store;
use crate::record::{ContainerRecord, Layout, SandboxRecord, is_id, make_dir};
use crate::shim::{Request, Response, ask};

/// Result of every operation here.
type Result<T> = std::result::Result<T, RuntimeError>;

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
    layout: Layout,
}

impl Runtime {
    /// Opens (and makes, mode 0700) the folders, removes what a killed process left half made, and
    /// brings records of containers whose shim is gone up to date.
    ///
    /// # Errors
    /// When a folder cannot be made or a record cannot be read.
    pub fn open(mut paths: Paths) -> Result<Self> {
        for dir in [&mut paths.state_dir, &mut paths.run_dir] {
            make_dir(dir)?;
            *dir = std::fs::canonicalize(&*dir).map_err(crate::record::io_error("find", &*dir))?;
        }
        let layout = Layout::new(&paths);
        for dir in [layout.sandboxes(), layout.containers(), layout.images()] {
            make_dir(&dir)?;
        }
        let runtime = Self { paths, layout };
        runtime.recover()?;
        Ok(runtime)
    }

    /// The folders and the program it works with.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    fn store(&self) -> Store {
        Store::new(self.layout.images())
    }

    /// Asks the shim of a sandbox.
    fn ask(&self, sandbox: &str, request: &Request) -> Result<Response> {
        ask(&self.layout.shim_dir(sandbox), request)
    }

    fn sandbox(&self, reference: &str) -> Result<SandboxRecord> {
        let id = one_of("pod sandbox", reference, || self.layout.sandbox_ids())?;
        self.layout
            .load_sandbox(&id)?
            .ok_or_else(|| RuntimeError::NotFound { what: "pod sandbox", id: reference.into() })
    }

    /// A container's record, brought up to date when its shim is gone.
    fn container(&self, reference: &str) -> Result<ContainerRecord> {
        let id = one_of("container", reference, || self.layout.container_ids())?;
        let record = self
            .layout
            .load_container(&id)?
            .ok_or_else(|| RuntimeError::NotFound { what: "container", id: reference.into() })?;
        self.current(record)
    }
}

/// The id that a reference means: itself when it is one, else the only one that begins like it.
fn one_of(
    what: &'static str,
    reference: &str,
    ids: impl FnOnce() -> Result<Vec<String>>,
) -> Result<String> {
    if is_id(reference) {
        return Ok(reference.into());
    }
    let not_found = || RuntimeError::NotFound { what, id: reference.into() };
    if reference.is_empty() || !reference.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(not_found());
    }
    let mut found = ids()?.into_iter().filter(|id| id.starts_with(reference));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id),
        (Some(_), Some(_)) => Err(RuntimeError::Ambiguous { what, id: reference.into() }),
        (None, _) => Err(not_found()),
    }
}
