//! Dump of one task: what is asked of it, and in which order.

use std::fs::File;
use std::io;

use cryopod_images::{Image, msg};
use cryopod_sys::ptrace::Registers;
use cryopod_sys::{process, ptrace};

use super::{DumpReport, Inside, Pending};
use crate::areas::{self, Backing, Kind};
use crate::error::{DumpError, Refusal};
use crate::files::Collector;
use crate::inject::calls::Scratch;
use crate::inject::guard::Guard;
use crate::inject::interrupted::{self, Resolution};
use crate::inject::site::Site;
use crate::inject::{Remote, Space, finish_return};
use crate::proc::kernel::{Facts, KernelReader};
use crate::proc::maps::Area;
use crate::proc::{self, limits, stat, status, vmflags};
use crate::seccomp::Filters;
use crate::seize::Task;
use crate::store::ImageSink;
use crate::tracking::Tracking;
use crate::waits::Waits;
use crate::{credentials, memory, registers, scheduling, signals, timers};

const PR_GET_TID_ADDRESS: i32 = 40;
const PR_GET_THP_DISABLE: i32 = 42;
const PR_GET_CHILD_SUBREAPER: i32 = 37;
const MEMBARRIER_CMD_GET_REGISTRATIONS: u64 = 1 << 9;
/// rseq size of the first version of the interface.
const RSEQ_SIZE: u32 = 32;

/// The remote calls of a dump: name, number, arguments that a filter may look at.
const ASKED: &[(&str, i64, [u64; 6])] = &[
    ("rt_sigreturn", libc::SYS_rt_sigreturn, [0; 6]),
    ("prctl(PR_GET_TID_ADDRESS)", libc::SYS_prctl, [PR_GET_TID_ADDRESS as u64, 0, 0, 0, 0, 0]),
    ("prctl(PR_GET_PDEATHSIG)", libc::SYS_prctl, [libc::PR_GET_PDEATHSIG as u64, 0, 0, 0, 0, 0]),
    ("prctl(PR_GET_DUMPABLE)", libc::SYS_prctl, [libc::PR_GET_DUMPABLE as u64, 0, 0, 0, 0, 0]),
    ("prctl(PR_GET_SECUREBITS)", libc::SYS_prctl, [libc::PR_GET_SECUREBITS as u64, 0, 0, 0, 0, 0]),
    ("prctl(PR_GET_THP_DISABLE)", libc::SYS_prctl, [PR_GET_THP_DISABLE as u64, 0, 0, 0, 0, 0]),
    (
        "prctl(PR_GET_CHILD_SUBREAPER)",
        libc::SYS_prctl,
        [PR_GET_CHILD_SUBREAPER as u64, 0, 0, 0, 0, 0],
    ),
    ("membarrier", libc::SYS_membarrier, [MEMBARRIER_CMD_GET_REGISTRATIONS, 0, 0, 0, 0, 0]),
    ("rt_sigaction", libc::SYS_rt_sigaction, [1, 0, 0, 8, 0, 0]),
    ("sigaltstack", libc::SYS_sigaltstack, [0; 6]),
    ("getitimer", libc::SYS_getitimer, [0; 6]),
    ("timer_gettime", libc::SYS_timer_gettime, [0; 6]),
    ("timer_getoverrun", libc::SYS_timer_getoverrun, [0; 6]),
    ("brk", libc::SYS_brk, [0; 6]),
];

const ALIVE: u32 = 1;
const ZOMBIE: u32 = 2;
const STOPPED: u32 = 3;

/// The tree's entry of a task.
pub(crate) fn tree_entry(task: &Task, inside: &Inside) -> Result<msg::PstreeEntry, DumpError> {
    let status = status::of(task.pid, task.pid)?;
    let last = |ids: &[i32]| ids.last().copied().unwrap_or(0) as u32;
    let threads = if task.zombie {
        vec![inside.of(task.pid) as u32]
    } else {
        task.threads.iter().map(|t| inside.of(t.tid) as u32).collect()
    };
    Ok(msg::PstreeEntry {
        pid: inside.of(task.pid) as u32,
        ppid: inside.of(task.ppid) as u32,
        pgid: last(&status.ns_pgid),
        sid: last(&status.ns_sid),
        threads,
    })
}

