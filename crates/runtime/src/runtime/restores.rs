//! Making containers from checkpoint archives.
//!
//! Everything that can be found out is found out here, before anything is made: whether the archive
//! is whole, whose it is, what it needs. What it brings is unpacked through a mount that is attached
//! nowhere. The restore itself happens at the start.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cryopod_archive::{
    Archive, Entry, Limits, MAX_METADATA, MetadataError, ReadError, TreeError, names,
    remove_deleted, unpack_diff, unpack_tree,
};
use oci_spec::runtime::Spec;

use super::containers::{check, root_error};
use super::{Result, Runtime};
use crate::capability;
use crate::checkpoint::ArchiveDescription;
use crate::config::{ContainerConfig, PodIdentity, SeccompPolicy};
use crate::error::{ErrorKind, RuntimeError};
use crate::image::files::Embedded;
use crate::image::{ImageRecord, Origin, folder_digest};
use crate::manifest::{self, IMAGE_TREE, Manifest, Tmpfs};
use crate::policy::{self, PolicyError};
use crate::record::{ContainerRecord, RestoreRecord, SandboxRecord, Stamp, io_error};
use crate::shim::{Partial, Request};
use crate::spec;
use crate::wire::chain;

/// Annotation of a container that is restored: `lazy` lets it run before its memory is there, `lazy
/// 5ms` with a rest of five milliseconds after each MiB that nobody waits for; `eager`, as without it,
/// only afterwards.
pub const MEMORY_ANNOTATION: &str = "cryopod.restore/memory";

/// Threads that verify an archive.
const VERIFIERS: usize = 2;

fn refused(error: &dyn std::error::Error) -> RuntimeError {
    RuntimeError::Shim { kind: ErrorKind::Refused, message: chain(error) }
}

fn refused_because(message: String) -> RuntimeError {
    RuntimeError::Shim { kind: ErrorKind::Refused, message }
}

impl From<PolicyError> for RuntimeError {
    fn from(error: PolicyError) -> Self {
        refused(&error)
    }
}

fn read_error(error: ReadError) -> RuntimeError {
    match error {
        ReadError::Io { path, action, source } => RuntimeError::Io { action, path, source },
        other => refused(&other),
    }
}

fn metadata_error(error: MetadataError) -> RuntimeError {
    match error {
        MetadataError::Read(error) => read_error(error),
        other => refused(&other),
    }
}

fn tree_error(error: TreeError) -> RuntimeError {
    refused(&error)
}

/// An archive that was opened and understood.
struct Opened {
    archive: Archive,
    stamp: Stamp,
    manifest: Option<Manifest>,
    spec: Spec,
    pod: PodIdentity,
    container: String,
    image_ref: String,
    image_name: String,
    checkpointed_at: i64,
}

fn open(path: &Path) -> Result<Opened> {
    let archive = Archive::open(path).map_err(read_error)?;
    let stamp = Stamp::of(archive.file()).map_err(io_error("look at", path))?;
    let summary = archive.summary().map_err(metadata_error)?;
    let manifest = manifest::read(&archive).map_err(metadata_error)?;
    let bytes = archive.read(names::SPEC, MAX_METADATA).map_err(read_error)?;
    let spec: Spec = serde_json::from_slice(&bytes).map_err(|e| {
        refused_because(format!("{path:?}: entry {:?} is not an OCI spec: {e}", names::SPEC))
    })?;
    let pod = match &manifest {
        Some(manifest) => manifest.sandbox.identity.clone(),
        None => PodIdentity {
            name: summary.identity.pod.clone().unwrap_or_default(),
            namespace: summary.identity.namespace.clone().unwrap_or_default(),
            ..PodIdentity::default()
        },
    };
    let taken = summary.config.checkpointed_time.parse::<jiff::Timestamp>();
    let taken = taken.ok().and_then(|t| i64::try_from(t.as_nanosecond()).ok()).unwrap_or(0);
    Ok(Opened {
        container: match &manifest {
            Some(manifest) => manifest.container.name.clone(),
            None => summary.identity.container.unwrap_or_default(),
        },
        checkpointed_at: manifest.as_ref().map_or(taken, |m| m.checkpointed_at),
        image_ref: summary.config.rootfs_image_ref,
        image_name: summary.config.rootfs_image_name,
        archive,
        stamp,
        manifest,
        spec,
        pod,
    })
}

