//! Memory copied while the program runs: what is written meanwhile is tracked, and copied again.
//!
//! Each process of the tree makes a userfaultfd in a first, short stop; from then on the engine works
//! with its own copy of the descriptor (userfaultfd(2), asynchronous write protection of Linux 6.7).
//! All private areas are registered; PAGEMAP_SCAN protects their pages and tells which were written
//! since. The first copy of every page goes straight to the image of pages. What was written since goes
//! to memory ([`Staging`]), round by round, the rest in the freeze. When the program runs again, the
//! image is changed where it has to be ([`layout`]): it becomes what it would be had all been copied in
//! the freeze. (A second image set on top of the first, as CRIU's incremental images are, is not read
//! by go-criu, and with it checkpointctl.)
//!
//! In the freeze each area is asked whether it is still registered as a whole. One that is not, since
//! it is new, or was moved by mremap(2), or belongs to a process that was forked meanwhile, is copied
//! whole. Pages that are gone are left out by the same scan.
//!
//! Not for processes with files open for direct I/O: a device may write into their pages without the
//! processor noticing.

mod batch;
mod changes;
mod descriptor;
mod layout;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cryopod_images::pages::{PE_PRESENT, Pagemap};
use cryopod_images::{Image, msg, vma};
use cryopod_sys::pagemap::{self, Region};
use cryopod_sys::ptrace::Registers;
use cryopod_sys::sched::Urgent;
use cryopod_sys::{process, userfaultfd};

use crate::areas::PAGE;
use crate::error::DumpError;
use crate::inject::interrupted;
use crate::memory;
use crate::proc::maps::Area;
use crate::proc::{fdinfo, stat, vmflags};
use crate::seize::Tree;
use crate::spans::Spans;
use crate::staging::Staging;
use crate::store::{Edit, ImageSink};
use crate::waits::{ERESTART_RESTARTBLOCK, Waits};
use batch::{Batch, read_what_is_there};
use changes::Changes;
use layout::{Copy, Frozen, Layout};

/// Bytes of pages that are let go in one call: faults wait for it.
const PART: u64 = 4 << 20;
/// Bytes copied in one call.
const CHUNK: usize = 1 << 20;
/// Rounds after the first copy, at most.
const ROUNDS: u32 = 5;
/// Pages that are not worth another round: copying them takes less than finding them.
const FEW: u64 = 512;
/// Room in memory made ready for the freeze, at least, in bytes.
const ROOM: usize = 8 << 20;

const WP_MATCHING: u64 = 1 << 0;
const CHECK_WPASYNC: u64 = 1 << 1;

/// One process whose writes are tracked.
#[derive(Debug)]
struct Tracked {
    start_time: u64,
    /// `None` when it is let go.
    uffd: Option<OwnedFd>,
    /// Registered areas.
    areas: Vec<Area>,
    /// What was copied first, and into which image of pages.
    base: Pagemap,
    /// Copies in the staging memory, in the order they were made.
    staged: Vec<Copy>,
}

/// All tracked processes, by pid.
#[derive(Debug, Default)]
pub struct Tracking {
    tasks: HashMap<i32, Tracked>,
    frozen: Vec<(i32, u64, Frozen)>,
    /// What the freeze found, until the pages are copied.
    changes: HashMap<i32, Changes>,
    staging: Staging,
    /// Images of pages written so far, by their numbers, and their sizes in bytes.
    images: BTreeMap<u32, u64>,
    /// Why a process is not tracked, each reason once.
    reasons: Vec<String>,
    /// Pages of the last round.
    last_round: u64,
    /// Threads that the first stop found in a relative wait: the call, and its restart block.
    waiting: HashMap<i32, (u64, Vec<u8>)>,
}

/// What the tracked processes came to, in pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Finished {
    /// In their images.
    pub written: u64,
    /// Of these, copied before the freeze.
    pub before: u64,
}

/// Whether a process has a file open for direct I/O.
fn has_direct_files(pid: i32) -> bool {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return true };
    entries.flatten().any(|entry| {
        let fd = entry.file_name().to_string_lossy().parse();
        let flags = fd.ok().and_then(|fd| fdinfo::of(pid, fd).ok()).map(|info| info.flags);
        flags.is_some_and(|flags| flags & libc::O_DIRECT as u32 != 0)
    })
}

