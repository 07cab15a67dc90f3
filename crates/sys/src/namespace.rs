//! Namespaces: unshare(2), setns(2) with a pidfd (5.8), ioctl_ns(2).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::check;

/// A set of kinds of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kinds(i32);

impl Kinds {
    /// None.
    pub const NONE: Self = Self(0);
    /// Mounts.
    pub const MOUNT: Self = Self(libc::CLONE_NEWNS);
    /// Network.
    pub const NET: Self = Self(libc::CLONE_NEWNET);
    /// System V ipc and message queues.
    pub const IPC: Self = Self(libc::CLONE_NEWIPC);
    /// Host name.
    pub const UTS: Self = Self(libc::CLONE_NEWUTS);
    /// Process ids, of children made later.
    pub const PID: Self = Self(libc::CLONE_NEWPID);
    /// Root of the visible cgroups.
    pub const CGROUP: Self = Self(libc::CLONE_NEWCGROUP);
    /// Monotonic and boot clocks, of children made later.
    pub const TIME: Self = Self(0x80);

    /// This set and another.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True when it has none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Moves the calling thread into new namespaces.
///
/// # Errors
/// Those of unshare(2).
pub fn unshare(kinds: Kinds) -> io::Result<()> {
    // SAFETY: none of the kinds splits the address space or the descriptor table.
    check(unsafe { libc::unshare(kinds.0) }.into()).map(drop)
}

/// Moves the calling thread into namespaces of the process behind a pidfd.
///
/// # Errors
/// Those of setns(2); ESRCH when the process is gone.
pub fn join_process(pidfd: BorrowedFd<'_>, kinds: Kinds) -> io::Result<()> {
    // SAFETY: a plain system call on a live descriptor.
    check(unsafe { libc::setns(pidfd.as_raw_fd(), kinds.0) }.into()).map(drop)
}

/// Brings the loopback device of the caller's network namespace up.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN, ENODEV where there is none.
pub fn raise_loopback() -> io::Result<()> {
    // SAFETY: a plain system call; the descriptor is owned by nobody else.
    let socket = unsafe {
        OwnedFd::from_raw_fd(check(
            libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0).into(),
        )? as i32)
    };
    // SAFETY: ifreq is plain data for which all zeros is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    // SAFETY: `request` is a live ifreq, which both requests take.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) }.into())?;
    // SAFETY: SIOCGIFFLAGS filled this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: as above.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) }.into())
        .map(drop)
}
