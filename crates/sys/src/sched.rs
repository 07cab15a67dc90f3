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

/// The calling thread is before all ordinary ones while this lives: others stand still for it.
///
/// The first real-time priority, or the best nice value where that is not allowed (a cgroup v1 without
/// real-time share); nothing happens where neither is. A thread that forks keeps it to itself.
#[derive(Debug)]
pub struct Urgent {
    before: Option<(i32, libc::sched_param, i32)>,
}

impl Urgent {
    /// Begins.
    #[must_use]
    pub fn begin() -> Self {
        let mut param = libc::sched_param { sched_priority: 0 };
        // SAFETY: no pointers; then one to a live value.
        let policy = unsafe { libc::sched_getscheduler(0) };
        // SAFETY: as above.
        let known = policy >= 0 && unsafe { libc::sched_getparam(0, &raw mut param) } == 0;
        let ordinary = matches!(policy, libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE);
        if !known || !ordinary {
            // Real-time already, and somebody's choice.
            return Self { before: None };
        }
        // SAFETY: no pointers. An error cannot be told from a nice value of -1, which does no harm.
        let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let first = libc::sched_param { sched_priority: 1 };
        let flags = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
        // SAFETY: a pointer to a live value.
        if unsafe { libc::sched_setscheduler(0, flags, &raw const first) } != 0 {
            // SAFETY: no pointers.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
        }
        Self { before: Some((policy, param, nice)) }
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        if let Some((policy, param, nice)) = self.before {
            // SAFETY: a pointer to a live value; no pointers.
            unsafe {
                libc::sched_setscheduler(0, policy, &raw const param);
                libc::setpriority(libc::PRIO_PROCESS, 0, nice);
            }
        }
    }
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

    #[test]
    fn a_thread_is_urgent_for_a_while_and_then_as_before() {
        let own = || {
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            // SAFETY: no pointers.
            (policy(tid).unwrap(), unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) })
        };
        let before = own();
        let urgent = Urgent::begin();
        // Real-time, or the best nice value; or it is not allowed to be either.
        let meanwhile = own();
        assert!(meanwhile != before || rustix::process::geteuid().as_raw() != 0, "{meanwhile:?}");
        drop(urgent);
        assert_eq!(own(), before);
    }
}
