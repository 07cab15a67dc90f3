//! The folder itself: blocking calls, locks, the leases of this process.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use tokio::sync::Notify;

use super::marker::Marker;
use super::reading::Reading;
use super::stored::{Cache, Inside, Stamp, Stored};
use super::{ARCHIVE_SUFFIX, Disk, PIN_SUFFIX};

/// How often a reader asks for a lock that a deleter or a writer holds: they need it for moments.
const LOCK_TRIES: u32 = 100;
/// Between two of them.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Why an archive is not free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Somebody reads it, writes it, or is about to delete it.
    Locked,
    /// A runtime writes it, at the request of this process.
    Written,
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Locked => "it is being read, or finished",
            Self::Written => "it is being written",
        })
    }
}

/// Why something cannot be done with an archive.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder cannot be used.
    #[error("folder {}: cannot {action}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No archive has such a name.
    #[error("{name:?} is not the name of an archive: {what}")]
    Name {
        /// As given.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// There is no archive of that name.
    #[error("no archive {name}")]
    Missing {
        /// As given.
        name: String,
    },
    /// It is being read or written.
    #[error("archive {name} is in use: {held}")]
    InUse {
        /// The archive.
        name: String,
        /// By whom.
        held: Held,
    },
    /// It is pinned.
    #[error("archive {name} is pinned by {name}{PIN_SUFFIX}: unpin it first")]
    Pinned {
        /// The archive.
        name: String,
    },
    /// Another program keeps the pin.
    #[error(
        "archive {name} is pinned by {by}{}, which would pin it again: delete what needs it there",
        needed(owners)
    )]
    PinnedBy {
        /// The archive.
        name: String,
        /// The program.
        by: String,
        /// Those for whom it keeps the pin.
        owners: Vec<String>,
    },
    /// The kernel refused.
    #[error("archive {name}: cannot {action}")]
    Io {
        /// The archive.
        name: String,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

fn needed(owners: &[String]) -> String {
    match owners {
        [] => String::new(),
        owners => format!(" (for {})", owners.join(", ")),
    }
}

/// A folder of archives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Told when a lease or a pin ends.
    pub(super) released: Notify,
    cache: Mutex<Cache>,
    /// Readings of this process, by device and inode.
    leases: Mutex<HashMap<(u64, u64), usize>>,
    /// Names that runtimes write in place, and how many calls say so.
    writing: Mutex<HashMap<String, usize>>,
}

