//! An archive that is open for reading.

use std::fs::File;
use std::sync::Arc;

use jiff::Timestamp;

use super::folder::Folder;
use super::stored::Stamp;

/// An open archive, and the lease on it: while it lives nobody deletes the archive.
///
/// Reads go by [`Reading::file`] at an offset (pread(2), blocking); the file has no position of
/// its own that two readers could fight over.
#[derive(Debug)]
pub struct Reading {
    folder: Arc<Folder>,
    name: String,
    file: File,
    stamp: Stamp,
    bytes: u64,
}

impl Reading {
    /// The file's lock is held, and its lease counted.
    pub(super) fn new(
        folder: Arc<Folder>,
        name: String,
        file: File,
        stamp: Stamp,
        bytes: u64,
    ) -> Self {
        Self { folder, name, file, stamp, bytes }
    }

    /// The archive's file name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The open file. It must not outlive this by a duplicate: the lock would, too.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Bytes of the archive.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When it was last changed.
    #[must_use]
    pub fn modified(&self) -> Timestamp {
        self.stamp.finished_at()
    }

    /// A text of letters, digits and `-` that is another one for every other content: fit for an
    /// entity tag.
    #[must_use]
    pub fn stamp(&self) -> String {
        self.stamp.to_string()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.folder.end_lease(&self.file, self.stamp);
    }
}
