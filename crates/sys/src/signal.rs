//! Signals sent with full information, for restoring pending ones; signals kept from new threads.

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

/// All signals are blocked for the calling thread while this lives; threads that it starts meanwhile
/// have them blocked for good.
#[derive(Debug)]
pub struct Blocked {
    before: libc::sigset_t,
    /// The mask is a thread's own.
    _here: std::marker::PhantomData<*const ()>,
}

impl Blocked {
    /// Blocks them.
    ///
    /// # Errors
    /// None that is known; the mask is as before then.
    pub fn all() -> io::Result<Self> {
        // SAFETY: a signal set is plain words, for which zeros are valid.
        let (mut all, mut before) =
            unsafe { std::mem::zeroed::<(libc::sigset_t, libc::sigset_t)>() };
        // SAFETY: pointers to live sets.
        let error = unsafe {
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before)
        };
        match error {
            0 => Ok(Self { before, _here: std::marker::PhantomData }),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: pointers to a live set and to none. It fails for arguments only that are not these.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocked() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }

    #[test]
    fn signals_are_blocked_for_new_threads_and_as_before_for_the_old_one() {
        let before = blocked();
        let guard = Blocked::all().unwrap();
        let thread = std::thread::spawn(blocked);
        drop(guard);
        assert_eq!(blocked(), before);
        // All but SIGKILL, SIGSTOP and the two that the C library keeps to itself.
        let kept = 1 << 8 | 1 << 18 | 1 << 31 | 1 << 32;
        assert_eq!(thread.join().unwrap() | kept, u64::MAX);
    }
}
