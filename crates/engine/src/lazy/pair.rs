//! The two processes of a filler: one works, one waits for its death.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use cryopod_sys::missing;
use cryopod_sys::process::pidfd_open;
use cryopod_sys::spawn::{CLONE_FILES, CloneOptions, Cloned, clone_process, exit_now};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::journal::{FINISHED, LET_GO, TOLD};
use super::{FillError, Filler, Filling, Progress, Watcher};
use crate::areas::PAGE;

/// Between two looks when there is nothing to do.
const LOOK: Duration = Duration::from_micros(200);
/// Between two looks at whether the partner lives.
const PARTNER: Duration = Duration::from_millis(20);
/// Deaths without any page given between them, at most.
const DEATHS: u64 = 100;
/// How long changes are waited for at the most when nothing can be given any more.
const POISONING: Duration = Duration::from_secs(2);

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
                let outcome = outcome.and_then(|()| match self.journal.deaths() {
                    // Something in what is to be done next kills whoever does it.
                    deaths if deaths > DEATHS => Err(io::Error::other(format!(
                        "those who fill it have died {deaths} times at the same place"
                    ))),
                    _ => Ok(()),
                });
                let outcome = outcome.map_err(|source| FillError { pid: 0, address: 0, source });
                match outcome {
                    Ok(()) => self.work(None, Ok(()), watcher),
                    Err(error) => self.fail(error, watcher),
                }
                exit_now(0);
            }
        }
    }

    /// From now on whoever is left of the pair goes on; or nobody does.
    pub(crate) fn may_go(&self, may: bool) {
        self.journal.raise(if may { LET_GO } else { FINISHED });
    }

    /// Fills everything, unless `served` says that it failed before. Returns when the watcher says so.
    pub(crate) fn work(
        &mut self,
        partner: Option<OwnedFd>,
        served: Result<(), FillError>,
        watcher: &mut dyn Watcher,
    ) {
        if !self.journal.has(TOLD) {
            watcher.tell(Filling::Released);
            self.journal.raise(TOLD);
        }
        match served.and_then(|()| self.work_to_end(partner, watcher)) {
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
                // A program that forks all the time would have thousands.
                self.sweep(None)?;
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

    /// Makes every page that was not given one that ends who touches it.
    fn poison(&mut self) {
        let begun = Instant::now();
        // Children that were forked meanwhile, too.
        while begun.elapsed() < POISONING {
            let mut quiet = true;
            for at in 0..self.spaces.len() {
                quiet &= matches!((self.hear(at), self.settle(at)), (Ok(false), Ok(true)));
            }
            if quiet {
                break;
            }
        }
        for space in self.spaces.iter().filter(|space| !space.gone) {
            let mut at = 0;
            while let Some((start, end, _)) = space.places.next(at, u64::MAX) {
                at = start;
                while at < end {
                    match missing::poison(space.fd.as_fd(), at, end - at) {
                        Ok(done) => at += done,
                        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => break,
                        Err(e)
                            if e.raw_os_error() == Some(libc::EAGAIN)
                                && begun.elapsed() < POISONING => {}
                        Err(_) => at += PAGE,
                    }
                }
                at = end;
            }
        }
    }

    /// Gives nothing any more, but keeps the descriptors, until the watcher has ended the tree.
    fn fail(&mut self, error: FillError, watcher: &mut dyn Watcher) {
        watcher.tell(Filling::Failed(error));
        while !watcher.is_over() {
            std::thread::sleep(PARTNER);
        }
        // Should anything of the tree be left, it ends at the first page that it lacks.
        self.poison();
        self.journal.raise(FINISHED);
    }
}
