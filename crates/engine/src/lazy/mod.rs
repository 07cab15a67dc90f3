//! Memory that comes late: a restored tree runs before its memory is there.
//!
//! Large private anonymous areas are registered with a userfaultfd of their process when they are
//! made ([`cryopod_sys::missing`]). A *filler* gives each page its archived content when it is first
//! touched, and all others meanwhile, window by window; each chunk of pages is compared with its
//! digest before any of it is used. When everything was given, the descriptors are closed, and the
//! memory is as if it had been filled before.
//!
//! What the program does to such memory meanwhile is followed exactly ([`places`]): pages that it
//! threw away are zero, stretches that it moved keep their content, and the children it forks have
//! descriptors of their own.
//!
//! States of a filler, and what its death means in each:
//!
//! 1. *Early*: while the tree is rebuilt, a thread of the engine serves what the rebuilding touches.
//!    The engine's death is the death of all tasks, as in any restore.
//! 2. *Paired*: before the first task is let go, the engine makes a copy of itself that shares its
//!    table of descriptors (clone3(2), CLONE_FILES) and its journal ([`journal`]), and only waits for
//!    the engine's end. Whichever of both is left has every descriptor, those of forked children
//!    included, and every message: it takes the work up, with a new partner. A thread that waits for
//!    a page waits a little longer.
//! 3. *Complete*: all pages of all spaces were given; it goes on to answer, with zeros, until whoever
//!    else holds the descriptors has let go of them ([`Watcher::is_over`]).
//! 4. *Failed*: the archive is damaged or cannot be read, memory is used up, or the kernel refused. It
//!    serves nothing more and tells what and where. Nobody reads a wrong byte: threads wait until the
//!    watcher has ended the container. Should a process be left then, missing pages are made such that
//!    touching one raises SIGBUS (UFFDIO_POISON).
//!
//! Not seen, because the kernel tells nobody: pages that are not there yet, made guard pages by
//! madvise(MADV_GUARD_INSTALL) and ordinary ones again before they were filled, get their archived
//! content where they should be zero; and areas that get MADV_WIPEONFORK before they were filled are
//! not wiped in children. This is why the caller has to ask for it.
//!
//! Children that are forked before the memory of their parent was filled get copies of their own of
//! what was missing then.

mod chunks;
mod early;
mod journal;
mod pair;
mod places;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cryopod_images::{msg, vma};
use cryopod_sys::missing::{self, Message, Uffd};

pub(crate) use chunks::Chunks;
pub(crate) use early::Early;
use journal::{Entry, Journal};
use places::{Places, Unsettled};

use crate::areas::{self, PAGE};
use crate::restore::memory::Memory;
use crate::store::Pages;

/// Bytes of addresses that are filled at a time.
const WINDOW: u64 = 1 << 20;
/// Areas with fewer bytes of pages are filled at once: a descriptor more costs as much.
const SMALL: u64 = 64 * 1024;
/// How long a change is waited for before others are heard.
const SOON: Duration = Duration::from_millis(1);

/// How late memory is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lazy {
    /// Processes with fewer bytes of pages that could come late are filled at once.
    pub least: u64,
    /// What is waited after each MiB that nobody asked for.
    pub pause: Duration,
}

impl Default for Lazy {
    fn default() -> Self {
        Self { least: 16 << 20, pause: Duration::ZERO }
    }
}

/// Why memory cannot be filled.
#[derive(Debug, thiserror::Error)]
#[error("the memory of process {pid} cannot be filled at {address:x}")]
pub struct FillError {
    /// Pid inside the container.
    pub pid: i32,
    /// Address in the process.
    pub address: u64,
    /// What is wrong.
    #[source]
    pub source: io::Error,
}

/// What a filler tells.
#[derive(Debug)]
pub enum Filling {
    /// All tasks run. Told again by a filler that took over before this was known to be told.
    Released,
    /// All memory is there.
    Filled,
    /// It will never be; tasks wait for it, and are to be ended.
    Failed(FillError),
}

