//! Unpacks a tree that anybody may have made.
//!
//! Regular files, directories, symbolic and hard links, and fifos are made, with owner, mode, times
//! and extended attributes; device nodes and anything unknown are refused. What is in the way of an
//! entry is removed first, but a directory stays when a directory comes. A name with `..` is
//! refused; a symbolic link on the way to an entry is followed within the tree only.
//!
//! The tree is meant to be a fresh directory, a tmpfs, or an overlay with nothing mounted inside it
//! yet: the kernel then turns removals into whiteouts.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Note, NoteKind, TreeError, WITHIN, fd_path, io_error, kept, open, path_of, refused};
use crate::reader::{MAX_NAME, compression};
use crate::tar::decode::{self, Source, StreamSource, TarError};
use crate::tar::{Extent, Header, Kind, padded, parts, sparse};

/// What a tree may have at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of file content; holes do not count.
    pub bytes: u64,
}

impl Default for Limits {
    /// Two million entries, 1 TiB.
    fn default() -> Self {
        Self { entries: 2_000_000, bytes: 1 << 40 }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
    /// What could not be made as it was.
    pub notes: Vec<Note>,
}

/// Unpacks a plain tar below `root`, a directory. Every name is taken as it is.
///
/// # Errors
/// When the tar is damaged, an entry is refused, a limit is passed, or a system call fails. What
/// was made until then stays.
pub fn unpack_tree(
    root: impl AsFd,
    input: impl Read,
    limits: Limits,
) -> Result<Unpacked, TreeError> {
    Unpacker::new(root.as_fd(), limits, None).run(input)
}

/// Unpacks changes to a root filesystem: a plain tar, as CRI-O and podman make it, or a gzip
/// stream, as containerd makes it, in which `.wh.` names are deletions.
///
/// # Errors
/// As [`unpack_tree`]; also when the stream is compressed in another way.
pub fn unpack_diff(
    root: impl AsFd,
    input: impl Read,
    limits: Limits,
) -> Result<Unpacked, TreeError> {
    let mut input = BufReader::with_capacity(BUFFER, input);
    let magic = io::BufRead::fill_buf(&mut input)
        .map_err(|source| TreeError::Tar { source: TarError::Read { offset: 0, source } })?;
    match compression(magic) {
        None => Unpacker::new(root.as_fd(), limits, None).run(input),
        Some("gzip") => {
            let input = flate2::bufread::MultiGzDecoder::new(input);
            Unpacker::new(root.as_fd(), limits, Some(HashSet::new())).run(input)
        }
        Some(format) => Err(TreeError::Compressed { format }),
    }
}

/// Removes the paths of a `deleted.files` list below `root`; one that is not there is no error.
///
/// # Errors
/// When a path is not absolute and exact, or a system call fails.
pub fn remove_deleted(root: impl AsFd, deleted: &[String]) -> Result<(), TreeError> {
    let root = root.as_fd();
    for path in deleted {
        let parts = path.starts_with('/').then(|| parts(path.as_bytes())).flatten();
        let Some((name, parents)) = parts.as_deref().and_then(<[_]>::split_last) else {
            return Err(TreeError::Deleted { path: path.clone() });
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match open(root, &parents.join(&b'/'), flags, Mode::empty(), WITHIN) {
            Ok(parent) => remove(parent.as_fd(), name)
                .map_err(io_error(path.as_bytes(), "remove the deleted file"))?,
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => {
                return Err(io_error(path.as_bytes(), "find the deleted file")(errno));
            }
        }
    }
    Ok(())
}

const BUFFER: usize = 256 << 10;

struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    limits: Limits,
    /// Given when `.wh.` names are deletions: all paths that the tar made.
    made: Option<HashSet<Vec<u8>>>,
    /// Directories and their times, set last: whatever is made in them changes it.
    times: Vec<(Vec<u8>, (i64, u32))>,
    buffer: Vec<u8>,
    done: Unpacked,
}

/// Where an entry goes.
struct Place<'e> {
    parent: OwnedFd,
    name: &'e [u8],
    /// From the top.
    path: Vec<u8>,
    /// Offset of the entry in the tar.
    offset: u64,
}

