//! Rebuilding one process: address space, descriptors, threads, and what each thread has.

use std::io;
use std::os::fd::AsFd;

use cryopod_images::{Image, msg, vma};
use cryopod_sys::ptrace::{self, Registers};
use cryopod_sys::{missing, process};

use super::Context;
use super::layout;
use super::load::{Body, STOPPED, TaskImages};
use super::stop;
use super::transport::Transport;
use super::tree::{CLONE_ARGS_LEN, FRAME_AT, Seedling, await_birth, clone_args};
use crate::error::RestoreError;
use crate::files::{events, locks};
use crate::inject::calls::Scratch;
use crate::inject::{Remote, Space};
use crate::lazy::{self, Early, Filler};
use crate::{credentials, registers, scheduling, seccomp, signals, timers, waits};

const PR_SET_CHILD_SUBREAPER: i32 = 36;
const PR_SET_THP_DISABLE: i32 = 41;
const RSEQ_UNREGISTER: u64 = 1;
const CLOSE_ALL: u64 = u32::MAX as u64;
/// MEMBARRIER_CMD_REGISTER_*: each is the bit above its command's.
const MEMBARRIER_REGISTER: [u64; 4] = [1 << 2, 1 << 4, 1 << 6, 1 << 8];

/// One process under construction.
struct Site<'c, 'i> {
    context: &'c mut Context<'i>,
    image: &'i TaskImages,
    body: &'i Body,
    space: Space,
    remote: Remote,
    scratch: Scratch,
    host: i32,
}

/// Rebuilds a process up to its last instruction before release; host tids of its threads.
pub(crate) fn rebuild<'i>(
    context: &mut Context<'i>,
    image: &'i TaskImages,
    seedling: Seedling,
) -> Result<Vec<i32>, RestoreError> {
    let body = image.body.as_ref().ok_or_else(|| RestoreError::Missing {
        name: Image::Mm.file_name(image.tree.pid.into()),
    })?;
    let Seedling { pid, space, remote, scratch, parking, .. } = seedling;
    let mut site = Site { context, image, body, space, remote, scratch, host: pid };
    let transport = site.detach()?;
    site.address_space(&transport, parking)?;
    site.descriptors(&transport)?;
    site.directories(&transport)?;
    let close = site.fail("cannot finish its descriptors");
    site.remote.close(transport.theirs).map_err(close)?;
    site.locks()?;
    site.attributes()?;
    let threads = site.threads()?;
    site.complete(threads)
}

impl Site<'_, '_> {
    fn fail(&self, what: &str) -> impl Fn(io::Error) -> RestoreError + use<> {
        let pid = self.image.pid();
        let what = what.to_owned();
        move |source| match source.raw_os_error() {
            Some(libc::ESRCH) => RestoreError::Vanished { pid },
            _ => RestoreError::Kernel { pid, what: what.clone(), source },
        }
    }

    fn image_error(&self, tid: i32, what: String) -> RestoreError {
        RestoreError::Image { name: Image::Core.file_name(tid as u64), what }
    }

    /// Lets go of what the task inherited from the engine, but for its memory.
    fn detach(&mut self) -> Result<Transport, RestoreError> {
        let fail = self.fail("cannot be freed of what it inherited");
        let rseq = ptrace::rseq(self.host).map_err(&fail)?;
        if rseq.address != 0 {
            let len = u64::from(rseq.size.max(32));
            let sig = u64::from(rseq.signature);
            self.remote
                .call(libc::SYS_rseq, [rseq.address, len, RSEQ_UNREGISTER, sig, 0, 0])
                .map_err(&fail)?;
        }
        self.remote.call(libc::SYS_set_robust_list, [0, 24, 0, 0, 0, 0]).map_err(&fail)?;
        self.remote.call(libc::SYS_set_tid_address, [0; 6]).map_err(&fail)?;
        let table = self.context.images.tables.get(&self.body.ids.files_id);
        let highest = table.into_iter().flatten().map(|e| e.fd).max().unwrap_or(2);
        let at = highest as i32 + 1;
        let transport =
            Transport::open(&mut self.remote, &self.space, self.scratch, at).map_err(&fail)?;
        if self.context.tables.contains(&self.body.ids.files_id) {
            return Ok(transport);
        }
        let at = at as u64;
        self.remote.call(libc::SYS_close_range, [0, at - 1, 0, 0, 0, 0]).map_err(&fail)?;
        self.remote.call(libc::SYS_close_range, [at + 1, CLOSE_ALL, 0, 0, 0, 0]).map_err(&fail)?;
        Ok(transport)
    }

