//! The engine is killed before and after every system call it makes: of a dump, from the first
//! seize to its end, always over the same program, which must be as before each time and
//! come to the right result at the end; of a restore, from its first process to the last detach,
//! after which nothing may be left.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use cryopod_testkit::death::{self, Doomed, Look, Work, kill_dumps};
use cryopod_testkit::{Fate, Running, Verdict, adopt, reap, victim, victims};

use crate::program;

/// Kills a dump of this victim everywhere; how many times, and what the dump came to in the end.
fn dump_dies_everywhere(name: &str) -> io::Result<(usize, Result<(), String>)> {
    dump_dies(name, 1)
}

/// Kills a dump of this victim at every `stride`-th stop.
fn dump_dies(name: &str, stride: usize) -> io::Result<(usize, Result<(), String>)> {
    dump_dies_with(name, stride, &[])
}

/// As [`dump_dies`], of dumps with further options.
fn dump_dies_with(
    name: &str,
    stride: usize,
    more: &[&str],
) -> io::Result<(usize, Result<(), String>)> {
    let folder = tempfile::tempdir()?;
    let images = folder.path().join("images");
    std::fs::create_dir(&images)?;
    let mut running =
        Running::ready(victim(name), &folder.path().join("run"), &[]).map_err(io::Error::other)?;
    let pid = running.pid();
    let before = Look::at_rest(pid)?;
    let (stops, outcome) = kill_dumps(&program::path(), pid, (&images, more), stride, |stop| {
        let after = Look::settle(pid, |now| *now == before)?;
        assert_eq!(before, after, "{name}, killed at stop {stop}");
        Ok(())
    })?;
    println!("{name}: the engine was killed at each {stride}. of {stops} stops");
    let verdict = running.finish(Duration::from_secs(60)).map_err(io::Error::other)?;
    assert_eq!(verdict, Verdict::Ok, "{name}, after {stops} deaths of the engine");
    Ok((stops, outcome))
}

macro_rules! deaths {
    ($($test:ident $victim:literal;)*) => {$(
        #[test]
        fn $test() {
            let (stops, outcome) = dump_dies_everywhere($victim).unwrap();
            assert_eq!(outcome, Ok(()), "the first dump that was let live, after {stops} deaths");
        }
    )*};
}

deaths! {
    the_engine_may_die_anywhere_over_one_thread "counter_static";
    the_engine_may_die_anywhere_over_threads_that_wait "waits";
    the_engine_may_die_anywhere_over_restartable_sequences "rseq";
    the_engine_may_die_anywhere_over_extended_registers "avx_loop";
    the_engine_may_die_anywhere_over_goroutine_like_stacks "goroutines";
    the_engine_may_die_anywhere_over_filters_that_answer "seccomp_filter";
}

/// With CRYOPOD_EVERY_STOP set in the environment at every stop, which takes minutes.
#[test]
fn the_engine_may_die_over_memory_that_is_tracked() {
    for name in ["counter_static", "waits"] {
        let (stops, outcome) = dump_dies_with(name, death::stride(23), &["--track"]).unwrap();
        assert_eq!(outcome, Ok(()), "{name}: the first dump let live, after {stops} deaths");
    }
}

/// With CRYOPOD_EVERY_STOP set in the environment at every stop, which takes minutes.
#[test]
fn the_engine_may_die_over_queues_of_sockets() {
    let (stops, outcome) = dump_dies("unix_dgram_full", death::stride(5)).unwrap();
    assert_eq!(outcome, Ok(()), "the first dump that was let live, after {stops} deaths");
}

#[test]
fn the_engine_may_die_anywhere_over_a_filter_that_kills() {
    let (_, outcome) = dump_dies_everywhere("seccomp_kill").unwrap();
    let said = outcome.unwrap_err();
    assert!(said.contains("seccomp filter"), "{said}");
}

/// Victims whose refusal shows only in a stopped task, or needs a descriptor taken.
const LATE: &[&str] = &["seccomp_kill", "inotify_full"];

