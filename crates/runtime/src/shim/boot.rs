//! The birth of a shim.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cryopod_sys::namespace::{Kinds, raise_loopback, unshare};
use cryopod_sys::spawn::{
    CLONE_NEWPID, CloneOptions, Cloned, clone_process, exit_now, forget_children,
};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use serde::{Deserialize, Serialize};

use super::reaper::Reaper;
use super::{Shim, door};
use crate::cgroup::Cgroup;
use crate::config::{NamespaceMode, NetworkMode, SandboxConfig};
use crate::error::RuntimeError;
use crate::record::{Layout, Phase, io_error, make_dir, try_lock};
use crate::spec;
use crate::wire::Failure;

/// What a shim is started with, as JSON in its one argument.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ShimArguments {
    pub(crate) layout: Layout,
    pub(crate) sandbox: String,
}

/// Default size of a pod's `/dev/shm`.
const SHM_SIZE: u64 = 64 << 20;

/// Runs the shim. The caller's process returns at once; what stays is a copy of it without a
/// terminal and without a parent that cares. The one word it says on standard output is `ready`, or
/// a [`Failure`] as JSON.
pub(crate) fn main(argument: &str) -> i32 {
    let Ok(arguments) = serde_json::from_str::<ShimArguments>(argument) else { return 2 };
    match clone_process(&CloneOptions::default()) {
        Ok(Cloned::Parent { .. }) => 0,
        Ok(Cloned::Child) => {
            let code = match boot(&arguments) {
                Ok((shim, listener)) => {
                    say(b"ready");
                    door::serve(&Arc::new(shim), &listener)
                }
                Err(error) => {
                    let failure = Failure::from(error);
                    say(&serde_json::to_vec(&failure).unwrap_or_default());
                    1
                }
            };
            exit_now(code)
        }
        Err(error) => {
            say(&serde_json::to_vec(&Failure::internal(&error)).unwrap_or_default());
            1
        }
    }
}

/// Says one word and closes standard output.
fn say(word: &[u8]) {
    let mut out = io::stdout();
    let _ = out.write_all(word).and_then(|()| out.flush());
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

fn boot(arguments: &ShimArguments) -> Result<(Shim, UnixListener), RuntimeError> {
    let layout = arguments.layout.clone();
    let id = &arguments.sandbox;
    let mut sandbox = layout
        .load_sandbox(id)?
        .ok_or_else(|| RuntimeError::NotFound { what: "pod sandbox", id: id.clone() })?;
    let dir = layout.shim_dir(id);
    make_dir(&dir)?;
    let lock_path = dir.join("lock");
    let lock = try_lock(&lock_path)?.ok_or_else(|| RuntimeError::AlreadyExists {
        what: "shim",
        name: id.clone(),
        id: id.clone(),
    })?;
    // Held until the process ends.
    std::mem::forget(lock);
    let kernel = |action: &'static str| io_error(action, "the shim's namespaces");
    rustix::process::setsid().map_err(|e| kernel("begin a session in")(e.into()))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| kernel("become subreaper of")(e.into()))?;
    // Without CAP_SYS_RESOURCE the score stays as it is.
    let _ = fs::write("/proc/self/oom_score_adj", "-998");
    enter_namespaces(&sandbox.config).map_err(kernel("make"))?;
    rustix::system::sethostname(spec::hostname(&sandbox).as_bytes())
        .map_err(|e| kernel("name")(e.into()))?;
    // The same on every machine, so that a restored container sees what it saw.
    rustix::system::setdomainname(b"(none)").map_err(|e| kernel("name")(e.into()))?;
    if !sandbox.config.host_ipc {
        mount_shm(&dir.join("shm"), sandbox.config.shm_size)?;
    }
    set_sysctls(&sandbox.config)?;
    Cgroup::at(&layout.sandbox_cgroup(id))?.create()?;
    let pause = match sandbox.config.pid {
        NamespaceMode::Pod => Some(start_pause().map_err(kernel("start the pause process of"))?),
        _ => None,
    };
    let listener = door::open(&dir).map_err(io_error("listen on", dir.join("shim.sock")))?;
    // From here on there are threads.
    let reaper = Reaper::start().map_err(kernel("start the reaper of"))?;
    sandbox.shim_pid = Some(rustix::process::getpid().as_raw_nonzero().get());
    sandbox.phase = Phase::Ready;
    layout.save_sandbox(&sandbox)?;
    let containers = Mutex::default();
    Ok((Shim { layout, sandbox, reaper, containers, pause }, listener))
}

fn enter_namespaces(config: &SandboxConfig) -> io::Result<()> {
    let mut kinds = Kinds::MOUNT.and(Kinds::UTS);
    if !config.host_ipc {
        kinds = kinds.and(Kinds::IPC);
    }
    if config.network == NetworkMode::Private {
        kinds = kinds.and(Kinds::NET);
    }
    unshare(kinds)?;
    // What the machine mounts later is still seen here; what is mounted here stays here.
    let propagation = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", propagation)?;
    if config.network == NetworkMode::Private {
        raise_loopback()?;
    }
    Ok(())
}

fn mount_shm(dir: &Path, size: u64) -> Result<(), RuntimeError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(io_error("create", dir))?;
    let size = if size == 0 { SHM_SIZE } else { size };
    let data = std::ffi::CString::new(format!("mode=1777,size={size}"))
        .map_err(|e| io_error("mount", dir)(e.into()))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("shm", dir, "tmpfs", flags, data.as_c_str()).map_err(|e| io_error("mount", dir)(e.into()))
}

fn set_sysctls(config: &SandboxConfig) -> Result<(), RuntimeError> {
    for (name, value) in &config.sysctls {
        let invalid = |reason: &str| RuntimeError::InvalidArgument {
            field: "sysctls",
            reason: format!("{name:?} {reason}"),
        };
        if name.contains("..") || name.starts_with(['.', '/']) {
            return Err(invalid("is not the name of a kernel parameter"));
        }
        let path = name.replace('.', "/");
        let of_net = path.starts_with("net/");
        let of_ipc = ["kernel/shm", "kernel/msg", "kernel/sem", "fs/mqueue/"]
            .iter()
            .any(|prefix| path.starts_with(prefix));
        let own =
            (of_net && config.network == NetworkMode::Private) || (of_ipc && !config.host_ipc);
        if !own {
            return Err(invalid("does not belong to a namespace of the pod alone"));
        }
        let file = Path::new("/proc/sys").join(path);
        fs::write(&file, value).map_err(io_error("write", &file))?;
    }
    Ok(())
}

/// The first process of a pid namespace that the pod's containers share. Orphans that end are gone at
/// once: a zombie would keep its pid, its group's and its session's from a restore that needs them.
fn start_pause() -> io::Result<OwnedFd> {
    match clone_process(&CloneOptions { flags: CLONE_NEWPID, ..CloneOptions::default() })? {
        Cloned::Parent { pidfd, .. } => Ok(pidfd),
        Cloned::Child => {
            let _ = rustix::process::set_parent_process_death_signal(Some(
                rustix::process::Signal::KILL,
            ));
            let _ = rustix::thread::set_name(c"pause");
            let _ = close_standard_streams();
            let _ = forget_children();
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
    }
}

fn close_standard_streams() -> io::Result<()> {
    let null =
        File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/null")?;
    rustix::stdio::dup2_stdout(null.as_fd())?;
    rustix::stdio::dup2_stderr(null.as_fd())?;
    Ok(())
}
