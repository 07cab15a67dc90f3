//! Orphans of victims: adopted and reaped, since a zombie keeps its pid, and the pids of its group
//! and session, from being restored.

#![allow(unsafe_code, reason = "two calls without pointers that outlive them")]

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Children of this process that somebody waits for.
static OWNED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// A child that [`reap`] leaves alone while this lives.
#[derive(Debug)]
pub struct Owned(u32);

impl Owned {
    /// Starts a child while nobody reaps, and notes its pid, which `pid` tells.
    pub fn start<T, E>(
        start: impl FnOnce() -> Result<T, E>,
        pid: impl FnOnce(&T) -> u32,
    ) -> Result<(T, Self), E> {
        let mut owned = OWNED.lock().unwrap_or_else(PoisonError::into_inner);
        let child = start()?;
        let pid = pid(&child);
        owned.insert(pid);
        Ok((child, Self(pid)))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        OWNED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// Makes this process the parent of orphans below it (PR_SET_CHILD_SUBREAPER), so that [`reap`] can
/// free their pids at once.
///
/// # Errors
/// Those of prctl(2).
pub fn adopt() -> std::io::Result<()> {
    // SAFETY: integers only.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } == -1 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Reaps every ended child of this process that nobody owns, waiting a little for those that are
/// just ending.
pub fn reap() {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(2) {
        let owned = OWNED.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = false;
        for pid in children().into_iter().filter(|pid| !owned.contains(pid)) {
            let mut status = 0;
            // SAFETY: `status` is a live int.
            let lives = unsafe { libc::waitpid(pid as i32, &raw mut status, libc::WNOHANG) } == 0;
            left |= lives && is_ending(pid);
        }
        drop(owned);
        if !left {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process has been killed, or is on its way out.
fn is_ending(pid: u32) -> bool {
    const KILLED: u64 = 1 << (libc::SIGKILL - 1);
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    let field = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).map_or("", str::trim);
    let pending = |key| u64::from_str_radix(field(key), 16).unwrap_or(0) & KILLED != 0;
    // The mappings go before the process does.
    let gone = field("State:").starts_with(['Z', 'X']) || !status.contains("VmSize:");
    gone || pending("SigPnd:") || pending("ShdPnd:")
}

fn children() -> Vec<u32> {
    let mut found = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    found
}
