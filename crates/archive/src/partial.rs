//! Archives on their way: what they are called, where they may be, and the removal of those whose writers
//! were killed.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::write_error::WriteError;

pub(crate) const PREFIX: &str = ".cryopod-";
pub(crate) const SUFFIX: &str = ".partial";

/// Whether a file of that name is an archive on its way, as [`crate::ArchiveWriter`] names it.
#[must_use]
pub fn is_partial(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    bytes.starts_with(PREFIX.as_bytes()) && bytes.ends_with(SUFFIX.as_bytes())
}

/// Removes what writers that were killed left in `dir`; files being written stay. The answer is
/// what was removed.
///
/// # Errors
/// When the directory cannot be read. A file that cannot be removed stays.
pub fn remove_partial(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        if !is_partial(&name) {
            continue;
        }
        let path = dir.join(&name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::open(&path, flags, Mode::empty()) else { continue };
        let regular = rustix::fs::fstat(&file)
            .is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_file());
        let free = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if regular && free && std::fs::remove_file(&path).is_ok() {
            removed.push(path);
        }
    }
    Ok(removed)
}

/// Refuses a directory in which somebody else could replace an archive.
pub(crate) fn check_directory(path: &Path, dir: &File) -> Result<(), WriteError> {
    let stat = rustix::fs::fstat(dir).map_err(|errno| WriteError::Io {
        path: path.into(),
        action: "look at",
        source: errno.into(),
    })?;
    let refuse = |what| Err(WriteError::Directory { path: path.into(), what });
    let sticky = stat.st_mode & 0o1000 != 0;
    if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
        return refuse("belongs to another user, who could replace the archive");
    }
    if stat.st_mode & 0o022 != 0 && !sticky {
        return refuse("can be written by others, who could replace the archive");
    }
    Ok(())
}