/// The image of a task that has ended and waits for its parent.
pub(crate) fn dump_zombie(
    task: &Task,
    inside: &Inside,
    pending: &mut Pending,
) -> Result<(), DumpError> {
    let stat = stat::of(task.pid, task.pid)?;
    let core = msg::CoreEntry {
        mtype: msg::core_entry::March::X8664.into(),
        tc: Some(msg::TaskCoreEntry {
            task_state: ZOMBIE,
            exit_code: stat.exit_code as u32,
            personality: 0,
            flags: stat.flags as u32,
            blk_sigset: 0,
            comm: status::comm(task.pid, task.pid)?,
            exit_signal: (stat.exit_signal != libc::SIGCHLD).then_some(stat.exit_signal as u32),
            ..Default::default()
        }),
        ..Default::default()
    };
    pending.one(Image::Core, inside.of(task.pid) as u64, &core)
}

/// One task being dumped.
pub(crate) struct Work<'w, 'f> {
    pub(crate) tracking: &'w mut Tracking,
    pub(crate) task: &'w Task,
    pub(crate) inside: &'w Inside,
    pub(crate) ids: msg::TaskKobjIdsEntry,
    pub(crate) files: &'w mut Collector<'f>,
    pub(crate) filters: &'w mut Filters,
    pub(crate) pending: &'w mut Pending,
    pub(crate) report: &'w mut DumpReport,
    pub(crate) waits: Option<&'w Waits>,
    pub(crate) held: &'w mut Vec<(i32, i32, i32)>,
    /// The number of the next image of pages.
    pub(crate) next_pages: &'w mut u32,
    /// Its children that job control has stopped, by their pids inside.
    pub(crate) stopped: Vec<i32>,
}

/// What the leader alone can tell about the process.
struct Asked {
    actions: Vec<msg::SaEntry>,
    timers: msg::TaskTimersEntry,
    brk: u64,
    dumpable: i32,
    thp_disabled: bool,
    subreaper: bool,
    membarrier: u32,
    stops_heard: Vec<u32>,
}

/// What a thread goes on with.
struct Found {
    regs: Registers,
    mask: u64,
}

/// Has a thread ask what the kernel does not tell otherwise.
fn ask_thread(remote: &mut Remote, space: &Space, scratch: Scratch) -> io::Result<Facts> {
    let ask = |option: i32| [option as u64, 0, 0, 0, 0, 0];
    let clear_tid: [u8; 8] =
        remote.call_out(space, scratch, libc::SYS_prctl, ask(PR_GET_TID_ADDRESS), 1)?;
    let pdeath: [u8; 4] =
        remote.call_out(space, scratch, libc::SYS_prctl, ask(libc::PR_GET_PDEATHSIG), 1)?;
    Ok(Facts {
        clear_tid: u64::from_le_bytes(clear_tid),
        parent_death_signal: u32::from_le_bytes(pdeath),
        securebits: remote.prctl(libc::PR_GET_SECUREBITS, [0; 4])? as u32,
        stack: signals::dump_alternate_stack(remote, space, scratch)?,
    })
}

impl Work<'_, '_> {
    fn pid(&self) -> i32 {
        self.task.pid
    }

    fn kernel(&self, what: &'static str) -> impl Fn(io::Error) -> DumpError + use<> {
        let pid = self.pid();
        move |source| match source.raw_os_error() {
            Some(libc::ESRCH) => DumpError::Vanished { pid },
            _ => DumpError::Kernel { pid, what, source },
        }
    }

    fn refuse(&self, resource: String, way_out: &'static str) -> DumpError {
        let pid = self.pid();
        let comm = status::of(pid, pid).map_or_else(|_| "?".into(), |s| s.name);
        DumpError::Refused(Refusal { pid, comm, resource, way_out })
    }

