//! Checkpoint, restore beside the original, check, remove; over and over.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::watched::Watched;
use super::{ENOUGH, Outcome, keep};
use crate::stand::Stand;

/// How long a copy goes on between its first check and its second.
const ON: Duration = Duration::from_millis(200);

/// The original is checked after so many rounds, and at the end.
const OFTEN: usize = 10;

/// What was taken note of.
#[derive(Debug, Default)]
struct Tally {
    frozen: Vec<u64>,
    total: Vec<u64>,
    notes: BTreeMap<String, usize>,
}

/// Phases of so many MiB and so many checkpoints; how many rounds were right.
pub(super) fn run(
    stand: &Stand<'_>,
    phases: &[(u64, usize)],
    end: Instant,
    outcome: &mut Outcome,
) -> Result<usize> {
    let mut right = 0;
    let self_check = stand.ok(&["checkpoint", "--help"])?.contains("--self-check");
    if !self_check {
        outcome.told("`checkpoint` of this binary has no --self-check: without it".to_owned());
    }
    for (mib, count) in phases {
        let mut original = Watched::start(stand, "soak", *mib)?;
        let mut tally = Tally::default();
        for number in 1..=*count {
            if Instant::now() > end {
                outcome.told(format!("no time for more than {} rounds of {mib} MiB", number - 1));
                break;
            }
            let archive = stand.folder().join("soak.tar");
            let mut step = || {
                one(stand, &original, &archive, self_check, &mut tally)?;
                if number % OFTEN == 0 || number == *count {
                    original.check().context("the original")?;
                }
                Ok::<(), anyhow::Error>(())
            };
            let stepped = step();
            right += usize::from(stepped.is_ok());
            if let Err(error) = stepped {
                let copy = stand.lines("copy").unwrap_or_default().join("\n");
                let kept = keep(
                    &[(archive.clone(), "archive.tar")],
                    &[
                        ("original.log", original.printed()),
                        ("copy.log", copy),
                        ("serve.log", stand.log()),
                    ],
                )?;
                outcome.failed(format!(
                    "round {number} of {mib} MiB: {error:#}; kept in {}",
                    kept.display()
                ));
                if outcome.failures.len() >= ENOUGH {
                    break;
                }
                // A verifier that has found something says so for ever.
                stand.run(&["rm", "--force", "default/copy"])?;
                stand.run(&["rm", "--force", "default/soak"])?;
                original = Watched::start(stand, "soak", *mib)?;
            }
            stand.run(&["rm", "--force", "default/copy"])?;
            if archive.exists() {
                std::fs::remove_file(&archive)?;
            }
            if number % 20 == 0 {
                println!("{number} of {count} rounds of {mib} MiB");
            }
        }
        match original.check() {
            Ok(figures) => outcome.told(tally.line(*mib, &figures)),
            Err(error) => {
                outcome.failed(format!("the original of {mib} MiB at the end: {error:#}"));
            }
        }
        stand.run(&["rm", "--force", "default/soak"])?;
    }
    Ok(right)
}

fn one(
    stand: &Stand<'_>,
    original: &Watched<'_>,
    archive: &Path,
    self_check: bool,
    tally: &mut Tally,
) -> Result<()> {
    let to = archive.to_str().context("the folder's path is not UTF-8")?;
    let target = format!("default/{0}/{0}", original.name);
    let mut words = vec!["checkpoint", &target, "--archive", to, "--output", "json"];
    words.extend(self_check.then_some("--self-check"));
    let report = report(&stand.ok(&words)?)?;
    tally.add(&report);
    stand.restore(archive, &["--network", "host", "--pod", "copy", "--name", "copy"])?;
    let mut copy = Watched::find(stand, "copy", original.asked)?;
    anyhow::ensure!(copy.pid != original.pid, "the copy does not run");
    copy.check().context("right after waking")?;
    std::thread::sleep(ON);
    copy.check().context("a little later")?;
    Ok(())
}

/// The JSON that the command printed.
pub(super) fn report(text: &str) -> Result<Value> {
    let json = text.find('{').map_or("", |at| &text[at..]);
    let first = serde_json::Deserializer::from_str(json).into_iter().next();
    Ok(first.with_context(|| format!("no report in {text:?}"))??)
}

impl Tally {
    fn add(&mut self, report: &Value) {
        self.frozen.extend(report["frozen_micros"].as_u64());
        self.total.extend(report["total_micros"].as_u64());
        for note in report["notes"].as_array().into_iter().flatten() {
            // One kind of note, whatever it counts.
            let text = note.as_str().unwrap_or_default();
            let kind: String =
                text.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
            *self.notes.entry(kind).or_default() += 1;
        }
    }

    fn line(&mut self, mib: u64, figures: &str) -> String {
        let shown = |values: &mut Vec<u64>| {
            values.sort_unstable();
            let at = |part: usize| values.get(values.len() * part / 100).copied();
            match (at(50), values.last()) {
                (Some(middle), Some(most)) => {
                    format!("{:.1} / {:.1} ms", middle as f64 / 1e3, *most as f64 / 1e3)
                }
                _ => "-".to_owned(),
            }
        };
        let (frozen, total) = (shown(&mut self.frozen), shown(&mut self.total));
        let notes: Vec<String> = self
            .notes
            .iter()
            .map(|(note, count)| format!("; noted {count} times: {note}"))
            .collect();
        format!(
            "{mib} MiB: {} checkpoints, frozen {frozen} (median / most), whole {total}; the original at the end: {figures}{}",
            self.frozen.len(),
            notes.concat()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_found_among_notes() {
        let value =
            report("a note\n{\"frozen_micros\": 7, \"notes\": [\"3 left\"]}\nmore").unwrap();
        let mut tally = Tally::default();
        tally.add(&value);
        tally.add(&value);
        let line = tally.line(8, "pages=1");
        assert!(line.contains("2 checkpoints, frozen 0.0 / 0.0 ms"), "{line}");
        assert!(line.contains("noted 2 times: # left"), "{line}");
        assert!(report("nothing").is_err());
    }
}
