//! Files without a name: unlinked while they were open, mapped, or somebody's working directory.
//!
//! Their content goes into an image of its own (CRIU's ghost files), holes left out. At restore such
//! a file is made under its old name, or one beside it when that is taken, opened, and unlinked
//! again; one of O_TMPFILE (open(2)) is made so again and can still be given a name. A file whose
//! name is gone while another name leads to it is known by that other name, which is looked for
//! below the root of the tree. Refused: more content than [`LIMIT`], and a search without end.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cryopod_images::{Image, Reader, Writer, msg};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat};

use crate::error::RestoreError;

/// Most bytes of all unlinked files together that an image takes.
pub const LIMIT: u64 = 64 << 20;
/// Most directory entries looked at for another name of a file.
const SEARCH: usize = 200_000;
/// Bytes copied at a time.
const CHUNK: usize = 1 << 20;
/// What the kernel adds to a path that is gone.
const DELETED: &[u8] = b" (deleted)";

/// f_type of filesystems whose files are more than their bytes, with what they are (statfs(2)).
const SPECIAL: [(i64, &str); 4] = [
    (0x1980_0202, "a queue of mqueue"),
    (0x5345_434d, "memory of secretmem"),
    (0x9584_58f6, "a file of hugetlbfs"),
    (0x9fa0, "a file of proc"),
];

/// What kind of special file this is, when a copy of its bytes would not be one.
#[must_use]
pub fn special(door: &Path) -> Option<&'static str> {
    let kind = rustix::fs::statfs(door).ok()?.f_type;
    SPECIAL.iter().find(|(k, _)| *k == kind).map(|(_, name)| *name)
}

/// Where a name that is gone leads.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// The name still leads to the file.
    Named,
    /// Another name does.
    Elsewhere(PathBuf),
    /// None does.
    Nowhere,
    /// More names than can be looked at.
    Unknown,
}

/// Opens a path below `root` without following it out.
pub(crate) fn below(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how)
}

/// The path without what the kernel adds to one that is gone.
#[must_use]
pub fn strip(link: &Path) -> PathBuf {
    let bytes = link.as_os_str().as_bytes();
    let name = bytes.strip_suffix(DELETED).unwrap_or(bytes);
    PathBuf::from(std::ffi::OsString::from_vec(name.to_vec()))
}

/// Whether a path below `root` leads to this inode of this device.
pub(crate) fn leads_to(root: BorrowedFd<'_>, path: &Path, dev: u64, ino: u64) -> bool {
    below(root, path, OFlags::PATH | OFlags::NOFOLLOW)
        .and_then(rustix::fs::fstat)
        .is_ok_and(|s| (s.st_dev, s.st_ino) == (dev, ino))
}

/// Looks for the file that the kernel showed as `link`.
#[must_use]
pub fn locate(root: BorrowedFd<'_>, link: &Path, stat: &Stat) -> Place {
    if !link.as_os_str().as_bytes().ends_with(DELETED)
        || leads_to(root, link, stat.st_dev, stat.st_ino)
    {
        return if stat.st_nlink == 0 { Place::Nowhere } else { Place::Named };
    }
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if stat.st_nlink == 0 || directory {
        return Place::Nowhere;
    }
    let near = strip(link).parent().unwrap_or(Path::new("/")).to_owned();
    search(root, &near, stat.st_dev, stat.st_ino)
}

/// Looks for any name of a file: in and under one directory first, then everywhere on the same
/// filesystem. A file of an overlay's lower layer has none to be found: it keeps the one it has
/// there.
pub(crate) fn search(root: BorrowedFd<'_>, near: &Path, dev: u64, ino: u64) -> Place {
    let mut left = SEARCH;
    let mut waiting: std::collections::VecDeque<PathBuf> =
        [near.to_owned(), PathBuf::from("/")].into();
    let mut seen = std::collections::HashSet::new();
    let mut filesystem = None;
    while let Some(path) = waiting.pop_front() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let Ok(dir) = below(root, &path, flags) else { continue };
        let Ok(stat) = rustix::fs::fstat(&dir) else { continue };
        let here = *filesystem.get_or_insert(stat.st_dev);
        // The root may lie on another filesystem than the file; what is mounted below it may not.
        let other = stat.st_dev != here && path != Path::new("/");
        if other || !seen.insert((stat.st_dev, stat.st_ino)) {
            continue;
        }
        let Ok(entries) = rustix::fs::Dir::new(dir) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let Some(rest) = left.checked_sub(1) else { return Place::Unknown };
            left = rest;
            let path = path.join(std::ffi::OsStr::from_bytes(name));
            if entry.ino() == ino && leads_to(root, &path, dev, ino) {
                return Place::Elsewhere(path);
            }
            if entry.file_type() == FileType::Directory && !is_kernels(&path) {
                waiting.push_back(path);
            }
        }
    }
    Place::Nowhere
}

