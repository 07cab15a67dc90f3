//! Makes the first process of a container.

use std::os::fd::{AsFd, OwnedFd};

use cryopod_sys::namespace::{Kinds, join_process, unshare};
use cryopod_sys::spawn::{
    CLONE_NEWNS, CLONE_NEWPID, CLONE_PARENT, CloneOptions, Cloned, clone_process,
};

use super::{Event, HelperError, PidSpace, StdioShape, step};
use crate::init::{self, InitPlan};
use crate::manifest::Clocks;
use crate::wire::Channel;

/// Descriptors: the init's channel, then standard descriptors, then a pidfd to join.
pub(super) fn run(
    channel: &mut Channel,
    plan: &InitPlan,
    (pid, clocks): (PidSpace, Option<Clocks>),
    stdio: StdioShape,
    mut fds: impl Iterator<Item = OwnedFd>,
) -> Result<(), HelperError> {
    let init_channel = Channel::from_fd(fds.next().ok_or(HelperError::MissingDescriptor)?);
    let stdio = stdio.take(&mut fds);
    let mut flags = CLONE_PARENT | CLONE_NEWNS;
    match pid {
        PidSpace::New => flags |= CLONE_NEWPID,
        PidSpace::Inherit => {}
        PidSpace::Join => {
            let target = fds.next().ok_or(HelperError::MissingDescriptor)?;
            join_process(target.as_fd(), Kinds::PID).map_err(step("join the pid namespace"))?;
        }
    }
    if let Some(clocks) = clocks {
        // A new time namespace takes its offsets only while nobody is in it.
        unshare(Kinds::TIME).map_err(step("make the time namespace"))?;
        clocks.set_for_children().map_err(step("set the clocks"))?;
    }
    match clone_process(&CloneOptions { flags, ..CloneOptions::default() })
        .map_err(step("make the first process"))?
    {
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
