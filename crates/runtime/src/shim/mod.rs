//! The shim: one process per pod sandbox, parent of the pod's containers.
//!
//! It lives in the pod's own network, ipc and host-name namespaces (which it thereby holds) and in a
//! mount namespace of its own, where the pod's `/dev/shm` is. It keeps the containers' standard
//! streams and writes their logs, reaps, records exit codes on disk, and serves requests on a unix
//! socket. Whoever asked for the sandbox may die and come back: nothing is lost. Containers are made
//! by helpers, since a process with threads cannot be copied.

mod boot;
mod checkpoint;
mod container;
mod door;
mod exec;
mod logs;
mod reaper;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

pub(crate) use boot::{ShimArguments, main};
pub(crate) use door::{Request, Response, ask, ask_exec, ask_until};
pub(crate) use logs::Partial;

use crate::record::{Layout, SandboxRecord};
use container::Container;
use reaper::Reaper;

/// Everything the shim's threads share.
#[derive(Debug)]
struct Shim {
    layout: Layout,
    sandbox: SandboxRecord,
    reaper: Arc<Reaper>,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    /// Keeps the pod's shared pid namespace, when there is one.
    pause: Option<OwnedFd>,
}

/// What a process left behind when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Exit {
    /// Exit code; 128 and the signal's number when a signal ended it.
    code: i32,
}

/// Takes a lock; a thread that panicked while it held it has left whole values behind, since all
/// changes under these locks are single assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
