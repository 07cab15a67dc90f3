//! The engine is killed before and after every system call it makes: of a dump, from the first
//! seize to the last detach, always over the same program, which must be as before each time and
//! come to the right result at the end; of a restore, from its first process to the last detach,
//! after which nothing may be left.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cryopod_sys::wait::{self, Status};
use cryopod_sys::{process, ptrace};
use cryopod_testkit::{Fate, Owned, Running, Verdict, adopt, reap, victim, victims};

use crate::program;

const PTRACE_SEIZE: u64 = 0x4206;
const PTRACE_DETACH: u64 = 17;

/// What a program must look like after the engine died over it.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    /// By thread: tracer, blocked signals, whether it is stopped.
    threads: Vec<(String, String, bool)>,
    descriptors: BTreeSet<String>,
    maps: String,
    children: String,
}

fn field(text: &str, key: &str) -> String {
    let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
    line.trim_start_matches(':').trim().to_owned()
}

impl Look {
    fn at(pid: u32) -> io::Result<Self> {
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

    /// The look once every thread was scheduled again.
    fn settled(pid: u32, before: &Self) -> io::Result<Self> {
        let mut now = Self::at(pid)?;
        for _ in 0..2000 {
            if now == *before {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            now = Self::at(pid)?;
        }
        Ok(now)
    }
}

/// An engine that is traced from its first step.
struct Doomed {
    child: Child,
    _owned: Owned,
}

impl Doomed {
    fn start(args: &[&str], images: &Path) -> io::Result<Self> {
        let mut command = Command::new(program::path());
        command.args(args).arg("--stopped").arg("--images").arg(images);
        command.env("RUST_BACKTRACE", "0");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let (child, owned) = Owned::start(|| command.spawn(), Child::id)?;
        let id = child.id() as i32;
        while !std::fs::read_to_string(format!("/proc/{id}/stat"))?.contains(") T ") {
            std::thread::sleep(Duration::from_micros(200));
        }
        ptrace::seize(id, ptrace::O_TRACESYSGOOD)?;
        ptrace::interrupt(id)?;
        wait::wait_for(id)?;
        process::kill(id, libc::SIGCONT)?;
        Ok(Self { child, _owned: owned })
    }

    /// Lets it run to its `stop`-th stop at the entry or exit of a system call, counted from the
    /// first one that `begins`; false when it had let go of everything before, or ended.
    fn run_to(&self, stop: usize, begins: fn(&ptrace::Registers) -> bool) -> io::Result<bool> {
        let id = self.child.id() as i32;
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
                        begun |= begins(&regs);
                        seized += usize::from(request && regs.rdi == PTRACE_SEIZE);
                    } else {
                        detached += usize::from(request && regs.rdi == PTRACE_DETACH);
                    }
                    entry = !entry;
                    if begun {
                        if seen == stop {
                            return Ok(true);
                        }
                        seen += 1;
                    }
                    if seized > 0 && detached >= seized {
                        return Ok(false);
                    }
                    ptrace::resume_to_syscall(id, 0)?;
                }
                Status::Exited(_) | Status::Killed(_) => return Ok(false),
                Status::Signal(signal) if signal != libc::SIGCONT => {
                    ptrace::resume_to_syscall(id, signal)?;
                }
                _ => ptrace::resume_to_syscall(id, 0)?,
            }
        }
    }

    /// Lets it go on to its end; what it complained about.
    fn finish(mut self) -> io::Result<Result<(), String>> {
        ptrace::detach(self.child.id() as i32, 0)?;
        let mut said = String::new();
        if let Some(mut from) = self.child.stderr.take() {
            from.read_to_string(&mut said)?;
        }
        Ok(if self.child.wait()?.success() { Ok(()) } else { Err(said) })
    }

    fn kill(mut self) {
        let id = self.child.id() as i32;
        let _ = process::kill(id, libc::SIGKILL);
        while !matches!(wait::wait_for(id), Ok(Status::Killed(_) | Status::Exited(_)) | Err(_)) {}
        let _ = self.child.wait();
    }
}

fn seizes(regs: &ptrace::Registers) -> bool {
    regs.orig_rax as i64 == libc::SYS_ptrace && regs.rdi == PTRACE_SEIZE
}

/// Kills a dump of this victim everywhere; how many times, and what the dump came to in the end.
fn dump_dies_everywhere(name: &str) -> io::Result<(usize, Result<(), String>)> {
    let folder = tempfile::tempdir()?;
    let images = folder.path().join("images");
    std::fs::create_dir(&images)?;
    let mut running =
        Running::ready(victim(name), &folder.path().join("run"), &[]).map_err(io::Error::other)?;
    let pid = running.pid();
    let args = ["dump", "--leave-running", "--pid", &pid.to_string()];
    let before = Look::at(pid)?;
    let mut stops = 0;
    let outcome = loop {
        let engine = Doomed::start(&args, &images)?;
        if !engine.run_to(stops, seizes)? {
            break engine.finish()?;
        }
        engine.kill();
        let after = Look::settled(pid, &before)?;
        assert_eq!(before, after, "{name}, killed at stop {stops}");
        stops += 1;
    };
    println!("{name}: the engine was killed at each of {stops} stops");
    let verdict = running.finish(Duration::from_secs(60)).map_err(io::Error::other)?;
    assert_eq!(verdict, Verdict::Ok, "{name}, after {stops} deaths of the engine");
    Ok((stops, outcome))
}

