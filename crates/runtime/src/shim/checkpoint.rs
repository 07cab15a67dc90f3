//! Checkpoint and restore as the shim sees them: a helper does the work, the shim watches it.
//!
//! Whatever becomes of the helper, the container's cgroup is thawed, or, when the container was to
//! be stopped and the archive is whole, killed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cryopod_sys::sched::Urgent;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Shim;
use super::container::{Container, State, internal};
use crate::checkpoint::CheckpointReport;
use crate::error::{ErrorKind, RuntimeError};
use crate::helper::dump::{Command, Drained, DumpPlan};
use crate::helper::restore::RestorePlan;
use crate::helper::{Event, Task};
use crate::record::{ContainerRecord, Phase, now};
use crate::wire::Channel;

/// How long a helper may take to give up before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks at whether a container that is worked on still lives.
const LOOK: Duration = Duration::from_millis(200);

/// How long a helper may take to notice by itself that its container is ending.
const NOTICE: Duration = Duration::from_secs(1);

/// Watches the first process of a container that a helper traces. When it is killed, the kernel has
/// it wait for all others of its pid namespace (pid_namespaces(7)), of which the ended ones wait for
/// their tracer. A helper that waits for the first process then waits for ever.
#[derive(Debug)]
struct Deathwatch {
    first: i32,
    helper: i32,
    ending_since: Option<Instant>,
}

impl Deathwatch {
    fn new(first: i32, helper: i32) -> Self {
        Self { first, helper, ending_since: None }
    }

    /// Looks once, and ends a helper that did not notice.
    fn look(&mut self) {
        if !is_ending(self.first) {
            return;
        }
        let since = *self.ending_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= NOTICE {
            let _ = cryopod_sys::process::kill(self.helper, libc::SIGKILL);
        }
    }
}

/// True for a process that is gone or in do_exit: PF_EXITING among the flags of
/// proc_pid_stat(5), the seventh field after the name.
fn is_ending(pid: i32) -> bool {
    const PF_EXITING: u32 = 4;
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { return true };
    let stat = String::from_utf8_lossy(&stat);
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6));
    flags.and_then(|f| f.parse::<u32>().ok()).is_none_or(|flags| flags & PF_EXITING != 0)
}

/// A checkpoint that is asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) location: PathBuf,
    pub(super) stop: bool,
    pub(super) with_image: bool,
    pub(super) self_check: bool,
    pub(super) limit: Option<Duration>,
}

/// Why a helper is told to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GivenUp {
    /// The client is gone or wants no more.
    Client,
    /// Time is over.
    Time,
}

impl Shim {
    /// Takes a checkpoint; `client` is watched, and when it hangs up, or says anything more, the
    /// checkpoint is given up.
    pub(super) fn checkpoint(
        &self,
        container: &Container,
        wanted: &Wanted,
        client: &UnixStream,
    ) -> Result<CheckpointReport, RuntimeError> {
        // One at a time: a tree has one tracer.
        let _one = container.checkpoint.lock();
        let wanted = &self.after_fill(container, wanted, client)?;
        let plan = {
            let state = container.lock();
            let running = "only a running one can be checkpointed";
            match (state.record.phase, state.record.pid, &state.logs) {
                (Phase::Running, Some(pid), Some(logs)) => DumpPlan {
                    layout: self.layout.clone(),
                    sandbox: self.sandbox.id.clone(),
                    id: container.id.clone(),
                    pid,
                    location: wanted.location.clone(),
                    descriptors: descriptors(&state, &logs.descriptors()),
                    stop: wanted.stop,
                    with_image: wanted.with_image,
                    self_check: wanted.self_check,
                },
                (phase, ..) => return Err(container.wrong_state(phase, running)),
            }
        };
        if wanted.stop {
            let why = format!("checkpointed to {:?} and stopped", wanted.location);
            container.expect_end(Some(("Checkpointed", why)));
        }
        let result = self.watch_dump(container, plan, wanted, client);
        match &result {
            Ok(_) if wanted.stop => {
                let _ = container.cgroup.kill();
                container.wait_end(None);
            }
            _ => {
                container.expect_end(None);
                container.cgroup.thaw()?;
            }
        }
        result
    }

    /// Waits until memory that came late is all there: what is asked for within the time left.
    fn after_fill(
        &self,
        container: &Container,
        wanted: &Wanted,
        client: &UnixStream,
    ) -> Result<Wanted, RuntimeError> {
        let begun = Instant::now();
        loop {
            let left = wanted.limit.map(|limit| limit.saturating_sub(begun.elapsed()));
            if container.wait_filled(left.map_or(LOOK, |left| left.min(LOOK))) {
                let location = wanted.location.clone();
                return Ok(Wanted { location, limit: left, ..*wanted });
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Err(RuntimeError::Shim {
                    kind: ErrorKind::DeadlineExceeded,
                    message: "its memory was still being filled from the archive it was restored \
                              from: try again later"
                        .into(),
                });
            }
            let mut fds = [PollFd::new(client, PollFlags::IN | PollFlags::RDHUP)];
            if matches!(poll(&mut fds, Some(&timespec(Duration::ZERO))), Ok(1..)) {
                return Err(RuntimeError::Cancelled { what: "the checkpoint" });
            }
        }
    }

