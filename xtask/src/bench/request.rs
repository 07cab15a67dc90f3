//! The whole request of an idle container beside dd writing as many incompressible bytes to the same file system, with
//! O_DIRECT and through the page cache, both synced: in each round all three, in turn.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::figures::{cell, median_ratio};
use super::{Choice, Results, Runtime, begin_ticker, sync, written};

/// Where the bytes that dd writes come from: memory, as ours.
const SOURCE: &str = "/dev/shm";

/// One round.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) mib: u64,
    /// Our request, in microseconds.
    pub(super) request: u64,
    /// dd with O_DIRECT, in microseconds.
    pub(super) direct: u64,
    /// dd through the page cache, in microseconds.
    pub(super) buffered: u64,
    /// Bytes our processes wrote.
    pub(super) written: i64,
    /// The archive's size in bytes.
    pub(super) archive: u64,
}

impl Run {
    /// Ours against the faster dd.
    pub(super) fn ratio(&self) -> f64 {
        self.request as f64 / self.direct.min(self.buffered).max(1) as f64
    }

    /// Bytes written for each byte of the archive.
    pub(super) fn amplification(&self) -> f64 {
        self.written as f64 / self.archive.max(1) as f64
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "mib": self.mib, "request_us": self.request, "dd_direct_us": self.direct,
            "dd_buffered_us": self.buffered, "written_bytes": self.written,
            "archive_bytes": self.archive,
        })
    }
}

/// The large sizes of the session, or its largest.
pub(super) fn sizes(choice: &Choice) -> Vec<u64> {
    let large: Vec<u64> = choice.sizes.iter().copied().filter(|mib| *mib >= 1024).collect();
    if large.is_empty() { choice.sizes.iter().copied().max().into_iter().collect() } else { large }
}

pub(super) fn measure(
    choice: &Choice,
    ours: &mut dyn Runtime,
    folder: &Path,
    end: Instant,
    results: &mut Results,
) -> Result<()> {
    for mib in sizes(choice) {
        let source = Source::make(mib)?;
        for number in 1..=choice.runs {
            if number > 1 && Instant::now() > end {
                println!("no time for more rounds");
                break;
            }
            let round = once(ours, mib, source.path(), folder, number % 2 == 0);
            ours.destroy()?;
            let run = round?;
            println!(
                "{mib:>5} MiB round {number:>2}: request {:>8.1} ms, dd direct {:>8.1}, buffered {:>8.1}: {:.2} times; \
                 {:.3} written for each byte of the archive",
                run.request as f64 / 1e3,
                run.direct as f64 / 1e3,
                run.buffered as f64 / 1e3,
                run.ratio(),
                run.amplification(),
            );
            results.requests.push(run);
        }
    }
    Ok(())
}

/// Ours is first in one round and last in the next.
fn once(
    ours: &mut dyn Runtime,
    mib: u64,
    source: &Path,
    folder: &Path,
    first: bool,
) -> Result<Run> {
    begin_ticker(ours, &[&mib.to_string()])?;
    let to = folder.join("dd");
    let mut run = Run { mib, request: 0, direct: 0, buffered: 0, written: 0, archive: 0 };
    let mut request = |run: &mut Run| -> Result<()> {
        settle()?;
        let before = ours.written()? + written::own()?;
        let (archive, took) = ours.checkpoint()?;
        run.request = u64::try_from(took.as_micros())?;
        run.written = ours.written()? + written::own()? - before;
        run.archive = archive.metadata()?.len();
        ours.forget(&archive)
    };
    if first {
        request(&mut run)?;
    }
    run.direct = dd(source, &to, mib, &["oflag=direct"])?;
    run.buffered = dd(source, &to, mib, &[])?;
    if !first {
        request(&mut run)?;
    }
    Ok(run)
}

/// What is dirty from before is nobody's to wait for.
fn settle() -> Result<()> {
    sync()?;
    std::thread::sleep(Duration::from_millis(500));
    Ok(())
}

fn dd(source: &Path, to: &Path, mib: u64, more: &[&str]) -> Result<u64> {
    settle()?;
    let mut command = Command::new("dd");
    command.arg(format!("if={}", source.display())).arg(format!("of={}", to.display()));
    command.args(["bs=1M", "conv=fsync", "status=none"]).arg(format!("count={mib}")).args(more);
    let begun = Instant::now();
    let status = command.status().context("start dd")?;
    let took = begun.elapsed();
    ensure!(status.success(), "dd ended with {status}");
    std::fs::remove_file(to)?;
    Ok(u64::try_from(took.as_micros())?)
}

/// A file in memory, removed when dropped.
struct Source(tempfile::NamedTempFile);

impl Source {
    fn make(mib: u64) -> Result<Self> {
        let file = tempfile::Builder::new().prefix("cryopod-bench-").tempfile_in(SOURCE)?;
        let status = Command::new("dd")
            .args(["if=/dev/urandom", "bs=1M", "status=none", "iflag=fullblock"])
            .arg(format!("of={}", file.path().display()))
            .arg(format!("count={mib}"))
            .status()
            .context("start dd")?;
        ensure!(status.success(), "dd to {SOURCE} ended with {status}");
        Ok(Source(file))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A row for each size.
pub(super) fn table(runs: &[Run]) -> String {
    let mut text = String::from(
        "| MiB | rounds | request, ms | dd, O_DIRECT, ms | dd, page cache, ms | request : the faster dd, median | \
         written : archive, median |\n|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let mut sizes: Vec<u64> = runs.iter().map(|run| run.mib).collect();
    sizes.dedup();
    for mib in sizes {
        let these: Vec<&Run> = runs.iter().filter(|run| run.mib == mib).collect();
        let all = |value: &dyn Fn(&Run) -> u64| -> Vec<u64> {
            these.iter().map(|run| value(run)).collect()
        };
        let ratios: Vec<f64> = these.iter().map(|run| run.ratio()).collect();
        let more: Vec<f64> = these.iter().map(|run| run.amplification()).collect();
        let _ = writeln!(
            text,
            "| {mib} | {} | {} | {} | {} | {:.2} | {:.3} |",
            these.len(),
            cell(&all(&|run| run.request)),
            cell(&all(&|run| run.direct)),
            cell(&all(&|run| run.buffered)),
            median_ratio(&ratios).unwrap_or(0.0),
            median_ratio(&more).unwrap_or(0.0),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_compared_with_the_faster_dd() {
        let run =
            Run { mib: 1, request: 300, direct: 200, buffered: 400, written: 103, archive: 100 };
        assert!((run.ratio() - 1.5).abs() < 1e-9);
        assert!((run.amplification() - 1.03).abs() < 1e-9);
        assert!(table(&[run]).contains("| 1.50 | 1.030 |"));
    }
}
