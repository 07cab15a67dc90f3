//! Dump of a process tree: the order of the work.
//!
//! First the running tree is looked at for what must be refused, and its memory copied while it runs
//! ([`crate::tracking`]). Frozen: every thread is stopped, then each task is asked for its state, and what
//! was written since is copied. Then all are let go. The images that are small are written after the thaw.

mod namespaces;
mod phases;
mod sockets;
mod survey;
mod task;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cryopod_images::{Image, Writer, msg};
use cryopod_sys::sched::Urgent;
use prost::Message;

use crate::error::DumpError;
use crate::files::Collector;
use crate::inject::site;
use crate::proc::kernel::KernelReader;
use crate::proc::{status, vmflags};
use crate::seccomp::Filters;
use crate::seize::{Task, Tree};
use crate::staging::Held;
use crate::store::ImageSink;
use crate::tracking::Tracking;
use crate::waits::Waits;
use crate::witness::Witness;
pub use phases::Phases;

/// What to dump, and how.
#[derive(Debug, Clone, Default)]
pub struct DumpOptions {
    /// Host pid of the tree's first process.
    pub pid: i32,
    /// `cgroup.procs` files of the container (any hierarchy): their processes are stopped too, and
    /// left out of the image when they do not descend from `pid` (ExecSync, probes).
    pub cgroup_procs: Vec<PathBuf>,
    /// Pipes whose other end is outside the tree, as `pipe:[INODE]`: the container's stdio. They
    /// are recorded by that name and given anew at restore. Any other such pipe is refused.
    pub external_pipes: Vec<String>,
    /// Let the tree run on afterwards; otherwise it is killed inside the freeze.
    pub leave_running: bool,
    /// Set by the caller to give up; looked at between steps.
    pub cancel: Arc<AtomicBool>,
    /// Copy memory while the tree runs, and in the freeze only what was written since.
    pub track: bool,
    /// Look at all memory in the freeze, which takes as long as copying it, to compare it with the
    /// images later ([`DumpReport::witness`]).
    pub self_check: bool,
}

/// What the caller does at certain moments of a dump. A closure is called in the freeze only.
pub trait Moments {
    /// The tree is about to be stopped, which happens more than once.
    ///
    /// # Errors
    /// Whatever prevents it; the dump is given up then.
    fn before_stop(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    /// The tree runs again, or an attempt to stop it has failed.
    fn after_stop(&mut self) {}

    /// The tree stands still, for what must be of the same instant as the memory (the root
    /// filesystem's changes). Called once.
    ///
    /// # Errors
    /// Whatever fails; the dump fails with it.
    fn while_frozen(&mut self) -> std::io::Result<()>;
}

impl<F: FnMut() -> std::io::Result<()>> Moments for F {
    fn while_frozen(&mut self) -> std::io::Result<()> {
        self()
    }
}

/// Calls [`Moments::after_stop`] when it is dropped.
struct Stop<'m> {
    moments: &'m mut dyn Moments,
}

impl<'m> Stop<'m> {
    fn begin(moments: &'m mut dyn Moments) -> Result<Self, DumpError> {
        let this = Self { moments };
        this.moments.before_stop().map_err(DumpError::WhileFrozen)?;
        Ok(this)
    }
}

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.moments.after_stop();
    }
}

/// What was done.
#[derive(Debug, Default)]
pub struct DumpReport {
    /// How long the tree stood still, from the first stop to the last release.
    pub freeze: Duration,
    /// Tasks and threads in the image.
    pub tasks: usize,
    /// Threads in the image.
    pub threads: usize,
    /// Pages looked at.
    pub pages_scanned: u64,
    /// Pages stored.
    pub pages_written: u64,
    /// Of these, copied before the freeze.
    pub pages_before: u64,
    /// Interrupted system calls that are answered with EINTR after restore.
    pub interrupted_calls: usize,
    /// Processes that were stopped with the container and left out: pid and name.
    pub left_out: Vec<(i32, String)>,
    /// How long the tree stood still before, for the tracking of its memory to begin.
    pub first_stop: Duration,
    /// How memory was copied, and why.
    pub memory_method: String,
    /// What the memory was in the freeze, if that was asked for.
    pub witness: Option<Witness>,
    /// What the time of the freeze was spent on.
    pub phases: Phases,
}

/// Images kept back until the tree runs again.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    images: Vec<(String, Vec<u8>)>,
}

impl Pending {
    /// Keeps a whole image.
    pub(crate) fn add(&mut self, image: Image, id: u64, bytes: Vec<u8>) {
        self.images.push((image.file_name(id), bytes));
    }

