//! Restore of a process tree: the order of the work.
//!
//! First the tree is forked from bare tasks, each stopped at birth, with its archived pid. Then
//! every task is rebuilt by remote calls: address space, descriptors, threads, signals, timers,
//! credentials. Last come the registers; all tasks are let go together, or none is.

mod layout;
mod leaders;
mod load;
pub(crate) mod memory;
mod process;
mod sockets;
mod stop;
mod transport;
mod tree;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use cryopod_images::msg;
use cryopod_sys::ptrace;
use cryopod_sys::wait::{self, Status};
use rustix::fs::{Mode, OFlags};

use crate::error::RestoreError;
use crate::files::{
    datagrams, events, fifos, ghosts, inet, inotify, marks, memfd, netlink, owners, pipes, regular,
};
use crate::inject::Remote;
use crate::lazy::{Early, FillError, Filling, Lazy, Watcher};
use crate::proc::tasks;
use crate::segments;
use crate::store::ImageSource;
use load::Images;
pub(crate) use memory::Memory;

/// The process that becomes the tree's first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreRoot {
    /// This process (host pid), a child of ours or of our parent, stopped by SIGSTOP inside
    /// namespaces, mounts and cgroup that are ready; its pid inside is the archived one.
    Stopped(i32),
    /// Make it here, in the caller's own namespaces, with the archived pid. The caller must be
    /// single-threaded.
    Spawn,
}

/// How to restore.
#[derive(Debug)]
pub struct RestoreOptions {
    /// Where the tree begins.
    pub root: RestoreRoot,
    /// Descriptors for what was recorded as external: `pipe:[INODE]` and its new end.
    pub inherit: Vec<(String, OwnedFd)>,
    /// Lower what cannot be raised to its archived value (limits) instead of refusing.
    pub clamp: bool,
    /// Let memory come late, after the release ([`crate::lazy`]); `None`: all of it is there before.
    pub lazy: Option<Lazy>,
}

/// A tree that is complete and has not run yet. Dropping it kills it.
#[derive(Debug)]
pub struct Restored {
    /// Host pid of the first process.
    pub pid: i32,
    /// Host tids of all threads, by process.
    tasks: Vec<Vec<i32>>,
    /// Processes that are to be stopped at the release, with the signal.
    stopped: Vec<(i32, i32)>,
    /// Processes that are stopped by job control already.
    resting: Vec<i32>,
    released: bool,
    /// What serves memory that is not there yet.
    early: Option<Early>,
    notes: Vec<String>,
}

impl Restored {
    /// Lets every task run. Memory that comes late is filled before this returns.
    ///
    /// # Errors
    /// A task that ended meanwhile; the others are killed. [`RestoreError::Fill`]: see there.
    pub fn release(mut self) -> Result<(), RestoreError> {
        if self.early.is_some() {
            let mut outcome = Outcome::default();
            self.release_and_fill(&mut outcome)?;
            return outcome.0.map_or(Ok(()), |error| Err(RestoreError::Fill(error)));
        }
        self.let_go()
    }

    /// Lets every task run, tells so, and fills the memory that comes late; tells when that is done,
    /// or why it cannot be. Returns when the watcher says that it is over. A copy of the caller may
    /// be what goes on, and tells, when the caller is killed: what the watcher tells must not depend
    /// on the caller's process but on its descriptors.
    ///
    /// # Errors
    /// As [`Restored::release`], before the release was told.
    pub fn release_and_fill(mut self, watcher: &mut dyn Watcher) -> Result<(), RestoreError> {
        let Some(early) = self.early.take() else {
            self.let_go()?;
            watcher.tell(Filling::Released);
            watcher.tell(Filling::Filled);
            return Ok(());
        };
        let fail = |source| FillError { pid: 0, address: 0, source };
        let gone = || fail(io::Error::other("there is no filler"));
        let (filler, served) = early.stop();
        served?;
        let mut filler = filler.ok_or_else(gone)?;
        let partner = filler.pair(watcher).map_err(fail)?;
        filler.may_go(true);
        let early = match Early::start(filler) {
            Ok(early) => early,
            Err(e) => return Err(fail(e).into()),
        };
        let released = self.let_go();
        let (filler, served) = early.stop();
        let mut filler = filler.ok_or_else(gone)?;
        if released.is_err() {
            // All tasks are killed with the end of this: nobody is to take up anything.
            filler.may_go(false);
            return released;
        }
        filler.work(Some(partner), served, watcher);
        Ok(())
    }

