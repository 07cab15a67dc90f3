//! What surrounds a container's tasks and cannot be carried: found before the freeze, looked for
//! again in it, and refused by name.
//!
//! - System V memory, semaphores and message queues of the pod's ipc namespace (sysvipc(7)): the
//!   kernel keeps them apart from any process, with a creator at best (`/proc/sysvipc`, which shows
//!   the reader's own ipc namespace; the caller is in the pod's).
//! - POSIX message queues (mq_overview(7)): they have names in `/dev/mqueue` while they exist.
//! - Mounts that the container made or removed itself (proc_pid_mountinfo(5)): a restore makes those
//!   of the spec.
//!
//! POSIX shared memory and semaphores are files of `/dev/shm`, and go with it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;

use crate::root::{HOST_NAMES, RootPlan};
use crate::tree;

/// What a container has that stays behind.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SurroundingsError {
    #[error(
        "the pod holds what cannot be checkpointed: {object}; remove it (ipcrm), or use POSIX \
         shared memory and semaphores instead"
    )]
    Ipc { object: String },
    #[error(
        "the pod holds what cannot be checkpointed: POSIX message queue {name:?}; remove it \
         (mq_unlink) before the checkpoint"
    )]
    Queue { name: OsString },
    #[error(
        "the container holds what cannot be checkpointed: a mount at {path:?} (file system {kind}) \
         that is not of its spec; unmount it, or ask for it when the container is made"
    )]
    Mount { path: PathBuf, kind: String },
    #[error(
        "the container's mount at {path:?} is gone, and a restore would bring it back; mount it \
         again before the checkpoint"
    )]
    Unmounted { path: PathBuf },
    #[error("read {path:?}")]
    Read { path: PathBuf, source: io::Error },
}

impl SurroundingsError {
    /// True when it is the container's, false when looking failed.
    pub(crate) fn is_refusal(&self) -> bool {
        !matches!(self, Self::Read { .. })
    }
}

type Result<T> = std::result::Result<T, SurroundingsError>;

fn read(path: impl Into<PathBuf>) -> Result<Vec<u8>> {
    let path = path.into();
    fs::read(&path).map_err(|source| SurroundingsError::Read { path, source })
}

/// What a container is expected to have around it.
#[derive(Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) root: &'a RootPlan,
    /// The ipc namespace is the machine's: what is in it stays there.
    pub(crate) host_ipc: bool,
    /// Its processes as the caller sees them.
    pub(crate) processes: Vec<i32>,
}

/// Looks at everything around the container whose first process is `pid`.
pub(crate) fn check(pid: i32, expected: &Expected<'_>) -> Result<()> {
    let (task, mountinfo) = living_thread(pid)?;
    if !expected.host_ipc {
        check_system_v(&expected.processes)?;
        check_queues(&task)?;
    }
    let mounted = mounted(&mountinfo);
    check_mounts(&mounted, &points(&task, expected, &mounted)?)
}

/// The folder in /proc of a thread that lives, and its mounts: one that has ended has neither mounts
/// nor a root (EINVAL), be it the first of a process that goes on.
fn living_thread(pid: i32) -> Result<(PathBuf, Vec<u8>)> {
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    let threads = fs::read_dir(&tasks)
        .map_err(|source| SurroundingsError::Read { path: tasks.clone(), source })?;
    let mut last = Err(SurroundingsError::Read { path: tasks, source: Errno::SRCH.into() });
    for thread in threads.flatten() {
        match read(thread.path().join("mountinfo")) {
            Ok(mountinfo) => return Ok((thread.path(), mountinfo)),
            Err(error) => last = Err(error),
        }
    }
    last
}

fn check_system_v(processes: &[i32]) -> Result<()> {
    for (file, what) in [
        ("shm", "System V shared memory"),
        ("sem", "System V semaphores"),
        ("msg", "System V message queue"),
    ] {
        let path = format!("/proc/sysvipc/{file}");
        // A kernel without them has no such file.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for line in text.lines().skip(1) {
            if let Some(object) = system_v(line, file == "shm", processes) {
                return Err(SurroundingsError::Ipc { object: format!("{what} {object}") });
            }
        }
    }
    Ok(())
}

