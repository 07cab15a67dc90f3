//! fcntl(2) requests that rustix lacks.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

/// Who is told by signal that a file is ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    /// Real user id the signal is sent with.
    pub uid: u32,
    /// Effective user id the signal is sent with.
    pub euid: u32,
    /// The signal (F_SETSIG); 0: SIGIO.
    pub signal: u32,
    /// F_OWNER_TID (0), F_OWNER_PID (1), F_OWNER_PGRP (2).
    pub kind: u32,
    /// The id, in the caller's pid namespace; 0: nobody.
    pub pid: i32,
}

#[repr(C)]
struct OwnerEx {
    kind: i32,
    pid: i32,
}

const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_GETOWNER_UIDS: i32 = 17;
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;

/// Reads F_GETOWN_EX, F_GETOWNER_UIDS and F_GETSIG.
///
/// # Errors
/// EBADF on an O_PATH descriptor.
pub fn owner(fd: BorrowedFd<'_>) -> io::Result<Owner> {
    let fd = fd.as_raw_fd();
    let mut ex = OwnerEx { kind: 0, pid: 0 };
    // SAFETY: `ex` is a live struct f_owner_ex.
    check(i64::from(unsafe { libc::fcntl(fd, F_GETOWN_EX, &raw mut ex) }))?;
    let mut ids = [0u32; 2];
    // SAFETY: `ids` has room for two uid_t.
    match check(i64::from(unsafe { libc::fcntl(fd, F_GETOWNER_UIDS, ids.as_mut_ptr()) })) {
        Ok(_) => {}
        // Only with CONFIG_CHECKPOINT_RESTORE; without it nobody can have them restored either.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
        Err(e) => return Err(e),
    }
    // SAFETY: no pointers.
    let signal = check(i64::from(unsafe { libc::fcntl(fd, F_GETSIG) }))?;
    Ok(Owner {
        uid: ids[0],
        euid: ids[1],
        signal: signal as u32,
        kind: if ex.pid == 0 { 0 } else { ex.kind as u32 },
        pid: ex.pid,
    })
}

/// Sets F_SETSIG and F_SETOWN_EX; the user ids become the caller's.
///
/// # Errors
/// ESRCH when there is no such process.
pub fn set_owner(fd: BorrowedFd<'_>, owner: Owner) -> io::Result<()> {
    let fd = fd.as_raw_fd();
    // SAFETY: no pointers.
    check(i64::from(unsafe { libc::fcntl(fd, F_SETSIG, owner.signal) }))?;
    let ex = OwnerEx { kind: owner.kind as i32, pid: owner.pid };
    // SAFETY: `ex` is a live struct f_owner_ex.
    check(i64::from(unsafe { libc::fcntl(fd, F_SETOWN_EX, &raw const ex) })).map(drop)
}
