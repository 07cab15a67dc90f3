//! Packs a tree: directories before what is in them, names in order, so that equal trees give equal
//! bytes. PAX headers carry nanoseconds, large ids, long names and extended attributes
//! (`SCHILY.xattr.`); holes of sparse files are left out (GNU sparse format 1.0).
//!
//! [`pack_upper`] packs the upper directory of an overlay in CRI-O's form: what was added or changed
//! goes to the tar, with the directories it is in; what was deleted is listed. overlayfs marks a
//! deletion by a character device 0:0, or by an attribute in a directory marked for it (Linux 6.7),
//! and a directory that hides all below by an attribute `opaque`
//! (Documentation/filesystems/overlayfs.rst); for the latter the names it hides are listed one by one.
//!
//! Not carried: sockets, device nodes, what is mounted inside. They are named in the notes.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::{Note, NoteKind, STRAIGHT, TreeError, fd_path, io_error, kept, open, path_of};
use crate::tar::encode::{Align, encode};
use crate::tar::sparse::encode_map;
use crate::tar::{Attributes, BLOCK, Extent, Header, Kind, MAX_EXTENSION, padded};

/// What was packed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// Entries in the tar, the top directory among them.
    pub entries: u64,
    /// Paths that are gone, absolute from the tree's top, for `deleted.files`.
    pub deleted: Vec<String>,
    /// What is not in the tar, or not as it was.
    pub notes: Vec<Note>,
}

/// Files are worth the sparse format when this many bytes are holes.
const HOLES: u64 = 64 << 10;
const BUFFER: usize = 256 << 10;

/// Packs all of the tree below `root`, a directory. Paths in `skip` (relative) are left out with
/// what is below them.
///
/// # Errors
/// When something cannot be read or `out` cannot be written.
pub fn pack_tree(
    root: impl AsFd,
    skip: &[PathBuf],
    out: &mut dyn Write,
) -> Result<Packed, TreeError> {
    Packer::new(root.as_fd(), None, skip, out).run()
}

/// Packs an overlay's upper directory. `lowers` are its lower directories, the topmost first; they
/// are looked at only to name what opaque directories hide.
///
/// # Errors
/// When something cannot be read, `out` cannot be written, or the overlay was mounted with
/// `redirect_dir` or `metacopy`, so that the upper directory does not hold whole files.
pub fn pack_upper(
    upper: impl AsFd,
    lowers: &[OwnedFd],
    skip: &[PathBuf],
    out: &mut dyn Write,
) -> Result<Packed, TreeError> {
    Packer::new(upper.as_fd(), Some(lowers), skip, out).run()
}

struct Packer<'a> {
    root: BorrowedFd<'a>,
    /// Given for an overlay's upper directory.
    lowers: Option<&'a [OwnedFd]>,
    skip: &'a [PathBuf],
    out: &'a mut dyn Write,
    /// First names of files with several, by device and inode.
    linked: HashMap<(u64, u64), Vec<u8>>,
    done: Packed,
}

/// A directory to be packed.
struct Directory {
    /// From the top; empty for the top.
    path: Vec<u8>,
    /// Whether all that lower layers have here is hidden.
    hides: bool,
}

impl<'a> Packer<'a> {
    fn new(
        root: BorrowedFd<'a>,
        lowers: Option<&'a [OwnedFd]>,
        skip: &'a [PathBuf],
        out: &'a mut dyn Write,
    ) -> Self {
        Self { root, lowers, skip, out, linked: HashMap::new(), done: Packed::default() }
    }

    fn run(mut self) -> Result<Packed, TreeError> {
        let mut waiting = vec![Directory { path: Vec::new(), hides: false }];
        while let Some(directory) = waiting.pop() {
            let at = waiting.len();
            self.directory(directory, &mut waiting)?;
            // The first of them is to be next: depth first, or tar(1) sets times too early.
            waiting[at..].reverse();
        }
        self.write(&[0; 2 * BLOCK as usize])?;
        Ok(self.done)
    }

