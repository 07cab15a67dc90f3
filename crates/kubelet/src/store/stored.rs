//! What is known of one archive.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use cryopod_archive::{Archive, Engine, MetadataError, ReadError};
use jiff::Timestamp;
use serde::Serialize;

/// Whose checkpoint it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name.
    pub container: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.pod, self.container)
    }
}

/// One archive of the folder, as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    /// Its file name: what the other calls take.
    pub name: String,
    /// Its absolute path.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes of disk that are free once it is deleted: 0 when the file has another name, too.
    pub disk_bytes: u64,
    /// When it was finished: the time of its last change.
    pub finished_at: Timestamp,
    /// Whose it is. `None` when it does not say all three names: a checkpoint of a container that
    /// is in no pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Whether it has a pin.
    pub pinned: bool,
    /// Whether this process reads it now.
    pub in_use: bool,
    /// BLAKE3 digest of the archive's table of digests, in hexadecimal: archives with one digest
    /// are equal. `None` for archives of other runtimes, which have no such table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Who made it. `None` when it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// Why it cannot be read as a checkpoint archive, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

impl Stored {
    /// Whether cryopod made it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.engine == Some(Engine::Cryopod)
    }
}

/// Tells a file, and each state of its content, from others, as long as its clock runs forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl Stamp {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        }
    }

    /// The file, whatever its content.
    pub(super) fn file(self) -> (u64, u64) {
        (self.device, self.inode)
    }

    pub(super) fn finished_at(self) -> Timestamp {
        let (seconds, nanos) = self.modified;
        // A file system can hold times that have no date; they are no reason to hide an archive.
        Timestamp::new(seconds, i32::try_from(nanos).unwrap_or(0)).unwrap_or_default()
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = self.modified;
        write!(f, "{:x}-{:x}-{seconds:x}-{nanos:x}", self.inode, self.size)
    }
}

/// What is read from inside an archive.
#[derive(Clone, Debug, Default)]
pub(super) struct Inside {
    pub(super) identity: Option<Identity>,
    pub(super) digest: Option<String>,
    pub(super) engine: Option<Engine>,
    pub(super) unreadable: Option<String>,
}

impl Inside {
    /// Reads headers and small entries. The flag says whether the answer will be the same as long
    /// as the file is: not when the kernel had no descriptor, memory or disk for us.
    pub(super) fn read(file: File, path: &Path) -> (Self, bool) {
        match Self::try_read(file, path) {
            Ok(inside) => (inside, true),
            Err(error) => {
                let lasting = !matches!(error, MetadataError::Read(ReadError::Io { .. }));
                (Self { unreadable: Some(causes(&error)), ..Self::default() }, lasting)
            }
        }
    }

    /// Of a file that cannot even be opened.
    pub(super) fn unreadable(error: &std::io::Error) -> Self {
        Self { unreadable: Some(format!("it cannot be opened: {error}")), ..Self::default() }
    }

    fn try_read(file: File, path: &Path) -> Result<Self, MetadataError> {
        let archive = Archive::from_file(file, path)?;
        let summary = archive.summary()?;
        let said = summary.identity;
        let identity = match (said.namespace, said.pod, said.container) {
            (Some(namespace), Some(pod), Some(container)) => {
                Some(Identity { namespace, pod, container })
            }
            _ => None,
        };
        Ok(Self {
            identity,
            digest: archive.id().map(|id| id.to_hex().to_string()),
            engine: Some(summary.engine),
            unreadable: None,
        })
    }
}

/// An error with its causes, on one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// What was read, as long as the files stay as they were.
#[derive(Debug, Default)]
pub(super) struct Cache(HashMap<Stamp, Inside>);

impl Cache {
    pub(super) fn get(&self, stamp: Stamp) -> Option<Inside> {
        self.0.get(&stamp).cloned()
    }

    pub(super) fn put(&mut self, stamp: Stamp, inside: Inside) {
        self.0.insert(stamp, inside);
    }

    /// Forgets files that are not there any more.
    pub(super) fn keep_only(&mut self, there: &[Stamp]) {
        // More than is there: some of it is old. Usually it is not.
        if self.0.len() > there.len() {
            let there: std::collections::HashSet<Stamp> = there.iter().copied().collect();
            self.0.retain(|stamp, _| there.contains(stamp));
        }
    }
}
