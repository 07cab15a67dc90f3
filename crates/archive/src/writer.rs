//! Writes an archive once, front to back.
//!
//! Nothing half-done is visible: the archive grows under a name that no reader looks at (it does
//! not end in `.tar`), is synced, and only then gets its name, without replacing anything
//! (renameat2(2), RENAME_NOREPLACE). A writer that goes away without finishing removes it; one
//! that was killed leaves a file that [`crate::remove_partial`] tells from one that is being written by
//! its lock (flock(2)).
//!
//! Data of big entries is written in whole pages, and begins where it is asked to, so that pages
//! can be mapped or read around the page cache. Where it is much, threads hash and write it
//! ([`crate::pipe`]) from the call that brings it to the end of the entry.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use blake3::Hash;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::chunks::Chunks;
use crate::digests::{CHUNK, Chunker, DIGESTS_NAME, Row, Table};
use crate::partial::{PREFIX, SUFFIX, check_directory};
use crate::pipe::Pipe;
use crate::revise::Placed;
use crate::tar::encode::{Align, encode, patch_size};
use crate::tar::{BLOCK, Header, Kind, padded, parts};
use crate::write_error::{WriteError, again};

/// Unit that the data of [`ArchiveWriter::begin`] starts at, in bytes.
pub const DATA_ALIGN: u64 = 4096;

const BUFFER: usize = 1 << 20;
/// Bytes of an aligned entry, whole chunks, from which on threads are worth starting.
const MANY: u64 = 2 * CHUNK;

/// What a finished archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Its id: the digest of the table of digests, which covers everything else.
    pub id: Hash,
}

#[derive(Debug)]
struct Open {
    name: String,
    mode: u32,
    /// Where the ustar block is.
    block_at: u64,
    head: Vec<u8>,
    size: u64,
    /// Of what went without the pipe.
    chunker: Chunker,
    way: Way,
}

/// How data of an entry gets to the file.
#[derive(Debug)]
enum Way {
    /// By the caller.
    Plain,
    /// By the caller until there is much.
    Waiting,
    /// By threads.
    Pipe(Pipe),
}

/// An archive that is being written.
#[derive(Debug)]
pub struct ArchiveWriter {
    dir: File,
    dir_path: PathBuf,
    temp: OsString,
    pub(crate) file: Arc<File>,
    /// Bytes on their way to the file, the first of which belongs at `flushed`.
    buffer: Vec<u8>,
    flushed: u64,
    pub(crate) table: Table,
    /// Entries that can be changed.
    pub(crate) placed: Vec<Placed>,
    names: HashSet<String>,
    open: Option<Open>,
    /// Small entries that came while a big one was open.
    queued: Vec<(String, u32, Vec<u8>)>,
    sealed: Option<(u64, Hash)>,
    named: bool,
    /// The first error of the file, after which nothing can be made of the archive.
    failed: Option<(&'static str, io::Error)>,
}

impl ArchiveWriter {
    /// Starts an archive in `dir`, under a name of its own, mode 0600.
    ///
    /// # Errors
    /// When `dir` is not a directory, belongs to another user, or can be written by others without
    /// being sticky; when the file cannot be made.
    pub fn create(dir: &Path) -> Result<Self, WriteError> {
        let io = |action| {
            move |errno: Errno| WriteError::Io { path: dir.into(), action, source: errno.into() }
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir_file = File::from(rustix::fs::open(dir, flags, Mode::empty()).map_err(io("open"))?);
        check_directory(dir, &dir_file)?;
        loop {
            let mut random = [0_u8; 8];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
                .map_err(io("get random bytes for a file in"))?;
            let temp = format!("{PREFIX}{:016x}{SUFFIX}", u64::from_ne_bytes(random));
            let flags =
                OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let mode = Mode::RUSR | Mode::WUSR;
            let file = match rustix::fs::openat(&dir_file, &temp, flags, mode) {
                Ok(fd) => File::from(fd),
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(io("make a file in")(errno)),
            };
            // Somebody who cleans up may have taken it for a left-over until it is locked.
            let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
            let there = rustix::fs::fstat(&file).map_err(io("look at a file in"))?.st_nlink == 1;
            if !(locked && there) {
                continue;
            }
            rustix::fs::fchmod(&file, mode).map_err(io("set the mode of a file in"))?;
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            return Ok(Self {
                dir: dir_file,
                dir_path: dir.to_owned(),
                temp: temp.into(),
                file: Arc::new(file),
                buffer: Vec::with_capacity(BUFFER),
                flushed: 0,
                table: Table {
                    time: now.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0)),
                    rows: Vec::new(),
                },
                placed: Vec::new(),
                names: HashSet::new(),
                open: None,
                queued: Vec::new(),
                sealed: None,
                named: false,
                failed: None,
            });
        }
    }

