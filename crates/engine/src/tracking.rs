//! Memory copied while the program runs: what is written meanwhile is tracked, and copied again.
//!
//! Each process of the tree makes a userfaultfd in a first, short stop; from then on the engine works
//! with its own copy of the descriptor (userfaultfd(2), asynchronous write protection of Linux 6.7).
//! All private areas are registered; PAGEMAP_SCAN protects their pages and tells which were written
//! since. The first copy of every page is the *base*: an image set of its own, which the last one
//! refers to as its parent, as CRIU's incremental images do. What was written since goes to memory
//! ([`Staging`]), round by round, the rest in the freeze.
//!
//! In the freeze each area is asked whether it is still registered as a whole. One that is not, since
//! it is new, or was moved by mremap(2), or belongs to a process that was forked meanwhile, is copied
//! whole. Pages that are gone are left out by the same scan.
//!
//! Not for processes with files open for direct I/O: a device may write into their pages without the
//! processor noticing.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cryopod_images::pages::{PE_PARENT, PE_PRESENT, Pagemap};
use cryopod_images::{Image, msg, vma};
use cryopod_sys::pagemap::{self, Query, Region};
use cryopod_sys::ptrace::Registers;
use cryopod_sys::{process, userfaultfd};

use crate::areas::PAGE;
use crate::error::DumpError;
use crate::inject::guard::Guard;
use crate::inject::site::Site;
use crate::inject::{Remote, Space, finish_return, interrupted};
use crate::memory;
use crate::proc::maps::{self, Area};
use crate::proc::{fdinfo, stat, vmflags};
use crate::seize::{Task, Tree};
use crate::spans::Spans;
use crate::staging::Staging;
use crate::store::ImageSink;
use crate::waits::{ERESTART_RESTARTBLOCK, Waits};

/// Folder of the base within the images: stock criu looks for the parent of an image set there.
pub const PARENT: &str = "parent";

/// Bytes of pages that are let go in one call: it holds the lock of the address space.
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
    uffd: OwnedFd,
    /// Registered areas.
    areas: Vec<Area>,
    pages_id: u32,
    base: Pagemap,
    /// Copies in the staging memory, in the order they were made: address, bytes, place.
    staged: Vec<(u64, u64, usize)>,
}

/// What the freeze found out about one tracked process.
#[derive(Debug)]
struct Frozen {
    /// Areas that were tracked all the time.
    valid: Spans,
    /// Pages in them that are not stored, or are no longer what was copied.
    gone: Spans,
    /// Pages whose copy made in the freeze counts.
    last: Spans,
}

/// All tracked processes, by pid.
#[derive(Debug, Default)]
pub struct Tracking {
    tasks: HashMap<i32, Tracked>,
    frozen: Vec<(i32, u64, Frozen)>,
    staging: Staging,
    /// Why a process is not tracked, each reason once.
    reasons: Vec<String>,
    /// Pages of the last round.
    last_round: u64,
    /// Threads that the first stop found in a relative wait: the call, and its restart block.
    waiting: HashMap<i32, (u64, Vec<u8>)>,
}

/// What a tracked process came to, in pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Finished {
    /// In the last image set.
    pub written: u64,
    /// In the base.
    pub base: u64,
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

