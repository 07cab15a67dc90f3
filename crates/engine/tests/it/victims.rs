use std::time::Duration;

use cryopod_testkit::{Fate, Running, Verdict, Victim, victims};

use crate::program;

const LIMIT: Duration = Duration::from_secs(60);

/// Victims that the engine does not carry yet, with what is missing. Each is refused by name or
/// known to lose what is told here; the coverage table says the same.
const MISSING: &[(&str, &str)] = &[(
    "posix_timers_full",
    "a timer signal that was pending comes back without its overrun count",
)];

fn each(check: impl Fn(&Victim) -> Result<Verdict, String>) {
    let mut failures = Vec::new();
    let (mut passed, mut skipped) = (0, 0);
    for victim in victims() {
        if let Some(need) = victim.unmet() {
            println!("SKIPPED {}: needs {need:?}", victim.name);
            skipped += 1;
            continue;
        }
        if victim.fate != Fate::Carried || MISSING.iter().any(|(name, _)| *name == victim.name) {
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
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let images = folder.path().join("images");
    std::fs::create_dir(&images).map_err(|e| e.to_string())?;
    let mut running = Running::ready(victim, &folder.path().join("run"), &[])
        .map_err(|e| format!("not ready: {e}"))?;
    program::dump(running.pid(), &images, leave_running)?;
    if leave_running {
        return running.finish(LIMIT).map_err(|e| e.to_string());
    }
    running.kill();
    program::restore(&images)?;
    running.place().go().map_err(|e| e.to_string())?;
    running.place().await_verdict(running.pid(), LIMIT).map_err(|e| e.to_string())
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
    let mut failures = Vec::new();
    for victim in victims() {
        let Fate::Refused(named) = victim.fate else { continue };
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images");
        std::fs::create_dir(&images).unwrap();
        let mut running = Running::ready(victim, &folder.path().join("run"), &[]).unwrap();
        match program::dump(running.pid(), &images, true) {
            Ok(_) => failures.push(format!("{} was dumped", victim.name)),
            Err(text) if !text.contains(named) => {
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
