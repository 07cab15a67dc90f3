//! Takes a checkpoint: the engine's images and everything around them, into one archive.
//!
//! In the freeze, after the memory: what is in the pipes to the shim is drained into the log, the
//! root filesystem's changes and the memory file systems are copied, the clocks are read. So all of
//! it is of one instant. After the thaw it goes into the archive.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cryopod_archive::{
    Archive, ArchiveWriter, BindMount, ConfigDump, Note, NoteKind, Packed, ReadError, TreeError,
    WriteError, names, pack_tree, pack_upper, to_json,
};
use cryopod_engine::{
    Content, DumpError, DumpOptions, DumpReport, Edit, ImageSink, Moments, WitnessError,
};
use oci_spec::runtime::{Mount, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{Event, HelperError};
use crate::cgroup::Cgroup;
use crate::checkpoint::CheckpointReport;
use crate::error::ErrorKind;
use crate::image::{ImageRecord, Store};
use crate::init::read_spec;
use crate::manifest::{self, Clocks, ImageManifest, Manifest, Tmpfs};
use crate::record::{ContainerRecord, Layout, SandboxRecord, now};
use crate::root::RootPlan;
use crate::shim::Partial;
use crate::spec;
use crate::surroundings::{self, SurroundingsError};
use crate::tree;
use crate::window::Window;
use crate::wire::{Channel, Failure};

/// What to take a checkpoint of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DumpPlan {
    pub(crate) layout: Layout,
    pub(crate) sandbox: String,
    pub(crate) id: String,
    pub(crate) pid: i32,
    /// The archive to make.
    pub(crate) location: PathBuf,
    /// Names of the descriptors 0 to 2, as in `descriptors.json`.
    pub(crate) descriptors: [String; 3],
    pub(crate) stop: bool,
    pub(crate) with_image: bool,
    #[serde(default)]
    pub(crate) self_check: bool,
}

/// What the shim answers to [`Event::Drain`]; the log is beside it, if there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Drained {
    pub(crate) partial: Partial,
    /// Bytes of the log that belong to the checkpoint.
    pub(crate) log_bytes: u64,
}