fn is_private(area: &Area) -> bool {
    let kernels = ["[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]"];
    let refused = [b"ht", b"io", b"pf", b"um", b"uw", b"ui"];
    !area.shared
        && area.special().is_none_or(|name| !kernels.contains(&name))
        && !refused.iter().any(|flag| area.has(flag))
}

/// The status bits that decide which pages of a private area are stored.
fn status(area: &Area) -> u32 {
    if area.inode == 0 { vma::ANON_PRIVATE } else { vma::FILE_PRIVATE }
}

impl Tracking {
    /// Begins to track a tree, which is stopped for it and runs on: gives what was begun and how long
    /// the tree stood still. `urgent` ends with the stop.
    ///
    /// # Errors
    /// Those of stopping the tree. A process that cannot be tracked is none.
    pub fn begin(tree: Tree, urgent: Urgent) -> (Self, std::time::Duration) {
        let mut this = Self::default();
        let mut tree = tree;
        let tasks = tree.tasks.clone();
        let mut made = Vec::new();
        for (at, task) in tasks.iter().enumerate().filter(|(_, t)| !t.zombie) {
            if has_direct_files(task.pid) {
                this.reason("files open for direct I/O".into());
                continue;
            }
            match descriptor::make(task, &mut tree.held) {
                Ok(uffd) => made.push((at as u32 + 1, task.pid, uffd)),
                Err(error) => this.reason(format!("no userfaultfd: {error}")),
            }
        }
        // While it stands still: an area that grew meanwhile would be registered in part, and be two
        // areas then, which mremap(2) does not take.
        for (pages_id, pid, uffd) in made {
            match Tracked::register(pid, pages_id, uffd) {
                Ok(tracked) => drop(this.tasks.insert(pid, tracked)),
                Err(error) => this.reason(format!("its memory cannot be tracked: {error}")),
            }
        }
        // A call that the stop has ended for good, such as epoll_wait(2), is to be made again.
        for thread in tasks.iter().flat_map(|task| &task.threads) {
            if let Ok(found) = cryopod_sys::ptrace::registers(thread.tid) {
                this.remember(thread.tid, &found);
                let mut regs = found;
                interrupted::undisturb(&mut regs);
                if regs.rax != found.rax {
                    // A thread that was killed meanwhile does not mind.
                    let _ = cryopod_sys::ptrace::set_registers(thread.tid, &regs);
                }
            }
        }
        let stood = tree.thaw();
        drop(urgent);
        (this, stood)
    }

    fn reason(&mut self, why: String) {
        if !self.reasons.contains(&why) {
            self.reasons.push(why);
        }
    }

    /// Remembers which wait a thread is in: from here on the kernel calls it restart_syscall(2).
    fn remember(&mut self, tid: i32, regs: &Registers) {
        let waits = regs.rax as i64 == ERESTART_RESTARTBLOCK
            && regs.orig_rax as i64 != libc::SYS_restart_syscall;
        if waits && let Some(block) = Waits::prepared().and_then(|waits| waits.block(tid)) {
            self.waiting.insert(tid, (regs.orig_rax, block));
        }
    }

    /// The registers of a stopped thread with the call it is in, should it still be the wait that the
    /// first stop found it in.
    #[must_use]
    pub fn as_called(&self, tid: i32, regs: &Registers) -> Registers {
        let mut regs = *regs;
        if regs.orig_rax as i64 == libc::SYS_restart_syscall
            && let Some((call, block)) = self.waiting.get(&tid)
            && Waits::prepared().and_then(|waits| waits.block(tid)).as_ref() == Some(block)
        {
            regs.orig_rax = *call;
        }
        regs
    }

    /// Why processes are not tracked.
    #[must_use]
    pub fn reasons(&self) -> &[String] {
        &self.reasons
    }

    /// Whether a process is tracked.
    #[must_use]
    pub fn has(&self, pid: i32) -> bool {
        self.tasks.contains_key(&pid)
    }

