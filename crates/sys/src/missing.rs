//! Pages given to another process when it first touches them: a userfaultfd in MISSING mode.
//!
//! As in [`crate::userfaultfd`] the descriptor is made by the process itself, and acts on its memory
//! whoever holds a copy. What the kernel promises, and callers rely on (fs/userfaultfd.c, 6.18):
//!
//! - A thread that touches a missing page of a registered area waits until the page is there. When
//!   the last copy of the descriptor is closed, missing pages read as zeros.
//! - fork, mremap, munmap and madvise(DONTNEED, FREE) of such areas are *changes*: each waits until
//!   its message was read. From before a change can be seen until its message was read and the
//!   thread that made it has gone on, [`copy`] and [`zero`] fail with EAGAIN.
//! - Of the messages, faults are read first, changes in the order in which their threads queued them,
//!   which is not always that in which they took place.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

/// Bytes of one message.
pub const MESSAGE: usize = 32;

const API: u64 = 0xaa;
const FEATURE_EVENT_FORK: u64 = 1 << 1;
const FEATURE_EVENT_REMAP: u64 = 1 << 2;
const FEATURE_EVENT_REMOVE: u64 = 1 << 3;
const FEATURE_EVENT_UNMAP: u64 = 1 << 6;
const MODE_MISSING: u64 = 1;

/// `_IOWR(0xaa, 0x3f, struct uffdio_api)`.
const UFFDIO_API: u64 = 0xc018_aa3f;
/// `_IOWR(0xaa, 0x00, struct uffdio_register)`.
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
/// `_IOR(0xaa, 0x02, struct uffdio_range)`.
const UFFDIO_WAKE: u64 = 0x8010_aa02;
/// `_IOWR(0xaa, 0x03, struct uffdio_copy)`.
const UFFDIO_COPY: u64 = 0xc028_aa03;
/// `_IOWR(0xaa, 0x04, struct uffdio_zeropage)`.
const UFFDIO_ZEROPAGE: u64 = 0xc020_aa04;
/// `_IOWR(0xaa, 0x08, struct uffdio_poison)`.
const UFFDIO_POISON: u64 = 0xc020_aa08;

/// A descriptor by its number: it stays open when this is dropped, since its number may be known to
/// another process that shares the table of descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uffd(RawFd);

impl Uffd {
    /// One that is open in the caller's table of descriptors.
    #[must_use]
    pub fn numbered(fd: RawFd) -> Self {
        Self(fd)
    }

    /// Closes it, for everybody who shares the table.
    pub fn close(self) {
        // SAFETY: nothing in this program owns the number but through this type.
        unsafe { libc::close(self.0) };
    }
}

impl From<OwnedFd> for Uffd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into_raw_fd())
    }
}

impl AsRawFd for Uffd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: it is open until `close`, which takes the place of a drop.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

/// What a message says. Addresses are those of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// A thread waits for this page.
    Fault {
        /// Where; not always the first byte of the page.
        address: u64,
    },
    /// The process has forked; the child's missing pages are served by this new descriptor of the
    /// process that has read the message.
    Fork {
        /// The descriptor.
        fd: i32,
    },
    /// An area was moved.
    Remap {
        /// Where it was.
        from: u64,
        /// Where it is.
        to: u64,
        /// Bytes.
        len: u64,
    },
    /// The content of these pages is thrown away; they stay mapped.
    Remove {
        /// First address.
        start: u64,
        /// Address after the last byte.
        end: u64,
    },
    /// These pages are not mapped any more.
    Unmap {
        /// First address.
        start: u64,
        /// Address after the last byte.
        end: u64,
    },
}

impl Message {
    /// Understands a message (struct uffd_msg); `None` for what no feature here asks for.
    #[must_use]
    pub fn parse(bytes: &[u8; MESSAGE]) -> Option<Self> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Some(match bytes[0] {
            0x12 => Self::Fault { address: word(16) },
            0x13 => Self::Fork { fd: word(8) as u32 as i32 },
            0x14 => Self::Remap { from: word(8), to: word(16), len: word(24) },
            0x15 => Self::Remove { start: word(8), end: word(16) },
            0x16 => Self::Unmap { start: word(8), end: word(16) },
            _ => return None,
        })
    }
}