/// Who looks after a tree that is being filled.
pub trait Watcher {
    /// Is told what has happened.
    fn tell(&mut self, what: Filling);

    /// Whether nobody else holds the descriptors any more, or after a failure, whether the filler may
    /// end. Asked again and again after [`Filling::Filled`] and [`Filling::Failed`].
    fn is_over(&mut self) -> bool;
}

/// One address space.
#[derive(Debug)]
struct Space {
    fd: Uffd,
    pid: i32,
    places: Places,
    memory: Arc<Memory>,
    /// Changes that are not settled.
    pending: Vec<Message>,
    /// Where to go on.
    hint: u64,
    gone: bool,
}

/// What the first processes had in the beginning.
#[derive(Debug)]
struct Root {
    fd: Uffd,
    pid: i32,
    places: Places,
    memory: Arc<Memory>,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Busy,
    /// Nothing to do for now.
    Idle,
    Complete,
}

/// Gives pages to all address spaces of a tree.
#[derive(Debug)]
pub(crate) struct Filler {
    lazy: Lazy,
    journal: Journal,
    roots: Vec<Root>,
    spaces: Vec<Space>,
    /// Pages that somebody waits for.
    urgent: VecDeque<(usize, u64)>,
    turn: usize,
    chunks: Chunks,
    rest_until: Instant,
}

/// Ranges of a process that can come late; none when they are too few.
pub(crate) fn ranges(vmas: &[msg::VmaEntry], memory: &Memory, lazy: Lazy) -> Vec<(u64, u64)> {
    const WIPE_ON_FORK: u64 = 1 << 18;
    let guards: Vec<_> = vmas.iter().filter(|a| a.status & areas::GUARD != 0).collect();
    let fits = |area: &&msg::VmaEntry| {
        let kernels = vma::VDSO | vma::VVAR | vma::VSYSCALL;
        let odd = (libc::MAP_GROWSDOWN | libc::MAP_HUGETLB | libc::MAP_LOCKED) as u32;
        area.status & areas::GUARD == 0
            && area.status & vma::REGULAR != 0
            && area.status & vma::ANON_PRIVATE != 0
            && area.status & kernels == 0
            && area.flags & odd == 0
            && !areas::is_locked(area)
            && area.madv.unwrap_or(0) & WIPE_ON_FORK == 0
            // What is not writable any more stays accounted for only if it has a page by then.
            && area.accounted != Some(true)
            && !guards.iter().any(|g| g.start < area.end && area.start < g.end)
    };
    let stored = |start: u64, end: u64| -> u64 {
        let inside = memory.from(start).iter().take_while(|extent| extent.start < end);
        inside.map(|extent| extent.end.min(end) - extent.start.max(start)).sum()
    };
    let found = vmas.iter().filter(fits).map(|a| (a.start, a.end, stored(a.start, a.end)));
    let found: Vec<_> = found.filter(|(_, _, bytes)| *bytes >= SMALL).collect();
    if found.iter().map(|(_, _, bytes)| bytes).sum::<u64>() < lazy.least {
        return Vec::new();
    }
    found.into_iter().map(|(start, end, _)| (start, end)).collect()
}

impl Filler {
    pub(crate) fn new(lazy: Lazy) -> io::Result<Self> {
        Ok(Self {
            lazy,
            journal: Journal::new()?,
            roots: Vec::new(),
            spaces: Vec::new(),
            urgent: VecDeque::new(),
            turn: 0,
            chunks: Chunks::default(),
            rest_until: Instant::now(),
        })
    }

    /// Takes over the userfaultfd of a process, with what was registered.
    pub(crate) fn add(&mut self, fd: OwnedFd, pid: i32, parts: &[(u64, u64)], memory: Arc<Memory>) {
        let mut places = Places::default();
        parts.iter().for_each(|(start, end)| places.add(*start, *end));
        let fd = Uffd::from(fd);
        let root = Root { fd, pid, places, memory };
        self.spaces.push(Space::new(fd, pid, root.places.clone(), Arc::clone(&root.memory)));
        self.roots.push(root);
    }

