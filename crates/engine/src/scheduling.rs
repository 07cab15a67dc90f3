//! Scheduling of a thread: policy, priority, nice value, i/o priority, allowed cpus, timer slack, and
//! what it does about broken memory (PR_MCE_KILL).
//!
//! All of it is read and, but for what only the thread itself can set, made again from outside. The
//! allowed cpus are kept when they are fewer than the cpuset's: then the thread, or whoever started
//! it, chose them. At restore those of them are taken that are there. Refused: the deadline policy.

use std::io;

use cryopod_images::msg;
use cryopod_sys::sched;
use rustix::thread::{CpuSet, Pid};

use crate::error::{DumpError, RestoreError};
use crate::inject::calls::Scratch;
use crate::inject::{Remote, Space};
use crate::proc;
use crate::proc::stat::Stat;

/// Bits of /proc/PID/stat's flags: a policy was chosen, and it is "early" (PR_MCE_KILL(2const)).
const PF_MCE_PROCESS: u64 = 0x80;
const PF_MCE_EARLY: u64 = 0x0800_0000;
const PR_MCE_KILL: i32 = 33;
const PR_MCE_KILL_SET: u64 = 1;
const RESET_ON_FORK: u32 = 0x4000_0000;
/// SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE.
const CARRIED: [u32; 5] = [0, 1, 2, 3, 5];

/// What the kernel says of one thread.
#[derive(Debug, Default)]
pub struct Scheduling {
    /// Policy with SCHED_RESET_ON_FORK.
    pub policy: u32,
    /// Words of 64 cpus each; empty: all that the cpuset has.
    pub cpus: Vec<u64>,
    /// As ioprio_get(2) gives it.
    pub io_priority: Option<u32>,
    /// In nanoseconds; none for real-time threads.
    pub timer_slack: Option<u64>,
    /// PR_MCE_KILL_LATE (0) or PR_MCE_KILL_EARLY (1).
    pub memory_failure: Option<u32>,
}

fn words(set: &CpuSet) -> Vec<u64> {
    let mut words = vec![0u64; CpuSet::MAX_CPU.div_ceil(64)];
    for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)) {
        words[cpu / 64] |= 1 << (cpu % 64);
    }
    while words.last() == Some(&0) {
        words.pop();
    }
    words
}

fn set_of(words: &[u64]) -> CpuSet {
    let mut set = CpuSet::new();
    let cpus = (0..CpuSet::MAX_CPU).take(words.len() * 64);
    for cpu in cpus.filter(|cpu| words[cpu / 64] & 1 << (cpu % 64) != 0) {
        set.set(cpu);
    }
    set
}

/// `0-3,8`, as the kernel lists cpus.
fn parse_list(text: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        for cpu in from.parse::<usize>().ok()?..=to.parse().ok()? {
            if cpu < CpuSet::MAX_CPU {
                set.set(cpu);
            }
        }
    }
    Some(set)
}

/// The cpus that a process may be given at all: its cpuset's, or all that are online.
fn available(pid: i32) -> Option<CpuSet> {
    let groups = String::from_utf8(proc::read(&format!("{pid}/cgroup")).ok()?).ok()?;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let (roots, file): (&[&str], _) = if controllers.is_empty() {
            (&["/sys/fs/cgroup", "/sys/fs/cgroup/unified"], "cpuset.cpus.effective")
        } else if controllers.split(',').any(|c| c == "cpuset") {
            (&["/sys/fs/cgroup/cpuset"], "cpuset.effective_cpus")
        } else {
            continue;
        };
        let own = std::path::Path::new(path);
        for dir in roots.iter().flat_map(|root| own.ancestors().map(move |p| (root, p))) {
            let (root, path) = dir;
            let name = format!("{root}{}/{file}", path.display());
            if let Ok(text) = std::fs::read_to_string(name) {
                return parse_list(&text);
            }
        }
    }
    parse_list(&std::fs::read_to_string("/sys/devices/system/cpu/online").ok()?)
}