/// Why a checkpoint failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("{0}")]
    Engine(#[source] DumpError),
    #[error("archive")]
    Archive(#[from] WriteError),
    #[error("{what}")]
    Tree { what: &'static str, source: TreeError },
    #[error("{action} {path:?}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("record")]
    Record(#[from] crate::error::RuntimeError),
    #[error("spec")]
    Spec(#[from] crate::init::InitError),
    #[error("an entry has no JSON form")]
    Json(#[from] serde_json::Error),
    #[error("cgroup")]
    Cgroup(#[from] crate::cgroup::CgroupError),
    #[error("{location:?} exists already")]
    Exists { location: PathBuf },
    #[error("{location:?} is not the path of a file in a folder")]
    Location { location: PathBuf },
    #[error("image {id} cannot be put into the archive: {reason}")]
    Image { id: String, reason: String },
    #[error(transparent)]
    Surroundings(#[from] SurroundingsError),
    #[error("what was written cannot be read back")]
    Read(#[from] ReadError),
    #[error("the archive is not what the memory was, which is a fault of cryopod")]
    Witness(#[from] WitnessError),
    #[error("the checkpoint was cancelled")]
    Cancelled,
}

impl CheckpointError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Engine(DumpError::Refused(_)) | Self::Image { .. } => ErrorKind::Refused,
            Self::Surroundings(error) if error.is_refusal() => ErrorKind::Refused,
            Self::Engine(DumpError::Cancelled) | Self::Cancelled => ErrorKind::Cancelled,
            Self::Exists { .. } => ErrorKind::AlreadyExists,
            Self::Location { .. } => ErrorKind::InvalidArgument,
            _ => ErrorKind::Internal,
        }
    }
}

type Result<T> = std::result::Result<T, CheckpointError>;

fn failed<E: Into<io::Error>>(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> CheckpointError {
    let path = path.into();
    move |e| CheckpointError::Io { action, path, source: e.into() }
}

/// Nice value of the copying: the program that is copied, and others, come first. While the container
/// stands still the engine is before all (`cryopod_sys::sched::Urgent`).
const NICE: i32 = 10;

/// Runs the checkpoint and reports.
pub(super) fn run(channel: &mut Channel, plan: &DumpPlan) -> std::result::Result<(), HelperError> {
    // Where this is not allowed, it only gets more of the processor.
    let _ = rustix::process::setpriority_process(None, NICE);
    let event = match checkpoint(channel, plan) {
        Ok(report) => Event::Checkpointed(Box::new(report)),
        Err(error) => Event::Failed(Failure::new(error.kind(), &error)),
    };
    channel.send(&event, &[]).map_err(super::step("report"))
}

/// What was copied in the freeze.
struct Taken {
    upper: (File, Packed),
    tmpfs: Vec<(PathBuf, File)>,
    log: Option<(File, u64)>,
    partial: Partial,
    clocks: Clocks,
    at: i64,
    notes: Vec<String>,
}

struct Dumper<'a> {
    channel: &'a Channel,
    plan: &'a DumpPlan,
    sandbox: SandboxRecord,
    record: ContainerRecord,
    spec: Spec,
    image: ImageRecord,
    cgroup: Cgroup,
    cancel: Arc<AtomicBool>,
}

fn checkpoint(channel: &Channel, plan: &DumpPlan) -> Result<CheckpointReport> {
    let begun = Instant::now();
    let location = || CheckpointError::Location { location: plan.location.clone() };
    let dir = plan.location.parent().ok_or_else(location)?;
    let name: OsString = plan.location.file_name().ok_or_else(location)?.into();
    if fs::symlink_metadata(&plan.location).is_ok() {
        return Err(CheckpointError::Exists { location: plan.location.clone() });
    }
    let missing =
        || crate::error::RuntimeError::NotFound { what: "container", id: plan.id.clone() };
    let record = plan.layout.load_container(&plan.id)?.ok_or_else(missing)?;
    let sandbox = plan.layout.load_sandbox(&plan.sandbox)?.ok_or_else(missing)?;
    let bundle = plan.layout.container_dir(&plan.id);
    let dumper = Dumper {
        channel,
        plan,
        spec: read_spec(&bundle)?,
        image: Store::new(plan.layout.images()).of_container(&record)?,
        cgroup: Cgroup::at(&plan.layout.container_cgroup(&plan.sandbox, &plan.id))?,
        cancel: Arc::default(),
        sandbox,
        record,
    };
    if plan.with_image && dumper.record.root == RootPlan::Host {
        return Err(CheckpointError::Image {
            id: dumper.image.info.id,
            reason: "the host's own programs are not an image; use a root filesystem folder or an \
                     image instead"
                .into(),
        });
    }
    dumper.check_surroundings()?;
    let writer = ArchiveWriter::create(dir)?;
    dumper.run(writer, &name, begun)
}

impl Dumper<'_> {
    fn run(
        &self,
        mut writer: ArchiveWriter,
        name: &std::ffi::OsStr,
        begun: Instant,
    ) -> Result<CheckpointReport> {
        self.put_head(&mut writer)?;
        let options = DumpOptions {
            pid: self.plan.pid,
            cgroup_procs: self.cgroup.procs_files(),
            external_pipes: self
                .plan
                .descriptors
                .iter()
                .filter(|d| d.starts_with("pipe:"))
                .cloned()
                .collect(),
            // With `stop`, the cgroup is frozen before the engine lets go: nothing runs on, and
            // until the archive is whole everything can still be undone.
            leave_running: !self.plan.stop || self.cgroup.can_hold(),
            cancel: self.cancel.clone(),
            track: true,
            self_check: self.plan.self_check,
        };
        let mut sink =
            Sink { writer, channel: self.channel, cancel: self.cancel.clone(), stats: None };
        let mut around = Around { dumper: self, instant: None };
        let dumped = cryopod_engine::dump(&options, &mut sink, &mut around);
        let report = dumped.map_err(CheckpointError::Engine)?;
        let Some(instant) = around.instant else { return Err(CheckpointError::Cancelled) };
        let Sink { mut writer, stats, .. } = sink;
        if let Some(stats) = stats {
            writer.put(names::STATS, &stats, 0o600)?;
        }
        let notes = notes(&report, &instant);
        self.put_rest(&mut writer, instant, &report, &notes)?;
        if cancelled(self.channel) {
            return Err(CheckpointError::Cancelled);
        }
        if let Some(witness) = &report.witness {
            let archive = Arc::new(Archive::from_file(writer.seal()?, &self.plan.location)?);
            witness.compare(&super::restore::Source { archive: &archive, check: false })?;
        }
        let finished = writer.finish(name).map_err(|error| match error {
            WriteError::Exists { path } => CheckpointError::Exists { location: path },
            other => other.into(),
        })?;
        Ok(CheckpointReport {
            location: finished.path,
            archive_bytes: finished.size,
            frozen_micros: micros(report.freeze),
            total_micros: micros(begun.elapsed()),
            tasks: report.tasks as u64,
            pages: report.pages_written,
            stopped: self.plan.stop,
            notes,
        })
    }

    /// The entries that are known before anything is stopped.
    fn put_head(&self, writer: &mut ArchiveWriter) -> Result<()> {
        let record = &self.record;
        let annotations = self.spec.annotations().clone().unwrap_or_default();
        let config = ConfigDump {
            id: record.id.clone(),
            name: annotations
                .get("io.kubernetes.cri-o.Name")
                .cloned()
                .unwrap_or_else(|| record.config.name.clone()),
            rootfs_image: record.image_name.clone(),
            rootfs_image_ref: record
                .image_id
                .strip_prefix("sha256:")
                .unwrap_or_default()
                .to_owned(),
            rootfs_image_name: record.image_name.clone(),
            oci_runtime: "cryopod".into(),
            created_time: rfc3339(record.created_at),
            checkpointed_time: rfc3339(now()),
            restored: record.restore.is_some(),
            restored_time: if record.restore.is_some() {
                rfc3339(record.started_at)
            } else {
                cryopod_archive::ZERO_TIME.into()
            },
        };
        writer.put(names::CONFIG, &to_json(&config)?, 0o600)?;
        writer.put(names::SPEC, &to_json(&self.spec_now()?)?, 0o600)?;
        let binds = self.bind_mounts();
        if !binds.is_empty() {
            writer.put(names::BIND_MOUNTS, &to_json(&binds)?, 0o600)?;
        }
        writer.directory(names::IMAGES)?;
        let descriptors = to_json(&self.plan.descriptors)?;
        writer.put(&format!("{}/descriptors.json", names::IMAGES), &descriptors, 0o600)?;
        Ok(())
    }

    /// The spec with the limits as they are now: they can be changed while it runs.
    fn spec_now(&self) -> Result<Spec> {
        let mut spec = self.spec.clone();
        if let Some(linux) = spec.linux_mut() {
            let config = &self.record.config;
            let resources = spec::resources(config, config.security.privileged);
            linux.set_resources(Some(serde_json::from_value(resources)?));
        }
        Ok(spec)
    }

    /// The bind mounts that a restore needs, without those that every container has.
    fn bind_mounts(&self) -> Vec<BindMount> {
        let own = [Path::new("/dev/shm"), Path::new("/etc/resolv.conf")];
        let is_bind = |m: &&Mount| m.typ().as_deref() == Some("bind");
        let mounts = self.spec.mounts().iter().flatten().filter(is_bind);
        mounts
            .filter(|m| !own.contains(&m.destination().as_path()))
            .filter_map(|mount| {
                let source = mount.source().as_ref()?;
                let meta = fs::metadata(source).ok();
                let is_dir = meta.as_ref().is_none_or(fs::Metadata::is_dir);
                Some(BindMount {
                    source: source.to_string_lossy().into_owned(),
                    destination: mount.destination().to_string_lossy().into_owned(),
                    file_type: if is_dir { "directory" } else { "file" }.into(),
                    permissions: meta.map_or(0o755, |m| m.permissions().mode() & 0o7777),
                })
            })
            .collect()
    }

    /// Refuses what is around the tasks and cannot be carried.
    fn check_surroundings(&self) -> Result<()> {
        let expected = surroundings::Expected {
            spec: &self.spec,
            root: &self.record.root,
            host_ipc: self.sandbox.config.host_ipc,
            processes: self.cgroup.processes(),
        };
        Ok(surroundings::check(self.plan.pid, &expected)?)
    }

    /// Everything that must be of the same instant as the memory.
    fn while_frozen(&self) -> Result<Taken> {
        // What was made since the first look.
        self.check_surroundings()?;
        let clocks = Clocks::of(self.plan.pid)
            .map_err(failed("read the clocks of", format!("process {}", self.plan.pid)))?;
        let at = now();
        if self.plan.stop {
            self.cgroup.hold()?;
        }
        let (drained, log) = self.drain_log()?;
        let upper = self.copy_upper()?;
        let mut notes = Vec::new();
        let mut tmpfs = Vec::new();
        for destination in self.tmpfs_mounts() {
            if cancelled(self.channel) {
                return Err(CheckpointError::Cancelled);
            }
            let (file, packed) = self.copy_tmpfs(&destination)?;
            // The top folder alone: nothing was put there.
            if packed.entries > 1 {
                let news = packed.notes.iter().filter(|n| is_news(n, &destination));
                notes.extend(news.map(|note| describe(&destination.to_string_lossy(), note)));
                tmpfs.push((destination, file));
            }
        }
        Ok(Taken {
            upper,
            tmpfs,
            log: log.map(|file| (File::from(file), drained.log_bytes)),
            partial: drained.partial,
            clocks,
            at,
            notes,
        })
    }

    /// Waits until nobody enters the container.
    fn alone(&self) -> Result<()> {
        let channel = || failed::<io::Error>("tell the shim about", "the stop");
        self.channel.send(&Event::Stopping, &[]).map_err(channel())?;
        match self.channel.receive::<Command>().map_err(channel())? {
            Some((Command::Alone, _)) => Ok(()),
            Some(_) => Err(CheckpointError::Cancelled),
            None => Err(channel()(io::Error::new(io::ErrorKind::BrokenPipe, "the shim is gone"))),
        }
    }

    fn drain_log(&self) -> Result<(Drained, Option<OwnedFd>)> {
        let channel = || failed::<io::Error>("ask the shim about", "the log");
        self.channel.send(&Event::Drain, &[]).map_err(channel())?;
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the shim is gone");
        loop {
            match self.channel.receive::<Command>().map_err(channel())? {
                Some((Command::Drained(drained), fds)) => {
                    return Ok((drained, fds.into_iter().next()));
                }
                Some((Command::Cancel, _)) => return Err(CheckpointError::Cancelled),
                Some((Command::Release | Command::Alone, _)) => {}
                None => return Err(channel()(gone())),
            }
        }
    }

    /// A file without a name beside the container's own files, which go with it.
    fn scratch(&self) -> Result<File> {
        let bundle = self.plan.layout.container_dir(&self.plan.id);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::open(&bundle, flags, Mode::from(0o600))
            .map(File::from)
            .map_err(failed("make a file in", bundle))
    }

    fn copy_upper(&self) -> Result<(File, Packed)> {
        let bundle = self.plan.layout.container_dir(&self.plan.id);
        let open_dir = |path: &Path| {
            rustix::fs::open(
                path,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(failed("open", path))
        };
        let upper = open_dir(&bundle.join("upper"))?;
        let lowers = self
            .record
            .root
            .lowers(&bundle)
            .iter()
            .map(|dir| open_dir(dir))
            .collect::<Result<Vec<_>>>()?;
        let mut out = io::BufWriter::with_capacity(1 << 20, self.scratch()?);
        let packed = pack_upper(&upper, &lowers, &[], &mut out)
            .map_err(|source| CheckpointError::Tree { what: "root filesystem changes", source })?;
        let file = out
            .into_inner()
            .map_err(|e| failed("write", "root filesystem changes")(e.into_error()))?;
        Ok((file, packed))
    }

    /// Where memory file systems are mounted that the container can write to.
    fn tmpfs_mounts(&self) -> Vec<PathBuf> {
        let mounts = self.spec.mounts().iter().flatten();
        mounts
            .filter(|m| m.typ().as_deref() == Some("tmpfs") || is_pod_shm(m, &self.sandbox))
            .map(|m| m.destination().clone())
            .collect()
    }

    fn copy_tmpfs(&self, destination: &Path) -> Result<(File, Packed)> {
        let path = format!("/proc/{}/root", self.plan.pid);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty()).map_err(failed("open", &path))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = tree::open(&root, destination, flags, Mode::empty())
            .map_err(failed("open", destination))?;
        // What every container has anew.
        let skip: Vec<PathBuf> = if destination == Path::new("/dev") {
            ["fd", "stdin", "stdout", "stderr", "ptmx", "core"].map(PathBuf::from).into()
        } else {
            Vec::new()
        };
        let mut out = io::BufWriter::with_capacity(1 << 20, self.scratch()?);
        let packed = pack_tree(dir.as_fd(), &skip, &mut out)
            .map_err(|source| CheckpointError::Tree { what: "memory file system", source })?;
        let file =
            out.into_inner().map_err(|e| failed("write", "memory file system")(e.into_error()))?;
        Ok((file, packed))
    }

    /// The entries that are known only now.
    fn put_rest(
        &self,
        writer: &mut ArchiveWriter,
        instant: Taken,
        report: &DumpReport,
        notes: &[String],
    ) -> Result<()> {
        let (mut file, packed) = instant.upper;
        if packed.entries > 1 || !packed.deleted.is_empty() {
            self.copy(writer, names::ROOTFS_DIFF, &mut file)?;
        }
        if !packed.deleted.is_empty() {
            writer.put(names::DELETED_FILES, &to_json(&packed.deleted)?, 0o600)?;
        }
        let mut tmpfs = Vec::new();
        for (number, (destination, mut file)) in instant.tmpfs.into_iter().enumerate() {
            let entry = format!("tmpfs/{number}.tar");
            self.copy(writer, &entry, &mut file)?;
            tmpfs.push(Tmpfs { destination, entry });
        }
        if let Some((file, bytes)) = instant.log {
            // The shim goes on to write through the same descriptor.
            let mut log = Window { file: Arc::new(file), at: 0, end: bytes };
            let read = writer.copy(names::LOG, 0o600, &mut log)?;
            if read != bytes {
                let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter");
                return Err(failed("read", "the log")(cut));
            }
        }
        if self.plan.with_image {
            super::embed::image(writer, &self.plan.layout, &self.image, &|| {
                if cancelled(self.channel) { Err(CheckpointError::Cancelled) } else { Ok(()) }
            })?;
        }
        let manifest = Manifest {
            version: 1,
            sandbox: self.sandbox.config.clone(),
            container: self.record.config.clone(),
            image: ImageManifest {
                id: self.image.info.id.clone(),
                name: self.record.image_name.clone(),
                origin: self.image.origin.clone(),
                defaults: self.image.defaults.clone(),
                repo_tags: self.image.info.repo_tags.clone(),
                repo_digests: self.image.info.repo_digests.clone(),
                embedded: self.plan.with_image,
            },
            stop_signal: self.record.stop_signal,
            clocks: instant.clocks,
            partial: instant.partial,
            tmpfs,
            checkpointed_at: instant.at,
        };
        writer.put(manifest::NAME, &to_json(&manifest)?, 0o600)?;
        writer.put(names::DUMP_LOG, dump_log(report, notes).as_bytes(), 0o600)?;
        Ok(())
    }

    fn copy(&self, writer: &mut ArchiveWriter, name: &str, file: &mut File) -> Result<()> {
        file.seek(SeekFrom::Start(0)).map_err(failed("read", name))?;
        writer.copy(name, 0o600, file)?;
        if cancelled(self.channel) { Err(CheckpointError::Cancelled) } else { Ok(()) }
    }
}

/// True for the bind mount of a pod's own `/dev/shm`.
fn is_pod_shm(mount: &Mount, sandbox: &SandboxRecord) -> bool {
    mount.destination() == Path::new("/dev/shm")
        && mount.typ().as_deref() == Some("bind")
        && !sandbox.config.host_ipc
}

/// Mount points, and the devices of `/dev`, are made anew with each container.
fn is_news(note: &Note, destination: &Path) -> bool {
    note.what != NoteKind::Mountpoint
        && !(destination == Path::new("/dev") && note.what == NoteKind::Device)
}

fn describe(tree: &str, note: &Note) -> String {
    let what = match &note.what {
        NoteKind::Socket => "a socket, left out until its owner binds it again".into(),
        NoteKind::Device => "a device, left out".into(),
        NoteKind::Mountpoint => "a mount point, left out".into(),
        NoteKind::Vanished => "removed while it was copied".into(),
        NoteKind::Undeletable => "deleted, but its name is not UTF-8: it will be back".into(),
        NoteKind::SizeChanged { packed } => {
            format!("changed its size while it was copied, {packed} bytes are kept")
        }
        NoteKind::Attribute(name) => format!("attribute {name} is not kept"),
        other => format!("{other:?}"),
    };
    format!("{tree}: {:?}: {what}", note.path)
}

/// What the shim says to a helper that takes or restores a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Command {
    /// The log is drained; it is beside this.
    Drained(Drained),
    /// Nobody enters the container until it runs again.
    Alone,
    /// Give up.
    Cancel,
    /// Let the restored tasks run.
    Release,
}

/// Looks, without waiting, whether the shim has said something: at these moments that can only be
/// that it wants no more, or that it is gone.
fn cancelled(channel: &Channel) -> bool {
    let mut fds = [PollFd::new(channel, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&now)), Ok(count) if count > 0)
}

/// What is done when the container is stopped.
struct Around<'a> {
    dumper: &'a Dumper<'a>,
    instant: Option<Taken>,
}

impl Moments for Around<'_> {
    fn before_stop(&mut self) -> io::Result<()> {
        self.dumper.alone().map_err(io::Error::other)
    }

    fn after_stop(&mut self) {
        // A shim that is gone lets nobody in.
        let _ = self.dumper.channel.send(&Event::Thawed, &[]);
    }

    fn while_frozen(&mut self) -> io::Result<()> {
        self.instant = Some(self.dumper.while_frozen().map_err(io::Error::other)?);
        Ok(())
    }
}

/// The archive as the engine sees it.
struct Sink<'a> {
    writer: ArchiveWriter,
    channel: &'a Channel,
    cancel: Arc<AtomicBool>,
    stats: Option<Vec<u8>>,
}

