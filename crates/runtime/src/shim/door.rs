//! The shim's socket: what it can be asked, and how it is asked.
//!
//! One request per connection. The folder of the socket is root's alone, which is the only
//! protection it needs.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::checkpoint::Wanted;
use super::{Shim, lock};
use crate::checkpoint::CheckpointReport;
use crate::config::Resources;
use crate::error::{ErrorKind, RuntimeError};
use crate::record::{Phase, io_error};
use crate::status::ExecOutput;
use crate::wire::{Failure, read_bytes, read_json, write_bytes, write_json};

/// What a shim can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Make the container of this record.
    Create { id: String },
    /// Let it run.
    Start { id: String },
    /// Stop it, with this many milliseconds of grace.
    Stop { id: String, grace: u64 },
    /// Kill it if need be and forget it.
    Remove { id: String },
    /// Wait for its end, at most this many milliseconds.
    Wait { id: String, limit: Option<u64> },
    /// Whether it is known.
    Knows { id: String },
    /// Change its limits.
    Update { id: String, resources: Resources },
    /// Run a command, at most this many milliseconds.
    Exec { id: String, command: Vec<String>, limit: Option<u64> },
    /// Open its log anew.
    ReopenLog { id: String },
    /// Take a checkpoint, in at most this many milliseconds. It is given up when the client hangs up.
    Checkpoint {
        id: String,
        location: PathBuf,
        stop: bool,
        with_image: bool,
        /// A `serve` before this one did not know it.
        #[serde(default)]
        self_check: bool,
        limit: Option<u64>,
    },
    /// Kill everything and end.
    Shutdown,
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Response {
    /// Done.
    Done,
    /// Whether it is so.
    Answer(bool),
    /// The checkpoint is taken.
    Checkpointed(Box<CheckpointReport>),
    /// A command ended; two frames follow with its output.
    Output { exit_code: i32 },
    /// It did not work.
    Failed(Failure),
}

/// Listens in a folder. The name given to the kernel is short however long the folder's is.
pub(super) fn open(dir: &Path) -> io::Result<UnixListener> {
    let socket = dir.join("shim.sock");
    match std::fs::remove_file(&socket) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let (_folder, short) = short_name(dir)?;
    UnixListener::bind(short)
}

/// A path of at most 108 bytes for the socket in a folder, valid while the descriptor is open.
fn short_name(dir: &Path) -> io::Result<(File, PathBuf)> {
    use std::os::fd::AsRawFd;
    let folder =
        rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let folder = File::from(folder);
    let path = format!("/proc/self/fd/{}/shim.sock", folder.as_raw_fd());
    Ok((folder, path.into()))
}

/// Asks the shim in a folder.
pub(crate) fn ask(dir: &Path, request: &Request) -> Result<Response, RuntimeError> {
    let mut stream = send(dir, request)?;
    let named = io_error("read the answer of", dir.join("shim.sock"));
    match read_json(&mut stream).map_err(named)? {
        Response::Failed(failure) => Err(failure.into()),
        response => Ok(response),
    }
}

/// Asks the shim in a folder, and takes the question back when `cancelled` says so; the answer is
/// awaited all the same.
pub(crate) fn ask_until(
    dir: &Path,
    request: &Request,
    cancelled: impl Fn() -> bool,
) -> Result<Response, RuntimeError> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut stream = send(dir, request)?;
    let named = || io_error("read the answer of", dir.join("shim.sock"));
    let mut taken_back = false;
    loop {
        let mut fds = [PollFd::new(&stream, PollFlags::IN)];
        let tick = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        match poll(&mut fds, Some(&tick)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => break,
            Err(e) => return Err(named()(e.into())),
        }
        if !taken_back && cancelled() {
            stream.shutdown(std::net::Shutdown::Write).map_err(named())?;
            taken_back = true;
        }
    }
    match read_json(&mut stream).map_err(named())? {
        Response::Failed(failure) => Err(failure.into()),
        response => Ok(response),
    }
}

fn send(dir: &Path, request: &Request) -> Result<UnixStream, RuntimeError> {
    let named = io_error("connect to", dir.join("shim.sock"));
    (|| {
        let (_folder, short) = short_name(dir)?;
        let mut stream = UnixStream::connect(short)?;
        write_json(&mut stream, request)?;
        Ok(stream)
    })()
    .map_err(named)
}

/// Asks for a command's run.
pub(crate) fn ask_exec(dir: &Path, request: &Request) -> Result<ExecOutput, RuntimeError> {
    let mut stream = send(dir, request)?;
    let named = || io_error("read the answer of", dir.join("shim.sock"));
    match read_json(&mut stream).map_err(named())? {
        Response::Output { exit_code } => Ok(ExecOutput {
            stdout: read_bytes(&mut stream).map_err(named())?,
            stderr: read_bytes(&mut stream).map_err(named())?,
            exit_code,
        }),
        Response::Failed(failure) => Err(failure.into()),
        _ => Err(named()(io::Error::other("an answer to another question"))),
    }
}

