//! Root filesystems: what lies below, and how it is put together with a container's own changes.
//!
//! A root is always an overlay (overlayfs, `lowerdir+` since 6.5) whose upper layer belongs to the
//! container. Below it are unpacked image layers, a folder, or, for the host's own programs, a
//! skeleton of empty folders over which the host's `/usr`, `/etc` and so on are bound read-only.
//! `redirect_dir`, `metacopy` and `index` are off, so that the upper layer alone is the whole change.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use serde::{Deserialize, Serialize};

use crate::tree;

/// What lies below a container's own changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RootPlan {
    /// Unpacked layers, the topmost first.
    Layers(Vec<PathBuf>),
    /// A folder, used in place.
    Folder(PathBuf),
    /// The host's own programs.
    Host,
}

/// Why a root filesystem could not be put together.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path:?}")]
pub(crate) struct RootError {
    pub(crate) action: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

fn failed<E: Into<io::Error>>(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> RootError {
    let path = path.into();
    move |e| RootError { action, path, source: e.into() }
}

/// Top-level names of the host that hold programs and what they need.
pub(crate) const HOST_NAMES: [&str; 9] =
    ["bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "usr"];

/// Empty folders of the skeleton, with their modes.
const SKELETON: [(&str, u32); 14] = [
    ("dev", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];

/// Folders of a bundle that belong to its root filesystem.
pub(crate) const BUNDLE_FOLDERS: [&str; 4] = ["rootfs", "upper", "work", "skeleton"];

impl RootPlan {
    /// Makes the folders a bundle needs for its root.
    pub(crate) fn prepare(&self, bundle: &Path) -> Result<(), RootError> {
        for name in BUNDLE_FOLDERS {
            let dir = bundle.join(name);
            // The upper folder is the container's `/`: others than root must get through it.
            fs::DirBuilder::new().mode(0o755).create(&dir).map_err(failed("create", &dir))?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))
                .map_err(failed("set the mode of", &dir))?;
        }
        self.copy_top_attributes(bundle)?;
        if *self != Self::Host {
            return Ok(());
        }
        let skeleton = bundle.join("skeleton");
        for (name, mode) in SKELETON {
            let dir = skeleton.join(name);
            fs::create_dir(&dir).map_err(failed("create", &dir))?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode))
                .map_err(failed("set the mode of", &dir))?;
        }
        for name in HOST_NAMES {
            let (host, ours) = (Path::new("/").join(name), skeleton.join(name));
            let Ok(kind) = fs::symlink_metadata(&host) else { continue };
            if kind.is_symlink() {
                let target = fs::read_link(&host).map_err(failed("read", &host))?;
                symlink(target, &ours).map_err(failed("create", &ours))?;
            } else if kind.is_dir() {
                fs::create_dir(&ours).map_err(failed("create", &ours))?;
            }
        }
        Ok(())
    }

    /// The upper folder is what `/` of the container shows: it takes owner and mode of the root
    /// below it.
    fn copy_top_attributes(&self, bundle: &Path) -> Result<(), RootError> {
        let lower = match self {
            Self::Layers(dirs) => dirs.first(),
            Self::Folder(dir) => Some(dir),
            Self::Host => None,
        };
        let Some(lower) = lower else { return Ok(()) };
        let upper = bundle.join("upper");
        let meta = fs::metadata(lower).map_err(failed("read", lower))?;
        fs::set_permissions(&upper, meta.permissions())
            .map_err(failed("set the mode of", &upper))?;
        use std::os::unix::fs::MetadataExt;
        std::os::unix::fs::chown(&upper, Some(meta.uid()), Some(meta.gid()))
            .map_err(failed("set the owner of", &upper))
    }

    /// The folders below a container's own changes, the topmost first.
    pub(crate) fn lowers(&self, bundle: &Path) -> Vec<PathBuf> {
        match self {
            Self::Layers(dirs) if dirs.is_empty() => vec![bundle.join("skeleton")],
            Self::Layers(dirs) => dirs.clone(),
            Self::Folder(dir) => vec![dir.clone()],
            Self::Host => vec![bundle.join("skeleton")],
        }
    }

    /// Puts the root together on `<bundle>/rootfs` in the caller's mount namespace and returns a
    /// descriptor of it.
    pub(crate) fn mount(&self, bundle: &Path) -> Result<OwnedFd, RootError> {
        let rootfs = bundle.join("rootfs");
        let overlay = self.overlay(bundle).map_err(failed("mount overlayfs for", &rootfs))?;
        attach_at(&overlay, &rootfs).map_err(failed("mount", &rootfs))?;
        let root = rustix::fs::open(
            &rootfs,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(failed("open", &rootfs))?;
        if *self == Self::Host {
            for name in HOST_NAMES {
                let host = Path::new("/").join(name);
                if fs::symlink_metadata(&host).is_ok_and(|m| m.is_dir()) {
                    bind_read_only(&host, &root, name).map_err(failed("bind", &host))?;
                }
            }
        }
        Ok(root)
    }

    /// The root as a mount that is attached nowhere; it goes with its last descriptor.
    pub(crate) fn overlay(&self, bundle: &Path) -> io::Result<OwnedFd> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let set = |key: &str, value: &Path| fsconfig_set_string(&context, key, value.as_os_str());
        set("source", Path::new("overlay"))?;
        for lower in self.lowers(bundle) {
            set("lowerdir+", &lower)?;
        }
        set("upperdir", &bundle.join("upper"))?;
        set("workdir", &bundle.join("work"))?;
        for key in ["redirect_dir", "metacopy", "index"] {
            set(key, Path::new("off"))?;
        }
        fsconfig_create(&context)?;
        Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
    }

    /// A file of the root as the image has it, without a container's changes: the first layer that
    /// has it wins. `None`: not there, or larger than 1 MiB.
    pub(crate) fn read_file(&self, path: &Path) -> Option<Vec<u8>> {
        let dirs = match self {
            Self::Layers(dirs) => dirs.clone(),
            Self::Folder(dir) => vec![dir.clone()],
            Self::Host => vec![PathBuf::from("/")],
        };
        for dir in dirs {
            let Ok(root) = File::open(&dir) else { continue };
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
            let Ok(file) = tree::open(&root, path, flags, Mode::empty()) else { continue };
            let mut bytes = Vec::new();
            let file = File::from(file);
            if file.metadata().is_ok_and(|m| m.is_file())
                && file.take(1 << 20).read_to_end(&mut bytes).is_ok()
            {
                return Some(bytes);
            }
            return None;
        }
        None
    }
}

/// Attaches a detached mount at a path of the caller's mount namespace.
pub(crate) fn attach_at(mount: impl AsFd, path: &Path) -> io::Result<()> {
    move_mount(mount, "", CWD, path.as_os_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(Into::into)
}

/// Attaches a detached mount on a mount point given by descriptor.
pub(crate) fn attach(mount: impl AsFd, point: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", point, "", flags).map_err(Into::into)
}

/// A detached copy of the mount at a path.
pub(crate) fn clone_tree(at: impl AsFd, path: &OsStr, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    open_tree(at, path, flags).map_err(Into::into)
}

fn bind_read_only(host: &Path, root: &OwnedFd, name: &str) -> io::Result<()> {
    use cryopod_sys::mount::{ATTR_RDONLY, set_attributes};
    let tree = clone_tree(CWD, host.as_os_str(), true)?;
    set_attributes(tree.as_fd(), ATTR_RDONLY, 0, libc::MS_PRIVATE, true)?;
    attach(&tree, &tree::locate(root, Path::new(name))?)
}