    fn address_space(&mut self, transport: &Transport, parking: u64) -> Result<(), RestoreError> {
        let fail = self.fail("cannot rebuild its memory");
        let now = layout::current(self.host).map_err(&fail)?;
        let (body, scratch) = (self.body, self.scratch);
        layout::clear(&mut self.remote, &now, scratch).map_err(&fail)?;
        layout::move_kernel_pages(body, &mut self.remote, &mut self.space, &now, parking).map_err(
            |source| match source.kind() {
                io::ErrorKind::InvalidData => RestoreError::Refused {
                    pid: self.image.pid(),
                    what: source.to_string(),
                    way_out: "restore it on a machine with the kernel of the checkpoint",
                },
                _ => fail(source),
            },
        )?;
        // What `map` asks for: a descriptor in the task. A typed refusal of a file is kept aside,
        // since the caller of back only knows errors of the kernel.
        let mut refused = None;
        let (context, host) = (&mut *self.context, self.host);
        let mapped =
            layout::map(body, &mut self.remote, &self.space, &mut |area, remote, space| {
                let id = area.shmid as u32;
                let kind = area.status & (vma::ANON_SHARED | vma::MEMFD | vma::SYSVIPC);
                if kind == vma::ANON_SHARED {
                    let file = context.segment(id, host, remote)?;
                    return Ok((transport.send(file, remote, space, scratch)?, area.pgoff));
                }
                context.make_anonymous(area, host, remote)?;
                let file = match context.mapped(area) {
                    Ok(file) => file,
                    Err(e) => {
                        refused = Some(e);
                        return Err(io::Error::other("refused"));
                    }
                };
                Ok((transport.send(file.as_fd(), remote, space, scratch)?, area.pgoff))
            });
        if let Some(e) = refused {
            return Err(e);
        }
        mapped.map_err(&fail)?;
        let late = self.come_late()?;
        layout::fill(body, &late, &mut self.remote, &self.space, scratch, transport)
            .map_err(&fail)?;
        layout::finish(body, &mut self.remote).map_err(&fail)?;
        layout::install_guards(body, &mut self.remote).map_err(&fail)?;
        self.context.images.path(body.mm.exe_file_id)?;
        let exe = self.context.file(body.mm.exe_file_id)?;
        let exe = transport.send(exe, &mut self.remote, &self.space, scratch).map_err(&fail)?;
        layout::set_bounds(&body.mm, exe, &mut self.remote, &self.space, scratch)
            .map_err(self.fail("cannot set the bounds of its memory"))?;
        self.remote.close(exe).map_err(&fail)
    }

