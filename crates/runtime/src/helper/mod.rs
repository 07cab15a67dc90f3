//! Short-lived, single-threaded processes that a shim starts: each makes, enters, dumps or restores. While
//! the archive has a big entry open, two threads hash and write it (`cryopod_archive`); none forks then.
//!
//! A helper is a fresh exec of the program; its standard input is its channel to the shim, over
//! which it gets its task with all descriptors and answers with events.

mod create;
pub(crate) mod dump;
mod embed;
mod exec;
pub(crate) mod restore;

use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::checkpoint::CheckpointReport;
use crate::init::{ExecPlan, InitPlan};
use crate::manifest::Clocks;
use crate::process::Stdio;
use crate::wire::{Channel, Failure};

/// What a helper is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Task {
    /// Make a container's first process.
    Create { plan: InitPlan, birth: Birth, stdio: StdioShape },
    /// Run a command in a container.
    Exec { plan: ExecPlan, stdio: StdioShape },
    /// Take a checkpoint of a container.
    Dump(dump::DumpPlan),
    /// Restore a checkpoint into a container's first process.
    Restore(restore::RestorePlan),
}

/// What the clone of a first process takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Birth {
    pub(crate) pid_space: PidSpace,
    /// The pid it must have there; `None`: any.
    pub(crate) pid: Option<i32>,
    /// Clocks that go on from an archive's.
    pub(crate) clocks: Option<Clocks>,
}

/// Whose process ids a container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PidSpace {
    /// Its own.
    New,
    /// The shim's, which are the machine's.
    Inherit,
    /// Those of the process whose pidfd is sent along.
    Join,
}

/// Which of the standard descriptors are sent along, in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StdioShape {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

impl StdioShape {
    /// Takes the descriptors from the front of what was received.
    fn take(self, fds: &mut impl Iterator<Item = OwnedFd>) -> Stdio {
        let mut next = |present: bool| if present { fds.next() } else { None };
        Stdio { stdin: next(self.stdin), stdout: next(self.stdout), stderr: next(self.stderr) }
    }
}

/// What a helper tells the shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// The process exists, as a child of the shim; its pidfd is beside it.
    Made { pid: i32 },
    /// The container is about to be stopped: let nobody in until it runs again, and say
    /// [`Command::Alone`](dump::Command::Alone).
    Stopping,
    /// All tasks of the container stand still: drain its log.
    Drain,
    /// They run again, or will never.
    Thawed,
    /// The checkpoint is taken.
    Checkpointed(Box<CheckpointReport>),
    /// The archived tasks are there and wait for [`Command::Release`](dump::Command::Release).
    Restored,
    /// Their memory comes late; descriptors that keep it from reading as zeros are beside this.
    Late,
    /// Something to be written down.
    Note(String),
    /// They run.
    Released,
    /// Memory that came late is all there.
    Filled,
    /// It did not work.
    Failed(Failure),
}

/// Why a helper could not do its task.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelperError {
    #[error("no task was given")]
    NoTask,
    #[error("a descriptor is missing")]
    MissingDescriptor,
    #[error("{what}")]
    Step { what: &'static str, source: std::io::Error },
    #[error(transparent)]
    Init(#[from] crate::init::InitError),
    #[error("make the first process with its archived pid {pid}")]
    Pid { pid: i32, source: std::io::Error },
    #[error("the spec has no process")]
    NoProcess,
}

fn step<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> HelperError {
    move |e| HelperError::Step { what, source: e.into() }
}

/// Runs a helper and returns its exit code.
pub(crate) fn main() -> i32 {
    let mut channel = match rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3) {
        Ok(fd) => Channel::from_fd(fd),
        Err(_) => return 2,
    };
    match work(&mut channel) {
        Ok(()) => 0,
        Err(error) => {
            let _ = channel.send(&Event::Failed(Failure::internal(&error)), &[]);
            1
        }
    }
}

fn work(channel: &mut Channel) -> Result<(), HelperError> {
    // A copy of the channel in standard input would outlive this process in its children.
    let null = std::fs::File::open("/dev/null").map_err(step("open /dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(step("leave standard input"))?;
    let (task, fds) =
        channel.receive::<Task>().map_err(step("receive the task"))?.ok_or(HelperError::NoTask)?;
    let fds = fds.into_iter();
    match task {
        Task::Create { plan, birth, stdio } => create::run(channel, &plan, birth, stdio, fds),
        Task::Dump(plan) => dump::run(channel, &plan),
        Task::Restore(plan) => restore::run(channel, &plan, fds),
        Task::Exec { plan, stdio } => exec::run(channel, &plan, stdio, fds),
    }
}
