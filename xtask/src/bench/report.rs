//! What the benchmark tells: the machine, the tables, the pictures, the raw runs.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{Choice, Results, gaps, growth, promises, redis, request, restore};
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
    build: &'static str,
    remark: Option<String>,
}

impl Machine {
    /// Looks at the machine, and writes 1 GiB into the folder to know the disk.
    pub(super) fn look(folder: &Path, choice: &Choice) -> Result<Self> {
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
            build: if choice.debug { "debug" } else { "release" },
            remark: choice.remark.clone(),
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
            "- {} on commit {}, {} build\n- {}, {} of memory, Linux {}\n\
             - disk: {}, 1 GiB written and synced at {:.0} MiB/s\n\
             - load averages before {}, after {}; the session took {:.0} minutes\n",
            self.date,
            self.commit,
            self.build,
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

/// All tables of the page.
pub(super) fn tables(results: &Results) -> String {
    let mut page = String::new();
    if !results.gaps.is_empty() {
        page.push_str(GAPS);
        page.push_str(&gaps::table(&results.gaps));
    }
    if !results.requests.is_empty() {
        page.push_str(REQUEST);
        page.push_str(&request::table(&results.requests));
    }
    if !results.restores.is_empty() {
        page.push_str(RESTORE);
        page.push_str(&restore::table(&results.restores));
    }
    if !results.redis.is_empty() {
        page.push_str(REDIS);
        page.push_str(&redis::table(&results.redis));
    }
    if !results.growth.is_empty() {
        page.push_str(GROWTH);
        page.push_str(&growth::table(&results.growth, &words));
    }
    page.push_str("\n## What was promised\n\n");
    page.push_str(&promises::table(results));
    page
}

const GAPS: &str = "\n## How long it stands still\n\n\
    Loads: *idle*; *writes*, 8 threads that write 1,000 pages a second together, anywhere in the memory; *heavy*, 8 threads \
    that write whole pages anywhere in the memory, 200 MB a second.\n\n\
    - *longest gap*: between two looks at the clock, from the request to a third of a second after its answer\n\
    - *whole request*: ours HTTPS as curl measures it, podman its command, containerd its CRI call\n\
    - *written*: bytes that dirtied pages of files, less those taken back before they reached the disk, of every process \
    that works for the request; ours are synced when the request is answered\n\
    - *restore*: from the start of the command, or of the first CRI call (pod, container, start), to the first look at the \
    clock\n\
    - *gap without a checkpoint*: in the second before, the noise of the machine\n\n";

const REQUEST: &str = "\n## The whole request beside dd\n\n\
    In each round, in turn: our request for an idle container, `dd bs=1M oflag=direct conv=fsync` and `dd bs=1M conv=fsync` of \
    as many random bytes from memory to the same file system.\n\n";

const RESTORE: &str = "\n## Waking\n\n\
    From the request to the first look at the clock, container creation included, and until the program has read every page \
    once, which it is told to when the restore is answered. *plain read*: the archive read into memory that nobody has \
    touched, paired with the restore beside it. *cold*: the archive and all else the kernel lets go is dropped from its \
    cache first.\n\n";

const REDIS: &str = "\n## redis under clients\n\n\
    Values of 1 KiB; 4 connections; nine GETs to a SET, keys by chance. First as fast as there are answers, then paced at \
    half of that through a whole checkpoint, then unpaced through a second one. A paced request has a time when it is due, \
    and counts from it: those behind a freeze are late, too. *In time* is an answer within 10 ms: above the freeze that is \
    promised, below what a person or a page made of many requests would notice. What the machine does without a checkpoint \
    is in the column beside it.\n\n";

const GROWTH: &str = "\n## How it grows\n\n\
    Medians, with bars from the least to the most; both axes logarithmic. *longest gap*: as the container sees it; *frozen*: \
    as the runtime reports it. Threads, files and areas are measured with 16 MiB of \
    memory, processes with none.\n\n";

/// What was said of a slope: `docs/plots/NAME.md`, written by hand and kept from session to session.
fn words(name: &str) -> String {
    let path = checkout().join("docs/plots").join(format!("{name}.md"));
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Writes docs/performance.md, docs/plots and docs/results.
pub(super) fn write(machine: &Machine, results: &Results, page: &str) -> Result<()> {
    let docs = checkout().join("docs");
    let day = machine.date.split(' ').next().unwrap_or_default();
    let (folder, plots) = (docs.join("results"), docs.join("plots"));
    std::fs::create_dir_all(&folder)?;
    std::fs::create_dir_all(&plots)?;
    let name = format!("{day}-bench.json");
    let described = machine.describe();
    std::fs::write(folder.join(&name), raw(&described, results))?;
    for (plot, svg) in growth::plots(&results.growth, results.limits, machine.disk_speed) {
        std::fs::write(plots.join(format!("{plot}.svg")), svg)?;
    }
    let troubles = troubles(&results.gaps);
    let notes: String = results.notes.iter().map(|note| format!("- {note}\n")).collect();
    let text = format!(
        "# How long a container stands still\n\n\
         `cargo xtask bench` writes this page; the single runs are in [results/{name}](results/{name}).\n\n\
         A container holds so many MiB of incompressible memory and looks at the clock every millisecond. Where a cell \
         has three figures they are median / 99th percentile / maximum by the nearest rank: with few runs the last two \
         are the same. Every run has a container of its own.\n\
         {page}\n## Machine and session\n\n{described}{troubles}{notes}"
    );
    std::fs::write(docs.join("performance.md"), text)?;
    println!("written: docs/performance.md, docs/plots, docs/results/{name}");
    Ok(())
}

/// All runs as JSON, one a line.
fn raw(described: &str, results: &Results) -> String {
    let machine = described.lines().map(|line| json!(line.trim_start_matches("- ")));
    let mut parts = vec![("machine", machine.collect::<Vec<_>>())];
    parts.push(("notes", results.notes.iter().map(|note| json!(note)).collect()));
    parts.push(("runs", results.gaps.iter().map(gaps::Run::json).collect()));
    parts.push(("requests", results.requests.iter().map(request::Run::json).collect()));
    parts.push(("restores", results.restores.iter().map(restore::Run::json).collect()));
    parts.push(("redis", results.redis.iter().map(redis::Run::json).collect()));
    parts.push(("growth", results.growth.iter().map(growth::Run::json).collect()));
    let parts: Vec<String> = parts
        .iter()
        .map(|(name, lines)| {
            let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
            format!("{}: [\n{}\n]", json!(name), lines.join(",\n"))
        })
        .collect();
    format!("{{{}}}\n", parts.join(",\n"))
}

/// A line for each runtime that does not always restore.
fn troubles(runs: &[gaps::Run]) -> String {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for run in runs {
        if let Some(why) = &run.trouble
            && !found.iter().any(|(runtime, _)| *runtime == run.runtime)
        {
            found.push((run.runtime, why));
        }
    }
    let line = |(runtime, why): &(&str, &str)| {
        let all = runs.iter().filter(|run| run.runtime == *runtime && run.load == gaps::Load::Idle);
        let failed = all.clone().filter(|run| run.trouble.is_some()).count();
        format!("- {runtime}: {failed} of {} restores failed: `{}`\n", all.count(), short(why))
    };
    found.iter().map(line).collect()
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
    fn the_raw_runs_are_json() {
        let run = gaps::Run { runtime: "x", mib: 16, ..gaps::Run::default() };
        let results = Results { gaps: vec![run], ..Results::default() };
        let parsed: serde_json::Value = serde_json::from_str(&raw("- a\n- b\n", &results)).unwrap();
        assert_eq!(parsed["machine"][1], "b");
        assert_eq!(parsed["runs"][0]["load"], "idle");
    }

    #[test]
    fn only_what_was_measured_has_a_chapter() {
        let run = gaps::Run { runtime: "x", mib: 16, ..gaps::Run::default() };
        let page = tables(&Results { gaps: vec![run], ..Results::default() });
        assert!(page.contains("## How long it stands still") && !page.contains("## redis"));
        assert!(page.contains("## What was promised"));
    }
}