/// Directories of the kernel, which hold nobody's files and have no end.
fn is_kernels(path: &Path) -> bool {
    ["/proc", "/sys"].iter().any(|dir| path == Path::new(dir))
}

/// The unlinked files of a tree.
#[derive(Debug, Default)]
pub struct Ghosts {
    ids: HashMap<(u64, u64), u32>,
    remaps: Vec<msg::RemapFilePathEntry>,
    images: Vec<(u32, Vec<u8>)>,
    bytes: u64,
}

/// Why a file could not be kept.
#[derive(Debug)]
pub(crate) enum Failure {
    /// This many bytes are too many.
    TooLarge(u64),
    /// What the kernel said.
    Kernel(io::Error),
}

impl From<io::Error> for Failure {
    fn from(source: io::Error) -> Self {
        Self::Kernel(source)
    }
}

impl Ghosts {
    /// Notes that entry `id` is a file without a name, which `door` opens, and keeps its content
    /// when it is the first such entry.
    pub(crate) fn add(&mut self, id: u32, stat: &Stat, door: &Path) -> Result<(), Failure> {
        let next = self.ids.len() as u32 + 1;
        let key = (stat.st_dev, stat.st_ino);
        let known = self.ids.get(&key).copied();
        let ghost = known.unwrap_or(next);
        if known.is_none() {
            let image = self.copy(stat, door)?;
            self.images.push((ghost, image));
            self.ids.insert(key, ghost);
        }
        self.remaps.push(msg::RemapFilePathEntry {
            orig_id: id,
            remap_id: ghost,
            remap_type: Some(msg::RemapType::Ghost.into()),
        });
        Ok(())
    }

    fn copy(&mut self, stat: &Stat, door: &Path) -> Result<Vec<u8>, Failure> {
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let time = |sec: i64, nsec: i64| {
            Some(msg::Timeval { tv_sec: sec as u64, tv_usec: (nsec / 1000) as u64 })
        };
        let entry = msg::GhostFileEntry {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode,
            dev: Some(stat.st_dev as u32),
            ino: Some(stat.st_ino),
            rdev: None,
            atim: time(stat.st_atime, stat.st_atime_nsec as i64),
            mtim: time(stat.st_mtime, stat.st_mtime_nsec as i64),
            chunks: regular.then_some(true),
            size: regular.then_some(stat.st_size as u64),
            symlnk_target: None,
        };
        let mut writer = Writer::new(Image::GhostFile);
        writer.record(&entry).map_err(io::Error::other)?;
        if !regular {
            return Ok(writer.finish());
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open(door, flags, Mode::empty()).map_err(io::Error::from)?;
        let file = File::from(file);
        let (mut at, size) = (0, stat.st_size as u64);
        while at < size {
            at = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(rustix::io::Errno::NXIO) => break,
                Err(e) => return Err(Failure::Kernel(e.into())),
            };
            let hole = rustix::fs::seek(&file, SeekFrom::Hole(at)).map_err(io::Error::from)?;
            self.bytes += hole - at;
            if self.bytes > LIMIT {
                return Err(Failure::TooLarge(self.bytes));
            }
            let chunk = msg::GhostChunkEntry { len: hole - at, off: at };
            writer.record(&chunk).map_err(io::Error::other)?;
            let mut buf = vec![0; CHUNK];
            while at < hole {
                let part = &mut buf[..((hole - at) as usize).min(CHUNK)];
                file.read_exact_at(part, at)?;
                writer.payload(part);
                at += part.len() as u64;
            }
        }
        Ok(writer.finish())
    }

    /// The images: contents by their id, and which entries they belong to.
    #[must_use]
    pub fn finish(self) -> (Vec<(u32, Vec<u8>)>, Vec<msg::RemapFilePathEntry>) {
        (self.images, self.remaps)
    }
}

/// What an unlinked file is made of, from its image.
#[derive(Debug)]
pub struct Content {
    entry: msg::GhostFileEntry,
    /// Offset and bytes of each run.
    chunks: Vec<(u64, Vec<u8>)>,
}

