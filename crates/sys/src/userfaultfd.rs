//! Write tracking of another process: a userfaultfd made in it, used from here (userfaultfd(2),
//! asynchronous write protection of Linux 6.7).
//!
//! The descriptor is made by the process itself; whoever holds a copy of it acts on that process's
//! memory. In asynchronous mode the kernel resolves write faults by itself and only remembers that
//! they happened: PAGEMAP_SCAN tells ([`crate::pagemap`]). When the last copy is closed, the kernel
//! takes the registration and all protection away.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Flag of userfaultfd(2): faults of the kernel itself are not handled. Asynchronous protection
/// handles none anyway, and a process without privilege may make only such a descriptor.
pub const USER_MODE_ONLY: u64 = 1;

const FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const FEATURE_WP_ASYNC: u64 = 1 << 15;
const API: u64 = 0xaa;
const MODE_WP: u64 = 1 << 1;

/// `_IOWR(0xaa, 0x3f, struct uffdio_api)`.
const UFFDIO_API: u64 = 0xc018_aa3f;
/// `_IOWR(0xaa, 0x00, struct uffdio_register)`.
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
/// `_IOWR(0xaa, 0x06, struct uffdio_writeprotect)`.
const UFFDIO_WRITEPROTECT: u64 = 0xc018_aa06;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Protect {
    start: u64,
    len: u64,
    mode: u64,
}

fn ioctl<T>(fd: BorrowedFd<'_>, request: u64, arg: &mut T) -> io::Result<()> {
    // SAFETY: every request here is used with the structure the kernel expects, which is live.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, std::ptr::from_mut(arg)) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Agrees on asynchronous write protection; once per descriptor.
///
/// # Errors
/// EINVAL on a kernel without it (before 6.7).
pub fn agree(fd: BorrowedFd<'_>) -> io::Result<()> {
    let features = FEATURE_PAGEFAULT_FLAG_WP | FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC;
    ioctl(fd, UFFDIO_API, &mut Api { api: API, features, ioctls: 0 })
}

/// Registers whole areas for write protection; nothing is protected yet.
///
/// # Errors
/// EBUSY when an area has a userfaultfd already, EPERM when it can never be written, EINVAL when
/// nothing is mapped there.
pub fn register(fd: BorrowedFd<'_>, start: u64, end: u64) -> io::Result<()> {
    let len = end - start;
    ioctl(fd, UFFDIO_REGISTER, &mut Register { start, len, mode: MODE_WP, ioctls: 0 })
}

/// Takes the protection of a range away. It walks the page tables: to be called in small parts.
///
/// # Errors
/// ENOENT when the range is not registered (any more).
pub fn unprotect(fd: BorrowedFd<'_>, start: u64, end: u64) -> io::Result<()> {
    ioctl(fd, UFFDIO_WRITEPROTECT, &mut Protect { start, len: end - start, mode: 0 })
}
