//! The first process of a container, from its birth to the program it becomes.
//!
//! It is a copy of the single-threaded create helper, made by clone3 with its own mount and pid
//! namespaces and already a child of the shim. It puts the root filesystem together in its own mount
//! namespace, so that nothing of it is ever mounted anywhere else, and all of it goes with the last
//! process of the container. Then it waits: for the start, or, when a checkpoint is to be restored
//! into it, for the engine, which turns it into the archived first process.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use cryopod_sys::mount::{ATTR_RDONLY, set_attributes};
use cryopod_sys::namespace::{Kinds, unshare};
use cryopod_sys::spawn::exit_now;
use oci_spec::runtime::{Process, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use serde::{Deserialize, Serialize};

use crate::error::ErrorKind;
use crate::mounts::{self, CgroupMounts, MountError};
use crate::process::{ProcessError, Stdio, become_program};
use crate::root::{RootError, RootPlan, attach, clone_tree};
use crate::tree::{self, Kind};
use crate::wire::{Channel, Failure};

/// What a first process is told at its birth.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct InitPlan {
    pub(crate) bundle: PathBuf,
    pub(crate) root: RootPlan,
    /// A checkpoint is to be restored into it.
    pub(crate) restore: bool,
}

/// What the shim tells a waiting process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// It is registered and in its cgroup: it may begin.
    Go,
    /// It becomes its program.
    Start,
}

/// What a process answers. When its channel closes without a further word after `Order::Start`, it
/// has become its program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// Everything is in place; a terminal's master is beside it.
    Ready,
    /// It failed and is about to end.
    Failed(Failure),
}