/// Whether a dump of this victim stopped anything.
fn stops_for(name: &str) -> io::Result<bool> {
    let folder = tempfile::tempdir()?;
    let images = folder.path().join("images");
    std::fs::create_dir(&images)?;
    let running =
        Running::ready(victim(name), &folder.path().join("run"), &[]).map_err(io::Error::other)?;
    let args = ["dump", "--leave-running", "--pid", &running.pid().to_string()];
    let engine = Doomed::start(&program::path(), &args, &images)?;
    let stops = engine.run_to(0, Work::Dump)?;
    engine.kill();
    Ok(stops)
}

#[test]
fn what_is_not_carried_is_refused_before_anything_is_stopped() {
    let refused = victims().iter().filter(|v| matches!(v.fate, Fate::Refused(_)));
    let late: Vec<&str> = refused
        .map(|v| v.name)
        .filter(|name| !LATE.contains(name) && stops_for(name).unwrap())
        .collect();
    assert!(late.is_empty(), "stopped before they were refused: {late:?}");
}

/// Names and sizes of the files in a folder.
fn listing(folder: &Path) -> io::Result<BTreeSet<(std::ffi::OsString, u64)>> {
    let entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.into_iter().map(|e| Ok((e.file_name(), e.metadata()?.len()))).collect()
}

/// Kills a restore of this victim at every `stride`-th stop before its threads are let go; how many
/// times. With CRYOPOD_EVERY_STOP set in the environment at every one, which takes minutes.
fn restore_dies(name: &str, stride: usize) -> io::Result<usize> {
    let stride = death::stride(stride);
    let folder = tempfile::tempdir()?;
    let images = folder.path().join("images");
    std::fs::create_dir(&images)?;
    let mut running =
        Running::ready(victim(name), &folder.path().join("run"), &[]).map_err(io::Error::other)?;
    program::dump(running.pid(), &images, false).map_err(io::Error::other)?;
    running.kill();
    let work = listing(&running.place().work())?;
    let dumped = listing(&images)?;
    // Its pid may be somebody else's for a while.
    let exe = Path::new("/proc").join(running.pid().to_string()).join("exe");
    let ours = [program::path(), running.place().executable()];
    let there = || std::fs::read_link(&exe).is_ok_and(|exe| ours.contains(&exe));
    let mut stops = 0;
    let outcome = loop {
        let engine = Doomed::start(&program::path(), &["restore"], &images)?;
        if !engine.run_to(stops, Work::Restore)? {
            match engine.finish()? {
                Err(said) if said.contains("its pid is taken") => {
                    // It may have ended after the last look.
                    reap();
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
                outcome => break outcome,
            }
        }
        engine.kill();
        for _ in 0..2000 {
            reap();
            if !there() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!there(), "{name}, killed at stop {stops}: it is still there");
        assert_eq!(listing(&running.place().work())?, work, "{name}, killed at stop {stops}");
        assert_eq!(listing(&images)?, dumped, "{name}, killed at stop {stops}");
        stops += stride;
    };
    println!("{name}: the engine was killed at each {stride}. of {stops} stops of a restore");
    assert_eq!(outcome, Ok(()), "the first restore that was let live, after {stops} deaths");
    running.place().go().map_err(io::Error::other)?;
    let verdict = running.place().await_verdict(running.pid(), Duration::from_secs(60));
    assert_eq!(verdict.map_err(io::Error::other)?, Verdict::Ok);
    Ok(stops)
}

#[test]
fn nothing_is_left_wherever_the_engine_dies_in_a_restore() {
    adopt().unwrap();
    assert!(restore_dies("counter_static", 23).unwrap() > 500);
}

#[test]
fn nothing_is_left_wherever_the_engine_dies_in_a_restore_of_threads() {
    adopt().unwrap();
    assert!(restore_dies("threads", 97).unwrap() > 500);
}
