//! Killing an engine at chosen moments: it is traced from its first step on, stopped at the entry and
//! exit of its system calls (ptrace(2)), and killed there. What is looked at of a program afterwards
//! is a [`Look`].

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cryopod_sys::wait::{self, Status};
use cryopod_sys::{process, ptrace};

use crate::Owned;

const PTRACE_SEIZE: u64 = 0x4206;
const PTRACE_DETACH: u64 = 17;

/// What a program must look like after the engine died over it.
#[derive(Debug, PartialEq, Eq)]
pub struct Look {
    /// By thread: tracer, blocked signals, whether it is stopped.
    pub threads: Vec<(String, String, bool)>,
    /// Its descriptors' numbers.
    pub descriptors: BTreeSet<String>,
    /// /proc/PID/maps.
    pub maps: String,
    /// Children of its threads.
    pub children: String,
}

fn field(text: &str, key: &str) -> String {
    let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
    line.trim_start_matches(':').trim().to_owned()
}

impl Look {
    /// Looks at it now.
    ///
    /// # Errors
    /// Those of reading /proc: the process or a thread ended.
    pub fn at(pid: u32) -> io::Result<Self> {
        let mut threads = Vec::new();
        let mut children = String::new();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))?;
        let mut tasks = tasks.collect::<io::Result<Vec<_>>>()?;
        tasks.sort_by_key(std::fs::DirEntry::file_name);
        for task in tasks {
            let status = std::fs::read_to_string(task.path().join("status"))?;
            let stopped = matches!(field(&status, "State").chars().next(), Some('t' | 'T'));
            threads.push((field(&status, "TracerPid"), field(&status, "SigBlk"), stopped));
            children.push_str(&std::fs::read_to_string(task.path().join("children"))?);
        }
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
        Ok(Self {
            threads,
            descriptors: descriptors
                .flatten()
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect(),
            maps: std::fs::read_to_string(format!("/proc/{pid}/maps"))?,
            children,
        })
    }

    /// The look of a program that has come to rest: twice the same, a little apart.
    ///
    /// # Errors
    /// As [`Look::at`].
    pub fn at_rest(pid: u32) -> io::Result<Self> {
        let mut last = Self::at(pid)?;
        for _ in 0..200 {
            std::thread::sleep(Duration::from_millis(20));
            let now = Self::at(pid)?;
            if now == last {
                break;
            }
            last = now;
        }
        Ok(last)
    }

    /// Whether nobody traces it and no thread is stopped.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.threads.iter().all(|(tracer, _, stopped)| tracer == "0" && !stopped)
    }

    /// The look once `settled` says so, which takes until every thread was scheduled again; after two
    /// seconds in any case.
    ///
    /// # Errors
    /// As [`Look::at`].
    pub fn settle(pid: u32, settled: impl Fn(&Self) -> bool) -> io::Result<Self> {
        let mut now = Self::at(pid)?;
        for _ in 0..2000 {
            if settled(&now) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            now = Self::at(pid)?;
        }
        Ok(now)
    }
}

/// An engine that is traced from its first step.
#[derive(Debug)]
pub struct Doomed {
    id: i32,
    /// A child of ours; somebody else's has its own parent to reap it.
    child: Option<(Child, Owned)>,
    /// How it ended, once it has.
    ended: Cell<Option<Status>>,
}

impl Doomed {
    /// Starts the program `engine`, which must stop itself at `--stopped`.
    ///
    /// # Errors
    /// Those of starting and tracing it.
    pub fn start(engine: &Path, args: &[&str], images: &Path) -> io::Result<Self> {
        let mut command = Command::new(engine);
        command.args(args).arg("--stopped").arg("--images").arg(images);
        command.env("RUST_BACKTRACE", "0");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let (child, owned) = Owned::start(|| command.spawn(), Child::id)?;
        let mut doomed = Self::attach(child.id() as i32)?;
        doomed.child = Some((child, owned));
        Ok(doomed)
    }

    /// Takes a process that is somebody else's child and is about to stop itself.
    ///
    /// # Errors
    /// Those of tracing it, and when it ended.
    pub fn attach(id: i32) -> io::Result<Self> {
        while !std::fs::read_to_string(format!("/proc/{id}/stat"))?.contains(") T ") {
            std::thread::sleep(Duration::from_micros(200));
        }
        ptrace::seize(id, ptrace::O_TRACESYSGOOD)?;
        ptrace::interrupt(id)?;
        wait::wait_for(id)?;
        process::kill(id, libc::SIGCONT)?;
        Ok(Self { id, child: None, ended: Cell::new(None) })
    }