impl Runtime {
    /// What an archive says of the container it was taken of. Its data is not verified.
    ///
    /// # Errors
    /// Kind [`Refused`](crate::ErrorKind::Refused) when it is damaged or no checkpoint archive.
    pub fn describe_archive(&self, archive: &Path) -> Result<ArchiveDescription> {
        let opened = open(archive)?;
        let image_id = match &opened.manifest {
            Some(manifest) => manifest.image.id.clone(),
            None => opened.image_ref.clone(),
        };
        Ok(ArchiveDescription {
            pod: opened.pod,
            container: opened.container,
            image_id,
            image_name: opened.image_name,
            image_embedded: opened.manifest.as_ref().is_some_and(|m| m.image.embedded),
            checkpointed_at: opened.checkpointed_at,
            sandbox: opened.manifest.as_ref().map(|m| m.sandbox.clone()),
            config: opened.manifest.map(|m| m.container),
        })
    }

    /// Makes a container from a checkpoint archive and returns its id. The archive is verified
    /// (digests, base image, identity against the sandbox and `config`) and unpacked;
    /// [`start_container`](Self::start_container) makes it go on. `config.image`, `command`, `args`,
    /// `env` and `working_dir` are not used: they come from the archive. `config.mounts` must offer
    /// every bind mount of the archive's container, and its capabilities every one a task has.
    ///
    /// # Errors
    /// Kind [`Refused`](crate::ErrorKind::Refused) when the archive is damaged, its base image is
    /// missing (the digest is named) or it does not fit; nothing is left.
    pub fn create_container_from_archive(
        &self,
        sandbox: &str,
        config: &ContainerConfig,
        archive: &Path,
    ) -> Result<String> {
        let sandbox = self.ready_sandbox(sandbox)?;
        let opened = open(archive)?;
        let wanted = &sandbox.config.identity.namespace;
        if opened.pod.namespace != *wanted {
            let (archived, wanted) = (opened.pod.namespace.clone(), wanted.clone());
            return Err(PolicyError::Namespace { archived, wanted }.into());
        }
        // All of it, so that damage is found before anything is made; but for the pages of memory that
        // is to come late, of which each chunk is verified before it is used.
        let lazy = comes_late(config)?.filter(|_| opened.archive.id().is_some());
        let wanted = |entry: &Entry| lazy.is_none() || !is_pages(&entry.name);
        opened.archive.verify_chosen(VERIFIERS, &wanted).map_err(read_error)?;
        let config = complete(config, &opened)?;
        check(&config)?;
        let (bounding, _) = capability::plan(&config.security).map_err(|e| {
            RuntimeError::InvalidArgument { field: "capabilities", reason: e.to_string() }
        })?;
        policy::check_capabilities(&opened.archive, bounding)?;
        let image = self.base_image(&opened)?;
        let mut record = self.restored_record(&sandbox, &config, &image, &opened)?;
        if let Some(restore) = &mut record.restore {
            restore.lazy = lazy;
        }
        let id = record.id.clone();
        let _lock = self.reserve(&sandbox, &record)?;
        let made = (|| {
            let bundle = self.layout.container_dir(&id);
            record.root.prepare(&bundle).map_err(root_error)?;
            self.restored_spec(&sandbox, &record, &image, &opened)?;
            unpack_root(&opened.archive, &record, &bundle)?;
            restore_log(&opened.archive, &record.log_path)?;
            self.ask(&sandbox.id, &Request::Create { id: id.clone() })
        })();
        match made {
            Ok(_) => Ok(id),
            Err(error) => {
                self.discard(&record);
                Err(error)
            }
        }
    }

    /// The image the archived container was made from.
    fn base_image(&self, opened: &Opened) -> Result<ImageRecord> {
        let store = self.store();
        let Some(manifest) = &opened.manifest else {
            let reference =
                [&opened.image_ref, &opened.image_name].into_iter().find(|r| !r.is_empty());
            let Some(reference) = reference else {
                return Err(PolicyError::Incomplete { what: "name of a base image" }.into());
            };
            return store.find(reference)?.ok_or_else(|| missing(reference, &opened.image_name));
        };
        let wanted = &manifest.image;
        if wanted.origin == Origin::Host {
            return store.resolve(&crate::config::ImageSpec::Host);
        }
        let found = store.list()?.into_iter().find(|i| i.info.id == wanted.id);
        match found {
            Some(image) => match &image.origin {
                Origin::Folder(path) => match folder_digest(path) {
                    Ok((digest, _)) if digest == wanted.id => Ok(image),
                    _ if wanted.embedded => self.embedded_image(opened, manifest),
                    Ok((digest, _)) => Err(refused_because(format!(
                        "base image {} is the folder {path:?}, which has changed: it is {digest} now",
                        wanted.id
                    ))),
                    Err(error) => Err(refused(&error)),
                },
                _ => Ok(image),
            },
            None if wanted.embedded => self.embedded_image(opened, manifest),
            None => Err(missing(&wanted.id, &wanted.name)),
        }
    }

