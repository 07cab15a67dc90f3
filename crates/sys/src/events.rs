//! eventfd(2), signalfd(2), timerfd_create(2) with what checkpoint and restore need of them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::check;

fn own(ret: i64) -> io::Result<OwnedFd> {
    let fd = check(ret)?;
    // SAFETY: `fd` was just returned by the kernel and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// An eventfd with a 64-bit start value, close-on-exec. `flags` may hold O_NONBLOCK.
///
/// # Errors
/// Those of eventfd(2) and of writing the value.
pub fn eventfd(counter: u64, semaphore: bool, flags: i32) -> io::Result<OwnedFd> {
    let kind = if semaphore { libc::EFD_SEMAPHORE } else { 0 };
    // SAFETY: no pointers.
    let fd = own(i64::from(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | kind | flags) }))?;
    if counter != 0 {
        // SAFETY: the buffer is a live u64.
        check(unsafe { libc::write(fd.as_raw_fd(), (&raw const counter).cast(), 8) } as i64)?;
    }
    Ok(fd)
}

/// A signalfd for a set of signals (bit 0: signal 1), close-on-exec. `flags` may hold O_NONBLOCK.
///
/// # Errors
/// Those of signalfd4(2).
pub fn signalfd(mask: u64, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: the mask is a live u64 of the size told.
    own(unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            &raw const mask,
            size_of::<u64>(),
            libc::SFD_CLOEXEC | flags,
        )
    })
}

/// A timerfd, close-on-exec. `flags` may hold O_NONBLOCK.
///
/// # Errors
/// Those of timerfd_create(2).
pub fn timerfd(clock: i32, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    own(i64::from(unsafe { libc::timerfd_create(clock, libc::TFD_CLOEXEC | flags) }))
}

/// Time left and interval, each seconds and nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timer {
    /// Time to the next expiration; zero: disarmed.
    pub value: (u64, u64),
    /// Interval of a periodic timer; zero: none.
    pub interval: (u64, u64),
}

/// Arms a timerfd, relative to now or as `flags` (TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET) say.
///
/// # Errors
/// Those of timerfd_settime(2).
pub fn arm_timerfd(fd: BorrowedFd<'_>, flags: i32, timer: Timer) -> io::Result<()> {
    let spec = |(sec, nsec): (u64, u64)| libc::timespec {
        tv_sec: sec as libc::time_t,
        tv_nsec: nsec as libc::c_long,
    };
    let spec = libc::itimerspec { it_value: spec(timer.value), it_interval: spec(timer.interval) };
    // SAFETY: `spec` is live, the old value is not wanted.
    check(i64::from(unsafe {
        libc::timerfd_settime(fd.as_raw_fd(), flags, &raw const spec, std::ptr::null_mut())
    }))
    .map(drop)
}

/// Sets the number of expirations not read yet (TFD_IOC_SET_TICKS, Linux 3.17,
/// CONFIG_CHECKPOINT_RESTORE).
///
/// # Errors
/// ENOTTY without that option.
pub fn set_timerfd_ticks(fd: BorrowedFd<'_>, ticks: u64) -> io::Result<()> {
    // _IOW('T', 0, __u64)
    const TFD_IOC_SET_TICKS: u64 = 0x4008_5400;
    // SAFETY: the argument is a live u64.
    check(i64::from(unsafe {
        libc::ioctl(fd.as_raw_fd(), TFD_IOC_SET_TICKS as _, &raw const ticks)
    }))
    .map(drop)
}
