//! Reads an archive by seeking: opening it reads the headers, never the data.
//!
//! An archive is hostile input. Entries are regular files and directories with exact relative
//! names; links, devices, names with `..`, two entries of one name, sizes that run past the end and
//! anything unknown are refused with entry and offset. Archives of CRI-O, containerd and podman are
//! read as well (a leading `./`, GNU and PAX headers), as long as they are not compressed as a
//! whole.
//!
//! When the archive has a table of digests ([`crate::DIGESTS_NAME`]), opening checks every header
//! against it, small entries are checked as they are read, and [`Archive::verify`] checks the rest.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blake3::Hash;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};

use crate::chunks::Chunks;
use crate::digests::{CHUNK, DIGESTS_NAME, Table, TableError};
use crate::tar::decode::{self, FileSource, Source, TarError};
use crate::tar::encode::{Align, encode};
use crate::tar::{BLOCK, Header, Kind, padded, parts, show};

/// Entries an archive may have.
pub const MAX_ENTRIES: usize = 1 << 20;
/// Bytes an entry's name may have.
pub const MAX_NAME: usize = 4096;

/// Why an archive, or an entry of it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be opened or read.
    #[error("{path}: cannot {action}")]
    Io {
        /// The archive.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Not a regular file.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// What was opened.
        path: PathBuf,
    },
    /// The archive is compressed as a whole.
    #[error("{path} is compressed with {format}: unpack it first")]
    Compressed {
        /// The archive.
        path: PathBuf,
        /// With what.
        format: &'static str,
    },
    /// The tar format is violated.
    #[error("{path}: after entry {after:?}")]
    Tar {
        /// The archive.
        path: PathBuf,
        /// The last good entry, or an empty name.
        after: String,
        /// What is wrong, and where.
        #[source]
        source: TarError,
    },
    /// An entry that an archive may not have.
    #[error("{path}: entry {name:?} at offset {offset}: {what}")]
    Refused {
        /// The archive.
        path: PathBuf,
        /// The entry.
        name: String,
        /// Where it begins, in bytes.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
    /// There are more entries than [`MAX_ENTRIES`].
    #[error("{path}: more than {MAX_ENTRIES} entries")]
    TooMany {
        /// The archive.
        path: PathBuf,
    },
    /// An entry's bytes are not those that were written.
    #[error("{path}: entry {name:?} is damaged at offset {offset}: {what}")]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// The entry.
        name: String,
        /// Where in the archive the damaged stretch begins, in bytes.
        offset: u64,
        /// What differs.
        what: &'static str,
    },
    /// The table of digests cannot be taken.
    #[error("{path}: entry {DIGESTS_NAME:?} at offset {offset}")]
    Table {
        /// The archive.
        path: PathBuf,
        /// Where it begins, in bytes.
        offset: u64,
        /// What is wrong with it.
        #[source]
        source: TableError,
    },
    /// The archive has no such file.
    #[error("{path}: no entry {name:?}")]
    Missing {
        /// The archive.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// An entry is larger than the reader wants.
    #[error("{path}: entry {name:?} has {size} bytes, more than {limit}")]
    TooBig {
        /// The archive.
        path: PathBuf,
        /// The entry.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
}

/// An entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name, without a leading `./` and without the slash that ends a directory's.
    pub name: String,
    /// Whether it is a directory.
    pub directory: bool,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Bytes of data.
    pub size: u64,
    /// Where the data begins in the archive, in bytes.
    pub offset: u64,
    /// Where the entry begins in the archive, in bytes.
    pub start: u64,
    head: Hash,
    chunks: Option<Chunks>,
}

/// What [`Archive::verify`] looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verified {
    /// Entries whose data is what was written.
    pub entries: u64,
    /// Bytes of their data.
    pub bytes: u64,
}

/// An open archive. It goes on to work when the file is unlinked.
#[derive(Debug, Clone)]
pub struct Archive {
    file: Arc<File>,
    path: PathBuf,
    len: u64,
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
    id: Option<Hash>,
}

