//! Scheduling of one thread: policy and i/o priority, which rustix lacks.

use std::io;

use crate::check;

/// IOPRIO_WHO_PROCESS of ioprio_set(2): one thread.
const ONE: i32 = 1;

/// Policy of a thread, SCHED_RESET_ON_FORK included (sched_getscheduler(2)).
///
/// # Errors
/// ESRCH when there is no such thread.
pub fn policy(tid: i32) -> io::Result<u32> {
    // SAFETY: no pointers.
    check(i64::from(unsafe { libc::sched_getscheduler(tid) })).map(|policy| policy as u32)
}

/// I/O priority of a thread, class in the upper bits; 0: none of its own (ioprio_get(2)).
///
/// # Errors
/// ESRCH when there is no such thread.
pub fn io_priority(tid: i32) -> io::Result<u32> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_get, ONE, tid) }).map(|value| value as u32)
}

/// Sets the i/o priority of a thread.
///
/// # Errors
/// EPERM without CAP_SYS_NICE for the real-time class.
pub fn set_io_priority(tid: i32, value: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, ONE, tid, value) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_a_policy_and_an_io_priority_that_can_be_set() {
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        assert_eq!(policy(tid).unwrap() & 7, 0);
        // Best effort, level 6.
        set_io_priority(tid, 2 << 13 | 6).unwrap();
        assert_eq!(io_priority(tid).unwrap(), 2 << 13 | 6);
        assert!(policy(i32::MAX).is_err());
    }
}
