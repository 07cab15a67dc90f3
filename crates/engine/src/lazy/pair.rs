//! The two processes of a filler: one works, one waits for its death.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use cryopod_sys::process::pidfd_open;
use cryopod_sys::spawn::{CLONE_FILES, CloneOptions, Cloned, clone_process, exit_now};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::journal::{FINISHED, LET_GO, TOLD};
use super::{FillError, Filler, Filling, Progress, Watcher};

/// Between two looks when there is nothing to do.
const LOOK: Duration = Duration::from_micros(200);
/// Between two looks at whether the partner lives.
const PARTNER: Duration = Duration::from_millis(20);

/// Whether the process of a descriptor has ended.
fn has_ended(pidfd: &OwnedFd, wait: Option<Duration>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let limit = wait.map(|wait| Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: wait.subsec_nanos().into(),
    });
    matches!(poll(&mut fds, limit.as_ref()), Ok(1..))
}

impl Filler {
    /// Makes a partner, which never returns from here.
    pub(crate) fn pair(&mut self, watcher: &mut dyn Watcher) -> io::Result<OwnedFd> {
        let worker = rustix::process::getpid();
        // A thread that was joined may be seen for a moment still.
        let begun = Instant::now();
        let cloned = loop {
            match clone_process(&CloneOptions { flags: CLONE_FILES, ..CloneOptions::default() }) {
                Err(_) if begun.elapsed() < Duration::from_secs(1) => std::thread::sleep(LOOK),
                other => break other?,
            }
        };
        match cloned {
            Cloned::Parent { pidfd, .. } => Ok(pidfd),
            Cloned::Child => {
                // It may have ended by now, and its pid may be another's.
                let lives = |pidfd: &OwnedFd| {
                    rustix::process::getppid() == Some(worker)
                        && !has_ended(pidfd, Some(Duration::ZERO))
                };
                if let Ok(pidfd) = pidfd_open(worker.as_raw_nonzero().get()) {
                    while lives(&pidfd) && !has_ended(&pidfd, None) {}
                }
                if self.journal.has(FINISHED) || !self.journal.has(LET_GO) {
                    exit_now(0);
                }
                let outcome = self.take_over();
                let outcome = outcome.map_err(|source| FillError { pid: 0, address: 0, source });
                match outcome {
                    Ok(()) => self.work(None, watcher),
                    Err(error) => self.fail(error, watcher),
                }
                exit_now(0);
            }
        }
    }

    /// From now on whoever is left of the pair goes on.
    pub(crate) fn let_go(&self) {
        self.journal.raise(LET_GO);
    }

    /// Fills everything. Returns when the watcher says so.
    pub(crate) fn work(&mut self, partner: Option<OwnedFd>, watcher: &mut dyn Watcher) {
        if !self.journal.has(TOLD) {
            watcher.tell(Filling::Released);
            self.journal.raise(TOLD);
        }
        match self.work_to_end(partner, watcher) {
            Ok(()) => self.journal.raise(FINISHED),
            Err(error) => self.fail(error, watcher),
        }
    }

    fn work_to_end(
        &mut self,
        mut partner: Option<OwnedFd>,
        watcher: &mut dyn Watcher,
    ) -> Result<(), FillError> {
        let mut look = Instant::now();
        let mut filled = false;
        loop {
            if Instant::now() >= look {
                look = Instant::now() + PARTNER;
                if partner.as_ref().is_none_or(|p| has_ended(p, Some(Duration::ZERO))) {
                    let pid = self.spaces.first().map_or(0, |space| space.pid);
                    let fail = |source| FillError { pid, address: 0, source };
                    partner = Some(self.pair(watcher).map_err(fail)?);
                }
            }
            match self.step(true)? {
                Progress::Busy => {}
                Progress::Idle => std::thread::sleep(LOOK),
                Progress::Complete => {
                    if !filled {
                        filled = true;
                        watcher.tell(Filling::Filled);
                    }
                    if watcher.is_over() {
                        return Ok(());
                    }
                    std::thread::sleep(LOOK);
                }
            }
        }
    }

    /// Gives nothing any more, but keeps the descriptors, until the watcher has ended the tree.
    fn fail(&self, error: FillError, watcher: &mut dyn Watcher) {
        watcher.tell(Filling::Failed(error));
        while !watcher.is_over() {
            std::thread::sleep(PARTNER);
        }
        self.journal.raise(FINISHED);
    }
}
