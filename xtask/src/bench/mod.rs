//! `cargo xtask bench`: how long a container stands still for a checkpoint, ours and the peers'.
//!
//! A container holds N MiB of memory that no compression makes smaller, and looks at the clock every millisecond. Told are
//! the longest gap between two looks around the request, the time of the whole request, the bytes written for it, and the
//! time from the request of a restore to the first look after it. Every run has a container of its own.
//!
//! Bytes written are those that dirtied pages of files, less those taken back before they reached the disk, of every process
//! that works for the request (/proc/PID/io, proc_pid_io(5); what ended children wrote counts for their parents). The
//! blkio controller of cgroup v1 does not see them: it books writes of the page cache on the root.

mod containerd;
mod ours;
mod podman;
pub(crate) mod private;
mod report;
pub(crate) mod ticks;
mod written;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

use crate::sid::Sid;

/// A runtime under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// podman, crun and criu
    PodmanCrun,
    /// podman, runc and criu
    PodmanRunc,
    /// containerd, runc and criu
    Containerd,
}

/// What to measure.
#[derive(Debug)]
pub(crate) struct Choice {
    /// MiB of memory.
    pub(crate) sizes: Vec<u64>,
    /// Runs of ours for each size.
    pub(crate) runs: usize,
    /// Runs of each peer for each size.
    pub(crate) peer_runs: usize,
    /// Runs of each peer from 4096 MiB on.
    pub(crate) large_peer_runs: usize,
    pub(crate) peers: Vec<Peer>,
    /// After so many minutes every runtime has but one more run of each size.
    pub(crate) minutes: u64,
    /// Write docs/performance.md and docs/results.
    pub(crate) write: bool,
    /// Said of the machine beside what can be measured.
    pub(crate) remark: Option<String>,
}

/// A runtime with one container, or none.
trait Runtime {
    /// Its name in the tables.
    fn name(&self) -> &'static str;
    /// Starts a container with so much memory; gives back when it is started, not when it is filled.
    fn begin(&mut self, mib: u64) -> Result<()>;
    /// Every file its log can be in.
    fn logs(&self) -> Result<Vec<PathBuf>>;
    /// Takes a checkpoint; gives the archive and how long the request took.
    fn checkpoint(&mut self) -> Result<(PathBuf, Duration)>;
    /// Kills the container and removes it.
    fn destroy(&mut self) -> Result<()>;
    /// Lets the container go on from the archive.
    fn restore(&mut self, archive: &Path) -> Result<()>;
    /// Bytes its processes have written so far, without those of commands that ended.
    fn written(&self) -> Result<i64>;
    /// Removes an archive.
    fn forget(&mut self, archive: &Path) -> Result<()> {
        std::fs::remove_file(archive).with_context(|| archive.display().to_string())
    }
}

/// One run.
#[derive(Debug, Clone, Default)]
struct Run {
    runtime: &'static str,
    mib: u64,
    /// Longest gap in the second before, in microseconds: what the machine does by itself.
    quiet: u64,
    /// Longest gap around the request, in microseconds.
    gap: u64,
    /// The whole request, in microseconds.
    request: u64,
    /// Bytes written for the request.
    written: i64,
    /// From the request of a restore to the first look after it, in microseconds.
    restore: Option<u64>,
    /// Why there was none.
    trouble: Option<String>,
}

/// Measures, prints, and writes what came out of it.
pub(crate) fn bench(choice: &Choice) -> Result<bool> {
    let sid = Sid::find()?;
    let folder = tempfile::Builder::new().prefix("cryopod-bench-").tempdir_in("/var/tmp")?;
    let ticker = folder.path().join("ticker");
    compile(&ticker)?;
    let mut machine = report::Machine::look(folder.path(), choice.remark.clone())?;
    let mut runs = Vec::new();
    let end = Instant::now() + Duration::from_secs(60 * choice.minutes);
    {
        let mut ours = ours::Ours::start(&sid, &ticker)?;
        let private = match choice.peers.as_slice() {
            [] => None,
            _ => Some(private::Private::start(&sid, folder.path())?),
        };
        let mut peers = Vec::new();
        if let Some(private) = &private {
            let image = podman::image(private, &ticker)?;
            for peer in &choice.peers {
                peers.push(start(*peer, private, &image)?);
            }
        }
        // All runtimes side by side, so that what else the machine does is the same for all.
        for mib in &choice.sizes {
            measure(&mut ours, *mib, choice.runs, end, &mut runs);
            let count = if *mib >= 4096 { choice.large_peer_runs } else { choice.peer_runs };
            for peer in &mut peers {
                measure(peer.as_mut(), *mib, count, end, &mut runs);
            }
        }
    }
    machine.end()?;
    let table = report::table(&runs);
    println!("\n{table}");
    if choice.write {
        report::write(&machine, &runs, &table)?;
    }
    Ok(runs.iter().any(|run| run.runtime == ours::NAME))
}

