//! Who gets the signals of a file (F_SETOWN, F_SETSIG), set again at the end of a restore.
//!
//! The kernel takes the user ids a signal is sent with from who sets the owner (fcntl(2)): the
//! engine does so as that user. An owner outside the tree, or one that is gone, is nobody after the
//! restore.

use std::io;
use std::os::fd::BorrowedFd;

use cryopod_images::msg;
use cryopod_sys::fcntl::{self, Owner};
use rustix::process::Uid;

/// The owner of an entry, whatever its kind.
#[must_use]
pub fn of(entry: &msg::FileEntry) -> Option<msg::FownEntry> {
    let found = (entry.reg.as_ref().map(|e| e.fown))
        .or(entry.isk.as_ref().map(|e| e.fown))
        .or(entry.usk.as_ref().map(|e| e.fown))
        .or(entry.nlsk.as_ref().map(|e| e.fown))
        .or(entry.pipe.as_ref().map(|e| e.fown))
        .or(entry.efd.as_ref().map(|e| e.fown))
        .or(entry.epfd.as_ref().map(|e| e.fown))
        .or(entry.sgfd.as_ref().map(|e| e.fown))
        .or(entry.tfd.as_ref().map(|e| e.fown))
        .or(entry.ify.as_ref().map(|e| e.fown))
        .or(entry.memfd.as_ref().map(|e| e.fown));
    found.filter(|f| f.pid != 0 || f.signum != 0)
}

/// Sets the owner of a file; `pid` is the caller's number for it, 0: nobody.
///
/// # Errors
/// ESRCH when there is no such process; EPERM without CAP_SETUID.
pub fn restore(fd: BorrowedFd<'_>, owner: &msg::FownEntry, pid: i32) -> io::Result<()> {
    let wanted =
        Owner { uid: owner.uid, euid: owner.euid, signal: owner.signum, kind: owner.pid_type, pid };
    let root = Uid::ROOT;
    let other = (owner.uid, owner.euid) != (0, 0) && pid != 0;
    if other {
        let (uid, euid) = (Uid::from_raw(owner.uid), Uid::from_raw(owner.euid));
        rustix::thread::set_thread_res_uid(uid, euid, root)?;
    }
    let result = fcntl::set_owner(fd, wanted);
    if other {
        rustix::thread::set_thread_res_uid(root, root, root)?;
    }
    result
}
