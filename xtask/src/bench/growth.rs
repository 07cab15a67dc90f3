//! How the freeze grows: with memory, threads, processes, open files and areas. The container's own longest gap beside what
//! the runtime's report calls frozen.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::figures::{cell, summary};
use super::ours::Ours;
use super::plot::{Limit, Plot, Point, Series};
use super::{Choice, Results, Runtime, begin_ticker, sync, ticks, wait};

/// Milliseconds that one PAGEMAP_SCAN for written pages takes for each GiB (docs/results/2026-11-25-tracking.md).
const SCAN: f64 = 0.7;

/// What is made more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Memory,
    Threads,
    Processes,
    Files,
    Areas,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Memory, Kind::Threads, Kind::Processes, Kind::Files, Kind::Areas];

    /// The ticker's word, and the name of the picture.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Memory => "memory",
            Kind::Threads => "threads",
            Kind::Processes => "processes",
            Kind::Files => "files",
            Kind::Areas => "areas",
        }
    }

    fn axis(self) -> &'static str {
        match self {
            Kind::Memory => "memory, MiB",
            Kind::Threads => "threads",
            Kind::Processes => "processes",
            Kind::Files => "open files",
            Kind::Areas => "areas (VMAs)",
        }
    }

    fn steps(self) -> &'static [u64] {
        match self {
            Kind::Memory => &[64, 256, 1024, 4096, 8192],
            Kind::Threads => &[1, 10, 100, 500],
            Kind::Processes => &[1, 10, 50, 200],
            Kind::Files => &[10, 100, 1000, 10_000],
            Kind::Areas => &[100, 1000, 5000, 20_000],
        }
    }

    /// The ticker's words.
    fn words(self, count: u64) -> Vec<String> {
        match self {
            Kind::Memory => vec![count.to_string()],
            // A child's copy of memory would be memory once more.
            Kind::Processes => vec!["0".to_owned(), self.name().to_owned(), count.to_string()],
            other => vec!["16".to_owned(), other.name().to_owned(), count.to_string()],
        }
    }
}

/// What the machine allows at best, measured in the session.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    /// Memory copied, MiB a second; 0: not measured.
    pub(super) copy: f64,
}

/// One checkpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) kind: Kind,
    pub(super) count: u64,
    /// The longest gap the container saw, in microseconds.
    gap: u64,
    /// What the report calls frozen, in microseconds.
    frozen: u64,
    /// The whole of it, in microseconds.
    total: u64,
}

impl Run {
    pub(super) fn json(&self) -> Value {
        json!({
            "kind": self.kind.name(), "count": self.count, "gap_us": self.gap,
            "frozen_us": self.frozen, "total_us": self.total,
        })
    }
}

pub(super) fn measure(
    choice: &Choice,
    ours: &mut Ours<'_>,
    end: Instant,
    results: &mut Results,
) -> Result<()> {
    results.limits = Limits { copy: copy_speed() };
    // One of each first: what is there when time runs out has all kinds and sizes.
    for number in 1..=choice.runs.min(5) {
        for kind in Kind::ALL {
            for count in kind.steps() {
                if kind == Kind::Memory && *count > choice.largest {
                    continue;
                }
                if number > 1 && Instant::now() > end {
                    println!("no time for more rounds");
                    return Ok(());
                }
                let outcome = once(ours, kind, *count);
                ours.destroy()?;
                match outcome {
                    Ok(run) => {
                        println!(
                            "{:>6} {:<9} run {number}: gap {:>8.1} ms, frozen {:>8.1} ms of {:>8.1} ms",
                            count,
                            kind.name(),
                            run.gap as f64 / 1e3,
                            run.frozen as f64 / 1e3,
                            run.total as f64 / 1e3
                        );
                        results.growth.push(run);
                    }
                    Err(error) => results.note(format!("{count} {}: {error:#}", kind.name())),
                }
            }
        }
    }
    Ok(())
}

fn once(ours: &mut Ours<'_>, kind: Kind, count: u64) -> Result<Run> {
    let words = kind.words(count);
    begin_ticker(ours, &words.iter().map(String::as_str).collect::<Vec<_>>())?;
    sync()?;
    std::thread::sleep(Duration::from_millis(300));
    let asked = ticks::now();
    let (archive, report) = ours.report()?;
    let answered = ticks::now();
    wait(Duration::from_secs(60), "it to go on", || {
        let all = ticks::read(&ours.logs()?, answered)?;
        Ok(all.iter().any(|tick| tick.at > answered + 100_000_000))
    })?;
    ours.forget(&archive)?;
    let gaps = ticks::read(&ours.logs()?, asked)?;
    let gap = gaps.iter().map(|tick| tick.gap).max().context("no look around the request")?;
    let field =
        |name: &str| report[name].as_u64().with_context(|| format!("no {name} in the report"));
    Ok(Run { kind, count, gap, frozen: field("frozen_micros")?, total: field("total_micros")? })
}

/// MiB a second of one thread that copies memory, the best of three.
fn copy_speed() -> f64 {
    const MIB: usize = 256;
    let from = vec![0x5au8; MIB << 20];
    let mut to = vec![0u8; MIB << 20];
    let mut best = 0f64;
    for _ in 0..3 {
        let begun = Instant::now();
        std::hint::black_box(&mut to).copy_from_slice(std::hint::black_box(&from));
        best = best.max(MIB as f64 / begun.elapsed().as_secs_f64());
    }
    best
}

