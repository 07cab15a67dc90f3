//! Sockets that lead outside, and sockets that go through two checkpoints.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use cryopod_testkit::{Running, Verdict, adopt, isolate, reap, victim};

use crate::{program, victims::ALONE};

#[test]
fn a_unix_socket_connected_outside_is_refused_and_the_process_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut sleeper = Command::new("sleep");
    sleeper.arg("1000").stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    isolate(&mut sleeper);
    let mut child = sleeper.spawn().unwrap();
    // The command keeps its copy of the socket; the child must be the only holder.
    drop(sleeper);
    let said = program::dump(child.id(), folder.path(), true).unwrap_err();
    let alive = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    drop(ours);
    assert!(said.contains("descriptor 0"), "{said}");
    assert!(said.contains("outside the container"), "{said}");
    assert!(alive, "the process ended");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "images were written");
}

#[test]
fn sockets_go_through_a_second_checkpoint_of_what_was_restored() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    adopt().unwrap();
    for name in ["unix_more", "unix_dgram_full", "unix_listen_full", "fown_full", "fifo"] {
        let folder = tempfile::tempdir().unwrap();
        let mut running = Running::ready(victim(name), &folder.path().join("run"), &[]).unwrap();
        let pid = running.pid();
        for round in ["first", "second"] {
            let images = folder.path().join(round);
            std::fs::create_dir(&images).unwrap();
            program::dump(pid, &images, false).unwrap_or_else(|e| panic!("{name}, {round}: {e}"));
            running.kill();
            reap();
            program::restore(&images).unwrap_or_else(|e| panic!("{name}, {round}: {e}"));
        }
        running.place().go().unwrap();
        let verdict = running.place().await_verdict(pid, Duration::from_secs(60)).unwrap();
        assert_eq!(verdict, Verdict::Ok, "{name}");
        reap();
    }
}