/// Has a stopped process make a userfaultfd, and takes it out of it.
fn make(task: &Task, held: &mut Vec<(i32, i32, i32)>) -> io::Result<OwnedFd> {
    let pid = task.pid;
    let areas = maps::of(pid).map_err(io::Error::other)?;
    let space = Space::open(pid, &areas)?;
    let mut pointers = Vec::with_capacity(task.threads.len());
    for thread in &task.threads {
        finish_return(&space, thread.tid)?;
        pointers.push(cryopod_sys::ptrace::registers(thread.tid)?.rsp);
    }
    let guard = Guard::read(pid, pid)?;
    if !guard.permits(libc::SYS_rt_sigreturn, &[0; 6]) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "a seccomp filter kills"));
    }
    let xstate = cryopod_sys::ptrace::xstate(pid)?.len();
    let site = Site::take(&space, &areas, &pointers, xstate)?;
    let made = space.prepare_closing().and_then(|()| {
        let mut remote = Remote::enter(&space, pid, site.first, guard)?;
        let flags = libc::O_CLOEXEC as u64 | userfaultfd::USER_MODE_ONLY;
        let pidfd = process::pidfd_open(pid)?;
        let made = remote.call_closing(libc::SYS_userfaultfd, [flags, 0, 0, 0, 0, 0], |fd| {
            process::pidfd_getfd(pidfd.as_fd(), fd)
        });
        held.extend(remote.take_held().into_iter().map(|s| (pid, pid, s)));
        remote.leave()?;
        made
    });
    site.give_back(&space)?;
    space.close()?;
    made
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
    /// the tree stood still.
    ///
    /// # Errors
    /// Those of stopping the tree. A process that cannot be tracked is none.
    pub fn begin(tree: Tree) -> (Self, std::time::Duration) {
        let mut this = Self::default();
        let mut tree = tree;
        let tasks = tree.tasks.clone();
        let mut made = Vec::new();
        for (at, task) in tasks.iter().enumerate().filter(|(_, t)| !t.zombie) {
            if has_direct_files(task.pid) {
                this.reason("files open for direct I/O".into());
                continue;
            }
            match make(task, &mut tree.held) {
                Ok(uffd) => made.push((at as u32 + 1, task.pid, uffd)),
                Err(error) => this.reason(format!("no userfaultfd: {error}")),
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
        for (pages_id, pid, uffd) in made {
            match Tracked::register(pid, pages_id, uffd) {
                Ok(tracked) => drop(this.tasks.insert(pid, tracked)),
                Err(error) => this.reason(format!("its memory cannot be tracked: {error}")),
            }
        }
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
        pids.sort_unstable_by_key(|pid| self.tasks[pid].pages_id);
        for pid in &pids {
            check()?;
            let Some(tracked) = self.tasks.get_mut(pid) else { continue };
            let name = format!("{PARENT}/{}", Image::Pages.file_name(tracked.pages_id.into()));
            let failed = |source| DumpError::Sink { name: name.clone(), source };
            sink.begin_pages(&name).map_err(failed)?;
            let copied = tracked.copy_base(*pid, sink, check);
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

    /// Copies what is left of a stopped process; false when it is not tracked and must be copied
    /// otherwise. `id` is its pid inside.
    ///
    /// # Errors
    /// Those of reading its memory.
    pub fn freeze(&mut self, pid: i32, id: u64, mm: &msg::MmEntry) -> io::Result<bool> {
        let Some(tracked) = self.tasks.get_mut(&pid) else { return Ok(false) };
        if stat::of(pid, pid).map_or(true, |s| s.start_time != tracked.start_time)
            || has_direct_files(pid)
        {
            self.tasks.remove(&pid);
            return Ok(false);
        }
        let frozen = tracked.freeze(pid, mm, &mut self.staging)?;
        self.frozen.push((pid, id, frozen));
        Ok(true)
    }

    /// Writes what is still in memory, and the base's own pagemaps; then ends all tracking. Called
    /// when the tree runs again.
    ///
    /// # Errors
    /// The sink's.
    pub fn finish(mut self, sink: &mut dyn ImageSink) -> Result<Finished, DumpError> {
        let mut finished = Finished::default();
        for (pid, id, frozen) in std::mem::take(&mut self.frozen) {
            let Some(tracked) = self.tasks.get(&pid) else { continue };
            let (map, copies) = tracked.layout(&frozen)?;
            let name = Image::Pages.file_name(tracked.pages_id.into());
            let failed = |source| DumpError::Sink { name: name.clone(), source };
            sink.begin_pages(&name).map_err(failed)?;
            for (mut at, len) in copies {
                let end = at + len;
                while at < end {
                    let part = self.staging.get(at, end - at);
                    sink.write_pages(part).map_err(failed)?;
                    at += part.len();
                }
            }
            sink.end_pages().map_err(failed)?;
            let top = Image::Pagemap.file_name(id);
            let put = |sink: &mut dyn ImageSink, name: String, map: &Pagemap| {
                let bytes = map.write().map_err(io::Error::other);
                bytes
                    .and_then(|bytes| sink.put(&name, &bytes))
                    .map_err(|source| DumpError::Sink { name, source })
            };
            put(sink, format!("{PARENT}/{top}"), &tracked.base)?;
            put(sink, top, &map)?;
            finished.written += map.pages_len() / PAGE;
            let parent = map.runs().iter().filter(|run| run.in_parent());
            finished.base += parent.map(|run| run.nr_pages).sum::<u64>();
        }
        Ok(finished)
    }
}

/// Lets every process go in small parts; closing the descriptors would do it at once, with its
/// address space locked.
impl Drop for Tracked {
    fn drop(&mut self) {
        for (start, end) in self.parts() {
            // What is gone meanwhile is not there to be let go.
            let _ = userfaultfd::unregister(self.uffd.as_fd(), start, end);
        }
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
            uffd,
            areas: Vec::new(),
            pages_id,
            base: Pagemap::new(pages_id),
            staged: Vec::new(),
        };
        let areas = vmflags::areas(pid).map_err(io::Error::other)?;
        for area in areas.into_iter().filter(is_private) {
            // One that cannot be registered, or is gone, is copied in the freeze.
            if userfaultfd::register(this.uffd.as_fd(), area.start, area.end).is_ok() {
                this.areas.push(area);
            }
        }
        Ok(this)
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
            if start < area.end {
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
            query.flags = WP_MATCHING | CHECK_WPASYNC;
            if written_only {
                query.mask |= pagemap::WRITTEN;
            }
            match memory::scan_range(&pagemap, (area.start, area.end), query, &mut runs) {
                Ok(()) => {}
                Err(e) if e.raw_os_error() == Some(libc::EPERM) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(runs)
    }

    fn copy_base(
        &mut self,
        pid: i32,
        sink: &mut dyn ImageSink,
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
                }
            }
        }
        let bytes = batch.read(pid, &mem, &mut buf);
        sink.write_pages(bytes).map_err(Trouble::Sink)
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

    fn freeze(&mut self, pid: i32, mm: &msg::MmEntry, staging: &mut Staging) -> io::Result<Frozen> {
        let pagemap = process::open_proc(pid, "pagemap")?;
        let mem = process::open_proc(pid, "mem")?;
        let (mut valid, mut gone) = (Vec::new(), Vec::new());
        let mut last: Vec<Region> = Vec::new();
        for area in mm.vmas.iter().filter(|a| vma::has_private_pages(a.status)) {
            if area.status & vma::VDSO != 0 {
                // The kernel's page: always stored, so that another kernel's is noticed.
                last.push(Region { start: area.start, end: area.end, categories: 0 });
                continue;
            }
            let range = (area.start, area.end);
            let mut changed = Vec::new();
            match memory::scan_range(&pagemap, range, CHANGED, &mut changed) {
                Ok(()) => {
                    valid.push(range);
                    if changed.is_empty() {
                        continue;
                    }
                    gone.extend(changed.iter().map(|run| (run.start, run.end)));
                    let mut query = memory::query(area.status);
                    query.mask |= pagemap::WRITTEN;
                    memory::scan_range(&pagemap, range, query, &mut last)?;
                }
                // Not registered, or not as a whole.
                Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                    memory::scan_range(&pagemap, range, memory::query(area.status), &mut last)?;
                }
                Err(e) => return Err(e),
            }
        }
        self.stage(pid, &mem, &last, staging, true)?;
        let spans = |runs: Vec<(u64, u64)>| Spans::of(runs);
        Ok(Frozen {
            valid: spans(valid),
            gone: spans(gone),
            last: spans(last.iter().map(|run| (run.start, run.end)).collect()),
        })
    }

    /// The last image set: its pagemap, and where the pages that are in it lie in the staging memory,
    /// in order.
    fn layout(&self, frozen: &Frozen) -> Result<(Pagemap, Vec<(usize, usize)>), DumpError> {
        // Later copies of a page replace earlier ones.
        let mut newest: BTreeMap<u64, usize> = BTreeMap::new();
        for &(start, len, place) in &self.staged {
            for page in (0..len).step_by(PAGE as usize) {
                newest.insert(start + page, place + page as usize);
            }
        }
        let kept = frozen.valid.without(&frozen.gone).without(&frozen.last);
        let earlier = Spans::of(newest.keys().map(|page| (*page, page + PAGE)).collect());
        let earlier = earlier.and(&kept);
        let base = self.base.runs().iter().map(|run| (run.vaddr, run.end())).collect();
        let parent = Spans::of(base).and(&kept).without(&earlier);
        let present = Spans::of([earlier.ranges(), frozen.last.ranges()].concat());
        let mut runs: Vec<(u64, u64, u32)> = Vec::new();
        runs.extend(parent.ranges().iter().map(|(s, e)| (*s, *e, PE_PARENT)));
        runs.extend(present.ranges().iter().map(|(s, e)| (*s, *e, PE_PRESENT)));
        runs.sort_unstable();
        let mut map = Pagemap::new(self.pages_id);
        for (start, end, flags) in runs {
            map.push(start, (end - start) / PAGE, flags).map_err(|source| DumpError::Sink {
                name: Image::Pagemap.file_name(0),
                source: io::Error::other(source),
            })?;
        }
        let mut copies: Vec<(usize, usize)> = Vec::new();
        for &(start, end) in present.ranges() {
            for page in (start..end).step_by(PAGE as usize) {
                let place = newest.get(&page).copied().ok_or_else(|| DumpError::Sink {
                    name: Image::Pages.file_name(self.pages_id.into()),
                    source: io::Error::other("a page was not copied"),
                })?;
                match copies.last_mut() {
                    Some((at, len)) if *at + *len == place => *len += PAGE as usize,
                    _ => copies.push((place, PAGE as usize)),
                }
            }
        }
        Ok((map, copies))
    }
}

/// What is not protected any more: pages that were written, and places where no page is (what was
/// there may have been in the base). Exactly these arguments take the kernel's fast path
/// (fs/proc/task_mmu.c, pagemap_scan_pmd_entry).
const CHANGED: Query = Query {
    flags: CHECK_WPASYNC,
    inverted: 0,
    mask: pagemap::WRITTEN,
    any_of: 0,
    report: pagemap::WRITTEN,
};

/// Ranges that are read together.
#[derive(Debug, Default)]
struct Batch {
    ranges: Vec<(u64, usize)>,
    len: usize,
}

impl Batch {
    /// Adds as much of a range as there is room for; how much.
    fn add(&mut self, at: u64, end: u64, room: usize) -> u64 {
        let len = ((end - at) as usize).min(room - self.len);
        self.ranges.push((at, len));
        self.len += len;
        len as u64
    }

    fn is_full(&self, room: usize) -> bool {
        // IOV_MAX of process_vm_readv(2).
        self.len == room || self.ranges.len() == 1024
    }

    /// Reads all, and zeros for what is gone meanwhile.
    fn read<'b>(&mut self, pid: i32, mem: &File, buf: &'b mut [u8]) -> &'b [u8] {
        let bytes = &mut buf[..self.len];
        if !bytes.is_empty() && memory::read(pid, mem, &self.ranges, bytes).is_err() {
            let mut at = 0;
            for &(start, len) in &self.ranges {
                read_what_is_there(mem, start, &mut bytes[at..at + len]);
                at += len;
            }
        }
        let len = std::mem::take(&mut self.len);
        self.ranges.clear();
        &buf[..len]
    }
}

/// Reads page by page, and zeros for pages that are not mapped.
fn read_what_is_there(mem: &File, start: u64, buf: &mut [u8]) {
    use std::os::unix::fs::FileExt as _;
    for (page, at) in buf.chunks_mut(PAGE as usize).zip((start..).step_by(PAGE as usize)) {
        if mem.read_exact_at(page, at).is_err() {
            page.fill(0);
        }
    }
}