/// Reads the scheduling of a thread. `Ok(Err(..))` is what cannot be carried.
///
/// # Errors
/// Those of reading it.
pub fn dump(pid: i32, tid: i32, stat: &Stat) -> Result<Result<Scheduling, String>, DumpError> {
    let kernel = |source| DumpError::Kernel { pid, what: "cannot read its scheduling", source };
    let policy = sched::policy(tid).map_err(kernel)?;
    if !CARRIED.contains(&(policy & !RESET_ON_FORK)) {
        let number = policy & !RESET_ON_FORK;
        return Ok(Err(format!(
            "thread {tid} with scheduling policy {number} (a deadline or the like)"
        )));
    }
    let allowed =
        rustix::thread::sched_getaffinity(Pid::from_raw(tid)).map_err(|e| kernel(e.into()))?;
    let chosen = available(pid).is_some_and(|all| all != allowed);
    let slack = proc::read(&format!("{tid}/timerslack_ns"))?;
    let slack = String::from_utf8_lossy(&slack).trim().parse().ok();
    let io_priority = sched::io_priority(tid).map_err(kernel)?;
    Ok(Ok(Scheduling {
        policy,
        cpus: if chosen { words(&allowed) } else { Vec::new() },
        io_priority: (io_priority != 0).then_some(io_priority),
        timer_slack: slack.filter(|ns| *ns != 0),
        memory_failure: (stat.flags & PF_MCE_PROCESS != 0)
            .then(|| u32::from(stat.flags & PF_MCE_EARLY != 0)),
    }))
}

/// Sets what can be set from outside: allowed cpus and i/o priority of the thread with host id
/// `host`, `tid` inside. With `clamp`, a choice of cpus that has none left is forgotten.
///
/// # Errors
/// A refusal when none of the cpus is there; what the kernel said.
pub fn restore_outside(
    state: &msg::ThreadCoreEntry,
    tid: i32,
    host: i32,
    clamp: bool,
) -> Result<(), RestoreError> {
    let kernel = |what: &str, source: io::Error| RestoreError::Kernel {
        pid: tid,
        what: format!("cannot set its {what}"),
        source,
    };
    if let Some(value) = state.io_priority {
        sched::set_io_priority(host, value).map_err(|e| kernel("i/o priority", e))?;
    }
    if state.cpus.is_empty() {
        return Ok(());
    }
    let id = Pid::from_raw(host);
    let here = rustix::thread::sched_getaffinity(id).map_err(|e| kernel("cpus", e.into()))?;
    let wanted: Vec<u64> =
        words(&here).iter().zip(&state.cpus).map(|(here, was)| here & was).collect();
    let wanted = set_of(&wanted);
    if wanted.count() == 0 {
        if clamp {
            return Ok(());
        }
        return Err(RestoreError::Refused {
            pid: tid,
            what: "none of the cpus it may run on is there".into(),
            way_out: "restore it with those cpus, or with clamping",
        });
    }
    rustix::thread::sched_setaffinity(id, &wanted).map_err(|e| kernel("cpus", e.into()))
}

/// Sets what the thread itself must set: timer slack, policy, priority, nice value.
///
/// # Errors
/// Those of the remote calls.
pub fn restore(
    state: &msg::ThreadCoreEntry,
    remote: &mut Remote,
    space: &Space,
    scratch: Scratch,
) -> io::Result<()> {
    // Before the policy: a real-time thread has no timer slack.
    if let Some(ns) = state.timer_slack {
        remote.prctl(libc::PR_SET_TIMERSLACK, [ns, 0, 0, 0])?;
    }
    if let Some(policy) = state.memory_failure {
        remote.prctl(PR_MCE_KILL, [PR_MCE_KILL_SET, u64::from(policy), 0, 0])?;
    }
    let policy = state.sched_policy.unwrap_or(0);
    let priority = state.sched_prio.unwrap_or(0);
    let args = [0, u64::from(policy), 0, 0, 0, 0];
    let priority = priority.to_le_bytes();
    remote.call_in(space, scratch, libc::SYS_sched_setscheduler, args, 2, &priority)?;
    let nice = i64::from(state.sched_nice.unwrap_or(0)) as u64;
    remote.call(libc::SYS_setpriority, [libc::PRIO_PROCESS.into(), 0, nice, 0, 0, 0]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cpus_and_its_words_are_the_same() {
        let set = parse_list("0-2,64,70-71\n").unwrap();
        assert_eq!(words(&set), vec![0b111, 0b1100_0001]);
        assert_eq!(set_of(&words(&set)), set);
        assert!(parse_list("0-x").is_none());
        assert_eq!(words(&parse_list("").unwrap()), Vec::<u64>::new());
    }

    #[test]
    fn a_thread_without_a_choice_of_cpus_has_none() {
        let pid = std::process::id() as i32;
        let stat = proc::stat::of(pid, pid).unwrap();
        let dumped = dump(pid, pid, &stat).unwrap().unwrap();
        assert_eq!(dumped.policy, 0);
        assert!(dumped.timer_slack.is_some());
    }
}
