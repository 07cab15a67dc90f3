//! inotify(7): instances and their watches.
//!
//! /proc/PID/fdinfo shows a watch's inode and its file handle. The name of the file is found by the
//! handle (open_by_handle_at(2)), or by a search for the inode below the root of the tree where the
//! filesystem has no handles to open. Watches are made again when nothing else is opened any more,
//! so that the restore is not seen by them. Refused: an instance with unread events, which can be
//! neither copied without taking them nor made again; a watch of a file without a name.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cryopod_images::msg;
use cryopod_sys::handle;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{Mode, OFlags};

use super::{Collector, OpenFile, dump_owner, ghosts};
use crate::error::{DumpError, RestoreError};
use crate::proc;

/// Highest watch number that is counted up to.
const HIGHEST: u32 = 1 << 20;
/// Words of 8 bytes that stock criu expects of a handle.
const WORDS: usize = 16;

/// One watch as fdinfo shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Watch {
    wd: u32,
    inode: u64,
    /// As the kernel encodes a device: 20 bits of minor below the major.
    device: u32,
    mask: u32,
    kind: u32,
    handle: Vec<u8>,
}

fn parse(line: &str) -> Option<Watch> {
    let after = |key: &str| {
        line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix(':'))
    };
    let hex = |key: &str| u64::from_str_radix(after(key)?, 16).ok();
    let digits = after("f_handle")?.as_bytes();
    let handle: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    Some(Watch {
        wd: after("wd")?.parse().ok()?,
        inode: hex("ino")?,
        device: hex("sdev")? as u32,
        mask: hex("mask")? as u32,
        kind: hex("fhandle-type")? as u32,
        handle: handle.filter(|h| h.len() as u64 == hex("fhandle-bytes").unwrap_or(0))?,
    })
}

fn device(kernel: u32) -> u64 {
    rustix::fs::makedev(kernel >> 20, kernel & 0xf_ffff)
}

/// Places in the mount namespace of a process where this device is mounted.
fn mounts(pid: i32, dev: u64) -> Vec<PathBuf> {
    let text = proc::read(&format!("{pid}/mountinfo")).unwrap_or_default();
    let wanted = format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
    text.split(|b| *b == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|b| *b == b' ').skip(2);
            let dev = fields.next()?;
            let place = fields.nth(1)?;
            (dev == wanted.as_bytes())
                .then(|| std::ffi::OsStr::from_bytes(&proc::maps::unescape(place)).into())
        })
        .collect()
}

/// The path of a watched file.
fn locate(collector: &Collector<'_>, pid: i32, watch: &Watch) -> Option<PathBuf> {
    let (root, dev) = (collector.root.as_fd(), device(watch.device));
    let leads = |path: &Path| ghosts::leads_to(root, path, dev, watch.inode);
    for mount in mounts(pid, dev) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let found = ghosts::below(root, &mount, flags)
            .map_err(io::Error::from)
            .and_then(|mount| handle::open(mount.as_fd(), watch.kind, &watch.handle))
            .ok()
            .and_then(|file| proc::link(&format!("self/fd/{}", file.as_raw_fd())).ok());
        if let Some(path) = found.filter(|path| leads(path)) {
            return Some(path);
        }
    }
    let near = proc::link(&format!("{pid}/cwd")).ok()?;
    match ghosts::search(root, &near, dev, watch.inode) {
        ghosts::Place::Elsewhere(path) => Some(path),
        _ => None,
    }
}

/// Makes the entry of an inotify instance.
///
/// # Errors
/// A refusal; an fdinfo that is not understood.
pub fn dump(
    collector: &Collector<'_>,
    id: u32,
    file: &OpenFile,
) -> Result<msg::FileEntry, DumpError> {
    let waiting = rustix::io::ioctl_fionread(&file.file).map_err(|e| DumpError::Kernel {
        pid: file.pid,
        what: "cannot ask an inotify instance",
        source: e.into(),
    })?;
    if waiting != 0 {
        let what = "an inotify instance with unread events";
        return Err(file.refusal(what, "try again when the program has read them"));
    }
    let mut wd = Vec::new();
    for line in file.info.text.lines().filter(|line| line.starts_with("inotify ")) {
        let watch = parse(line).ok_or_else(|| {
            proc::malformed(&format!("{}/fdinfo/{}", file.pid, file.fd), "an inotify watch")
        })?;
        let Some(path) = locate(collector, file.pid, &watch) else {
            let what = format!("inotify watch {} of a file without a name", watch.wd);
            return Err(file.refusal(&what, "remove the watch before the checkpoint"));
        };
        let mut words = vec![0u64; WORDS.max(watch.handle.len().div_ceil(8))];
        for (at, byte) in watch.handle.iter().enumerate() {
            words[at / 8] |= u64::from(*byte) << (at % 8 * 8);
        }
        wd.push(msg::InotifyWdEntry {
            id,
            i_ino: watch.inode,
            mask: watch.mask,
            ignored_mask: 0,
            s_dev: watch.device,
            wd: watch.wd,
            f_handle: msg::FhEntry {
                bytes: watch.handle.len() as u32,
                r#type: watch.kind,
                handle: words,
                path: Some(path.as_os_str().as_bytes().to_vec()),
                mnt_id: None,
            },
        });
    }
    wd.sort_unstable_by_key(|w| w.wd);
    Ok(msg::FileEntry {
        r#type: msg::FdTypes::Inotify.into(),
        id,
        ify: Some(msg::InotifyFileEntry {
            id,
            flags: file.flags(),
            fown: dump_owner(file, collector.inside)?,
            wd,
        }),
        ..Default::default()
    })
}