    /// The descriptors of the first processes.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.spaces.iter().take(self.roots.len()).map(|space| space.fd.as_fd())
    }

    fn error(&self, space: usize, address: u64) -> impl FnOnce(io::Error) -> FillError + use<> {
        let pid = self.spaces[space].pid;
        move |source| FillError { pid, address, source }
    }

    /// One piece of work: what was said, then who waits, then, if that is wanted, what nobody asked
    /// for yet.
    fn step(&mut self, background: bool) -> Result<Progress, FillError> {
        let mut busy = false;
        for space in 0..self.spaces.len() {
            busy |= self.hear(space)?;
        }
        let mut changing = false;
        for space in 0..self.spaces.len() {
            changing |= !self.settle(space)?;
        }
        for _ in 0..self.urgent.len() {
            let Some((space, page)) = self.urgent.pop_front() else { break };
            if self.serve(space, page)? {
                busy = true;
            } else {
                self.urgent.push_back((space, page));
                changing = true;
            }
        }
        if busy {
            return Ok(Progress::Busy);
        }
        if !background || changing || Instant::now() < self.rest_until {
            return Ok(Progress::Idle);
        }
        // The first processes before their children: what these fork is complete then.
        for some in [0..self.roots.len(), self.roots.len()..self.spaces.len()] {
            for _ in some.clone() {
                self.turn = if self.turn + 1 < some.end { self.turn + 1 } else { some.start };
                self.turn = self.turn.max(some.start);
                if self.fill(self.turn)? {
                    if !self.spaces[self.turn].gone {
                        self.rest_until = Instant::now() + self.lazy.pause;
                    }
                    return Ok(Progress::Busy);
                }
            }
        }
        let complete = self.spaces.iter().all(Space::is_complete);
        Ok(if complete { Progress::Complete } else { Progress::Idle })
    }

    /// Reads what the kernel has to say about an address space; whether there was anything.
    fn hear(&mut self, at: usize) -> Result<bool, FillError> {
        let mut heard = false;
        loop {
            let space = &mut self.spaces[at];
            if space.gone {
                return Ok(heard);
            }
            match self.journal.hear(at, space.fd.as_fd()) {
                Ok(None) => return Ok(heard),
                Ok(Some(Message::Fault { address })) => {
                    self.urgent.push_back((at, address & !(PAGE - 1)));
                }
                // One at a time: most take effect before the next, and leave no doubt.
                Ok(Some(change)) => {
                    space.pending.push(change);
                    return Ok(true);
                }
                // No room for a child's descriptor: those of ended processes are given back.
                Err(e) if e.raw_os_error() == Some(libc::EMFILE) => {
                    if !self.sweep(Some(at))? {
                        return Err(self.error(at, 0)(e));
                    }
                }
                Err(e) => return Err(self.error(at, 0)(e)),
            }
            heard = true;
        }
    }

    /// Closes descriptors of processes that have ended; whether there was one.
    fn sweep(&mut self, except: Option<usize>) -> Result<bool, FillError> {
        let mut any = false;
        for at in (0..self.spaces.len()).filter(|at| Some(*at) != except) {
            let space = &self.spaces[at];
            if space.gone {
                continue;
            }
            let ended = missing::is_registered(space.fd.as_fd(), 0)
                .is_err_and(|e| e.raw_os_error() == Some(libc::ESRCH));
            if ended {
                self.gone(at)?;
                any = true;
            }
        }
        Ok(any)
    }

    fn gone(&mut self, at: usize) -> Result<(), FillError> {
        if self.spaces[at].gone {
            return Ok(());
        }
        self.journal.push(Entry::Gone { space: at }).map_err(self.error(at, 0))?;
        self.spaces[at].leave();
        Ok(())
    }

    /// Lets changes take effect once none is under way; whether none is left.
    fn settle(&mut self, at: usize) -> Result<bool, FillError> {
        let space = &self.spaces[at];
        if space.pending.is_empty() || space.gone {
            return Ok(true);
        }
        let fd = space.fd.as_fd();
        let begun = Instant::now();
        let settled = loop {
            match missing::is_registered(fd, space.places.any().unwrap_or(PAGE)) {
                // The thread that was told has to go on first.
                Ok(None) if begun.elapsed() < SOON => std::thread::yield_now(),
                other => break other,
            }
        };
        match settled {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(false),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {
                self.gone(at)?;
                return Ok(true);
            }
            Err(e) => return Err(self.error(at, 0)(e)),
        }
        let mut answers = Vec::new();
        let mut ask = |page: u64| {
            let answer = missing::is_registered(fd, page)?;
            answers.extend(answer.map(|registered| (page, registered)));
            Ok(answer)
        };
        let mut places = space.places.clone();
        let children = match places.settle(&space.pending, &mut ask) {
            Ok(children) => children,
            Err(Unsettled::Changing) => return Ok(false),
            Err(e) => return Err(self.error(at, 0)(io::Error::other(e))),
        };
        for (page, registered) in answers {
            let answer = Entry::Answer { page, registered };
            self.journal.push(answer).map_err(self.error(at, page))?;
        }
        self.journal.push(Entry::Settled { space: at }).map_err(self.error(at, 0))?;
        self.take_effect(at, places, children);
        Ok(true)
    }

    fn take_effect(&mut self, at: usize, places: Places, children: Vec<(i32, Places)>) {
        let space = &mut self.spaces[at];
        space.places = places;
        space.pending.clear();
        let (pid, memory) = (space.pid, Arc::clone(&space.memory));
        for (fd, places) in children {
            self.spaces.push(Space::new(Uffd::numbered(fd), pid, places, Arc::clone(&memory)));
        }
    }

    /// Gives a page to who waits for it; false: not now.
    fn serve(&mut self, at: usize, page: u64) -> Result<bool, FillError> {
        let space = &mut self.spaces[at];
        if space.gone {
            return Ok(true);
        }
        if !space.pending.is_empty() {
            return Ok(false);
        }
        space.hint = page;
        let fd = space.fd;
        let memory = Arc::clone(&space.memory);
        let stored = space.places.wanted(page).and_then(|from| {
            let extent = memory.from(from).first().filter(|extent| extent.start <= from)?;
            Some((&extent.pages, extent.at + (from - extent.start)))
        });
        let given = match stored {
            Some((pages, offset)) => {
                let fail = self.error(at, page);
                let chunk = self.chunks.get(pages, offset).map_err(fail)?;
                missing::copy(fd.as_fd(), page, &chunk[..PAGE as usize]).map(drop)
            }
            None => missing::zero(fd.as_fd(), page, PAGE),
        };
        match given.map_err(|e| (e.raw_os_error(), e)) {
            Ok(()) => Ok(true),
            Err((Some(libc::EAGAIN), _)) => Ok(false),
            // Somebody was faster, or it is registered no more.
            Err((Some(libc::EEXIST | libc::ENOENT), _)) => {
                missing::wake(fd.as_fd(), page, PAGE).map_err(self.error(at, page))?;
                Ok(true)
            }
            Err((Some(libc::ESRCH), _)) => self.gone(at).map(|()| true),
            Err((_, e)) => Err(self.error(at, page)(e)),
        }
    }

    /// Fills one window of an address space; whether there was one to fill.
    fn fill(&mut self, at: usize) -> Result<bool, FillError> {
        let space = &self.spaces[at];
        if space.gone || !space.pending.is_empty() {
            return Ok(false);
        }
        let next = space.places.next(space.hint, WINDOW);
        let Some((start, end, from)) = next.or_else(|| space.places.next(0, WINDOW)) else {
            return Ok(false);
        };
        let memory = Arc::clone(&space.memory);
        for extent in memory.from(from).iter().take_while(|e| e.start < from + (end - start)) {
            let first = extent.start.max(from);
            let last = extent.end.min(from + (end - start));
            let mut offset = extent.at + (first - extent.start);
            let (mut to, until) = (start + (first - from), start + (last - from));
            while to < until {
                let len = until - to;
                match self.give(at, to, &extent.pages, offset, len)? {
                    Some(done) => {
                        to += done;
                        offset += done;
                    }
                    // A change: what it is comes first.
                    None => return Ok(true),
                }
            }
        }
        self.journal.push(Entry::Done { space: at, start, end }).map_err(self.error(at, start))?;
        let space = &mut self.spaces[at];
        space.places.done(start, end);
        space.hint = end;
        Ok(true)
    }

    /// Gives up to `len` bytes, of one chunk; how many need not be given any more, or `None`.
    fn give(
        &mut self,
        at: usize,
        to: u64,
        pages: &Arc<Pages>,
        offset: u64,
        len: u64,
    ) -> Result<Option<u64>, FillError> {
        let fd = self.spaces[at].fd;
        let fail = self.error(at, to);
        let chunk = match self.chunks.get(pages, offset) {
            Ok(chunk) => chunk,
            Err(e) => return Err(fail(e)),
        };
        let mut len = len.min(chunk.len() as u64);
        loop {
            let bytes = &chunk[..len as usize];
            match missing::copy(fd.as_fd(), to, bytes).map_err(|e| (e.raw_os_error(), e)) {
                Ok(done) => return Ok(Some(done as u64)),
                Err((Some(libc::EAGAIN), _)) => return Ok(None),
                Err((Some(libc::EEXIST), _)) => return Ok(Some(PAGE)),
                // Not within one area: page by page, should it come to that.
                Err((Some(libc::ENOENT), _)) if len > PAGE => {
                    len = (len / 2).next_multiple_of(PAGE);
                }
                Err((Some(libc::ENOENT), _)) => return Ok(Some(PAGE)),
                Err((Some(libc::ESRCH), _)) => {
                    self.gone(at)?;
                    return Ok(None);
                }
                Err((_, e)) => return Err(fail(e)),
            }
        }
    }

    /// Computes the state from what was written down, after another one's death.
    fn take_over(&mut self) -> io::Result<()> {
        self.urgent.clear();
        self.spaces = (self.roots.iter())
            .map(|root| {
                Space::new(root.fd, root.pid, root.places.clone(), Arc::clone(&root.memory))
            })
            .collect();
        let unknown = || io::Error::other("the journal names an address space that is not there");
        let mut answers: VecDeque<(u64, bool)> = VecDeque::new();
        for entry in self.journal.replay()? {
            let space = match entry {
                Entry::Heard { space, .. }
                | Entry::Settled { space }
                | Entry::Done { space, .. }
                | Entry::Gone { space } => space,
                Entry::Answer { .. } | Entry::Retry => 0,
            };
            let found = self.spaces.get_mut(space).ok_or_else(unknown)?;
            match entry {
                Entry::Heard { message, .. } => found.pending.push(message),
                Entry::Answer { page, registered } => answers.push_back((page, registered)),
                Entry::Retry => answers.clear(),
                Entry::Settled { .. } => {
                    let mut places = found.places.clone();
                    let mut ask = |page: u64| match answers.pop_front() {
                        Some((asked, registered)) if asked == page => Ok(Some(registered)),
                        _ => Err(io::Error::other("the journal lacks an answer")),
                    };
                    let children =
                        places.settle(&found.pending, &mut ask).map_err(io::Error::other)?;
                    self.take_effect(space, places, children);
                }
                Entry::Done { start, end, .. } => found.places.done(start, end),
                Entry::Gone { .. } => found.forget(),
            }
        }
        self.journal.push(Entry::Retry)
    }
}

impl Space {
    fn new(fd: Uffd, pid: i32, places: Places, memory: Arc<Memory>) -> Self {
        Self { fd, pid, places, memory, pending: Vec::new(), hint: 0, gone: false }
    }

    fn forget(&mut self) {
        self.gone = true;
        self.pending = Vec::new();
        self.places = Places::default();
    }

    /// Closes the descriptor of a process that has ended.
    fn leave(&mut self) {
        self.forget();
        self.fd.close();
    }

    fn is_complete(&self) -> bool {
        self.gone || self.pending.is_empty() && self.places.next(0, WINDOW).is_none()
    }
}