/// Why a container could not be put together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    #[error("the shim is gone")]
    Orphaned,
    #[error("root filesystem")]
    Root(#[from] RootError),
    #[error("container mounts")]
    Mount(#[from] MountError),
    #[error("container process")]
    Process(#[from] ProcessError),
    #[error("read the spec {path:?}")]
    Spec { path: PathBuf, source: std::io::Error },
    #[error("the spec has no {what}")]
    Incomplete { what: &'static str },
    #[error("{what}")]
    Step { what: &'static str, source: std::io::Error },
}

fn step<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> InitError {
    move |e| InitError::Step { what, source: e.into() }
}

/// Reads the spec of a bundle.
pub(crate) fn read_spec(bundle: &Path) -> Result<Spec, InitError> {
    let path = bundle.join("config.json");
    let named = |source| InitError::Spec { path: path.clone(), source };
    let bytes = fs::read(&path).map_err(named)?;
    serde_json::from_slice(&bytes).map_err(|e| named(e.into()))
}

/// Runs the first process. Never returns.
pub(crate) fn run(plan: &InitPlan, channel: &Channel, stdio: Stdio) -> ! {
    let error = match run_inner(plan, channel, stdio) {
        Ok(error) | Err(error) => error,
    };
    report_failure(channel, &error);
    exit_now(1)
}

/// Tells the shim why it did not work; a program that is not there is the caller's mistake.
fn report_failure(channel: &Channel, error: &InitError) {
    let kind = match error {
        InitError::Process(ProcessError::NotFound { .. }) => ErrorKind::InvalidArgument,
        InitError::Process(ProcessError::Exec { source, .. })
            if matches!(
                source.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
            ) =>
        {
            ErrorKind::InvalidArgument
        }
        _ => ErrorKind::Internal,
    };
    let _ = channel.send(&Report::Failed(Failure::new(kind, error)), &[]);
}

/// Waits for an order of the shim.
pub(crate) fn await_order(channel: &Channel, order: Order) -> Result<(), InitError> {
    match channel.receive::<Order>() {
        Ok(Some((received, _))) if received == order => Ok(()),
        _ => Err(InitError::Orphaned),
    }
}

fn run_inner(plan: &InitPlan, channel: &Channel, mut stdio: Stdio) -> Result<InitError, InitError> {
    await_order(channel, Order::Go)?;
    let spec = read_spec(&plan.bundle)?;
    let process = spec.process().as_ref().ok_or(InitError::Incomplete { what: "process" })?;
    // The engine gives a restored process the session it had.
    if !plan.restore {
        rustix::process::setsid().map_err(step("begin a session"))?;
    }
    // After the shim has put it into its cgroup, which thus becomes the root it sees.
    unshare(Kinds::CGROUP).map_err(step("make the cgroup namespace"))?;
    build_root(plan, &spec)?;
    let mut master = None;
    if process.terminal().unwrap_or(false) && !plan.restore {
        let (ours, theirs) = open_terminal().map_err(step("open a terminal"))?;
        stdio = terminal_stdio(&theirs).map_err(step("copy the terminal"))?;
        master = Some(ours);
    }
    let fds: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
    channel.send(&Report::Ready, &fds).map_err(step("report"))?;
    drop(master);
    // A process to be restored into is stopped here by the helper and never goes on from here.
    await_order(channel, Order::Start)?;
    let seccomp = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    Ok(become_program(process, seccomp, stdio).into())
}

/// Makes the root filesystem with everything mounted in it and enters it.
fn build_root(plan: &InitPlan, spec: &Spec) -> Result<(), InitError> {
    let linux = spec.linux().as_ref().ok_or(InitError::Incomplete { what: "linux part" })?;
    let empty = Vec::new();
    let mounts = spec.mounts().as_ref().unwrap_or(&empty);
    let cgroups = CgroupMounts::read();
    let follows = |m: &oci_spec::runtime::Mount| {
        m.options().iter().flatten().any(|o| o == "rslave" || o == "slave")
    };
    // What the machine mounts later is only let in where a mount asks for it.
    let propagation = if mounts.iter().any(follows) {
        MountPropagationFlags::DOWNSTREAM
    } else {
        MountPropagationFlags::PRIVATE
    };
    mount_change("/", propagation | MountPropagationFlags::REC)
        .map_err(step("cut the mounts off from the machine's"))?;
    let root = plan.root.mount(&plan.bundle)?;
    for mount in mounts {
        mounts::make(root.as_fd(), mount, &cgroups)?;
    }
    let devices = linux.devices().as_deref().unwrap_or_default();
    mounts::fill_dev(root.as_fd(), devices)?;
    enter_root(&root)?;
    mounts::protect(linux.readonly_paths().as_deref().unwrap_or_default())?;
    mounts::mask(linux.masked_paths().as_deref().unwrap_or_default())?;
    let readonly = spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly);
    if readonly.unwrap_or(false) {
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(step("open the root"))?;
        set_attributes(root.as_fd(), ATTR_RDONLY, 0, 0, false)
            .map_err(step("make the root read-only"))?;
    }
    Ok(())
}

fn enter_root(root: &OwnedFd) -> Result<(), InitError> {
    rustix::process::fchdir(root).map_err(step("enter the root"))?;
    // With both arguments the same, the old root ends up on top of the new one and is taken off.
    rustix::process::pivot_root(".", ".").map_err(step("change the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(step("leave the machine's root"))?;
    rustix::process::chdir("/").map_err(step("enter the root"))
}

/// A terminal of the container's own devpts, also shown as `/dev/console`: master and slave.
fn open_terminal() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = rustix::fs::open(
        name.as_c_str(),
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::process::ioctl_tiocsctty(&slave)?;
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let console = tree::mount_point(root.as_fd(), Path::new("/dev/console"), Kind::File)?;
    let terminal = clone_tree(CWD, std::ffi::OsStr::new(&name.to_string_lossy().as_ref()), false)?;
    attach(&terminal, &console)?;
    Ok((master, slave))
}

fn terminal_stdio(slave: &OwnedFd) -> std::io::Result<Stdio> {
    Ok(Stdio {
        stdin: Some(slave.try_clone()?),
        stdout: Some(slave.try_clone()?),
        stderr: Some(slave.try_clone()?),
    })
}

/// What a command run in a container is told at its birth.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExecPlan {
    pub(crate) bundle: PathBuf,
    pub(crate) command: Vec<String>,
}

/// Runs a command's process, which is in the container's namespaces apart from its mounts. Never
/// returns.
pub(crate) fn run_exec(
    process: &Process,
    spec: &Spec,
    init: BorrowedFd<'_>,
    channel: &Channel,
    stdio: Stdio,
) -> ! {
    let begin = || -> Result<InitError, InitError> {
        await_order(channel, Order::Go)?;
        rustix::process::setsid().map_err(step("begin a session"))?;
        cryopod_sys::namespace::join_process(init, Kinds::CGROUP.and(Kinds::MOUNT))
            .map_err(step("enter the container"))?;
        let seccomp = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
        Ok(become_program(process, seccomp, stdio).into())
    };
    let error = match begin() {
        Ok(error) | Err(error) => error,
    };
    report_failure(channel, &error);
    exit_now(1)
}