impl Folder {
    pub(super) fn new(path: &Path) -> Result<Self, StoreError> {
        let failed = |action, source| StoreError::Folder { path: path.into(), action, source };
        let absolute =
            std::path::absolute(path).map_err(|source| failed("make it absolute", source))?;
        match absolute.metadata() {
            Ok(meta) if !meta.is_dir() => {
                return Err(failed("use it", ErrorKind::NotADirectory.into()));
            }
            // It is said by the call that needs it.
            Ok(_) | Err(_) => {}
        }
        Ok(Self {
            path: absolute,
            released: Notify::new(),
            cache: Mutex::default(),
            leases: Mutex::default(),
            writing: Mutex::default(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn disk(&self) -> Result<Disk, StoreError> {
        let stat = rustix::fs::statvfs(&self.path).map_err(|errno| StoreError::Folder {
            path: self.path.clone(),
            action: "ask how full its disk is",
            source: errno.into(),
        })?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Disk { total: bytes(stat.f_blocks), available: bytes(stat.f_bavail) })
    }

    pub(super) fn list(&self) -> Result<Vec<Stored>, StoreError> {
        let failed =
            |source| StoreError::Folder { path: self.path.clone(), action: "read it", source };
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            // A name that is not text has none that could be told to anybody.
            let Ok(name) = entry.map_err(failed)?.file_name().into_string() else { continue };
            if check(&name).is_err() {
                continue;
            }
            match self.describe(&name) {
                Ok(one) => found.push(one),
                // Gone since is as good as never there.
                Err(StoreError::Missing { .. } | StoreError::InUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let stamps: Vec<Stamp> = found.iter().map(|(stamp, _)| *stamp).collect();
        lock(&self.cache).keep_only(&stamps);
        let mut found: Vec<Stored> = found.into_iter().map(|(_, stored)| stored).collect();
        found.sort_by(|a, b| (b.finished_at, &b.name).cmp(&(a.finished_at, &a.name)));
        Ok(found)
    }

    pub(super) fn find(&self, name: &str) -> Result<Stored, StoreError> {
        check(name)?;
        let (_, stored) = self.describe(name)?;
        Ok(stored)
    }

    fn describe(&self, name: &str) -> Result<(Stamp, Stored), StoreError> {
        self.written(name)?;
        let path = self.path.join(name);
        let (stamp, meta, inside) = match open(&path) {
            Ok(Some((file, meta))) => {
                let stamp = Stamp::of(&meta);
                let inside = self.inside(file, stamp, &path);
                (stamp, meta, inside)
            }
            Ok(None) => return Err(missing(name)),
            // One bad file must not hide the others.
            Err(source) => match path.symlink_metadata() {
                Ok(meta) => (Stamp::of(&meta), meta, Inside::unreadable(&source)),
                Err(_) => return Err(failed(name, "open it", source)),
            },
        };
        let marker = Marker::of(&path);
        let pinned = marker.exists().map_err(|e| failed(name, "look for its pin", e))?;
        let stored = Stored {
            name: name.to_owned(),
            pinned,
            in_use: lock(&self.leases).contains_key(&stamp.file()),
            bytes: meta.len(),
            disk_bytes: if meta.nlink() == 1 { meta.blocks().saturating_mul(512) } else { 0 },
            finished_at: stamp.finished_at(),
            identity: inside.identity,
            digest: inside.digest,
            engine: inside.engine,
            unreadable: inside.unreadable,
            path,
        };
        Ok((stamp, stored))
    }

    /// What is inside, read or remembered.
    fn inside(&self, file: File, stamp: Stamp, path: &Path) -> Inside {
        let known = lock(&self.cache).get(stamp);
        if let Some(inside) = known {
            return inside;
        }
        let (inside, lasting) = Inside::read(file, path);
        if lasting {
            lock(&self.cache).put(stamp, inside.clone());
        }
        inside
    }

    pub(super) fn read(self: &Arc<Self>, name: &str) -> Result<Reading, StoreError> {
        check(name)?;
        self.written(name)?;
        let (file, meta) = self.shared(name)?;
        let stamp = Stamp::of(&meta);
        *lock(&self.leases).entry(stamp.file()).or_default() += 1;
        Ok(Reading::new(Arc::clone(self), name.to_owned(), file, stamp, meta.len()))
    }

    pub(super) fn delete(&self, name: &str) -> Result<(), StoreError> {
        check(name)?;
        self.written(name)?;
        let path = self.path.join(name);
        let (file, meta) = match open(&path) {
            Ok(Some(open)) => open,
            Ok(None) => return Err(missing(name)),
            Err(source) => return Err(failed(name, "open it", source)),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(in_use(name, Held::Locked)),
            Err(errno) => return Err(failed(name, "lock it", errno.into())),
        }
        // Who reads has the lock, who comes now waits for it and then finds the name gone. A pin
        // is set under the lock, too.
        if !self.is_at(&path, &meta) {
            return Err(missing(name));
        }
        let pinned = Marker::of(&path).exists();
        if pinned.map_err(|source| failed(name, "look for its pin", source))? {
            return Err(StoreError::Pinned { name: name.to_owned() });
        }
        std::fs::remove_file(&path).map_err(|source| failed(name, "delete it", source))
    }

    pub(super) fn pin(&self, name: &str) -> Result<bool, StoreError> {
        check(name)?;
        self.written(name)?;
        let locked = self.shared(name)?;
        let marker = Marker::of(&self.path.join(name));
        let new = marker.make().map_err(|source| failed(name, "pin it", source));
        drop(locked);
        new
    }

    pub(super) fn unpin(&self, name: &str) -> Result<bool, StoreError> {
        check(name)?;
        let path = self.path.join(name);
        let marker = Marker::of(&path);
        let failed = |source| failed(name, "unpin it", source);
        if !marker.exists().map_err(failed)? {
            return match open(&path) {
                Ok(Some(_)) => Ok(false),
                Ok(None) => Err(missing(name)),
                Err(source) => Err(failed(source)),
            };
        }
        match marker.managed() {
            Ok(Some(managed)) => Err(StoreError::PinnedBy {
                name: name.to_owned(),
                by: managed.managed_by,
                owners: managed.pod_restore_owners,
            }),
            Ok(None) => marker.remove().map_err(failed),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    /// Opens an archive under a shared lock; it is there as long as the lock is held.
    fn shared(&self, name: &str) -> Result<(File, Metadata), StoreError> {
        let path = self.path.join(name);
        for _ in 0..LOCK_TRIES {
            let (file, meta) = match open(&path) {
                Ok(Some(open)) => open,
                Ok(None) => return Err(missing(name)),
                Err(source) => return Err(failed(name, "open it", source)),
            };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
                Ok(()) if self.is_at(&path, &meta) => return Ok((file, meta)),
                // Deleted, or replaced, while it was opened.
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
                Err(errno) => return Err(failed(name, "lock it", errno.into())),
            }
        }
        Err(in_use(name, Held::Locked))
    }

    /// Whether a path is the name of that very file.
    fn is_at(&self, path: &Path, meta: &Metadata) -> bool {
        path.symlink_metadata().is_ok_and(|now| (now.dev(), now.ino()) == (meta.dev(), meta.ino()))
    }

    pub(super) fn end_lease(&self, file: &File, stamp: Stamp) {
        // Before anybody is told; the close that follows would do it, too.
        rustix::fs::flock(file, FlockOperation::Unlock).ok();
        let mut leases = lock(&self.leases);
        if let Some(count) = leases.get_mut(&stamp.file()) {
            *count -= 1;
            if *count == 0 {
                leases.remove(&stamp.file());
            }
        }
        drop(leases);
        self.released.notify_one();
    }

    pub(super) fn begin_writing(&self, name: &str) {
        *lock(&self.writing).entry(name.to_owned()).or_default() += 1;
    }

    pub(super) fn end_writing(&self, name: &str) {
        let mut writing = lock(&self.writing);
        if let Some(count) = writing.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                writing.remove(name);
            }
        }
    }

    fn written(&self, name: &str) -> Result<(), StoreError> {
        if lock(&self.writing).contains_key(name) {
            return Err(in_use(name, Held::Written));
        }
        Ok(())
    }
}

/// Opens a regular file; `None` when there is none of that name.
fn open(path: &Path) -> io::Result<Option<(File, Metadata)>> {
    // Looked at first, since opening a device can have effects, and again, since it may be another
    // file by then. Never through a link, never waiting for the other end of a fifo.
    let gone = |error: &io::Error| {
        matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
            || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
    };
    match path.symlink_metadata() {
        Ok(meta) if meta.is_file() => {}
        Ok(_) => return Ok(None),
        Err(error) if gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    }
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let flags = i32::try_from(flags).unwrap_or(0);
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    Ok(meta.is_file().then_some((file, meta)))
}

/// Whether an archive can have the name.
fn check(name: &str) -> Result<(), StoreError> {
    let bad = |what| Err(StoreError::Name { name: name.to_owned(), what });
    if name.contains('/') {
        return bad("it has a slash");
    }
    if name.starts_with('.') {
        return bad("it begins with a dot");
    }
    if name.chars().any(char::is_control) {
        return bad("it has a control character");
    }
    if name.len() > 255 {
        return bad("it is longer than 255 bytes");
    }
    match name.strip_suffix(ARCHIVE_SUFFIX) {
        Some(_) => Ok(()),
        None => bad("it does not end in .tar"),
    }
}

fn missing(name: &str) -> StoreError {
    StoreError::Missing { name: name.to_owned() }
}

fn in_use(name: &str, held: Held) -> StoreError {
    StoreError::InUse { name: name.to_owned(), held }
}

fn failed(name: &str, action: &'static str, source: io::Error) -> StoreError {
    StoreError::Io { name: name.to_owned(), action, source }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps and sets of plain values are whole after any panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
