//! Stopping a process tree: every thread of every task, until nothing new appears.
//!
//! PTRACE_SEIZE and PTRACE_INTERRUPT stop a thread without a signal the program could see. A task
//! that forks meanwhile is caught by the fork events; the tree and the cgroup are looked at again
//! until a whole round finds nothing new. [`Tree`] lets everything go on when it is dropped.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cryopod_sys::ptrace;
use cryopod_sys::wait::{self, Status};

use crate::error::{DumpError, Refusal};
use crate::inject::interrupted;
use crate::proc::{stat, tasks};

/// Rounds over the tree before giving up on one that keeps forking.
const ROUNDS: u32 = 64;
/// How long a thread may take to stop.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same for one in uninterruptible sleep (state D): the tree stands still meanwhile, and the
/// caller had better let it go and come again.
const PATIENCE_ASLEEP: Duration = Duration::from_millis(50);

/// A stopped thread.
#[derive(Debug, Clone)]
pub struct Thread {
    /// Its id as the host sees it.
    pub tid: i32,
    /// The job control signal it was stopped by already, if any.
    pub group_stop: Option<i32>,
}

/// A stopped process, or a zombie.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its pid as the host sees it.
    pub pid: i32,
    /// Its parent as the host sees it; 0 for the first of the tree.
    pub ppid: i32,
    /// Its threads, the leader first; empty for a zombie.
    pub threads: Vec<Thread>,
    /// Ended and not yet reaped.
    pub zombie: bool,
}

/// A tree at rest. Dropping it lets it run on.
#[derive(Debug)]
pub struct Tree {
    /// Tasks, parents before children; the first is the tree's root.
    pub tasks: Vec<Task>,
    /// Processes of the cgroup that do not descend from the root.
    pub outsiders: Vec<Task>,
    /// When the first thread was stopped.
    pub since: Instant,
    /// Signals to be sent again when the tree runs: (pid, tid, signal).
    pub held: Vec<(i32, i32, i32)>,
    attached: HashSet<i32>,
    options: i32,
}

fn gone(err: &io::Error) -> bool {
    matches!(err.raw_os_error(), Some(libc::ESRCH | libc::ECHILD | libc::ENOENT))
}

impl Tree {
    /// Stops the tree under `root`, and whatever else is in the given cgroups.
    ///
    /// # Errors
    /// See [`DumpError`]; what was stopped runs on.
    pub fn seize(root: i32, cgroup_procs: &[PathBuf]) -> Result<Self, DumpError> {
        if stat::of(root, root).is_err() {
            return Err(DumpError::NoProcess { pid: root });
        }
        let mut tree = Self {
            tasks: Vec::new(),
            outsiders: Vec::new(),
            since: Instant::now(),
            held: Vec::new(),
            attached: HashSet::new(),
            options: ptrace::O_TRACESYSGOOD
                | ptrace::O_TRACEFORK
                | ptrace::O_TRACEVFORK
                | ptrace::O_TRACECLONE
                | ptrace::O_SUSPEND_SECCOMP,
        };
        for _ in 0..ROUNDS {
            if !tree.round(root, cgroup_procs)? {
                return Ok(tree);
            }
        }
        Err(DumpError::Restless { pid: root, rounds: ROUNDS })
    }

    /// Looks at everything once; true when something new was found and stopped.
    fn round(&mut self, root: i32, cgroup_procs: &[PathBuf]) -> Result<bool, DumpError> {
        let mut found = false;
        let mut seen = HashSet::new();
        let mut order: Vec<(i32, i32)> = vec![(root, 0)];
        let mut at = 0;
        while at < order.len() {
            let (pid, ppid) = order[at];
            at += 1;
            if !seen.insert(pid) {
                continue;
            }
            found |= self.stop_task(pid, ppid, true)?;
            match tasks::children(pid) {
                Ok(children) => order.extend(children.into_iter().map(|child| (child, pid))),
                Err(DumpError::Proc { source, .. }) if gone(&source) => {}
                Err(e) => return Err(e),
            }
        }
        for procs in cgroup_procs {
            for pid in tasks::of_cgroup(procs)? {
                if seen.insert(pid) {
                    found |= self.stop_task(pid, 0, false)?;
                }
            }
        }
        // Children that were re-parented or ended between rounds leave the list.
        let before = self.tasks.len() + self.outsiders.len();
        self.tasks.retain(|task| seen.contains(&task.pid));
        self.outsiders.retain(|task| seen.contains(&task.pid));
        let parents: HashMap<i32, i32> = order.into_iter().collect();
        for task in &mut self.tasks {
            if let Some(ppid) = parents.get(&task.pid) {
                task.ppid = *ppid;
            }
        }
        Ok(found || before != self.tasks.len() + self.outsiders.len())
    }