    /// Registers the areas whose pages come late, if they may; their ranges.
    fn come_late(&mut self) -> Result<Vec<(u64, u64)>, RestoreError> {
        let pid = self.image.pid();
        let Some(lazy) = self.context.options.lazy else { return Ok(Vec::new()) };
        let late = lazy::ranges(&self.body.mm.vmas, &self.body.memory, lazy);
        if late.is_empty() {
            return Ok(late);
        }
        let fail = self.fail("cannot have its memory filled while it runs");
        let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
        let made = match self.remote.call(libc::SYS_userfaultfd, [flags, 0, 0, 0, 0, 0]) {
            Ok(made) => made as i32,
            Err(error) => {
                let why = format!("process {pid} is filled at once: no userfaultfd: {error}");
                self.context.notes.push(why);
                return Ok(Vec::new());
            }
        };
        let pidfd = process::pidfd_open(self.host).map_err(&fail)?;
        let uffd = process::pidfd_getfd(pidfd.as_fd(), made).map_err(&fail)?;
        self.remote.close(made).map_err(&fail)?;
        if let Err(error) = missing::agree(uffd.as_fd()) {
            let why = format!("process {pid} is filled at once: the kernel does not tell: {error}");
            self.context.notes.push(why);
            return Ok(Vec::new());
        }
        for (start, end) in &late {
            missing::register(uffd.as_fd(), *start, *end).map_err(&fail)?;
        }
        let memory = std::sync::Arc::clone(&self.body.memory);
        let early = match self.context.early.take() {
            Some(early) => early,
            None => Filler::new(lazy).and_then(Early::start).map_err(&fail)?,
        };
        early.add(uffd, pid, &late, memory);
        self.context.early = Some(early);
        Ok(late)
    }

    fn descriptors(&mut self, transport: &Transport) -> Result<(), RestoreError> {
        let fail = self.fail("cannot take a descriptor");
        let images = self.context.images;
        let table = images.tables.get(&self.body.ids.files_id);
        if !self.context.tables.insert(self.body.ids.files_id) {
            return Ok(());
        }
        for entry in table.into_iter().flatten() {
            let file = self.context.file(entry.id)?;
            let got =
                transport.send(file, &mut self.remote, &self.space, self.scratch).map_err(&fail)?;
            let want = entry.fd as i32;
            let cloexec = entry.flags & 1 != 0;
            if got == want {
                if !cloexec {
                    self.remote
                        .call(libc::SYS_fcntl, [want as u64, libc::F_SETFD as u64, 0, 0, 0, 0])
                        .map_err(&fail)?;
                }
            } else {
                let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
                self.remote.dup(got, want, flags).map_err(&fail)?;
                self.remote.close(got).map_err(&fail)?;
            }
        }
        for entry in table.into_iter().flatten() {
            self.announce(entry)?;
        }
        for entry in table.into_iter().flatten() {
            let epoll = images.files.get(&entry.id).and_then(|f| f.epfd.as_ref());
            // By the task whose numbers they are, where that is known.
            let ours = |pid: i32| {
                let task = images.tasks.iter().find(|t| t.pid() == pid);
                let body = task.and_then(|t| t.body.as_ref());
                body.is_some_and(|b| b.ids.files_id == self.body.ids.files_id)
            };
            if let Some(epoll) = epoll
                && epoll.pid.is_none_or(ours)
                && self.context.filled.insert(entry.id)
            {
                events::fill_epoll(epoll, entry.fd, &mut self.remote, &self.space, self.scratch)
                    .map_err(self.fail("cannot fill an epoll instance"))?;
            }
        }
        Ok(())
    }

    /// Lets a file with O_ASYNC announce itself: its signal names the descriptor that this was asked
    /// for with.
    fn announce(&mut self, entry: &msg::FdinfoEntry) -> Result<(), RestoreError> {
        let fail = self.fail("cannot let a file announce itself");
        let file = self.context.file(entry.id)?;
        let flags = rustix::fs::fcntl_getfl(file).map_err(|e| fail(e.into()))?.bits();
        let on = libc::O_ASYNC as u32;
        if flags & on == 0 || !self.context.announced.insert(entry.id) {
            return Ok(());
        }
        for flags in [flags & !on, flags] {
            let args = [entry.fd.into(), libc::F_SETFL as u64, flags.into(), 0, 0, 0];
            self.remote.call(libc::SYS_fcntl, args).map_err(&fail)?;
        }
        Ok(())
    }