/// Says on standard error, which is the shim's log, what nobody else can be told.
pub(super) fn complain(error: &RuntimeError) {
    let text = format!("{:.3} {}\n", jiff::Timestamp::now(), crate::wire::chain(error));
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Serves requests until the shutdown.
pub(super) fn serve(shim: &Arc<Shim>, listener: &UnixListener) -> i32 {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                complain(&io_error("accept on", "shim.sock")(error));
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let shim = shim.clone();
        let thread = std::thread::Builder::new().name("request".into());
        if let Err(error) = thread.spawn(move || answer(&shim, stream)) {
            complain(&io_error("start a thread for", "shim.sock")(error));
        }
    }
}

fn answer(shim: &Arc<Shim>, mut stream: UnixStream) {
    let Ok(request) = read_json::<Request>(&mut stream) else { return };
    let shutdown = request == Request::Shutdown;
    let sent = match handle(shim, request, &stream) {
        Ok(Answer::Plain(response)) => write_json(&mut stream, &response),
        Ok(Answer::Output(output)) => {
            write_json(&mut stream, &Response::Output { exit_code: output.exit_code })
                .and_then(|()| write_bytes(&mut stream, &output.stdout))
                .and_then(|()| write_bytes(&mut stream, &output.stderr))
        }
        Err(error) => write_json(&mut stream, &Response::Failed(error.into())),
    };
    // A client that is gone does not want the answer.
    drop(sent);
    if shutdown {
        cryopod_sys::spawn::exit_now(0);
    }
}

enum Answer {
    Plain(Response),
    Output(ExecOutput),
}

fn handle(shim: &Arc<Shim>, request: Request, client: &UnixStream) -> Result<Answer, RuntimeError> {
    let millis = Duration::from_millis;
    let response = match request {
        Request::Create { id } => {
            shim.create(&id)?;
            Response::Done
        }
        Request::Start { id } => {
            shim.container(&id)?.start(shim)?;
            Response::Done
        }
        Request::Stop { id, grace } => {
            shim.container(&id)?.stop(millis(grace));
            Response::Done
        }
        Request::Remove { id } => {
            shim.forget(&id);
            Response::Done
        }
        Request::Wait { id, limit } => {
            Response::Answer(shim.container(&id)?.wait_end(limit.map(millis)))
        }
        Request::Knows { id } => Response::Answer(shim.container(&id).is_ok()),
        Request::Update { id, resources } => {
            shim.update(&id, &resources)?;
            Response::Done
        }
        Request::Exec { id, command, limit } => {
            let container = shim.container(&id)?;
            return Ok(Answer::Output(shim.exec(&container, &command, limit.map(millis))?));
        }
        Request::ReopenLog { id } => {
            let container = shim.container(&id)?;
            let (logs, phase) = {
                let state = container.lock();
                (state.logs.clone(), state.record.phase)
            };
            match logs {
                Some(logs) if phase == Phase::Running => {
                    logs.reopen().map_err(io_error("open the log of", id))?;
                }
                _ => return Err(container.wrong_state(phase, "only a running one has a log open")),
            }
            Response::Done
        }
        Request::Checkpoint { id, location, stop, with_image, self_check, limit } => {
            let container = shim.container(&id)?;
            let limit = limit.map(millis);
            let wanted = Wanted { location, stop, with_image, self_check, limit };
            Response::Checkpointed(Box::new(shim.checkpoint(&container, &wanted, client)?))
        }
        Request::Shutdown => {
            shim.shut_down()?;
            Response::Done
        }
    };
    Ok(Answer::Plain(response))
}

impl Shim {
    fn update(&self, id: &str, resources: &Resources) -> Result<(), RuntimeError> {
        let container = self.container(id)?;
        let mut state = container.lock();
        if !matches!(state.record.phase, Phase::Created | Phase::Running) {
            return Err(container.wrong_state(state.record.phase, "it has no limits any more"));
        }
        container.cgroup.limit(resources)?;
        if resources.oom_score_adj.is_some()
            && resources.oom_score_adj != state.record.config.resources.oom_score_adj
        {
            return Err(RuntimeError::Shim {
                kind: ErrorKind::InvalidArgument,
                message: "oom_score_adj of a container cannot be changed".into(),
            });
        }
        let mut record = state.record.clone();
        record.config.resources.update(resources);
        self.layout.save_container(&record)?;
        state.record = record;
        Ok(())
    }

    fn shut_down(&self) -> Result<(), RuntimeError> {
        let all: Vec<_> = lock(&self.containers).values().cloned().collect();
        for container in all {
            container.stop(Duration::ZERO);
        }
        if let Some(pause) = &self.pause {
            use std::os::fd::AsFd;
            let _ = cryopod_sys::process::pidfd_send_signal(pause.as_fd(), libc::SIGKILL);
        }
        let mut sandbox = self.sandbox.clone();
        sandbox.phase = Phase::Ended;
        sandbox.shim_pid = None;
        self.layout.save_sandbox(&sandbox)
    }
}
