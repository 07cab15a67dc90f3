//! A Python program with four worker processes, pipes, threads and timers: interrupted twice, by checkpoint, kill and
//! restore, it comes to the result of an undisturbed run.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::stand::{Stand, inside, tree};

/// The programs the container needs.
pub(crate) const PROGRAMS: &[&str] = &["python3"];

/// Names that the archive must show.
pub(crate) const NAMES: &[&str] = &["python3"];

/// The program.
const SEQUENCE: &str = include_str!("sequence.py");

const ROUNDS: u64 = 3_000;

/// Runs the case; gives the archives.
pub(crate) fn run(stand: &Stand<'_>) -> Result<Vec<PathBuf>> {
    let program = stand.root().join("sequence.py");
    std::fs::write(&program, SEQUENCE).with_context(|| program.display().to_string())?;
    let rounds = ROUNDS.to_string();
    let expected = undisturbed(stand, &program, &rounds)?;
    ensure!(
        expected.last().is_some_and(|line| line.starts_with("result ")),
        "the undisturbed run ends with {:?}",
        expected.last()
    );

    stand.begin("workers", &[], &["/usr/bin/python3", "/sequence.py", &rounds])?;
    let mut archives = Vec::new();
    // The second checkpoint is one of a restored container.
    for part in [2, 4] {
        let far = format!("round {} ", ROUNDS * part / 100 * 10);
        stand.wait("the workers to come so far", || {
            let lines = stand.lines("workers")?;
            check(&lines, &expected)?;
            Ok(lines.iter().any(|line| line.starts_with(&far)).then_some(()))
        })?;
        let archive = stand.checkpoint("workers")?;
        stand.destroy("workers")?;
        stand.restore(&archive, &[])?;
        archives.push(archive);
    }
    stand.wait("the result", || {
        let lines = stand.lines("workers")?;
        check(&lines, &expected)?;
        Ok((lines.len() == expected.len()).then_some(()))
    })?;
    stand.destroy("workers")?;
    Ok(archives)
}

/// Every line so far is that of the undisturbed run.
fn check(lines: &[String], expected: &[String]) -> Result<()> {
    for (number, line) in lines.iter().enumerate() {
        let right = expected.get(number).map_or("no line", String::as_str);
        ensure!(line == right, "line {}: {line:?} instead of {right:?}", number + 1);
    }
    Ok(())
}

fn undisturbed(stand: &Stand<'_>, program: &Path, rounds: &str) -> Result<Vec<String>> {
    let program = inside(program)?;
    let text = tree(stand.sid, "exec python3 \"$@\"", &[program.as_os_str(), rounds.as_ref()])?;
    Ok(text.lines().map(str::to_owned).collect())
}
