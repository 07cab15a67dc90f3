//! The tree of processes: forked from bare tasks, with archived pids, sessions and groups.
//!
//! A child inherits its parent's session, so those that stayed in an older session than their
//! parent's own are forked before the parent calls setsid(2).

use std::io;

use cryopod_sys::wait::{self, Status};
use cryopod_sys::{process, ptrace, spawn};

use super::load::{Images, TaskImages, ZOMBIE};
use super::{RestoreRoot, kill_all, layout};
use crate::error::RestoreError;
use crate::inject::calls::Scratch;
use crate::inject::site::Site;
use crate::inject::{Remote, Space};

/// Engine memory in each task: arguments below, one frame above.
const SCRATCH: u64 = 128 * 1024;
/// Where in it the frame begins.
pub(crate) const FRAME_AT: u64 = 96 * 1024;

const OPTIONS: i32 = ptrace::O_TRACESYSGOOD
    | ptrace::O_TRACEFORK
    | ptrace::O_TRACEVFORK
    | ptrace::O_TRACECLONE
    | ptrace::O_SUSPEND_SECCOMP
    | ptrace::O_EXITKILL;

/// A task that exists and is bare: the engine's memory, no state of its own yet.
#[derive(Debug)]
pub(crate) struct Seedling {
    /// Its place in the images.
    pub(crate) index: usize,
    /// The same, but for a process that only stands in for one that has ended.
    pub(crate) task: Option<usize>,
    /// Host pid.
    pub(crate) pid: i32,
    pub(crate) space: Space,
    pub(crate) remote: Remote,
    pub(crate) scratch: Scratch,
    /// Where the kernel's pages are parked during the move.
    pub(crate) parking: u64,
}

/// All tasks while they are made.
#[derive(Debug)]
pub(crate) struct Forest<'a> {
    pub(super) images: &'a Images,
    /// Host pids of everything made, for the case of failure.
    pub(super) made: Vec<i32>,
    pub(super) living: Vec<Seedling>,
}

impl<'a> Forest<'a> {
    pub(crate) fn new(images: &'a Images) -> Self {
        Self { images, made: Vec::new(), living: Vec::new() }
    }

    pub(crate) fn root_pid(&self) -> Result<i32, RestoreError> {
        self.made.first().copied().ok_or(RestoreError::Vanished { pid: 0 })
    }

    pub(crate) fn take_living(&mut self) -> Vec<Seedling> {
        std::mem::take(&mut self.living)
    }

    /// Ends everything that was made.
    pub(crate) fn kill(&mut self) {
        kill_all(&std::mem::take(&mut self.made));
        self.living.clear();
    }

    pub(super) fn error(
        &self,
        index: usize,
        what: &str,
    ) -> impl Fn(io::Error) -> RestoreError + use<> {
        let pid = self.images.tasks[index].pid();
        let what = what.to_owned();
        move |source| match source.raw_os_error() {
            Some(libc::ESRCH) => RestoreError::Vanished { pid },
            _ => RestoreError::Kernel { pid, what: what.clone(), source },
        }
    }

    /// Makes all tasks of the tree.
    pub(crate) fn plant(&mut self, root: RestoreRoot) -> Result<(), RestoreError> {
        let fail = self.error(0, "cannot make the first process");
        let pid = match root {
            RestoreRoot::Stopped(pid) => pid,
            RestoreRoot::Spawn => {
                let wanted = [self.images.tasks[0].pid()];
                spawn::spawn_sleeper(&wanted).map_err(|e| {
                    if e.raw_os_error() == Some(libc::EEXIST) {
                        RestoreError::Refused {
                            pid: wanted[0],
                            what: "its pid is taken".into(),
                            way_out: "restore it in a pid namespace of its own",
                        }
                    } else {
                        fail(e)
                    }
                })?
            }
        };
        self.made.push(pid);
        ptrace::seize(pid, OPTIONS).map_err(&fail)?;
        ptrace::interrupt(pid).map_err(&fail)?;
        await_birth(pid).map_err(&fail)?;
        if matches!(root, RestoreRoot::Stopped(_)) {
            // Ends the job control stop, so that it is not stopped again at the release.
            process::kill(pid, libc::SIGCONT).map_err(&fail)?;
        }
        let seedling = self.first(pid).map_err(&fail)?;
        self.grow(seedling)?;
        self.group()?;
        self.join_lost_groups()
    }

