//! How long a container stands still: idle, writing 1,000 pages a second, writing 200 MB a second.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::figures::{cell, median, mib};
use super::{Choice, How, Results, Runtime, begin_ticker, sync, ticks, wait, written};

const SECOND: i64 = 1_000_000_000;

/// What the container does beside ticking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Load {
    #[default]
    Idle,
    /// 1,000 pages a second, from 8 threads.
    Writes,
    /// 200 MB a second, from 8 threads.
    Heavy,
}

impl Load {
    /// The ticker's word, and the name in the tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Load::Idle => "idle",
            Load::Writes => "writes",
            Load::Heavy => "heavy",
        }
    }

    /// Whether it is measured with so much memory: what is asked is 1 GiB and, but for the heaviest, 4 GiB. The smallest of
    /// a session has them too when that is all there is.
    fn applies(self, size: u64, sizes: &[u64]) -> bool {
        let only_small = sizes.iter().all(|size| *size < 1024);
        match self {
            Load::Idle => true,
            Load::Writes => size >= 1024 || only_small,
            Load::Heavy => size == 1024 || only_small,
        }
    }
}

/// One run.
#[derive(Debug, Clone, Default)]
pub(super) struct Run {
    pub(super) runtime: &'static str,
    pub(super) mib: u64,
    pub(super) load: Load,
    /// Longest gap in the second before, in microseconds: what the machine does by itself.
    pub(super) quiet: u64,
    /// Longest gap around the request, in microseconds.
    pub(super) gap: u64,
    /// The whole request, in microseconds.
    pub(super) request: u64,
    /// Bytes written for the request.
    pub(super) written: i64,
    /// The archive's size in bytes.
    pub(super) archive: u64,
    /// Pages a second the load wrote in the second before, and during the request.
    pub(super) pace: [u64; 2],
    /// From the request of a restore to the first look after it, in microseconds; only measured idle.
    pub(super) restore: Option<u64>,
    /// Why there was none.
    pub(super) trouble: Option<String>,
}

impl Run {
    pub(super) fn json(&self) -> Value {
        json!({
            "runtime": self.runtime, "mib": self.mib, "load": self.load.name(),
            "quiet_us": self.quiet, "gap_us": self.gap, "request_us": self.request,
            "written_bytes": self.written, "archive_bytes": self.archive,
            "pages_per_second": self.pace, "restore_us": self.restore,
            "restore_error": self.trouble,
        })
    }
}