impl Archive {
    /// Opens an archive. While it is open it is locked (flock(2), shared), so that who cleans up its
    /// folder and asks for the lock does not take it away; where it cannot be locked it is read all
    /// the same.
    ///
    /// # Errors
    /// When it cannot be read, is no tar, or holds what an archive may not.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        // Never wait for the other end of a fifo, never take a terminal.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| ReadError::Io {
            path: path.into(),
            action: "open",
            source: errno.into(),
        })?;
        // Its own writer may hold it for a moment yet.
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared).ok();
        Self::from_file(File::from(fd), path)
    }

    /// Reads an archive from an open file; `path` is what errors call it.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub fn from_file(file: File, path: &Path) -> Result<Self, ReadError> {
        let io = |action| move |source| ReadError::Io { path: path.into(), action, source };
        let stat = rustix::fs::fstat(&file).map_err(|e| io("look at")(e.into()))?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(ReadError::NotAFile { path: path.into() });
        }
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        let mut magic = [0; 6];
        let n = FileSource::new(&file, 0, len).fill(&mut magic).map_err(io("read"))?;
        if let Some(format) = compression(&magic[..n]) {
            return Err(ReadError::Compressed { path: path.into(), format });
        }
        let mut archive = Self {
            file: Arc::new(file),
            path: path.to_owned(),
            len,
            entries: Vec::new(),
            index: HashMap::new(),
            id: None,
        };
        let end = archive.scan()?;
        archive.check_table(end)?;
        Ok(archive)
    }

    /// Reads all headers; the answer is where the end mark begins.
    fn scan(&mut self) -> Result<u64, ReadError> {
        let file = Arc::clone(&self.file);
        let mut source = FileSource::new(&file, 0, self.len);
        loop {
            let end = source.position();
            let next = decode::next(&mut source).map_err(|source| ReadError::Tar {
                path: self.path.clone(),
                after: self.entries.last().map(|e| e.name.clone()).unwrap_or_default(),
                source,
            })?;
            let Some(found) = next else { return Ok(end) };
            let header = &found.header;
            let name = show(&header.path);
            let refuse = |what: String| ReadError::Refused {
                path: self.path.clone(),
                name: name.clone(),
                offset: found.start,
                what,
            };
            let directory = match header.kind {
                Kind::File if header.sparse_size.is_none() => false,
                Kind::Directory if header.size == 0 => true,
                Kind::File | Kind::Directory => {
                    return Err(refuse("a sparse file or a directory with data".to_owned()));
                }
                kind => return Err(refuse(format!("a {kind} has no place in an archive"))),
            };
            let stored = exact_name(&header.path)
                .ok_or_else(|| refuse("the name is not relative and exact".to_owned()))?;
            let room = self.len.saturating_sub(found.data);
            let data = padded(header.size).filter(|&len| len <= room).ok_or_else(|| {
                refuse(format!("{} bytes run past the end of the archive", header.size))
            })?;
            if self.entries.len() >= MAX_ENTRIES {
                return Err(ReadError::TooMany { path: self.path.clone() });
            }
            // `./` itself has no name and no use.
            if !stored.is_empty() {
                let at = self.entries.len();
                if self.index.insert(stored.clone(), at).is_some() {
                    return Err(refuse("the name is there twice".to_owned()));
                }
                self.entries.push(Entry {
                    name: stored,
                    directory,
                    mode: header.mode,
                    mtime: header.mtime.0,
                    size: header.size,
                    offset: found.data,
                    start: found.start,
                    head: blake3::hash(&found.raw),
                    chunks: None,
                });
            } else if !directory {
                return Err(refuse("the name is empty".to_owned()));
            }
            source.skip(data).map_err(|source| ReadError::Io {
                path: self.path.clone(),
                action: "read",
                source,
            })?;
        }
    }

    /// Reads the table of digests, if there is one, and compares it with all headers.
    fn check_table(&mut self, end: u64) -> Result<(), ReadError> {
        let Some(at) = self.index.get(DIGESTS_NAME).copied() else {
            return Ok(());
        };
        let own = self.entries[at].clone();
        let damaged = |name: &str, offset, what| ReadError::Damaged {
            path: self.path.clone(),
            name: name.to_owned(),
            offset,
            what,
        };
        // Its size grows with the archive's: 67 bytes for a MiB.
        let limit = (64 << 20) + self.len / 8192;
        if own.size > limit {
            let (path, name) = (self.path.clone(), own.name);
            return Err(ReadError::TooBig { path, name, size: own.size, limit });
        }
        let bytes = self.bytes(&own)?;
        let (table, id) = Table::decode(&bytes).map_err(|source| ReadError::Table {
            path: self.path.clone(),
            offset: own.start,
            source,
        })?;
        // Nothing covers this entry's header, so it must be the one header it can be.
        let header = Header::plain(DIGESTS_NAME, Kind::File, 0o600, own.size, table.time);
        if blake3::hash(&encode(&header, own.start, Align::None)) != own.head {
            return Err(damaged(&own.name, own.start, "the header is not as written"));
        }
        if at + 1 != self.entries.len() || self.len != end + 2 * BLOCK {
            return Err(damaged(&own.name, end, "it is not the end of the archive"));
        }
        self.check_padding(&own)?;
        if table.rows.len() != at {
            let name = table.rows.get(at).map_or(&own.name, |row| &row.name);
            return Err(damaged(name, own.start, "entries are missing or added"));
        }
        for (entry, row) in self.entries.iter_mut().zip(table.rows) {
            let name =
                if entry.directory { format!("{}/", entry.name) } else { entry.name.clone() };
            let same = (name, entry.size, entry.mode) == (row.name, row.size, row.mode);
            if !same || entry.head != row.head {
                return Err(ReadError::Damaged {
                    path: self.path.clone(),
                    name: entry.name.clone(),
                    offset: entry.start,
                    what: "the header is not as written",
                });
            }
            entry.chunks = Some(row.chunks);
        }
        self.id = Some(id);
        Ok(())
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, for reads at an entry's offset.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Bytes of the archive.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The archive's id, when it has a table of digests: archives of one id are equal.
    #[must_use]
    pub fn id(&self) -> Option<Hash> {
        self.id
    }

    /// All entries in the order of the archive.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry of a name.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(*self.index.get(name)?)
    }

    /// The file entry of a name.
    ///
    /// # Errors
    /// When there is none.
    pub fn file_entry(&self, name: &str) -> Result<&Entry, ReadError> {
        self.entry(name)
            .filter(|entry| !entry.directory)
            .ok_or_else(|| ReadError::Missing { path: self.path.clone(), name: name.to_owned() })
    }

    /// The data of a small entry of at most `limit` bytes, checked if the archive has digests.
    ///
    /// # Errors
    /// When there is no such file, it is larger, damaged, or cannot be read.
    pub fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ReadError> {
        let entry = self.file_entry(name)?;
        if entry.size > limit {
            return Err(ReadError::TooBig {
                path: self.path.clone(),
                name: name.to_owned(),
                size: entry.size,
                limit,
            });
        }
        let bytes = self.bytes(entry)?;
        for index in 0..entry.chunks.as_ref().map_or(0, |chunks| chunks.hashes.len()) {
            let range = self.chunk(entry, index);
            self.check(entry, index, &bytes[range.start as usize..range.end as usize])?;
        }
        Ok(bytes)
    }

    /// As [`Archive::read`], but `None` when there is no such file.
    ///
    /// # Errors
    /// As [`Archive::read`], but for the absence.
    pub fn read_optional(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, ReadError> {
        if self.entry(name).is_none() {
            return Ok(None);
        }
        self.read(name, limit).map(Some)
    }

    /// A reader over an entry's data that does not check digests: for what is verified first.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn stream(&self, name: &str) -> Result<EntryReader, ReadError> {
        let entry = self.file_entry(name)?;
        let (at, end) = (entry.offset, entry.offset + entry.size);
        Ok(EntryReader { file: Arc::clone(&self.file), at, end })
    }

    /// The bytes of an entry's data that digest number `index` covers: [`CHUNK`] bytes from `index *
    /// CHUNK`, or what is left at the end, but for entries that were changed after they were written.
    #[must_use]
    pub fn chunk(&self, entry: &Entry, index: usize) -> Range<u64> {
        let usual = Chunks::default();
        entry.chunks.as_ref().unwrap_or(&usual).range(index, entry.size)
    }

    /// How many digests an entry's data has.
    pub(crate) fn chunk_count(&self, entry: &Entry) -> usize {
        entry.chunks.as_ref().map_or(0, |chunks| chunks.hashes.len())
    }

    /// The number of the digest that covers a byte of an entry's data.
    #[must_use]
    pub fn chunk_at(&self, entry: &Entry, at: u64) -> usize {
        let usual = Chunks::default();
        entry.chunks.as_ref().unwrap_or(&usual).at(at)
    }

    /// Checks bytes that were read from an entry: `bytes` is chunk number `index`, all of
    /// [`Archive::chunk`].
    ///
    /// # Errors
    /// When they are not what was written. An archive without digests has nothing to check by.
    pub fn check(&self, entry: &Entry, index: usize, bytes: &[u8]) -> Result<(), ReadError> {
        let Some(chunks) = &entry.chunks else { return Ok(()) };
        if chunks.hashes.get(index) == Some(&blake3::hash(bytes)) {
            return Ok(());
        }
        Err(ReadError::Damaged {
            path: self.path.clone(),
            name: entry.name.clone(),
            offset: entry.offset + chunks.range(index, entry.size).start,
            what: "the data is not as written",
        })
    }

    /// Checks one entry's data and padding.
    ///
    /// # Errors
    /// When there is no such file, or it is damaged or cannot be read.
    pub fn verify_entry(&self, name: &str) -> Result<Verified, ReadError> {
        let mut done = Verified::default();
        self.verify_one(self.file_entry(name)?, &mut done, &mut |_| {})?;
        Ok(done)
    }

    /// Checks all entries. `progress` is told the bytes of data done so far. In an archive without
    /// digests nothing can be checked, and the answer counts no entries.
    ///
    /// # Errors
    /// The first entry that is damaged or cannot be read.
    pub fn verify(&self, progress: &mut dyn FnMut(u64)) -> Result<Verified, ReadError> {
        let mut done = Verified::default();
        for entry in &self.entries {
            self.verify_one(entry, &mut done, progress)?;
        }
        Ok(done)
    }

    fn verify_one(
        &self,
        entry: &Entry,
        done: &mut Verified,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ReadError> {
        let Some(chunks) = &entry.chunks else { return Ok(()) };
        let mut buffer = vec![0; CHUNK.min(entry.size) as usize];
        for index in 0..chunks.hashes.len() {
            let range = chunks.range(index, entry.size);
            let len = (range.end - range.start) as usize;
            self.read_exact(entry, &mut buffer[..len], entry.offset + range.start)?;
            self.check(entry, index, &buffer[..len])?;
            done.bytes += len as u64;
            progress(done.bytes);
        }
        self.check_padding(entry)?;
        done.entries += 1;
        Ok(())
    }

    pub(crate) fn check_padding(&self, entry: &Entry) -> Result<(), ReadError> {
        let end = entry.offset + entry.size;
        let fill = padded(entry.size).map_or(0, |p| p - entry.size) as usize;
        let mut padding = [0; BLOCK as usize];
        self.read_exact(entry, &mut padding[..fill], end)?;
        if padding.iter().all(|&b| b == 0) {
            return Ok(());
        }
        Err(ReadError::Damaged {
            path: self.path.clone(),
            name: entry.name.clone(),
            offset: end,
            what: "the padding is not zero",
        })
    }

    fn bytes(&self, entry: &Entry) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; entry.size as usize];
        self.read_exact(entry, &mut bytes, entry.offset)?;
        Ok(bytes)
    }

    fn read_exact(&self, entry: &Entry, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        match self.file.read_exact_at(buffer, at) {
            Ok(()) => Ok(()),
            // The file was longer when it was opened.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(ReadError::Damaged {
                path: self.path.clone(),
                name: entry.name.clone(),
                offset: at,
                what: "the archive was cut after it was opened",
            }),
            Err(source) => Err(ReadError::Io { path: self.path.clone(), action: "read", source }),
        }
    }
}

/// An entry's data, front to back.
#[derive(Debug)]
pub struct EntryReader {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl io::Read for EntryReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let len = left.min(buffer.len());
        let n = self.file.read_at(&mut buffer[..len], self.at)?;
        if n == 0 && len > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += n as u64;
        Ok(n)
    }
}

/// The name of a compression by the bytes a file begins with.
pub(crate) fn compression(magic: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], _); 5] = [
        (b"\x1f\x8b", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh", "bzip2"),
        (b"\x04\x22\x4d\x18", "lz4"),
    ];
    known.iter().find(|(bytes, _)| magic.starts_with(bytes)).map(|(_, name)| *name)
}

/// The name as it is kept: UTF-8 without control characters, relative, exact; empty for `./`.
fn exact_name(stored: &[u8]) -> Option<String> {
    if stored.starts_with(b"/") || stored.len() > MAX_NAME || stored.is_empty() {
        return None;
    }
    let parts = parts(stored)?;
    let name = String::from_utf8(parts.join(&b'/')).ok()?;
    (!name.chars().any(char::is_control)).then_some(name)
}
