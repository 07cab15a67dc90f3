//! Runs a command in a container.

use std::os::fd::{AsFd, OwnedFd};

use cryopod_sys::namespace::{Kinds, join_process};
use cryopod_sys::spawn::{CLONE_PARENT, CloneOptions, Cloned, clone_process};

use super::{Event, HelperError, StdioShape, step};
use crate::init::{self, ExecPlan};
use crate::wire::Channel;

/// Descriptors: the command's channel, the pidfd of the container's first process, then standard
/// descriptors.
pub(super) fn run(
    channel: &mut Channel,
    plan: &ExecPlan,
    stdio: StdioShape,
    mut fds: impl Iterator<Item = OwnedFd>,
) -> Result<(), HelperError> {
    let exec_channel = Channel::from_fd(fds.next().ok_or(HelperError::MissingDescriptor)?);
    let container = fds.next().ok_or(HelperError::MissingDescriptor)?;
    let stdio = stdio.take(&mut fds);
    let spec = init::read_spec(&plan.bundle)?;
    let mut process = spec.process().clone().ok_or(HelperError::NoProcess)?;
    process.set_args(Some(plan.command.clone())).set_terminal(Some(false));
    // Network, ipc and host name are the shim's already; mounts are entered by the child, since the
    // container's /proc knows only what is in its pid namespace.
    let kinds = Kinds::PID.and(Kinds::TIME);
    join_process(container.as_fd(), kinds).map_err(step("join the namespaces"))?;
    let options = CloneOptions { flags: CLONE_PARENT, ..CloneOptions::default() };
    match clone_process(&options).map_err(step("make the process"))? {
        Cloned::Child => {
            channel.disconnect();
            init::run_exec(&process, &spec, container.as_fd(), &exec_channel, stdio)
        }
        Cloned::Parent { pid, pidfd } => {
            channel.send(&Event::Made { pid }, &[pidfd.as_fd()]).map_err(step("report"))
        }
    }
}
