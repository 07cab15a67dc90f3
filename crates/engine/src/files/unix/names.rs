//! Names of unix sockets: paths, abstract names, paths that are gone.
//!
//! A socket's name is what bind(2) was told: a path may be relative to a directory, or belong to a
//! task with another root. At restore the path is bound below the same directory, with its old
//! owner and mode; a stale socket file in its place is removed. A path that was removed is bound in
//! a file system of its own that nobody else sees (fsmount(2), 5.2), and so is the name that an
//! accepted connection has from its listener. Abstract names are bound as they are.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cryopod_images::msg;
use cryopod_sys::socket;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::ESTABLISHED;
use crate::error::{DumpError, RestoreError};
use crate::files::OpenFile;
use crate::proc;

/// Path of a name; `None` for an abstract one and for none.
#[must_use]
pub fn path(name: &[u8]) -> Option<&Path> {
    if matches!(name.first(), None | Some(0)) {
        return None;
    }
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    Some(Path::new(OsStr::from_bytes(&name[..end])))
}

/// The sockaddr of a name.
#[must_use]
pub fn address(name: &[u8]) -> Vec<u8> {
    let mut addr = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    addr.extend(name);
    addr
}

/// Fills the parts of an entry that are about the file of its name.
///
/// # Errors
/// A refusal of a renamed path, or what the kernel said.
pub fn dump(file: &OpenFile, entry: &mut msg::UnixSkEntry) -> Result<(), DumpError> {
    let kernel =
        |source| DumpError::Kernel { pid: file.pid, what: "cannot read a socket's path", source };
    let Some(name) = path(&entry.name).map(Path::to_owned) else { return Ok(()) };
    let Some(bound) = socket::bound_file(file.file.as_fd()).map_err(kernel)? else {
        return Ok(());
    };
    let stat = rustix::fs::fstat(&bound).map_err(|e| kernel(e.into()))?;
    let real = proc::link(&format!("self/fd/{}", bound.as_raw_fd()))?;
    entry.file_perms =
        Some(msg::FilePermsEntry { mode: stat.st_mode, uid: stat.st_uid, gid: stat.st_gid });
    if stat.st_nlink == 0 || real.as_os_str().as_bytes().ends_with(b" (deleted)") {
        entry.deleted = Some(true);
        return Ok(());
    }
    let same = |at: &str, path: &Path| {
        let found = rustix::fs::open(at, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .and_then(|dir| below(dir.as_fd(), path));
        let found = found.and_then(rustix::fs::fstat);
        found.is_ok_and(|s| (s.st_dev, s.st_ino) == (stat.st_dev, stat.st_ino))
    };
    let root = proc::link(&format!("{}/root", file.pid))?;
    if name.is_absolute()
        && root == Path::new("/")
        && same(&format!("/proc/{}/root", file.pid), &name)
    {
        return Ok(());
    }
    let suffix = name.strip_prefix("/").unwrap_or(&name);
    let tail: Vec<u8> = [b"/", suffix.as_os_str().as_bytes()].concat();
    let dir = match real.as_os_str().as_bytes().strip_suffix(&tail[..]) {
        Some(dir) => {
            Some(PathBuf::from(OsStr::from_bytes(if dir.is_empty() { b"/" } else { dir })))
        }
        None if name.is_absolute() => {
            same(&format!("/proc/{}/root", file.pid), &name).then_some(root)
        }
        None => {
            let cwd = format!("{}/cwd", file.pid);
            let dir = proc::link(&cwd)?;
            let beside = same(&format!("/proc/{cwd}"), &name);
            beside.then_some(dir)
        }
    };
    match dir {
        Some(dir) => entry.name_dir = Some(dir.into_os_string().into_encoded_bytes()),
        // An accepted connection only bears the name.
        None if entry.state == ESTABLISHED => entry.deleted = Some(true),
        None => {
            let what = format!(
                "a unix socket bound to {}, which is called {} now",
                name.display(),
                real.display()
            );
            return Err(file.refusal(&what, "keep the name of a socket's file as it was bound"));
        }
    }
    Ok(())
}

fn below(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Where a path is bound: the directory, and the name in it. A connect(2) from there finds it.
#[derive(Debug)]
pub struct Place {
    /// The directory.
    pub dir: OwnedFd,
    /// The name in it.
    pub base: Vec<u8>,
}

/// Does something with another root and working directory.
fn within<T>(
    root: BorrowedFd<'_>,
    cwd: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let here = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old_root = rustix::fs::open("/", here, Mode::empty())?;
    let old_cwd = rustix::fs::open(".", here, Mode::empty())?;
    let enter = |root: BorrowedFd<'_>, cwd: BorrowedFd<'_>| -> io::Result<()> {
        rustix::process::fchdir(root)?;
        rustix::process::chroot(".")?;
        Ok(rustix::process::fchdir(cwd)?)
    };
    let result = enter(root, cwd).and_then(|()| work());
    enter(old_root.as_fd(), old_cwd.as_fd())?;
    result
}

/// Binds to a path as it was bound, below the root directory of the tree.
///
/// # Errors
/// A file in its place that is no socket, and what the kernel said.
pub fn bind(
    fd: BorrowedFd<'_>,
    entry: &msg::UnixSkEntry,
    root: BorrowedFd<'_>,
) -> Result<Place, RestoreError> {
    let name = path(&entry.name).unwrap_or(Path::new(""));
    let shown = name.to_string_lossy().into_owned();
    let kernel = |source: io::Error| RestoreError::Kernel {
        pid: 0,
        what: format!("cannot bind a unix socket to {shown} again"),
        source,
    };
    let differs = |what: &str| RestoreError::FileDiffers { path: shown.clone(), what: what.into() };
    let open = |at: BorrowedFd<'_>, path: &Path| match below(at, path) {
        Err(rustix::io::Errno::NOENT) => Err(differs("its directory is not there")),
        other => other.map_err(|e| kernel(e.into())),
    };
    let dir = entry.name_dir.as_deref().unwrap_or(b"/");
    let dir = open(root, Path::new(OsStr::from_bytes(dir)))?;
    // The directory is the root an absolute name belongs to, or where a relative one begins.
    let (root, cwd) =
        if name.is_absolute() { (dir.as_fd(), dir.as_fd()) } else { (root, dir.as_fd()) };
    let parent = name.parent().unwrap_or(Path::new(""));
    let parent = if parent == Path::new("") { Path::new(".") } else { parent };
    let base = name.file_name().ok_or_else(|| differs("it is no name of a file"))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = within(root, cwd, || Ok(rustix::fs::open(parent, flags, Mode::empty())?))
        .map_err(kernel)?;
    match rustix::fs::statat(&parent, base, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {
            rustix::fs::unlinkat(&parent, base, AtFlags::empty()).map_err(|e| kernel(e.into()))?;
        }
        Ok(_) => return Err(differs("there is another file now")),
        Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(kernel(e.into())),
    }
    let addr = address(&entry.name);
    within(root, cwd, || socket::bind(fd, &addr)).map_err(kernel)?;
    dress(fd, entry).map_err(kernel)?;
    Ok(Place { dir: parent, base: base.as_bytes().to_vec() })
}

/// Gives the file of a socket its owner and mode.
fn dress(fd: BorrowedFd<'_>, entry: &msg::UnixSkEntry) -> io::Result<()> {
    let Some(perms) = &entry.file_perms else { return Ok(()) };
    let Some(file) = socket::bound_file(fd)? else { return Ok(()) };
    let (uid, gid) = (Uid::from_raw(perms.uid), Gid::from_raw(perms.gid));
    rustix::fs::chownat(&file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    // chmod(2) takes no O_PATH descriptor.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(perms.mode & 0o7777))?)
}

/// A file system of our own, in which every socket gets a root of its own.
#[derive(Debug, Default)]
pub struct Hidden {
    root: Option<OwnedFd>,
    count: u32,
}

impl Hidden {
    /// Binds to a path that nobody else sees.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN; those of mkdir(2) and bind(2).
    pub fn bind(&mut self, fd: BorrowedFd<'_>, entry_name: &[u8]) -> io::Result<Place> {
        let name = path(entry_name).unwrap_or(Path::new(""));
        let base = name.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if self.root.is_none() {
            let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
            rustix::mount::fsconfig_create(context.as_fd())?;
            let made = rustix::mount::fsmount(
                context.as_fd(),
                FsMountFlags::FSMOUNT_CLOEXEC,
                MountAttrFlags::MOUNT_ATTR_NODEV,
            )?;
            self.root = Some(made);
        }
        let Some(root) = &self.root else { return Err(io::ErrorKind::NotFound.into()) };
        self.count += 1;
        let own = self.count.to_string();
        let parent = name.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
        let addr = address(entry_name);
        // Tasks of any user connect to it.
        let everybody = Mode::RWXU | Mode::RWXG | Mode::RWXO;
        let umask = rustix::process::umask(Mode::empty());
        let bound = rustix::fs::mkdirat(root, &own, everybody)
            .and_then(|()| rustix::fs::openat(root, &own, flags, Mode::empty()))
            .map_err(io::Error::from)
            .and_then(|own| {
                within(own.as_fd(), own.as_fd(), || {
                    std::fs::create_dir_all(parent)?;
                    let dir = rustix::fs::open(parent, flags, Mode::empty())?;
                    socket::bind(fd, &addr)?;
                    Ok(dir)
                })
            });
        rustix::process::umask(umask);
        Ok(Place { dir: bound?, base: base.as_bytes().to_vec() })
    }
}

impl Place {
    /// Removes the name, as it was removed before.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub fn remove(&self) -> io::Result<()> {
        let base = OsStr::from_bytes(&self.base);
        Ok(rustix::fs::unlinkat(&self.dir, base, AtFlags::empty())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_abstract_names_are_told_apart() {
        assert_eq!(path(b"a/b\0"), Some(Path::new("a/b")));
        assert_eq!(path(b"\0abstract"), None);
        assert_eq!(path(b""), None);
    }
}
