//! Calls that tasks make for their sockets, so that the kernel remembers them as the callers.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_images::msg;
use cryopod_sys::process;

use super::super::transport::Transport;
use super::super::tree::Seedling;
use crate::files::unix::names::{self, Place};

/// Where a task keeps its end of the transport meanwhile.
const TRANSPORT_AT: i32 = 200;
/// "Leave it" for setresuid(2).
const KEEP: u64 = u32::MAX as u64;

/// The tasks, as those who call.
pub(super) struct Actors<'s> {
    pub(super) seedlings: &'s mut [Seedling],
    pub(super) transports: HashMap<usize, Transport>,
    /// Place of a task by its pid inside.
    pub(super) pids: HashMap<u32, usize>,
    /// A task that holds the file with this id, and the user and group it acts as.
    pub(super) holders: HashMap<u32, usize>,
}

impl Actors<'_> {
    /// Who made the call whose credentials these are, else who holds the file.
    pub(super) fn who(&self, credentials: Option<&msg::SkUcredEntry>, id: u32) -> usize {
        credentials
            .and_then(|c| self.pids.get(&c.pid))
            .or_else(|| self.holders.get(&id))
            .copied()
            .unwrap_or(0)
    }

    pub(super) fn host(&self, pid: u32) -> Option<i32> {
        self.pids.get(&pid).map(|at| self.seedlings[*at].pid)
    }

    /// Runs a call in a task with the effective user and group given.
    fn act(
        &mut self,
        who: usize,
        as_whom: Option<&msg::SkUcredEntry>,
        call: impl FnOnce(&mut Seedling) -> io::Result<u64>,
    ) -> io::Result<u64> {
        let seedling = &mut self.seedlings[who];
        let (uid, gid) = as_whom.map_or((0, 0), |c| (u64::from(c.uid), u64::from(c.gid)));
        if gid != 0 {
            seedling.remote.call(libc::SYS_setresgid, [KEEP, gid, KEEP, 0, 0, 0])?;
        }
        if uid != 0 {
            seedling.remote.call(libc::SYS_setresuid, [KEEP, uid, KEEP, 0, 0, 0])?;
        }
        let result = call(seedling);
        if uid != 0 {
            seedling.remote.call(libc::SYS_setresuid, [KEEP, 0, KEEP, 0, 0, 0])?;
        }
        if gid != 0 {
            seedling.remote.call(libc::SYS_setresgid, [KEEP, 0, KEEP, 0, 0, 0])?;
        }
        result
    }

    /// Gives a task a descriptor.
    fn give(&mut self, who: usize, fd: BorrowedFd<'_>) -> io::Result<i32> {
        let Seedling { remote, space, scratch, .. } = &mut self.seedlings[who];
        let transport = match self.transports.entry(who) {
            std::collections::hash_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(Transport::open(remote, space, *scratch, TRANSPORT_AT)?)
            }
        };
        transport.send(fd, remote, space, *scratch)
    }

    pub(super) fn listen(
        &mut self,
        who: usize,
        as_whom: Option<&msg::SkUcredEntry>,
        fd: BorrowedFd<'_>,
        backlog: u32,
    ) -> io::Result<()> {
        let theirs = self.give(who, fd)?;
        let args = [theirs as u64, u64::from(backlog), 0, 0, 0, 0];
        self.act(who, as_whom, |task| task.remote.call(libc::SYS_listen, args))?;
        self.seedlings[who].remote.close(theirs)
    }

    /// Connects to a name, or to the file of a place.
    pub(super) fn connect(
        &mut self,
        who: usize,
        as_whom: Option<&msg::SkUcredEntry>,
        fd: BorrowedFd<'_>,
        to: &Target<'_>,
    ) -> io::Result<()> {
        let theirs = self.give(who, fd)?;
        let address = match to {
            Target::Name(name) => names::address(name),
            Target::Place(place) => {
                let dir = self.give(who, place.dir.as_fd())?;
                let remote = &mut self.seedlings[who].remote;
                remote.call(libc::SYS_fchdir, [dir as u64, 0, 0, 0, 0, 0])?;
                remote.close(dir)?;
                names::address(&[&place.base[..], b"\0"].concat())
            }
        };
        let args = [theirs as u64, 0, address.len() as u64, 0, 0, 0];
        let result = self.act(who, as_whom, |task| {
            let Seedling { remote, space, scratch, .. } = task;
            remote.call_in(space, *scratch, libc::SYS_connect, args, 1, &address)
        });
        self.seedlings[who].remote.close(theirs)?;
        result.map(drop)
    }

    /// socketpair(2) in a task.
    pub(super) fn pair(
        &mut self,
        who: usize,
        as_whom: Option<&msg::SkUcredEntry>,
        kind: u32,
    ) -> io::Result<(OwnedFd, OwnedFd)> {
        let kind = u64::from(kind) | libc::SOCK_CLOEXEC as u64;
        let mut ends = [0; 2];
        self.act(who, as_whom, |task| {
            let Seedling { remote, space, scratch, .. } = task;
            let args = [libc::AF_UNIX as u64, kind, 0, 0, 0, 0];
            let out: [u8; 8] = remote.call_out(space, *scratch, libc::SYS_socketpair, args, 3)?;
            for (end, bytes) in ends.iter_mut().zip(out.as_chunks::<4>().0) {
                *end = i32::from_le_bytes(*bytes);
            }
            Ok(0)
        })?;
        let pidfd = process::pidfd_open(self.seedlings[who].pid)?;
        let mut take = |fd: i32| {
            let ours = process::pidfd_getfd(pidfd.as_fd(), fd)?;
            self.seedlings[who].remote.close(fd)?;
            Ok::<_, io::Error>(ours)
        };
        Ok((take(ends[0])?, take(ends[1])?))
    }
}

/// What to connect to.
pub(super) enum Target<'a> {
    Name(&'a [u8]),
    Place(&'a Place),
}