    /// Packs a directory and what is in it; directories in it are put behind `waiting`.
    fn directory(
        &mut self,
        mut directory: Directory,
        waiting: &mut Vec<Directory>,
    ) -> Result<(), TreeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = match open(self.root, &directory.path, flags, Mode::empty(), STRAIGHT) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !directory.path.is_empty() => {
                self.note(&directory.path, NoteKind::Vanished);
                return Ok(());
            }
            Err(errno) => return Err(io_error(&directory.path, "open the directory")(errno)),
        };
        let stat = rustix::fs::fstat(&dir).map_err(io_error(&directory.path, "look at"))?;
        directory.hides |= self.begin_directory(&directory.path, &dir, &stat)?;
        let names = read_names(&dir, &directory.path)?;
        if directory.hides {
            for name in self.hidden_names(&directory.path)?.difference(&names) {
                let path = join(&directory.path, name);
                self.delete(&path);
            }
        }
        let marked = self.lowers.is_some()
            && attribute(&dir, &directory.path, "trusted.overlay.opaque")?.as_deref() == Some(b"x");
        for name in &names {
            let path = join(&directory.path, name);
            if self.skip.iter().any(|skip| *skip == path_of(&path)) {
                continue;
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let file = match open(dir.as_fd(), name, flags, Mode::empty(), STRAIGHT) {
                Ok(file) => file,
                Err(Errno::NOENT) => {
                    self.note(&path, NoteKind::Vanished);
                    continue;
                }
                Err(Errno::XDEV) => {
                    self.note(&path, NoteKind::Mountpoint);
                    continue;
                }
                Err(errno) => return Err(io_error(&path, "open")(errno)),
            };
            let stat = rustix::fs::fstat(&file).map_err(io_error(&path, "look at"))?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if self.lowers.is_some() && is_whiteout(&file, &stat, &path, marked)? {
                self.delete(&path);
            } else if kind == FileType::Directory {
                waiting.push(Directory { path, hides: directory.hides });
            } else {
                self.entry(&dir, name, path, &file, &stat)?;
            }
        }
        Ok(())
    }

    /// Packs a directory's own entry; the answer is whether it hides what lower layers have there.
    fn begin_directory(
        &mut self,
        path: &[u8],
        dir: &OwnedFd,
        stat: &Stat,
    ) -> Result<bool, TreeError> {
        let name = if path.is_empty() { b"." } else { path };
        let header = self.header(name, Kind::Directory, dir, stat)?;
        self.put(&header)?;
        if self.lowers.is_none() {
            return Ok(false);
        }
        whole(dir, path)?;
        is_opaque(dir, path)
    }

    fn entry(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        path: Vec<u8>,
        file: &OwnedFd,
        stat: &Stat,
    ) -> Result<(), TreeError> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => {
                self.note(&path, NoteKind::Socket);
                return Ok(());
            }
            _ => {
                self.note(&path, NoteKind::Device);
                return Ok(());
            }
        };
        if self.lowers.is_some() {
            whole(file, &path)?;
        }
        let mut header = self.header(&path, kind, file, stat)?;
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&key) {
                header.kind = Kind::HardLink;
                header.link.clone_from(first);
                header.xattrs.clear();
                return self.put(&header);
            }
            self.linked.insert(key, path.clone());
        }
        match kind {
            Kind::File => self.content(dir, name, header),
            Kind::Symlink => {
                let target = rustix::fs::readlinkat(file, "", Vec::new())
                    .map_err(io_error(&path, "read the link"))?;
                header.link = target.into_bytes();
                self.put(&header)
            }
            _ => self.put(&header),
        }
    }

    fn content(&mut self, dir: &OwnedFd, name: &[u8], mut header: Header) -> Result<(), TreeError> {
        let path = header.path.clone();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match open(dir.as_fd(), name, flags, Mode::empty(), STRAIGHT) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP) => {
                self.note(&path, NoteKind::Vanished);
                return Ok(());
            }
            Err(errno) => return Err(io_error(&path, "open")(errno)),
        };
        let stat = rustix::fs::fstat(&file).map_err(io_error(&path, "look at"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            self.note(&path, NoteKind::Vanished);
            return Ok(());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let allocated = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        let mut map = vec![Extent { offset: 0, len: size }];
        let mut prefix = Vec::new();
        header.size = size;
        if allocated.saturating_add(HOLES) <= size {
            map = data_map(&file, size).map_err(io_error(&path, "find the holes of"))?;
            prefix = encode_map(&map);
            let data: u64 = map.iter().map(|extent| extent.len).sum();
            header.sparse_size = Some(size);
            header.size = prefix.len() as u64 + data;
        }
        self.put(&header)?;
        self.write(&prefix)?;
        let mut missing = false;
        let mut buffer = vec![0; BUFFER.min(size.max(1) as usize)];
        for extent in map {
            let mut at = extent.offset;
            let end = at + extent.len;
            while at < end {
                let len = usize::try_from(end - at).map_or(buffer.len(), |n| n.min(buffer.len()));
                let n = read_some(&file, &mut buffer[..len], at).map_err(|source| {
                    TreeError::Io { path: path_of(&path), action: "read", source }
                })?;
                if n == 0 {
                    // Shorter than it was: the header is written, so zeros take the rest's place.
                    missing = true;
                    buffer.fill(0);
                    self.write(&buffer[..len])?;
                    at += len as u64;
                } else {
                    self.write(&buffer[..n])?;
                    at += n as u64;
                }
            }
        }
        self.pad(header.size)?;
        let now = rustix::fs::fstat(&file).map_err(io_error(&path, "look at"))?;
        if missing || now.st_size != stat.st_size {
            self.note(&path, NoteKind::SizeChanged { packed: size });
        }
        Ok(())
    }

    fn header(
        &mut self,
        path: &[u8],
        kind: Kind,
        file: &OwnedFd,
        stat: &Stat,
    ) -> Result<Header, TreeError> {
        Ok(Header {
            path: path.to_vec(),
            link: Vec::new(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: 0,
            mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            xattrs: self.attributes(path, file)?,
            sparse_size: None,
        })
    }

    fn attributes(&mut self, path: &[u8], file: &OwnedFd) -> Result<Attributes, TreeError> {
        let mut out = Vec::new();
        let mut total = 0;
        for name in list_attributes(file, path)? {
            if !kept(&name) {
                continue;
            }
            let text = String::from_utf8_lossy(&name).into_owned();
            let Some(value) = attribute(file, path, &text)? else { continue };
            total += name.len() + value.len() + 64;
            // A PAX key ends at the first equals sign; one header holds no more than the limit.
            let room = total as u64 + 4 * BLOCK + path.len() as u64 <= MAX_EXTENSION;
            if text.as_bytes() != name || name.contains(&b'=') || !room {
                self.note(path, NoteKind::Attribute(text));
                continue;
            }
            out.push((name, value));
        }
        out.sort();
        Ok(out)
    }

    /// Names that the lower layers show in a directory.
    fn hidden_names(&self, path: &[u8]) -> Result<BTreeSet<Vec<u8>>, TreeError> {
        let mut seen = BTreeSet::new();
        let mut gone = BTreeSet::new();
        for lower in self.lowers.unwrap_or_default() {
            let Some((dir, last)) = lower_directory(lower, path)? else { break };
            let Some(dir) = dir else {
                if last {
                    break;
                }
                continue;
            };
            for name in read_names(&dir, path)? {
                let flags = OFlags::PATH | OFlags::NOFOLLOW;
                let Ok(file) = open(dir.as_fd(), &name, flags, Mode::empty(), STRAIGHT) else {
                    // Something is mounted there, or it is gone: the name counts if it is there.
                    seen.insert(name);
                    continue;
                };
                let stat = rustix::fs::fstat(&file).map_err(io_error(path, "look below"))?;
                if is_whiteout(&file, &stat, path, false)? {
                    gone.insert(name);
                } else if !gone.contains(&name) {
                    seen.insert(name);
                }
            }
            if last {
                break;
            }
        }
        Ok(seen)
    }

    fn put(&mut self, header: &Header) -> Result<(), TreeError> {
        self.done.entries += 1;
        self.write(&encode(header, 0, Align::None))
    }

    fn pad(&mut self, size: u64) -> Result<(), TreeError> {
        let fill = padded(size).map_or(0, |p| p - size) as usize;
        self.write(&[0; BLOCK as usize][..fill])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        self.out.write_all(bytes).map_err(|source| TreeError::Output { source })
    }

    fn note(&mut self, path: &[u8], what: NoteKind) {
        self.done.notes.push(Note { path: path_of(path), what });
    }

    /// Lists a deletion. The list is JSON, so a name that is not UTF-8 cannot be in it.
    fn delete(&mut self, path: &[u8]) {
        match std::str::from_utf8(path) {
            Ok(path) => self.done.deleted.push(format!("/{path}")),
            Err(_) => self.note(path, NoteKind::Undeletable),
        }
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

fn read_names(dir: &OwnedFd, path: &[u8]) -> Result<BTreeSet<Vec<u8>>, TreeError> {
    let mut names = BTreeSet::new();
    for entry in rustix::fs::Dir::read_from(dir).map_err(io_error(path, "list"))? {
        let entry = entry.map_err(io_error(path, "list"))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.insert(name.to_vec());
        }
    }
    Ok(names)
}

/// A lower layer's directory at `path`, and whether layers below it are hidden. `None` when
/// something that is no directory is in the way, which hides them too.
fn lower_directory(
    layer: &OwnedFd,
    path: &[u8],
) -> Result<Option<(Option<OwnedFd>, bool)>, TreeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let mut dir = open(layer.as_fd(), b"", flags, Mode::empty(), STRAIGHT)
        .map_err(io_error(path, "open the lower layer of"))?;
    let mut last = false;
    for part in path.split(|&b| b == b'/').filter(|part| !part.is_empty()) {
        last |= is_opaque(&dir, path)?;
        match open(dir.as_fd(), part, flags, Mode::empty(), STRAIGHT) {
            Ok(next) => dir = next,
            Err(Errno::NOENT | Errno::XDEV) => return Ok(Some((None, last))),
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(io_error(path, "open the lower layer of")(errno)),
        }
    }
    last |= is_opaque(&dir, path)?;
    Ok(Some((Some(dir), last)))
}

fn is_whiteout(file: &OwnedFd, stat: &Stat, path: &[u8], marked: bool) -> Result<bool, TreeError> {
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => stat.st_rdev == 0,
        FileType::RegularFile if marked && stat.st_size == 0 => {
            attribute(file, path, "trusted.overlay.whiteout")?.is_some()
        }
        _ => false,
    })
}

