//! Signals sent with full information, for restoring pending ones.

use std::io;

use crate::check;
use crate::ptrace::SigInfo;

/// Queues a signal for a process with this very siginfo (rt_sigqueueinfo(2)).
///
/// # Errors
/// EPERM when si_code is one that only the kernel may use and the target is another process.
pub fn queue_for_process(pid: i32, signal: i32, info: &SigInfo) -> io::Result<()> {
    // SAFETY: `info` is a live 128-byte siginfo.
    check(unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, pid, signal, info.as_ptr()) }).map(drop)
}

/// Queues a signal for one thread with this very siginfo (rt_tgsigqueueinfo(2)).
///
/// # Errors
/// As [`queue_for_process`].
pub fn queue_for_thread(pid: i32, tid: i32, signal: i32, info: &SigInfo) -> io::Result<()> {
    // SAFETY: `info` is a live 128-byte siginfo.
    check(unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, signal, info.as_ptr()) })
        .map(drop)
}