    /// Lets it run to its `stop`-th stop at the entry or exit of a system call, counted from the
    /// first one that `begins`; false when it had done its work before, or ended. A dump's work is
    /// done at its end, since it has to let go of memory after the last detach; a restore's when it
    /// has let go of everything.
    ///
    /// # Errors
    /// Those of ptrace(2).
    pub fn run_to(&self, stop: usize, work: Work) -> io::Result<bool> {
        let id = self.id;
        let (mut begun, mut seen) = (false, 0);
        let (mut seized, mut detached) = (0, 0);
        let mut entry = true;
        ptrace::resume_to_syscall(id, 0)?;
        loop {
            match wait::wait_for(id)? {
                Status::Syscall => {
                    let regs = ptrace::registers(id)?;
                    let request = regs.orig_rax as i64 == libc::SYS_ptrace;
                    if entry {
                        begun |= work.begins(&regs);
                        seized += usize::from(request && regs.rdi == PTRACE_SEIZE);
                    } else {
                        detached += usize::from(request && regs.rdi == PTRACE_DETACH);
                    }
                    entry = !entry;
                    if work == Work::Restore && seized > 0 && detached >= seized {
                        return Ok(false);
                    }
                    if begun {
                        if seen == stop {
                            return Ok(true);
                        }
                        seen += 1;
                    }
                    ptrace::resume_to_syscall(id, 0)?;
                }
                ended @ (Status::Exited(_) | Status::Killed(_)) => {
                    self.ended.set(Some(ended));
                    return Ok(false);
                }
                Status::Signal(signal) if signal != libc::SIGCONT => {
                    ptrace::resume_to_syscall(id, signal)?;
                }
                _ => ptrace::resume_to_syscall(id, 0)?,
            }
        }
    }

    /// Lets it go on to its end; what it complained about. Of somebody else's child only that it is
    /// let go is known.
    ///
    /// # Errors
    /// Those of ptrace(2) and of waiting for it.
    pub fn finish(mut self) -> io::Result<Result<(), String>> {
        if self.ended.get().is_none() {
            ptrace::detach(self.id, 0)?;
        }
        let mut said = String::new();
        let Some((mut child, _owned)) = self.child.take() else { return Ok(Ok(())) };
        if let Some(mut from) = child.stderr.take() {
            from.read_to_string(&mut said)?;
        }
        let well = match self.ended.get() {
            Some(ended) => ended == Status::Exited(0),
            None => child.wait()?.success(),
        };
        Ok(if well { Ok(()) } else { Err(said) })
    }

    /// Ends it on the spot.
    pub fn kill(mut self) {
        let _ = process::kill(self.id, libc::SIGKILL);
        while !matches!(wait::wait_for(self.id), Ok(Status::Killed(_) | Status::Exited(_)) | Err(_))
        {
        }
        if let Some((child, _)) = &mut self.child {
            let _ = child.wait();
        }
    }
}

/// What an engine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// It begins with the first PTRACE_SEIZE.
    Dump,
    /// It begins with the first clone(2) or clone3(2).
    Restore,
}

impl Work {
    fn begins(self, regs: &ptrace::Registers) -> bool {
        let call = regs.orig_rax as i64;
        match self {
            Self::Dump => call == libc::SYS_ptrace && regs.rdi == PTRACE_SEIZE,
            Self::Restore => [libc::SYS_clone3, libc::SYS_clone].contains(&call),
        }
    }
}

/// `stride`, or 1 with CRYOPOD_EVERY_STOP set in the environment: for what takes minutes.
#[must_use]
pub fn stride(stride: usize) -> usize {
    if std::env::var_os("CRYOPOD_EVERY_STOP").is_some() { 1 } else { stride }
}

/// Kills dumps of process `pid` at every `stride`-th stop of the engine from the first seize to
/// its end. The dumps go to a folder of images and have `more` options. `after` is called after each
/// death with the stop's number. How many stops there
/// were, and what the first dump that was let live came to.
///
/// # Errors
/// Those of tracing, and of `after`.
pub fn kill_dumps(
    engine: &Path,
    pid: u32,
    (images, more): (&Path, &[&str]),
    stride: usize,
    mut after: impl FnMut(usize) -> io::Result<()>,
) -> io::Result<(usize, Result<(), String>)> {
    let pid = pid.to_string();
    let args = [&["dump", "--leave-running", "--pid", &pid], more].concat();
    let mut stops = 0;
    loop {
        let engine = Doomed::start(engine, &args, images)?;
        if !engine.run_to(stops, Work::Dump)? {
            return Ok((stops, engine.finish()?));
        }
        engine.kill();
        after(stops)?;
        stops += stride;
    }
}
