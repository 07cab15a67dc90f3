//! The engine is killed before and after every system call between the first seize and the last
//! detach of a dump, over one and the same victim, which must be as before each time and come to
//! the right result at the end.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::PoisonError;
use std::time::Duration;

use cryopod_sys::wait::{self, Status};
use cryopod_sys::{process, ptrace};
use cryopod_testkit::{Running, Verdict, victim};

use crate::program;
use crate::victims::ALONE;

const PTRACE_SEIZE: u64 = 0x4206;
const PTRACE_DETACH: u64 = 17;

/// What a victim must look like after the engine died over it.
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

fn look(pid: u32) -> Option<Look> {
    let mut threads = Vec::new();
    let mut children = String::new();
    let mut tasks: Vec<_> =
        std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().collect();
    tasks.sort_by_key(std::fs::DirEntry::file_name);
    for task in tasks {
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        let stopped = matches!(field(&status, "State").chars().next(), Some('t' | 'T'));
        threads.push((field(&status, "TracerPid"), field(&status, "SigBlk"), stopped));
        children.push_str(&std::fs::read_to_string(task.path().join("children")).ok()?);
    }
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    Some(Look {
        threads,
        descriptors: descriptors.map(|e| e.file_name().to_string_lossy().into_owned()).collect(),
        maps: std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?,
        children,
    })
}

/// Starts an engine that waits to be traced, and traces it.
fn start(pid: u32, images: &Path) -> Child {
    let child = Command::new(program::path())
        .args(["dump", "--leave-running", "--stopped", "--pid", &pid.to_string(), "--images"])
        .arg(images)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the example `engine` is built with the tests");
    let id = child.id() as i32;
    let stopped = || std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap().contains(") T ");
    while !stopped() {
        std::thread::sleep(Duration::from_micros(200));
    }
    ptrace::seize(id, ptrace::O_TRACESYSGOOD).unwrap();
    ptrace::interrupt(id).unwrap();
    wait::wait_for(id).unwrap();
    process::kill(id, libc::SIGCONT).unwrap();
    child
}

fn end(mut child: Child) {
    let id = child.id() as i32;
    let _ = process::kill(id, libc::SIGKILL);
    while !matches!(wait::wait_for(id), Ok(Status::Killed(_) | Status::Exited(_)) | Err(_)) {}
    let _ = child.wait();
}

/// Lets the engine run to its `stop`-th stop at the entry or exit of a system call, counted from the
/// first seize, and kills it there; false when it had let go of everything before.
fn kill_at(stop: usize, pid: u32, images: &Path) -> bool {
    let child = start(pid, images);
    let id = child.id() as i32;
    let mut seen = 0;
    let (mut seized, mut detached) = (0, 0);
    let mut entry = true;
    ptrace::resume_to_syscall(id, 0).unwrap();
    let reached = loop {
        match wait::wait_for(id).unwrap() {
            Status::Syscall => {
                let regs = ptrace::registers(id).unwrap();
                let request = regs.orig_rax as i64 == libc::SYS_ptrace;
                if entry {
                    seized += usize::from(request && regs.rdi == PTRACE_SEIZE);
                } else {
                    detached += usize::from(request && regs.rdi == PTRACE_DETACH);
                }
                entry = !entry;
                if seized > 0 {
                    if seen == stop {
                        break true;
                    }
                    seen += 1;
                }
                if seized > 0 && detached >= seized {
                    break false;
                }
                ptrace::resume_to_syscall(id, 0).unwrap();
            }
            Status::Exited(_) | Status::Killed(_) => break false,
            Status::Signal(signal) if signal != libc::SIGCONT => {
                ptrace::resume_to_syscall(id, signal).unwrap();
            }
            _ => ptrace::resume_to_syscall(id, 0).unwrap(),
        }
    };
    end(child);
    reached
}

/// The look once every thread was scheduled again.
fn settle(pid: u32, before: &Look) -> Option<Look> {
    let mut now = look(pid);
    for _ in 0..2000 {
        if now.as_ref().is_none_or(|now| now == before) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
        now = look(pid);
    }
    now
}

fn dies_everywhere(name: &str) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let mut running = Running::ready(victim(name), &folder.path().join("run"), &[]).unwrap();
    let pid = running.pid();
    let before = look(pid).unwrap();
    let mut stops = 0;
    while kill_at(stops, pid, &images) {
        let after = settle(pid, &before);
        assert_eq!(Some(&before), after.as_ref(), "{name}, killed at stop {stops}");
        stops += 1;
    }
    println!("{name}: the engine was killed at each of {stops} stops");
    assert!(stops > 100, "only {stops} stops: the engine did not get far");
    let verdict = running.finish(Duration::from_secs(60)).unwrap();
    assert_eq!(verdict, Verdict::Ok, "{name}, after {stops} deaths of the engine");
}

#[test]
fn the_engine_may_die_at_any_system_call_over_one_thread() {
    dies_everywhere("counter_static");
}
