use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cryopod_testkit::{Fate, Running, Verdict, Victim, adopt, gap, reap, victims};

use crate::program;

const LIMIT: Duration = Duration::from_secs(60);

/// One victim at a time: orphans are reaped by whoever waits for any child.
pub(crate) static ALONE: Mutex<()> = Mutex::new(());

fn each(check: impl Fn(&Victim) -> Result<Verdict, String>) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    adopt().expect("prctl with plain numbers");
    let mut failures = Vec::new();
    let (mut passed, mut skipped) = (0, 0);
    for victim in victims() {
        if let Some(need) = victim.unmet() {
            println!("SKIPPED {}: needs {need:?}", victim.name);
            skipped += 1;
            continue;
        }
        if victim.fate != Fate::Carried || gap(victim.name).is_some() {
            continue;
        }
        match check(victim) {
            Ok(Verdict::Ok) => passed += 1,
            Ok(other) => failures.push(format!("{}: {other:?}", victim.name)),
            Err(error) => failures.push(format!("{}: {error}", victim.name)),
        }
    }
    println!("{passed} victims passed, {skipped} skipped");
    assert!(failures.is_empty(), "{} victims failed:\n{}", failures.len(), failures.join("\n"));
    assert!(passed > 0, "no victim ran");
}

fn dumped(victim: &Victim, leave_running: bool) -> Result<Verdict, String> {
    dumped_with(victim, leave_running, &[], &[])
}

fn dumped_with(
    victim: &Victim,
    leave_running: bool,
    more: &[&str],
    restore: &[&str],
) -> Result<Verdict, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let images = folder.path().join("images");
    std::fs::create_dir(&images).map_err(|e| e.to_string())?;
    let mut running = Running::ready(victim, &folder.path().join("run"), &[])
        .map_err(|e| format!("not ready: {e}"))?;
    let mut options = more.to_vec();
    if leave_running {
        options.push("--leave-running");
    }
    program::dump_with(running.pid(), &images, &options)?;
    if leave_running {
        return running.finish(LIMIT).map_err(|e| e.to_string());
    }
    running.kill();
    reap();
    program::restore_with(&images, restore)?;
    running.place().go().map_err(|e| e.to_string())?;
    running.place().await_verdict(running.pid(), LIMIT).map_err(|e| e.to_string())
}

#[test]
fn a_victim_left_running_does_not_notice_that_its_memory_is_tracked() {
    each(|victim| dumped_with(victim, true, &["--track"], &[]));
}

#[test]
fn a_victim_whose_memory_was_copied_while_it_ran_goes_on_where_it_was() {
    each(|victim| dumped_with(victim, false, &["--track"], &[]));
}

#[test]
fn a_victim_whose_memory_comes_late_goes_on_where_it_was() {
    let late = ["--lazy", "--least", "1"];
    // Children forked while memory comes are not proven yet.
    let offered = |victim: &Victim| victim.name != "changing_memory";
    each(|victim| dumped_with(victim, false, &[], if offered(victim) { &late } else { &[] }));
}

#[test]
fn a_victim_left_running_does_not_notice_the_dump() {
    each(|victim| dumped(victim, true));
}

#[test]
fn a_victim_killed_and_restored_goes_on_where_it_was() {
    each(|victim| dumped(victim, false));
}

#[test]
fn what_is_not_carried_is_refused_by_name_and_goes_on() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut failures = Vec::new();
    for victim in victims() {
        let Fate::Refused(named) = victim.fate else { continue };
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images");
        std::fs::create_dir(&images).unwrap();
        let mut running = Running::ready(victim, &folder.path().join("run"), &[]).unwrap();
        match program::dump(running.pid(), &images, true) {
            Ok(_) => failures.push(format!("{} was dumped", victim.name)),
            Err(text) if !text.contains(named) && gap(victim.name).is_none() => {
                failures.push(format!("{}: {text} does not name {named}", victim.name));
            }
            Err(_) => {}
        }
        let verdict = running.finish(LIMIT);
        if !matches!(verdict, Ok(Verdict::Ok)) {
            failures.push(format!("{} did not go on: {verdict:?}", victim.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