macro_rules! deaths {
    ($($test:ident $victim:literal;)*) => {$(
        #[test]
        fn $test() {
            let (stops, outcome) = dump_dies_everywhere($victim).unwrap();
            assert_eq!(outcome, Ok(()), "the first dump that was let live, after {stops} deaths");
        }
    )*};
}

deaths! {
    the_engine_may_die_anywhere_over_one_thread "counter_static";
    the_engine_may_die_anywhere_over_threads_that_wait "waits";
    the_engine_may_die_anywhere_over_restartable_sequences "rseq";
    the_engine_may_die_anywhere_over_extended_registers "avx_loop";
    the_engine_may_die_anywhere_over_goroutine_like_stacks "goroutines";
    the_engine_may_die_anywhere_over_filters_that_answer "seccomp_filter";
}

#[test]
fn the_engine_may_die_anywhere_over_a_filter_that_kills() {
    let (_, outcome) = dump_dies_everywhere("seccomp_kill").unwrap();
    let said = outcome.unwrap_err();
    assert!(said.contains("seccomp filter"), "{said}");
}

/// Victims whose refusal shows only in a stopped task, or needs a descriptor taken.
const LATE: &[&str] = &["seccomp_kill", "netlink_waiting", "unix_backlog", "mqueue"];

/// Whether a dump of this victim stopped anything.
fn stops_for(name: &str) -> io::Result<bool> {
    let folder = tempfile::tempdir()?;
    let images = folder.path().join("images");
    std::fs::create_dir(&images)?;
    let running =
        Running::ready(victim(name), &folder.path().join("run"), &[]).map_err(io::Error::other)?;
    let args = ["dump", "--leave-running", "--pid", &running.pid().to_string()];
    let engine = Doomed::start(&args, &images)?;
    let stops = engine.run_to(0, seizes)?;
    engine.kill();
    Ok(stops)
}

#[test]
fn what_is_not_carried_is_refused_before_anything_is_stopped() {
    let refused = victims().iter().filter(|v| matches!(v.fate, Fate::Refused(_)));
    let late: Vec<&str> = refused
        .map(|v| v.name)
        .filter(|name| stops_for(name).unwrap() != LATE.contains(name))
        .collect();
    assert!(late.is_empty(), "not as listed: {late:?}");
}

fn makes_a_process(regs: &ptrace::Registers) -> bool {
    [libc::SYS_clone3, libc::SYS_clone].contains(&(regs.orig_rax as i64))
}

/// Names and sizes of the files in a folder.
fn listing(folder: &Path) -> io::Result<BTreeSet<(std::ffi::OsString, u64)>> {
    let entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.into_iter().map(|e| Ok((e.file_name(), e.metadata()?.len()))).collect()
}

/// Kills a restore of this victim at every `stride`-th stop before its threads are let go; how many
/// times. With CRYOPOD_EVERY_STOP set in the environment at every one, which takes minutes.
fn restore_dies(name: &str, stride: usize) -> io::Result<usize> {
    let stride = if std::env::var_os("CRYOPOD_EVERY_STOP").is_some() { 1 } else { stride };
    let folder = tempfile::tempdir()?;
    let images = folder.path().join("images");
    std::fs::create_dir(&images)?;
    let mut running =
        Running::ready(victim(name), &folder.path().join("run"), &[]).map_err(io::Error::other)?;
    program::dump(running.pid(), &images, false).map_err(io::Error::other)?;
    running.kill();
    let work = listing(&running.place().work())?;
    let dumped = listing(&images)?;
    let proc = Path::new("/proc").join(running.pid().to_string());
    let mut stops = 0;
    let outcome = loop {
        let engine = Doomed::start(&["restore"], &images)?;
        if !engine.run_to(stops, makes_a_process)? {
            break engine.finish()?;
        }
        engine.kill();
        for _ in 0..2000 {
            reap();
            if !proc.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!proc.exists(), "{name}, killed at stop {stops}: it is still there");
        assert_eq!(listing(&running.place().work())?, work, "{name}, killed at stop {stops}");
        assert_eq!(listing(&images)?, dumped, "{name}, killed at stop {stops}");
        stops += stride;
    };
    println!("{name}: the engine was killed at each {stride}. of {stops} stops of a restore");
    assert_eq!(outcome, Ok(()), "the first restore that was let live, after {stops} deaths");
    running.place().go().map_err(io::Error::other)?;
    let verdict = running.place().await_verdict(running.pid(), Duration::from_secs(60));
    assert_eq!(verdict.map_err(io::Error::other)?, Verdict::Ok);
    Ok(stops)
}

#[test]
fn nothing_is_left_wherever_the_engine_dies_in_a_restore() {
    adopt().unwrap();
    assert!(restore_dies("counter_static", 23).unwrap() > 500);
}

#[test]
fn nothing_is_left_wherever_the_engine_dies_in_a_restore_of_threads() {
    adopt().unwrap();
    assert!(restore_dies("threads", 97).unwrap() > 500);
}