    /// Copies all memory into the base, then what is written meanwhile, until little is left.
    ///
    /// # Errors
    /// [`DumpError::Sink`]. A process that ends, or whose memory cannot be read, is not tracked any
    /// more.
    pub fn copy(
        &mut self,
        sink: &mut dyn ImageSink,
        check: &dyn Fn() -> Result<(), DumpError>,
    ) -> Result<(), DumpError> {
        let mut pids: Vec<i32> = self.tasks.keys().copied().collect();
        pids.sort_unstable_by_key(|pid| self.tasks[pid].base.pages_id);
        for pid in &pids {
            check()?;
            let Some(tracked) = self.tasks.get_mut(pid) else { continue };
            let id = tracked.base.pages_id;
            let name = Image::Pages.file_name(id.into());
            let failed = |source| DumpError::Sink { name: name.clone(), source };
            sink.begin_pages(&name).map_err(failed)?;
            let written = self.images.entry(id).or_default();
            let copied = tracked.copy_base(*pid, sink, written, check);
            sink.end_pages().map_err(failed)?;
            match copied {
                Ok(()) => {}
                Err(Trouble::Target(error)) => {
                    self.tasks.remove(pid);
                    self.reason(format!("its memory cannot be copied while it runs: {error}"));
                }
                Err(Trouble::Sink(source)) => return Err(failed(source)),
                Err(Trouble::Stop(error)) => return Err(error),
            }
        }
        let mut before = u64::MAX;
        for _ in 0..ROUNDS {
            check()?;
            let mut pages = 0;
            for pid in &pids {
                let Some(tracked) = self.tasks.get_mut(pid) else { continue };
                match tracked.copy_round(*pid, &mut self.staging) {
                    Ok(copied) => pages += copied,
                    Err(error) => {
                        self.tasks.remove(pid);
                        self.reason(format!("its memory cannot be copied: {error}"));
                    }
                }
            }
            self.last_round = pages;
            // No progress: it is written to faster than it is copied.
            if pages <= FEW || pages > before / 2 {
                break;
            }
            before = pages;
        }
        Ok(())
    }

    /// Makes memory ready for what will be copied in the freeze.
    pub fn make_room(&mut self) {
        let expected = usize::try_from(self.last_round * PAGE * 2).unwrap_or(0);
        self.staging.reserve(expected.max(ROOM));
    }

    /// Looks for what became of the memory of a stopped process, given its areas, and whether it has
    /// files open for direct I/O: the guard regions in it, or `None` when it is not tracked and must be looked at, and copied, otherwise.
    ///
    /// # Errors
    /// Those of PAGEMAP_SCAN.
    pub fn look(
        &mut self,
        pid: i32,
        vmas: &[msg::VmaEntry],
        direct: bool,
    ) -> io::Result<Option<Vec<msg::VmaEntry>>> {
        let Some(tracked) = self.tasks.get(&pid) else { return Ok(None) };
        if stat::of(pid, pid).map_or(true, |s| s.start_time != tracked.start_time) {
            self.tasks.remove(&pid);
            return Ok(None);
        }
        if direct {
            self.tasks.remove(&pid);
            self.reason("files open for direct I/O".into());
            return Ok(None);
        }
        let mut changes = Changes::find(&process::open_proc(pid, "pagemap")?, vmas)?;
        let guards = std::mem::take(&mut changes.guards);
        self.changes.insert(pid, changes);
        Ok(Some(guards))
    }

    /// The number of the next image of pages that is free.
    #[must_use]
    pub fn next_image(&self) -> u32 {
        self.images.last_key_value().map_or(1, |(id, _)| id + 1)
    }

    /// Copies what [`Self::look`] found; false when it was not tracked and must be copied otherwise.
    /// `id` is its pid inside.
    ///
    /// # Errors
    /// Those of reading its memory.
    pub fn freeze(&mut self, pid: i32, id: u64) -> io::Result<bool> {
        let Some(changes) = self.changes.remove(&pid) else { return Ok(false) };
        let Some(tracked) = self.tasks.get_mut(&pid) else { return Ok(false) };
        let frozen = tracked.freeze(pid, changes, &mut self.staging)?;
        self.frozen.push((pid, id, frozen));
        Ok(true)
    }

