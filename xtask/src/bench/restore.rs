//! Restores: from the request to the first look at the clock, container creation included, and until every page of the
//! memory was read once. Lazy and eager, with the archive in the page cache and without; eager beside a plain read of the
//! archive into memory that is new.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::cache::Cache;
use super::figures::{cell, median_ratio};
use super::gaps::first_look;
use super::ours::Ours;
use super::{Choice, How, Results, Runtime, begin_ticker, request, ticks, wait};
use crate::processes;

/// One restore.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) runtime: &'static str,
    pub(super) mib: u64,
    how: How,
    cache: Cache,
    /// From the request to the first look, in microseconds.
    pub(super) first: u64,
    /// From the request until all memory was read once, in microseconds.
    pub(super) whole: u64,
    /// The archive read into new memory just before or after, in microseconds.
    plain: Option<u64>,
}

impl Run {
    /// Whether it is one of these.
    pub(super) fn is(&self, runtime: &str, mib: u64, how: &str) -> bool {
        self.runtime == runtime && self.mib == mib && self.how.name() == how
    }

    /// The restore against the plain read.
    pub(super) fn ratio(&self) -> Option<f64> {
        Some(self.first as f64 / self.plain?.max(1) as f64)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "runtime": self.runtime, "mib": self.mib, "how": self.how.name(),
            "cache": self.cache.name(), "first_us": self.first, "whole_us": self.whole,
            "plain_read_us": self.plain,
        })
    }
}

pub(super) fn measure(
    choice: &Choice,
    ours: &mut Ours<'_>,
    peers: &mut [Box<dyn Runtime + '_>],
    end: Instant,
    results: &mut Results,
) -> Result<()> {
    let hows: Vec<How> =
        [How::Lazy, How::Eager].into_iter().filter(|how| ours.knows(*how)).collect();
    let hows = if hows.is_empty() {
        results.note(
            "`restore` of this binary has neither --lazy nor --eager: measured is the plain restore"
                .to_owned(),
        );
        vec![How::Plain]
    } else {
        hows
    };
    for mib in request::sizes(choice) {
        of(ours, mib, &hows, choice.runs.min(5), end, results)?;
        for peer in &mut *peers {
            let outcome = of(peer.as_mut(), mib, &[How::Plain], 1, end, results);
            if let Err(error) = outcome {
                let text = format!("{error:#}").replace('\n', " ");
                results.note(format!("{} with {mib} MiB: restore: {text}", peer.name()));
            }
            peer.destroy()?;
        }
    }
    Ok(())
}

/// One archive, restored `count` times in each way; after `end` once.
fn of(
    runtime: &mut dyn Runtime,
    mib: u64,
    hows: &[How],
    count: usize,
    end: Instant,
    results: &mut Results,
) -> Result<()> {
    begin_ticker(runtime, &[&mib.to_string()])?;
    let (archive, _) = runtime.checkpoint()?;
    runtime.destroy()?;
    for number in 1..=count {
        if number > 1 && Instant::now() > end {
            println!("no time for more restores");
            break;
        }
        for cache in [Cache::Warm, Cache::Cold] {
            for how in hows {
                let run = once(runtime, (mib, *how, cache), &archive, number % 2 == 0);
                runtime.destroy()?;
                let run = run?;
                println!(
                    "{:<22} {mib:>5} MiB {:<7} {:<4} run {number:>2}: first look {:>8.1} ms, all read {:>8.1} ms{}",
                    run.runtime,
                    how.name(),
                    cache.name(),
                    run.first as f64 / 1e3,
                    run.whole as f64 / 1e3,
                    run.plain.map_or_else(String::new, |plain| format!(
                        ", plain read {:.1} ms",
                        plain as f64 / 1e3
                    )),
                );
                results.restores.push(run);
            }
        }
    }
    runtime.forget(&archive)
}

fn once(
    runtime: &mut dyn Runtime,
    (mib, how, cache): (u64, How, Cache),
    archive: &Path,
    plain_first: bool,
) -> Result<Run> {
    // Only what brings back all memory before it says so is comparable.
    let with_plain = how != How::Lazy;
    let plain = |wanted: bool| -> Result<Option<u64>> {
        if !(with_plain && wanted) {
            return Ok(None);
        }
        cache.prepare(archive)?;
        read_into_new_memory(archive).map(Some)
    };
    let before = plain(plain_first)?;
    cache.prepare(archive)?;
    let asked = ticks::now();
    runtime.restore(archive, how)?;
    let pid =
        processes::first(&runtime.cgroup(), "ticker").context("no ticker after the restore")?;
    processes::signal(pid, Signal::USR1)?;
    let first = first_look(runtime, asked)?;
    let mut whole = None;
    wait(Duration::from_secs(120), "all memory to be read", || {
        whole = ticks::whole_read(&runtime.logs()?, asked)?;
        Ok(whole.is_some())
    })?;
    let whole = whole.context("not all memory was read")?;
    let whole = u64::try_from((whole - asked) / 1000).unwrap_or(0);
    let after = plain(!plain_first)?;
    Ok(Run { runtime: runtime.name(), mib, how, cache, first, whole, plain: before.or(after) })
}

/// How long it takes to read a file into memory that nobody has touched, in microseconds.
fn read_into_new_memory(path: &Path) -> Result<u64> {
    let mut file = File::open(path)?;
    let size = usize::try_from(file.metadata()?.len())?;
    let begun = Instant::now();
    let mut memory = Vec::with_capacity(size);
    file.read_to_end(&mut memory)?;
    let took = begun.elapsed();
    std::hint::black_box(&memory);
    Ok(u64::try_from(took.as_micros())?)
}

/// A row for each runtime, size, way and state of the cache.
pub(super) fn table(runs: &[Run]) -> String {
    let mut text = String::from(
        "| MiB | runtime | how | archive in the cache | runs | first tick, ms | all memory read, ms | plain read, ms | \
         first tick : plain read, median |\n|--:|---|---|---|--:|--:|--:|--:|--:|\n",
    );
    let key = |run: &Run| (run.mib, run.runtime, run.how, run.cache);
    let mut rows = Vec::new();
    for run in runs {
        if !rows.contains(&key(run)) {
            rows.push(key(run));
        }
    }
    for row in rows {
        let these: Vec<&Run> = runs.iter().filter(|run| key(run) == row).collect();
        let firsts: Vec<u64> = these.iter().map(|run| run.first).collect();
        let wholes: Vec<u64> = these.iter().map(|run| run.whole).collect();
        let plains: Vec<u64> = these.iter().filter_map(|run| run.plain).collect();
        let ratios: Vec<f64> = these.iter().filter_map(|run| run.ratio()).collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.0,
            row.1,
            row.2.name(),
            row.3.name(),
            these.len(),
            cell(&firsts),
            cell(&wholes),
            cell(&plains),
            median_ratio(&ratios).map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
        );
    }
    text
}
