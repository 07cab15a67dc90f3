//! What was promised, beside what was measured: a row for each promise, which holds, does not, or was not measured.

use std::fmt::Write as _;

use super::figures::{median, median_ratio, millis};
use super::gaps::Load;
use super::{Results, ours};

/// The peer that stands still for the shortest time.
const FASTEST: &str = "podman + crun + criu";

/// One row.
#[derive(Debug, Clone, PartialEq)]
struct Promise {
    what: String,
    figure: String,
    /// `None`: not measured.
    holds: Option<bool>,
}

impl Promise {
    /// A value that must not be more than a limit.
    fn at_most(what: String, value: Option<f64>, limit: f64, unit: &str) -> Self {
        let figure = value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}{unit}"));
        Promise { what, figure, holds: value.map(|value| value <= limit) }
    }

    /// A value that must not be less than a limit.
    fn at_least(what: String, value: Option<f64>, limit: f64, unit: &str) -> Self {
        Promise {
            holds: value.map(|value| value >= limit),
            ..Self::at_most(what, value, limit, unit)
        }
    }
}

/// The median of a value of runs with these properties.
fn of_gaps(
    results: &Results,
    (runtime, mib, load): (&str, u64, Load),
    value: impl Fn(&super::gaps::Run) -> u64,
) -> Option<f64> {
    let these = results.gaps.iter();
    let these = these.filter(|run| run.runtime == runtime && run.mib == mib && run.load == load);
    median(&these.map(value).collect::<Vec<_>>()).map(|micros| micros as f64)
}

fn gaps(results: &Results, all: &mut Vec<Promise>) {
    let gap = |runtime: &str, mib, load| of_gaps(results, (runtime, mib, load), |run| run.gap);
    for (mib, load, limit) in [
        (1024, Load::Idle, 5.0),
        (4096, Load::Idle, 12.0),
        (1024, Load::Writes, 5.0),
        (4096, Load::Writes, 12.0),
        (1024, Load::Heavy, 20.0),
    ] {
        let what = format!("longest gap, {mib} MiB, {}: median at most {limit} ms", load.name());
        let value = gap(ours::NAME, mib, load).map(|micros| micros / 1e3);
        all.push(Promise::at_most(what, value, limit, " ms"));
    }
    let peer = gap(FASTEST, 1024, Load::Idle);
    let factor = peer.zip(gap(ours::NAME, 1024, Load::Idle)).map(|(peer, own)| peer / own.max(1.0));
    let what = format!("{FASTEST} stands still at least 100 times as long, 1024 MiB, idle");
    all.push(Promise::at_least(what, factor, 100.0, " times"));
}

fn requests(results: &Results, all: &mut Vec<Promise>) {
    for mib in [1024, 4096] {
        let these: Vec<_> = results.requests.iter().filter(|run| run.mib == mib).collect();
        let ratios: Vec<f64> = these.iter().map(|run| run.ratio()).collect();
        let what = format!(
            "whole request, {mib} MiB, idle: at most 1.25 times the faster dd (paired, median)"
        );
        all.push(Promise::at_most(what, median_ratio(&ratios), 1.25, " times"));
        let request =
            |runtime: &str| of_gaps(results, (runtime, mib, Load::Idle), |run| run.request);
        let mut peers: Vec<&str> = results.gaps.iter().map(|run| run.runtime).collect();
        peers.sort_unstable();
        peers.dedup();
        let fastest = peers
            .iter()
            .filter(|peer| **peer != ours::NAME)
            .filter_map(|peer| request(peer))
            .min_by(f64::total_cmp);
        let factor = fastest.zip(request(ours::NAME)).map(|(peer, own)| peer / own.max(1.0));
        let what =
            format!("whole request, {mib} MiB, idle: every peer takes at least twice as long");
        all.push(Promise::at_least(what, factor, 2.0, " times"));
        let more: Vec<f64> = these.iter().map(|run| run.amplification()).collect();
        let what = format!("bytes written, {mib} MiB: at most 1.03 times the archive's size");
        all.push(Promise::at_most(what, median_ratio(&more), 1.03, " times"));
    }
}

fn restores(results: &Results, all: &mut Vec<Promise>) {
    for (mib, limit) in [(1024, 100.0), (4096, 120.0)] {
        let these = results.restores.iter().filter(|run| run.is(ours::NAME, mib, "lazy"));
        let firsts: Vec<u64> = these.map(|run| run.first).collect();
        let value = median(&firsts).map(|micros| micros as f64 / 1e3);
        let what = format!("restore to the first tick, {mib} MiB, lazy: median at most {limit} ms");
        all.push(Promise::at_most(what, value, limit, " ms"));
        let these = results.restores.iter().filter(|run| run.is(ours::NAME, mib, "eager"));
        let ratios: Vec<f64> = these.filter_map(|run| run.ratio()).collect();
        let what = format!(
            "restore, {mib} MiB, eager: at most 1.5 times a plain read into new memory (paired, median)"
        );
        all.push(Promise::at_most(what, median_ratio(&ratios), 1.5, " times"));
    }
}

fn redis(results: &Results, all: &mut Vec<Promise>) {
    let these = results.redis.iter().filter(|run| run.runtime == ours::NAME);
    let worst = these.map(|run| 100.0 * run.checkpointed.in_time).min_by(f64::total_cmp);
    let what =
        "redis at half of its maximum: at least 97 % in time during the checkpoint (the worst run)";
    all.push(Promise::at_least(what.to_owned(), worst, 97.0, " %"));
}

/// The rows as a table.
pub(super) fn table(results: &Results) -> String {
    let mut all = Vec::new();
    gaps(results, &mut all);
    requests(results, &mut all);
    restores(results, &mut all);
    redis(results, &mut all);
    let mut text = String::from("| promise | figure | holds? |\n|---|--:|---|\n");
    for one in &all {
        let word = match one.holds {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "not measured",
        };
        let _ = writeln!(text, "| {} | {} | {word} |", one.what, one.figure);
    }
    let noise = results.gaps.iter().map(|run| run.quiet).collect::<Vec<_>>();
    if let Some(noise) = median(&noise) {
        let _ = writeln!(
            text,
            "\nWithout a checkpoint the longest gap of a second is {} ms (median of all runs): what the machine does by \
             itself is in every figure above.",
            millis(noise)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::gaps::Run;
    use super::*;

    fn with_gap(runtime: &'static str, gap: u64) -> Run {
        Run { runtime, mib: 1024, gap, ..Run::default() }
    }

    #[test]
    fn a_promise_holds_fails_or_was_not_measured() {
        let results = Results {
            gaps: vec![with_gap(ours::NAME, 6000), with_gap(FASTEST, 900_000)],
            ..Results::default()
        };
        let text = table(&results);
        let row = |start: &str| text.lines().find(|line| line.contains(start)).unwrap().to_owned();
        assert!(row("1024 MiB, idle: median").ends_with("| 6.00 ms | **no** |"), "{text}");
        assert!(row("100 times as long").ends_with("| 150.00 times | yes |"), "{text}");
        assert!(row("4096 MiB, idle: median").ends_with("| - | not measured |"), "{text}");
    }

    #[test]
    fn limits_themselves_are_kept() {
        assert_eq!(Promise::at_most(String::new(), Some(5.0), 5.0, "").holds, Some(true));
        assert_eq!(Promise::at_least(String::new(), Some(97.0), 97.0, "").holds, Some(true));
    }
}
