//! The verifier finds no fault in itself, and finds every one that is made in its memory.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cryopod_testkit::loads;

/// Ended when dropped.
struct Verifier(Child);

impl Drop for Verifier {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(log: &Path) -> Verifier {
    let mut command = Command::new(loads::verifier());
    command.arg("8").stdin(Stdio::null()).stdout(File::create(log).unwrap());
    let verifier = Verifier(command.spawn().unwrap());
    wait(log, "ready");
    verifier
}

/// What it printed, once `wanted` is in it.
fn wait(log: &Path, wanted: &str) -> String {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let text = std::fs::read_to_string(log).unwrap();
        if text.contains(wanted) {
            return text;
        }
        assert!(Instant::now() < end, "{wanted:?} is not in {text:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(verifier: &Verifier, number: i32) {
    cryopod_sys::process::kill(i32::try_from(verifier.0.id()).unwrap(), number).unwrap();
}

/// Waits until every thread is stopped.
fn stop(verifier: &Verifier) {
    signal(verifier, libc::SIGSTOP);
    let tasks = format!("/proc/{}/task", verifier.0.id());
    let stopped = |task: &Path| {
        let stat = std::fs::read_to_string(task.join("stat")).unwrap_or_default();
        stat.contains(") T ")
    };
    while !std::fs::read_dir(&tasks).unwrap().flatten().all(|task| stopped(&task.path())) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn undisturbed_it_finds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let verifier = start(&log);
    for number in 1..=3 {
        signal(&verifier, libc::SIGUSR1);
        let text = wait(&log, &format!("checked {number} "));
        assert!(!text.contains("FAIL"), "{text}");
        assert!(text.contains(&format!("checked {number} ok pages=")), "{text}");
    }
}

/// As a checkpoint does that copies a page before it was written for the last time.
#[test]
fn one_page_as_it_was_before_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let verifier = start(&log);
    stop(&verifier);
    let memory = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{}/mem", verifier.0.id()))
        .unwrap();
    // A thread's pages: stamped with their place, from 1 << 40 on those of the second.
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", verifier.0.id())).unwrap();
    let mut page = vec![0; 4096];
    let mut of_second = maps
        .lines()
        .filter(|line| line.contains(" rw-p ") && line.ends_with(" 0 "))
        .flat_map(|line| {
            let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
            (number(from)..number(to)).step_by(4096)
        })
        .filter(|at| {
            let place = memory.read_exact_at(&mut page, *at).ok();
            let place = place.map(|()| u64::from_ne_bytes(page[..8].try_into().unwrap()));
            place == Some((1 << 40) + 1)
        });
    let at = of_second.next().expect("the second page of the second thread");
    let mut before = vec![0; 4096];
    memory.read_exact_at(&mut before, at).unwrap();
    let mut now = before.clone();
    let end = Instant::now() + Duration::from_secs(60);
    while now == before {
        assert!(Instant::now() < end, "it does not write its page");
        signal(&verifier, libc::SIGCONT);
        std::thread::sleep(Duration::from_millis(200));
        stop(&verifier);
        memory.read_exact_at(&mut now, at).unwrap();
    }
    memory.write_all_at(&before, at).unwrap();
    signal(&verifier, libc::SIGCONT);
    signal(&verifier, libc::SIGUSR1);
    let text = wait(&log, "checked 1 ");
    assert!(text.contains("FAIL own: page"), "{text}");
    assert!(text.contains("checked 1 FAIL"), "{text}");
}