    /// Prepares the first task: engine memory at a place that is free in every archived layout.
    fn first(&self, pid: i32) -> io::Result<Seedling> {
        let now = layout::current(pid)?;
        let then: Vec<_> = self
            .images
            .tasks
            .iter()
            .filter_map(|t| t.body.as_ref())
            .flat_map(|b| b.mm.vmas.iter().cloned())
            .collect();
        let parking = layout::parking_len(&now);
        let at = layout::hole(&now, &then, SCRATCH + parking)
            .ok_or_else(|| io::Error::other("no room for the engine in the address space"))?;
        let xstate = ptrace::xstate(pid)?.len();
        let sp = ptrace::registers(pid)?.rsp;
        let space = Space::open(pid, &now)?;
        // Not given back: this stack is unmapped with all the rest.
        let site = Site::take(&space, &now, &[sp], xstate)?;
        let mut remote = Remote::enter_new(&space, pid, site.first)?;
        remote.mmap(
            at,
            SCRATCH,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )?;
        remote.use_frame(at + FRAME_AT);
        // From here on it ends with its tracer; its parent's end is not the program's concern.
        remote.prctl(libc::PR_SET_PDEATHSIG, [0; 4])?;
        let scratch = Scratch { at, len: SCRATCH };
        Ok(Seedling { task: Some(0), index: 0, pid, space, remote, scratch, parking: at + SCRATCH })
    }

    /// Forks the children of a task, and theirs.
    fn grow(&mut self, mut parent: Seedling) -> Result<(), RestoreError> {
        let tree = &self.images.tasks[parent.index].tree;
        let (own, session) = (tree.pid, tree.sid);
        let children: Vec<usize> = (0..self.images.tasks.len())
            .filter(|i| *i != 0 && self.images.tasks[*i].tree.ppid == own)
            .collect();
        let (foreign, children): (Vec<usize>, Vec<usize>) =
            children.into_iter().partition(|index| self.is_foreign(*index));
        let leads = session == own;
        let (after, before): (Vec<usize>, Vec<usize>) = children.into_iter().partition(|i| {
            let child = &self.images.tasks[*i].tree;
            !leads || child.sid == session || child.sid == child.pid
        });
        let place = parent.index;
        for index in before {
            self.fork(&mut parent, place, index)?;
        }
        if leads {
            let fail = self.error(parent.index, "cannot begin its session");
            parent.remote.call(libc::SYS_setsid, [0; 6]).map_err(&fail)?;
        }
        for index in after {
            self.fork(&mut parent, place, index)?;
        }
        self.adopt(&mut parent, &foreign)?;
        self.living.push(parent);
        Ok(())
    }

    /// Makes task `index`, a child of task `parent`, by a clone(2) in `maker`: the parent itself, or
    /// another child of it.
    pub(super) fn fork(
        &mut self,
        maker: &mut Seedling,
        parent: usize,
        index: usize,
    ) -> Result<(), RestoreError> {
        let own = maker.task == Some(parent);
        let task = &self.images.tasks[index];
        let fail = self.error(index, "cannot be made");
        let scratch = maker.scratch;
        let mut flags = shared(&self.images.tasks[parent], task);
        let mut signal = task.exit_signal();
        if !own {
            // The signal is the maker's then.
            (flags, signal) = (flags | libc::CLONE_PARENT as u64, 0);
        }
        let pid = clone_task(maker, flags, signal, task.pid()).map_err(&fail)?;
        self.made.push(pid);
        await_birth(pid).map_err(&fail)?;
        let now = layout::current(pid).map_err(&fail)?;
        let space = Space::open(pid, &now).map_err(&fail)?;
        let remote = Remote::enter_new(&space, pid, scratch.at + FRAME_AT).map_err(&fail)?;
        let child = Seedling {
            task: Some(index),
            index,
            pid,
            space,
            remote,
            scratch,
            parking: maker.parking,
        };
        if task.process()?.task_state == ZOMBIE {
            return self.wither(child);
        }
        self.grow(child)
    }