    /// What comes late of the memory of the tree's processes is filled through these descriptors: as
    /// long as somebody holds copies of them, nobody reads zeros where content belongs.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        self.early.as_ref().map_or(Ok(Vec::new()), Early::descriptors)
    }

    /// Why memory does not come late though that was asked for, by process.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn let_go(&mut self) -> Result<(), RestoreError> {
        for (pid, signal) in &self.stopped {
            cryopod_sys::process::kill(*pid, *signal).map_err(|source| RestoreError::Kernel {
                pid: *pid,
                what: "cannot stop it as it was".into(),
                source,
            })?;
        }
        let let_go = |tids: &Vec<i32>| {
            tids.iter().try_for_each(|tid| {
                ptrace::detach(*tid, 0).map_err(|_| RestoreError::Vanished { pid: *tid })
            })
        };
        // The first process last: killed in the middle, we take it with us (PTRACE_O_EXITKILL), and
        // as the first of a pid namespace it takes all others.
        let first = |tids: &&Vec<i32>| tids.first() == Some(&self.pid);
        // Stopped ones before all: nobody is to see them on their way back into their stop.
        let rests = |tids: &&Vec<i32>| tids.first().is_some_and(|pid| self.resting.contains(pid));
        let others = || self.tasks.iter().filter(|tids| !first(tids));
        for tids in others().filter(rests) {
            let_go(tids)?;
            stop::await_rest(tids);
        }
        others().filter(|tids| !rests(tids)).try_for_each(let_go)?;
        self.tasks.iter().filter(first).try_for_each(let_go)?;
        self.released = true;
        Ok(())
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        if !self.released {
            kill_all(&self.tasks.iter().filter_map(|t| t.first().copied()).collect::<Vec<_>>());
        }
    }
}

/// Remembers how a fill ended.
#[derive(Debug, Default)]
struct Outcome(Option<FillError>);

impl Watcher for Outcome {
    fn tell(&mut self, what: Filling) {
        if let Filling::Failed(error) = what {
            self.0 = Some(error);
        }
    }

    fn is_over(&mut self) -> bool {
        true
    }
}

/// How long killed processes may take to end.
const LAST: Duration = Duration::from_secs(10);