/// The name of an object on a line of `/proc/sysvipc`, unless it is somebody else's: memory tells
/// its creator, which may be a process of another container of the pod that still lives.
fn system_v(line: &str, has_creator: bool, processes: &[i32]) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (key, id) = (fields.first()?.parse::<i32>().ok()?, fields.get(1)?);
    if has_creator {
        let creator: i32 = fields.get(4).and_then(|f| f.parse().ok()).unwrap_or(0);
        let lives = creator > 0 && Path::new(&format!("/proc/{creator}")).exists();
        if lives && !processes.contains(&creator) {
            return None;
        }
    }
    Some(format!("SYSV{key:08x} (id {id})"))
}

fn check_queues(task: &Path) -> Result<()> {
    // A root without it has no queues with a name that the container could see.
    let Ok(entries) = fs::read_dir(task.join("root/dev/mqueue")) else { return Ok(()) };
    match entries.flatten().next() {
        Some(entry) => Err(SurroundingsError::Queue { name: entry.file_name() }),
        None => Ok(()),
    }
}

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mounted {
    id: u64,
    path: PathBuf,
    kind: String,
}

fn mounted(mountinfo: &[u8]) -> Vec<Mounted> {
    let parse = |line: &[u8]| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let id = std::str::from_utf8(fields.first()?).ok()?.parse().ok()?;
        let path = PathBuf::from(OsString::from_vec(unescape(fields.get(4)?)));
        let dash = fields.iter().position(|field| *field == b"-")?;
        let kind = String::from_utf8_lossy(fields.get(dash + 1)?).into_owned();
        Some(Mounted { id, path, kind })
    };
    mountinfo.split(|byte| *byte == b'\n').filter_map(parse).collect()
}

/// Spaces and the like are three octal digits behind a backslash.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

/// Where mounts are expected.
#[derive(Debug, Default, PartialEq, Eq)]
struct Points {
    /// As mountinfo has them; twice for two mounts on one place.
    exact: Vec<PathBuf>,
    /// Below these, what is mounted there on the machine is mounted in the container.
    trees: Vec<PathBuf>,
}

fn points(task: &Path, expected: &Expected<'_>, mounted: &[Mounted]) -> Result<Points> {
    let path = task.join("root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty())
        .map_err(|e| SurroundingsError::Read { path, source: e.into() })?;
    let mut points = Points { exact: vec!["/".into()], trees: Vec::new() };
    for mount in expected.spec.mounts().iter().flatten() {
        let destination = mount.destination();
        let Some(point) = point(&root, destination, mounted)? else {
            return Err(SurroundingsError::Unmounted { path: destination.clone() });
        };
        let follows = |o: &String| matches!(o.as_str(), "rbind" | "rslave" | "slave");
        if mount.typ().as_deref() == Some("cgroup") || mount.options().iter().flatten().any(follows)
        {
            points.trees.push(point.clone());
        }
        points.exact.push(point);
    }
    if *expected.root == RootPlan::Host {
        points.trees.extend(HOST_NAMES.iter().map(|name| Path::new("/").join(name)));
    }
    let linux = expected.spec.linux().as_ref();
    let hidden = linux
        .into_iter()
        .flat_map(|l| [l.masked_paths(), l.readonly_paths()])
        .flat_map(|paths| paths.iter().flatten())
        .map(PathBuf::from);
    let devices = linux.and_then(|l| l.devices().as_ref()).into_iter().flatten();
    let devices = devices.map(|device| device.path().clone());
    let own = crate::mounts::DEVICES.iter().map(|(name, ..)| Path::new("/dev").join(name));
    let console = PathBuf::from("/dev/console");
    // Where these are not mount points, they are not there, or made in another way.
    for path in hidden.chain(devices).chain(own).chain([console]) {
        points.exact.extend(point(&root, &path, mounted)?);
    }
    Ok(points)
}

/// Where the mount at a path of the container really is: a folder on the way may be a link. `None`:
/// nothing is mounted there.
fn point(root: &OwnedFd, path: &Path, mounted: &[Mounted]) -> Result<Option<PathBuf>> {
    let failed = |e: Errno| SurroundingsError::Read { path: path.into(), source: e.into() };
    let fd = match tree::locate(root, path) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let stat = statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map_err(failed)?;
    if !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(None);
    }
    Ok(mounted.iter().find(|m| m.id == stat.stx_mnt_id).map(|m| m.path.clone()))
}

