//! The mounts of an OCI spec, made below a root filesystem; and what hides or protects parts of it.
//!
//! Runs in the container's first process, in its own mount namespace, before pivot_root. Uses the
//! mount API of Linux 5.2 and mount_setattr (5.12): every mount is made detached and attached to a
//! descriptor that was looked up below the root, so a link in an image cannot lead it elsewhere.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use cryopod_sys::mount::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, set_attributes};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount};
use rustix::fs::{CWD, FileType, Mode, OFlags, chmodat, chownat, mknodat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::root::{attach, clone_tree};
use crate::tree::{self, Kind};

/// Why a mount could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("mount {kind} on {path:?}")]
    Mount { kind: String, path: PathBuf, source: io::Error },
    #[error("option {option:?} of the mount on {path:?} is not supported")]
    Option { option: String, path: PathBuf },
    #[error("{action} {path:?}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

fn failed<E: Into<io::Error>>(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> MountError {
    let path = path.into();
    move |e| MountError::Io { action, path, source: e.into() }
}

/// What a list of mount options says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    set: u64,
    clear: u64,
    bind: bool,
    recursive: bool,
    propagation: u64,
    /// `key`, or `key=value`, for the file system itself.
    data: Vec<String>,
}

fn parse(options: &[String], path: &Path) -> Result<Options, MountError> {
    let mut parsed = Options { propagation: libc::MS_PRIVATE, ..Options::default() };
    for option in options {
        match option.as_str() {
            "ro" => parsed.set |= ATTR_RDONLY,
            "rw" => parsed.clear |= ATTR_RDONLY,
            "nosuid" => parsed.set |= ATTR_NOSUID,
            "suid" => parsed.clear |= ATTR_NOSUID,
            "nodev" => parsed.set |= ATTR_NODEV,
            "dev" => parsed.clear |= ATTR_NODEV,
            "noexec" => parsed.set |= ATTR_NOEXEC,
            "exec" => parsed.clear |= ATTR_NOEXEC,
            "bind" => parsed.bind = true,
            "rbind" => (parsed.bind, parsed.recursive) = (true, true),
            "private" | "rprivate" => parsed.propagation = libc::MS_PRIVATE,
            "slave" | "rslave" => parsed.propagation = libc::MS_SLAVE,
            // relatime is what a new mount has.
            "defaults" | "relatime" | "async" => {}
            "shared" | "rshared" | "unbindable" | "runbindable" | "remount" | "sync"
            | "noatime" | "nodiratime" | "strictatime" => {
                return Err(MountError::Option { option: option.clone(), path: path.into() });
            }
            other => parsed.data.push(other.into()),
        }
    }
    Ok(parsed)
}

/// The cgroup hierarchies of the machine: name below `/sys/fs/cgroup` and controllers (v1), or
/// nothing (v2). Read while the machine's own /proc is still there.
#[derive(Debug, Default)]
pub(crate) struct CgroupMounts(Vec<(String, Option<Vec<String>>)>);

impl CgroupMounts {
    /// Reads them.
    pub(crate) fn read() -> Self {
        Self(crate::cgroup::visible_hierarchies())
    }
}

/// Makes one mount of the spec below `root`.
pub(crate) fn make(
    root: BorrowedFd<'_>,
    mount: &Mount,
    cgroups: &CgroupMounts,
) -> Result<(), MountError> {
    let path = mount.destination();
    let empty = Vec::new();
    let options = parse(mount.options().as_ref().unwrap_or(&empty), path)?;
    let kind = mount.typ().as_deref().unwrap_or("bind");
    let named =
        |source: io::Error| MountError::Mount { kind: kind.into(), path: path.clone(), source };
    if options.bind || kind == "bind" {
        return bind(root, mount, &options).map_err(named);
    }
    if kind == "cgroup" {
        return cgroup(root, path, &options, cgroups).map_err(named);
    }
    let source = mount.source().as_deref().unwrap_or(Path::new(kind));
    let fs = filesystem(kind, source, &options.data, options.set & !ATTR_RDONLY).map_err(named)?;
    let point = tree::mount_point(root, path, Kind::Folder).map_err(named)?;
    attach(&fs, &point).map_err(named)?;
    if options.set & ATTR_RDONLY != 0 && path != Path::new("/dev") {
        set_attributes(fs.as_fd(), ATTR_RDONLY, 0, 0, false).map_err(named)?;
    }
    Ok(())
}

fn filesystem(kind: &str, source: &Path, data: &[String], attributes: u64) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", source.as_os_str())?;
    for option in data {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&context, key, value)?,
            None => fsconfig_set_flag(&context, option.as_str())?,
        }
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn bind(root: BorrowedFd<'_>, mount: &Mount, options: &Options) -> io::Result<()> {
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    let meta = std::fs::metadata(source)?;
    let kind = if meta.is_dir() { Kind::Folder } else { Kind::File };
    let tree = clone_tree(CWD, source.as_os_str(), options.recursive)?;
    set_attributes(
        tree.as_fd(),
        options.set,
        options.clear,
        options.propagation,
        options.recursive,
    )?;
    attach(&tree, &tree::mount_point(root, mount.destination(), kind)?)
}