fn is_opaque(dir: &OwnedFd, path: &[u8]) -> Result<bool, TreeError> {
    for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        if attribute(dir, path, name)?.as_deref() == Some(b"y") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Refuses a file that overlayfs keeps only part of in the upper directory.
fn whole(file: &OwnedFd, path: &[u8]) -> Result<(), TreeError> {
    for name in ["trusted.overlay.redirect", "trusted.overlay.metacopy"] {
        if attribute(file, path, name)?.is_some() {
            return Err(TreeError::Layered { path: path_of(path), attribute: name });
        }
    }
    Ok(())
}

fn list_attributes(file: &OwnedFd, path: &[u8]) -> Result<Vec<Vec<u8>>, TreeError> {
    let mut list = vec![0; 64 << 10];
    match rustix::fs::listxattr(fd_path(file), &mut list[..]) {
        Ok(len) => {
            list.truncate(len);
            Ok(list.split(|&b| b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect())
        }
        Err(Errno::NOTSUP) => Ok(Vec::new()),
        Err(errno) => Err(io_error(path, "list the attributes of")(errno)),
    }
}

fn attribute(file: &OwnedFd, path: &[u8], name: &str) -> Result<Option<Vec<u8>>, TreeError> {
    let mut value = vec![0; 64 << 10];
    match rustix::fs::getxattr(fd_path(file), name, &mut value[..]) {
        Ok(len) => {
            value.truncate(len);
            Ok(Some(value))
        }
        // EPERM: user attributes of something that is neither file nor directory.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => Ok(None),
        Err(errno) => Err(io_error(path, "read an attribute of")(errno)),
    }
}

/// The stretches of a file that are not holes. An empty one at the end keeps the size, as GNU tar
/// does.
fn data_map(file: &File, size: u64) -> Result<Vec<Extent>, Errno> {
    let mut map = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
        if start >= size {
            break;
        }
        let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end.clamp(start, size),
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
        if end == start {
            break; // the file changes under our eyes
        }
        map.push(Extent { offset: start, len: end - start });
        at = end;
    }
    map.push(Extent { offset: size, len: 0 });
    Ok(map)
}

fn read_some(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, at) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
