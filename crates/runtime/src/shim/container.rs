//! One container as its shim sees it: made, started, stopped, ended.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio as ProcessStdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};

use super::logs::Logs;
use super::{Shim, lock};
use crate::cgroup::{Cgroup, DeviceRule};
use crate::config::{ContainerConfig, NamespaceMode};
use crate::entry::FLAG;
use crate::error::{ErrorKind, RuntimeError};
use crate::helper::{Birth, Event, PidSpace, StdioShape, Task};
use crate::init::{InitPlan, Order, Report, read_spec};
use crate::record::{ContainerRecord, Phase, RestoreRecord, Stamp, io_error, now};
use crate::wire::{Channel, Failure};

/// A container and what its shim holds of it.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) cgroup: Cgroup,
    state: Mutex<State>,
    changed: Condvar,
    /// Held for reading by commands while they enter, for writing by a freeze.
    pub(super) gate: std::sync::RwLock<()>,
    /// Held while a checkpoint is taken.
    pub(super) checkpoint: Mutex<()>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) record: ContainerRecord,
    pub(super) pidfd: Option<OwnedFd>,
    /// To the first process while it waits for its start.
    waiting: Option<Channel>,
    pub(super) logs: Option<Arc<Logs>>,
    /// Writing end of its standard input.
    pub(super) stdin: Option<OwnedFd>,
    /// What it is restored from, until it is started.
    pub(super) source: Option<Source>,
    /// Why it will have ended, when that is known before it ends.
    ending: Option<(&'static str, String)>,
    /// Whether its memory is still on its way from the archive.
    pub(super) filling: bool,
}

/// What a container is restored from.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) archive: File,
    /// The container's ends of its standard streams.
    pub(super) stdio: Vec<OwnedFd>,
    pub(super) shape: StdioShape,
}

/// Ends of the pipes and channels of a container that is being made.
struct Streams {
    ours: Vec<(&'static str, OwnedFd)>,
    theirs: Vec<OwnedFd>,
    shape: StdioShape,
    stdin: Option<OwnedFd>,
}

/// A first process that has reported that it is ready.
struct Born {
    pid: i32,
    pidfd: OwnedFd,
    channel: Channel,
    terminal: Option<OwnedFd>,
}

pub(super) fn internal(action: &'static str, error: impl Into<io::Error>) -> RuntimeError {
    io_error(action, "the container")(error.into())
}

impl Container {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The error for a request that the state does not allow.
    pub(super) fn wrong_state(&self, phase: Phase, reason: &str) -> RuntimeError {
        let state = match phase {
            Phase::Creating | Phase::Ready => "being made",
            Phase::Created => "created",
            Phase::Running => "running",
            Phase::Ended => "exited",
        };
        RuntimeError::State {
            what: "container",
            id: self.id.clone(),
            state: state.into(),
            reason: reason.into(),
        }
    }

