//! `cargo xtask soak`: checkpoints of a program whose memory makes sense at a single instant only, while it does all it can
//! to that memory (`testkit/loads/verifier.c`). Each checkpoint leaves it running and is restored beside it; the copy checks
//! all of its memory as soon as it wakes.
//!
//! | way | what is done |
//! |---|---|
//! | rounds | checkpoint, restore, check, through the runtime |
//! | `--engine-only` | the same by the engine's example program, without containers: faster, and no sid tree |
//! | `--kills N` | the helper that takes a checkpoint is killed N times, at moments by chance |
//! | `--limit` | 20 checkpoints of a container at 95 % of its memory limit, under writes |
//!
//! What fails is kept with its logs, and the rest goes on until three have failed.

mod engine;
mod kills;
mod limit;
mod rounds;
mod watched;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use cryopod_testkit::loads;

use crate::sid::{Sid, checkout};
use crate::stand::{Program, Stand};

/// After so many failures there is no use in more.
const ENOUGH: usize = 3;

/// What to do.
#[derive(Debug)]
pub(crate) struct Choice {
    /// MiB of the verifier, and checkpoints of it.
    pub(crate) phases: Vec<(u64, usize)>,
    /// At most so long.
    pub(crate) minutes: u64,
    /// Without the runtime.
    pub(crate) engine_only: bool,
    /// There, memory is copied in the freeze alone.
    pub(crate) untracked: bool,
    /// Kills of the helper, instead.
    pub(crate) kills: usize,
    /// At the memory limit, instead.
    pub(crate) limit: bool,
    /// What chance begins with.
    pub(crate) seed: u64,
    /// The release build.
    pub(crate) release: bool,
    /// Write docs/results.
    pub(crate) write: bool,
}

/// What came out of a part.
#[derive(Debug, Default)]
struct Outcome {
    /// What was done, with figures.
    lines: Vec<String>,
    /// What went wrong.
    failures: Vec<String>,
}

impl Outcome {
    fn told(&mut self, line: String) {
        println!("{line}");
        self.lines.push(line);
    }

    fn failed(&mut self, what: String) {
        println!("FAILED: {what}");
        self.failures.push(what);
    }
}

/// Runs it; true when nothing failed.
pub(crate) fn soak(choice: &Choice) -> Result<bool> {
    let end = Instant::now() + Duration::from_secs(60 * choice.minutes);
    let begun = Instant::now();
    let mut outcome = Outcome::default();
    if choice.engine_only {
        engine::run(choice, end, &mut outcome)?;
    } else {
        let sid = Sid::find()?;
        let program = Program::build(choice.release)?;
        let stand = start(&sid, &program)?;
        if choice.kills > 0 {
            kills::run(&stand, choice, end, &mut outcome)?;
        } else if choice.limit {
            limit::run(&stand, choice, &mut outcome)?;
        } else {
            rounds::run(&stand, &choice.phases, end, &mut outcome)?;
        }
    }
    outcome.told(format!(
        "{} failures in {:.1} minutes",
        outcome.failures.len(),
        begun.elapsed().as_secs_f64() / 60.0
    ));
    if choice.write {
        write(choice, &outcome)?;
    }
    Ok(outcome.failures.is_empty())
}

/// Rounds of [`smoke`], all of which must be.
const SMOKE: usize = 6;

/// A few checkpoints of a small verifier: for `cargo xtask e2e`.
pub(crate) fn smoke(sid: &Sid, program: &Program) -> Result<bool> {
    let stand = start(sid, program)?;
    let mut outcome = Outcome::default();
    // Only a machine that stands still takes so long.
    let end = Instant::now() + Duration::from_secs(600);
    let rounds = rounds::run(&stand, &[(32, SMOKE)], end, &mut outcome)?;
    Ok(outcome.failures.is_empty() && rounds == SMOKE)
}

/// A node whose root filesystem holds the verifier and the ticker.
fn start<'a>(sid: &'a Sid, program: &Program) -> Result<Stand<'a>> {
    let stand = Stand::start_in(Path::new("/var/tmp"), sid, program, &[])?;
    let root = stand.root();
    std::fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
    for (from, name) in [(loads::verifier(), "verifier"), (loads::ticker(), "ticker")] {
        std::fs::copy(from, root.join(name)).with_context(|| format!("copy the {name}"))?;
    }
    Ok(stand)
}

/// A folder that stays, for what a failure left.
fn keep(files: &[(PathBuf, &str)], texts: &[(&str, String)]) -> Result<PathBuf> {
    let folder = tempfile::Builder::new().prefix("cryopod-soak-failed-").tempdir_in("/var/tmp")?;
    for (from, name) in files {
        let to = folder.path().join(name);
        // Another file system, or nothing there: then there is nothing to keep.
        if std::fs::rename(from, &to).is_err() && from.exists() {
            let status = Command::new("cp").arg("-a").arg(from).arg(&to).status()?;
            anyhow::ensure!(status.success(), "{} cannot be kept", from.display());
        }
    }
    for (name, text) in texts {
        std::fs::write(folder.path().join(name), text)?;
    }
    Ok(folder.keep())
}

/// xorshift; of 0 comes nothing but 0.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn write(choice: &Choice, outcome: &Outcome) -> Result<()> {
    let said = |program: &str, arguments: &[&str]| -> Result<String> {
        let output = Command::new(program).args(arguments).current_dir(checkout()).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let date = said("date", &["-u", "+%F %R UTC"])?;
    let commit = said("git", &["rev-parse", "--short=12", "HEAD"])?;
    let way = match choice {
        Choice { engine_only: true, .. } => "engine",
        Choice { kills: 1.., .. } => "kills",
        Choice { limit: true, .. } => "limit",
        _ => "rounds",
    };
    let build = if choice.release && !choice.engine_only { "release" } else { "debug" };
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    let mut text = format!(
        "# Checkpoints under fire: {way}\n\n`cargo xtask soak`, {date}, on commit {commit}, {build} build, Linux {}; load \
         averages at the end {load}.\n\n",
        std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim()
    );
    for line in &outcome.lines {
        let _ = writeln!(text, "- {line}");
    }
    for failure in &outcome.failures {
        let _ = writeln!(text, "- **failed**: {}", failure.replace('\n', " "));
    }
    let folder = checkout().join("docs/results");
    std::fs::create_dir_all(&folder)?;
    let day = date.split(' ').next().unwrap_or_default();
    let path = folder.join(format!("{day}-soak-{way}.md"));
    std::fs::write(&path, text)?;
    println!("written: {}", path.display());
    Ok(())
}