    fn directories(&mut self, transport: &Transport) -> Result<(), RestoreError> {
        let fail = self.fail("cannot enter its working directory");
        let fs = &self.body.fs;
        let root = self.context.images.path(fs.root_id)?;
        if root.name != b"/" {
            let dir = self.context.file(fs.root_id)?;
            let fd =
                transport.send(dir, &mut self.remote, &self.space, self.scratch).map_err(&fail)?;
            self.remote.call(libc::SYS_fchdir, [fd as u64, 0, 0, 0, 0, 0]).map_err(&fail)?;
            self.remote
                .call_in(&self.space, self.scratch, libc::SYS_chroot, [0; 6], 0, b".\0")
                .map_err(&fail)?;
            self.remote.close(fd).map_err(&fail)?;
        }
        let dir = self.context.file(fs.cwd_id)?;
        let fd = transport.send(dir, &mut self.remote, &self.space, self.scratch).map_err(&fail)?;
        self.remote.call(libc::SYS_fchdir, [fd as u64, 0, 0, 0, 0, 0]).map_err(&fail)?;
        self.remote.close(fd).map_err(&fail)?;
        if let Some(umask) = fs.umask {
            self.remote.call(libc::SYS_umask, [u64::from(umask), 0, 0, 0, 0, 0]).map_err(&fail)?;
        }
        Ok(())
    }

    /// Takes the file locks of its descriptor table, unless another task that shares the table is
    /// still to come: what it closes would let go of them.
    fn locks(&mut self) -> Result<(), RestoreError> {
        let images = self.context.images;
        let table = self.body.ids.files_id;
        let shares =
            |task: &TaskImages| task.body.as_ref().is_some_and(|b| b.ids.files_id == table);
        if self.context.waiting.iter().any(|index| shares(&images.tasks[*index])) {
            return Ok(());
        }
        let pids: Vec<i32> =
            images.tasks.iter().filter(|t| shares(t)).map(TaskImages::pid).collect();
        for lock in images.locks.iter().filter(|lock| pids.contains(&lock.pid)) {
            locks::restore(lock, &mut self.remote, &self.space, self.scratch)?;
        }
        Ok(())
    }

    /// What belongs to the process as a whole.
    fn attributes(&mut self) -> Result<(), RestoreError> {
        let fail = self.fail("cannot set its attributes");
        let core = self.image.process()?;
        self.limits(core)?;
        if let Some(adj) = core.oom_score_adj {
            self.oom_score(adj)?;
        }
        if let Some(filter) = self.body.mm.coredump_filter {
            let path = format!("/proc/{}/coredump_filter", self.host);
            match std::fs::write(path, filter.to_string()) {
                // A kernel without core dumps.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(&fail)?,
            }
        }
        let remote = &mut self.remote;
        if core.personality != 0 {
            let persona = u64::from(core.personality);
            remote.call(libc::SYS_personality, [persona, 0, 0, 0, 0, 0]).map_err(&fail)?;
        }
        if core.child_subreaper == Some(true) {
            remote.prctl(PR_SET_CHILD_SUBREAPER, [1, 0, 0, 0]).map_err(&fail)?;
        }
        if self.body.mm.thp_disabled == Some(true) {
            remote.prctl(PR_SET_THP_DISABLE, [1, 0, 0, 0]).map_err(&fail)?;
        }
        let registered = core.membarrier_registration_mask.unwrap_or(0);
        for command in MEMBARRIER_REGISTER {
            // GET_REGISTRATIONS answers with the bits of the registering commands.
            if u64::from(registered) & command != 0 {
                remote.call(libc::SYS_membarrier, [command, 0, 0, 0, 0, 0]).map_err(&fail)?;
            }
        }
        for child in &core.stops_heard {
            match stop::hear(*child, remote) {
                Err(e) if e.raw_os_error() != Some(libc::ECHILD) => return Err(fail(e)),
                _ => {}
            }
        }
        // Ignoring a signal throws away what is pending: the engine's own SIGCONT, and SIGCHLD of
        // the zombies and stopped children that were just made.
        for signal in [libc::SIGCONT, libc::SIGCHLD] {
            let mut ignore = [0u8; 32];
            ignore[0] = 1;
            remote
                .call_in(
                    &self.space,
                    self.scratch,
                    libc::SYS_rt_sigaction,
                    [signal as u64, 0, 0, 8, 0, 0],
                    1,
                    &ignore,
                )
                .map_err(&fail)?;
        }
        signals::restore_actions(&core.sigactions, remote, &self.space, self.scratch).map_err(&fail)
    }