    /// Stops all threads of one process that are not stopped yet; true when there were any.
    fn stop_task(&mut self, pid: i32, ppid: i32, inside: bool) -> Result<bool, DumpError> {
        let mut known = {
            let list = if inside { &mut self.tasks } else { &mut self.outsiders };
            match list.iter().position(|task| task.pid == pid) {
                Some(at) => list[at].clone(),
                None => Task { pid, ppid, threads: Vec::new(), zombie: false },
            }
        };
        let mut found = false;
        match stat::of(pid, pid) {
            Ok(stat) if stat.state == b'Z' && tasks::threads(pid).is_ok_and(|t| t.len() <= 1) => {
                found = !known.zombie;
                known.zombie = true;
                known.threads.clear();
            }
            Ok(stat) if stat.state == b'Z' => {
                let comm =
                    crate::proc::status::of(pid, pid).map_or_else(|_| "?".into(), |s| s.name);
                return Err(DumpError::Refused(Refusal {
                    pid,
                    comm,
                    resource: "a thread group leader that has ended before its threads".into(),
                    way_out: "let the first thread wait for the others",
                }));
            }
            Ok(_) => loop {
                let fresh: Vec<i32> = match tasks::threads(pid) {
                    Ok(tids) => tids
                        .into_iter()
                        .filter(|tid| known.threads.iter().all(|t| t.tid != *tid))
                        .collect(),
                    Err(DumpError::Proc { source, .. }) if gone(&source) => Vec::new(),
                    Err(e) => return Err(e),
                };
                if fresh.is_empty() {
                    break;
                }
                let stopped = self.stop_threads(pid, &fresh)?;
                if stopped.is_empty() {
                    // All of them ended: the next round sees the process gone or a zombie.
                    found = true;
                    break;
                }
                found = true;
                known.threads.extend(stopped);
            },
            Err(DumpError::Proc { source, .. }) if gone(&source) => return Ok(true),
            Err(e) => return Err(e),
        }
        let list = if inside { &mut self.tasks } else { &mut self.outsiders };
        match list.iter_mut().find(|task| task.pid == pid) {
            Some(task) => *task = known,
            None => list.push(known),
        }
        Ok(found)
    }