    /// Bytes of the archive so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    /// Whether nothing has been written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a directory, mode 0700, and those it is in. Nothing happens when it is there.
    ///
    /// # Errors
    /// When the name is not exact or an entry is open.
    pub fn directory(&mut self, name: &str) -> Result<(), WriteError> {
        if let Some(open) = &self.open {
            let what = "a directory cannot be added while an entry is open";
            return Err(WriteError::Order { name: open.name.clone(), what });
        }
        if self.sealed.is_some() {
            return Err(WriteError::Name { name: name.to_owned(), what: "comes after the end" });
        }
        check_name(name)?;
        let ends = name.match_indices('/').map(|(at, _)| at).chain([name.len()]);
        for end in ends.collect::<Vec<_>>() {
            let stored = format!("{}/", &name[..end]);
            if self.names.contains(&name[..end]) {
                return Err(WriteError::Name { name: name[..end].into(), what: "is a file" });
            }
            if !self.names.insert(stored.clone()) {
                continue;
            }
            let header = Header::plain(&name[..end], Kind::Directory, 0o700, 0, self.table.time);
            let head = encode(&header, self.len(), Align::None);
            self.table.rows.push(Row {
                name: stored,
                size: 0,
                mode: 0o700,
                head: blake3::hash(&head),
                chunks: Chunks::default(),
            });
            self.write(&head)?;
        }
        Ok(())
    }

    /// Adds a small entry. While another is open it is kept in memory and written after that one.
    ///
    /// # Errors
    /// When the name is not exact or taken, or the file cannot be written.
    pub fn put(&mut self, name: &str, bytes: &[u8], mode: u32) -> Result<(), WriteError> {
        if self.open.is_some() {
            self.take_name(name)?;
            self.queued.push((name.to_owned(), mode, bytes.to_vec()));
            return Ok(());
        }
        self.parent(name)?;
        self.take_name(name)?;
        self.put_taken(name, bytes, mode)
    }

    fn put_taken(&mut self, name: &str, bytes: &[u8], mode: u32) -> Result<(), WriteError> {
        self.parent(name)?;
        let mode = mode & 0o7777;
        let size = bytes.len() as u64;
        let header = Header::plain(name, Kind::File, mode, size, self.table.time);
        let head = encode(&header, self.len(), Align::None);
        self.write(&head)?;
        self.write(bytes)?;
        self.pad(size)?;
        let mut chunker = Chunker::default();
        chunker.update(bytes);
        self.table.rows.push(Row {
            name: name.to_owned(),
            size,
            mode,
            head: blake3::hash(&head),
            chunks: chunker.finish(),
        });
        Ok(())
    }