    /// Takes the base image from the archive into the store.
    fn embedded_image(&self, opened: &Opened, manifest: &Manifest) -> Result<ImageRecord> {
        let wanted = &manifest.image;
        let store = self.store();
        let image = match &wanted.origin {
            Origin::Layers { .. } => {
                let mut image = store.import_files(&Embedded(&opened.archive), None)?;
                if image.info.id == wanted.id && image.info.repo_tags.is_empty() {
                    image.info.repo_tags.clone_from(&wanted.repo_tags);
                    image.info.repo_digests.clone_from(&wanted.repo_digests);
                    image = store.add(image)?;
                }
                image
            }
            Origin::Folder(_) => {
                let stream = opened.archive.stream(IMAGE_TREE).map_err(read_error)?;
                let unpack = |dir: &Path| {
                    let dir = File::open(dir).map_err(io_error("open", dir))?;
                    unpack_tree(dir.as_fd(), stream, Limits::default()).map_err(tree_error)?;
                    Ok(())
                };
                let (id, defaults) = (&wanted.id, &wanted.defaults);
                store.adopt_folder(id, &wanted.repo_tags, defaults, unpack)?
            }
            Origin::Host => store.resolve(&crate::config::ImageSpec::Host)?,
        };
        if image.info.id == wanted.id {
            return Ok(image);
        }
        let (found, wanted) = (image.info.id, &wanted.id);
        Err(refused_because(format!("the archive embeds image {found} where it needs {wanted}")))
    }

    fn restored_record(
        &self,
        sandbox: &SandboxRecord,
        config: &ContainerConfig,
        image: &ImageRecord,
        opened: &Opened,
    ) -> Result<ContainerRecord> {
        let mut record = self.new_container(sandbox, config, image)?;
        if record.image_name.is_empty() || config.image_name.is_empty() {
            record.image_name.clone_from(&opened.image_name);
        }
        let descriptors = format!("{}/descriptors.json", names::IMAGES);
        let bytes = opened.archive.read(&descriptors, MAX_METADATA).map_err(read_error)?;
        let descriptors: Vec<String> = serde_json::from_slice(&bytes).map_err(|e| {
            refused_because(format!("entry {descriptors:?} is not a list of names: {e}"))
        })?;
        if let (Some(manifest), true) = (&opened.manifest, config.stop_signal.is_empty()) {
            record.stop_signal = manifest.stop_signal.clamp(1, 64);
        }
        let (clocks, partial, tmpfs) = match &opened.manifest {
            Some(m) => (Some(m.clocks), m.partial.clone(), m.tmpfs.clone()),
            None => (None, Partial::default(), Vec::<Tmpfs>::new()),
        };
        record.restore = Some(RestoreRecord {
            archive: fs::canonicalize(opened.archive.path())
                .unwrap_or_else(|_| opened.archive.path().into()),
            stamp: opened.stamp,
            checkpointed_at: opened.checkpointed_at,
            clocks,
            pid: Some(policy::first_pid(&opened.archive)?),
            partial,
            descriptors,
            tmpfs,
            lazy: None,
        });
        Ok(record)
    }

    /// The spec: everything around the process as the request says, the process as archived.
    fn restored_spec(
        &self,
        sandbox: &SandboxRecord,
        record: &ContainerRecord,
        image: &ImageRecord,
        opened: &Opened,
    ) -> Result<()> {
        let resolv_conf = self.layout.sandbox_dir(&sandbox.id).join("resolv.conf");
        let shm = self.shm(sandbox);
        let mut spec = spec::generate(&spec::Inputs {
            sandbox,
            container: record,
            image: &image.defaults,
            shm: &shm,
            resolv_conf: resolv_conf.exists().then_some(resolv_conf.as_path()),
            cgroup: &self.layout.container_cgroup(&sandbox.id, &record.id),
        })?;
        policy::check_spec(&opened.spec, &spec)?;
        policy::check_mounts(&opened.spec, &spec)?;
        check_tmpfs(record, sandbox, &spec)?;
        // Commands run in it later get what the archived process had, where the request allows it.
        let archived = opened.spec.process().clone();
        if let (Some(mut archived), Some(made)) = (archived, spec.process().clone()) {
            archived.set_capabilities(made.capabilities().clone());
            archived.set_oom_score_adj(made.oom_score_adj());
            archived.set_apparmor_profile(None).set_selinux_label(None);
            if made.no_new_privileges() == Some(true) {
                archived.set_no_new_privileges(Some(true));
            }
            spec.set_process(Some(archived));
        }
        self.save_spec(&record.id, &spec)
    }
}