/// Kills processes that the caller traces and waits for their ends, in whatever order they come: the
/// first process of a pid namespace ends after all others, and each of those, and each thread, only
/// once its tracer has taken note.
fn kill_all(pids: &[i32]) {
    for pid in pids {
        let _ = cryopod_sys::process::kill(*pid, libc::SIGKILL);
    }
    let mut left = pids.to_vec();
    let begin = Instant::now();
    while !left.is_empty() && begin.elapsed() < LAST {
        let before = left.len();
        left.retain(|pid| {
            for tid in tasks::threads(*pid).unwrap_or_default() {
                if tid != *pid {
                    let _ = wait::poll_for(tid);
                }
            }
            !matches!(
                wait::poll_for(*pid),
                Ok(Some(Status::Exited(_) | Status::Killed(_))) | Err(_)
            )
        });
        if left.len() == before {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What is shared by the restore of all tasks.
pub(crate) struct Context<'a> {
    pub(crate) images: &'a Images,
    pub(crate) options: &'a RestoreOptions,
    /// Root directory of the tree.
    pub(crate) root: OwnedFd,
    /// Files opened so far, by id.
    opened: HashMap<u32, OwnedFd>,
    /// Anonymous shared memory made so far, by its id.
    segments: HashMap<u32, OwnedFd>,
    /// Memfds made so far, by their inode id.
    memfds: HashMap<u64, OwnedFd>,
    /// Pipes made so far.
    pipes: pipes::Made,
    /// Unlinked files made so far, by their id.
    ghosts: HashMap<u32, ghosts::Ghost>,
    /// Descriptor tables that are complete, by their id.
    pub(crate) tables: std::collections::HashSet<u32>,
    /// Living tasks that are not complete yet.
    pub(crate) waiting: Vec<usize>,
    /// Named pipes held open meanwhile.
    fifos: fifos::Made,
    /// Host pid of each living task, by its pid inside.
    hosts: HashMap<i32, i32>,
    /// Files that announce themselves again.
    pub(crate) announced: std::collections::HashSet<u32>,
    /// Epoll instances that are filled already.
    pub(crate) filled: std::collections::HashSet<u32>,
    /// What serves memory that comes late.
    pub(crate) early: Option<Early>,
    /// Why memory does not come late.
    pub(crate) notes: Vec<String>,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("opened", &self.opened.len()).finish_non_exhaustive()
    }
}

impl<'a> Context<'a> {
    /// The open file with this id, opened at the first use.
    pub(crate) fn file(&mut self, id: u32) -> Result<std::os::fd::BorrowedFd<'_>, RestoreError> {
        if !self.opened.contains_key(&id) {
            let fd = self.open(id)?;
            self.opened.insert(id, fd);
        }
        self.opened
            .get(&id)
            .map(AsFd::as_fd)
            .ok_or_else(|| RestoreError::Missing { name: format!("file {id}") })
    }

    /// The file that an area maps, opened as the area says: stock criu has one entry for openings
    /// of a file that differ in their access only.
    pub(crate) fn mapped(&mut self, area: &msg::VmaEntry) -> Result<OwnedFd, RestoreError> {
        let images: &'a Images = self.images;
        let id = area.shmid as u32;
        let entry = images.files.get(&id);
        if let (Some(flags), Some(memfd)) = (area.fdflags, entry.and_then(|f| f.memfd.as_ref()))
            && flags != memfd.flags
        {
            let opening = msg::MemfdFileEntry { flags, pos: 0, ..*memfd };
            return memfd::restore(&opening, self.memfd(memfd.inode_id.into())?);
        }
        let reg = entry.and_then(|f| f.reg.as_ref());
        if let (Some(flags), Some(reg)) = (area.fdflags, reg)
            && flags != reg.flags
        {
            return self.regular(&msg::RegFileEntry { flags, pos: 0, ..reg.clone() });
        }
        self.file(id)?.try_clone_to_owned().map_err(|source| RestoreError::Kernel {
            pid: 0,
            what: "cannot keep a file that is mapped".into(),
            source,
        })
    }

    /// The anonymous segment with this id, made at the first use by a mapping in the given task.
    pub(crate) fn segment(
        &mut self,
        id: u32,
        host: i32,
        remote: &mut Remote,
    ) -> io::Result<std::os::fd::BorrowedFd<'_>> {
        let images: &'a Images = self.images;
        match self.segments.entry(id) {
            Entry::Occupied(found) => Ok(OwnedFd::as_fd(found.into_mut())),
            Entry::Vacant(slot) => {
                let size = images.sizes.get(&id).copied().unwrap_or(0);
                let content = images.segments.get(&id);
                let fd = segments::restore_anonymous(host, size, content, remote)?;
                Ok(OwnedFd::as_fd(slot.insert(fd)))
            }
        }
    }

    /// Makes the anonymous segment that an area maps, if it maps one that is not there yet, by a
    /// mapping in the given task. One with a descriptor is left to be a memfd.
    pub(crate) fn make_anonymous(
        &mut self,
        area: &msg::VmaEntry,
        host: i32,
        remote: &mut Remote,
    ) -> io::Result<()> {
        let images = self.images;
        let inode_of = |id: u32| {
            let memfd = images.files.get(&id).and_then(|file| file.memfd.as_ref());
            memfd.map(|memfd| u64::from(memfd.inode_id))
        };
        let Some(inode) = inode_of(area.shmid as u32) else { return Ok(()) };
        let Some(entry) = images.memfds.get(&inode) else { return Ok(()) };
        let open = || images.tables.values().flatten().any(|fd| inode_of(fd.id) == Some(inode));
        if entry.name != segments::ANONYMOUS || self.memfds.contains_key(&inode) || open() {
            return Ok(());
        }
        let content = images.segments.get(&entry.shmid);
        let made = segments::restore_anonymous(host, entry.size, content, remote)?;
        self.memfds.insert(inode, made);
        Ok(())
    }

    fn memfd(&mut self, inode: u64) -> Result<std::os::fd::BorrowedFd<'_>, RestoreError> {
        let images: &'a Images = self.images;
        match self.memfds.entry(inode) {
            Entry::Occupied(found) => Ok(OwnedFd::as_fd(found.into_mut())),
            Entry::Vacant(slot) => {
                let entry = images.memfds.get(&inode).ok_or_else(|| RestoreError::Image {
                    name: "memfd.img".into(),
                    what: format!("there is no memfd with id {inode}"),
                })?;
                let content = images.segments.get(&entry.shmid);
                Ok(OwnedFd::as_fd(slot.insert(segments::restore_memfd(entry, content)?)))
            }
        }
    }

    /// What had to wait until all mappings and descriptors are made.
    fn seal(&self) -> Result<(), RestoreError> {
        for (id, fd) in &self.memfds {
            if let Some(entry) = self.images.memfds.get(id) {
                segments::seal(entry, fd.as_fd())?;
            }
        }
        Ok(())
    }

    /// Makes the watches of inotify instances, now that nothing is opened any more.
    fn watch(&self) -> Result<(), RestoreError> {
        for (id, fd) in &self.opened {
            if let Some(instance) = self.images.files.get(id).and_then(|f| f.ify.as_ref()) {
                inotify::watch(instance, fd.as_fd(), self.root.as_fd())?;
            }
        }
        Ok(())
    }

    /// Opens a file that is known by path, or that has lost its path.
    fn regular(&mut self, reg: &msg::RegFileEntry) -> Result<OwnedFd, RestoreError> {
        let images: &'a Images = self.images;
        let root = self.root.as_fd();
        let Some(remap) = images.remaps.get(&reg.id) else {
            return regular::restore(reg, root);
        };
        if let Some(content) = images.ghosts.get(&remap.remap_id) {
            let ghost = match self.ghosts.entry(remap.remap_id) {
                Entry::Occupied(found) => found.into_mut(),
                Entry::Vacant(slot) => slot.insert(ghosts::restore(reg, content, root)?),
            };
            return regular::restore_ghost(reg, ghost);
        }
        match remap.remap_type() {
            msg::RemapType::Linked => {
                let name = images.path(remap.remap_id)?.name.clone();
                regular::restore(&msg::RegFileEntry { name, ..reg.clone() }, root)
            }
            _ => Err(RestoreError::Refused {
                pid: 0,
                what: format!(
                    "file {} belonged to a process that had ended",
                    String::from_utf8_lossy(&reg.name)
                ),
                way_out: "close it before the checkpoint",
            }),
        }
    }

    /// Takes away the names that were given to files for the time between dump and restore.
    fn unlink(&self) {
        let linked = |r: &&msg::RemapFilePathEntry| {
            r.remap_type.is_some() && r.remap_type() == msg::RemapType::Linked
        };
        for remap in self.images.remaps.values().filter(linked) {
            if let Ok(reg) = self.images.path(remap.remap_id) {
                ghosts::forget(self.root.as_fd(), reg);
            }
        }
    }

    fn open_fifo(&mut self, fifo: &msg::FifoEntry) -> Result<OwnedFd, RestoreError> {
        let images: &'a Images = self.images;
        let reg = images.path(fifo.regf_id.unwrap_or(0))?;
        let by_path = msg::RegFileEntry { flags: libc::O_PATH as u32, pos: 0, ..reg.clone() };
        let path = self.regular(&by_path)?;
        let writes = |other: &msg::FifoEntry| {
            other.pipe_id == fifo.pipe_id
                && images.path(other.regf_id.unwrap_or(0)).is_ok_and(|r| r.flags & 3 != 0)
        };
        let written = images.files.values().filter_map(|f| f.fifo.as_ref()).any(writes);
        fifos::restore(fifo, reg.flags, path, written, &mut self.fifos, &images.fifos)
    }

    /// Puts back the datagrams that waited, now that all sockets have their addresses.
    fn send(&mut self) -> Result<(), RestoreError> {
        let images: &'a Images = self.images;
        let udp = |entry: &&msg::InetSkEntry| entry.proto == libc::IPPROTO_UDP as u32;
        let mut sockets: Vec<_> =
            images.files.values().filter_map(|f| f.isk.as_ref()).filter(udp).collect();
        sockets.sort_unstable_by_key(|entry| entry.id);
        for entry in sockets {
            let packets = images.queues.of(entry.id);
            if !packets.is_empty() {
                datagrams::restore(entry, self.file(entry.id)?, packets)?;
            }
        }
        Ok(())
    }

    /// Sets who gets the signals of files, now that everybody is there.
    fn own(&self, tasks: &[Vec<i32>]) -> Result<(), RestoreError> {
        let mut hosts = HashMap::new();
        let mut groups = HashMap::new();
        let living = self.images.tasks.iter().filter(|t| t.body.is_some());
        for seedling in tasks {
            let Some(pid) = seedling.first() else { continue };
            let inside = living.clone().find(|t| self.hosts.get(&t.pid()) == Some(pid));
            let Some(image) = inside else { continue };
            hosts.extend(image.cores.iter().map(|c| c.0).zip(seedling.iter().copied()));
            groups.insert(image.tree.pgid as i32, *pid);
        }
        for (id, fd) in &self.opened {
            let Some(owner) = self.images.files.get(id).and_then(owners::of) else { continue };
            let inside = owner.pid as i32;
            let host = match owner.pid_type {
                2 => groups.get(&inside).and_then(|member| {
                    let member = rustix::process::Pid::from_raw(*member);
                    rustix::process::getpgid(member).ok().map(|p| p.as_raw_nonzero().get())
                }),
                _ => hosts.get(&inside).copied(),
            };
            owners::restore(fd.as_fd(), &owner, host.unwrap_or(0)).map_err(|source| {
                RestoreError::Kernel {
                    pid: inside,
                    what: "cannot be made the owner of a file again".into(),
                    source,
                }
            })?;
        }
        Ok(())
    }

    fn open(&mut self, id: u32) -> Result<OwnedFd, RestoreError> {
        let images: &'a Images = self.images;
        let entry = images.files.get(&id).ok_or_else(|| RestoreError::Image {
            name: "files.img".into(),
            what: format!("there is no file with id {id}"),
        })?;
        if let Some(reg) = &entry.reg {
            return self.regular(reg);
        }
        if let Some(pipe) = &entry.pipe {
            let inherit = &self.options.inherit;
            return pipes::restore(pipe, &mut self.pipes, &self.images.pipes, inherit);
        }
        if let Some(fifo) = &entry.fifo {
            return self.open_fifo(fifo);
        }
        if let Some(socket) = &entry.nlsk {
            return netlink::restore(socket);
        }
        if let Some(socket) = &entry.isk {
            return inet::restore(socket);
        }
        if let Some(eventfd) = &entry.efd {
            return events::restore_eventfd(eventfd);
        }
        if let Some(signalfd) = &entry.sgfd {
            return events::restore_signalfd(signalfd);
        }
        if let Some(instance) = &entry.ify {
            return inotify::restore(instance);
        }
        if let Some(timerfd) = &entry.tfd {
            return events::restore_timerfd(timerfd);
        }
        if let Some(memfd) = &entry.memfd {
            return memfd::restore(memfd, self.memfd(memfd.inode_id.into())?);
        }
        if entry.epfd.is_some() {
            return events::restore_epoll();
        }
        Err(RestoreError::Refused {
            pid: 0,
            what: format!("file {id} is of kind {:?}", entry.r#type()),
            way_out: "this kind of open file is not carried yet",
        })
    }
}

