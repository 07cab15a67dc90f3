//! What the benchmark tells: the machine, a table, the raw runs.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::Run;
use crate::sid::checkout;

/// The machine and the session.
#[derive(Debug)]
pub(super) struct Machine {
    date: String,
    commit: String,
    processor: String,
    memory: String,
    kernel: String,
    disk: String,
    disk_speed: f64,
    load_before: String,
    load_after: String,
    begun: Instant,
    remark: Option<String>,
}

impl Machine {
    /// Looks at the machine, and writes 1 GiB into the folder to know the disk.
    pub(super) fn look(folder: &Path, remark: Option<String>) -> Result<Self> {
        let text = |path: &str| std::fs::read_to_string(path).context(path.to_owned());
        let cpuinfo = text("/proc/cpuinfo")?;
        let models: Vec<&str> = cpuinfo
            .lines()
            .filter_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1))
            .collect();
        let meminfo = text("/proc/meminfo")?;
        let kib: u64 = meminfo
            .lines()
            .find_map(|line| {
                line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok()
            })
            .context("no MemTotal")?;
        let status =
            said("git", &["status", "--porcelain", "--", "crates", "xtask", "Cargo.lock"])?;
        let changed = if status.is_empty() { "" } else { ", with changes" };
        Ok(Machine {
            date: said("date", &["-u", "+%F %R UTC"])?,
            commit: said("git", &["rev-parse", "--short=12", "HEAD"])? + changed,
            processor: format!("{} x {}", models.len(), models.first().unwrap_or(&"unknown")),
            memory: format!("{:.1} GiB", kib as f64 / f64::from(1 << 20)),
            kernel: text("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            disk: said("findmnt", &["-no", "SOURCE,FSTYPE", "-T", &folder.to_string_lossy()])
                .unwrap_or_else(|_| "unknown".to_owned()),
            disk_speed: disk_speed(folder)?,
            load_before: text("/proc/loadavg")?.trim().to_owned(),
            load_after: String::new(),
            begun: Instant::now(),
            remark,
        })
    }

    /// The session is over.
    pub(super) fn end(&mut self) -> Result<()> {
        self.load_after = std::fs::read_to_string("/proc/loadavg")?.trim().to_owned();
        Ok(())
    }

    fn describe(&self) -> String {
        let load = |text: &str| text.split(' ').take(3).collect::<Vec<_>>().join(" ");
        let mut lines = format!(
            "- {} on commit {}, release build\n- {}, {} of memory, Linux {}\n\
             - disk: {}, 1 GiB written and synced at {:.0} MiB/s\n\
             - load averages before {}, after {}; the session took {:.0} minutes\n",
            self.date,
            self.commit,
            self.processor,
            self.memory,
            self.kernel,
            self.disk.split_whitespace().collect::<Vec<_>>().join(", "),
            self.disk_speed,
            load(&self.load_before),
            load(&self.load_after),
            self.begun.elapsed().as_secs_f64() / 60.0,
        );
        if let Some(remark) = &self.remark {
            lines.push_str("- ");
            lines.push_str(remark);
            lines.push('\n');
        }
        lines
    }
}

fn said(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(checkout())
        .output()
        .with_context(|| format!("start {program}"))?;
    ensure!(output.status.success(), "{program} ended with {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn disk_speed(folder: &Path) -> Result<f64> {
    let path = folder.join("speed");
    let mut file = File::create(&path)?;
    let block = vec![0x5a; 1 << 20];
    let begun = Instant::now();
    for _ in 0..1024 {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    let taken = begun.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(1024.0 / taken)
}

/// Median, 99th percentile and maximum by the nearest rank.
fn summary(values: &[u64]) -> Option<[u64; 3]> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1);
    Some([*rank(50)?, *rank(99)?, *sorted.last()?])
}

fn cell(values: &[u64]) -> String {
    summary(values).map_or_else(
        || "-".to_owned(),
        |all| all.map(|micros| format!("{:.1}", micros as f64 / 1e3)).join(" / "),
    )
}

/// A row for each size and runtime.
pub(super) fn table(runs: &[Run]) -> String {
    let mut text = String::from(
        "| MiB | runtime | runs | longest gap, ms | whole request, ms | written, MiB | restore to first tick, ms | \
         gap without a checkpoint, ms |\n|--:|---|--:|--:|--:|--:|--:|--:|\n",
    );
    let mut rows: Vec<(u64, &str)> = Vec::new();
    for run in runs {
        if !rows.contains(&(run.mib, run.runtime)) {
            rows.push((run.mib, run.runtime));
        }
    }
    // The order of the runtimes is that of their runs.
    rows.sort_by_key(|(mib, _)| *mib);
    for (mib, runtime) in rows {
        let these: Vec<&Run> =
            runs.iter().filter(|run| (run.mib, run.runtime) == (mib, runtime)).collect();
        let all = |value: &dyn Fn(&Run) -> u64| -> Vec<u64> {
            these.iter().map(|run| value(run)).collect()
        };
        let restores: Vec<u64> = these.iter().filter_map(|run| run.restore).collect();
        let written = summary(&all(&|run| u64::try_from(run.written).unwrap_or(0)));
        let _ = writeln!(
            text,
            "| {mib} | {runtime} | {} | {} | {} | {:.0} | {} | {} |",
            these.len(),
            cell(&all(&|run| run.gap)),
            cell(&all(&|run| run.request)),
            written.map_or(0.0, |all| all[0] as f64 / f64::from(1 << 20)),
            if restores.is_empty() { "fails".to_owned() } else { cell(&restores) },
            cell(&all(&|run| run.quiet)),
        );
    }
    text
}

