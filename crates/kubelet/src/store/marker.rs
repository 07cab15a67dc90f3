//! Pins: a file `NAME.tar.keep` beside the archive, whatever is in it.
//!
//! checkpoint-restore-operator sets pins of its own while one of its restores needs the archive,
//! and tells them from people's by their JSON content. It would set such a pin again at once, so it
//! is not taken away here.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::Deserialize;

/// What a pin's name has after the archive's.
pub const PIN_SUFFIX: &str = ".keep";

/// Bytes of a marker that are looked at.
const MARKER_BYTES: u64 = 64 << 10;

/// A marker that a program keeps.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Managed {
    /// The program.
    pub(super) managed_by: String,
    /// Those for whom it is kept, `namespace/name` each.
    #[serde(default)]
    pub(super) pod_restore_owners: Vec<String>,
}

/// One archive's marker.
pub(super) struct Marker {
    path: PathBuf,
}

impl Marker {
    pub(super) fn of(archive: &Path) -> Self {
        let mut path = archive.as_os_str().to_owned();
        path.push(PIN_SUFFIX);
        Self { path: path.into() }
    }

    /// Only its existence counts.
    pub(super) fn exists(&self) -> io::Result<bool> {
        match self.path.symlink_metadata() {
            Ok(_) => Ok(true),
            // A name that no file can have has no marker either.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidFilename) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes it, and waits until it is on disk. Whether it was not there.
    pub(super) fn make(&self) -> io::Result<bool> {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path);
        let new = match made {
            Ok(file) => {
                file.sync_all()?;
                true
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error),
        };
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(new)
    }

    /// The program that keeps it, if one does.
    pub(super) fn managed(&self) -> io::Result<Option<Managed>> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).unwrap_or(0);
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&self.path) {
            Ok(file) => file,
            // Something else than a file is no program's marker.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut text = Vec::new();
        file.take(MARKER_BYTES).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text).ok())
    }

    /// Removes it. Whether it was there.
    pub(super) fn remove(&self) -> io::Result<bool> {
        match std::fs::remove_file(&self.path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