fn values(runs: &[Run], kind: Kind, count: u64, value: impl Fn(&Run) -> u64) -> Vec<u64> {
    let these = runs.iter().filter(|run| run.kind == kind && run.count == count);
    these.map(value).collect()
}

/// The names of the pictures and the pictures; `disk`: MiB a second.
pub(super) fn plots(runs: &[Run], limits: Limits, disk: f64) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        let points = |value: fn(&Run) -> u64| -> Vec<Point> {
            let point = |count: &u64| {
                let values = values(runs, kind, *count, value);
                let [middle, _, high] = summary(&values)?.map(|micros| micros as f64 / 1e3);
                let low = *values.iter().min()? as f64 / 1e3;
                Some(Point { x: *count as f64, low, middle, high })
            };
            kind.steps().iter().filter_map(point).collect()
        };
        let line = |name: String, per_mib: f64| Limit {
            name,
            line: kind.steps().iter().map(|n| (*n as f64, *n as f64 * per_mib)).collect(),
        };
        let mut bounds = Vec::new();
        if kind == Kind::Memory {
            bounds.push(line(
                format!("scan of the page tables, {SCAN} ms for each GiB"),
                SCAN / 1024.0,
            ));
            for (name, speed) in [("memory copied once", limits.copy), ("the disk", disk)] {
                if speed > 0.0 {
                    bounds.push(line(format!("{name}, {speed:.0} MiB/s"), 1e3 / speed));
                }
            }
        }
        let plot = Plot {
            title: format!("How long it stands still against {}", kind.axis()),
            x: kind.axis().to_owned(),
            y: "milliseconds".to_owned(),
            series: vec![
                Series { name: "longest gap the container sees", points: points(|run| run.gap) },
                Series { name: "frozen, as reported", points: points(|run| run.frozen) },
            ],
            limits: bounds,
        };
        all.extend(plot.svg().map(|svg| (kind.name(), svg)));
    }
    all
}

/// What one more costs: the slope of the least squares line through the medians.
fn slope(runs: &[Run], kind: Kind) -> Option<f64> {
    let points: Vec<(f64, f64)> = kind
        .steps()
        .iter()
        .filter_map(|count| {
            let frozen = summary(&values(runs, kind, *count, |run| run.frozen))?[0];
            Some((*count as f64, frozen as f64))
        })
        .collect();
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
    let (x, y) = (x / n, y / n);
    let (over, under) = points
        .iter()
        .fold((0.0, 0.0), |sum, p| (sum.0 + (p.0 - x) * (p.1 - y), sum.1 + (p.0 - x) * (p.0 - x)));
    (points.len() > 1 && under > 0.0).then(|| over / under)
}

/// A table and a place for a word on it, kind by kind.
pub(super) fn table(runs: &[Run], words: &dyn Fn(&str) -> String) -> String {
    let mut text = String::new();
    for kind in Kind::ALL {
        let counts: Vec<u64> = kind
            .steps()
            .iter()
            .copied()
            .filter(|count| !values(runs, kind, *count, |run| run.gap).is_empty())
            .collect();
        if counts.is_empty() {
            continue;
        }
        let _ = write!(
            text,
            "### {}\n\n![freeze against {}](plots/{}.svg)\n\n\
             | {} | runs | longest gap, ms | frozen as reported, ms | whole, ms |\n|--:|--:|--:|--:|--:|\n",
            kind.axis(),
            kind.axis(),
            kind.name(),
            kind.axis(),
        );
        for count in counts {
            let all = |value: fn(&Run) -> u64| values(runs, kind, count, value);
            let _ = writeln!(
                text,
                "| {count} | {} | {} | {} | {} |",
                all(|run| run.gap).len(),
                cell(&all(|run| run.gap)),
                cell(&all(|run| run.frozen)),
                cell(&all(|run| run.total)),
            );
        }
        if let Some(slope) = slope(runs, kind) {
            let _ = writeln!(
                text,
                "\nOne more costs {slope:.2} us of freeze (least squares through the medians)."
            );
        }
        let _ = writeln!(text, "\n{}", words(kind.name()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs() -> Vec<Run> {
        let run = |count: u64| Run {
            kind: Kind::Threads,
            count,
            gap: 1000 + 20 * count,
            frozen: 500 + 10 * count,
            total: 9000,
        };
        vec![run(1), run(10), run(100)]
    }

    #[test]
    fn a_straight_line_has_its_slope() {
        let slope = slope(&runs(), Kind::Threads).unwrap();
        assert!((slope - 10.0).abs() < 1e-6, "{slope}");
        assert!(super::slope(&runs(), Kind::Files).is_none());
    }

    #[test]
    fn only_what_was_measured_is_shown() {
        let text = table(&runs(), &|_| "words".to_owned());
        assert!(text.contains("| 100 | 1 | 3.0 / 3.0 / 3.0 |") && !text.contains("processes"));
        let plots = plots(&runs(), Limits::default(), 400.0);
        assert_eq!(plots.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["threads"]);
    }
}
