//! Processes of containers, as the machine sees them.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Every process there is now.
pub(crate) fn all() -> impl Iterator<Item = u32> {
    let listing = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    listing.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The first process of a container: process 1 of its pid namespace, of this name (`comm`), somewhere below a cgroup of
/// this name. With several the one that was started last.
pub(crate) fn first(cgroup: &str, comm: &str) -> Option<u32> {
    let mut found: Vec<(u64, u32)> = all()
        .filter(|pid| {
            let text = |file: &str| {
                std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
            };
            text("comm").trim_end() == comm
                && text("cgroup").contains(cgroup)
                && text("status").lines().any(|line| {
                    line.strip_prefix("NSpid:").is_some_and(|numbers| {
                        let numbers: Vec<&str> = numbers.split_whitespace().collect();
                        numbers.len() > 1 && numbers.last() == Some(&"1")
                    })
                })
        })
        .map(|pid| (started(pid), pid))
        .collect();
    found.sort_unstable();
    found.last().map(|(_, pid)| *pid)
}

/// When it was started, in ticks since the machine's start (proc_pid_stat(5), field 22).
fn started(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    after.split(' ').nth(19).and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Its parent.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Its session.
pub(crate) fn session(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(3)?.parse().ok()
}

/// Its command line, word by word.
pub(crate) fn words(pid: u32) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into());
    words.collect()
}

/// Sends a signal.
pub(crate) fn signal(pid: u32, signal: Signal) -> Result<()> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no pid")?;
    kill_process(raw, signal).with_context(|| format!("signal process {pid}"))
}

/// The folder of its memory cgroup: of cgroup v1's hierarchy, or v2's.
pub(crate) fn memory_cgroup(pid: u32) -> Result<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let of = |controller: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let names = fields.next()?;
            (names.split(',').any(|name| name == controller)).then(|| fields.next())?
        })
    };
    let folder = match (of("memory"), of("")) {
        (Some(path), _) => format!("/sys/fs/cgroup/memory{path}"),
        (None, Some(path)) => format!("/sys/fs/cgroup{path}"),
        (None, None) => anyhow::bail!("process {pid} is in no memory cgroup"),
    };
    Ok(folder.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_parent_and_a_start() {
        let own = std::process::id();
        assert_eq!(parent(own), Some(std::os::unix::process::parent_id()));
        assert!(started(own) > 0);
        assert!(all().any(|pid| pid == own));
        assert!(!words(own).is_empty());
    }
}
