//! Makes the first process of a container.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use cryopod_sys::namespace::{Kinds, join_process, unshare};
use cryopod_sys::spawn::{
    CLONE_NEWNS, CLONE_NEWPID, CLONE_PARENT, CloneOptions, Cloned, clone_process,
};

use super::{Birth, Event, HelperError, PidSpace, StdioShape, step};
use crate::init::{self, InitPlan};
use crate::wire::Channel;

/// How long an archived pid is waited for.
const PID_PATIENCE: Duration = Duration::from_secs(1);

/// Descriptors: the init's channel, then standard descriptors, then a pidfd to join.
pub(super) fn run(
    channel: &mut Channel,
    plan: &InitPlan,
    birth: Birth,
    stdio: StdioShape,
    mut fds: impl Iterator<Item = OwnedFd>,
) -> Result<(), HelperError> {
    let init_channel = Channel::from_fd(fds.next().ok_or(HelperError::MissingDescriptor)?);
    let stdio = stdio.take(&mut fds);
    let mut flags = CLONE_PARENT | CLONE_NEWNS;
    match birth.pid_space {
        PidSpace::New => flags |= CLONE_NEWPID,
        PidSpace::Inherit => {}
        PidSpace::Join => {
            let target = fds.next().ok_or(HelperError::MissingDescriptor)?;
            join_process(target.as_fd(), Kinds::PID).map_err(step("join the pid namespace"))?;
        }
    }
    if let Some(clocks) = birth.clocks {
        // A new time namespace takes its offsets only while nobody is in it.
        unshare(Kinds::TIME).map_err(step("make the time namespace"))?;
        clocks.set_for_children().map_err(step("set the clocks"))?;
    }
    let set_tid: Vec<i32> = birth.pid.into_iter().collect();
    let options = CloneOptions { flags, set_tid: &set_tid, ..CloneOptions::default() };
    let begun = Instant::now();
    let cloned = loop {
        match (clone_process(&options), birth.pid) {
            (Ok(cloned), _) => break cloned,
            // A process that is just ending keeps its pid for a moment.
            (Err(e), Some(_))
                if e.raw_os_error() == Some(libc::EEXIST) && begun.elapsed() < PID_PATIENCE =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            (Err(source), Some(pid)) => return Err(HelperError::Pid { pid, source }),
            (Err(source), None) => return Err(step("make the first process")(source)),
        }
    };
    match cloned {
        Cloned::Child => {
            // Only the helper's end of it tells the shim that the helper is gone.
            channel.disconnect();
            init::run(plan, &init_channel, stdio)
        }
        Cloned::Parent { pid, pidfd } => {
            channel.send(&Event::Made { pid }, &[pidfd.as_fd()]).map_err(step("report"))
        }
    }
}
