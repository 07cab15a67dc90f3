//! Space for an archive, looked for before the container is stopped.
//!
//! An archive is about as large as the container's memory and its changed files. The estimate is
//! what the runtime says of both, plus a margin; what other checkpoints under way are still to write
//! is counted as used, and a reserve is kept for everybody else on the file system. The runtime's
//! own copies lie where it keeps its state and are its own affair.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What the images and tar headers of an archive take besides the pages.
const MARGIN: u64 = 16 << 20;

/// The space is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not enough space in {}: needs about {}, {} free{}",
    folder.display(), Size(*needed), Size(*free), Kept(*kept)
)]
pub struct NoRoom {
    /// The folder of the archives.
    pub folder: PathBuf,
    /// Bytes the archive is expected to take.
    pub needed: u64,
    /// Bytes that are free, less what checkpoints under way will take.
    pub free: u64,
    /// Bytes of these that are not to be used.
    pub kept: u64,
}

/// Bytes for people.
struct Size(u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut units = UNITS.iter();
        let mut unit = units.next().unwrap_or(&"KiB");
        for next in units {
            if value < 1024.0 {
                break;
            }
            value /= 1024.0;
            unit = next;
        }
        write!(f, "{value:.1} {unit}")
    }
}

struct Kept(u64);

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, " of which {} are kept", Size(self.0)) }
    }
}

/// Bytes an archive of a container that uses so many is expected to take: a sixteenth more, and
/// [`MARGIN`].
pub(crate) fn estimate(used: u64) -> u64 {
    used.saturating_add(used / 16).saturating_add(MARGIN)
}

/// The file system of the archives.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    folder: PathBuf,
    reserve: u64,
    claims: Arc<Mutex<Claims>>,
}

#[derive(Debug, Default)]
struct Claims {
    next: u64,
    held: Vec<(u64, PathBuf, u64)>,
}

/// Space spoken for, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    id: u64,
    claims: Arc<Mutex<Claims>>,
}

impl Room {
    pub(crate) fn new(folder: &Path, reserve: u64) -> Self {
        Self { folder: folder.to_owned(), reserve, claims: Arc::default() }
    }

    /// Speaks for `needed` bytes of the archive at `location`. Blocks on the file system.
    pub(crate) fn claim(&self, location: &Path, needed: u64) -> Result<Claim, NoRoom> {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let promised: u64 =
            claims.held.iter().map(|(_, path, bytes)| bytes.saturating_sub(written(path))).sum();
        match free(&self.folder) {
            Ok(free) => {
                let free = free.saturating_sub(promised);
                if free < needed.saturating_add(self.reserve) {
                    let folder = self.folder.clone();
                    return Err(NoRoom { folder, needed, free, kept: self.reserve });
                }
            }
            Err(error) => {
                let folder = self.folder.display();
                tracing::warn!(%error, %folder, "free space is not known: going on without");
            }
        }
        claims.next += 1;
        let id = claims.next;
        claims.held.push((id, location.to_owned(), needed));
        Ok(Claim { id, claims: Arc::clone(&self.claims) })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.held.retain(|(id, ..)| *id != self.id);
    }
}

/// Bytes that a file takes on disk; none when it is not there.
fn written(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    // st_blocks is in units of 512 bytes, stat(3type).
    std::fs::symlink_metadata(path).map_or(0, |meta| meta.blocks().saturating_mul(512))
}

/// Bytes that programs without privilege could still write, statvfs(3).
fn free(folder: &Path) -> io::Result<u64> {
    let system = rustix::fs::statvfs(folder)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_says_where_how_much_and_what_is_there() {
        let mut error = NoRoom { folder: "/c".into(), needed: 3 << 29, free: 900 << 10, kept: 0 };
        assert_eq!(
            error.to_string(),
            "not enough space in /c: needs about 1.5 GiB, 900.0 KiB free"
        );
        error.kept = 512;
        assert_eq!(
            error.to_string(),
            "not enough space in /c: needs about 1.5 GiB, 900.0 KiB free of which 512 B are kept"
        );
        assert_eq!(Size(u64::MAX).to_string(), "16384.0 PiB");
    }

    #[test]
    fn what_is_promised_to_others_and_not_yet_written_is_not_free() {
        let folder = tempfile::tempdir().unwrap();
        let free = free(folder.path()).unwrap();
        let room = Room::new(folder.path(), 0);
        let first = folder.path().join("first.tar");
        let most = free - free / 4;
        let claim = room.claim(&first, most).unwrap();
        let refused = room.claim(&folder.path().join("second.tar"), most).unwrap_err();
        assert_eq!((&*refused.folder, refused.needed), (folder.path(), most));
        assert!(refused.free < most);
        drop(claim);
        let _again = room.claim(&first, most).unwrap();
        assert_eq!(room.claims.lock().unwrap().held.len(), 1);
    }

    #[test]
    fn the_reserve_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room::new(folder.path(), u64::MAX);
        let refused = room.claim(&folder.path().join("a.tar"), 1).unwrap_err();
        assert_eq!(refused.kept, u64::MAX);
        assert!(estimate(1 << 30) > 1 << 30);
        assert_eq!(estimate(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_folder_that_cannot_be_asked_is_no_obstacle() {
        let room = Room::new(Path::new("/nowhere/at/all"), 0);
        assert!(room.claim(Path::new("/nowhere/at/all/a.tar"), 1).is_ok());
    }
}
