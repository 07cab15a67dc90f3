//! Paths below a root that is not to be left: openat2(2), Linux 5.6.
//!
//! Symbolic links are followed as if the root were `/`; `..` stops there, and the magic links of
//! /proc are not followed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;

const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Opens a path below `root`.
pub(crate) fn open(
    root: impl AsFd,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let relative = relative(path);
    let mut tries = 0;
    loop {
        match openat2(&root, &relative, flags | OFlags::CLOEXEC, mode, INSIDE) {
            // The kernel could not rule out a race with a rename elsewhere; it asks to try again.
            Err(Errno::AGAIN) if tries < 128 => tries += 1,
            other => return other,
        }
    }
}

/// Opens a path below `root` as a location only.
pub(crate) fn locate(root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    open(root, path, OFlags::PATH, Mode::empty())
}

/// A path without its leading `/`; the root itself becomes `.`.
pub(crate) fn relative(path: &Path) -> PathBuf {
    let rest: PathBuf = path
        .components()
        .filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir))
        .collect();
    if rest.as_os_str().is_empty() { ".".into() } else { rest }
}

/// The kind of a mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Folder,
    File,
}

/// Opens a mount point below `root`; what is missing of its path is made (folders 0755, file 0644).
pub(crate) fn mount_point(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> io::Result<OwnedFd> {
    match locate(root, path) {
        Ok(fd) => return Ok(fd),
        Err(Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let path = relative(path);
    let mut current = locate(root, Path::new("."))?;
    let mut so_far = PathBuf::new();
    let count = path.components().count();
    for (index, component) in path.components().enumerate() {
        so_far.push(component);
        let next = match locate(root, &so_far) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                let Component::Normal(name) = component else {
                    return Err(Errno::NOENT.into());
                };
                if index + 1 == count && kind == Kind::File {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    rustix::fs::openat(&current, name, flags, Mode::from(0o644))?;
                } else {
                    match mkdirat(&current, name, Mode::from(0o755)) {
                        // A dangling link lies there: it cannot be made into a folder.
                        Err(Errno::EXIST) => return Err(Errno::NOTDIR.into()),
                        other => other?,
                    }
                }
                locate(root, &so_far)?
            }
            Err(e) => return Err(e.into()),
        };
        current = next;
    }
    Ok(current)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn links_and_dots_never_lead_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/../../etc", dir.path().join("out")).unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/mark"), "inside").unwrap();
        let root = File::open(dir.path()).unwrap();
        for path in ["/out/mark", "../../etc/mark", "/etc/../../etc/mark"] {
            let fd = open(&root, Path::new(path), OFlags::RDONLY, Mode::empty()).unwrap();
            assert_eq!(io::read_to_string(File::from(fd)).unwrap(), "inside", "{path}");
        }
    }

    #[test]
    fn a_missing_mount_point_is_made_with_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        mount_point(root.as_fd(), Path::new("/a/b/c"), Kind::File).unwrap();
        mount_point(root.as_fd(), Path::new("/a/d/e"), Kind::Folder).unwrap();
        assert!(dir.path().join("a/b/c").is_file());
        assert!(dir.path().join("a/d/e").is_dir());
    }
}