fn kernel(what: &str) -> impl Fn(io::Error) -> RestoreError + use<'_> {
    move |source| RestoreError::Kernel { pid: 0, what: what.to_owned(), source }
}

/// Makes an inotify instance again, without watches.
///
/// # Errors
/// What the kernel said.
pub fn restore(entry: &msg::InotifyFileEntry) -> Result<OwnedFd, RestoreError> {
    let mut flags = CreateFlags::CLOEXEC;
    if entry.flags & libc::O_NONBLOCK as u32 != 0 {
        flags |= CreateFlags::NONBLOCK;
    }
    inotify::init(flags).map_err(|e| kernel("cannot make an inotify instance")(e.into()))
}

/// The watched file, open with O_PATH: by its path, or by its handle as stock criu does.
fn watched(entry: &msg::InotifyWdEntry, root: BorrowedFd<'_>) -> Result<OwnedFd, RestoreError> {
    let handle = &entry.f_handle;
    let fail = kernel("cannot find a watched file");
    if let Some(path) = &handle.path {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        return ghosts::below(root, path, OFlags::PATH | OFlags::NOFOLLOW).map_err(|_| {
            RestoreError::FileDiffers {
                path: path.to_string_lossy().into_owned(),
                what: "it was watched by inotify and is not there".into(),
            }
        });
    }
    let bytes: Vec<u8> = handle.handle.iter().flat_map(|w| w.to_le_bytes()).collect();
    let bytes = bytes.get(..handle.bytes as usize).ok_or_else(|| RestoreError::Image {
        name: "files.img".into(),
        what: "a file handle is shorter than it says".into(),
    })?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mount = rustix::fs::openat(root, ".", flags, Mode::empty()).map_err(|e| fail(e.into()))?;
    handle::open(mount.as_fd(), handle.r#type, bytes).map_err(&fail)
}

/// Gives an instance its watches under their old numbers, which the kernel counts up.
///
/// # Errors
/// A file that is not there; what the kernel said.
pub fn watch(
    entry: &msg::InotifyFileEntry,
    instance: BorrowedFd<'_>,
    root: BorrowedFd<'_>,
) -> Result<(), RestoreError> {
    let fail = kernel("cannot watch a file again");
    let mut watches: Vec<&msg::InotifyWdEntry> = entry.wd.iter().collect();
    watches.sort_unstable_by_key(|w| w.wd);
    for wanted in watches {
        if wanted.wd > HIGHEST {
            return Err(RestoreError::Refused {
                pid: 0,
                what: format!("inotify watch number {} is too high to be counted up to", wanted.wd),
                way_out: "use fewer watches in one instance",
            });
        }
        let file = watched(wanted, root)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mask = WatchFlags::from_bits_retain(wanted.mask);
        loop {
            let wd = inotify::add_watch(instance, &path, mask).map_err(|e| fail(e.into()))?;
            if wd as u32 == wanted.wd {
                break;
            }
            if wd as u32 > wanted.wd {
                return Err(fail(io::Error::other(format!(
                    "watch number {} cannot be had, the kernel gave {wd}",
                    wanted.wd
                ))));
            }
            inotify::remove_watch(instance, wd).map_err(|e| fail(e.into()))?;
            // Each removal is an event; the queue must not flow over.
            drain(instance).map_err(&fail)?;
        }
    }
    drain(instance).map_err(fail)
}

/// Throws away the events of our own.
fn drain(instance: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        let waiting = rustix::io::ioctl_fionread(instance)? as usize;
        if waiting == 0 {
            return Ok(());
        }
        rustix::io::read(instance, &mut vec![0u8; waiting])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_watch() {
        let line = "inotify wd:3 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 \
                    fhandle-bytes:8 fhandle-type:1 f_handle:7e9e0000640d1b6d";
        let watch = parse(line).unwrap();
        assert_eq!((watch.wd, watch.inode, watch.device), (3, 0x9e7e, 0x80_0013));
        assert_eq!((watch.mask, watch.kind), (0x0800_afce, 1));
        assert_eq!(watch.handle, [0x7e, 0x9e, 0, 0, 0x64, 0x0d, 0x1b, 0x6d]);
        assert_eq!(device(watch.device), rustix::fs::makedev(8, 0x13));
    }

    #[test]
    fn watches_have_their_old_numbers_and_no_events() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "").unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
        let wd = |wd, path: &[u8]| msg::InotifyWdEntry {
            wd,
            mask: WatchFlags::MODIFY.bits(),
            f_handle: msg::FhEntry { path: Some(path.to_vec()), ..Default::default() },
            ..Default::default()
        };
        let mut entry = msg::InotifyFileEntry {
            flags: libc::O_NONBLOCK as u32,
            wd: vec![wd(9, b"/a"), wd(2, b"/")],
            ..Default::default()
        };
        let instance = restore(&entry).unwrap();
        watch(&entry, instance.as_fd(), root.as_fd()).unwrap();
        assert_eq!(rustix::io::ioctl_fionread(&instance).unwrap(), 0);
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", instance.as_raw_fd()));
        let text = text.unwrap();
        let mut numbers: Vec<u32> = text.lines().filter_map(parse).map(|w| w.wd).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [2, 9]);
        entry.wd = vec![wd(1, b"/gone")];
        let error = watch(&entry, restore(&entry).unwrap().as_fd(), root.as_fd()).unwrap_err();
        assert!(error.to_string().contains("/gone"), "{error}");
    }
}