/// Builds the archived tree, stopped. The caller ends up in the tree's network namespace.
///
/// # Errors
/// See [`RestoreError`]; everything made is gone again.
pub fn restore(
    options: RestoreOptions,
    images: &dyn ImageSource,
) -> Result<Restored, RestoreError> {
    let images = Images::load(images)?;
    let mut forest = tree::Forest::new(&images);
    let result = build(&options, &images, &mut forest);
    match result {
        Ok(restored) => Ok(restored),
        Err(e) => {
            forest.kill();
            Err(e)
        }
    }
}

/// Moves the engine into the network namespace of the tree, where sockets are to be made.
fn enter_network(pid: i32) -> Result<(), RestoreError> {
    let kernel = |source: io::Error| RestoreError::Kernel {
        pid: 0,
        what: "cannot enter the tree's network namespace".into(),
        source,
    };
    let theirs = format!("/proc/{pid}/ns/net");
    let link = |path: &str| std::fs::read_link(path).map_err(kernel);
    if link(&theirs)? == link("/proc/self/ns/net")? {
        return Ok(());
    }
    let ns = std::fs::File::open(theirs).map_err(kernel)?;
    let kind = rustix::thread::LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(ns.as_fd(), Some(kind)).map_err(|e| kernel(e.into()))
}

