//! Other processes: memory, descriptors, identity.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::check;

/// Reads memory of another process (process_vm_readv(2)), up to `buf.len()` bytes.
///
/// # Errors
/// EFAULT when nothing could be read, ESRCH, EPERM. A short count means that the range ran into an
/// unreadable page.
pub fn read_memory(pid: i32, addr: u64, buf: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let remote = libc::iovec { iov_base: addr as *mut _, iov_len: buf.len() };
    // SAFETY: the local vector describes `buf`; the remote one is checked by the kernel.
    check(
        unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) } as i64
    )
    .map(|n| n as usize)
}

/// Reads several ranges of another process back to back into `buf`; at most 1024 ranges (IOV_MAX).
///
/// # Errors
/// As [`read_memory`].
pub fn read_ranges(pid: i32, ranges: &[(u64, usize)], buf: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let remote: Vec<libc::iovec> = ranges
        .iter()
        .map(|&(addr, len)| libc::iovec { iov_base: addr as *mut _, iov_len: len })
        .collect();
    // SAFETY: the local vector describes `buf`; the remote ones are checked by the kernel.
    check(unsafe {
        libc::process_vm_readv(
            pid,
            &raw const local,
            1,
            remote.as_ptr(),
            remote.len() as libc::c_ulong,
            0,
        )
    } as i64)
    .map(|n| n as usize)
}

/// Opens a descriptor of a process (pidfd_open(2)).
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the returned descriptor is new and ours.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: `fd` was just returned by the kernel and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Duplicates descriptor `fd` of the process behind `pidfd` into this one (pidfd_getfd(2)).
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the returned descriptor is new and ours.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })?;
    // SAFETY: `fd` was just returned by the kernel and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal through a pidfd.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed.
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0usize, 0)
    })
    .map(drop)
}

/// What kcmp(2) compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kcmp {
    /// Two descriptors: the same open file description?
    File(u64, u64),
    /// The address spaces.
    Vm,
    /// The descriptor tables.
    Files,
    /// Root, working directory and umask.
    Fs,
    /// The signal handlers.
    Sighand,
    /// The io contexts.
    Io,
    /// The System V semaphore undo lists.
    Sysvsem,
}

/// Compares a kernel object of two processes; gives a total order over such objects.
pub fn kcmp(a: i32, b: i32, what: Kcmp) -> io::Result<std::cmp::Ordering> {
    let (kind, x, y) = match what {
        Kcmp::File(x, y) => (0, x, y),
        Kcmp::Vm => (1, 0, 0),
        Kcmp::Files => (2, 0, 0),
        Kcmp::Fs => (3, 0, 0),
        Kcmp::Sighand => (4, 0, 0),
        Kcmp::Io => (5, 0, 0),
        Kcmp::Sysvsem => (6, 0, 0),
    };
    // SAFETY: no pointers.
    let ret = check(unsafe { libc::syscall(libc::SYS_kcmp, a, b, kind, x, y) })?;
    Ok(match ret {
        0 => std::cmp::Ordering::Equal,
        1 => std::cmp::Ordering::Less,
        2 => std::cmp::Ordering::Greater,
        _ => return Err(io::Error::other("kcmp gives no order")),
    })
}

/// What an epoll instance watches under a descriptor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct EpollSlot {
    /// Descriptor of the instance.
    pub instance: u32,
    /// Number the file was added under.
    pub number: u32,
    /// Which one of several files added under that number, as fdinfo lists them.
    pub which: u32,
}

/// Whether descriptor `fd` of process `a` is the file that an epoll instance of process `b` watches
/// (KCMP_EPOLL_TFD, Linux 4.13).
///
/// # Errors
/// EBADF when there is no such descriptor, ENOENT when there is no such slot.
pub fn is_epoll_target(a: i32, fd: i32, b: i32, slot: EpollSlot) -> io::Result<bool> {
    const EPOLL_TFD: i32 = 7;
    // SAFETY: `slot` is a live struct kcmp_epoll_slot.
    let ret = check(unsafe {
        libc::syscall(libc::SYS_kcmp, a, b, EPOLL_TFD, fd as libc::c_ulong, &raw const slot)
    })?;
    Ok(ret == 0)
}

/// Sends a signal to one thread (tgkill(2)).
pub fn tgkill(pid: i32, tid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) }).map(drop)
}

/// Sends a signal to a process (kill(2)).
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(i64::from(unsafe { libc::kill(pid, signal) })).map(drop)
}

/// The robust futex list of a thread: head address and length (get_robust_list(2)).
pub fn robust_list(tid: i32) -> io::Result<(u64, u64)> {
    let mut head = 0u64;
    let mut len = 0u64;
    // SAFETY: both pointers are to live u64 values.
    check(unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) })?;
    Ok((head, len))
}

/// The caller's alternate signal stack: its address and size in bytes (sigaltstack(2)).
///
/// # Errors
/// None known.
pub fn own_alternate_stack() -> io::Result<(u64, u64)> {
    // SAFETY: all zeros is a valid `stack_t`.
    let mut stack: libc::stack_t = unsafe { std::mem::zeroed() };
    // SAFETY: the new one is null, so nothing is changed; the old one is live.
    check(unsafe { libc::sigaltstack(std::ptr::null(), &raw mut stack) }.into())?;
    Ok((stack.ss_sp as u64, stack.ss_size as u64))
}

/// Opens `/proc/PID/NAME` for reading.
pub fn open_proc(pid: i32, name: &str) -> io::Result<File> {
    File::open(format!("/proc/{pid}/{name}"))
}
