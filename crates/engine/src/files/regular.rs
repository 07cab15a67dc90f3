//! Files known by a path: regular files, directories, and devices without a state of their own.
//!
//! At restore the path is opened again below the container's root and compared with what it was
//! (see [`marks`]). Files whose path is gone are the business of [`ghosts`].

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cryopod_images::msg;
use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::ghosts::{self, Failure, Ghost, Place};
use super::{Collector, OpenFile, dump_owner, marks};
use crate::error::{DumpError, Refusal, RestoreError};
use crate::proc;

/// Open flags that only matter while opening.
const OPEN_ONLY: u32 =
    (libc::O_CREAT | libc::O_EXCL | libc::O_NOCTTY | libc::O_TRUNC | libc::O_CLOEXEC) as u32;

/// Devices that hold nothing: null, zero, full, random, urandom.
#[must_use]
pub fn is_plain_device(stat: &Stat) -> bool {
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    major == 1 && matches!(minor, 3 | 5 | 7 | 8 | 9)
}

/// Makes the entry of an open file.
///
/// # Errors
/// A refusal, or what the kernel said.
pub fn dump(
    collector: &mut Collector<'_>,
    id: u32,
    file: &OpenFile,
) -> Result<msg::FileEntry, DumpError> {
    let opening = Opening {
        id,
        pid: file.pid,
        link: &file.link,
        stat: &file.stat,
        flags: file.flags() & !OPEN_ONLY,
        position: file.info.position,
        owner: dump_owner(file, collector.inside)?,
        door: format!("/proc/self/fd/{}", file.file.as_raw_fd()),
        file: Some(file.file.as_fd()),
    };
    let reg = entry(collector, opening)?;
    Ok(msg::FileEntry {
        r#type: msg::FdTypes::Reg.into(),
        id,
        reg: Some(reg),
        ..Default::default()
    })
}

/// A file that is known by path, as it was found.
pub(super) struct Opening<'a> {
    pub(super) id: u32,
    pub(super) pid: i32,
    /// Its path as the kernel shows it.
    pub(super) link: &'a Path,
    pub(super) stat: &'a Stat,
    pub(super) flags: u32,
    pub(super) position: u64,
    pub(super) owner: msg::FownEntry,
    /// A path of /proc that opens it.
    pub(super) door: String,
    /// A duplicate, when it was open and not only mapped.
    pub(super) file: Option<BorrowedFd<'a>>,
}

impl Opening<'_> {
    fn refusal(&self, what: &str, way_out: &'static str) -> DumpError {
        let comm = proc::status::of(self.pid, self.pid).map_or_else(|_| "?".into(), |s| s.name);
        let resource = format!("the unlinked file {}{what}", self.link.display());
        DumpError::Refused(Refusal { pid: self.pid, comm, resource, way_out })
    }

    fn kernel(&self, source: io::Error) -> DumpError {
        DumpError::Kernel { pid: self.pid, what: "cannot read one of its files", source }
    }

    /// Another opening of the file for reading. The duplicate serves where it can: an opening would
    /// break a lease.
    fn read(&self) -> io::Result<File> {
        let flags = OFlags::from_bits_retain(self.flags);
        let readable = !flags.intersects(OFlags::WRONLY | OFlags::PATH);
        match self.file {
            Some(file) if readable => Ok(file.try_clone_to_owned()?.into()),
            _ => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                Ok(rustix::fs::open(&self.door, flags, Mode::empty())?.into())
            }
        }
    }
}

