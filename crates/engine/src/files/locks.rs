//! File locks: record locks (fcntl(2)), those of an opening (F_OFD_SETLK), flock(2), leases.
//!
//! /proc/PID/fdinfo shows each lock with the opening it was taken through (proc(5)). A record lock
//! belongs to a descriptor table and goes with any closing of the file, so locks are taken when a
//! table is complete and nothing is closed in it any more. Refused: a lease that is being broken.

use std::collections::HashSet;
use std::io;

use cryopod_images::msg;

use super::OpenFile;
use crate::error::{DumpError, RestoreError};
use crate::inject::calls::Scratch;
use crate::inject::{Remote, Space};
use crate::proc;

const POSIX: u32 = 1;
const FLOCK: u32 = 2;
const OFD: u32 = 4;
const LEASE: u32 = 8;
const READ: u32 = libc::F_RDLCK as u32;
const WRITE: u32 = libc::F_WRLCK as u32;

/// A lock as fdinfo shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Held {
    flag: u32,
    kind: u32,
    start: i64,
    /// 0: to the end of the file.
    len: i64,
}

/// Parses what follows `lock:`. `None` inside: a lease that is being broken.
fn parse(line: &str) -> Option<Option<Held>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, kind, state, access, _, _, start, end] = words[..] else { return None };
    let flag = match kind {
        "POSIX" => POSIX,
        "FLOCK" => FLOCK,
        "OFDLCK" => OFD,
        "LEASE" => LEASE,
        _ => return None,
    };
    if flag == LEASE && state != "ACTIVE" {
        return Some(None);
    }
    let kind = match access {
        "READ" => READ,
        "WRITE" => WRITE,
        _ => return None,
    };
    let start: i64 = start.parse().ok()?;
    let len = match end {
        "EOF" => 0,
        end => end.parse::<i64>().ok()?.checked_sub(start)?.checked_add(1)?,
    };
    Some(Some(Held { flag, kind, start, len }))
}

/// The locks of a tree.
#[derive(Debug, Default)]
pub struct Locks {
    /// As the image has them.
    pub entries: Vec<msg::FileLockEntry>,
    seen: HashSet<(i32, u32, Held)>,
}

/// The locks taken through an open file.
///
/// # Errors
/// A refusal; an fdinfo that is not understood.
pub(super) fn of(file: &OpenFile) -> Result<Vec<Held>, DumpError> {
    let mut held = Vec::new();
    for line in file.info.all("lock") {
        match parse(line) {
            Some(Some(lock)) => held.push(lock),
            Some(None) => {
                let what = format!("a lease of {} that is being broken", file.name());
                return Err(file.refusal(&what, "wait until it is given back"));
            }
            None => {
                let what = format!("lock {line:?}");
                return Err(proc::malformed(&format!("{}/fdinfo/{}", file.pid, file.fd), &what));
            }
        }
    }
    Ok(held)
}

impl Locks {
    /// Adds the locks taken through descriptor `fd` of process `pid` (inside), which is file `id`.
    pub(super) fn add(&mut self, pid: i32, fd: i32, id: u32, held: &[Held]) {
        for lock in held {
            // Only a record lock is the process's own; the others are the opening's, whoever has it.
            let owner = if lock.flag == POSIX { pid } else { 0 };
            if self.seen.insert((owner, id, *lock)) {
                self.entries.push(msg::FileLockEntry {
                    flag: lock.flag,
                    r#type: lock.kind,
                    pid,
                    fd,
                    start: lock.start,
                    len: lock.len,
                });
            }
        }
    }
}

/// Takes a lock again, in a task that has the descriptor.
///
/// # Errors
/// A refusal when somebody else has it; what the kernel said.
pub(crate) fn restore(
    lock: &msg::FileLockEntry,
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> Result<(), RestoreError> {
    take(lock, remote, space, scratch).map_err(|source| match source.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => RestoreError::Refused {
            pid: lock.pid,
            what: format!("the file of its descriptor {} is locked by somebody else", lock.fd),
            way_out: "restore it when the other has let go",
        },
        _ => RestoreError::Kernel {
            pid: lock.pid,
            what: format!("cannot lock the file of descriptor {}", lock.fd),
            source,
        },
    })
}

fn take(
    lock: &msg::FileLockEntry,
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<()> {
    let fd = lock.fd as u64;
    let command = match lock.flag {
        FLOCK => {
            let kind = if lock.r#type == READ { libc::LOCK_SH } else { libc::LOCK_EX };
            let kind = (kind | libc::LOCK_NB) as u64;
            return remote.call(libc::SYS_flock, [fd, kind, 0, 0, 0, 0]).map(drop);
        }
        LEASE => {
            let args = [fd, libc::F_SETLEASE as u64, u64::from(lock.r#type), 0, 0, 0];
            return remote.call(libc::SYS_fcntl, args).map(drop);
        }
        POSIX => libc::F_SETLK,
        OFD => libc::F_OFD_SETLK,
        other => return Err(io::Error::other(format!("a lock of unknown kind {other}"))),
    };
    // struct flock: type, whence (SEEK_SET), start, length, pid.
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&(lock.r#type as u16).to_le_bytes());
    bytes[8..16].copy_from_slice(&lock.start.to_le_bytes());
    bytes[16..24].copy_from_slice(&lock.len.to_le_bytes());
    let args = [fd, command as u64, 0, 0, 0, 0];
    remote.call_in(space, scratch, libc::SYS_fcntl, args, 2, &bytes).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_locks_of_each_kind() {
        let line = "1: POSIX  ADVISORY  WRITE 359 00:13:11691 100 149";
        let held = Held { flag: POSIX, kind: WRITE, start: 100, len: 50 };
        assert_eq!(parse(line), Some(Some(held)));
        let line = "2: FLOCK  ADVISORY  READ 359 fe:00:7 0 EOF";
        assert_eq!(parse(line), Some(Some(Held { flag: FLOCK, kind: READ, start: 0, len: 0 })));
        assert_eq!(parse("3: LEASE  BREAKING  READ 359 fe:00:7 0 EOF"), Some(None));
        assert_eq!(parse("4: DELEG ACTIVE READ 1 fe:00:7 0 EOF"), None);
    }
}