    fn stop_threads(&mut self, pid: i32, tids: &[i32]) -> Result<Vec<Thread>, DumpError> {
        let kernel = |what, source| DumpError::Kernel { pid, what, source };
        let mut pending = Vec::new();
        for &tid in tids {
            // Caught by a fork event: seized already, and about to stop by itself.
            if self.attached.contains(&tid) {
                pending.push(tid);
                continue;
            }
            let seized = match ptrace::seize(tid, self.options) {
                Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                    // Without CAP_SYS_ADMIN, or under a filter ourselves, seccomp stays in force.
                    ptrace::seize(tid, self.options & !ptrace::O_SUSPEND_SECCOMP)
                }
                other => other,
            };
            match seized {
                Ok(()) => {}
                Err(e) if gone(&e) => continue,
                Err(e) => {
                    // A thread that is just ending is not to be seized; it leaves the list.
                    if stat::of(pid, tid).map_or(true, |s| matches!(s.state, b'Z' | b'X')) {
                        continue;
                    }
                    return Err(kernel("cannot be traced (is a debugger attached?)", e));
                }
            }
            self.attached.insert(tid);
            match ptrace::interrupt(tid) {
                Ok(()) => pending.push(tid),
                Err(e) if gone(&e) => {}
                Err(e) => return Err(kernel("cannot be interrupted", e)),
            }
        }
        let mut stopped = Vec::new();
        for tid in pending {
            if let Some(group_stop) = self.await_stop(pid, tid)? {
                stopped.push(Thread { tid, group_stop });
            }
        }
        Ok(stopped)
    }

    /// The next report of a thread; `None` when there is none within [`PATIENCE`]: a thread in
    /// uninterruptible sleep, such as the parent of a vfork(2) whose child is stopped.
    fn wait_stop(&self, tid: i32) -> io::Result<Option<Status>> {
        let begin = Instant::now();
        let mut pause = Duration::ZERO;
        loop {
            if let Some(status) = wait::poll_for(tid)? {
                return Ok(Some(status));
            }
            let waited = begin.elapsed();
            let asleep = || stat::of(tid, tid).is_ok_and(|s| s.state == b'D');
            if waited > PATIENCE || (waited > PATIENCE_ASLEEP && asleep()) {
                return Ok(None);
            }
            if pause.is_zero() {
                std::thread::yield_now();
                if begin.elapsed() > Duration::from_micros(200) {
                    pause = Duration::from_micros(20);
                }
            } else {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(5));
            }
        }
    }

    /// Waits until a seized thread rests in PTRACE_EVENT_STOP; `None` when it ended instead.
    fn await_stop(&mut self, pid: i32, tid: i32) -> Result<Option<Option<i32>>, DumpError> {
        let kernel = |what, source| DumpError::Kernel { pid, what, source };
        loop {
            let status = match self.wait_stop(tid) {
                Ok(Some(status)) => status,
                Ok(None) => return Err(DumpError::Stuck { pid, tid }),
                Err(e) if gone(&e) => return Ok(None),
                Err(e) => return Err(kernel("cannot be waited for", e)),
            };
            let resumed = match status {
                Status::Event { event: wait::EVENT_STOP, signal } => {
                    let group = (signal != libc::SIGTRAP).then_some(signal);
                    return Ok(Some(group));
                }
                Status::Event { event, .. } => {
                    if matches!(event, wait::EVENT_FORK | wait::EVENT_VFORK | wait::EVENT_CLONE) {
                        let child = ptrace::event_message(tid)
                            .map_err(|e| kernel("lost the child of a fork", e))?;
                        if event == wait::EVENT_VFORK {
                            self.let_run(child as i32);
                        } else {
                            self.attached.insert(child as i32);
                        }
                    }
                    ptrace::resume(tid, 0)
                }
                // It takes the signal first, as it would have, and stops right after.
                Status::Signal(signal) => ptrace::resume(tid, signal),
                Status::Syscall => ptrace::resume(tid, 0),
                Status::Exited(_) | Status::Killed(_) => {
                    self.attached.remove(&tid);
                    return Ok(None);
                }
                Status::Continued => Ok(()),
            };
            match resumed {
                Ok(()) => {}
                Err(e) if gone(&e) => {}
                Err(e) => return Err(kernel("cannot be resumed", e)),
            }
        }
    }

    /// Lets the child of a vfork(2) go, which was caught at its birth: its parent does not stop before
    /// the child has another program. A later round finds it.
    fn let_run(&self, child: i32) {
        if matches!(self.wait_stop(child), Ok(Some(_))) {
            let _ = ptrace::detach(child, 0);
        }
    }

    /// Kills every task of the tree (not the outsiders) and lets go of all.
    pub fn kill(mut self) {
        for task in self.tasks.iter().filter(|t| !t.zombie) {
            let _ = cryopod_sys::process::kill(task.pid, libc::SIGKILL);
        }
        self.release();
    }

    /// Lets everything run on; the time it stood still.
    pub fn thaw(mut self) -> Duration {
        self.release();
        self.since.elapsed()
    }

    fn release(&mut self) {
        for tid in std::mem::take(&mut self.attached) {
            // One that was not asked for anything is still as the stop left it.
            if let Ok(found) = ptrace::registers(tid) {
                let mut regs = found;
                interrupted::undisturb(&mut regs);
                if regs.rax != found.rax {
                    let _ = ptrace::set_registers(tid, &regs);
                }
            }
            match ptrace::detach(tid, 0) {
                Ok(()) => {}
                // Seized and not stopped (an error came in between): stop it, then let go.
                Err(_) => {
                    let ended = stat::of(tid, tid).map_or(true, |s| matches!(s.state, b'Z' | b'X'));
                    if ended {
                        let _ = wait::poll_for(tid);
                    } else if ptrace::interrupt(tid).is_ok()
                        && matches!(self.wait_stop(tid), Ok(Some(_)))
                    {
                        let _ = ptrace::detach(tid, 0);
                    }
                }
            }
        }
        for (pid, tid, signal) in std::mem::take(&mut self.held) {
            let _ = cryopod_sys::process::tgkill(pid, tid, signal);
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.release();
    }
}