impl Content {
    /// Reads the image of one unlinked file.
    ///
    /// # Errors
    /// [`RestoreError::Image`].
    pub fn read(name: &str, bytes: &[u8]) -> Result<Self, RestoreError> {
        let bad = |what: String| RestoreError::Image { name: name.to_owned(), what };
        let fail = |e: cryopod_images::Error| bad(e.to_string());
        let mut reader = Reader::new(Image::GhostFile, name, bytes).map_err(fail)?;
        let Some(entry) = reader.record::<msg::GhostFileEntry>().map_err(fail)? else {
            return Err(bad("it is empty".into()));
        };
        let mut chunks = Vec::new();
        if entry.chunks == Some(true) {
            while let Some(chunk) = reader.record::<msg::GhostChunkEntry>().map_err(fail)? {
                let end = chunk.off.checked_add(chunk.len);
                if end.is_none_or(|end| end > entry.size.unwrap_or(0)) {
                    return Err(bad("content lies behind the file's end".into()));
                }
                chunks.push((chunk.off, reader.payload(chunk.len).map_err(fail)?.to_vec()));
            }
        } else {
            chunks.push((0, reader.rest().to_vec()));
        }
        Ok(Self { entry, chunks })
    }

    fn fill(&self, fd: &impl AsFd) -> io::Result<()> {
        let door = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
        let file = File::options().write(true).open(door)?;
        for (at, bytes) in &self.chunks {
            file.write_all_at(bytes, *at)?;
        }
        if let Some(size) = self.entry.size {
            file.set_len(size)?;
        }
        Ok(())
    }

    fn finish(&self, fd: &impl AsFd) -> io::Result<()> {
        let entry = &self.entry;
        let owner = (rustix::fs::Uid::from_raw(entry.uid), rustix::fs::Gid::from_raw(entry.gid));
        rustix::fs::fchown(fd, Some(owner.0), Some(owner.1))?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode & 0o7777))?;
        if let (Some(access), Some(change)) = (&entry.atim, &entry.mtim) {
            let time = |t: &msg::Timeval| rustix::fs::Timespec {
                tv_sec: t.tv_sec as i64,
                tv_nsec: (t.tv_usec.min(999_999) * 1000) as i64,
            };
            let times = rustix::fs::Timestamps {
                last_access: time(access),
                last_modification: time(change),
            };
            rustix::fs::futimens(fd, &times)?;
        }
        Ok(())
    }
}

/// An unlinked file made again.
#[derive(Debug)]
pub struct Ghost {
    /// Open without the right to write, which would forbid to execute it.
    pub fd: OwnedFd,
    /// An opening made by O_TMPFILE, for the first entry that has that flag.
    pub fresh: Option<OwnedFd>,
}

/// Directories made on the way to a name, the outermost first; removed when dropped.
struct Way<'r> {
    root: BorrowedFd<'r>,
    made: Vec<PathBuf>,
}

impl Drop for Way<'_> {
    fn drop(&mut self) {
        for dir in self.made.iter().rev() {
            let _ = unlink(self.root, dir, AtFlags::REMOVEDIR);
        }
    }
}

fn parent(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    Ok(below(root, dir, OFlags::PATH | OFlags::DIRECTORY)?)
}

fn unlink(root: BorrowedFd<'_>, path: &Path, flags: AtFlags) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::fs::unlinkat(parent(root, path)?, name, flags)?)
}

/// Makes the directories above a path that are not there.
fn pave<'r>(root: BorrowedFd<'r>, path: &Path) -> io::Result<Way<'r>> {
    let mut way = Way { root, made: Vec::new() };
    let above: Vec<&Path> = path.ancestors().skip(1).collect();
    for dir in above.into_iter().rev().filter(|d| d.file_name().is_some()) {
        if below(root, dir, OFlags::PATH | OFlags::DIRECTORY).is_ok() {
            continue;
        }
        let name = dir.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        rustix::fs::mkdirat(parent(root, dir)?, name, Mode::from_raw_mode(0o700))?;
        way.made.push(dir.to_owned());
    }
    Ok(way)
}

/// Makes an unlinked file again; `entry` is the first that needs it.
///
/// # Errors
/// What the kernel said.
pub fn restore(
    entry: &msg::RegFileEntry,
    content: &Content,
    root: BorrowedFd<'_>,
) -> Result<Ghost, RestoreError> {
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(&entry.name));
    make(entry, content, root, &path).map_err(|source| RestoreError::Kernel {
        pid: 0,
        what: format!("cannot make the unlinked file {} again", path.display()),
        source,
    })
}