    fn limits(&mut self, core: &msg::TaskCoreEntry) -> Result<(), RestoreError> {
        let pid = self.image.pid();
        let fail = self.fail("cannot set a resource limit");
        let now = crate::proc::limits::of(self.host).map_err(|e| fail(io::Error::other(e)))?;
        let wanted = core.rlimits.as_ref().map_or(&[][..], |l| &l.rlimits);
        for (resource, (limit, (_, hard))) in wanted.iter().zip(now).enumerate() {
            let mut bytes = [limit.cur, limit.max];
            if limit.max > hard {
                if !self.context.options.clamp {
                    let allowed = self.set_limit(resource, bytes);
                    if allowed.is_ok() {
                        continue;
                    }
                    return Err(RestoreError::Refused {
                        pid,
                        what: format!(
                            "resource limit {resource} was {}, here it is {hard}",
                            limit.max
                        ),
                        way_out: "restore with the right to raise limits, or with clamping",
                    });
                }
                bytes = [limit.cur.min(hard), hard];
            }
            self.set_limit(resource, bytes).map_err(&fail)?;
        }
        Ok(())
    }

    fn set_limit(&mut self, resource: usize, values: [u64; 2]) -> io::Result<()> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.remote
            .call_in(
                &self.space,
                self.scratch,
                libc::SYS_prlimit64,
                [0, resource as u64, 0, 0, 0, 0],
                2,
                &bytes,
            )
            .map(drop)
    }

    fn oom_score(&self, wanted: i32) -> Result<(), RestoreError> {
        let path = format!("/proc/{}/oom_score_adj", self.host);
        match std::fs::write(&path, wanted.to_string()) {
            Ok(()) => Ok(()),
            Err(_) if self.context.options.clamp => Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EACCES) => Err(RestoreError::Refused {
                pid: self.image.pid(),
                what: format!("its oom_score_adj was {wanted}, which may not be lowered here"),
                way_out: "restore with CAP_SYS_RESOURCE, or with clamping",
            }),
            Err(e) => Err(self.fail("cannot set oom_score_adj")(e)),
        }
    }

    /// Makes the other threads and gives each its state; host tids in the images' order.
    fn threads(&mut self) -> Result<Vec<i32>, RestoreError> {
        let fail = self.fail("cannot make a thread");
        let image = self.image;
        let flags = (libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM) as u64;
        let mut tids = vec![self.host];
        for (tid, _) in &image.cores[1..] {
            clone_args(&self.space, self.scratch, flags, 0, *tid).map_err(&fail)?;
            let args = [self.scratch.at, CLONE_ARGS_LEN, 0, 0, 0, 0];
            self.remote.call(libc::SYS_clone3, args).map_err(&fail)?;
            let host = self.remote.take_born().ok_or(RestoreError::Vanished { pid: *tid })?;
            await_birth(host).map_err(&fail)?;
            tids.push(host);
        }
        Ok(tids)
    }

    /// The last steps: thread by thread, the leader at the end.
    fn complete(mut self, tids: Vec<i32>) -> Result<Vec<i32>, RestoreError> {
        let fail = self.fail("cannot complete it");
        let image = self.image;
        let core = image.process()?;
        let filters = &self.context.images.filters;
        let (scratch, pid) = (self.scratch, image.pid());
        let timers = core.timers.as_ref();
        if let Some(t) = timers {
            timers::create(t, &mut self.remote, &self.space, scratch)
                .map_err(self.fail("cannot make its timers"))?;
        }
        if let Some(queue) = &core.signals_s {
            let queue = &timers::without_own(queue, core.timers.as_ref());
            signals::restore_pending(queue, (pid, None), &mut self.remote, &self.space, scratch)
                .map_err(&fail)?;
        }
        for ((tid, core), host) in image.cores.iter().zip(&tids).skip(1) {
            let mut remote =
                Remote::enter_new(&self.space, *host, scratch.at + FRAME_AT).map_err(&fail)?;
            thread_state((core, timers), (pid, *tid), filters, &mut remote, &self.space, scratch)
                .map_err(self.fail("cannot give a thread its state"))?;
            let answer = wait_again(image, *tid, core, (&mut remote, &self.space, scratch))?;
            remote.abandon().map_err(&fail)?;
            self.set_processor(*tid, *host, core, answer)?;
        }
        let leader = &image.cores[0].1;
        if let Some(t) = &core.timers {
            let own =
                image.cores.iter().filter_map(|(_, c)| c.thread_core.as_ref()?.signals_p.as_ref());
            let pending: Vec<_> = core.signals_s.iter().chain(own).collect();
            timers::arm(t, &pending, &mut self.remote, &self.space, scratch).map_err(&fail)?;
        }
        thread_state((leader, timers), (pid, pid), filters, &mut self.remote, &self.space, scratch)
            .map_err(self.fail("cannot give its first thread its state"))?;
        // Changing credentials made it undumpable.
        if let Some(dumpable @ (0 | 1)) = self.body.mm.dumpable {
            self.remote.prctl(libc::PR_SET_DUMPABLE, [dumpable as u64, 0, 0, 0]).map_err(&fail)?;
        }
        let answer = wait_again(image, pid, leader, (&mut self.remote, &self.space, scratch))?;
        self.remote.munmap(scratch.at, scratch.len).map_err(&fail)?;
        self.set_last(leader, answer)?;
        let stopping = self.fail("cannot stop it as it was");
        self.space.close().map_err(&fail)?;
        if core.task_state == STOPPED
            && stop::is_plain(core.stop_signo.unwrap_or(libc::SIGSTOP as u32) as i32)
        {
            for host in &tids {
                ptrace::set_signal_mask(*host, u64::MAX).map_err(&stopping)?;
            }
            stop::stop(&tids).map_err(&stopping)?;
            for ((_, core), host) in image.cores.iter().zip(&tids) {
                ptrace::set_signal_mask(*host, mask(core)).map_err(&stopping)?;
            }
        }
        Ok(tids)
    }

    fn set_last(&mut self, core: &msg::CoreEntry, answer: Option<i64>) -> Result<(), RestoreError> {
        let fail = self.fail("cannot set its registers");
        self.remote.abandon_now().map_err(&fail)?;
        self.set_processor(self.image.pid(), self.host, core, answer)
    }

    /// Registers, extended state and signal mask of a thread.
    fn set_processor(
        &self,
        tid: i32,
        host: i32,
        core: &msg::CoreEntry,
        answer: Option<i64>,
    ) -> Result<(), RestoreError> {
        let fail = self.fail("cannot set registers");
        let Some(info) = &core.thread_info else {
            return Err(self.image_error(tid, "it has no registers".into()));
        };
        if let Some(state) = &core.thread_core {
            scheduling::restore_outside(state, tid, host, self.context.options.clamp)?;
        }
        let current = ptrace::xstate(host).map_err(&fail)?;
        let xstate = registers::restore_xstate(&info.fpregs, &current)
            .map_err(|what| self.image_error(tid, what))?;
        let mut regs: Registers =
            registers::restore_general(&info.gpregs).map_err(|what| self.image_error(tid, what))?;
        waits::resume(core.thread_core.as_ref().and_then(|t| t.wait.as_ref()), answer, &mut regs);
        ptrace::set_xstate(host, &xstate).map_err(&fail)?;
        ptrace::set_registers(host, &regs).map_err(&fail)?;
        ptrace::set_signal_mask(host, mask(core)).map_err(&fail)
    }
}