/// Whether a container's memory may come after it runs: what its annotation says.
fn comes_late(config: &ContainerConfig) -> Result<Option<u64>> {
    let said = config.annotations.get(MEMORY_ANNOTATION).map_or("eager", String::as_str);
    let paced = || said.strip_prefix("lazy ")?.strip_suffix("ms")?.parse::<u16>().ok();
    match said {
        "lazy" => Ok(Some(0)),
        "eager" => Ok(None),
        _ => paced().map(|rest| Some(rest.into())).ok_or_else(|| RuntimeError::InvalidArgument {
            field: "annotations",
            reason: format!(
                "{MEMORY_ANNOTATION} is {said:?}: it can be \"eager\", \"lazy\" or \"lazy 5ms\""
            ),
        }),
    }
}

/// Whether an entry is an image of pages.
fn is_pages(name: &str) -> bool {
    let file = name.rsplit_once('/').map_or(name, |(_, file)| file);
    name.starts_with(names::IMAGES) && file.starts_with("pages-") && file.ends_with(".img")
}

fn missing(id: &str, name: &str) -> RuntimeError {
    refused_because(format!(
        "the archive needs its base image {id} ({name}), which is not here; import it, or take the \
         checkpoint with its image"
    ))
}

/// Fills in what the archive decides.
fn complete(config: &ContainerConfig, opened: &Opened) -> Result<ContainerConfig> {
    let mut config = config.clone();
    let process = opened.spec.process().as_ref();
    let process = process.ok_or(PolicyError::Incomplete { what: "process in its spec" })?;
    if config.name.is_empty() {
        config.name.clone_from(&opened.container);
    }
    config.command = process.args().clone().unwrap_or_default();
    config.args.clear();
    config.env = process
        .env()
        .iter()
        .flatten()
        .filter_map(|e| e.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    config.working_dir.clone_from(process.cwd());
    config.tty = process.terminal().unwrap_or(false);
    config.security.run_as.uid = Some(process.user().uid());
    config.security.run_as.gid = Some(process.user().gid());
    if let Some(manifest) = &opened.manifest {
        config.stdin = manifest.container.stdin;
        config.image = manifest.container.image.clone();
        if config.security.seccomp == SeccompPolicy::Unconfined {
            config.security.seccomp = manifest.container.security.seccomp.clone();
        }
    }
    Ok(config)
}

/// A memory file system is filled only where the new container has one of its own.
fn check_tmpfs(record: &ContainerRecord, sandbox: &SandboxRecord, spec: &Spec) -> Result<()> {
    let Some(restore) = &record.restore else { return Ok(()) };
    for tmpfs in &restore.tmpfs {
        let own = spec.mounts().iter().flatten().any(|m| {
            *m.destination() == tmpfs.destination
                && (m.typ().as_deref() == Some("tmpfs")
                    || (m.destination() == Path::new("/dev/shm") && !sandbox.config.host_ipc))
        });
        if !own {
            return Err(refused_because(format!(
                "the archive has the content of a memory file system at {:?}, where this container \
                 has none of its own",
                tmpfs.destination
            )));
        }
    }
    Ok(())
}

/// Puts the archived changes onto the root filesystem, through an overlay that is mounted nowhere.
fn unpack_root(archive: &Archive, record: &ContainerRecord, bundle: &Path) -> Result<()> {
    let deleted = archive.deleted_files().map_err(metadata_error)?;
    let has_diff = archive.entry(names::ROOTFS_DIFF).is_some();
    if deleted.is_empty() && !has_diff {
        return Ok(());
    }
    let root = record.root.overlay(bundle).map_err(io_error("mount overlayfs for", bundle))?;
    remove_deleted(&root, &deleted).map_err(tree_error)?;
    if has_diff {
        let stream = archive.stream(names::ROOTFS_DIFF).map_err(read_error)?;
        unpack_diff(&root, stream, Limits::default()).map_err(tree_error)?;
    }
    Ok(())
}

/// The log goes on where it was: what somebody wrote into it after the checkpoint is not of this
/// container's past.
fn restore_log(archive: &Archive, path: &Path) -> Result<()> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let name = [names::LOG, names::LOG_CONTAINERD].into_iter().find(|n| archive.entry(n).is_some());
    let Some(name) = name else { return Ok(()) };
    let dir = path.parent().map(PathBuf::from).unwrap_or_default();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&dir)
        .map_err(io_error("create", &dir))?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o640)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&temporary)?;
        let mut stream = archive.stream(name).map_err(io::Error::other)?;
        io::copy(&mut stream, &mut file)?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(io_error("write", path))
}
