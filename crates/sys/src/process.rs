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

/// How a new process is to be made by [`clone3`].
#[derive(Debug, Clone, Copy, Default)]
pub struct CloneArgs<'a> {
    /// CLONE_* flags.
    pub flags: u64,
    /// The signal the parent gets at its end (0: none).
    pub exit_signal: i32,
    /// Wanted pids, innermost pid namespace first (CAP_CHECKPOINT_RESTORE).
    pub set_tid: &'a [i32],
    /// Descriptor of the cgroup v2 directory to start in, with CLONE_INTO_CGROUP.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Which side of [`clone3`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// In the new process.
    Child,
    /// In the old one: the child's pid.
    Parent(i32),
}

/// Makes a child process with clone3(2), without a stack of its own (it goes on as after fork).
///
/// # Safety
/// The calling process must be single-threaded, and the flags must not share its memory (no
/// CLONE_VM): the child goes on with a copy of everything, as after fork(2).
///
/// # Errors
/// EEXIST when a wanted pid is taken, EPERM, EAGAIN (pids limit), and others of clone(2).
pub unsafe fn clone3(args: CloneArgs<'_>) -> io::Result<Forked> {
    #[repr(C)]
    #[derive(Default)]
    struct Raw {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    let raw = Raw {
        flags: args.flags,
        exit_signal: args.exit_signal as u64,
        set_tid: if args.set_tid.is_empty() { 0 } else { args.set_tid.as_ptr() as u64 },
        set_tid_size: args.set_tid.len() as u64,
        cgroup: args.cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
        ..Raw::default()
    };
    // SAFETY: `raw` and the pid array it points to live across the call; the caller vouches for
    // the rest.
    let ret = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const raw, size_of::<Raw>()) })?;
    Ok(if ret == 0 { Forked::Child } else { Forked::Parent(ret as i32) })
}

/// Makes a child that sleeps until somebody takes it over by ptrace; it gets the first pid of
/// `set_tid` when there is one. It is killed when the caller's thread ends (PR_SET_PDEATHSIG), until
/// that is undone in it.
///
/// # Safety
/// As [`clone3`]: the calling process must be single-threaded.
///
/// # Errors
/// Those of [`clone3`].
pub unsafe fn spawn_sleeper(set_tid: &[i32]) -> io::Result<i32> {
    let args = CloneArgs { flags: 0, exit_signal: libc::SIGCHLD, set_tid, cgroup: None };
    // SAFETY: no precondition.
    let parent = unsafe { libc::getpid() };
    // SAFETY: the caller vouches for being single-threaded, and no memory is shared.
    match unsafe { clone3(args) }? {
        Forked::Parent(pid) => Ok(pid),
        // SAFETY: plain numbers; nothing else runs in this process. The parent may have ended
        // before the child asked to hear of it.
        Forked::Child => unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if libc::getppid() != parent {
                libc::_exit(1);
            }
            loop {
                libc::pause();
            }
        },
    }
}

/// Opens `/proc/PID/NAME` for reading.
pub fn open_proc(pid: i32, name: &str) -> io::Result<File> {
    File::open(format!("/proc/{pid}/{name}"))
}
