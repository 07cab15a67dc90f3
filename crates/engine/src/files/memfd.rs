//! Descriptors of memfd_create(2); their content is a segment of shared memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use cryopod_images::msg;
use rustix::fs::{Mode, OFlags, SeekFrom};

use super::{Collector, OpenFile, dump_owner};
use crate::error::{DumpError, RestoreError};

/// Makes the entry of an open memfd.
///
/// # Errors
/// What the kernel said.
pub fn dump(
    collector: &mut Collector<'_>,
    id: u32,
    file: OpenFile,
) -> Result<msg::FileEntry, DumpError> {
    let owner = dump_owner(&file, collector.inside)?;
    let (flags, position, pid) = (file.flags(), file.info.position, file.pid);
    let link = file.link.as_os_str().as_bytes().to_vec();
    // An opening of our own: the duplicate shares its position with the program.
    let path = format!("/proc/self/fd/{}", file.file.as_raw_fd());
    let own = File::open(path).map_err(|source| DumpError::Kernel {
        pid,
        what: "cannot open a memfd",
        source,
    })?;
    let inode = collector.segments.memfd(pid, own, &link)?;
    Ok(entry(id, inode, flags, position, owner))
}

/// The entry of an opening of the memfd with this inode id.
#[must_use]
pub fn entry(id: u32, inode_id: u32, flags: u32, pos: u64, fown: msg::FownEntry) -> msg::FileEntry {
    msg::FileEntry {
        r#type: msg::FdTypes::Memfd.into(),
        id,
        memfd: Some(msg::MemfdFileEntry { id, flags, pos, fown, inode_id }),
        ..Default::default()
    }
}

/// Opens a memfd that was made again.
///
/// # Errors
/// What the kernel said.
pub fn restore(
    entry: &msg::MemfdFileEntry,
    inode: BorrowedFd<'_>,
) -> Result<OwnedFd, RestoreError> {
    let kernel = |e: rustix::io::Errno| RestoreError::Kernel {
        pid: 0,
        what: "cannot open a memfd".into(),
        source: io::Error::from(e),
    };
    let flags = OFlags::from_bits_retain(entry.flags) | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", inode.as_raw_fd());
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(kernel)?;
    if entry.pos != 0 {
        rustix::fs::seek(&fd, SeekFrom::Start(entry.pos)).map_err(kernel)?;
    }
    Ok(fd)
}