/// Writes docs/performance.md and docs/results.
pub(super) fn write(machine: &Machine, runs: &[Run], table: &str) -> Result<()> {
    let docs = checkout().join("docs");
    let day = machine.date.split(' ').next().unwrap_or_default();
    let results = docs.join("results");
    std::fs::create_dir_all(&results)?;
    let name = format!("{day}-bench.json");
    let raw: Vec<_> = runs
        .iter()
        .map(|run| {
            json!({
                "runtime": run.runtime, "mib": run.mib, "quiet_us": run.quiet, "gap_us": run.gap,
                "request_us": run.request, "written_bytes": run.written,
                "restore_us": run.restore, "restore_error": run.trouble,
            })
        })
        .collect();
    let lines: Vec<String> = raw.iter().map(ToString::to_string).collect();
    let described: Vec<String> = machine
        .describe()
        .lines()
        .map(|line| json!(line.trim_start_matches("- ")).to_string())
        .collect();
    std::fs::write(
        results.join(&name),
        format!(
            "{{\"machine\": [\n{}\n],\n\"runs\": [\n{}\n]}}\n",
            described.join(",\n"),
            lines.join(",\n")
        ),
    )?;
    let mut troubles: Vec<(&str, &str)> = Vec::new();
    for run in runs {
        if let Some(why) = &run.trouble
            && !troubles.iter().any(|(runtime, _)| *runtime == run.runtime)
        {
            troubles.push((run.runtime, why));
        }
    }
    let troubles: String = troubles
        .iter()
        .map(|(runtime, why)| {
            let all = runs.iter().filter(|run| run.runtime == *runtime);
            let failed = all.clone().filter(|run| run.trouble.is_some()).count();
            let all = all.count();
            format!("\n- {runtime}: {failed} of {all} restores failed: `{}`", short(why))
        })
        .collect();
    let text = format!(
        "# How long a container stands still\n\n\
         `cargo xtask bench` writes this page; the single runs are in [results/{name}](results/{name}).\n\n\
         A container holds so many MiB of incompressible memory and looks at the clock every millisecond. Where a cell \
         has three figures they are median / 99th percentile / maximum by the nearest rank: with few runs the last two \
         are the same. Ours copies memory while the container is frozen, for now.\n\n\
         - *longest gap*: between two looks at the clock, from the request to a third of a second after its answer\n\
         - *whole request*: ours HTTPS as curl measures it, podman its command, containerd its CRI call\n\
         - *written*: bytes that dirtied pages of files, less those taken back before they reached the disk, of every \
         process that works for the request; ours are synced when the request is answered\n\
         - *restore*: from the start of the command, or of the first CRI call (pod, container, start), to the first look \
         at the clock\n\
         - *gap without a checkpoint*: in the second before, the noise of the machine\n\n\
         {table}\n## Machine and session\n\n{}{}",
        machine.describe(),
        if troubles.is_empty() {
            String::new()
        } else {
            format!("{troubles}\n").trim_start().to_owned()
        },
    );
    std::fs::write(docs.join("performance.md"), text)?;
    println!("written: docs/performance.md, docs/results/{name}");
    Ok(())
}

/// The end of an error, where the cause is.
fn short(why: &str) -> String {
    let words = why.split_whitespace().collect::<Vec<_>>().join(" ").replace('`', "'");
    match words.char_indices().rev().nth(160) {
        Some((at, _)) => format!("...{}", &words[at..]),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        assert_eq!(summary(&[5, 1, 4, 2, 3, 10, 9, 8, 7, 6]), Some([5, 10, 10]));
        assert_eq!(summary(&[3]), Some([3, 3, 3]));
        assert_eq!(summary(&[]), None);
    }

    #[test]
    fn a_runtime_that_restores_nothing_has_a_row_all_the_same() {
        let run = Run { runtime: "x", mib: 16, gap: 1500, ..Run::default() };
        let text = table(&[run]);
        assert!(text.contains("| 16 | x | 1 | 1.5 / 1.5 / 1.5 |"), "{text}");
        assert!(text.contains("fails"), "{text}");
    }
}