impl<'a> Unpacker<'a> {
    fn new(root: BorrowedFd<'a>, limits: Limits, made: Option<HashSet<Vec<u8>>>) -> Self {
        let (times, done) = (Vec::new(), Unpacked::default());
        Self { root, limits, made, times, buffer: vec![0; BUFFER], done }
    }

    fn run(mut self, input: impl Read) -> Result<Unpacked, TreeError> {
        let mut source = StreamSource::new(input);
        let tar = |source| TreeError::Tar { source };
        while let Some(entry) = decode::next(&mut source).map_err(tar)? {
            self.done.entries += 1;
            if self.done.entries > self.limits.entries {
                return Err(TreeError::Limit { limit: self.limits.entries, what: "entries" });
            }
            let header = entry.header;
            let name = &header.path;
            let refuse = |what| refused(name, entry.start, what);
            let parts = parts(name).filter(|_| name.len() <= MAX_NAME);
            let parts = parts.ok_or_else(|| refuse("the name leads elsewhere"))?;
            if header.kind != Kind::File && header.size != 0 {
                return Err(refuse("only a file has data"));
            }
            let after = source.position() + padded(header.size).unwrap_or(u64::MAX);
            if let Some((name, parents)) = parts.split_last() {
                let parent = self.parent(parents).map_err(io_error(&header.path, "reach"))?;
                let path = parts.join(&b'/');
                let place = Place { parent, name, path, offset: entry.start };
                self.entry(&place, &header, &mut source)?;
            } else if header.kind == Kind::Directory {
                let top = self.reopen(b"").map_err(io_error(b"", "open"))?;
                self.attributes(b"", &top, &header)?;
                self.times.push((Vec::new(), header.mtime));
            } else {
                return Err(refuse("the name is empty"));
            }
            let rest = after.saturating_sub(source.position());
            let offset = source.position();
            let skipped =
                source.skip(rest).map_err(|source| tar(TarError::Read { offset, source }))?;
            if skipped < rest {
                let offset = source.position();
                return Err(tar(TarError::Cut { offset, what: "the rest of an entry" }));
            }
        }
        for (path, mtime) in self.times.iter().rev() {
            // Something else may have taken its place since.
            if let Ok(dir) = self.reopen(path) {
                rustix::fs::futimens(&dir, &stamps(*mtime))
                    .map_err(io_error(path, "set the times of"))?;
            }
        }
        Ok(self.done)
    }

    fn reopen(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        open(self.root, path, flags, Mode::empty(), WITHIN)
    }