    /// Opens an entry whose size is known only at its end. With `aligned` its data begins at a
    /// multiple of [`DATA_ALIGN`] in the archive.
    ///
    /// # Errors
    /// When the name is not exact or taken, another entry is open, or the file cannot be written.
    pub fn begin(&mut self, name: &str, mode: u32, aligned: bool) -> Result<(), WriteError> {
        if let Some(open) = &self.open {
            let what = "another entry cannot begin before it ends";
            return Err(WriteError::Order { name: open.name.clone(), what });
        }
        self.parent(name)?;
        self.take_name(name)?;
        let mode = mode & 0o7777;
        let align = if aligned { Align::To(DATA_ALIGN) } else { Align::None };
        let header = Header::plain(name, Kind::File, mode, 0, self.table.time);
        let head = encode(&header, self.len(), align);
        let block_at = self.len() + head.len() as u64 - BLOCK;
        self.write(&head)?;
        let chunker = Chunker::default();
        let way = if aligned { Way::Waiting } else { Way::Plain };
        let name = name.to_owned();
        self.open = Some(Open { name, mode, block_at, head, size: 0, chunker, way });
        Ok(())
    }

    /// Adds data to the open entry. An error of the file may be told by a later call.
    ///
    /// # Errors
    /// When no entry is open or the file cannot be written.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        self.check()?;
        let Some(open) = &mut self.open else {
            return Err(WriteError::Order { name: String::new(), what: "no entry is open" });
        };
        let before = open.size;
        open.size += bytes.len() as u64;
        if matches!(open.way, Way::Waiting) && open.size > MANY {
            let (first, rest) = bytes.split_at((MANY - before) as usize);
            open.chunker.update(first);
            self.write(first)?;
            self.settle()?;
            bytes = rest;
            // Where no thread can be had it goes on as it began.
            let way = Pipe::start(&self.file, self.flushed).map_or(Way::Plain, Way::Pipe);
            if let Some(open) = &mut self.open {
                open.way = way;
            }
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        match &mut open.way {
            Way::Pipe(pipe) => {
                let pushed = pipe.push(bytes);
                self.flushed += bytes.len() as u64;
                pushed.map_err(|e| self.fail("write", e))
            }
            Way::Plain | Way::Waiting => {
                open.chunker.update(bytes);
                self.write(bytes)
            }
        }
    }

    /// Ends the open entry; the answer is its size in bytes.
    ///
    /// # Errors
    /// When no entry is open or the file cannot be written.
    pub fn end(&mut self) -> Result<u64, WriteError> {
        let Some(mut open) = self.open.take() else {
            return Err(WriteError::Order { name: String::new(), what: "no entry is open" });
        };
        self.check()?;
        let rest = match std::mem::replace(&mut open.way, Way::Plain) {
            Way::Pipe(pipe) => pipe.finish().map_err(|e| self.fail("write", e))?,
            Way::Plain | Way::Waiting => Vec::new(),
        };
        let at = open.head.len() - BLOCK as usize;
        let mut block = [0; BLOCK as usize];
        block.copy_from_slice(&open.head[at..]);
        patch_size(&mut block, open.size);
        open.head[at..].copy_from_slice(&block);
        // The block is in the file, in the buffer, or its first part here and the rest there.
        let in_file = self.flushed.saturating_sub(open.block_at).min(BLOCK) as usize;
        let (written, waiting) = block.split_at(in_file);
        self.file.write_all_at(written, open.block_at).map_err(|e| self.fail("write", e))?;
        if !waiting.is_empty() {
            let at = (open.block_at + in_file as u64 - self.flushed) as usize;
            self.buffer[at..at + waiting.len()].copy_from_slice(waiting);
        }
        self.pad(open.size)?;
        if (open.block_at + BLOCK).is_multiple_of(DATA_ALIGN) {
            let (row, head) = (self.table.rows.len(), open.head.clone());
            self.placed.push(Placed { row, block_at: open.block_at, head });
        }
        self.table.rows.push(Row {
            name: open.name,
            size: open.size,
            mode: open.mode,
            head: blake3::hash(&open.head),
            chunks: open.chunker.finish_with(rest),
        });
        for (name, mode, bytes) in std::mem::take(&mut self.queued) {
            self.put_taken(&name, &bytes, mode)?;
        }
        Ok(open.size)
    }