/// The root directory of the tree that is to be made.
fn open_root(root: RestoreRoot) -> Result<OwnedFd, RestoreError> {
    let path = match root {
        RestoreRoot::Stopped(pid) => format!("/proc/{pid}/root"),
        RestoreRoot::Spawn => "/proc/self/root".to_owned(),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|e| RestoreError::Kernel {
        pid: 0,
        what: "cannot open the root directory of the tree".into(),
        source: io::Error::from(e),
    })
}

/// Compares the files that the tree had mapped or open with what there is now, before anything is
/// made.
fn compare_files(images: &Images, root: std::os::fd::BorrowedFd<'_>) -> Result<(), RestoreError> {
    let mut regs: Vec<&msg::RegFileEntry> = images
        .files
        .values()
        .filter_map(|file| file.reg.as_ref())
        .filter(|reg| marks::are_in(reg) && !images.remaps.contains_key(&reg.id))
        .collect();
    regs.sort_unstable_by_key(|reg| reg.id);
    regs.into_iter().try_for_each(|reg| regular::compare(reg, root))
}

fn build(
    options: &RestoreOptions,
    images: &Images,
    forest: &mut tree::Forest<'_>,
) -> Result<Restored, RestoreError> {
    let root = open_root(options.root)?;
    compare_files(images, root.as_fd())?;
    forest.plant(options.root)?;
    let pid = forest.root_pid()?;
    enter_network(pid)?;
    let mut context = Context {
        images,
        options,
        root,
        opened: HashMap::new(),
        segments: HashMap::new(),
        memfds: HashMap::new(),
        pipes: pipes::Made::default(),
        ghosts: HashMap::new(),
        tables: std::collections::HashSet::new(),
        waiting: (0..images.tasks.len()).filter(|i| images.tasks[*i].body.is_some()).collect(),
        fifos: fifos::Made::default(),
        hosts: HashMap::new(),
        announced: std::collections::HashSet::new(),
        filled: std::collections::HashSet::new(),
        early: None,
        notes: Vec::new(),
    };
    let mut tasks = Vec::new();
    let (mut stopped, mut resting) = (Vec::new(), Vec::new());
    let mut seedlings = forest.take_living();
    sockets::make(&mut context, &mut seedlings)?;
    for seedling in seedlings {
        let image = &images.tasks[seedling.index];
        let host = seedling.pid;
        context.waiting.retain(|index| *index != seedling.index);
        context.hosts.insert(image.pid(), host);
        let threads = process::rebuild(&mut context, image, seedling)?;
        if image.process()?.task_state == load::STOPPED {
            let signal = image.process()?.stop_signo.unwrap_or(libc::SIGSTOP as u32);
            if stop::is_plain(signal as i32) {
                resting.push(host);
            } else {
                stopped.push((host, signal as i32));
            }
        }
        tasks.push(threads);
    }
    context.seal()?;
    context.unlink();
    context.send()?;
    context.watch()?;
    context.own(&tasks)?;
    let (early, notes) = (context.early.take(), std::mem::take(&mut context.notes));
    Ok(Restored { pid, tasks, stopped, resting, released: false, early, notes })
}