    /// Ends a task as the archived one ended; it stays a zombie until its parent waits.
    fn wither(&mut self, mut child: Seedling) -> Result<(), RestoreError> {
        let task = &self.images.tasks[child.index];
        let fail = self.error(child.index, "cannot be made a zombie");
        let tree = &task.tree;
        if tree.sid == tree.pid {
            child.remote.call(libc::SYS_setsid, [0; 6]).map_err(&fail)?;
        } else if tree.pgid == tree.pid {
            child.remote.call(libc::SYS_setpgid, [0; 6]).map_err(&fail)?;
        }
        let name: Vec<u8> = task.process()?.comm.iter().copied().chain([0]).collect();
        child
            .remote
            .call_in(
                &child.space,
                child.scratch,
                libc::SYS_prctl,
                [libc::PR_SET_NAME as u64, 0, 0, 0, 0, 0],
                1,
                &name,
            )
            .map_err(&fail)?;
        let code = task.process()?.exit_code as i32;
        let signal = code & 0x7f;
        let end = if signal == 0 {
            let status = u64::from((code >> 8) as u8);
            child.remote.call(libc::SYS_exit_group, [status, 0, 0, 0, 0, 0])
        } else {
            let killed = die_of(&mut child, signal);
            killed.map_err(&fail)?;
            child.remote.call(libc::SYS_getpid, [0; 6])
        };
        // Success is its end: the tracer is told, and the zombie waits for its real parent.
        match end {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ECHILD)) => Ok(()),
            Err(e) => Err(fail(e)),
            Ok(_) => Err(fail(io::Error::other("it lives on"))),
        }
    }

    /// Puts the tasks into their process groups: leaders first.
    fn group(&mut self) -> Result<(), RestoreError> {
        let pids: Vec<u32> = self.images.tasks.iter().map(|t| t.tree.pid).collect();
        for leaders in [true, false] {
            for at in 0..self.living.len() {
                let index = self.living[at].index;
                let tree = &self.images.tasks[index].tree;
                let leads = tree.pgid == tree.pid;
                // A session leader leads its group already; a group outside the tree is the
                // caller's, which the task is in.
                if leads != leaders || tree.sid == tree.pid || !pids.contains(&tree.pgid) {
                    continue;
                }
                let fail = self.error(index, "cannot join its process group");
                let group = u64::from(tree.pgid);
                self.living[at]
                    .remote
                    .call(libc::SYS_setpgid, [0, group, 0, 0, 0, 0])
                    .map_err(&fail)?;
            }
        }
        Ok(())
    }
}

/// Lets a task make a process of this pid; its host pid.
pub(super) fn clone_task(
    maker: &mut Seedling,
    flags: u64,
    exit_signal: i32,
    pid: i32,
) -> io::Result<i32> {
    let scratch = maker.scratch;
    clone_args(&maker.space, scratch, flags, exit_signal, pid)?;
    maker.remote.call(libc::SYS_clone3, [scratch.at, CLONE_ARGS_LEN, 0, 0, 0, 0])?;
    maker.remote.take_born().ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// What a task shares with its parent, as flags of clone(2).
fn shared(parent: &TaskImages, child: &TaskImages) -> u64 {
    let (Some(parent), Some(child)) = (&parent.body, &child.body) else { return 0 };
    let mut flags = 0;
    if parent.ids.files_id == child.ids.files_id {
        flags |= libc::CLONE_FILES as u64;
    }
    if parent.ids.fs_id == child.ids.fs_id {
        flags |= libc::CLONE_FS as u64;
    }
    flags
}

/// Sends the task a signal that ends it, with its default action and no core file.
fn die_of(child: &mut Seedling, signal: i32) -> io::Result<()> {
    let none = [0u8; 16];
    child.remote.call_in(
        &child.space,
        child.scratch,
        libc::SYS_prlimit64,
        [0, libc::RLIMIT_CORE.into(), 0, 0, 0, 0],
        2,
        &none,
    )?;
    if signal != libc::SIGKILL {
        child.remote.call_in(
            &child.space,
            child.scratch,
            libc::SYS_rt_sigaction,
            [signal as u64, 0, 0, 8, 0, 0],
            1,
            &[0u8; 32],
        )?;
        ptrace::set_signal_mask(child.pid, !(1u64 << (signal - 1)))?;
        child.remote.deliver(signal);
        return Ok(());
    }
    process::kill(child.pid, signal)
}

/// Length of `struct clone_args` with set_tid.
pub(crate) const CLONE_ARGS_LEN: u64 = 80;

/// Writes `struct clone_args` to the start of the scratch memory.
pub(crate) fn clone_args(
    space: &Space,
    scratch: Scratch,
    flags: u64,
    exit_signal: i32,
    pid: i32,
) -> io::Result<()> {
    let set_tid = scratch.at + 128;
    let mut args = Vec::with_capacity(132);
    // flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, its size.
    for word in [flags, 0, 0, 0, exit_signal as u64, 0, 0, 0, set_tid, 1] {
        args.extend(word.to_le_bytes());
    }
    args.resize(128, 0);
    args.extend(pid.to_le_bytes());
    space.write(scratch.at, &args)
}

/// Waits until a new tracee rests in PTRACE_EVENT_STOP.
pub(crate) fn await_birth(tid: i32) -> io::Result<()> {
    loop {
        match wait::wait_for(tid)? {
            Status::Event { event: wait::EVENT_STOP, .. } => return Ok(()),
            Status::Exited(_) | Status::Killed(_) => {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Status::Signal(_) | Status::Syscall | Status::Event { .. } => ptrace::resume(tid, 0)?,
            Status::Continued => {}
        }
    }
}
