//! The file at a location: what the runtime left there, made fit to be kept, or removed.
//!
//! Runtimes open the path they are told with O_CREAT, write, and neither sync nor tidy up. So a
//! success is looked at before it is told, and what a failure left is removed: at once, and again
//! when the runtime goes on behind our back (CRI-O does after a cancel, and its archive appears
//! minutes later). The path was reserved while nothing was there and stays reserved while it is
//! watched, so that nobody else's archive can ever be meant.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::location::Location;

/// Locations watched at most: the oldest are given up first.
const WATCHED: usize = 1024;
/// The archive's mode.
const MODE: u32 = 0o600;

/// The runtime reported success, and there is no archive to show for it.
#[derive(Debug, thiserror::Error)]
pub enum DepositError {
    /// Nothing is there.
    #[error("the runtime reported success, but there is no archive at {}", path.display())]
    Missing {
        /// The location.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("the runtime reported success, but {} is {what} and no archive", path.display())]
    NotAnArchive {
        /// The location.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It could not be looked at, or brought to the disk.
    #[error("cannot {action} the archive {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The location.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Checks that an archive is there, makes it root's alone, and brings it and its name to the disk.
/// Blocks.
pub(crate) fn seal(path: &Path) -> Result<(), DepositError> {
    let failed = |action| {
        let path = path.to_owned();
        move |source: io::Error| DepositError::Io { action, path, source }
    };
    let other = |what| DepositError::NotAnArchive { path: path.to_owned(), what };
    // O_NONBLOCK: the open of a fifo must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: File = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file.into(),
        Err(rustix::io::Errno::NOENT) => {
            return Err(DepositError::Missing { path: path.to_owned() });
        }
        Err(rustix::io::Errno::LOOP) => return Err(other("a symbolic link")),
        // The open of a socket, open(2).
        Err(rustix::io::Errno::NXIO) => return Err(other("a socket")),
        Err(errno) => return Err(failed("open")(errno.into())),
    };
    let meta = file.metadata().map_err(failed("look at"))?;
    let kind = meta.file_type();
    if kind.is_dir() {
        return Err(other("a folder"));
    }
    if kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
        return Err(other("a device or pipe"));
    }
    if meta.len() == 0 {
        return Err(other("an empty file"));
    }
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    if (meta.uid(), meta.gid()) != (user.as_raw(), group.as_raw()) {
        rustix::fs::fchown(&file, Some(user), Some(group))
            .map_err(|errno| failed("take ownership of")(errno.into()))?;
    }
    if meta.permissions().mode() & 0o7777 != MODE {
        file.set_permissions(Permissions::from_mode(MODE)).map_err(failed("change the mode of"))?;
    }
    file.sync_all().map_err(failed("bring to the disk"))?;
    if let Some(folder) = path.parent() {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(failed("bring to the disk the name of"))?;
    }
    Ok(())
}

/// Removes what a failed call left at a location; whether something was there. Blocks.
pub(crate) fn remove(path: &str) -> bool {
    let size = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta.len(),
        Err(_) => return false,
    };
    match std::fs::remove_file(path) {
        Ok(()) => {
            tracing::info!(path, bytes = size, "what the runtime left is removed");
            true
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            tracing::warn!(path, %error, "what the runtime left cannot be removed");
            false
        }
    }
}

/// Locations at which a runtime that was not waited for may still write. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Latecomers {
    shared: Arc<Mutex<Watched>>,
    interval: Duration,
    /// How long each is watched.
    span: Duration,
}

#[derive(Debug, Default)]
struct Watched {
    locations: Vec<(Instant, Location)>,
    /// Whether a task looks at them.
    looked_at: bool,
}

impl Latecomers {
    /// Looks every `interval`, at each location for `span`.
    pub(crate) fn new(interval: Duration, span: Duration) -> Self {
        Self { shared: Arc::default(), interval, span }
    }

    /// Removes whatever appears there from now on.
    pub(crate) fn watch(&self, location: Location) {
        let mut watched = lock(&self.shared);
        if watched.locations.len() >= WATCHED {
            let (_, oldest) = watched.locations.remove(0);
            tracing::warn!(path = oldest.path(), "no longer watched: too many others are");
        }
        watched.locations.push((Instant::now() + self.span, location));
        if !watched.looked_at {
            watched.looked_at = true;
            let (shared, interval) = (Arc::clone(&self.shared), self.interval);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(interval).await;
                    let shared = Arc::clone(&shared);
                    let more = tokio::task::spawn_blocking(move || look(&shared)).await;
                    if !more.unwrap_or(false) {
                        break;
                    }
                }
            });
        }
    }
}

/// One round; whether there are more to come.
fn look(shared: &Mutex<Watched>) -> bool {
    let paths: Vec<String> = {
        let watched = lock(shared);
        watched.locations.iter().map(|(_, location)| location.path().to_owned()).collect()
    };
    for path in paths {
        remove(&path);
    }
    let now = Instant::now();
    let mut watched = lock(shared);
    watched.locations.retain(|(until, _)| *until > now);
    watched.looked_at = !watched.locations.is_empty();
    watched.looked_at
}

fn lock(shared: &Mutex<Watched>) -> MutexGuard<'_, Watched> {
    // A list of locations is whole after any panic.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_becomes_roots_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        std::fs::write(&path, b"archive").unwrap();
        for mode in [0o644, 0o600, 0o4666, 0o400] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            seal(&path).unwrap();
            let meta = std::fs::metadata(&path).unwrap();
            assert_eq!(meta.permissions().mode() & 0o7777, 0o600);
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"archive");
    }

    #[test]
    fn what_is_no_archive_is_told_by_its_kind() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("empty"), b"").unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        std::fs::write(at("target"), b"secret").unwrap();
        std::os::unix::fs::symlink("target", at("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let (kind, mode) = (rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600));
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), kind, mode, 0).unwrap();
        for (name, what) in [
            ("empty", "is an empty file"),
            ("folder", "is a folder"),
            ("link", "is a symbolic link"),
            ("socket", "is a socket"),
            ("fifo", "is a device or pipe"),
            ("missing", "there is no archive at"),
        ] {
            let error = seal(&at(name)).unwrap_err().to_string();
            assert!(error.contains(what), "{name}: {error}");
        }
        assert_eq!(std::fs::read(at("target")).unwrap(), b"secret");
    }

    #[test]
    fn a_link_is_removed_and_not_what_it_points_at() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::fs::write(&target, b"secret").unwrap();
        std::os::unix::fs::symlink("target", &link).unwrap();
        assert!(remove(link.to_str().unwrap()));
        assert!(!remove(link.to_str().unwrap()));
        assert_eq!(std::fs::read(&target).unwrap(), b"secret");
    }
}
