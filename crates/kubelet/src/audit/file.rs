//! The audit file: JSON lines, 0600, appended to, opened again when it was moved or removed.
//!
//! Each line is one `write` on a descriptor with `O_APPEND`, as open(2) has it: lines of two
//! processes do not mix. Written where the request is answered, as the log is: a line is in the
//! file before its answer is out.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An open audit file.
#[derive(Debug)]
pub struct AuditFile {
    path: PathBuf,
    file: Mutex<File>,
}

impl AuditFile {
    /// Opens the file, or makes it for this user alone.
    ///
    /// # Errors
    /// What the kernel said: open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: Mutex::new(append_to(path)?) })
    }

    /// As given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it again; on an error the old one stays in use.
    ///
    /// # Errors
    /// As [`AuditFile::open`].
    pub fn reopen(&self) -> io::Result<()> {
        let file = append_to(&self.path)?;
        *self.lock() = file;
        Ok(())
    }

    /// Writes one line; the final newline is added.
    pub(super) fn append(&self, mut line: Vec<u8>) -> io::Result<()> {
        line.push(b'\n');
        let mut file = self.lock();
        if was_moved(&file, &self.path) {
            match append_to(&self.path) {
                Ok(new) => *file = new,
                // Better a line in the moved file than none.
                Err(error) => {
                    let path = self.path.display();
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(%path, error, "audit file not opened again");
                }
            }
        }
        file.write_all(&line)
    }

    fn lock(&self) -> MutexGuard<'_, File> {
        // A descriptor is whole after any panic.
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o600).open(path)
}

/// Whether the path leads to another file now, or to none.
fn was_moved(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) != (there.dev(), there.ino()),
        (_, Err(error)) => error.kind() == io::ErrorKind::NotFound,
        (Err(_), Ok(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_file_is_left_and_a_new_one_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let moved = folder.path().join("audit.log.1");
        let file = AuditFile::open(&path).unwrap();
        file.append(b"one".to_vec()).unwrap();
        fs::rename(&path, &moved).unwrap();
        file.append(b"two".to_vec()).unwrap();
        assert_eq!(fs::read_to_string(&moved).unwrap(), "one\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        fs::remove_file(&path).unwrap();
        file.append(b"three".to_vec()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn without_a_folder_the_old_file_stays_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("below");
        fs::create_dir(&below).unwrap();
        let path = below.join("audit.log");
        let file = AuditFile::open(&path).unwrap();
        let aside = folder.path().join("aside");
        fs::rename(&below, &aside).unwrap();
        assert!(file.reopen().is_err());
        file.append(b"one".to_vec()).unwrap();
        assert_eq!(fs::read_to_string(aside.join("audit.log")).unwrap(), "one\n");
    }

    #[test]
    fn reopening_keeps_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let file = AuditFile::open(&path).unwrap();
        file.append(b"one".to_vec()).unwrap();
        file.reopen().unwrap();
        file.append(b"two".to_vec()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }
}
