//! Ends of child processes.
//!
//! The shim is a subreaper (prctl(2)): its children are containers' first processes, helpers,
//! commands, and whatever these leave behind. One thread reaps all; who waits for a process has
//! registered it before it could be reaped.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cryopod_sys::wait::{Status, poll_any};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::{Exit, lock};

/// Reaps children and tells those who wait.
#[derive(Debug, Default)]
pub(super) struct Reaper {
    /// Registered processes; `Some` once they ended.
    known: Mutex<HashMap<i32, Option<Exit>>>,
    changed: Condvar,
}

impl Reaper {
    /// Starts the reaping thread.
    pub(super) fn start() -> io::Result<Arc<Self>> {
        let reaper = Arc::new(Self::default());
        let worker = reaper.clone();
        std::thread::Builder::new().name("reaper".into()).spawn(move || worker.run())?;
        Ok(reaper)
    }

    fn run(&self) {
        loop {
            // Looked at without taking, so that a process is taken only under the lock.
            let peek = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            match waitid(WaitId::All, peek) {
                Ok(Some(_)) => self.reap(),
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => {
                    // No children now: a registration wakes us; an orphan may come without one.
                    let known = lock(&self.known);
                    let waited = self.changed.wait_timeout(known, Duration::from_millis(100));
                    drop(waited.unwrap_or_else(PoisonError::into_inner));
                }
            }
        }
    }

    fn reap(&self) {
        let mut known = lock(&self.known);
        while let Ok(Some((pid, status))) = poll_any() {
            let code = match status {
                Status::Exited(code) => code,
                Status::Killed(signal) => 128 + signal,
                _ => continue,
            };
            if let Some(entry) = known.get_mut(&pid) {
                *entry = Some(Exit { code });
            }
        }
        self.changed.notify_all();
    }

    /// Starts a program and registers it.
    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<i32> {
        let mut known = lock(&self.known);
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        known.insert(pid, None);
        self.changed.notify_all();
        Ok(pid)
    }

    /// Registers a child that a helper made; false when it is gone already.
    pub(super) fn adopt(&self, pid: i32, pidfd: impl AsFd) -> bool {
        let mut known = lock(&self.known);
        let peek = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        if waitid(WaitId::PidFd(pidfd.as_fd()), peek).is_err() {
            return false;
        }
        known.insert(pid, None);
        self.changed.notify_all();
        true
    }

    /// Waits until a registered process has ended, and forgets it; `None`: it has not by then.
    pub(super) fn wait(&self, pid: i32, deadline: Option<Instant>) -> Option<Exit> {
        let mut known = lock(&self.known);
        loop {
            match known.get(&pid) {
                Some(Some(exit)) => {
                    let exit = *exit;
                    known.remove(&pid);
                    return Some(exit);
                }
                Some(None) => {}
                None => return Some(Exit { code: 255 }),
            }
            known = match deadline {
                None => self.changed.wait(known).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.checked_duration_since(Instant::now())?;
                    let waited = self.changed.wait_timeout(known, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}
