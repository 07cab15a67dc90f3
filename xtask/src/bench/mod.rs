//! `cargo xtask bench`: how long a container stands still for a checkpoint, ours and the peers', and what else it costs.
//!
//! | part | what is measured |
//! |---|---|
//! | gaps | the longest gap between two looks at the clock that a container makes every millisecond, around a request |
//! | request | the whole request beside dd writing as many bytes to the same disk |
//! | restore | from the request of a restore to the first look, and until all memory was read once |
//! | redis | what clients of a redis-server see of a checkpoint and of a restore |
//! | growth | the freeze against memory, threads, processes, open files, areas |
//!
//! Every run has a container of its own, whose memory no compression makes smaller (`testkit/loads/ticker.c`).
//!
//! Bytes written are those that dirtied pages of files, less those taken back before they reached the disk, of every process
//! that works for the request (/proc/PID/io, proc_pid_io(5); what ended children wrote counts for their parents). The
//! blkio controller of cgroup v1 does not see them: it books writes of the page cache on the root.

mod cache;
mod client;
mod containerd;
mod figures;
mod gaps;
mod growth;
mod ours;
mod plot;
mod podman;
pub(crate) mod private;
mod promises;
mod redis;
mod report;
mod request;
mod restore;
pub(crate) mod ticks;
mod written;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

use crate::sid::Sid;
use crate::stand::Program;

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

/// A part of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// How long a container stands still, idle and writing
    Gaps,
    /// The whole request beside dd
    Request,
    /// Restores, lazy and eager, cold and warm
    Restore,
    /// redis under clients
    Redis,
    /// How the freeze grows
    Growth,
}

impl Part {
    /// Its share of the session's time.
    fn weight(self) -> f64 {
        match self {
            Part::Gaps => 0.5,
            Part::Request | Part::Restore => 0.15,
            Part::Redis | Part::Growth => 0.1,
        }
    }
}

/// What to measure.
#[derive(Debug)]
pub(crate) struct Choice {
    /// MiB of memory.
    pub(crate) sizes: Vec<u64>,
    /// Runs of ours for each cell.
    pub(crate) runs: usize,
    /// Runs of each peer for each size.
    pub(crate) peer_runs: usize,
    /// Runs of each peer from 4096 MiB on.
    pub(crate) large_peer_runs: usize,
    pub(crate) peers: Vec<Peer>,
    /// Parts; empty: all.
    pub(crate) only: Vec<Part>,
    /// The session's time: each part has its share, and after it but one more run of each cell.
    pub(crate) minutes: u64,
    /// The largest container of the part `growth`, in MiB.
    pub(crate) largest: u64,
    /// Measure the debug build: to try the benchmark itself.
    pub(crate) debug: bool,
    /// Write docs/performance.md, docs/plots and docs/results.
    pub(crate) write: bool,
    /// Said of the machine beside what can be measured.
    pub(crate) remark: Option<String>,
}

/// How memory comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// As the runtime does it unasked.
    Plain,
    /// When it is touched.
    Lazy,
    /// Before the container runs.
    Eager,
}

impl How {
    /// Our option for it.
    fn option(self) -> Option<&'static str> {
        match self {
            How::Plain => None,
            How::Lazy => Some("--lazy"),
            How::Eager => Some("--eager"),
        }
    }

    /// Its name in the tables.
    fn name(self) -> &'static str {
        self.option().map_or("unasked", |option| option.trim_start_matches('-'))
    }
}

/// A runtime with one container, or none.
trait Runtime {
    /// Its name in the tables.
    fn name(&self) -> &'static str;
    /// Starts a container with this command; gives back when it is started, not when it is filled.
    fn begin(&mut self, words: &[&str]) -> Result<()>;
    /// A name that is in the paths of the cgroups of its containers and of no others.
    fn cgroup(&self) -> String;
    /// Every file its log can be in.
    fn logs(&self) -> Result<Vec<PathBuf>>;
    /// Takes a checkpoint; gives the archive and how long the request took.
    fn checkpoint(&mut self) -> Result<(PathBuf, Duration)>;
    /// Kills the container and removes it.
    fn destroy(&mut self) -> Result<()>;
    /// Lets the container go on from the archive.
    fn restore(&mut self, archive: &Path, how: How) -> Result<()>;
    /// Bytes its processes have written so far, without those of commands that ended.
    fn written(&self) -> Result<i64>;
    /// Removes an archive.
    fn forget(&mut self, archive: &Path) -> Result<()> {
        std::fs::remove_file(archive).with_context(|| archive.display().to_string())
    }
}

