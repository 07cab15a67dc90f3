//! /proc/PID/status: identity, credentials, signal sets.

use super::{field, malformed, read};
use crate::error::DumpError;

/// What the engine takes from a status file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// comm as it is shown, odd bytes escaped; [`comm`] has the bytes.
    pub name: String,
    /// State letter: R, S, D, T, t, Z, X.
    pub state: char,
    /// Thread group id as the reader sees it.
    pub tgid: i32,
    /// Parent's pid as the reader sees it.
    pub ppid: i32,
    /// Tracer's pid, 0 when none.
    pub tracer: i32,
    /// Pids from the reader's namespace inwards.
    pub ns_tgid: Vec<i32>,
    /// Thread ids from the reader's namespace inwards.
    pub ns_pid: Vec<i32>,
    /// Process group ids from the reader's namespace inwards.
    pub ns_pgid: Vec<i32>,
    /// Session ids from the reader's namespace inwards.
    pub ns_sid: Vec<i32>,
    /// Real, effective, saved, filesystem user ids.
    pub uid: [u32; 4],
    /// Real, effective, saved, filesystem group ids.
    pub gid: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// File mode creation mask.
    pub umask: u32,
    /// Number of threads.
    pub threads: u32,
    /// Signals with a handler (bit 0: signal 1).
    pub caught: u64,
    /// Signals ignored.
    pub ignored: u64,
    /// Signals blocked.
    pub blocked: u64,
    /// Signals pending for the thread.
    pub pending: u64,
    /// Signals pending for the process.
    pub shared_pending: u64,
    /// Capability sets: inheritable, permitted, effective, bounding, ambient.
    pub capabilities: Capabilities,
    /// No new privileges.
    pub no_new_privs: bool,
    /// 0: off, 1: strict, 2: filter.
    pub seccomp: u32,
    /// Transparent huge pages enabled for the process.
    pub thp_enabled: bool,
    /// Core dumping in progress.
    pub core_dumping: bool,
}

/// The capability sets as bit masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// CapInh.
    pub inheritable: u64,
    /// CapPrm.
    pub permitted: u64,
    /// CapEff.
    pub effective: u64,
    /// CapBnd.
    pub bounding: u64,
    /// CapAmb.
    pub ambient: u64,
}

fn numbers<T: std::str::FromStr>(value: &str) -> Option<Vec<T>> {
    value.split_whitespace().map(|n| n.parse().ok()).collect()
}

fn four(value: &str) -> Option<[u32; 4]> {
    numbers(value)?.try_into().ok()
}

fn parse_fields(text: &str) -> Option<Status> {
    let get = |key: &str| field(text, key);
    let mask = |key: &str| u64::from_str_radix(get(key)?, 16).ok();
    let state = get("State")?.chars().next()?;
    Some(Status {
        name: get("Name")?.to_owned(),
        state,
        tgid: get("Tgid")?.parse().ok()?,
        ppid: get("PPid")?.parse().ok()?,
        tracer: get("TracerPid")?.parse().ok()?,
        ns_tgid: numbers(get("NStgid")?)?,
        ns_pid: numbers(get("NSpid")?)?,
        ns_pgid: numbers(get("NSpgid")?)?,
        ns_sid: numbers(get("NSsid")?)?,
        uid: four(get("Uid")?)?,
        gid: four(get("Gid")?)?,
        groups: numbers(get("Groups")?)?,
        umask: get("Umask").and_then(|v| u32::from_str_radix(v, 8).ok()).unwrap_or(0o022),
        threads: get("Threads")?.parse().ok()?,
        caught: mask("SigCgt")?,
        ignored: mask("SigIgn")?,
        blocked: mask("SigBlk")?,
        pending: mask("SigPnd")?,
        shared_pending: mask("ShdPnd")?,
        capabilities: Capabilities {
            inheritable: mask("CapInh")?,
            permitted: mask("CapPrm")?,
            effective: mask("CapEff")?,
            bounding: mask("CapBnd")?,
            ambient: mask("CapAmb")?,
        },
        no_new_privs: get("NoNewPrivs")? == "1",
        seccomp: get("Seccomp").map_or(Some(0), |v| v.parse().ok())?,
        thp_enabled: get("THP_enabled") != Some("0"),
        core_dumping: get("CoreDumping") == Some("1"),
    })
}

/// The name of a thread, as bytes.
///
/// # Errors
/// [`DumpError::Proc`].
pub fn comm(pid: i32, tid: i32) -> Result<Vec<u8>, DumpError> {
    let mut name = read(&format!("{pid}/task/{tid}/comm"))?;
    // The line end is the kernel's; a name may hold others.
    if name.last() == Some(&b'\n') {
        name.pop();
    }
    Ok(name)
}

/// Reads the status of a process or thread: `of(pid, tid)`.
///
/// # Errors
/// [`DumpError::Proc`].
pub fn of(pid: i32, tid: i32) -> Result<Status, DumpError> {
    let name = format!("{pid}/task/{tid}/status");
    let text = read(&name)?;
    parse_fields(&String::from_utf8_lossy(&text))
        .ok_or_else(|| malformed(&name, "a field is missing or malformed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_itself() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let status = of(pid, pid).unwrap();
        assert_eq!(status.tgid, pid);
        assert_eq!(status.ns_tgid.first(), Some(&pid));
        assert!(status.threads >= 1);
    }
}