    /// Ends all tracking and makes the images those of the freeze. Called when the tree runs again.
    ///
    /// # Errors
    /// The sink's.
    pub fn finish(mut self, sink: &mut dyn ImageSink) -> Result<Finished, DumpError> {
        self.tasks.values_mut().for_each(Tracked::let_go);
        let mut finished = Finished::default();
        // The last first: those before it do not move.
        let mut frozen = std::mem::take(&mut self.frozen);
        frozen.sort_by_key(|(pid, ..)| self.tasks.get(pid).map(|tracked| tracked.base.pages_id));
        for (pid, id, frozen) in frozen.into_iter().rev() {
            let Some(tracked) = self.tasks.get(&pid) else { continue };
            let name = Image::Pages.file_name(tracked.base.pages_id.into());
            let failed = |source| DumpError::Sink { name: name.clone(), source };
            let layout = Layout::new(&tracked.base, &tracked.staged, &frozen).map_err(failed)?;
            let staging = &self.staging;
            let mut fill =
                |number: usize, done: u64, out: &mut [u8]| layout.fill(staging, number, done, out);
            sink.revise_pages(&name, &layout.edits, &mut fill).map_err(failed)?;
            self.images.remove(&tracked.base.pages_id);
            let name = Image::Pagemap.file_name(id);
            let bytes = layout.map.write().map_err(io::Error::other);
            bytes
                .and_then(|bytes| sink.put(&name, &bytes))
                .map_err(|source| DumpError::Sink { name, source })?;
            let pages = layout.map.pages_len() / PAGE;
            finished.written += pages;
            finished.before += pages - frozen.last.len() / PAGE;
        }
        // Of processes that have ended meanwhile, or could not be tracked to the end.
        for (id, len) in std::mem::take(&mut self.images).into_iter().filter(|(_, len)| *len > 0) {
            let name = Image::Pages.file_name(id.into());
            let all = [Edit { at: 0, removed: len, added: 0 }];
            sink.revise_pages(&name, &all, &mut |_, _, _| Ok(()))
                .map_err(|source| DumpError::Sink { name, source })?;
        }
        Ok(finished)
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Why a first copy failed.
enum Trouble {
    Target(io::Error),
    Sink(io::Error),
    Stop(DumpError),
}

impl Tracked {
    fn register(pid: i32, pages_id: u32, uffd: OwnedFd) -> io::Result<Self> {
        userfaultfd::agree(uffd.as_fd())?;
        let start_time = stat::of(pid, pid).map_err(io::Error::other)?.start_time;
        let mut this = Self {
            start_time,
            uffd: None,
            areas: Vec::new(),
            base: Pagemap::new(pages_id),
            staged: Vec::new(),
        };
        let areas = vmflags::areas(pid).map_err(io::Error::other)?;
        // Neighbours in one call, whatever lies between them.
        for group in areas.chunk_by(|a, b| is_private(a) == is_private(b)) {
            let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
            if !is_private(first) {
                continue;
            }
            if userfaultfd::register(uffd.as_fd(), first.start, last.end).is_ok() {
                this.areas.extend(group.iter().cloned());
                continue;
            }
            // One that cannot be registered is copied in the freeze.
            let own =
                |area: &&Area| userfaultfd::register(uffd.as_fd(), area.start, area.end).is_ok();
            this.areas.extend(group.iter().filter(own).cloned());
        }
        this.uffd = Some(uffd);
        Ok(this)
    }

    /// Ends the tracking: the protection goes in small parts, then the registration at once, so that no
    /// area is ever registered in part.
    fn let_go(&mut self) {
        if let Some(uffd) = self.uffd.take() {
            for (start, end) in self.parts() {
                // What is gone meanwhile is not there to be let go.
                let _ = userfaultfd::unprotect(uffd.as_fd(), start, end);
            }
        }
    }

    /// The registered areas, cut where they hold many pages.
    fn parts(&self) -> Vec<(u64, u64)> {
        let mut parts = Vec::new();
        for area in &self.areas {
            let (mut start, mut held) = (area.start, 0);
            let after = self.base.runs().partition_point(|run| run.end() <= area.start);
            for run in self.base.runs()[after..].iter().take_while(|run| run.vaddr < area.end) {
                let mut at = run.vaddr.max(area.start);
                let end = run.end().min(area.end);
                while held + (end - at) >= PART {
                    at += PART - held;
                    parts.push((start, at));
                    (start, held) = (at, 0);
                }
                held += end - at;
            }
            if held > 0 {
                parts.push((start, area.end));
            }
        }
        parts
    }

    /// Runs of pages of the registered areas that are to be copied, which are protected from now on:
    /// all, or those written since. An area that is gone has none.
    fn protect(&self, pid: i32, written_only: bool) -> io::Result<Vec<Region>> {
        let pagemap = process::open_proc(pid, "pagemap")?;
        let mut runs: Vec<Region> = Vec::new();
        for area in &self.areas {
            let mut query = memory::query(status(area));
            // Without CHECK_WPASYNC: parts that are not registered any more are passed over. With it the
            // call would fail there, and what it had protected before would count as not written.
            query.flags = WP_MATCHING;
            if written_only {
                query.mask |= pagemap::WRITTEN;
            }
            memory::scan_range(&pagemap, (area.start, area.end), query, &mut runs)?;
        }
        Ok(runs)
    }

    fn copy_base(
        &mut self,
        pid: i32,
        sink: &mut dyn ImageSink,
        written: &mut u64,
        check: &dyn Fn() -> Result<(), DumpError>,
    ) -> Result<(), Trouble> {
        let runs = self.protect(pid, false).map_err(Trouble::Target)?;
        let runs = Spans::of(runs.iter().map(|run| (run.start, run.end)).collect());
        let mem = process::open_proc(pid, "mem").map_err(Trouble::Target)?;
        let mut buf = vec![0u8; CHUNK];
        let mut batch = Batch::default();
        for &(start, end) in runs.ranges() {
            let pages = (end - start) / PAGE;
            let pushed = self.base.push(start, pages, PE_PRESENT);
            pushed.map_err(|e| Trouble::Target(io::Error::other(e)))?;
            let mut at = start;
            while at < end {
                at += batch.add(at, end, CHUNK);
                if batch.is_full(CHUNK) {
                    check().map_err(Trouble::Stop)?;
                    let bytes = batch.read(pid, &mem, &mut buf);
                    sink.write_pages(bytes).map_err(Trouble::Sink)?;
                    *written += bytes.len() as u64;
                }
            }
        }
        let bytes = batch.read(pid, &mem, &mut buf);
        sink.write_pages(bytes).map_err(Trouble::Sink)?;
        *written += bytes.len() as u64;
        Ok(())
    }

    fn copy_round(&mut self, pid: i32, staging: &mut Staging) -> io::Result<u64> {
        let runs = self.protect(pid, true)?;
        let mem = process::open_proc(pid, "mem")?;
        let pages = runs.iter().map(|run| (run.end - run.start) / PAGE).sum::<u64>();
        staging.reserve(usize::try_from(pages * PAGE).unwrap_or(0));
        self.stage(pid, &mem, &runs, staging, false)?;
        Ok(pages)
    }

    /// Copies runs into the staging memory. While the process runs a page may go meanwhile: it has
    /// been written then, or its area is gone, and its copy will not count.
    fn stage(
        &mut self,
        pid: i32,
        mem: &File,
        runs: &[Region],
        staging: &mut Staging,
        stopped: bool,
    ) -> io::Result<()> {
        for run in runs {
            let mut at = run.start;
            while at < run.end {
                let place = staging.len();
                let room = staging.next((run.end - at) as usize);
                let len = room.len();
                if let Err(error) = memory::read(pid, mem, &[(at, len)], room) {
                    if stopped {
                        return Err(error);
                    }
                    read_what_is_there(mem, at, room);
                }
                self.staged.push((at, len as u64, place));
                at += len as u64;
            }
        }
        Ok(())
    }

    /// Copies what was written since the last round.
    fn freeze(&mut self, pid: i32, changes: Changes, staging: &mut Staging) -> io::Result<Frozen> {
        let mem = process::open_proc(pid, "mem")?;
        self.stage(pid, &mem, &changes.last, staging, true)?;
        Ok(Frozen {
            valid: Spans::of(changes.valid),
            gone: Spans::of(changes.gone),
            last: Spans::of(changes.last.iter().map(|run| (run.start, run.end)).collect()),
        })
    }
}