/// The signal mask of a thread.
fn mask(core: &msg::CoreEntry) -> u64 {
    let mask = core.thread_core.as_ref().and_then(|t| t.blk_sigset);
    mask.or(core.tc.as_ref().map(|t| t.blk_sigset)).unwrap_or(0)
}

/// Brings a thread into the wait it was in; what the call answered inside the kernel.
fn wait_again(
    image: &TaskImages,
    tid: i32,
    core: &msg::CoreEntry,
    (remote, space, scratch): (&mut Remote, &Space, Scratch),
) -> Result<Option<i64>, RestoreError> {
    let entry = core.thread_core.as_ref().and_then(|t| t.wait.as_ref());
    let (Some(_), Some(info)) = (entry, &core.thread_info) else { return Ok(None) };
    let name = Image::Core.file_name(tid as u64);
    let regs = registers::restore_general(&info.gpregs)
        .map_err(|what| RestoreError::Image { name, what })?;
    waits::restore(entry, &regs, remote, space, scratch).map_err(|source| RestoreError::Kernel {
        pid: image.pid(),
        what: format!("cannot bring thread {tid} into its wait again"),
        source,
    })
}

/// What each thread has for itself; credentials last. `own` is (pid, tid) inside.
fn thread_state(
    (core, timers): (&msg::CoreEntry, Option<&msg::TaskTimersEntry>),
    own: (i32, i32),
    filters: &msg::SeccompEntry,
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<()> {
    let (Some(info), Some(state)) = (&core.thread_info, &core.thread_core) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the thread has no state"));
    };
    let name = state.comm.as_ref().or(core.tc.as_ref().map(|t| &t.comm));
    if let Some(name) = name {
        let bytes: Vec<u8> = name.iter().copied().take(15).chain([0]).collect();
        let args = [libc::PR_SET_NAME as u64, 0, 0, 0, 0, 0];
        remote.call_in(space, scratch, libc::SYS_prctl, args, 1, &bytes)?;
    }
    if let Some(sas) = &state.sas {
        signals::restore_alternate_stack(sas, remote, space, scratch)?;
    }
    if let Some(queue) = &state.signals_p {
        let queue = &timers::without_own(queue, timers);
        signals::restore_pending(queue, (own.0, Some(own.1)), remote, space, scratch)?;
    }
    let robust = [state.futex_rla, u64::from(state.futex_rla_len), 0, 0, 0, 0];
    if state.futex_rla_len != 0 {
        remote.call(libc::SYS_set_robust_list, robust)?;
    }
    remote.call(libc::SYS_set_tid_address, [info.clear_tid_addr, 0, 0, 0, 0, 0])?;
    if let Some(rseq) = &state.rseq_entry
        && rseq.rseq_abi_pointer != 0
    {
        let len = u64::from(rseq.rseq_abi_size);
        let args = [rseq.rseq_abi_pointer, len, 0, u64::from(rseq.signature), 0, 0];
        remote.call(libc::SYS_rseq, args)?;
    }
    scheduling::restore(state, remote, space, scratch)?;
    if let Some(newest) = state.seccomp_filter
        && state.seccomp_mode() == msg::SeccompMode::Filter
    {
        let chain = seccomp::chain(filters, newest)?;
        seccomp::restore(&chain, remote, space, scratch)?;
    }
    if let Some(creds) = &state.creds {
        credentials::restore(creds, remote, space, scratch)?;
    }
    // A change of credentials clears it.
    if let Some(signal) = state.pdeath_sig {
        remote.prctl(libc::PR_SET_PDEATHSIG, [u64::from(signal), 0, 0, 0])?;
    }
    Ok(())
}