    pub(crate) fn dump(&mut self, sink: &mut dyn ImageSink) -> Result<(), DumpError> {
        let pid = self.pid();
        self.report.phases.lap("other");
        let areas = vmflags::areas(pid)?;
        let status = status::of(pid, pid)?;
        let stat = stat::of(pid, pid)?;
        self.report.phases.lap("areas");

        let (asked, cores) = self.ask(&areas)?;
        self.report.phases.lap("remote calls");
        self.write_cores(&stat, &asked, cores)?;
        self.report.phases.lap("other");
        if self.files.is_new_table(self.ids.files_id) {
            let table = self.files.table(pid, self.ids.files_id)?;
            self.pending.many(Image::Fdinfo, u64::from(self.ids.files_id), &table)?;
        }
        self.report.phases.lap("open files");
        let mm = self.dump_mm(&areas, &stat, &asked)?;
        self.report.phases.lap("page tables");
        let kernel = self.kernel("cannot look at its memory");
        if let Some(witness) = &mut self.report.witness {
            witness.look(pid, self.inside.of(pid) as u64, &mm.vmas).map_err(&kernel)?;
            self.report.phases.lap("self-check");
        }
        self.dump_pages(&mm, sink)?;
        self.report.phases.lap("pages");
        self.pending.one(Image::Mm, self.inside.of(pid) as u64, &mm)?;
        self.pending.one(Image::Ids, self.inside.of(pid) as u64, &self.ids)?;

        let fs = msg::FsEntry {
            cwd_id: self.files.link(pid, "cwd", libc::O_RDONLY as u32)?,
            root_id: self.files.link(pid, "root", libc::O_RDONLY as u32)?,
            umask: Some(status.umask),
        };
        self.pending.one(Image::Fs, self.inside.of(pid) as u64, &fs)?;
        self.report.phases.lap("other");
        Ok(())
    }