    /// Keeps an image of one record.
    pub(crate) fn one<M: Message>(
        &mut self,
        image: Image,
        id: u64,
        message: &M,
    ) -> Result<(), DumpError> {
        self.many(image, id, std::slice::from_ref(message))
    }

    /// Keeps an image of several records.
    pub(crate) fn many<M: Message>(
        &mut self,
        image: Image,
        id: u64,
        messages: &[M],
    ) -> Result<(), DumpError> {
        let mut writer = Writer::new(image);
        for message in messages {
            writer.record(message).map_err(|e| DumpError::Sink {
                name: image.file_name(id),
                source: std::io::Error::other(e),
            })?;
        }
        self.add(image, id, writer.finish());
        Ok(())
    }

    fn write(self, sink: &mut dyn ImageSink) -> Result<(), DumpError> {
        for (name, bytes) in self.images {
            sink.put(&name, &bytes).map_err(|source| DumpError::Sink { name, source })?;
        }
        Ok(())
    }
}

/// Pids as the container sees them.
#[derive(Debug, Default)]
pub(crate) struct Inside {
    ids: HashMap<i32, i32>,
}

impl Inside {
    fn read(tree: &Tree) -> Result<Self, DumpError> {
        let mut ids = HashMap::new();
        let mut levels = None;
        for task in &tree.tasks {
            let tids: Vec<i32> = if task.zombie {
                vec![task.pid]
            } else {
                task.threads.iter().map(|t| t.tid).collect()
            };
            for tid in tids {
                let status = status::of(task.pid, tid)?;
                let depth = status.ns_pid.len();
                if *levels.get_or_insert(depth) != depth {
                    return Err(DumpError::Refused(crate::Refusal {
                        pid: task.pid,
                        comm: status.name,
                        resource: "a pid namespace of its own inside the container".into(),
                        way_out: "containers within the container cannot be checkpointed",
                    }));
                }
                ids.insert(tid, status.ns_pid.last().copied().unwrap_or(tid));
            }
        }
        Ok(Self { ids })
    }

    /// The id inside; 0 for one that is not in the tree.
    pub(crate) fn of(&self, host: i32) -> i32 {
        self.ids.get(&host).copied().unwrap_or(0)
    }
}

/// How long the tree is tried to be stopped while a thread of it is in uninterruptible sleep.
const PERSISTENCE: Duration = Duration::from_secs(10);
/// The same while a process of it has no room for remote calls.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it runs between two tries.
const BETWEEN: Duration = Duration::from_millis(50);

/// Stops the tree. A thread that waits for a disk, or for the child of its vfork(2), does not stop, and
/// a child just forked by a thread may have no room for remote calls; everything is let go and stopped
/// again later then, so that nobody stands still for it.
fn seize(options: &DumpOptions) -> Result<Tree, DumpError> {
    let begin = Instant::now();
    loop {
        match Tree::seize(options.pid, &options.cgroup_procs) {
            Err(DumpError::Stuck { .. }) if begin.elapsed() < PERSISTENCE => {}
            Ok(tree) if begin.elapsed() < PATIENCE && has_no_room(&tree) => drop(tree),
            other => return other,
        }
        std::thread::sleep(BETWEEN);
        check(&options.cancel)?;
    }
}

/// Whether a process has no room for remote calls, for now. What cannot be told is found out later.
fn has_no_room(tree: &Tree) -> bool {
    let mut living = tree.tasks.iter().filter(|task| !task.zombie);
    living.any(|task| site::is_in_use(task.pid).unwrap_or(false))
}

/// Bytes of pages that may wait in memory for the end of the freeze: a quarter of what is free.
fn budget() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok());
    kib.unwrap_or(0) / 4 * 1024
}

/// How the memory of the tree was copied, in a few words.
fn method(tasks: &[Task], tracking: &Tracking, options: &DumpOptions) -> String {
    if !options.track {
        return "copied while frozen".into();
    }
    let alive: Vec<&Task> = tasks.iter().filter(|task| !task.zombie).collect();
    let tracked = alive.iter().filter(|task| tracking.has(task.pid)).count();
    let mut text = match tracked {
        all if all == alive.len() => "copied while it ran".to_owned(),
        0 => "copied while frozen".to_owned(),
        some => format!("copied while {some} of {} processes ran", alive.len()),
    };
    for reason in tracking.reasons() {
        text.push_str("; ");
        text.push_str(reason);
    }
    text
}

fn check(cancel: &AtomicBool) -> Result<(), DumpError> {
    if cancel.load(Ordering::Relaxed) { Err(DumpError::Cancelled) } else { Ok(()) }
}

