//! wait4(2) on tracees and children, decoded.

use std::io;

/// What a wait reported of a thread or process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Ended by exit(2) with this code.
    Exited(i32),
    /// Ended by this signal.
    Killed(i32),
    /// Signal-delivery-stop or, without ptrace, a job control stop.
    Signal(i32),
    /// Entry or exit of a system call (PTRACE_O_TRACESYSGOOD).
    Syscall,
    /// A PTRACE_EVENT_* stop; PTRACE_EVENT_STOP carries the stopping signal, SIGTRAP when it was
    /// PTRACE_INTERRUPT.
    Event {
        /// PTRACE_EVENT_* number.
        event: i32,
        /// The signal of the stop.
        signal: i32,
    },
    /// Continued after a job control stop.
    Continued,
}

/// PTRACE_EVENT_FORK.
pub const EVENT_FORK: i32 = 1;
/// PTRACE_EVENT_VFORK.
pub const EVENT_VFORK: i32 = 2;
/// PTRACE_EVENT_CLONE.
pub const EVENT_CLONE: i32 = 3;
/// PTRACE_EVENT_STOP.
pub const EVENT_STOP: i32 = 128;

fn decode(status: i32) -> Status {
    if libc::WIFEXITED(status) {
        Status::Exited(libc::WEXITSTATUS(status))
    } else if libc::WIFSIGNALED(status) {
        Status::Killed(libc::WTERMSIG(status))
    } else if libc::WIFCONTINUED(status) {
        Status::Continued
    } else {
        let signal = libc::WSTOPSIG(status);
        let event = status >> 16;
        if event != 0 {
            Status::Event { event, signal }
        } else if signal == libc::SIGTRAP | 0x80 {
            Status::Syscall
        } else {
            Status::Signal(signal)
        }
    }
}

/// Waits for the next report of one thread or child, any kind of child (`__WALL`).
///
/// # Errors
/// ECHILD when it is neither a child nor a tracee.
pub fn wait_for(tid: i32) -> io::Result<Status> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a live i32.
        let ret = unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL) };
        if ret == tid {
            return Ok(decode(status));
        }
        let err = io::Error::last_os_error();
        if err.kind() != io::ErrorKind::Interrupted {
            return Err(err);
        }
    }
}

/// Like [`wait_for`], but returns `None` at once when there is nothing to report.
pub fn poll_for(tid: i32) -> io::Result<Option<Status>> {
    let mut status = 0;
    // SAFETY: `status` is a live i32.
    let ret = unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | libc::WNOHANG) };
    match ret {
        0 => Ok(None),
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(Some(decode(status))),
    }
}

/// Takes the next report of any child or tracee without waiting: its id and what happened.
///
/// # Errors
/// ECHILD when there is none left.
pub fn poll_any() -> io::Result<Option<(i32, Status)>> {
    let mut status = 0;
    // SAFETY: `status` is a live i32.
    let ret = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::WNOHANG) };
    match ret {
        0 => Ok(None),
        -1 => Err(io::Error::last_os_error()),
        tid => Ok(Some((tid, decode(status)))),
    }
}
