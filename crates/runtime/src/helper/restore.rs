//! Restores a checkpoint into the first process of a container that was made for it.
//!
//! The process has everything around it ready (namespaces, mounts, cgroup) and waits. It is stopped,
//! the memory file systems are filled, the engine builds the archived tasks in and below it, and
//! when the shim agrees they are all let go. If this helper ends before that, the shim kills the
//! cgroup.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cryopod_archive::{Archive, Limits, ReadError, TreeError, names, unpack_tree};
use cryopod_engine::{
    CheckPages, Filling, ImageSource, Lazy, Pages, RestoreError, RestoreOptions, RestoreRoot,
    Restored, Watcher,
};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::dump::Command;
use super::{Event, HelperError, StdioShape};
use crate::error::ErrorKind;
use crate::manifest::Tmpfs;
use crate::record::Stamp;
use crate::tree;
use crate::wire::{Channel, FDS_MAX, Failure};

/// What to restore.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RestorePlan {
    /// The container's first process as the machine sees it.
    pub(crate) pid: i32,
    /// Path of the archive, for messages.
    pub(crate) archive: PathBuf,
    /// What the archive was when it was verified.
    pub(crate) stamp: Stamp,
    /// Names of the descriptors 0 to 2 when the checkpoint was taken.
    pub(crate) descriptors: Vec<String>,
    pub(crate) tmpfs: Vec<Tmpfs>,
    pub(crate) stdio: StdioShape,
    /// Memory may come late, with so many milliseconds of rest after each MiB.
    pub(crate) lazy: Option<u64>,
}

/// Why a restore failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResumeError {
    #[error("{0}")]
    Engine(#[source] RestoreError),
    #[error("archive")]
    Archive(#[from] ReadError),
    #[error("archive {path:?} has changed since it was verified")]
    Changed { path: PathBuf },
    #[error("memory file system {path:?}")]
    Tmpfs { path: PathBuf, source: TreeError },
    #[error("{action} {path:?}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("descriptor of {name} is missing")]
    Descriptor { name: String },
    #[error("the first process did not stop within {seconds} s")]
    NotStopped { seconds: u64 },
    #[error("the restore was cancelled")]
    Cancelled,
}

impl ResumeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Engine(
                RestoreError::Refused { .. }
                | RestoreError::FileDiffers { .. }
                | RestoreError::Image { .. }
                | RestoreError::Missing { .. },
            )
            | Self::Changed { .. }
            | Self::Archive(_)
            | Self::Tmpfs { .. } => ErrorKind::Refused,
            Self::Cancelled => ErrorKind::Cancelled,
            _ => ErrorKind::Internal,
        }
    }
}

type Result<T> = std::result::Result<T, ResumeError>;

