//! File trees within an archive: changes to a root filesystem, and the content of a tmpfs, each a
//! tar of its own. [`pack`] writes one, [`unpack`] puts one back.
//!
//! Both sides meet somebody else's names: packing, those of a container that may still run;
//! unpacking, those of whoever made the archive. Paths are resolved by openat2(2) (Linux 5.6) below
//! a directory that is open, never through a magic link of /proc, never into another mount; a
//! symbolic link on the way leads no further than that directory.

pub(crate) mod pack;
pub(crate) mod unpack;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::tar::decode::TarError;
use crate::tar::show;

/// Why a tree cannot be packed or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A system call failed.
    #[error("{path:?}: cannot {action}")]
    Io {
        /// Path within the tree.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The tar cannot be written.
    #[error("cannot write the tar of a tree")]
    Output {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The tar format is violated.
    #[error("the tar of a tree is damaged")]
    Tar {
        /// What is wrong, and where.
        #[source]
        source: TarError,
    },
    /// An entry that a tree may not have.
    #[error("entry {name:?} at offset {offset} of a tree: {what}")]
    Refused {
        /// The entry, as stored.
        name: String,
        /// Where it begins in the tar, in bytes.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A path that leads elsewhere in a list of deleted files.
    #[error("deleted file {path:?}: the path is not absolute and exact")]
    Deleted {
        /// The path, as stored.
        path: String,
    },
    /// overlayfs keeps part of a file elsewhere; the overlay must be mounted with
    /// `redirect_dir=off,metacopy=off`.
    #[error("{path:?}: overlayfs keeps part of it in another layer ({attribute})")]
    Layered {
        /// Path within the tree.
        path: PathBuf,
        /// The extended attribute that says so.
        attribute: &'static str,
    },
    /// The tree has more than was allowed.
    #[error("the tree has more than {limit} {what}")]
    Limit {
        /// How many are allowed.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// The tar is compressed in a way that is not known.
    #[error("the tar of a tree is compressed with {format}")]
    Compressed {
        /// With what.
        format: &'static str,
    },
}

/// Something that is not in the copy, or not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Path within the tree.
    pub path: PathBuf,
    /// What about it.
    pub what: NoteKind,
}

/// What a [`Note`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoteKind {
    /// A unix socket: it is made again when its owner binds, so it is left out.
    Socket,
    /// A device node: left out.
    Device,
    /// Something is mounted there: left out.
    Mountpoint,
    /// It was removed while it was read: left out.
    Vanished,
    /// It was deleted, but its name is not UTF-8, so that no list of deleted files can say so.
    Undeletable,
    /// The file changed its size while it was read: cut or filled with zeros.
    SizeChanged {
        /// Bytes in the copy.
        packed: u64,
    },
    /// An extended attribute that could not be kept.
    Attribute(String),
}

/// Never into another mount: what is mounted inside a tree is not part of it.
const WITHIN: ResolveFlags =
    ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);
/// For paths that are known to have no link in them.
const STRAIGHT: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

fn open(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let path = CString::new(if path.is_empty() { b"." } else { path }).map_err(|_| Errno::INVAL)?;
    // EAGAIN: something was renamed meanwhile, so that the kernel cannot tell whether it stayed
    // within.
    for _ in 0..64 {
        match rustix::fs::openat2(dir, &path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// A path that names an open file itself, a symbolic link included, for calls that take no
/// descriptor opened with O_PATH.
fn fd_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Whether an extended attribute is part of a file: not the kernel's notes to itself, overlayfs's
/// among them, and not labels of a security module.
fn kept(attribute: &[u8]) -> bool {
    let overlay =
        attribute.starts_with(b"trusted.overlay.") || attribute.starts_with(b"user.overlay.");
    let plain = attribute.starts_with(b"user.")
        || attribute.starts_with(b"trusted.")
        || attribute == b"security.capability"
        || attribute == b"system.posix_acl_access"
        || attribute == b"system.posix_acl_default";
    plain && !overlay
}

fn path_of(name: &[u8]) -> PathBuf {
    Path::new(std::ffi::OsStr::from_bytes(name)).to_owned()
}

fn io_error(name: &[u8], action: &'static str) -> impl FnOnce(Errno) -> TreeError + use<> {
    let path = path_of(name);
    move |errno| TreeError::Io { path, action, source: errno.into() }
}

fn refused(name: &[u8], offset: u64, what: &'static str) -> TreeError {
    TreeError::Refused { name: show(name), offset, what }
}
