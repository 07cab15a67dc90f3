//! The victims themselves: they pass undisturbed, and they notice every damage they know.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test panics, and says what it skipped"
)]

mod loads;

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cryopod_testkit::{Running, Verdict, Victim, VictimError, victims};

const LIMIT: Duration = Duration::from_secs(30);

/// The verdict of an undisturbed run; `None` when the machine lacks what the victim needs.
fn run(victim: &Victim, arguments: &[&str]) -> Result<Option<Verdict>, VictimError> {
    let folder = tempfile::tempdir().unwrap();
    if let Some(need) = victim.unmet() {
        println!("SKIPPED {}: needs {need:?}", victim.name);
        return Ok(None);
    }
    match Running::ready(victim, &folder.path().join("run"), arguments) {
        Ok(mut running) => running.finish(LIMIT).map(Some),
        Err(VictimError::Early { verdict: Verdict::Skip(why), .. }) => {
            println!("SKIPPED {}: {why}", victim.name);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn harms(victim: &Victim) -> usize {
    let output = Command::new(victim.path).arg("--harms").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// Runs the jobs, four at a time (they mostly sleep), and returns what was wrong.
fn run_all(jobs: &[(&'static Victim, Option<usize>)]) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let bad = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((victim, harm)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let number = harm.map(|n| n.to_string());
                    let arguments = number.as_deref().map(|n| ["--harm", n]);
                    let verdict = run(victim, arguments.as_ref().map_or(&[][..], |a| &a[..]));
                    let good = match &verdict {
                        Ok(None) => true,
                        Ok(Some(Verdict::Ok)) => harm.is_none(),
                        Ok(Some(Verdict::Fail(_))) => harm.is_some(),
                        _ => false,
                    };
                    if !good {
                        bad.lock()
                            .unwrap()
                            .push(format!("{} harm {harm:?}: {verdict:?}", victim.name));
                    }
                }
            });
        }
    });
    bad.into_inner().unwrap()
}

#[test]
fn every_victim_passes_when_nobody_touches_it() {
    let jobs: Vec<_> = victims().iter().map(|victim| (victim, None)).collect();
    let bad = run_all(&jobs);
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn every_victim_notices_every_damage_it_knows() {
    // a static variant has the same checks
    let jobs: Vec<_> = victims()
        .iter()
        .filter(|victim| !victim.name.ends_with("_static") || victim.name == "counter_static")
        .flat_map(|victim| (0..harms(victim)).map(move |harm| (victim, Some(harm))))
        .collect();
    println!("{} damages", jobs.len());
    assert!(!jobs.is_empty());
    let bad = run_all(&jobs);
    assert!(bad.is_empty(), "{bad:#?}");
}
