//! Attributes of mounts: mount_setattr(2), Linux 5.12.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

/// Read-only.
pub const ATTR_RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
/// Set-user-id bits have no effect.
pub const ATTR_NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
/// Devices cannot be opened.
pub const ATTR_NODEV: u64 = libc::MOUNT_ATTR_NODEV;
/// Programs cannot be run.
pub const ATTR_NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// Changes a mount given by a descriptor (of its root, or from open_tree(2)).
///
/// # Errors
/// Those of mount_setattr(2): EPERM for a locked flag, EINVAL for a descriptor that is no mount.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    propagation: u64,
    recursive: bool,
) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` is live and its size is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}