/// All runtimes side by side, so that what else the machine does is the same for all.
pub(super) fn measure(
    choice: &Choice,
    ours: &mut dyn Runtime,
    peers: &mut [Box<dyn Runtime + '_>],
    end: Instant,
    results: &mut Results,
) {
    for mib in &choice.sizes {
        for load in [Load::Idle, Load::Writes, Load::Heavy] {
            if load.applies(*mib, &choice.sizes) {
                cells(ours, (*mib, load), choice.runs, end, results);
            }
        }
        let count = if *mib >= 4096 { choice.large_peer_runs } else { choice.peer_runs };
        for peer in &mut *peers {
            cells(peer.as_mut(), (*mib, Load::Idle), count, end, results);
        }
    }
}

/// Runs that fail are told and left out. After `end` there is but one more run.
fn cells(
    runtime: &mut dyn Runtime,
    (mib, load): (u64, Load),
    count: usize,
    end: Instant,
    results: &mut Results,
) {
    for number in 1..=count {
        if number > 1 && Instant::now() > end {
            println!("{}: no time for more runs", runtime.name());
            return;
        }
        match once(runtime, mib, load) {
            Ok(run) => {
                println!(
                    "{:<22} {mib:>5} MiB {:<6} run {number:>2}: gap {:>9.1} ms (before: {:.1}), request {:>9.1} ms, \
                     written {:>8.1} MiB, restore {}",
                    run.runtime,
                    load.name(),
                    run.gap as f64 / 1e3,
                    run.quiet as f64 / 1e3,
                    run.request as f64 / 1e3,
                    run.written as f64 / f64::from(1 << 20),
                    match (run.restore, &run.trouble) {
                        (Some(time), _) => format!("{:.1} ms", time as f64 / 1e3),
                        (None, why) => why.clone().unwrap_or_else(|| "not asked".to_owned()),
                    },
                );
                results.gaps.push(run);
            }
            Err(error) => {
                let which = format!("{} with {mib} MiB, {}", runtime.name(), load.name());
                results.note(format!("{which}: run {number} failed: {error:#}"));
            }
        }
        if let Err(error) = runtime.destroy() {
            println!("{}: {error:#}", runtime.name());
        }
    }
}

fn once(runtime: &mut dyn Runtime, mib: u64, load: Load) -> Result<Run> {
    let mut run = Run { runtime: runtime.name(), mib, load, ..Run::default() };
    begin_ticker(runtime, &[&mib.to_string(), load.name()])?;
    // What is dirty from before is not ours to wait for.
    sync()?;
    std::thread::sleep(Duration::from_millis(1200));

    let before = runtime.written()? + written::own()?;
    let asked = ticks::now();
    let (archive, request) = runtime.checkpoint()?;
    let answered = ticks::now();
    run.request = u64::try_from(request.as_micros())?;
    wait(Duration::from_secs(60), "it to go on", || {
        let all = ticks::read(&runtime.logs()?, answered)?;
        Ok(all.iter().any(|tick| tick.at > answered + SECOND / 3))
    })?;
    run.written = runtime.written()? + written::own()? - before;
    run.archive = archive.metadata().with_context(|| archive.display().to_string())?.len();
    let all = ticks::read(&runtime.logs()?, asked - SECOND)?;
    let within = |from: i64, to: i64| all.iter().filter(move |t| (from..to).contains(&t.at));
    let longest = |from: i64, to: i64| within(from, to).map(|tick| tick.gap).max();
    let pace = |from: i64, to: i64| {
        let pages: u64 = within(from, to).map(|tick| tick.pages).sum();
        (pages as f64 / (to - from).max(1) as f64 * SECOND as f64) as u64
    };
    run.quiet = longest(asked - SECOND, asked).context("no look before the request")?;
    run.gap = longest(asked, answered + SECOND / 3).context("no look around the request")?;
    run.pace = [pace(asked - SECOND, asked), pace(asked, answered)];

    runtime.destroy()?;
    if load == Load::Idle {
        let asked = ticks::now();
        match runtime.restore(&archive, How::Plain) {
            Ok(()) => run.restore = Some(first_look(runtime, asked)?),
            Err(error) => run.trouble = Some(format!("{error:#}").replace('\n', " ")),
        }
    }
    runtime.forget(&archive)?;
    Ok(run)
}

/// Waits for the first look after a moment; how long after it, in microseconds.
pub(super) fn first_look(runtime: &dyn Runtime, asked: i64) -> Result<u64> {
    let mut found = None;
    wait(Duration::from_secs(60), "the first look after the restore", || {
        found = ticks::read(&runtime.logs()?, asked)?.first().map(|tick| tick.at);
        Ok(found.is_some())
    })?;
    let at = found.context("no look after the restore")?;
    Ok(u64::try_from((at - asked) / 1000).unwrap_or(0))
}

/// A row for each size, load and runtime.
pub(super) fn table(runs: &[Run]) -> String {
    let mut text = String::from(
        "| MiB | load | runtime | runs | longest gap, ms | whole request, ms | written, MiB | restore to first tick, ms | \
         gap without a checkpoint, ms | pages written a second before, during |\n\
         |--:|---|---|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let mut rows: Vec<(u64, Load, &str)> = Vec::new();
    for run in runs {
        if !rows.contains(&(run.mib, run.load, run.runtime)) {
            rows.push((run.mib, run.load, run.runtime));
        }
    }
    // The order of loads and runtimes is that of their runs.
    rows.sort_by_key(|(mib, ..)| *mib);
    for (size, load, runtime) in rows {
        let these: Vec<&Run> = runs
            .iter()
            .filter(|run| (run.mib, run.load, run.runtime) == (size, load, runtime))
            .collect();
        let all = |value: &dyn Fn(&Run) -> u64| -> Vec<u64> {
            these.iter().map(|run| value(run)).collect()
        };
        let restores: Vec<u64> = these.iter().filter_map(|run| run.restore).collect();
        let written = median(&all(&|run| u64::try_from(run.written).unwrap_or(0)));
        let pace = [0, 1].map(|n| median(&all(&|run: &Run| run.pace[n])).unwrap_or(0));
        let _ = writeln!(
            text,
            "| {size} | {} | {runtime} | {} | {} | {} | {:.0} | {} | {} | {} |",
            load.name(),
            these.len(),
            cell(&all(&|run| run.gap)),
            cell(&all(&|run| run.request)),
            written.map_or(0.0, mib),
            match (load, restores.as_slice()) {
                (Load::Idle, []) => "fails".to_owned(),
                (Load::Idle, all) => cell(all),
                _ => "-".to_owned(),
            },
            cell(&all(&|run| run.quiet)),
            if load == Load::Idle { "-".to_owned() } else { format!("{}, {}", pace[0], pace[1]) },
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_restores_nothing_has_a_row_all_the_same() {
        let run = Run { runtime: "x", mib: 16, gap: 1500, ..Run::default() };
        let text = table(&[run]);
        assert!(text.contains("| 16 | idle | x | 1 | 1.5 / 1.5 / 1.5 |"), "{text}");
        assert!(text.contains("fails"), "{text}");
    }

    #[test]
    fn loads_are_measured_where_they_are_promised() {
        let sizes = [16, 256, 1024, 4096];
        let with = |load: Load| sizes.iter().filter(|size| load.applies(**size, &sizes)).count();
        assert_eq!([with(Load::Idle), with(Load::Writes), with(Load::Heavy)], [4, 2, 1]);
        assert!(Load::Heavy.applies(64, &[64]));
    }
}