    /// Waits until it has ended; false: it has not by then.
    pub(super) fn wait_end(&self, limit: Option<Duration>) -> bool {
        let deadline = limit.and_then(|l| Instant::now().checked_add(l));
        let mut state = self.lock();
        while state.record.phase != Phase::Ended {
            state = match deadline {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                        return false;
                    };
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }

    fn signal(&self, signal: i32) {
        if let Some(pidfd) = &self.lock().pidfd {
            let _ = cryopod_sys::process::pidfd_send_signal(pidfd.as_fd(), signal);
        }
    }

    /// Asks it to stop, waits, kills it. Returns when it has ended.
    pub(super) fn stop(&self, grace: Duration) {
        let (phase, signal) = {
            let state = self.lock();
            (state.record.phase, state.record.stop_signal)
        };
        if phase == Phase::Ended {
            return;
        }
        if phase == Phase::Running && !grace.is_zero() {
            self.signal(signal);
            if self.wait_end(Some(grace)) {
                return;
            }
        }
        self.signal(libc::SIGKILL);
        let _ = self.cgroup.kill();
        self.wait_end(None);
    }

    /// Tells it why it will have ended.
    pub(super) fn expect_end(&self, ending: Option<(&'static str, String)>) {
        self.lock().ending = ending;
    }

    /// Notes that its memory is all there.
    pub(super) fn filled(&self) {
        self.lock().filling = false;
        self.changed.notify_all();
    }

    /// Waits a moment for its memory to be all there; whether it is.
    pub(super) fn wait_filled(&self, limit: Duration) -> bool {
        let state = self.lock();
        if !state.filling {
            return true;
        }
        let waited = self.changed.wait_timeout(state, limit);
        !waited.unwrap_or_else(PoisonError::into_inner).0.filling
    }

    /// Lets a created container run.
    pub(super) fn start(self: &Arc<Self>, shim: &Arc<Shim>) -> Result<(), RuntimeError> {
        let mut state = self.lock();
        if state.record.phase != Phase::Created {
            return Err(self.wrong_state(state.record.phase, "only a created one can be started"));
        }
        let Some(channel) = state.waiting.take() else {
            return Err(self.wrong_state(state.record.phase, "it is being started"));
        };
        let mut running = state.record.clone();
        running.phase = Phase::Running;
        running.started_at = now();
        if state.record.restore.is_some() {
            let resumed = shim.resume(self, &mut state, &running);
            if let Err(error) = &resumed {
                state.ending = Some(("StartError", crate::wire::chain(error)));
            }
            drop(state);
            self.changed.notify_all();
            if resumed.is_err() {
                let _ = self.cgroup.kill();
                self.wait_end(None);
            }
            return resumed;
        }
        channel.send(&Order::Start, &[]).map_err(|e| internal("start", e))?;
        match channel.receive::<Report>() {
            // The channel is closed by exec: the program runs.
            Ok(None) => {
                // The monitor changes the state only after this lock is free.
                shim.layout.save_container(&running)?;
                state.record = running;
                self.changed.notify_all();
                Ok(())
            }
            Ok(Some((Report::Failed(failure), _))) => {
                state.ending = Some(("StartError", failure.message.clone()));
                drop(state);
                self.wait_end(None);
                Err(failure.into())
            }
            Ok(Some((Report::Ready, _))) => {
                Err(internal("start", io::Error::other("an answer out of turn")))
            }
            Err(error) => Err(internal("start", error)),
        }
    }
}

impl Shim {
    pub(super) fn container(&self, id: &str) -> Result<Arc<Container>, RuntimeError> {
        lock(&self.containers)
            .get(id)
            .cloned()
            .ok_or_else(|| RuntimeError::NotFound { what: "container", id: id.into() })
    }

    /// Starts a helper and gives it its task.
    pub(super) fn start_helper(
        &self,
        task: &Task,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(i32, Channel), RuntimeError> {
        let (ours, theirs) = Channel::pair().map_err(|e| internal("open a channel for", e))?;
        let mut command = Command::new(&self.layout.exe);
        command
            .args([FLAG, "helper"])
            .env_clear()
            .stdin(ProcessStdio::from(theirs.into_fd()))
            .stdout(ProcessStdio::null());
        let pid =
            self.reaper.spawn(&mut command).map_err(io_error("start", self.layout.exe.clone()))?;
        // The command keeps the other end open; a helper that dies must be noticed.
        drop(command);
        ours.send(task, fds).map_err(|e| internal("instruct the helper of", e))?;
        Ok((pid, ours))
    }

    /// Makes a container from its record and spec on disk. On failure nothing is left of it but its
    /// folder.
    pub(super) fn create(self: &Arc<Self>, id: &str) -> Result<(), RuntimeError> {
        let record = self
            .layout
            .load_container(id)?
            .ok_or_else(|| RuntimeError::NotFound { what: "container", id: id.into() })?;
        let cgroup = Cgroup::at(&self.layout.container_cgroup(&self.sandbox.id, id))?;
        let made = self.create_in(record, &cgroup);
        if made.is_err() {
            let _ = cgroup.kill();
            let _ = cgroup.remove();
        }
        made
    }

    fn create_in(
        self: &Arc<Self>,
        mut record: ContainerRecord,
        cgroup: &Cgroup,
    ) -> Result<(), RuntimeError> {
        cgroup.create()?;
        cgroup.limit(&record.config.resources)?;
        let bundle = self.layout.container_dir(&record.id);
        cgroup.allow_devices(&device_rules(&bundle)?)?;
        let mut streams =
            open_streams(&record.config).map_err(|e| internal("open pipes for", e))?;
        let born = self.bear(&record, cgroup, &streams)?;
        record.phase = Phase::Created;
        record.pid = Some(born.pid);
        let finished = (|| {
            let ours = match born.terminal {
                Some(master) => vec![("stdout", master)],
                None => streams.ours,
            };
            let source = match &record.restore {
                Some(restore) => Some(Source {
                    archive: open_archive(restore)?,
                    stdio: std::mem::take(&mut streams.theirs),
                    shape: streams.shape,
                }),
                None => None,
            };
            let partial = record.restore.as_ref().map(|r| r.partial.clone()).unwrap_or_default();
            let (logs, threads) = Logs::start(&record.log_path, ours, partial)
                .map_err(io_error("open the log", &record.log_path))?;
            self.layout.save_container(&record)?;
            Ok((logs, threads, source))
        })();
        // The container has them now; here they would keep a pipe open after its end.
        streams.theirs.clear();
        let (logs, threads, source) = match finished {
            Ok(started) => started,
            Err(error) => {
                let _ = cryopod_sys::process::pidfd_send_signal(born.pidfd.as_fd(), libc::SIGKILL);
                self.reaper.wait(born.pid, None);
                return Err(error);
            }
        };
        let (id, pid) = (record.id.clone(), born.pid);
        let container = Arc::new(Container {
            id: id.clone(),
            cgroup: cgroup.clone(),
            state: Mutex::new(State {
                record,
                pidfd: Some(born.pidfd),
                waiting: Some(born.channel),
                logs: Some(logs),
                stdin: streams.stdin,
                source,
                ending: None,
                filling: false,
            }),
            changed: Condvar::new(),
            gate: std::sync::RwLock::default(),
            checkpoint: Mutex::default(),
        });
        lock(&self.containers).insert(id, container.clone());
        let shim = self.clone();
        std::thread::Builder::new()
            .name("monitor".into())
            .spawn(move || shim.monitor(&container, pid, threads))
            .map_err(|e| internal("watch", e))?;
        Ok(())
    }

    /// Has the first process made, and waits until it is ready.
    fn bear(
        &self,
        record: &ContainerRecord,
        cgroup: &Cgroup,
        streams: &Streams,
    ) -> Result<Born, RuntimeError> {
        let (pid_space, target) = self.pid_space(&record.config)?;
        let (ours, theirs) = Channel::pair().map_err(|e| internal("open a channel for", e))?;
        let task = Task::Create {
            plan: InitPlan {
                bundle: self.layout.container_dir(&record.id),
                root: record.root.clone(),
                restore: record.restore.is_some(),
            },
            birth: Birth {
                pid_space,
                // In a namespace of its own it is 1 in any case.
                pid: record
                    .restore
                    .as_ref()
                    .and_then(|r| r.pid)
                    .filter(|_| pid_space != PidSpace::New),
                clocks: record.restore.as_ref().and_then(|r| r.clocks),
            },
            stdio: streams.shape,
        };
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(theirs.as_fd())
            .chain(streams.theirs.iter().map(AsFd::as_fd))
            .chain(target.iter().map(AsFd::as_fd))
            .collect();
        let (helper, channel) = self.start_helper(&task, &fds)?;
        drop(fds);
        drop(theirs);
        let answer = channel.receive::<Event>();
        self.reaper.wait(helper, None);
        let (pid, pidfd) = match answer {
            Ok(Some((Event::Made { pid }, fds))) => match fds.into_iter().next() {
                Some(pidfd) => (pid, pidfd),
                None => return Err(internal("make", io::Error::other("no descriptor of it"))),
            },
            Ok(Some((Event::Failed(failure), _))) => return Err(failure.into()),
            Ok(None) => return Err(internal("make", io::Error::other("the helper died"))),
            Ok(Some(_)) => {
                return Err(internal("make", io::Error::other("an answer out of turn")));
            }
            Err(error) => return Err(internal("make", error)),
        };
        let died = || internal("make", io::Error::other("its first process died"));
        if !self.reaper.adopt(pid, &pidfd) {
            return Err(died());
        }
        let ready = (|| {
            cgroup.add(pid)?;
            ours.send(&Order::Go, &[]).map_err(|e| internal("begin", e))?;
            match ours.receive::<Report>() {
                Ok(Some((Report::Ready, fds))) => Ok(fds.into_iter().next()),
                Ok(Some((Report::Failed(failure), _))) => Err(failure.into()),
                Ok(None) => Err(died()),
                Err(error) => Err(internal("make", error)),
            }
        })();
        match ready {
            Ok(terminal) => Ok(Born { pid, pidfd, channel: ours, terminal }),
            Err(error) => {
                let _ = cryopod_sys::process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
                self.reaper.wait(pid, None);
                Err(error)
            }
        }
    }

    /// Whose process ids a container has, with a process to join.
    fn pid_space(
        &self,
        config: &ContainerConfig,
    ) -> Result<(PidSpace, Option<OwnedFd>), RuntimeError> {
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|e| internal("join", e));
        match config.security.pid.as_ref().unwrap_or(&self.sandbox.config.pid) {
            NamespaceMode::Container => Ok((PidSpace::New, None)),
            NamespaceMode::Node => Ok((PidSpace::Inherit, None)),
            NamespaceMode::Pod => match &self.pause {
                Some(pause) => Ok((PidSpace::Join, Some(copy(pause)?))),
                None => Err(RuntimeError::InvalidArgument {
                    field: "pid",
                    reason: "the sandbox has no shared process ids".into(),
                }),
            },
            NamespaceMode::Target(id) => {
                let target = self.container(id)?;
                let state = target.lock();
                match (&state.pidfd, state.record.phase) {
                    (Some(pidfd), Phase::Running) => Ok((PidSpace::Join, Some(copy(pidfd)?))),
                    (_, phase) => {
                        Err(target.wrong_state(phase, "its process ids cannot be joined"))
                    }
                }
            }
        }
    }

    /// Waits for the end of a container and records it.
    fn monitor(&self, container: &Container, pid: i32, logs: Vec<JoinHandle<()>>) {
        let exit = self.reaper.wait(pid, None);
        let _ = container.cgroup.kill();
        join_within(logs, Duration::from_secs(2));
        let oom_kills = container.cgroup.oom_kills();
        let mut state = container.lock();
        let code = exit.map_or(255, |e| e.code);
        let (reason, message) = match state.ending.take() {
            Some((reason, message)) => (reason, message),
            None if oom_kills > 0 && code == 137 => {
                ("OOMKilled", "memory reached its limit".to_owned())
            }
            None if code == 0 => ("Completed", String::new()),
            None => ("Error", String::new()),
        };
        state.record.phase = Phase::Ended;
        state.record.pid = None;
        state.record.finished_at = now();
        state.record.exit_code = if reason == "StartError" { 128 } else { code };
        state.record.reason = reason.into();
        state.record.message = message;
        state.pidfd = None;
        state.waiting = None;
        state.logs = None;
        state.stdin = None;
        state.source = None;
        if let Err(error) = self.layout.save_container(&state.record) {
            super::door::complain(&error);
        }
        let _ = container.cgroup.remove();
        drop(state);
        container.changed.notify_all();
    }

    /// Kills a container if need be and forgets it.
    pub(super) fn forget(&self, id: &str) {
        let container = lock(&self.containers).get(id).cloned();
        if let Some(container) = container {
            container.stop(Duration::ZERO);
            lock(&self.containers).remove(id);
        }
    }
}

/// Opens the archive of a restore; it must be the one that was verified.
fn open_archive(restore: &RestoreRecord) -> Result<File, RuntimeError> {
    let path = &restore.archive;
    let file = File::open(path).map_err(io_error("open", path))?;
    if Stamp::of(&file).map_err(io_error("look at", path))? == restore.stamp {
        return Ok(file);
    }
    Err(RuntimeError::Shim {
        kind: ErrorKind::Refused,
        message: format!("archive {path:?} has changed since it was verified"),
    })
}

/// Joins threads that end with the last writer of a pipe, which may be a process that left the
/// container's cgroup; after the limit they are left to themselves.
fn join_within(threads: Vec<JoinHandle<()>>, limit: Duration) {
    let deadline = Instant::now() + limit;
    for thread in threads {
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        if thread.is_finished() {
            let _ = thread.join();
        }
    }
}

fn open_streams(config: &ContainerConfig) -> io::Result<Streams> {
    let mut streams =
        Streams { ours: Vec::new(), theirs: Vec::new(), shape: StdioShape::default(), stdin: None };
    if config.tty {
        return Ok(streams);
    }
    if config.stdin {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        streams.theirs.push(read);
        streams.stdin = Some(write);
        streams.shape.stdin = true;
    }
    for name in ["stdout", "stderr"] {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        streams.ours.push((name, read));
        streams.theirs.push(write);
    }
    streams.shape.stdout = true;
    streams.shape.stderr = true;
    Ok(streams)
}

/// The device rules of a bundle's spec, in the words of cgroup v1.
fn device_rules(bundle: &std::path::Path) -> Result<Vec<DeviceRule>, RuntimeError> {
    let spec = read_spec(bundle).map_err(|e| Failure::new(ErrorKind::Internal, &e))?;
    let linux = spec.linux().as_ref();
    let rules = linux.and_then(|l| l.resources().as_ref()).and_then(|r| r.devices().as_ref());
    let number = |n: Option<i64>| n.filter(|n| *n >= 0).map_or("*".into(), |n| n.to_string());
    Ok(rules
        .into_iter()
        .flatten()
        .map(|rule| DeviceRule {
            allow: rule.allow(),
            rule: match rule.typ() {
                None | Some(oci_spec::runtime::LinuxDeviceType::A) => "a".into(),
                Some(kind) => format!(
                    "{} {}:{} {}",
                    kind.as_str(),
                    number(rule.major()),
                    number(rule.minor()),
                    rule.access().as_deref().unwrap_or("rwm")
                ),
            },
        })
        .collect())
}
