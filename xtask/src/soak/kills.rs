//! The helper that takes a checkpoint is killed at moments by chance, from the request to its end: the container goes on
//! right, and what is left is a whole archive or nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cryopod_archive::Archive;
use rustix::process::Signal;

use super::watched::Watched;
use super::{Choice, ENOUGH, Outcome, keep, next};
use crate::processes;
use crate::stand::Stand;

/// How a killed checkpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// Nothing was there to be killed at that moment.
    Untouched,
    /// It failed, and left nothing.
    Failed,
    /// It was told to have succeeded, and left a whole archive.
    Whole,
}

pub(super) fn run(
    stand: &Stand<'_>,
    choice: &Choice,
    end: Instant,
    outcome: &mut Outcome,
) -> Result<()> {
    let mib = choice.phases.first().map_or(32, |(mib, _)| *mib);
    let folder = stand.folder().join("kills");
    std::fs::create_dir(&folder)?;
    let mut verifier = Watched::start(stand, "soak", mib)?;
    let mut state = choice.seed.max(1);
    // How long one takes when nobody kills it, which tells what moments there are; the longest of three.
    let mut window = Duration::ZERO;
    for _ in 0..3 {
        let begun = Instant::now();
        stand.ok(&words(&folder.join("archive.tar"))?)?;
        window = window.max(begun.elapsed());
        std::fs::remove_file(folder.join("archive.tar"))?;
    }
    let mut ends: BTreeMap<End, usize> = BTreeMap::new();
    let mut killed = 0;
    for number in 1..=4 * choice.kills {
        if killed == choice.kills || outcome.failures.len() >= ENOUGH {
            break;
        }
        if Instant::now() > end {
            outcome.told(format!("no time for more than {killed} kills"));
            break;
        }
        let micros = u64::try_from(window.as_micros())?.max(1);
        let delay = Duration::from_micros(next(&mut state) % micros);
        let done =
            one(stand, &folder, verifier.pid, delay).and_then(|how| verifier.check().map(|_| how));
        match done {
            Ok(how) => {
                killed += usize::from(how != End::Untouched);
                *ends.entry(how).or_default() += 1;
            }
            Err(error) => {
                let kept = keep(
                    &[(folder.clone(), "folder")],
                    &[("verifier.log", verifier.printed()), ("serve.log", stand.log())],
                )?;
                outcome.failed(format!(
                    "try {number}, {delay:?} after the request: {error:#}; kept in {}",
                    kept.display()
                ));
                std::fs::create_dir_all(&folder)?;
                stand.run(&["rm", "--force", "default/soak"])?;
                verifier = Watched::start(stand, "soak", mib)?;
            }
        }
        if number % 50 == 0 {
            println!("{killed} of {} killed: {ends:?}", choice.kills);
        }
    }
    let count = |end| ends.get(&end).copied().unwrap_or(0);
    outcome.told(format!(
        "{mib} MiB, seed {}: {killed} helpers killed within {window:?} of the request: {} failed and left nothing, {} had \
         already made a whole archive; {} times there was no helper at that moment",
        choice.seed,
        count(End::Failed),
        count(End::Whole),
        count(End::Untouched),
    ));
    match verifier.check() {
        Ok(figures) => outcome.told(format!("the container at the end: {figures}")),
        Err(error) => outcome.failed(format!("the container at the end: {error:#}")),
    }
    ensure!(killed > 0 || !outcome.failures.is_empty(), "nothing was killed");
    Ok(())
}

fn words(archive: &Path) -> Result<[&str; 4]> {
    let archive = archive.to_str().context("the folder's path is not UTF-8")?;
    Ok(["checkpoint", "default/soak/soak", "--archive", archive])
}

/// One request, and a kill so long after it.
fn one(stand: &Stand<'_>, folder: &Path, first: u32, delay: Duration) -> Result<End> {
    let archive = folder.join("archive.tar");
    let shim = processes::parent(first).context("the container is gone")?;
    let begun = Instant::now();
    let (answer, killed) = std::thread::scope(|scope| {
        let asker = scope.spawn(|| stand.run(&words(&archive)?));
        std::thread::sleep(delay.saturating_sub(begun.elapsed()));
        let killed = helper(shim).is_some_and(|pid| processes::signal(pid, Signal::KILL).is_ok());
        let answer = asker.join().map_err(|_| anyhow::anyhow!("the request panicked"))?;
        Ok::<_, anyhow::Error>((answer?, killed))
    })?;
    let left: Vec<String> = std::fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    if answer.status.success() {
        ensure!(left == ["archive.tar"], "beside the archive there are {left:?}");
        let whole = Archive::open(&archive).and_then(|opened| opened.verify(&mut |_| ()));
        whole.context("the archive that was told to be whole")?;
        std::fs::remove_file(&archive)?;
        return Ok(if killed { End::Whole } else { End::Untouched });
    }
    ensure!(left.is_empty(), "a checkpoint that failed left {left:?}: {}", answer.text);
    if !killed {
        bail!("the checkpoint failed although nobody killed its helper: {}", answer.text);
    }
    Ok(End::Failed)
}

/// The helper that the shim has now.
fn helper(shim: u32) -> Option<u32> {
    processes::all().find(|pid| {
        processes::parent(*pid) == Some(shim)
            && processes::words(*pid).iter().any(|word| word == "helper")
    })
}