    fn watch_dump(
        &self,
        container: &Container,
        plan: DumpPlan,
        wanted: &Wanted,
        client: &UnixStream,
    ) -> Result<CheckpointReport, RuntimeError> {
        let deadline = wanted.limit.and_then(|l| Instant::now().checked_add(l));
        let location = plan.location.clone();
        // The helper refuses to replace a file: what is there afterwards is its own.
        let was_there = location.symlink_metadata().is_ok();
        let first = plan.pid;
        // While it is stopped, commands that are entering are waited for, and new ones wait.
        let mut gate = None;
        let mut urgent = None;
        let (helper, channel) = self.start_helper(&Task::Dump(plan), &[])?;
        let mut given_up: Option<(GivenUp, Instant)> = None;
        let mut silent = false;
        let mut watch = Deathwatch::new(first, helper);
        let result = loop {
            let wake = given_up.map(|(_, at)| at + PATIENCE).or(deadline);
            let (said, hung_up) = wait_for_either(&channel, client, given_up.is_some(), wake);
            watch.look();
            let now = Instant::now();
            if given_up.is_none() {
                if hung_up {
                    given_up = Some((GivenUp::Client, now));
                } else if deadline.is_some_and(|d| now >= d) {
                    given_up = Some((GivenUp::Time, now));
                }
                if given_up.is_some() {
                    let _ = channel.send(&Command::Cancel, &[]);
                }
            }
            if given_up.is_some_and(|(_, at)| now >= at + PATIENCE) {
                let _ = cryopod_sys::process::kill(helper, libc::SIGKILL);
            }
            if !said {
                continue;
            }
            match channel.receive::<Event>() {
                Ok(Some((Event::Stopping, _))) => {
                    // The one before goes first: it would be waited for by itself.
                    drop(gate.take());
                    gate = Some(container.gate.write());
                    // The container stands still for what is done here.
                    urgent = Some(Urgent::begin());
                    // A helper that is gone is noticed below.
                    let _ = channel.send(&Command::Alone, &[]);
                }
                Ok(Some((Event::Drain, _))) => {
                    if let Err(error) = answer_drain(container, &channel) {
                        super::door::complain(&error);
                        let _ = cryopod_sys::process::kill(helper, libc::SIGKILL);
                    }
                }
                Ok(Some((Event::Thawed, _))) => {
                    drop(gate.take());
                    drop(urgent.take());
                }
                Ok(Some((Event::Checkpointed(report), _))) => break Ok(*report),
                Ok(Some((Event::Failed(failure), _))) => break Err(failure.into()),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    silent = true;
                    let died = io::Error::other("the process that took the checkpoint died");
                    break Err(internal("checkpoint", died));
                }
            }
        };
        drop(channel);
        self.reaper.wait(helper, None);
        // What a killed helper has left has no lock any more. It may also have died between the last
        // step of the archive and the report; nobody was told of that archive.
        if result.is_err() {
            if let Some(dir) = location.parent() {
                let _ = cryopod_archive::remove_partial(dir);
            }
            if silent && !was_there {
                let _ = std::fs::remove_file(&location);
            }
        }
        match (result, given_up) {
            (Ok(report), _) => Ok(report),
            (Err(_), Some((GivenUp::Time, _))) => Err(RuntimeError::Shim {
                kind: ErrorKind::DeadlineExceeded,
                message: format!(
                    "the checkpoint took longer than {} s",
                    wanted.limit.unwrap_or_default().as_secs()
                ),
            }),
            (Err(_), Some((GivenUp::Client, _))) => {
                Err(RuntimeError::Cancelled { what: "the checkpoint" })
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Restores the checkpoint a container was made from into its waiting first process. Its state
    /// is locked all the while.
    pub(super) fn resume(
        self: &Arc<Self>,
        container: &Arc<Container>,
        state: &mut State,
        running: &ContainerRecord,
    ) -> Result<(), RuntimeError> {
        let (Some(restore), Some(pid)) = (&state.record.restore, state.record.pid) else {
            return Err(internal("restore", io::Error::other("it was not made from an archive")));
        };
        let Some(source) = state.source.take() else {
            return Err(internal("restore", io::Error::other("its archive is not open")));
        };
        let plan = RestorePlan {
            pid,
            archive: restore.archive.clone(),
            stamp: restore.stamp,
            descriptors: restore.descriptors.clone(),
            tmpfs: restore.tmpfs.clone(),
            stdio: source.shape,
            lazy: restore.lazy,
        };
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(source.archive.as_fd())
            .chain(source.stdio.iter().map(AsFd::as_fd))
            .collect();
        let (helper, channel) = self.start_helper(&Task::Restore(plan), &fds)?;
        drop(fds);
        drop(source);
        let mut watch = Deathwatch::new(pid, helper);
        let mut held = Vec::new();
        let result = loop {
            let mut said = [PollFd::new(&channel, PollFlags::IN)];
            if matches!(poll(&mut said, Some(&timespec(LOOK))), Ok(0) | Err(_)) {
                watch.look();
                continue;
            }
            match channel.receive::<Event>() {
                Ok(Some((Event::Restored, _))) => {
                    // On disk before the first instruction: whoever looks then sees it running.
                    let mut running = running.clone();
                    running.started_at = now();
                    if let Err(error) = self.layout.save_container(&running) {
                        break Err(error);
                    }
                    state.record = running;
                    if let Err(error) = channel.send(&Command::Release, &[]) {
                        break Err(internal("release", error));
                    }
                }
                Ok(Some((Event::Late, fds))) => held.extend(fds),
                Ok(Some((Event::Note(note), _))) => {
                    super::door::complain(&internal("fill the memory of", io::Error::other(note)));
                }
                Ok(Some((Event::Released, _))) => break Ok(()),
                Ok(Some((Event::Failed(failure), _))) => break Err(failure.into()),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    let died = io::Error::other("the process that restored it died");
                    break Err(internal("restore", died));
                }
            }
        };
        if result.is_ok() && !held.is_empty() {
            state.filling = true;
            let (shim, container) = (Arc::clone(self), Arc::clone(container));
            let watch = move || shim.watch_fill(&container, helper, channel, held);
            let started = std::thread::Builder::new().name("fill".into()).spawn(watch);
            return started.map(drop).map_err(|e| internal("watch the memory of", e));
        }
        drop(channel);
        self.reaper.wait(helper, None);
        result
    }

    /// Waits until memory that comes late is there. When it never will be, the container is ended, and
    /// says why. The copies of the descriptors are kept until then: nobody reads zeros.
    fn watch_fill(&self, container: &Container, helper: i32, channel: Channel, held: Vec<OwnedFd>) {
        let failed = loop {
            match channel.receive::<Event>() {
                Ok(Some((Event::Filled, _))) => break None,
                Ok(Some((Event::Failed(failure), _))) => break Some(failure.message),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break Some("all processes that filled it were killed".into()),
            }
        };
        if let Some(why) = failed {
            let message = format!("its memory could not be restored: {why}");
            super::door::complain(&internal("go on with", io::Error::other(message.clone())));
            container.expect_end(Some(("RestoreError", message)));
            let _ = container.cgroup.kill();
            container.wait_end(None);
        }
        drop(held);
        drop(channel);
        container.filled();
        self.reaper.wait(helper, None);
    }
}

/// Waits until the helper says something, the client hangs up or says something, `wake`, or the
/// next look at the container.
fn wait_for_either(
    channel: &Channel,
    client: &UnixStream,
    ignore_client: bool,
    wake: Option<Instant>,
) -> (bool, bool) {
    let left = wake.map_or(LOOK, |at| at.saturating_duration_since(Instant::now()).min(LOOK));
    let timeout = timespec(left);
    let mut fds = vec![PollFd::new(channel, PollFlags::IN)];
    if !ignore_client {
        fds.push(PollFd::new(client, PollFlags::IN | PollFlags::RDHUP));
    }
    if poll(&mut fds, Some(&timeout)).is_err() {
        return (false, false);
    }
    let said = !fds[0].revents().is_empty();
    let hung_up = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
    (said, hung_up)
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

fn answer_drain(container: &Container, channel: &Channel) -> Result<(), RuntimeError> {
    let logs = container.lock().logs.clone();
    let snapshot = match logs {
        Some(logs) => logs.drain().map_err(|e| internal("drain the log of", e))?,
        None => return Err(internal("drain the log of", io::Error::other("it has ended"))),
    };
    let (file, log_bytes) = match snapshot.file {
        Some((file, bytes)) => (Some(file), bytes),
        None => (None, 0),
    };
    let command = Command::Drained(Drained { partial: snapshot.partial, log_bytes });
    let fds: Vec<BorrowedFd<'_>> = file.iter().map(AsFd::as_fd).collect();
    channel.send(&command, &fds).map_err(|e| internal("drain the log of", e))
}

/// The names of the descriptors 0 to 2, as `descriptors.json` has them.
fn descriptors(state: &State, streams: &[(&'static str, String)]) -> [String; 3] {
    let named = |wanted: &str| {
        streams
            .iter()
            .find(|(name, _)| *name == wanted)
            .map_or_else(|| "/dev/null".to_owned(), |(_, pipe)| pipe.clone())
    };
    let stdin = state.stdin.as_ref().and_then(|fd| {
        let stat = rustix::fs::fstat(fd).ok()?;
        Some(format!("pipe:[{}]", stat.st_ino))
    });
    [stdin.unwrap_or_else(|| "/dev/null".into()), named("stdout"), named("stderr")]
}
