//! Processes that job control had stopped: stopped again while they are still held, so that none of
//! them runs, and their parents do not hear once more of what they have heard.
//!
//! A stop is reported once to the parent, by SIGCHLD and by wait(2). Whether it was is kept with the
//! parent, which is complete later than its children: it throws the SIGCHLD away and takes the
//! report by waitid(2), where it had done so before.

use std::io;
use std::time::{Duration, Instant};

use cryopod_sys::ptrace;
use cryopod_sys::wait::{self, Status};

use crate::inject::Remote;
use crate::proc::stat;

/// Whether a stop by this signal is made here: others may be ignored in an orphaned process group.
pub(crate) fn is_plain(signal: i32) -> bool {
    signal == libc::SIGSTOP
}

/// Stops a process by SIGSTOP; `tids` are its threads, the leader first, complete but for their
/// signal masks, which must block everything.
pub(crate) fn stop(tids: &[i32]) -> io::Result<()> {
    let Some(leader) = tids.first() else { return Ok(()) };
    cryopod_sys::process::kill(*leader, libc::SIGSTOP)?;
    for tid in tids {
        ptrace::resume(*tid, 0)?;
        loop {
            match wait::wait_for(*tid)? {
                Status::Event { event: wait::EVENT_STOP, .. } => break,
                Status::Signal(signal) => ptrace::resume(*tid, signal)?,
                Status::Exited(_) | Status::Killed(_) => {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Waits until threads that were let go rest in their stop again, which the kernel lets them enter
/// by themselves; not for long, since anybody may let them go on.
pub(crate) fn await_rest(tids: &[i32]) {
    const PATIENCE: Duration = Duration::from_secs(2);
    let begin = Instant::now();
    let rests =
        |tid: &i32| !matches!(stat::of(*tid, *tid), Ok(stat) if matches!(stat.state, b'R' | b't'));
    while !tids.iter().all(rests) && begin.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Lets a parent take the report of a child's stop.
pub(crate) fn hear(child: u32, parent: &mut Remote) -> io::Result<()> {
    const P_PID: u64 = 1;
    let options = (libc::WSTOPPED | libc::WNOHANG) as u64;
    parent.call(libc::SYS_waitid, [P_PID, u64::from(child), 0, options, 0, 0]).map(drop)
}