fn failed<E: Into<io::Error>>(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> ResumeError {
    let path = path.into();
    move |e| ResumeError::Io { action, path, source: e.into() }
}

/// Descriptors: the archive, then the container's ends of its standard streams.
pub(super) fn run(
    channel: &mut Channel,
    plan: &RestorePlan,
    fds: impl Iterator<Item = OwnedFd>,
) -> std::result::Result<(), HelperError> {
    let event = match restore(channel, plan, fds) {
        // Whoever filled the memory has told what there is to tell.
        Ok(()) => return Ok(()),
        Err(error) => Event::Failed(Failure::new(error.kind(), &error)),
    };
    channel.send(&event, &[]).map_err(super::step("report"))
}

fn restore(
    channel: &Channel,
    plan: &RestorePlan,
    mut fds: impl Iterator<Item = OwnedFd>,
) -> Result<()> {
    let missing = |name: &str| ResumeError::Descriptor { name: name.into() };
    let file = File::from(fds.next().ok_or_else(|| missing("the archive"))?);
    let changed = || ResumeError::Changed { path: plan.archive.clone() };
    let same = |file: &File| Stamp::of(file).is_ok_and(|stamp| stamp == plan.stamp);
    if !same(&file) {
        return Err(changed());
    }
    let archive = Arc::new(Archive::from_file(file, &plan.archive)?);
    let stdio = plan.stdio.take(&mut fds);
    let mut inherit = Vec::new();
    for (name, fd) in plan.descriptors.iter().zip([stdio.stdin, stdio.stdout, stdio.stderr]) {
        if !name.starts_with("pipe:") {
            continue;
        }
        let fd = fd.ok_or_else(|| missing(name))?;
        // One pipe may have been standard output and error both.
        if !inherit.iter().any(|(known, _)| known == name) {
            inherit.push((name.clone(), fd));
        }
    }
    stop(plan.pid)?;
    for tmpfs in &plan.tmpfs {
        fill(&archive, plan.pid, tmpfs)?;
    }
    let options = RestoreOptions {
        root: RestoreRoot::Stopped(plan.pid),
        inherit,
        clamp: false,
        lazy: plan.lazy.map(|rest| Lazy { pause: Duration::from_millis(rest), ..Lazy::default() }),
    };
    let source = Source { archive: &archive, check: plan.lazy.is_some() };
    let restored: Restored =
        cryopod_engine::restore(options, &source).map_err(ResumeError::Engine)?;
    // The engine has read it by now: had it changed, something else was restored.
    if !same(archive.file()) {
        return Err(changed());
    }
    let told = |e| failed("tell the shim about", "the restore")(e);
    for note in restored.notes() {
        channel.send(&Event::Note(note.clone()), &[]).map_err(told)?;
    }
    let held = restored.descriptors().map_err(told)?;
    for some in held.chunks(FDS_MAX) {
        let some: Vec<_> = some.iter().map(AsFd::as_fd).collect();
        channel.send(&Event::Late, &some).map_err(told)?;
    }
    drop(held);
    channel.send(&Event::Restored, &[]).map_err(told)?;
    match channel.receive::<Command>().map_err(told)? {
        Some((Command::Release, _)) => {
            restored.release_and_fill(&mut Teller { channel }).map_err(ResumeError::Engine)
        }
        _ => Err(ResumeError::Cancelled),
    }
}

/// Stops the first process from outside: it could not do so itself, since signals from within its
/// own pid namespace do nothing to it.
fn stop(pid: i32) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(10);
    let name = || PathBuf::from(format!("process {pid}"));
    cryopod_sys::process::kill(pid, libc::SIGSTOP).map_err(failed("stop", name()))?;
    let begun = Instant::now();
    loop {
        let stat =
            fs::read_to_string(format!("/proc/{pid}/stat")).map_err(failed("read", name()))?;
        // The state follows the name, which is in brackets and may hold anything.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        if state == Some('T') {
            return Ok(());
        }
        if begun.elapsed() > LIMIT {
            return Err(ResumeError::NotStopped { seconds: LIMIT.as_secs() });
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn fill(archive: &Archive, pid: i32, tmpfs: &Tmpfs) -> Result<()> {
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty()).map_err(failed("open", &path))?;
    let destination = &tmpfs.destination;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let dir = tree::open(&root, destination, flags, Mode::empty())
        .map_err(failed("open", destination))?;
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let kind = rustix::fs::fstatfs(&dir).map_err(failed("look at", destination))?.f_type;
    if kind as u64 != TMPFS_MAGIC {
        let source = io::Error::other("no memory file system is mounted there");
        return Err(failed("fill", destination)(source));
    }
    let named = |source| ResumeError::Tmpfs { path: destination.clone(), source };
    unpack_tree(dir.as_fd(), archive.stream(&tmpfs.entry)?, Limits::default()).map_err(named)?;
    Ok(())
}

/// Tells the shim what becomes of memory that comes late. It holds copies of the descriptors until it
/// hangs up.
struct Teller<'a> {
    channel: &'a Channel,
}

impl Watcher for Teller<'_> {
    fn tell(&mut self, what: Filling) {
        let event = match what {
            Filling::Released => Event::Released,
            Filling::Filled => Event::Filled,
            Filling::Failed(error) => Event::Failed(Failure::new(ErrorKind::Internal, &error)),
        };
        // A shim that is gone is seen by `is_over`.
        let _ = self.channel.send(&event, &[]);
    }

    fn is_over(&mut self) -> bool {
        self.channel.is_hung_up()
    }
}

/// The archive as the engine sees it.
pub(super) struct Source<'a> {
    pub(super) archive: &'a Arc<Archive>,
    /// Whether pages are to be checked when they are read.
    pub(super) check: bool,
}

/// An entry whose chunks are checked by the archive's digests.
#[derive(Debug)]
struct Digests {
    archive: Arc<Archive>,
    name: String,
}

impl CheckPages for Digests {
    fn chunk(&self, at: u64) -> (usize, Range<u64>) {
        let Some(entry) = self.archive.entry(&self.name) else { return (0, 0..0) };
        let index = self.archive.chunk_at(entry, at);
        (index, self.archive.chunk(entry, index))
    }

    fn check(&self, index: usize, bytes: &[u8]) -> io::Result<()> {
        let entry = self.archive.file_entry(&self.name).map_err(io::Error::other)?;
        self.archive.check(entry, index, bytes).map_err(io::Error::other)
    }
}

/// No image but those of pages is larger.
const IMAGE_MAX: u64 = 1 << 30;

impl ImageSource for Source<'_> {
    fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        // CRI-O and ours keep the statistics outside of the folder; a restore has no use for them.
        let name = format!("{}/{name}", names::IMAGES);
        self.archive.read_optional(&name, IMAGE_MAX).map_err(io::Error::other)
    }

    fn pages(&self, name: &str) -> io::Result<Option<Pages>> {
        let name = format!("{}/{name}", names::IMAGES);
        let entry = self.archive.entry(&name).filter(|e| !e.directory);
        Ok(entry.map(|entry| Pages {
            file: self.archive.file().clone(),
            offset: entry.offset,
            len: entry.size,
            check: self.check.then(|| {
                let archive = Arc::clone(self.archive);
                Arc::new(Digests { archive, name: name.clone() }) as Arc<dyn CheckPages>
            }),
        }))
    }
}