fn check_mounts(mounted: &[Mounted], points: &Points) -> Result<()> {
    let mut expected = points.exact.clone();
    for mount in mounted {
        if let Some(at) = expected.iter().position(|path| *path == mount.path) {
            expected.swap_remove(at);
            continue;
        }
        if !points.trees.iter().any(|tree| mount.path.starts_with(tree)) {
            let Mounted { path, kind, .. } = mount.clone();
            return Err(SurroundingsError::Mount { path, kind });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &str, kind: &str) -> String {
        format!("36 35 98:0 / {path} rw,noatime master:1 - {kind} source rw\n")
    }

    fn look(more: &[(&str, &str)]) -> Result<()> {
        let usual = [
            ("/", "overlay"),
            ("/proc", "proc"),
            ("/sys/fs/cgroup", "tmpfs"),
            ("/sys/fs/cgroup/memory", "cgroup"),
            ("/data", "ext4"),
        ];
        let text: String = usual.iter().chain(more).map(|(path, kind)| line(path, kind)).collect();
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        let points = Points {
            exact: paths(&["/", "/proc", "/sys/fs/cgroup", "/data"]),
            trees: paths(&["/sys/fs/cgroup"]),
        };
        check_mounts(&mounted(text.as_bytes()), &points)
    }

    #[test]
    fn mounts_of_the_spec_are_no_news_and_others_are_named() {
        look(&[]).unwrap();
        let error = look(&[("/data/mine\\040too", "tmpfs")]).unwrap_err();
        assert!(error.is_refusal());
        let text = error.to_string();
        assert!(text.contains("\"/data/mine too\" (file system tmpfs)"), "{text}");
        let text = look(&[("/data", "tmpfs")]).unwrap_err().to_string();
        assert!(text.contains("\"/data\""), "a second one on the same place: {text}");
    }

    #[test]
    fn a_mount_is_found_behind_links_and_what_is_none_is_not() {
        let own = std::process::id();
        let mounted = mounted(&read(format!("/proc/{own}/mountinfo")).unwrap());
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let root = rustix::fs::open("/", flags, Mode::empty()).unwrap();
        let proc = point(&root, Path::new("/proc"), &mounted).unwrap();
        assert_eq!(proc, Some(PathBuf::from("/proc")));
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/proc", dir.path().join("link")).unwrap();
        assert_eq!(point(&root, &dir.path().join("link"), &mounted).unwrap(), proc);
        assert_eq!(point(&root, dir.path(), &mounted).unwrap(), None);
        assert_eq!(point(&root, &dir.path().join("none"), &mounted).unwrap(), None);
    }

    #[test]
    fn memory_of_a_process_that_lives_elsewhere_is_not_ours() {
        let own = std::process::id();
        let line = |creator: u32| format!(" 4711 3 600 65536 {creator} 0 0 0 0 0 0 0 0 0 0 0");
        assert_eq!(system_v(&line(own), true, &[]), None);
        let ours = system_v(&line(own), true, &[own.try_into().unwrap()]);
        assert_eq!(ours.as_deref(), Some("SYSV00001267 (id 3)"));
        assert!(system_v(&line(0), true, &[]).is_some(), "its creator is gone");
        assert!(system_v(&line(own), false, &[]).is_some(), "it tells no creator");
    }
}