/// Dumps the tree into `sink`.
///
/// # Errors
/// See [`DumpError`]; on every path the tree runs on as before.
pub fn dump(
    options: &DumpOptions,
    sink: &mut dyn ImageSink,
    moments: &mut dyn Moments,
) -> Result<DumpReport, DumpError> {
    check(&options.cancel)?;
    survey::survey(options.pid)?;
    check(&options.cancel)?;
    let diag = namespaces::socket_diag(options.pid)?;
    sockets::survey(options.pid, &diag, &options.external_pipes)?;
    let waits = Waits::prepared();
    let _ = vmflags::VmFlags::prepared();
    let _ = KernelReader::prepared();
    let mut tracking = Tracking::default();
    let mut first_stop = Duration::ZERO;
    if options.track {
        let _stop = Stop::begin(moments)?;
        let urgent = Urgent::begin();
        (tracking, first_stop) = Tracking::begin(seize(options)?, urgent);
    }
    tracking.copy(sink, &|| check(&options.cancel))?;
    let mut held = Held::new(budget());
    tracking.make_room();
    let stop = Stop::begin(moments)?;
    // Whatever else this machine does, it is not to do it while the tree stands still.
    let urgent = Urgent::begin();
    let begin = Instant::now();
    let mut tree = seize(options)?;
    let seized = begin.elapsed();
    let mut report = DumpReport {
        tasks: tree.tasks.len(),
        threads: tree.tasks.iter().map(|t| t.threads.len()).sum(),
        first_stop,
        witness: options.self_check.then(Witness::default),
        phases: Phases::since(begin),
        ..DumpReport::default()
    };
    report.phases.lap("stopping");
    for task in &tree.outsiders {
        let name = status::of(task.pid, task.pid).map_or_else(|_| "?".into(), |s| s.name);
        report.left_out.push((task.pid, name));
    }
    let inside = Inside::read(&tree)?;
    let inside_of = |host: i32| inside.of(host);
    let mut pending = Pending::default();
    let mut files = Collector::new(options.pid, &inside_of)?;
    let mut ids = namespaces::Ids::new()?;
    let mut filters = Filters::default();
    let mut pstree = Vec::new();
    let mut seen = Vec::new();

    let tasks = tree.tasks.clone();
    let mut next_pages = tracking.next_image();
    for task in &tasks {
        check(&options.cancel)?;
        pstree.push(task::tree_entry(task, &inside)?);
        if task.zombie {
            task::dump_zombie(task, &inside, &mut pending)?;
            continue;
        }
        let task_ids = ids.of_task(task.pid)?;
        refuse_shared((task.pid, task.ppid), &task_ids, &mut seen)?;
        let mut work = task::Work {
            tracking: &mut tracking,
            task,
            inside: &inside,
            ids: task_ids,
            files: &mut files,
            filters: &mut filters,
            pending: &mut pending,
            report: &mut report,
            waits,
            held: &mut tree.held,
            next_pages: &mut next_pages,
            stopped: tasks
                .iter()
                .filter(|t| t.ppid == task.pid)
                .filter(|t| t.threads.iter().any(|t| t.group_stop.is_some()))
                .map(|t| inside.of(t.pid))
                .collect(),
        };
        work.dump(&mut held.over(sink))?;
    }
    stop.moments.while_frozen().map_err(DumpError::WhileFrozen)?;
    report.phases.lap("file systems and log");
    // Queues may hold files that nobody has a descriptor of: before the pipes are settled.
    crate::files::unix::finish(&mut files, &diag, &options.external_pipes)?;
    if let Some(bytes) = std::mem::take(&mut files.queues).finish() {
        pending.add(Image::SkQueues, 0, bytes);
    }
    if let Some(bytes) = crate::files::fifos::finish(std::mem::take(&mut files.fifos))? {
        pending.add(Image::FifoData, 0, bytes);
    }
    let pipes = std::mem::take(&mut files.pipes);
    if let Some(bytes) = crate::files::pipes::finish(pipes, &options.external_pipes)? {
        pending.add(Image::PipesData, 0, bytes);
    }
    let segments = std::mem::take(&mut files.segments);
    for (id, bytes, written) in segments.copy(next_pages, &mut held.over(sink))? {
        report.pages_written += written;
        pending.add(Image::PagemapShmem, id.into(), bytes);
    }
    if !segments.memfds().is_empty() {
        pending.many(Image::MemfdInode, 0, segments.memfds())?;
    }
    drop(segments);
    let (ghosts, remaps) = std::mem::take(&mut files.ghosts).finish();
    for (id, bytes) in ghosts {
        pending.add(Image::GhostFile, id.into(), bytes);
    }
    if !remaps.is_empty() {
        pending.many(Image::RemapFpath, 0, &remaps)?;
    }
    let locks = std::mem::take(&mut files.locks).entries;
    if !locks.is_empty() {
        pending.many(Image::FileLocks, 0, &locks)?;
    }
    let entries = std::mem::take(&mut files.entries);
    drop(files);
    report.phases.lap("pipes, sockets, shared memory");
    let since = tree.since;
    let mut still = Some(tree);
    report.freeze = match still.take_if(|_| options.leave_running) {
        Some(tree) => tree.thaw(),
        None => since.elapsed(),
    };

    drop(urgent);
    drop(stop);
    report.phases.lap("letting go");
    report.memory_method = method(&tasks, &tracking, options);
    let copied = tracking.finish(sink)?;
    held.release(sink).map_err(|source| DumpError::Sink { name: "pages".into(), source })?;
    report.pages_written += copied.written;
    report.pages_before = copied.before;
    pending.one(Image::Seccomp, 0, &filters.entry)?;
    pending.many(Image::Pstree, 0, &pstree)?;
    pending.many(Image::Files, 0, &entries)?;
    pending.one(Image::Inventory, 0, &namespaces::inventory(ids.own()))?;
    pending.one(Image::StatsDump, 0, &stats(&report, seized))?;
    pending.write(sink)?;
    // Only now: images that cannot be written must not cost the program.
    if let Some(tree) = still {
        tree.kill();
    }
    Ok(report)
}

