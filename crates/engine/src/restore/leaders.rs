//! Leaders that have ended: of sessions and of process groups (setsid(2), setpgid(2)).
//!
//! Their ids live on in those they left behind. A process of the wanted pid is made for a moment:
//! in a session of its own it forks the members with CLONE_PARENT, so that they are its parent's
//! children in its session; in a group of its own it lets the members join. Then it ends, and the
//! process that made it waits for it.

use std::collections::BTreeMap;
use std::io;

use super::layout;
use super::tree::{self, FRAME_AT, Forest, Seedling};
use crate::error::RestoreError;
use crate::inject::{Remote, Space};

impl Forest<'_> {
    /// Whether the session of a child must be had from elsewhere: neither its parent nor one of its
    /// ancestors leads it, nor the child itself, nor is it the session the tree is restored in.
    pub(super) fn is_foreign(&self, child: usize) -> bool {
        let tasks = &self.images.tasks;
        let tree = &tasks[child].tree;
        if tree.sid == tree.pid || tree.sid == tasks[0].tree.sid {
            return false;
        }
        let mut above = tree.ppid;
        // No chain is longer than the tree: the images may lie.
        for _ in 0..tasks.len() {
            let Some(task) = tasks.iter().find(|t| t.tree.pid == above) else { break };
            if task.tree.sid == tree.sid {
                return false;
            }
            above = task.tree.ppid;
        }
        true
    }

    /// Forks children of `parent` that belong to sessions of others.
    pub(super) fn adopt(
        &mut self,
        parent: &mut Seedling,
        children: &[usize],
    ) -> Result<(), RestoreError> {
        let mut sessions: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for index in children {
            sessions.entry(self.images.tasks[*index].tree.sid).or_default().push(*index);
        }
        for (session, members) in sessions {
            let brother = self.living.iter().position(|s| {
                let tree = &self.images.tasks[s.index].tree;
                tree.sid == session && tree.ppid == self.images.tasks[parent.index].tree.pid
            });
            if let Some(at) = brother {
                // One of that session with the same parent is there already.
                let mut brother = self.living.remove(at);
                let made = self.fork_all(&mut brother, parent.index, &members);
                self.living.insert(at, brother);
                made?;
                continue;
            }
            let fail = self.error(members[0], "cannot make the leader of its session");
            let signal = self.images.tasks[members[0]].exit_signal();
            let share = (libc::CLONE_FILES | libc::CLONE_FS) as u64;
            let mut leader = self.stand_in(parent, session, share, signal).map_err(&fail)?;
            leader.remote.call(libc::SYS_setsid, [0; 6]).map_err(&fail)?;
            self.fork_all(&mut leader, parent.index, &members)?;
            self.dismiss(leader, parent, session).map_err(&fail)?;
        }
        Ok(())
    }

    fn fork_all(
        &mut self,
        maker: &mut Seedling,
        parent: usize,
        members: &[usize],
    ) -> Result<(), RestoreError> {
        members.iter().try_for_each(|index| self.fork(maker, parent, *index))
    }

    /// Puts living tasks into the groups whose leaders have ended.
    pub(super) fn join_lost_groups(&mut self) -> Result<(), RestoreError> {
        let tasks = &self.images.tasks;
        let known = |id: u32| tasks.iter().any(|t| t.tree.pid == id);
        let outer = tasks[0].tree.pgid;
        let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (at, seedling) in self.living.iter().enumerate() {
            let tree = &tasks[seedling.index].tree;
            // With its session it got its group.
            if tree.pgid != 0 && tree.pgid != outer && tree.pgid != tree.sid && !known(tree.pgid) {
                groups.entry(tree.pgid).or_default().push(at);
            }
        }
        for (group, members) in groups {
            let fail = self.error(
                self.living[members[0]].index,
                "cannot make the leader of its process group",
            );
            let mut first = self.living.remove(members[0]);
            let joined = self.stand_in(&mut first, group, 0, 0).and_then(|mut leader| {
                leader.remote.call(libc::SYS_setpgid, [0; 6])?;
                let args = [0, u64::from(group), 0, 0, 0, 0];
                first.remote.call(libc::SYS_setpgid, args)?;
                for at in &members[1..] {
                    self.living[at - 1].remote.call(libc::SYS_setpgid, args)?;
                }
                self.dismiss(leader, &mut first, group)
            });
            self.living.insert(members[0], first);
            joined.map_err(&fail)?;
        }
        Ok(())
    }

    /// Makes a process of this pid that is there for a moment.
    fn stand_in(
        &mut self,
        maker: &mut Seedling,
        id: u32,
        flags: u64,
        exit_signal: i32,
    ) -> io::Result<Seedling> {
        let scratch = maker.scratch;
        let pid = tree::clone_task(maker, flags, exit_signal, id as i32)?;
        self.made.push(pid);
        tree::await_birth(pid)?;
        let space = Space::open(pid, &layout::current(pid)?)?;
        let remote = Remote::enter_new(&space, pid, scratch.at + FRAME_AT)?;
        Ok(Seedling {
            task: None,
            index: maker.index,
            pid,
            space,
            remote,
            scratch,
            parking: maker.parking,
        })
    }

    /// Ends such a process, and lets its maker wait for it.
    fn dismiss(&mut self, mut leader: Seedling, maker: &mut Seedling, id: u32) -> io::Result<()> {
        match leader.remote.call(libc::SYS_exit_group, [0; 6]) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ECHILD)) => {}
            Err(e) => return Err(e),
            Ok(_) => return Err(io::Error::other("it lives on")),
        }
        let options = libc::__WALL as u64;
        maker.remote.call(libc::SYS_wait4, [u64::from(id), 0, options, 0, 0, 0])?;
        self.made.retain(|pid| *pid != leader.pid);
        Ok(())
    }
}
