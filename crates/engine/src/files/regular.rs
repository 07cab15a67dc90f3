//! Files known by a path: regular files, directories, and devices without a state of their own.
//!
//! At restore the path is opened again below the container's root and compared with what it was:
//! kind and size (and what the image of file marks holds). Refused: files whose path is gone.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cryopod_images::msg;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};

use super::{Collector, OpenFile, dump_owner};
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
/// A refusal when the path is gone.
pub fn dump(
    collector: &mut Collector<'_>,
    id: u32,
    file: &OpenFile,
) -> Result<msg::FileEntry, DumpError> {
    let owner = dump_owner(file, collector.inside)?;
    let reg = entry(
        id,
        file.pid,
        &file.link,
        &file.stat,
        file.flags() & !OPEN_ONLY,
        file.info.position,
        owner,
    )?;
    Ok(msg::FileEntry {
        r#type: msg::FdTypes::Reg.into(),
        id,
        reg: Some(reg),
        ..Default::default()
    })
}

/// Makes the entry of a path.
///
/// # Errors
/// A refusal when the path is gone.
pub fn entry(
    id: u32,
    pid: i32,
    link: &Path,
    stat: &Stat,
    flags: u32,
    position: u64,
    owner: msg::FownEntry,
) -> Result<msg::RegFileEntry, DumpError> {
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if stat.st_nlink == 0 || link.as_os_str().as_bytes().ends_with(b" (deleted)") {
        let comm = proc::status::of(pid, pid).map_or_else(|_| "?".into(), |s| s.name);
        return Err(DumpError::Refused(Refusal {
            pid,
            comm,
            resource: format!("the unlinked file {}", link.display()),
            way_out: "close it before the checkpoint",
        }));
    }
    Ok(msg::RegFileEntry {
        id,
        flags,
        pos: position,
        fown: owner,
        name: link.as_os_str().as_bytes().to_vec(),
        mnt_id: Some(-1),
        size: regular.then_some(stat.st_size as u64),
        ext: None,
        mode: Some(stat.st_mode),
        build_id: Vec::new(),
        checksum: None,
        checksum_config: None,
        checksum_parameter: None,
    })
}

/// Opens the file again below `root` and compares it.
///
/// # Errors
/// [`RestoreError::FileDiffers`] when it is another file now.
pub fn restore(entry: &msg::RegFileEntry, root: BorrowedFd<'_>) -> Result<OwnedFd, RestoreError> {
    let path = OsStr::from_bytes(&entry.name);
    let shown = path.to_string_lossy().into_owned();
    let differs = |what: String| RestoreError::FileDiffers { path: shown.clone(), what };
    let kernel = |what: &str, source: io::Error| RestoreError::Kernel {
        pid: 0,
        what: format!("cannot {what} {shown}"),
        source,
    };
    let flags = OFlags::from_bits_retain(entry.flags);
    // With O_PATH, openat2(2) takes only a few others.
    let flags = if flags.contains(OFlags::PATH) {
        (flags & (OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW)) | OFlags::CLOEXEC
    } else {
        flags | OFlags::CLOEXEC | OFlags::NOCTTY
    };
    let fd = rustix::fs::openat2(
        root,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(|e| match e {
        rustix::io::Errno::NOENT => differs("it is not there".into()),
        e => kernel("open", e.into()),
    })?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| kernel("stat", e.into()))?;
    if let Some(mode) = entry.mode {
        let (was, is) = (FileType::from_raw_mode(mode), FileType::from_raw_mode(stat.st_mode));
        if was != is {
            return Err(differs(format!("it was {was:?}, now {is:?}")));
        }
    }
    if let Some(size) = entry.size
        && stat.st_size as u64 != size
    {
        return Err(differs(format!("it had {size} bytes, now {}", stat.st_size)));
    }
    let seekable = !flags.contains(OFlags::PATH)
        && FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice;
    if seekable && entry.pos != 0 {
        rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(entry.pos))
            .map_err(|e| kernel("seek in", e.into()))?;
    }
    Ok(fd)
}