impl Sink<'_> {
    fn look(&self) {
        if cancelled(self.channel) {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
}

impl ImageSink for Sink<'_> {
    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.look();
        if name == names::STATS {
            self.stats = Some(bytes.to_vec());
            return Ok(());
        }
        let name = format!("{}/{name}", names::IMAGES);
        self.writer.put(&name, bytes, 0o600).map_err(io::Error::other)
    }

    fn begin_pages(&mut self, name: &str) -> io::Result<()> {
        self.look();
        let name = format!("{}/{name}", names::IMAGES);
        self.writer.begin(&name, 0o600, true).map_err(io::Error::other)
    }

    fn write_pages(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.look();
        if self.cancel.load(Ordering::Relaxed) {
            return Err(io::Error::other("cancelled"));
        }
        self.writer.append(bytes).map_err(io::Error::other)
    }

    fn end_pages(&mut self) -> io::Result<()> {
        self.writer.end().map(drop).map_err(io::Error::other)
    }

    fn revise_pages(
        &mut self,
        name: &str,
        edits: &[Edit],
        content: &mut Content<'_>,
    ) -> io::Result<()> {
        self.look();
        if self.cancel.load(Ordering::Relaxed) {
            return Err(io::Error::other("cancelled"));
        }
        let name = format!("{}/{name}", names::IMAGES);
        self.writer.revise(&name, edits, content).map_err(io::Error::other)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn rfc3339(nanoseconds: i64) -> String {
    jiff::Timestamp::from_nanosecond(nanoseconds.into())
        .map_or_else(|_| cryopod_archive::ZERO_TIME.into(), |t| format!("{t:.9}"))
}

fn notes(report: &DumpReport, instant: &Taken) -> Vec<String> {
    let mut notes = instant.notes.clone();
    for (pid, name) in &report.left_out {
        notes.push(format!("process {pid} ({name}) is not the container's own and was left out"));
    }
    if report.interrupted_calls > 0 {
        let count = report.interrupted_calls;
        notes.push(format!("{count} interrupted system calls answer EINTR after a restore"));
    }
    for note in &instant.upper.1.notes {
        notes.push(describe("root filesystem", note));
    }
    notes
}

fn dump_log(report: &DumpReport, notes: &[String]) -> String {
    let mut text = format!(
        "cryopod {}\ntasks {}\nthreads {}\npages scanned {}\npages written {}\npages copied before the freeze {}\n\
         frozen {} us\nstopped before {} us\nmemory {}\n",
        env!("CARGO_PKG_VERSION"),
        report.tasks,
        report.threads,
        report.pages_scanned,
        report.pages_written,
        report.pages_before,
        report.freeze.as_micros(),
        report.first_stop.as_micros(),
        report.memory_method,
    );
    for (part, took) in report.phases.parts() {
        text.push_str(&format!("in the freeze: {part} {} us\n", took.as_micros()));
    }
    for note in notes {
        text.push_str("note: ");
        text.push_str(note);
        text.push('\n');
    }
    text
}