    /// Opens the directory an entry goes to, and makes what is missing of it.
    fn parent(&self, parts: &[&[u8]]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let path = parts.join(&b'/');
        match open(self.root, &path, flags, Mode::empty(), WITHIN) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        for end in 1..=parts.len() {
            let (name, parents) = parts[..end].split_last().ok_or(Errno::INVAL)?;
            let dir = open(self.root, &parents.join(&b'/'), flags, Mode::empty(), WITHIN)?;
            match rustix::fs::mkdirat(&dir, *name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        open(self.root, &path, flags, Mode::empty(), WITHIN)
    }

    fn entry(
        &mut self,
        place: &Place<'_>,
        header: &Header,
        source: &mut impl Source,
    ) -> Result<(), TreeError> {
        if self.made.is_some() && place.name.starts_with(b".wh.") {
            return self.whiteout(place);
        }
        let io = |action| io_error(&place.path, action);
        let refuse = |what| refused(&header.path, place.offset, what);
        let old = rustix::fs::statat(&place.parent, place.name, AtFlags::SYMLINK_NOFOLLOW);
        let is_directory =
            |stat: &rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let stays = header.kind == Kind::Directory && old.as_ref().is_ok_and(is_directory);
        match header.kind {
            Kind::File | Kind::Directory | Kind::Symlink | Kind::Fifo => {
                if old.is_ok() && !stays {
                    remove(place.parent.as_fd(), place.name).map_err(io("replace"))?;
                }
            }
            Kind::HardLink => {}
            Kind::CharDevice | Kind::BlockDevice => return Err(refuse("it is a device node")),
            Kind::Other(_) => return Err(refuse("its kind is unknown")),
        }
        match header.kind {
            Kind::File => self.file(place, header, source)?,
            Kind::Directory => {
                if !stays {
                    rustix::fs::mkdirat(&place.parent, place.name, Mode::RWXU)
                        .map_err(io("make the directory"))?;
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                let dir = open(place.parent.as_fd(), place.name, flags, Mode::empty(), WITHIN)
                    .map_err(io("open the directory"))?;
                self.attributes(&place.path, &dir, header)?;
                self.times.push((place.path.clone(), header.mtime));
            }
            Kind::Symlink => {
                rustix::fs::symlinkat(&header.link[..], &place.parent, place.name)
                    .map_err(io("make the link"))?;
                self.unopened(place, header)?;
            }
            Kind::Fifo => {
                rustix::fs::mkfifoat(&place.parent, place.name, Mode::RUSR | Mode::WUSR)
                    .map_err(io("make the fifo"))?;
                self.unopened(place, header)?;
            }
            _ => self.link(place, header)?,
        }
        if let Some(made) = &mut self.made {
            made.insert(place.path.clone());
        }
        Ok(())
    }

    fn file(
        &mut self,
        place: &Place<'_>,
        header: &Header,
        source: &mut impl Source,
    ) -> Result<(), TreeError> {
        let io = |action| io_error(&place.path, action);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = open(place.parent.as_fd(), place.name, flags, mode, WITHIN)
            .map(File::from)
            .map_err(io("make the file"))?;
        let map = match header.sparse_size {
            Some(size) => {
                let (map, _) = sparse::read_map(source, header.size, size)
                    .map_err(|source| TreeError::Tar { source })?;
                rustix::fs::ftruncate(&file, size).map_err(io("set the size of"))?;
                map
            }
            None => vec![Extent { offset: 0, len: header.size }],
        };
        for extent in map {
            self.extent(&file, place, extent, source)?;
        }
        let fd = OwnedFd::from(file);
        self.attributes(&place.path, &fd, header)?;
        rustix::fs::futimens(&fd, &stamps(header.mtime)).map_err(io("set the times of"))
    }

    fn extent(
        &mut self,
        file: &File,
        place: &Place<'_>,
        extent: Extent,
        source: &mut impl Source,
    ) -> Result<(), TreeError> {
        self.done.bytes = self.done.bytes.saturating_add(extent.len);
        if self.done.bytes > self.limits.bytes {
            return Err(TreeError::Limit { limit: self.limits.bytes, what: "bytes" });
        }
        let mut at = extent.offset;
        let end = at.saturating_add(extent.len);
        while at < end {
            let len = usize::try_from(end - at).map_or(BUFFER, |n| n.min(BUFFER));
            let offset = source.position();
            let n = source
                .fill(&mut self.buffer[..len])
                .map_err(|source| TreeError::Tar { source: TarError::Read { offset, source } })?;
            if n < len {
                let source = TarError::Cut { offset: offset + n as u64, what: "a file's data" };
                return Err(TreeError::Tar { source });
            }
            file.write_all_at(&self.buffer[..len], at).map_err(|source| TreeError::Io {
                path: path_of(&place.path),
                action: "write",
                source,
            })?;
            at += len as u64;
        }
        Ok(())
    }

    fn link(&mut self, place: &Place<'_>, header: &Header) -> Result<(), TreeError> {
        let refuse = |what| refused(&header.path, place.offset, what);
        let parts = parts(&header.link).ok_or_else(|| refuse("its target leads elsewhere"))?;
        let Some((name, parents)) = parts.split_last() else {
            return Err(refuse("its target is the top"));
        };
        if parts.join(&b'/') == place.path {
            return Err(refuse("it is a link to itself"));
        }
        let io = |action| io_error(&place.path, action);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let parent = open(self.root, &parents.join(&b'/'), flags, Mode::empty(), WITHIN)
            .map_err(io("find the target of the hard link"))?;
        let target = rustix::fs::statat(&parent, *name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io("find the target of the hard link"))?;
        if FileType::from_raw_mode(target.st_mode) == FileType::Directory {
            return Err(refuse("its target is a directory"));
        }
        remove(place.parent.as_fd(), place.name).map_err(io("replace"))?;
        rustix::fs::linkat(&parent, *name, &place.parent, place.name, AtFlags::empty())
            .map_err(io("make the hard link"))
    }

    /// Attributes of what was just made and cannot be opened.
    fn unopened(&mut self, place: &Place<'_>, header: &Header) -> Result<(), TreeError> {
        let io = |action| io_error(&place.path, action);
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let file = open(place.parent.as_fd(), place.name, flags, Mode::empty(), WITHIN)
            .map_err(io("open"))?;
        self.attributes(&place.path, &file, header)?;
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(&place.parent, place.name, &stamps(header.mtime), nofollow)
            .map_err(io("set the times of"))
    }

    /// Owner, mode and extended attributes, in the order in which none undoes another.
    fn attributes(
        &mut self,
        path: &[u8],
        file: &OwnedFd,
        header: &Header,
    ) -> Result<(), TreeError> {
        let io = |action| io_error(path, action);
        let (uid, gid) = (Uid::from_raw(header.uid), Gid::from_raw(header.gid));
        rustix::fs::chownat(file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            .map_err(io("set the owner of"))?;
        let name = fd_path(file);
        if header.kind != Kind::Symlink {
            let mode = Mode::from_raw_mode(header.mode);
            rustix::fs::chmod(&name, mode).map_err(io("set the mode of"))?;
        }
        for (key, value) in header.xattrs.iter().filter(|(key, _)| kept(key)) {
            match rustix::fs::setxattr(&name, &key[..], value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOTSUP | Errno::PERM | Errno::INVAL | Errno::NOSPC | Errno::RANGE) => {
                    let what = NoteKind::Attribute(String::from_utf8_lossy(key).into_owned());
                    self.done.notes.push(Note { path: path_of(path), what });
                }
                Err(errno) => return Err(io("set an attribute of")(errno)),
            }
        }
        Ok(())
    }

    /// A deletion as an OCI layer has it: of what was there before, not of what the layer brings.
    fn whiteout(&mut self, place: &Place<'_>) -> Result<(), TreeError> {
        let io = |action| io_error(&place.path, action);
        let dir = &place.path[..place.path.len() - place.name.len()];
        let made = self.made.take().unwrap_or_default();
        let result = match place.name {
            b".wh..wh..opq" => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let names = open(place.parent.as_fd(), b"", flags, Mode::empty(), WITHIN)
                    .and_then(|dir| names_in(&dir))
                    .map_err(io("list"))?;
                let old = names.iter().filter(|name| !made.contains(&[dir, name].concat()));
                old.map(|name| remove(place.parent.as_fd(), name)).find(Result::is_err)
            }
            // Other names of this form are notes of the tool that made the layer.
            name if name.starts_with(b".wh..wh.") => None,
            name => {
                let name = &name[b".wh.".len()..];
                if matches!(name, b"" | b"." | b"..") {
                    return Err(refused(&place.path, place.offset, "a whiteout of no name"));
                }
                let ours = made.contains(&[dir, name].concat());
                (!ours).then(|| remove(place.parent.as_fd(), name))
            }
        };
        self.made = Some(made);
        result.unwrap_or(Ok(())).map_err(io("remove what a whiteout names"))
    }
}

fn stamps((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn names_in(dir: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes a name with all below it; nothing when it is not there. Never follows a link, never
/// goes into another mount.
fn remove(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let dir = open(parent, name, flags, Mode::empty(), WITHIN)?;
    for child in names_in(&dir)? {
        remove(dir.as_fd(), &child)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}
