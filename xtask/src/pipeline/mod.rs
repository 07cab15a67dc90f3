//! A shell pipeline that appends numbered lines to a file in its root filesystem and to its standard output: after
//! checkpoint, kill and restore, both have every number once, in order.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::stand::Stand;

/// The programs the container needs.
pub(crate) const PROGRAMS: &[&str] = &["sh", "sleep", "cat"];

/// Names that the archive must show.
pub(crate) const NAMES: &[&str] = &["sh", "cat"];

const FILE: &str = "/var/numbers";

/// Three stages; the first starts a program for each number.
const PIPELINE: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.002; done | cat | \
                        while read -r n; do echo \"$n\" >>/var/numbers; echo \"$n\"; done";

/// Numbers between two events.
const MANY: usize = 200;

/// How often it is interrupted; each time it is a restored container that is.
const INTERRUPTIONS: usize = 3;

/// Runs the case; gives the archives.
pub(crate) fn run(stand: &Stand<'_>) -> Result<Vec<PathBuf>> {
    stand.begin("pipeline", &[], &["/bin/sh", "-c", PIPELINE])?;
    let mut archives = Vec::new();
    for _ in 0..INTERRUPTIONS {
        grown(stand, count(stand)? + MANY)?;
        let archive = stand.checkpoint("pipeline")?;
        // It goes on, unharmed, with what the restored one must not show.
        let at = count(stand)?;
        grown(stand, at + MANY)?;
        whole(stand)?;
        stand.destroy("pipeline")?;
        stand.restore(&archive, &[])?;
        let restored = count(stand)?;
        ensure!(restored < at + MANY, "{restored} numbers after the restore: more than archived");
        archives.push(archive);
    }
    grown(stand, count(stand)? + MANY)?;
    whole(stand)?;
    stand.destroy("pipeline")?;
    Ok(archives)
}

fn grown(stand: &Stand<'_>, to: usize) -> Result<()> {
    stand.wait("more numbers", || Ok((count(stand)? >= to).then_some(())))
}

fn count(stand: &Stand<'_>) -> Result<usize> {
    Ok(stand.lines("pipeline")?.len())
}

/// The file and the log have every number once, in order.
fn whole(stand: &Stand<'_>) -> Result<()> {
    let file = stand.ok(&["exec", "default/pipeline/pipeline", "--", "/bin/cat", FILE])?;
    let log = stand.lines("pipeline")?;
    let file: Vec<String> = file.lines().map(str::to_owned).collect();
    for (name, lines) in [(FILE, &file), ("the log", &log)] {
        for (number, line) in (1usize..).zip(lines) {
            let found: usize = line.parse().with_context(|| format!("{name} has {line:?}"))?;
            ensure!(found == number, "{name} has {found} where {number} belongs");
        }
    }
    // The log was read later, and the file is written first.
    ensure!(!file.is_empty() && log.len() + 1 >= file.len(), "the log misses numbers");
    Ok(())
}