    /// The open entry as a writer.
    pub fn data(&mut self) -> EntryData<'_> {
        EntryData { writer: self }
    }

    /// Adds an entry of all that `from` gives; the answer is its size in bytes.
    ///
    /// # Errors
    /// As [`ArchiveWriter::begin`]; also when `from` cannot be read.
    pub fn copy(&mut self, name: &str, mode: u32, from: &mut dyn Read) -> Result<u64, WriteError> {
        self.begin(name, mode, false)?;
        let mut buffer = vec![0; BUFFER / 4];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return self.end(),
                Ok(n) => self.append(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(WriteError::Io {
                        path: name.into(),
                        action: "read what goes into the archive",
                        source,
                    });
                }
            }
        }
    }

    /// Ends the archive and gives it its name within the directory. After
    /// [`WriteError::Exists`] it may be called again with another name; nothing else may.
    ///
    /// # Errors
    /// When an entry is open, the name is taken or not a file name, or the file cannot be written.
    pub fn finish(&mut self, name: &OsStr) -> Result<Finished, WriteError> {
        let path = self.dir_path.join(name);
        if name.is_empty()
            || matches!(name.as_bytes(), b"." | b"..")
            || name.as_bytes().contains(&b'/')
        {
            return Err(WriteError::Directory { path, what: "is not a file name" });
        }
        self.check()?;
        if let Some(open) = &self.open {
            return Err(WriteError::Order { name: open.name.clone(), what: "has not ended" });
        }
        let (size, id) = self.sealed()?;
        let io = |action, errno: Errno| WriteError::Io {
            path: path.clone(),
            action,
            source: errno.into(),
        };
        let rename =
            |flags| rustix::fs::renameat_with(&self.dir, &*self.temp, &self.dir, name, flags);
        match rename(RenameFlags::NOREPLACE) {
            Ok(()) => {}
            // A file system without the flag: a second name, which never replaces either.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(&self.dir, &*self.temp, &self.dir, name, AtFlags::empty())
                    .map_err(|errno| match errno {
                        Errno::EXIST => WriteError::Exists { path: path.clone() },
                        errno => io("give the archive its name", errno),
                    })?;
                rustix::fs::unlinkat(&self.dir, &*self.temp, AtFlags::empty())
                    .map_err(|errno| io("remove the first name of", errno))?;
            }
            Err(Errno::EXIST) => return Err(WriteError::Exists { path }),
            Err(errno) => return Err(io("give the archive its name", errno)),
        }
        self.named = true;
        rustix::fs::fsync(&self.dir).map_err(|errno| io("sync the directory of", errno))?;
        Ok(Finished { path, size, id })
    }

    /// Ends the archive before it gets its name by [`Self::finish`]: the answer is its file, to be read.
    ///
    /// # Errors
    /// When an entry is open or the file cannot be written.
    pub fn seal(&mut self) -> Result<File, WriteError> {
        self.check()?;
        if let Some(open) = &self.open {
            return Err(WriteError::Order { name: open.name.clone(), what: "has not ended" });
        }
        self.sealed()?;
        self.file.try_clone().map_err(|e| self.io("keep", e))
    }

    fn sealed(&mut self) -> Result<(u64, Hash), WriteError> {
        if let Some(sealed) = self.sealed {
            return Ok(sealed);
        }
        let (bytes, id) = self.table.encode();
        let size = bytes.len() as u64;
        let header = Header::plain(DIGESTS_NAME, Kind::File, 0o600, size, self.table.time);
        let head = encode(&header, self.len(), Align::None);
        self.write(&head)?;
        self.write(&bytes)?;
        self.pad(size)?;
        self.write(&[0; 2 * BLOCK as usize])?;
        self.flush(self.buffer.len())?;
        self.file.sync_all().map_err(|e| self.fail("sync", e))?;
        self.sealed = Some((self.flushed, id));
        Ok((self.flushed, id))
    }

    fn parent(&mut self, name: &str) -> Result<(), WriteError> {
        check_name(name)?;
        match name.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }

    fn take_name(&mut self, name: &str) -> Result<(), WriteError> {
        check_name(name)?;
        let taken = |what| WriteError::Name { name: name.to_owned(), what };
        if self.sealed.is_some() {
            return Err(taken("comes after the end"));
        }
        if name == DIGESTS_NAME || self.names.contains(&format!("{name}/")) {
            return Err(taken("is taken"));
        }
        if !self.names.insert(name.to_owned()) {
            return Err(taken("is taken"));
        }
        Ok(())
    }

    fn pad(&mut self, size: u64) -> Result<(), WriteError> {
        let fill = padded(size).map_or(0, |p| p - size) as usize;
        self.write(&[0; BLOCK as usize][..fill])
    }

    /// Takes bytes; what goes to the file goes in whole pages, big slices without a copy.
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        self.check()?;
        if self.buffer.len() + bytes.len() < BUFFER {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        let page = DATA_ALIGN as usize;
        let over = (self.len() % DATA_ALIGN) as usize;
        let (head, rest) = bytes.split_at(((page - over) % page).min(bytes.len()));
        self.buffer.extend_from_slice(head);
        bytes = rest;
        let over = (self.len() % DATA_ALIGN) as usize;
        self.flush(self.buffer.len().saturating_sub(over))?;
        if self.buffer.is_empty() {
            let (whole, tail) = bytes.split_at(bytes.len() / page * page);
            self.file.write_all_at(whole, self.flushed).map_err(|e| self.fail("write", e))?;
            self.flushed += whole.len() as u64;
            bytes = tail;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self, len: usize) -> Result<(), WriteError> {
        self.check()?;
        let written = self.file.write_all_at(&self.buffer[..len], self.flushed);
        written.map_err(|e| self.fail("write", e))?;
        self.buffer.drain(..len);
        self.flushed += len as u64;
        Ok(())
    }

    /// Whether an entry is open.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Writes everything that waits to the file.
    pub(crate) fn settle(&mut self) -> Result<(), WriteError> {
        self.flush(self.buffer.len())
    }

    /// The file, which is settled, has grown or shrunk.
    pub(crate) fn shifted(&mut self, by: i64) {
        self.flushed = self.flushed.wrapping_add_signed(by);
    }

    /// An archive whose file could not be written is not gone on with.
    fn check(&self) -> Result<(), WriteError> {
        match &self.failed {
            Some((action, error)) => Err(self.io(action, again(error))),
            None => Ok(()),
        }
    }

    pub(crate) fn fail(&mut self, action: &'static str, error: io::Error) -> WriteError {
        self.failed = Some((action, again(&error)));
        self.io(action, error)
    }

    pub(crate) fn io(&self, action: &'static str, source: io::Error) -> WriteError {
        WriteError::Io { path: self.dir_path.join(&self.temp), action, source }
    }
}

impl Drop for ArchiveWriter {
    fn drop(&mut self) {
        if !self.named {
            // Nobody to tell: a file that stays is found by remove_partial.
            let _ = rustix::fs::unlinkat(&self.dir, &*self.temp, AtFlags::empty());
        }
    }
}

/// [`ArchiveWriter::append`] as [`io::Write`].
#[derive(Debug)]
pub struct EntryData<'a> {
    writer: &'a mut ArchiveWriter,
}

impl io::Write for EntryData<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.writer.append(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(WriteError::Io { source, .. }) => Err(source),
            Err(other) => Err(io::Error::other(other)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), WriteError> {
    let bad = |what| Err(WriteError::Name { name: name.to_owned(), what });
    if name.starts_with(['/', '.']) && (name.starts_with('/') || name.starts_with("./")) {
        return bad("is not relative and exact");
    }
    if name.bytes().any(|b| b.is_ascii_control()) {
        return bad("has a control character");
    }
    match parts(name.as_bytes()) {
        Some(parts) if !parts.is_empty() => Ok(()),
        _ => bad("is not relative and exact"),
    }
}