fn start<'a>(
    peer: Peer,
    private: &'a private::Private,
    image: &str,
) -> Result<Box<dyn Runtime + 'a>> {
    Ok(match peer {
        Peer::PodmanCrun => Box::new(podman::Podman::new(private, "crun")),
        Peer::PodmanRunc => Box::new(podman::Podman::new(private, "runc")),
        Peer::Containerd => Box::new(containerd::Containerd::start(private, image)?),
    })
}

/// Runs that fail are told and left out. After `end` there is but one more run.
fn measure(runtime: &mut dyn Runtime, mib: u64, count: usize, end: Instant, runs: &mut Vec<Run>) {
    for number in 1..=count {
        if number > 1 && Instant::now() > end {
            println!("{}: no time for more runs", runtime.name());
            return;
        }
        match once(runtime, mib) {
            Ok(run) => {
                println!(
                    "{:<22} {mib:>5} MiB  run {number:>2}: gap {:>9.1} ms (before: {:.1}), request {:>9.1} ms, \
                     written {:>8.1} MiB, restore {}",
                    run.runtime,
                    run.gap as f64 / 1e3,
                    run.quiet as f64 / 1e3,
                    run.request as f64 / 1e3,
                    run.written as f64 / f64::from(1 << 20),
                    match (run.restore, &run.trouble) {
                        (Some(time), _) => format!("{:.1} ms", time as f64 / 1e3),
                        (None, why) => why.clone().unwrap_or_default(),
                    },
                );
                runs.push(run);
            }
            Err(error) => {
                println!("{:<22} {mib:>5} MiB  run {number:>2}: {error:#}", runtime.name());
            }
        }
        if let Err(error) = runtime.destroy() {
            println!("{}: {error:#}", runtime.name());
        }
    }
}

fn once(runtime: &mut dyn Runtime, mib: u64) -> Result<Run> {
    const SECOND: i64 = 1_000_000_000;
    let mut run = Run { runtime: runtime.name(), mib, ..Run::default() };
    let begun = ticks::now();
    runtime.begin(mib)?;
    wait(Duration::from_secs(120), "the container to be filled", || {
        Ok(ticks::read(&runtime.logs()?, begun)?.len() > 20)
    })?;
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
    let all = ticks::read(&runtime.logs()?, asked - SECOND)?;
    let longest = |from: i64, to: i64| {
        all.iter().filter(|tick| (from..to).contains(&tick.at)).map(|tick| tick.gap).max()
    };
    run.quiet = longest(asked - SECOND, asked).context("no look before the request")?;
    run.gap = longest(asked, answered + SECOND / 3).context("no look around the request")?;

    runtime.destroy()?;
    let asked = ticks::now();
    match runtime.restore(&archive) {
        Ok(()) => {
            wait(Duration::from_secs(60), "the first look after the restore", || {
                let first = ticks::read(&runtime.logs()?, asked)?.first().map(|tick| tick.at);
                run.restore = first.map(|at| u64::try_from((at - asked) / 1000).unwrap_or(0));
                Ok(run.restore.is_some())
            })?;
        }
        Err(error) => run.trouble = Some(format!("{error:#}").replace('\n', " ")),
    }
    runtime.forget(&archive)?;
    Ok(run)
}

fn wait(limit: Duration, what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    while !look()? {
        if Instant::now() > end {
            bail!("waited in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn sync() -> Result<()> {
    let status = Command::new("sync").status().context("start sync")?;
    ensure!(status.success(), "sync failed");
    Ok(())
}

/// Compiles the ticker.
pub(crate) fn compile(to: &Path) -> Result<()> {
    let source = to.with_extension("c");
    std::fs::write(&source, include_str!("ticker.c"))?;
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(compiler)
        .args(["-O2", "-static", "-o"])
        .args([to, &source])
        .status()
        .context("start the C compiler")?;
    ensure!(status.success(), "the ticker does not compile");
    Ok(())
}