    /// Runs the remote calls of all threads.
    fn ask(&mut self, areas: &[Area]) -> Result<(Asked, Vec<msg::CoreEntry>), DumpError> {
        let pid = self.pid();
        let kernel = self.kernel("remote calls failed");
        let space = Space::open(pid, areas)
            .map_err(|e| self.refuse(e.to_string(), "report the kernel, please"))?;
        let mut pointers = Vec::with_capacity(self.task.threads.len());
        for thread in &self.task.threads {
            finish_return(&space, thread.tid).map_err(&kernel)?;
            pointers.push(ptrace::registers(thread.tid).map_err(&kernel)?.rsp);
        }
        let xstate = ptrace::xstate(pid).map_err(&kernel)?.len();
        let site = match Site::take(&space, areas, &pointers, xstate) {
            Ok(site) => site,
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                return Err(self.refuse(e.to_string(), "report the program, please"));
            }
            Err(e) => return Err(kernel(e)),
        };
        let asked = self.ask_threads(&space, &site);
        // Also after an error: by now every thread is out of the frames.
        site.give_back(&space).map_err(&kernel)?;
        space.close().map_err(&kernel)?;
        asked
    }

    fn ask_threads(
        &mut self,
        space: &Space,
        site: &Site,
    ) -> Result<(Asked, Vec<msg::CoreEntry>), DumpError> {
        let pid = self.pid();
        let kernel = self.kernel("remote calls failed");
        let tids: Vec<i32> = self.task.threads.iter().map(|thread| thread.tid).collect();
        let facts = KernelReader::prepared().and_then(|reader| reader.threads(pid, &tids));
        let known = |tid: i32| facts.as_ref().and_then(|facts| facts.get(&tid)).copied();
        let mut leader = self.enter(space, pid, site.first)?;
        let asked = self.ask_process(&mut leader, space, site.scratch).map_err(&kernel)?;
        let found = Found { regs: *leader.original(), mask: leader.mask() };
        let of_leader = match known(pid) {
            Some(facts) => facts,
            None => ask_thread(&mut leader, space, site.scratch).map_err(&kernel)?,
        };
        let mut cores = vec![self.thread(pid, found, of_leader)?];
        self.held.extend(leader.take_held().into_iter().map(|s| (pid, pid, s)));
        leader.leave().map_err(&kernel)?;
        for tid in tids.into_iter().skip(1) {
            if let Some(facts) = known(tid) {
                let found = self.look_at(space, tid).map_err(&kernel)?;
                cores.push(self.thread(tid, found, facts)?);
                continue;
            }
            let mut remote = self.enter(space, tid, site.other)?;
            let found = Found { regs: *remote.original(), mask: remote.mask() };
            let facts = ask_thread(&mut remote, space, site.scratch).map_err(&kernel)?;
            cores.push(self.thread(tid, found, facts)?);
            self.held.extend(remote.take_held().into_iter().map(|s| (pid, tid, s)));
            remote.leave().map_err(&kernel)?;
        }
        Ok((asked, cores))
    }

    /// Registers and signal mask of a thread that is made no remote calls.
    fn look_at(&self, space: &Space, tid: i32) -> io::Result<Found> {
        let found = ptrace::registers(tid)?;
        let mut regs = found;
        interrupted::undisturb(&mut regs);
        if regs.rax != found.rax {
            ptrace::set_registers(tid, &regs)?;
        }
        let mut regs = self.tracking.as_called(tid, &regs);
        interrupted::abort_rseq(space, tid, &mut regs)?;
        Ok(Found { regs, mask: ptrace::signal_mask(tid)? })
    }

    /// Prepares a thread for remote calls, or refuses where its seccomp filters would end it should
    /// the engine be killed in the middle of one: they are suspended only while it is traced.
    fn enter(&self, space: &Space, tid: i32, frame: u64) -> Result<Remote, DumpError> {
        let kernel = self.kernel("remote calls of a thread failed");
        let guard = Guard::read(self.pid(), tid).map_err(&kernel)?;
        if guard.is_strict() {
            return Err(self.refuse("seccomp's strict mode".into(), "use a filter instead"));
        }
        let asked = ASKED.iter().find(|(_, number, args)| !guard.permits(*number, args));
        if let Some((name, ..)) = asked {
            return Err(self.refuse(
                format!("a seccomp filter of thread {tid} that kills or traps {name}"),
                "let the filter answer it with an errno, or allow it",
            ));
        }
        // The kernel itself does not look at the number of a call that it restarts this way.
        let found = ptrace::registers(tid).map_err(&kernel)?;
        let called = self.tracking.as_called(tid, &found);
        if called.orig_rax != found.orig_rax {
            ptrace::set_registers(tid, &called).map_err(&kernel)?;
        }
        Remote::enter(space, tid, frame, guard).map_err(&kernel)
    }

    fn ask_process(
        &self,
        leader: &mut Remote,
        space: &Space,
        scratch: Scratch,
    ) -> io::Result<Asked> {
        let subreaper: [u8; 4] = leader.call_out(
            space,
            scratch,
            libc::SYS_prctl,
            [PR_GET_CHILD_SUBREAPER as u64, 0, 0, 0, 0, 0],
            1,
        )?;
        let membarrier = leader
            .call_raw(libc::SYS_membarrier, [MEMBARRIER_CMD_GET_REGISTRATIONS, 0, 0, 0, 0, 0])?;
        let actions = match KernelReader::prepared() {
            Some(reader) => reader.actions(self.pid())?,
            None => signals::dump_actions(leader, space, scratch)?,
        };
        Ok(Asked {
            actions,
            timers: timers::dump(leader, space, scratch, &|host| self.inside.of(host))?,
            brk: leader.call(libc::SYS_brk, [0; 6])?,
            dumpable: leader.prctl(libc::PR_GET_DUMPABLE, [0; 4])? as i32,
            thp_disabled: leader.prctl(PR_GET_THP_DISABLE, [0; 4])? != 0,
            subreaper: i32::from_le_bytes(subreaper) != 0,
            membarrier: u32::try_from(membarrier).unwrap_or(0),
            stops_heard: self.stops_heard(leader, space, scratch)?,
        })
    }

    /// The stopped children whose stop it has heard of: those that a wait finds nothing new about.
    /// WNOWAIT leaves the report for the program.
    fn stops_heard(
        &self,
        leader: &mut Remote,
        space: &Space,
        scratch: Scratch,
    ) -> io::Result<Vec<u32>> {
        const P_PID: u64 = 1;
        let options = (libc::WSTOPPED | libc::WNOHANG | libc::WNOWAIT) as u64;
        let mut heard = Vec::new();
        for child in &self.stopped {
            // Where there is nothing to report, the kernel clears si_signo.
            let args = [P_PID, *child as u64, 0, options, 0, 0];
            let told = leader.call_out::<4>(space, scratch, libc::SYS_waitid, args, 2);
            match told {
                Ok(signo) if signo == [0; 4] => heard.push(*child as u32),
                Ok(_) => {}
                // A filter forbids it: then the program does not wait this way either.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => heard.push(*child as u32),
                Err(e) if e.raw_os_error() == Some(libc::ECHILD) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(heard)
    }

    /// The image of a thread.
    fn thread(
        &mut self,
        tid: i32,
        found: Found,
        facts: Facts,
    ) -> Result<msg::CoreEntry, DumpError> {
        let kernel = self.kernel("cannot read the state of a thread");
        let pid = self.pid();
        let mut regs = found.regs;
        let mut wait = None;
        if interrupted::resolve(&mut regs) == Resolution::Interrupted {
            wait = self.waits.and_then(|waits| waits.remaining(tid, &found.regs));
            self.report.interrupted_calls += usize::from(wait.is_none());
        }
        let xstate = ptrace::xstate(tid).map_err(&kernel)?;
        let fpregs = registers::dump_xstate(&xstate)
            .map_err(|what| self.refuse(what, "this processor feature is not carried"))?;
        let status = status::of(pid, tid)?;
        let stat = stat::of(pid, tid)?;
        let (robust, robust_len) = process::robust_list(tid).map_err(&kernel)?;
        let rseq = ptrace::rseq(tid).map_err(&kernel)?;
        let (mode, filter) = match status.seccomp {
            0 => (None, None),
            2 => {
                let newest = self.filters.add(tid).map_err(&kernel)?;
                (Some(msg::SeccompMode::Filter.into()), newest)
            }
            _ => return Err(self.refuse("an unknown seccomp mode".into(), "use a filter instead")),
        };
        let scheduling = scheduling::dump(pid, tid, &stat)?
            .map_err(|what| self.refuse(what, "use another policy"))?;
        Ok(msg::CoreEntry {
            mtype: msg::core_entry::March::X8664.into(),
            thread_info: Some(msg::ThreadInfoX86 {
                clear_tid_addr: facts.clear_tid,
                gpregs: registers::dump_general(&regs),
                fpregs,
                tls: (12..15).map(empty_segment).collect(),
            }),
            thread_core: Some(msg::ThreadCoreEntry {
                futex_rla: robust,
                futex_rla_len: robust_len as u32,
                sched_nice: Some(stat.nice),
                sched_policy: Some(scheduling.policy),
                cpus: scheduling.cpus,
                io_priority: scheduling.io_priority,
                timer_slack: scheduling.timer_slack,
                memory_failure: scheduling.memory_failure,
                sched_prio: (stat.rt_priority != 0).then_some(stat.rt_priority),
                blk_sigset: Some(found.mask),
                sas: Some(facts.stack),
                pdeath_sig: (facts.parent_death_signal != 0).then_some(facts.parent_death_signal),
                signals_p: Some(signals::dump_pending(tid, false).map_err(&kernel)?),
                creds: Some(credentials::dump(&status, facts.securebits)),
                seccomp_mode: mode,
                seccomp_filter: filter,
                comm: Some(status::comm(pid, tid)?),
                rseq_entry: (rseq.address != 0).then(|| msg::RseqEntry {
                    rseq_abi_pointer: rseq.address,
                    rseq_abi_size: rseq.size.max(RSEQ_SIZE),
                    signature: rseq.signature,
                    rseq_cs_pointer: None,
                }),
                cg_set: Some(1),
                wait,
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    /// Completes the leader's core with what belongs to the process, and keeps all cores.
    fn write_cores(
        &mut self,
        stat: &stat::Stat,
        asked: &Asked,
        mut cores: Vec<msg::CoreEntry>,
    ) -> Result<(), DumpError> {
        let pid = self.pid();
        let kernel = self.kernel("cannot read its signals");
        let stop = self.task.threads.iter().find_map(|t| t.group_stop);
        let mask = cores[0].thread_core.as_ref().and_then(|t| t.blk_sigset).unwrap_or(0);
        let rlimits =
            limits::of(pid)?.into_iter().map(|(cur, max)| msg::RlimitEntry { cur, max }).collect();
        cores[0].tc = Some(msg::TaskCoreEntry {
            task_state: if stop.is_some() { STOPPED } else { ALIVE },
            exit_code: 0,
            personality: number(pid, "personality", 16)? as u32,
            flags: stat.flags as u32,
            blk_sigset: mask,
            comm: status::comm(pid, pid)?,
            timers: Some(asked.timers.clone()),
            rlimits: Some(msg::TaskRlimitsEntry { rlimits }),
            signals_s: Some(signals::dump_pending(pid, true).map_err(&kernel)?),
            loginuid: number(pid, "loginuid", 10).ok().map(|n| n as u32),
            oom_score_adj: Some(number(pid, "oom_score_adj", 10)? as i32),
            sigactions: asked.actions.clone(),
            child_subreaper: Some(asked.subreaper),
            stop_signo: stop.map(|s| s as u32),
            stops_heard: asked.stops_heard.clone(),
            exit_signal: (stat.exit_signal != libc::SIGCHLD).then_some(stat.exit_signal as u32),
            membarrier_registration_mask: (asked.membarrier != 0).then_some(asked.membarrier),
            ..Default::default()
        });
        cores[0].ids = None;
        for (thread, core) in self.task.threads.iter().zip(&cores) {
            self.pending.one(Image::Core, self.inside.of(thread.tid) as u64, core)?;
        }
        Ok(())
    }

    fn dump_mm(
        &mut self,
        areas: &[Area],
        stat: &stat::Stat,
        asked: &Asked,
    ) -> Result<msg::MmEntry, DumpError> {
        let pid = self.pid();
        let mut vmas = Vec::with_capacity(areas.len());
        for area in areas {
            let kind = areas::classify(area)
                .map_err(|what| self.refuse(what, "unmap it before the checkpoint"))?;
            let (backing, flags) = match kind {
                Kind::Anonymous => (Backing::Anonymous, None),
                Kind::Kernel => (Backing::Kernel, None),
                Kind::File => {
                    let (id, flags) = self.mapped_file(area)?;
                    (Backing::File(id), Some(flags))
                }
                Kind::SharedAnonymous | Kind::Memfd => {
                    let flags = open_flags(area);
                    (Backing::Memfd(self.files.mapped_memfd(pid, area, flags)?), Some(flags))
                }
                Kind::SystemV => {
                    let what = format!("shared memory {} at {:x}", area.path.display(), area.start);
                    return Err(self.refuse(what, "unmap it before the checkpoint"));
                }
            };
            vmas.push(areas::dump(area, backing, flags));
        }
        areas::join_vvar(&mut vmas);
        let kernel = self.kernel("cannot look for guard regions");
        let direct = self.files.is_direct(self.ids.files_id);
        let guards = match self.tracking.look(pid, &vmas, direct).map_err(&kernel)? {
            Some(guards) => guards,
            None => {
                let pagemap = process::open_proc(pid, "pagemap").map_err(&kernel)?;
                memory::guards(&pagemap, &vmas).map_err(&kernel)?
            }
        };
        vmas.extend(guards);
        let auxv = proc::read(&format!("{pid}/auxv"))?;
        Ok(msg::MmEntry {
            mm_start_code: stat.start_code,
            mm_end_code: stat.end_code,
            mm_start_data: stat.start_data,
            mm_end_data: stat.end_data,
            mm_start_stack: stat.start_stack,
            mm_start_brk: stat.start_brk,
            mm_brk: asked.brk,
            mm_arg_start: stat.arg_start,
            mm_arg_end: stat.arg_end,
            mm_env_start: stat.env_start,
            mm_env_end: stat.env_end,
            exe_file_id: self.files.link(pid, "exe", libc::O_RDONLY as u32)?,
            // Without the pair that ends it, which the image does not have.
            mm_saved_auxv: auxv
                .as_chunks::<16>()
                .0
                .iter()
                .map(|pair| pair.as_chunks::<8>().0.to_vec())
                .take_while(|pair| pair[0] != [0; 8])
                .flatten()
                .map(u64::from_le_bytes)
                .collect(),
            vmas,
            dumpable: Some(asked.dumpable),
            aios: Vec::new(),
            thp_disabled: Some(asked.thp_disabled),
            // In hexadecimal; a kernel without core dumps has none.
            coredump_filter: number(pid, "coredump_filter", 16).ok().map(|mask| mask as u32),
        })
    }

    /// The file entry of a mapped file, and the flags it must be opened with.
    fn mapped_file(&mut self, area: &Area) -> Result<(u32, u32), DumpError> {
        let pid = self.pid();
        let path = format!("/proc/{pid}/map_files/{:x}-{:x}", area.start, area.end);
        let flags = open_flags(area);
        Ok((self.files.path(pid, &area.path, path, flags)?, flags))
    }

    fn dump_pages(&mut self, mm: &msg::MmEntry, sink: &mut dyn ImageSink) -> Result<(), DumpError> {
        let pid = self.pid();
        let kernel = self.kernel("cannot copy its memory");
        let id = self.inside.of(pid) as u64;
        if self.tracking.freeze(pid, id).map_err(&kernel)? {
            return Ok(());
        }
        let pagemap = process::open_proc(pid, "pagemap").map_err(&kernel)?;
        let mem: File = process::open_proc(pid, "mem").map_err(&kernel)?;
        let (runs, scanned) = memory::find(&pagemap, &mm.vmas).map_err(&kernel)?;
        let pages_id = *self.next_pages;
        *self.next_pages += 1;
        let name = Image::Pages.file_name(u64::from(pages_id));
        let failed = |source| DumpError::Sink { name: name.clone(), source };
        sink.begin_pages(&name).map_err(failed)?;
        let (map, written) = memory::copy(pid, &mem, &runs, pages_id, sink).map_err(&kernel)?;
        sink.end_pages().map_err(failed)?;
        self.report.pages_scanned += scanned;
        self.report.pages_written += written;
        let bytes = map.write().map_err(|e| failed(io::Error::other(e)))?;
        self.pending.add(Image::Pagemap, self.inside.of(pid) as u64, bytes);
        Ok(())
    }
}

/// How the file of an area must be opened: a shared mapping that may be made writable was opened
/// for reading and writing.
fn open_flags(area: &Area) -> u32 {
    let flags = if area.shared && area.has(b"mw") { libc::O_RDWR } else { libc::O_RDONLY };
    flags as u32
}

/// A TLS segment that is not in use; 64-bit programs have none.
fn empty_segment(entry_number: u32) -> msg::UserDescT {
    msg::UserDescT {
        entry_number,
        read_exec_only: true,
        seg_not_present: true,
        ..Default::default()
    }
}

/// A number from a one-line file of /proc/PID.
fn number(pid: i32, file: &str, radix: u32) -> Result<i64, DumpError> {
    let name = format!("{pid}/{file}");
    let text = proc::read(&name)?;
    i64::from_str_radix(String::from_utf8_lossy(&text).trim(), radix)
        .map_err(|_| proc::malformed(&name, "not a number"))
}