fn make(
    entry: &msg::RegFileEntry,
    content: &Content,
    root: BorrowedFd<'_>,
    path: &Path,
) -> io::Result<Ghost> {
    let way = pave(root, path)?;
    let dir = parent(root, path)?;
    let private = Mode::from_raw_mode(0o600);
    let wanted = OFlags::from_bits_retain(entry.flags);
    if wanted.contains(OFlags::TMPFILE) {
        let flags = wanted | OFlags::CLOEXEC;
        let above = below(root, path.parent().unwrap_or(Path::new("/")), OFlags::DIRECTORY)?;
        match rustix::fs::openat(&above, ".", flags, private) {
            Ok(fresh) => {
                content.fill(&fresh)?;
                content.finish(&fresh)?;
                return Ok(Ghost { fd: again(&fresh, OFlags::RDONLY)?, fresh: Some(fresh) });
            }
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let kind = FileType::from_raw_mode(content.entry.mode);
    let base = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    let mut name = base.clone();
    for attempt in 0.. {
        let made = match kind {
            FileType::Directory => rustix::fs::mkdirat(&dir, &name, private | Mode::XUSR),
            FileType::RegularFile => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                rustix::fs::openat(&dir, &name, flags, private).map(drop)
            }
            FileType::Fifo => rustix::fs::mknodat(&dir, &name, kind, private, 0),
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "neither file nor directory nor named pipe",
                ));
            }
        };
        match made {
            Ok(()) => break,
            Err(rustix::io::Errno::EXIST) if attempt < 1000 => {
                name = base.clone();
                name.push(format!(".cryopod-{attempt}"));
            }
            Err(e) => return Err(e.into()),
        }
    }
    let finished = || -> io::Result<OwnedFd> {
        // A named pipe must not be waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(&dir, &name, flags, Mode::empty())?;
        if kind == FileType::RegularFile {
            content.fill(&fd)?;
        }
        content.finish(&fd)?;
        Ok(fd)
    };
    let fd = finished();
    let flags = if kind == FileType::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    rustix::fs::unlinkat(&dir, &name, flags)?;
    drop(way);
    Ok(Ghost { fd: fd?, fresh: None })
}

/// Takes away the name that stock criu gave to a file (its option --link-remap), if it is there.
pub fn forget(root: BorrowedFd<'_>, entry: &msg::RegFileEntry) {
    let path = Path::new(std::ffi::OsStr::from_bytes(&entry.name));
    let given = path.file_name().is_some_and(|n| n.as_bytes().starts_with(b"link_remap."));
    if given {
        let _ = unlink(root, path, AtFlags::empty());
    }
}

/// A further opening of a file.
///
/// # Errors
/// Those of open(2).
pub(crate) fn again(fd: &impl AsFd, flags: OFlags) -> io::Result<OwnedFd> {
    let door = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let flags =
        (flags & !(OFlags::TMPFILE & !OFlags::DIRECTORY) & !OFlags::NOFOLLOW) | OFlags::CLOEXEC;
    Ok(rustix::fs::open(door, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_of(dir: &Path) -> OwnedFd {
        rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn a_name_that_looks_deleted_and_is_not_is_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a (deleted)");
        std::fs::write(&file, "x").unwrap();
        let stat = rustix::fs::stat(&file).unwrap();
        let root = root_of(dir.path());
        let link = Path::new("/a (deleted)");
        assert_eq!(locate(root.as_fd(), link, &stat), Place::Named);
        std::fs::rename(&file, dir.path().join("b")).unwrap();
        std::fs::create_dir(dir.path().join("deep")).unwrap();
        std::fs::rename(dir.path().join("b"), dir.path().join("deep/c")).unwrap();
        let place = locate(root.as_fd(), link, &stat);
        assert_eq!(place, Place::Elsewhere(PathBuf::from("/deep/c")));
    }

    #[test]
    fn an_unlinked_file_in_a_directory_that_is_gone_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let open = File::open(&path).unwrap();
        let stat = rustix::fs::fstat(&open).unwrap();
        std::fs::remove_file(&path).unwrap();
        let door = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        let mut ghosts = Ghosts::default();
        ghosts.add(5, &stat, &door).unwrap();
        ghosts.add(6, &stat, &door).unwrap();
        let (images, remaps) = ghosts.finish();
        assert_eq!((images.len(), remaps.len()), (1, 2));
        let content = Content::read("ghost-file-1.img", &images[0].1).unwrap();
        let entry = msg::RegFileEntry { name: b"/x/y/file".to_vec(), ..Default::default() };
        let root = root_of(dir.path());
        let ghost = restore(&entry, &content, root.as_fd()).unwrap();
        let now = rustix::fs::fstat(&ghost.fd).unwrap();
        assert_eq!((now.st_nlink, now.st_size, now.st_mode), (0, 7, stat.st_mode));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn content_behind_the_end_is_refused() {
        let mut writer = Writer::new(Image::GhostFile);
        let entry = msg::GhostFileEntry { chunks: Some(true), size: Some(4), ..Default::default() };
        writer.record(&entry).unwrap();
        writer.record(&msg::GhostChunkEntry { len: 4, off: 1 }).unwrap();
        writer.payload(b"abcd");
        assert!(Content::read("ghost-file-1.img", &writer.finish()).is_err());
    }
}