/// On a machine with v2 alone, its view; else a tmpfs with one folder for each hierarchy.
fn cgroup(
    root: BorrowedFd<'_>,
    path: &Path,
    options: &Options,
    cgroups: &CgroupMounts,
) -> io::Result<()> {
    let attributes = options.set & !ATTR_RDONLY;
    let point = tree::mount_point(root, path, Kind::Folder)?;
    let read_only = options.set & ATTR_RDONLY;
    if let [(_, None)] = cgroups.0.as_slice() {
        let fs = filesystem("cgroup2", Path::new("cgroup"), &[], attributes)?;
        attach(&fs, &point)?;
        return set_attributes(fs.as_fd(), read_only, 0, 0, false);
    }
    let top = filesystem("tmpfs", Path::new("tmpfs"), &["mode=755".into()], attributes)?;
    attach(&top, &point)?;
    for (name, v1) in &cgroups.0 {
        let (kind, data) = match v1 {
            Some(controllers) => ("cgroup", controllers.clone()),
            None => ("cgroup2", Vec::new()),
        };
        let fs = filesystem(kind, Path::new("cgroup"), &data, attributes)?;
        let point = tree::mount_point(root, &path.join(name), Kind::Folder)?;
        attach(&fs, &point)?;
        set_attributes(fs.as_fd(), read_only, 0, 0, false)?;
    }
    set_attributes(top.as_fd(), read_only, 0, 0, false)
}

/// Character devices every container has: name, major, minor.
pub(crate) const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Fills `/dev`: the usual devices and links, and those of the spec.
pub(crate) fn fill_dev(root: BorrowedFd<'_>, extra: &[LinuxDevice]) -> Result<(), MountError> {
    let dev = Path::new("/dev");
    let folder = tree::locate(root, dev).map_err(failed("open", dev))?;
    let umask = rustix::process::umask(Mode::empty());
    let filled = (|| {
        for (name, major, minor) in DEVICES {
            let path = dev.join(name);
            node(root, &path, FileType::CharacterDevice, (major, minor), 0o666)
                .map_err(failed("make the device", &path))?;
        }
        for device in extra {
            extra_device(root, device).map_err(failed("make the device", device.path()))?;
        }
        for (name, target) in LINKS {
            match symlinkat(target, &folder, name) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(failed("make the link", dev.join(name))(e)),
            }
        }
        Ok(())
    })();
    rustix::process::umask(umask);
    filled
}

fn extra_device(root: BorrowedFd<'_>, device: &LinuxDevice) -> io::Result<()> {
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => return Err(Errno::INVAL.into()),
    };
    let number = |n: i64| u32::try_from(n).map_err(io::Error::other);
    let numbers = (number(device.major())?, number(device.minor())?);
    let path = device.path();
    let mode = device.file_mode().unwrap_or(0o666);
    node(root, path, kind, numbers, mode)?;
    let (uid, gid) = (device.uid(), device.gid());
    if uid.is_some() || gid.is_some() {
        let (parent, name) = parent(root, path)?;
        let uid = uid.map(rustix::fs::Uid::from_raw);
        let gid = gid.map(rustix::fs::Gid::from_raw);
        chownat(&parent, name, uid, gid, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn parent<'a>(root: BorrowedFd<'_>, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    Ok((tree::mount_point(root, folder, Kind::Folder)?, name))
}

/// A device node; where nodes cannot be made, the machine's own, bound.
fn node(
    root: BorrowedFd<'_>,
    path: &Path,
    kind: FileType,
    (major, minor): (u32, u32),
    mode: u32,
) -> io::Result<()> {
    let (folder, name) = parent(root, path)?;
    let mode = Mode::from_raw_mode(mode & 0o7777);
    match mknodat(&folder, name, kind, mode, rustix::fs::makedev(major, minor)) {
        Ok(()) => Ok(chmodat(&folder, name, mode, rustix::fs::AtFlags::empty())?),
        Err(Errno::EXIST) => Ok(()),
        Err(Errno::PERM) => {
            let tree = clone_tree(CWD, path.as_os_str(), false)?;
            attach(&tree, &tree::mount_point(root, path, Kind::File)?)
        }
        Err(e) => Err(e.into()),
    }
}

/// Makes paths unreadable: a file shows nothing, a folder is empty. What is not there is left out.
/// Paths are those of the caller, which has entered the root by now.
pub(crate) fn mask(paths: &[String]) -> Result<(), MountError> {
    for path in paths {
        let named = failed("mask", path);
        let masked = (|| -> io::Result<()> {
            let point = match rustix::fs::open(
                path.as_str(),
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
            ) {
                Ok(point) => point,
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
                Err(e) => return Err(e.into()),
            };
            if FileType::from_raw_mode(rustix::fs::fstat(&point)?.st_mode).is_dir() {
                let data = ["size=0".to_owned(), "nr_inodes=2".into()];
                let empty = filesystem("tmpfs", Path::new("tmpfs"), &data, ATTR_RDONLY)?;
                attach(&empty, &point)
            } else {
                let null = clone_tree(CWD, OsStr::new("/dev/null"), false)?;
                attach(&null, &point)
            }
        })();
        masked.map_err(named)?;
    }
    Ok(())
}

/// Makes paths read-only, with everything mounted below. What is not there is left out.
pub(crate) fn protect(paths: &[String]) -> Result<(), MountError> {
    for path in paths {
        let protected = (|| -> io::Result<()> {
            let tree = match clone_tree(CWD, OsStr::new(path), true) {
                Ok(tree) => tree,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(e),
            };
            set_attributes(tree.as_fd(), ATTR_RDONLY, 0, 0, true)?;
            let point =
                rustix::fs::open(path.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            attach(&tree, &point)
        })();
        protected.map_err(failed("protect", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_into_attributes_and_data() {
        let options = ["nosuid", "noexec", "ro", "mode=755", "newinstance"].map(str::to_owned);
        let parsed = parse(&options, Path::new("/x")).unwrap();
        assert_eq!(parsed.set, ATTR_NOSUID | ATTR_NOEXEC | ATTR_RDONLY);
        assert_eq!(parsed.data, ["mode=755", "newinstance"]);
    }

    #[test]
    fn a_shared_mount_is_refused() {
        assert!(parse(&["rshared".to_owned()], Path::new("/x")).is_err());
    }
}
