//! Commands run in a container, to their end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::Shim;
use super::container::{Container, internal};
use crate::error::{ErrorKind, RuntimeError};
use crate::helper::{Event, StdioShape, Task};
use crate::init::{ExecPlan, Order, Report};
use crate::record::Phase;
use crate::status::ExecOutput;
use crate::wire::Channel;

/// Most that is kept of each stream, in bytes.
const OUTPUT_MAX: usize = 16 << 20;
/// How long a stream may stay open after the command has ended (something it left behind holds it).
const LINGER: Duration = Duration::from_secs(2);

/// A command that runs.
struct Running {
    pid: i32,
    pidfd: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Shim {
    /// Runs a command in a container and waits for its end.
    pub(super) fn exec(
        &self,
        container: &Container,
        command: &[String],
        limit: Option<Duration>,
    ) -> Result<ExecOutput, RuntimeError> {
        let deadline = limit.and_then(|l| Instant::now().checked_add(l));
        let running = {
            // A freeze waits until the command is in the cgroup; a new one waits for the thaw.
            let _entering = container.gate.read();
            self.begin_exec(container, command)?
        };
        let mut output = ExecOutput::default();
        let in_time = collect(&running, &mut output, deadline);
        if !in_time {
            // The command is the leader of its own session and group.
            let _ = cryopod_sys::process::kill(-running.pid, libc::SIGKILL);
            let _ = cryopod_sys::process::pidfd_send_signal(running.pidfd.as_fd(), libc::SIGKILL);
        }
        let exit = self.reaper.wait(running.pid, None);
        if !in_time {
            return Err(RuntimeError::Shim {
                kind: ErrorKind::DeadlineExceeded,
                message: format!(
                    "command {:?} timed out after {} s",
                    command.first().map_or("", String::as_str),
                    limit.unwrap_or_default().as_secs()
                ),
            });
        }
        output.exit_code = exit.map_or(255, |e| e.code);
        Ok(output)
    }

    fn begin_exec(
        &self,
        container: &Container,
        command: &[String],
    ) -> Result<Running, RuntimeError> {
        let target = {
            let state = container.lock();
            match (&state.pidfd, state.record.phase) {
                (Some(pidfd), Phase::Running) => {
                    pidfd.try_clone().map_err(|e| internal("enter", e))?
                }
                (_, phase) => {
                    return Err(container.wrong_state(phase, "commands need a running one"));
                }
            }
        };
        let (ours, theirs) = Channel::pair().map_err(|e| internal("enter", e))?;
        let (stdout, stdout_write) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|e| internal("enter", e))?;
        let (stderr, stderr_write) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|e| internal("enter", e))?;
        let task = Task::Exec {
            plan: ExecPlan {
                bundle: self.layout.container_dir(&container.id),
                command: command.to_vec(),
            },
            stdio: StdioShape { stdin: false, stdout: true, stderr: true },
        };
        let fds: [BorrowedFd<'_>; 4] =
            [theirs.as_fd(), target.as_fd(), stdout_write.as_fd(), stderr_write.as_fd()];
        let (helper, channel) = self.start_helper(&task, &fds)?;
        drop((theirs, stdout_write, stderr_write));
        let answer = channel.receive::<Event>();
        self.reaper.wait(helper, None);
        let gone = || container.wrong_state(Phase::Ended, "it ended while a command was entering");
        let (pid, pidfd) = match answer {
            Ok(Some((Event::Made { pid }, fds))) => (pid, fds.into_iter().next().ok_or_else(gone)?),
            Ok(Some((Event::Failed(failure), _))) => return Err(failure.into()),
            Ok(_) => return Err(gone()),
            Err(error) => return Err(internal("enter", error)),
        };
        if !self.reaper.adopt(pid, &pidfd) {
            return Err(gone());
        }
        let begun = (|| {
            container.cgroup.add(pid).map_err(|_| gone())?;
            ours.send(&Order::Go, &[]).map_err(|_| gone())?;
            match ours.receive::<Report>() {
                Ok(None) => Ok(()),
                Ok(Some((Report::Failed(failure), _))) => Err(failure.into()),
                Ok(Some((Report::Ready, _))) => {
                    Err(internal("enter", io::Error::other("an answer out of turn")))
                }
                Err(error) => Err(internal("enter", error)),
            }
        })();
        match begun {
            Ok(()) => Ok(Running { pid, pidfd, stdout, stderr }),
            Err(error) => {
                let _ = cryopod_sys::process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
                self.reaper.wait(pid, None);
                Err(error)
            }
        }
    }
}

/// Reads both streams until they end, or for a while after the command's end; false: time ran out.
fn collect(running: &Running, output: &mut ExecOutput, deadline: Option<Instant>) -> bool {
    let mut open = [true, true];
    let mut ended: Option<Instant> = None;
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        if !open[0] && !open[1] && ended.is_some() {
            return true;
        }
        let now = Instant::now();
        if ended.is_none() && deadline.is_some_and(|d| now >= d) {
            return false;
        }
        if ended.is_some_and(|at| now.duration_since(at) >= LINGER) {
            return true;
        }
        let wake = match ended {
            Some(at) => Some(at + LINGER),
            None => deadline,
        };
        let timeout = wake.map(|at| at.saturating_duration_since(now)).map(|left| Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut fds = vec![PollFd::new(&running.pidfd, PollFlags::IN)];
        if ended.is_some() {
            fds.clear();
        }
        let first = fds.len();
        let streams = [&running.stdout, &running.stderr];
        let which: Vec<usize> = (0..2).filter(|i| open[*i]).collect();
        fds.extend(which.iter().map(|i| PollFd::new(streams[*i], PollFlags::IN)));
        if poll(&mut fds, timeout.as_ref()).is_err() {
            continue;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if first == 1 && ready[0] {
            ended = Some(Instant::now());
        }
        for (slot, index) in which.iter().enumerate() {
            if !ready[first + slot] {
                continue;
            }
            let target = if *index == 0 { &mut output.stdout } else { &mut output.stderr };
            match rustix::io::read(streams[*index], &mut buffer[..]) {
                Ok(0) => open[*index] = false,
                Ok(count) => {
                    let room = OUTPUT_MAX.saturating_sub(target.len());
                    target.extend_from_slice(&buffer[..count.min(room)]);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => open[*index] = false,
            }
        }
    }
}
