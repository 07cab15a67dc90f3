//! Without containers: the engine's example dumps a verifier, which is ended; the restored one checks itself and is the next
//! to be dumped. In every third round it is left running and checked instead.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cryopod_testkit::{adopt, isolate, loads, reap};
use rustix::process::Signal;

use super::watched::{Verdict, verdict};
use super::{Choice, ENOUGH, Outcome, keep};
use crate::sid::Answer;
use crate::{coverage, processes};

const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn run(choice: &Choice, end: Instant, outcome: &mut Outcome) -> Result<()> {
    adopt()?;
    let engine = coverage::engine()?;
    let folder = tempfile::Builder::new().prefix("cryopod-soak-").tempdir_in("/var/tmp")?;
    for (mib, count) in &choice.phases {
        let mut alone = Alone::start(folder.path(), *mib)?;
        let mut done = 0;
        for number in 1..=*count {
            if Instant::now() > end {
                outcome.told(format!("no time for more than {done} rounds of {mib} MiB"));
                break;
            }
            let images = folder.path().join("images");
            std::fs::create_dir_all(&images)?;
            if let Err(error) = alone.round(&engine, &images, (choice.untracked, number % 3 == 0)) {
                let log = (alone.log.clone(), "verifier.log");
                let kept = keep(&[(images.clone(), "images"), log], &[])?;
                outcome.failed(format!(
                    "round {number} of {mib} MiB: {error:#}; kept in {}",
                    kept.display()
                ));
                alone.end()?;
                if outcome.failures.len() >= ENOUGH {
                    return Ok(());
                }
                alone = Alone::start(folder.path(), *mib)?;
            }
            if images.exists() {
                std::fs::remove_dir_all(&images)?;
            }
            done += 1;
        }
        match alone.check() {
            Ok(figures) => outcome.told(format!(
                "{mib} MiB, the engine alone: {done} dumps, a restore of two in three; the last at the end: {figures}"
            )),
            Err(error) => outcome.failed(format!("the last of {mib} MiB: {error:#}")),
        }
        alone.end()?;
    }
    Ok(())
}

/// A verifier, or what was restored of it.
struct Alone {
    pid: u32,
    log: PathBuf,
    asked: u64,
}

impl Alone {
    fn start(folder: &Path, mib: u64) -> Result<Self> {
        let log = folder.join("verifier.log");
        let file = File::create(&log)?;
        let mut command = Command::new(loads::verifier());
        command.arg(mib.to_string()).current_dir("/").env_clear();
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        isolate(&mut command);
        // Reaped with all others: a zombie keeps its pid from being restored.
        let pid = command.spawn().context("start the verifier")?.id();
        let alone = Alone { pid, log, asked: 0 };
        alone.wait(|lines| lines.lines().any(|line| line == "ready").then_some(Ok(())))?;
        Ok(alone)
    }

    fn round(
        &mut self,
        engine: &Path,
        images: &Path,
        (untracked, leave): (bool, bool),
    ) -> Result<()> {
        let images_text = images.to_string_lossy();
        let pid = self.pid.to_string();
        let mut words = vec!["dump", "--pid", &pid, "--images", &images_text, "--leave-running"];
        words.extend((!untracked).then_some("--track"));
        ours(engine, &words)?;
        if leave {
            return self.check().map(drop).context("left running");
        }
        self.end()?;
        ours(engine, &["restore", "--images", &images_text])?;
        self.check().map(drop).context("right after waking")
    }

    fn check(&mut self) -> Result<String> {
        processes::signal(self.pid, Signal::USR1)?;
        self.asked += 1;
        self.wait(|text| match verdict(text.lines(), self.asked)? {
            Verdict::Well(figures) => Some(Ok(figures)),
            Verdict::Wrong(what) => Some(Err(anyhow::anyhow!("it found: {what}"))),
        })
    }

    fn wait<T>(&self, mut look: impl FnMut(&str) -> Option<Result<T>>) -> Result<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(&self.log)?;
            if let Some(found) = look(&text) {
                return found;
            }
            ensure!(self.members().contains(&self.pid), "it is gone; it printed {text:?}");
            if Instant::now() > end {
                bail!("it says nothing; it printed {text:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it: the others of its session follow when their pipes and parents are gone.
    fn end(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            for pid in self.members() {
                let _ = processes::signal(pid, Signal::KILL);
            }
            reap();
            if self.members().is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the verifier does not end");
        }
    }

    /// The processes of its session.
    fn members(&self) -> Vec<u32> {
        processes::all().filter(|pid| processes::session(*pid) == Some(self.pid)).collect()
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("xtask: {error:#}");
        }
    }
}

fn ours(engine: &Path, words: &[&str]) -> Result<()> {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", &PATIENCE.as_secs().to_string()]).arg(engine).args(words);
    let answer = Answer::of(command)?;
    ensure!(answer.status.success(), "our {}: {}: {}", words[0], answer.status, answer.text);
    Ok(())
}
