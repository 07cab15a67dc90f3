//! A container at 95 % of its memory limit, which writes 1,000 pages a second all the time: it is checkpointed, and the
//! kernel kills nobody for want of memory.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::{Choice, Outcome};
use crate::bench::ticks;
use crate::processes;
use crate::stand::Stand;

const CHECKPOINTS: usize = 20;

/// The least share of the limit that must be used.
const SHARE: f64 = 0.95;

const NAME: &str = "limit";

pub(super) fn run(stand: &Stand<'_>, choice: &Choice, outcome: &mut Outcome) -> Result<()> {
    let limit = choice.phases.first().map_or(256, |(mib, _)| *mib);
    let count = choice.phases.first().map_or(CHECKPOINTS, |(_, count)| (*count).min(CHECKPOINTS));
    // What the kernel itself needs for the container comes on top.
    let mib = (limit as f64 * SHARE).ceil() as u64;
    let (memory, size) = (format!("{limit}M"), mib.to_string());
    let options = ["--network", "host", "--memory", &memory];
    let begun = ticks::now();
    stand.begin(NAME, &options, &["/ticker", &size, "writes"])?;
    ticking(stand, begun)?;
    let first = processes::first(&stand.cgroup(), "ticker").context("no ticker runs")?;
    let cgroup = processes::memory_cgroup(first)?;
    let before = kills(&cgroup)?;
    let (mut least, mut most) = (f64::MAX, 0f64);
    for number in 1..=count {
        let share = used(&cgroup)? / (limit as f64 * f64::from(1 << 20));
        ensure!(share >= SHARE, "only {:.1} % of the limit are used", 100.0 * share);
        (least, most) = (least.min(share), most.max(share));
        let archive = stand.folder().join("limit.tar");
        let to = archive.to_str().context("the folder's path is not UTF-8")?;
        let answer =
            stand.run(&["checkpoint", &format!("default/{NAME}/{NAME}"), "--archive", to])?;
        if !answer.status.success() {
            outcome.failed(format!("checkpoint {number}: {}: {}", answer.status, answer.text));
        }
        if archive.exists() {
            std::fs::remove_file(&archive)?;
        }
        if let Err(error) = ticking(stand, ticks::now()) {
            outcome.failed(format!("after checkpoint {number}: {error:#}"));
            break;
        }
    }
    // Who was killed left the cgroup behind, unless it was removed since.
    let after = kills(&cgroup).unwrap_or(u64::MAX);
    if after != before {
        outcome.failed(format!(
            "processes of the container killed for want of memory: {before} became {after}"
        ));
    }
    let now = processes::first(&stand.cgroup(), "ticker");
    if now != Some(first) {
        outcome.failed(format!("process {first} became {now:?}"));
    }
    outcome.told(format!(
        "limit {limit} MiB, {:.1} to {:.1} % of it used, 1,000 pages a second written: {count} checkpoints, {} killed for want of \
         memory",
        100.0 * least,
        100.0 * most,
        after.saturating_sub(before),
    ));
    stand.run(&["rm", "--force", &format!("default/{NAME}")]).map(drop)
}

/// Waits until it ticks after a moment.
fn ticking(stand: &Stand<'_>, after: i64) -> Result<()> {
    stand.wait("the ticker", || {
        let all = stand.lines(NAME)?;
        let later = all.iter().rev().take(5).any(|line| {
            let at = line.split(' ').next().and_then(|word| word.parse::<i64>().ok());
            at.is_some_and(|at| at > after)
        });
        Ok(later.then_some(()))
    })
}

/// Bytes that count against the limit.
fn used(cgroup: &Path) -> Result<f64> {
    let read = |name: &str| std::fs::read_to_string(cgroup.join(name));
    let text = read("memory.usage_in_bytes").or_else(|_| read("memory.current"));
    let text = text.with_context(|| cgroup.display().to_string())?;
    Ok(text.trim().parse::<u64>()? as f64)
}

/// How many of its processes were killed for want of memory.
fn kills(cgroup: &Path) -> Result<u64> {
    let read = |name: &str| std::fs::read_to_string(cgroup.join(name));
    let text = read("memory.oom_control").or_else(|_| read("memory.events"));
    count(&text.with_context(|| cgroup.display().to_string())?)
}

fn count(text: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    Ok(line.context("the cgroup does not count kills")?.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_in_both_hierarchies() {
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n").unwrap(), 3);
        assert_eq!(count("low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\n").unwrap(), 1);
        assert!(count("oom_kill_disable 0\n").is_err());
    }
}
