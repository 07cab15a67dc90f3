//! Serving what is touched while the tree is rebuilt.
//!
//! The rebuilding thread waits in the kernel for tasks that may wait for a page themselves: another
//! thread has to give it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{FillError, Filler, Progress};
use crate::restore::memory::Memory;

/// Between two looks at whether somebody waits.
const LOOK: Duration = Duration::from_micros(100);

/// A filler with a thread that serves it.
#[derive(Debug)]
pub(crate) struct Early {
    /// There until [`Early::stop`].
    filler: Arc<Mutex<Option<Filler>>>,
    enough: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), FillError>>>,
}

impl Early {
    pub(crate) fn start(filler: Filler) -> io::Result<Self> {
        let filler = Arc::new(Mutex::new(Some(filler)));
        let enough = Arc::new(AtomicBool::new(false));
        let (served, told) = (Arc::clone(&filler), Arc::clone(&enough));
        let thread = std::thread::Builder::new().name("filler".into()).spawn(move || {
            while !told.load(Ordering::SeqCst) {
                let step = match &mut *served.lock().unwrap_or_else(PoisonError::into_inner) {
                    Some(filler) => filler.step(false)?,
                    None => break,
                };
                if step != Progress::Busy {
                    std::thread::sleep(LOOK);
                }
            }
            Ok(())
        })?;
        Ok(Self { filler, enough, thread: Some(thread) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Filler>> {
        self.filler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the userfaultfd of a process, with what was registered.
    pub(crate) fn add(&self, fd: OwnedFd, pid: i32, parts: &[(u64, u64)], memory: Arc<Memory>) {
        if let Some(filler) = &mut *self.lock() {
            filler.add(fd, pid, parts, memory);
        }
    }

    /// Copies of the descriptors of the first processes.
    pub(crate) fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        let filler = self.lock();
        let fds = filler.iter().flat_map(Filler::descriptors);
        fds.map(|fd| fd.try_clone_to_owned()).collect()
    }

    /// Ends the thread and gives the filler back, with what went wrong while it served.
    pub(crate) fn stop(mut self) -> (Option<Filler>, Result<(), FillError>) {
        let outcome = self.join();
        (self.lock().take(), outcome)
    }

    fn join(&mut self) -> Result<(), FillError> {
        self.enough.store(true, Ordering::SeqCst);
        let panicked = || io::Error::other("the thread that gives pages has panicked");
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Err(FillError { pid: 0, address: 0, source: panicked() }),
        }
    }
}

impl Drop for Early {
    fn drop(&mut self) {
        let _ = self.join();
    }
}