/// Refuses processes that share what only threads share, or share with others than their parent,
/// and namespaces of their own.
fn refuse_shared(
    (pid, ppid): (i32, i32),
    ids: &msg::TaskKobjIdsEntry,
    seen: &mut Vec<(i32, msg::TaskKobjIdsEntry)>,
) -> Result<(), DumpError> {
    let refuse = |resource: &str, way_out| {
        Err(DumpError::Refused(crate::Refusal {
            pid,
            comm: status::of(pid, pid).map_or_else(|_| "?".into(), |s| s.name),
            resource: resource.to_owned(),
            way_out,
        }))
    };
    let apart = "use threads, or processes without clone(2)'s sharing flags";
    // Descriptors and directories can be shared again with the parent, which makes the process.
    let parent = seen.iter().find(|(other, _)| *other == ppid).map(|(_, ids)| ids);
    let with_parent =
        |id: fn(&msg::TaskKobjIdsEntry) -> u32| parent.is_some_and(|parent| id(parent) == id(ids));
    let (files, fs) = (with_parent(|i| i.files_id), with_parent(|i| i.fs_id));
    for (_, other) in &*seen {
        if other.vm_id == ids.vm_id {
            return refuse("a shared address space (CLONE_VM)", apart);
        }
        if other.files_id == ids.files_id && !files {
            let what = "a descriptor table shared with a process that is not its parent";
            return refuse(what, apart);
        }
        if other.fs_id == ids.fs_id && !fs {
            let what = "directories shared with a process that is not its parent (CLONE_FS)";
            return refuse(what, apart);
        }
        if other.sighand_id == ids.sighand_id {
            return refuse("shared signal actions (CLONE_SIGHAND)", apart);
        }
    }
    if let Some((_, first)) = seen.first() {
        let namespaces = |i: &msg::TaskKobjIdsEntry| {
            let net = (i.net_ns_id, i.ipc_ns_id, i.uts_ns_id, i.mnt_ns_id);
            (net, i.pid_ns_id, i.user_ns_id, i.cgroup_ns_id, i.time_ns_id)
        };
        if namespaces(first) != namespaces(ids) {
            return refuse(
                "a namespace of its own inside the container",
                "containers within the container cannot be checkpointed",
            );
        }
    }
    seen.push((pid, *ids));
    Ok(())
}

fn stats(report: &DumpReport, seized: Duration) -> msg::StatsEntry {
    let micros = |d: Duration| u32::try_from(d.as_micros()).unwrap_or(u32::MAX);
    msg::StatsEntry {
        dump: Some(msg::DumpStatsEntry {
            freezing_time: micros(seized),
            frozen_time: micros(report.freeze.saturating_sub(seized)),
            memdump_time: 0,
            memwrite_time: 0,
            pages_scanned: report.pages_scanned,
            pages_skipped_parent: 0,
            pages_written: report.pages_written,
            irmap_resolve: None,
            pages_lazy: 0,
            page_pipes: None,
            page_pipe_bufs: None,
            shpages_scanned: None,
            shpages_skipped_parent: None,
            shpages_written: None,
        }),
        restore: None,
    }
}
