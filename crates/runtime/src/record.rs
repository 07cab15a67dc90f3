//! Records on disk: what exists, and in which state it is.
//!
//! Every record is one JSON file that is replaced as a whole (temporary name, fsync, rename), so a
//! reader sees the old or the new one and a killed writer leaves nothing half done. A shim holds an
//! exclusive flock(2) on its lock file for as long as it lives: whether it does is asked of the
//! kernel, never of a pid that may belong to somebody else by now.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::{ContainerConfig, PodIdentity, SandboxConfig};
use crate::error::RuntimeError;
use crate::manifest::{Clocks, Tmpfs};
use crate::root::RootPlan;
use crate::runtime::Paths;
use crate::shim::Partial;

/// How far a sandbox or container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Being made; without a living maker it is removed at the next opportunity.
    Creating,
    /// A sandbox that is ready.
    Ready,
    /// A container that waits for its start.
    Created,
    /// A container that runs.
    Running,
    /// A container that ended, a sandbox that was stopped.
    Ended,
}

/// Record of a pod sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    pub(crate) config: SandboxConfig,
    pub(crate) phase: Phase,
    pub(crate) created_at: i64,
    pub(crate) shim_pid: Option<i32>,
}

/// Record of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    pub(crate) pod: PodIdentity,
    pub(crate) config: ContainerConfig,
    pub(crate) phase: Phase,
    pub(crate) pid: Option<i32>,
    pub(crate) created_at: i64,
    pub(crate) started_at: i64,
    pub(crate) finished_at: i64,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) image_id: String,
    pub(crate) image_name: String,
    pub(crate) root: RootPlan,
    pub(crate) log_path: PathBuf,
    pub(crate) stop_signal: i32,
    pub(crate) restore: Option<RestoreRecord>,
}

/// What a restored container came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestoreRecord {
    pub(crate) archive: PathBuf,
    /// What the archive was when it was verified.
    pub(crate) stamp: Stamp,
    pub(crate) checkpointed_at: i64,
    pub(crate) clocks: Option<Clocks>,
    /// Pid of the first process in its namespace.
    pub(crate) pid: Option<i32>,
    pub(crate) partial: Partial,
    pub(crate) descriptors: Vec<String>,
    pub(crate) tmpfs: Vec<Tmpfs>,
    /// Its memory may come after it runs, with so many milliseconds of rest after each MiB that nobody
    /// waits for. Pages are not verified yet then.
    #[serde(default)]
    pub(crate) lazy: Option<u64>,
}

/// Identity and state of a file: equal stamps, equal content. The time of the last change is the
/// kernel's own and cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// Where everything lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    pub(crate) state_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) exe: PathBuf,
    pub(crate) cgroup_parent: String,
}

impl Layout {
    pub(crate) fn new(paths: &Paths) -> Self {
        Self {
            state_dir: paths.state_dir.clone(),
            run_dir: paths.run_dir.clone(),
            exe: paths.exe.clone(),
            cgroup_parent: paths.cgroup_parent.clone(),
        }
    }

    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.state_dir.join("sandboxes")
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.state_dir.join("containers")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.state_dir.join("images")
    }

    pub(crate) fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.sandboxes().join(id)
    }

    pub(crate) fn container_dir(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// Folder of a shim's socket and lock.
    pub(crate) fn shim_dir(&self, id: &str) -> PathBuf {
        self.run_dir.join("shims").join(id)
    }

    pub(crate) fn sandbox_cgroup(&self, sandbox: &str) -> PathBuf {
        Path::new(&self.cgroup_parent).join(sandbox)
    }

    pub(crate) fn container_cgroup(&self, sandbox: &str, id: &str) -> PathBuf {
        self.sandbox_cgroup(sandbox).join(id)
    }

    pub(crate) fn load_sandbox(&self, id: &str) -> Result<Option<SandboxRecord>, RuntimeError> {
        load(&self.sandbox_dir(id).join("sandbox.json"))
    }

    pub(crate) fn save_sandbox(&self, record: &SandboxRecord) -> Result<(), RuntimeError> {
        save(&self.sandbox_dir(&record.id).join("sandbox.json"), record)
    }

    pub(crate) fn load_container(&self, id: &str) -> Result<Option<ContainerRecord>, RuntimeError> {
        load(&self.container_dir(id).join("container.json"))
    }

    pub(crate) fn save_container(&self, record: &ContainerRecord) -> Result<(), RuntimeError> {
        save(&self.container_dir(&record.id).join("container.json"), record)
    }

    pub(crate) fn sandbox_ids(&self) -> Result<Vec<String>, RuntimeError> {
        ids(&self.sandboxes())
    }

    pub(crate) fn container_ids(&self) -> Result<Vec<String>, RuntimeError> {
        ids(&self.containers())
    }

    /// Whether the shim of a sandbox lives.
    pub(crate) fn shim_lives(&self, sandbox: &str) -> bool {
        let Ok(file) = File::open(self.shim_dir(sandbox).join("lock")) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared).is_err()
    }
}

