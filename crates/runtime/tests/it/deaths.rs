//! The helper that takes a checkpoint is killed before and after every system call it makes from the
//! first seize to its end. Each time the shim must answer with an error, leave no part
//! of an archive, and the container must be as before and come to the right result at the end.

use std::fs;
use std::time::{Duration, Instant};

use cryopod_runtime::{CheckpointOptions, ContainerState, ErrorKind};
use cryopod_testkit::death::{self, Doomed, Look, Work};
use cryopod_testkit::victim;

use crate::endurance::{files_in, helpers, shim_of};
use crate::host::{Host, assert_state, wait_for};
use crate::victims::{Folder, judged, place};

/// The helper that a shim has started and that waits to be traced.
fn caught(shim: i32) -> Doomed {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(helper) = helpers(shim, None).into_iter().next() {
            return Doomed::attach(helper.as_raw_nonzero().get()).unwrap();
        }
        assert!(Instant::now() < deadline, "the shim started no helper");
    }
}

/// Kills checkpoints of this victim at every `stride`-th stop, or at every one with
/// CRYOPOD_EVERY_STOP set in the environment. `stop`: of checkpoints that end the container.
#[expect(clippy::print_stdout, reason = "the count is to be seen")]
fn helper_dies(name: &str, stride: usize, stop: bool) -> Result<(), String> {
    let stride = death::stride(stride);
    let host = Host::holding();
    let sandbox = host.run_pod("doomed");
    let shim = shim_of(&host, &sandbox);
    let placed = place(&host, &sandbox, victim(name), Folder::Mounted)?;
    let hold = host.dir.path().join("host.hold");
    fs::write(&hold, "").unwrap();
    let pid = u32::try_from(host.runtime.container_status(&placed.id).unwrap().pid.unwrap());
    let pid = pid.unwrap();
    let folder = host.dir.path().join("archives");
    fs::create_dir(&folder).unwrap();
    let archive = folder.join("checkpoint.tar");
    let options = CheckpointOptions { stop, ..CheckpointOptions::default() };
    let before = Look::at_rest(pid).unwrap();
    let mut stops = 0;
    let outcome = loop {
        let (killed, result) = std::thread::scope(|scope| {
            let take = || host.runtime.checkpoint_container(&placed.id, &archive, &options);
            let checkpoint = scope.spawn(take);
            let helper = caught(shim);
            let alive = helper.run_to(stops, Work::Dump).unwrap();
            if alive {
                helper.kill();
            } else {
                helper.finish().unwrap().unwrap();
            }
            (alive, checkpoint.join().unwrap())
        });
        match result {
            // It had reported already: the archive is whole.
            Ok(_) if !killed || stop => break result,
            Ok(_) => fs::remove_file(&archive).unwrap(),
            Err(_) if !killed => break result,
            Err(error) => {
                // The shim's, or its own refusal, which it had reported already.
                let kind = error.kind();
                let expected = [ErrorKind::Internal, ErrorKind::Refused].contains(&kind);
                assert!(expected, "{name}, killed at stop {stops}: {kind:?}: {error}");
            }
        }
        assert!(files_in(&folder).is_empty(), "{name}, killed at stop {stops}: a file is left");
        let status = host.runtime.container_status(&placed.id).unwrap();
        assert_state(&status, ContainerState::Running);
        let after = Look::settle(pid, |now| *now == before).unwrap();
        assert_eq!(before, after, "{name}, killed at stop {stops}");
        stops += stride;
    };
    println!("{name}: the dump helper was killed at each {stride}. of {stops} stops");
    assert!(stops > 100, "{stops}");
    fs::remove_file(&hold).unwrap();
    let taken = outcome.map(drop).map_err(|error| error.to_string());
    if stop && taken.is_ok() {
        let ended = || host.runtime.container_status(&placed.id).unwrap().state;
        wait_for("its end", || ended() == ContainerState::Exited);
        assert_eq!(files_in(&folder), [archive]);
        return taken;
    }
    judged(&host, &placed.work, &placed.id).map_err(|e| format!("after {stops} deaths: {e}"))?;
    taken
}

macro_rules! deaths {
    ($($test:ident $victim:literal $stride:literal;)*) => {$(
        #[test]
        fn $test() {
            helper_dies($victim, $stride, false).unwrap();
        }
    )*};
}

deaths! {
    a_dump_helper_may_die_anywhere_over_threads_that_wait "waits" 61;
    a_dump_helper_may_die_anywhere_over_restartable_sequences "rseq" 101;
    a_dump_helper_may_die_anywhere_over_extended_registers "avx_loop" 113;
    a_dump_helper_may_die_anywhere_over_goroutine_like_stacks "goroutines" 127;
    a_dump_helper_may_die_anywhere_over_filters_that_answer "seccomp_filter" 113;
}

#[test]
fn a_dump_helper_may_die_anywhere_over_a_filter_that_kills() {
    let said = helper_dies("seccomp_kill", 13, false).unwrap_err();
    assert!(said.contains("seccomp filter"), "{said}");
}

/// Until the whole archive is there, a container that was to be stopped goes on.
#[test]
fn a_dump_helper_may_die_anywhere_before_it_stops_a_container() {
    helper_dies("counter_static", 89, true).unwrap();
}
