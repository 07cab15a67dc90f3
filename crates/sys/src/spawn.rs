//! New processes: clone3(2) with namespaces, cgroup and chosen pids, and execve(2).
//!
//! Relies on clone3 (5.3), `set_tid` (5.5), `CLONE_INTO_CGROUP` (5.7), close_range (5.9). A child
//! made by [`clone_process`] goes on in a copy of the caller, as after fork(2); the functions refuse
//! a caller with more than one thread, since a copy of a locked lock would never be opened.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use crate::check;

/// `CLONE_PARENT`: the new process is a child of the caller's parent.
pub const CLONE_PARENT: u64 = libc::CLONE_PARENT as u64;
/// `CLONE_NEWNS`: own mounts.
pub const CLONE_NEWNS: u64 = libc::CLONE_NEWNS as u64;
/// `CLONE_NEWPID`: own process ids.
pub const CLONE_NEWPID: u64 = libc::CLONE_NEWPID as u64;
/// `CLONE_NEWCGROUP`: its cgroup is the root it sees.
pub const CLONE_NEWCGROUP: u64 = libc::CLONE_NEWCGROUP as u64;

/// `CLONE_FILES`: one table of descriptors for both.
pub const CLONE_FILES: u64 = libc::CLONE_FILES as u64;

const CLONE_PIDFD: u64 = libc::CLONE_PIDFD as u64;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// How to make a process.
#[derive(Debug, Default)]
pub struct CloneOptions<'a> {
    /// Namespaces to make and `CLONE_PARENT`.
    pub flags: u64,
    /// Pids to take, in the innermost pid namespace first; empty: any.
    pub set_tid: &'a [i32],
    /// A cgroup v2 directory to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Where [`clone_process`] returned.
#[derive(Debug)]
pub enum Cloned {
    /// In the new process.
    Child,
    /// In the caller.
    Parent {
        /// Pid of the new process as the caller sees it.
        pid: i32,
        /// A descriptor of the new process.
        pidfd: OwnedFd,
    },
}

fn assert_single_threaded() -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads == 1 {
        Ok(())
    } else {
        Err(io::Error::other(format!("a process with {threads} threads cannot be copied")))
    }
}

/// Copies the calling process.
///
/// # Errors
/// An error of its own when the caller has several threads; else those of clone3(2): EEXIST when a
/// chosen pid is taken, EPERM without the privilege, EAGAIN when there are too many tasks.
pub fn clone_process(options: &CloneOptions<'_>) -> io::Result<Cloned> {
    assert_single_threaded()?;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone_args is plain data for which all zeros is valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = options.flags | CLONE_PIDFD;
    args.pidfd = (&raw mut pidfd) as u64;
    if options.flags & CLONE_PARENT == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if !options.set_tid.is_empty() {
        args.set_tid = options.set_tid.as_ptr() as u64;
        args.set_tid_size = options.set_tid.len() as u64;
    }
    if let Some(cgroup) = options.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?;
    }
    // SAFETY: no CLONE_VM, so the child gets a copy of this single-threaded process and runs on in
    // it; `args` and what it points to live across the call.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>())
    })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: with CLONE_PIDFD the kernel stored a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Parent { pid: pid as i32, pidfd })
}

/// Makes a child that sleeps until somebody takes it over by ptrace; it gets the pids of `set_tid`,
/// those of the innermost pid namespace first. It is killed when the caller's thread ends
/// (PR_SET_PDEATHSIG), until that is undone in it.
///
/// # Errors
/// Those of [`clone_process`].
pub fn spawn_sleeper(set_tid: &[i32]) -> io::Result<i32> {
    // SAFETY: no precondition.
    let parent = unsafe { libc::getpid() };
    match clone_process(&CloneOptions { set_tid, ..CloneOptions::default() })? {
        Cloned::Parent { pid, .. } => Ok(pid),
        // SAFETY: plain numbers. The parent may have ended before the child asked to hear of it.
        Cloned::Child => unsafe {
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

/// Becomes another program. Returns only when that failed.
pub fn execve(path: &OsStr, args: &[CString], env: &[CString]) -> io::Error {
    let Ok(path) = CString::new(path.as_bytes()) else {
        return io::Error::from_raw_os_error(libc::EINVAL);
    };
    let pointers = |list: &[CString]| {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: all strings are live and end in NUL, both lists end in a null pointer.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends the process at once, without running destructors or flushing buffers: for a copy made by
/// [`clone_process`], whose buffers are the parent's.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no precondition.
    unsafe { libc::_exit(code) }
}

/// Marks every descriptor from `first` on to be closed by execve.
///
/// # Errors
/// Those of close_range(2).
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: sets a flag only, no descriptor is closed here.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_uint,
        )
    })
    .map(drop)
}

/// Sets every signal to its default action and blocks none: what a new program expects. Rust's
/// start-up code ignores SIGPIPE.
///
/// # Errors
/// Those of sigprocmask(2).
pub fn reset_signals() -> io::Result<()> {
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP || signal == 32 || signal == 33 {
            continue;
        }
        // SAFETY: SIG_DFL runs no code of this process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an all-zero sigset_t is the empty set on Linux.
    let empty: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `empty` is live, no old set is asked for.
    check(
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut()) }
            .into(),
    )
    .map(drop)
}

/// Ignores SIGCHLD: children that end, and ended ones that come to this process as orphans, are gone
/// at once, without a zombie (wait(2), notes). Their ids are free for others then.
///
/// # Errors
/// Those of signal(2).
pub fn forget_children() -> io::Result<()> {
    // SAFETY: SIG_IGN runs no code of this process.
    if unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_to_copy_a_process_with_threads() {
        let barrier = std::sync::Arc::new(std::sync::Barrier::new(2));
        let other = {
            let barrier = barrier.clone();
            std::thread::spawn(move || {
                barrier.wait();
            })
        };
        let result = clone_process(&CloneOptions::default());
        assert!(result.is_err());
        barrier.wait();
        other.join().unwrap();
    }
}