/// Names an error by what was tried on which path.
pub(crate) fn io_error(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> RuntimeError {
    let path = path.into();
    move |source| RuntimeError::Io { action, path, source }
}

fn ids(dir: &Path) -> Result<Vec<String>, RuntimeError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error("list", dir)(e)),
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", dir))?;
        if let Ok(name) = entry.file_name().into_string()
            && is_id(&name)
        {
            ids.push(name);
        }
    }
    Ok(ids)
}

/// True for 64 lower-case hexadecimal digits.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A fresh id: 64 hexadecimal digits from the kernel's random source.
pub(crate) fn new_id() -> Result<String, RuntimeError> {
    let mut bytes = [0u8; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| io_error("read", "/dev/urandom")(e.into()))?;
    Ok(hex(&bytes))
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Makes a folder of mode 0700 with its parents; existing ones are kept.
pub(crate) fn make_dir(path: &Path) -> Result<(), RuntimeError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))
}

pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RuntimeError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("read", path)(e)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| RuntimeError::Record { path: path.into(), source })
}

pub(crate) fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), RuntimeError> {
    let bytes = serde_json::to_vec_pretty(value)
        .map_err(|source| RuntimeError::Record { path: path.into(), source })?;
    replace(path, &bytes).map_err(io_error("write", path))
}

/// Replaces a file as a whole; two writers at once do not meet in one temporary name.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static COUNTER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let serial = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}-{serial}.tmp", std::process::id()));
    let temporary = PathBuf::from(name);
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Takes a lock that the kernel gives back when the process ends; `None`: somebody else has it.
pub(crate) fn try_lock(path: &Path) -> Result<Option<File>, RuntimeError> {
    let file = open_lock(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(io_error("lock", path)(e.into())),
    }
}

/// Takes a lock and waits for it.
pub(crate) fn lock(path: &Path) -> Result<File, RuntimeError> {
    let file = open_lock(path)?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(io_error("lock", path)(e.into())),
        }
    }
}

fn open_lock(path: &Path) -> Result<File, RuntimeError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io_error("open", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_64_hexadecimal_digits_and_differ() {
        let (a, b) = (new_id().unwrap(), new_id().unwrap());
        assert!(is_id(&a) && is_id(&b));
        assert_ne!(a, b);
        assert!(!is_id("../../etc"));
    }

    #[test]
    fn a_replaced_file_leaves_no_temporary_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        replace(&path, b"1").unwrap();
        replace(&path, b"2").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"2");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_lock_is_free_again_when_its_holder_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = try_lock(&path).unwrap();
        assert!(held.is_some());
        assert!(try_lock(&path).unwrap().is_none());
        drop(held);
        assert!(try_lock(&path).unwrap().is_some());
    }
}