/// Makes the entry of a path, and keeps what is needed to make the file again when it has none.
///
/// # Errors
/// A refusal, or what the kernel said.
pub(super) fn entry(
    collector: &mut Collector<'_>,
    opening: Opening<'_>,
) -> Result<msg::RegFileEntry, DumpError> {
    let regular = FileType::from_raw_mode(opening.stat.st_mode) == FileType::RegularFile;
    let bare = matches!(
        FileType::from_raw_mode(opening.stat.st_mode),
        FileType::Directory | FileType::Fifo
    );
    let mut name = opening.link.to_owned();
    let door = Path::new(&opening.door);
    let mut ghost = false;
    match ghosts::locate(collector.root.as_fd(), opening.link, opening.stat) {
        Place::Named => {}
        Place::Elsewhere(other) => name = other,
        Place::Nowhere if let Some(what) = ghosts::special(door) => {
            return Err(
                opening.refusal(&format!(", which is {what}"), "close it before the checkpoint")
            );
        }
        Place::Nowhere if regular || bare => {
            ghost = true;
            name = ghosts::strip(opening.link);
            collector.ghosts.add(opening.id, opening.stat, door).map_err(|e| match e {
                Failure::Kernel(source) => opening.kernel(source),
                Failure::TooLarge(bytes) => opening.refusal(
                    &format!(
                        ": unlinked files of {bytes} bytes and more, at most {} are taken",
                        ghosts::LIMIT
                    ),
                    "give it a name, or close it before the checkpoint",
                ),
            })?;
        }
        Place::Nowhere => {
            return Err(opening.refusal(
                ", which is neither a regular file nor a directory nor a named pipe",
                "close it before the checkpoint",
            ));
        }
        Place::Unknown => {
            return Err(opening.refusal(
                ", whose other name is not found among so many files",
                "give it its old name again, or close it before the checkpoint",
            ));
        }
    }
    let mut entry = msg::RegFileEntry {
        id: opening.id,
        flags: opening.flags,
        pos: opening.position,
        fown: opening.owner,
        name: name.as_os_str().as_bytes().to_vec(),
        mnt_id: Some(-1),
        size: regular.then_some(opening.stat.st_size as u64),
        ext: None,
        mode: Some(opening.stat.st_mode),
        build_id: Vec::new(),
        checksum: None,
        checksum_config: None,
        checksum_parameter: None,
        mtime: None,
    };
    let written = OFlags::from_bits_retain(opening.flags)
        .intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::PATH);
    if regular && !ghost && !written {
        let file = opening.read().map_err(|e| opening.kernel(e))?;
        marks::dump(&mut entry, &file, opening.stat).map_err(|e| opening.kernel(e))?;
    }
    Ok(entry)
}

fn kernel<'a>(what: &'a str, path: &'a [u8]) -> impl Fn(io::Error) -> RestoreError + use<'a> {
    move |source| RestoreError::Kernel {
        pid: 0,
        what: format!("cannot {what} {}", String::from_utf8_lossy(path)),
        source,
    }
}

/// Compares what lies under the path with what was there, without opening anything but a regular
/// file.
///
/// # Errors
/// [`RestoreError::FileDiffers`] when it is another file now.
pub fn compare(entry: &msg::RegFileEntry, root: BorrowedFd<'_>) -> Result<(), RestoreError> {
    let path = Path::new(OsStr::from_bytes(&entry.name));
    let fd = ghosts::below(root, path, OFlags::PATH).map_err(|e| missing(entry, e))?;
    marks::compare(entry, &fd)
}

fn missing(entry: &msg::RegFileEntry, error: rustix::io::Errno) -> RestoreError {
    match error {
        rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => RestoreError::FileDiffers {
            path: String::from_utf8_lossy(&entry.name).into_owned(),
            what: "it is not there".into(),
        },
        e => kernel("open", &entry.name)(e.into()),
    }
}

/// Opens the file again below `root` and compares it.
///
/// # Errors
/// [`RestoreError::FileDiffers`] when it is another file now.
pub fn restore(entry: &msg::RegFileEntry, root: BorrowedFd<'_>) -> Result<OwnedFd, RestoreError> {
    let path = Path::new(OsStr::from_bytes(&entry.name));
    let flags = OFlags::from_bits_retain(entry.flags);
    // With O_PATH, openat2(2) takes only a few others.
    let flags = if flags.contains(OFlags::PATH) {
        flags & (OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW)
    } else {
        flags | OFlags::NOCTTY
    };
    let fd = ghosts::below(root, path, flags).map_err(|e| missing(entry, e))?;
    marks::compare(entry, &fd)?;
    seek(entry, &fd)?;
    Ok(fd)
}

/// Opens an unlinked file that was made again.
///
/// # Errors
/// What the kernel said.
pub fn restore_ghost(
    entry: &msg::RegFileEntry,
    ghost: &mut Ghost,
) -> Result<OwnedFd, RestoreError> {
    let flags = OFlags::from_bits_retain(entry.flags);
    let fresh = if flags.contains(OFlags::TMPFILE) { ghost.fresh.take() } else { None };
    let fd = match fresh {
        Some(fd) => fd,
        None => ghosts::again(&ghost.fd, flags | OFlags::NOCTTY)
            .map_err(kernel("open again", &entry.name))?,
    };
    seek(entry, &fd)?;
    Ok(fd)
}

fn seek(entry: &msg::RegFileEntry, fd: &OwnedFd) -> Result<(), RestoreError> {
    let fail = kernel("seek in", &entry.name);
    let stat = rustix::fs::fstat(fd).map_err(|e| fail(e.into()))?;
    let seekable = entry.flags & libc::O_PATH as u32 == 0
        && FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice;
    if seekable && entry.pos != 0 {
        rustix::fs::seek(fd, rustix::fs::SeekFrom::Start(entry.pos)).map_err(|e| fail(e.into()))?;
    }
    Ok(())
}