fn ioctl<T>(fd: BorrowedFd<'_>, request: u64, arg: &mut T) -> io::Result<()> {
    // SAFETY: every request here is used with the structure the kernel expects, which is live, and
    // what it points to is live as well.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, std::ptr::from_mut(arg)) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Agrees on messages about all changes; once per descriptor.
///
/// # Errors
/// EINVAL on a kernel without them, EPERM without CAP_SYS_PTRACE.
pub fn agree(fd: BorrowedFd<'_>) -> io::Result<()> {
    let features =
        FEATURE_EVENT_FORK | FEATURE_EVENT_REMAP | FEATURE_EVENT_REMOVE | FEATURE_EVENT_UNMAP;
    ioctl(fd, UFFDIO_API, &mut [API, features, 0])
}

/// Registers whole areas of private anonymous memory.
///
/// # Errors
/// EBUSY when an area has a userfaultfd already, EINVAL when nothing, or something else, is mapped
/// there.
pub fn register(fd: BorrowedFd<'_>, start: u64, end: u64) -> io::Result<()> {
    ioctl(fd, UFFDIO_REGISTER, &mut [start, end - start, MODE_MISSING, 0])
}

/// Gives missing pages their content and wakes who waits for them. Answers how many bytes were given:
/// fewer than all when a page in the middle is there already, or a change has begun.
///
/// # Errors
/// EEXIST: the first page is there. EAGAIN: a change is under way. ENOENT: nothing registered is
/// there. ESRCH: the process has ended. ENOMEM: its cgroup's memory is used up.
pub fn copy(fd: BorrowedFd<'_>, to: u64, bytes: &[u8]) -> io::Result<usize> {
    let mut arg = [to, bytes.as_ptr() as u64, bytes.len() as u64, 0, 0];
    match ioctl(fd, UFFDIO_COPY, &mut arg) {
        Ok(()) => Ok(bytes.len()),
        Err(error) => match arg[4] as i64 {
            done @ 1.. => Ok(done as usize),
            _ => Err(error),
        },
    }
}

/// Makes a missing page zero and wakes who waits for it.
///
/// # Errors
/// As [`copy`].
pub fn zero(fd: BorrowedFd<'_>, at: u64, len: u64) -> io::Result<()> {
    ioctl(fd, UFFDIO_ZEROPAGE, &mut [at, len, 0, 0])
}

/// Makes missing pages such that touching them raises SIGBUS (Linux 6.6), and wakes who waits for them.
/// Answers how many bytes, as [`copy`] does.
///
/// # Errors
/// As [`copy`].
pub fn poison(fd: BorrowedFd<'_>, at: u64, len: u64) -> io::Result<u64> {
    let mut arg = [at, len, 0, 0];
    match ioctl(fd, UFFDIO_POISON, &mut arg) {
        Ok(()) => Ok(len),
        Err(error) => match arg[3] as i64 {
            done @ 1.. => Ok(done as u64),
            _ => Err(error),
        },
    }
}

/// Wakes who waits for pages that are there.
///
/// # Errors
/// EINVAL on bounds that are no pages.
pub fn wake(fd: BorrowedFd<'_>, at: u64, len: u64) -> io::Result<()> {
    ioctl(fd, UFFDIO_WAKE, &mut [at, len])
}

/// A page of this process that cannot be read, made once.
fn nowhere() -> io::Result<u64> {
    static PAGE: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    if let Some(page) = PAGE.get() {
        return Ok(*page);
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at a place of the kernel's choice, which nobody reads or writes.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_NONE, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(*PAGE.get_or_init(|| at as u64))
}

/// Whether a registered area has this page; `None`: a change is under way. Nothing is changed.
///
/// It is asked to copy from where nothing can be read: an area is looked for before the content.
///
/// # Errors
/// ESRCH: the process has ended.
pub fn is_registered(fd: BorrowedFd<'_>, page: u64) -> io::Result<Option<bool>> {
    let mut arg = [page, nowhere()?, 4096, 0, 0];
    match ioctl(fd, UFFDIO_COPY, &mut arg) {
        Ok(()) => Err(io::Error::other("a copy from nowhere succeeded")),
        Err(e) => match e.raw_os_error() {
            Some(libc::EFAULT | libc::EEXIST) => Ok(Some(true)),
            Some(libc::ENOENT) => Ok(Some(false)),
            Some(libc::EAGAIN) => Ok(None),
            _ => Err(e),
        },
    }
}