/// All that came out of a session.
#[derive(Debug, Default)]
struct Results {
    gaps: Vec<gaps::Run>,
    requests: Vec<request::Run>,
    restores: Vec<restore::Run>,
    redis: Vec<redis::Run>,
    growth: Vec<growth::Run>,
    limits: growth::Limits,
    /// What the reader must know of how it was measured.
    notes: Vec<String>,
}

impl Results {
    /// Tells, and keeps for the page.
    fn note(&mut self, text: String) {
        println!("{text}");
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// Measures, prints, and writes what came out of it.
pub(crate) fn bench(choice: &Choice) -> Result<bool> {
    let all = Part::value_variants();
    let parts: Vec<Part> =
        all.iter().copied().filter(|p| choice.only.is_empty() || choice.only.contains(p)).collect();
    let sid = Sid::find()?;
    let program = Program::build(!choice.debug)?;
    let folder = tempfile::Builder::new().prefix("cryopod-bench-").tempdir_in("/var/tmp")?;
    let mut machine = report::Machine::look(folder.path(), choice)?;
    let mut results = Results::default();
    let with_redis = parts.contains(&Part::Redis) || parts.contains(&Part::Restore);
    let programs: &[&str] = if with_redis { redis::PROGRAMS } else { &[] };
    {
        let mut ours = ours::Ours::start(&sid, &program, programs)?;
        let private = match choice.peers.as_slice() {
            [] => None,
            _ => Some(private::Private::start(&sid, folder.path())?),
        };
        let mut peers = Vec::new();
        if let Some(private) = &private {
            let image = podman::image(private, &ours.root())?;
            for peer in &choice.peers {
                peers.push(start(*peer, private, &image)?);
            }
        }
        let weights: f64 = parts.iter().map(|part| part.weight()).sum();
        let begun = Instant::now();
        let mut share = 0.0;
        for part in &parts {
            share += part.weight() / weights;
            // Time that one part leaves is the next one's.
            let end = begun + Duration::from_secs(60 * choice.minutes).mul_f64(share);
            println!("\n== {part:?}, until {:.0} min", share * choice.minutes as f64);
            let outcome = match part {
                Part::Gaps => {
                    gaps::measure(choice, &mut ours, &mut peers, end, &mut results);
                    Ok(())
                }
                Part::Request => {
                    request::measure(choice, &mut ours, folder.path(), end, &mut results)
                }
                Part::Restore => restore::measure(choice, &mut ours, &mut peers, end, &mut results),
                Part::Redis => {
                    redis::measure(choice, &mut ours, &mut peers, end, &mut results);
                    Ok(())
                }
                Part::Growth => growth::measure(choice, &mut ours, end, &mut results),
            };
            if let Err(error) = outcome {
                results.note(format!("{part:?} was not measured to its end: {error:#}"));
            }
        }
    }
    machine.end()?;
    let page = report::tables(&results);
    println!("\n{page}");
    if choice.write {
        report::write(&machine, &results, &page)?;
    }
    Ok(results.any())
}

impl Results {
    fn any(&self) -> bool {
        !(self.gaps.is_empty()
            && self.requests.is_empty()
            && self.restores.is_empty()
            && self.redis.is_empty()
            && self.growth.is_empty())
    }
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

/// Starts a ticker and waits until it ticks; what it cannot make is an error.
fn begin_ticker(runtime: &mut dyn Runtime, words: &[&str]) -> Result<()> {
    let begun = ticks::now();
    let mut all = vec!["/ticker"];
    all.extend(words);
    runtime.begin(&all)?;
    wait(Duration::from_secs(120), "the container to be filled", || {
        let logs = runtime.logs()?;
        if let Some(what) = ticks::refusal(&logs)? {
            bail!("the ticker cannot make {what}");
        }
        Ok(ticks::read(&logs, begun)?.len() > 20)
    })
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
