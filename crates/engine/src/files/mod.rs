//! Open files: which descriptors share one, what kind it is, and the kinds' common parts.
//!
//! Every descriptor of a stopped task is duplicated into the engine with pidfd_getfd(2) and asked
//! directly. Two descriptors share an open file description when kcmp(2) says so; candidates are
//! those whose device, inode, position, flags and mount agree.

pub mod datagrams;
pub mod events;
pub mod fifos;
pub mod ghosts;
pub mod groups;
pub mod inet;
pub mod inotify;
pub mod locks;
pub mod marks;
pub mod memfd;
pub mod netlink;
pub mod owners;
pub mod pipes;
pub mod queues;
pub mod regular;
pub mod unix;

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cryopod_images::msg;
use cryopod_sys::fcntl;
use cryopod_sys::process::{self, Kcmp};
use rustix::fs::{FileType, Mode, OFlags, Stat};

use crate::error::{DumpError, Refusal};
use crate::proc::fdinfo::FdInfo;
use crate::proc::maps::Area;
use crate::proc::{self, fdinfo};
use crate::segments::{self, Segments};

/// Descriptor flag: close on exec.
const FD_CLOEXEC: u32 = 1;
/// Open flag that is the descriptor's, not the file's.
const O_CLOEXEC: u32 = libc::O_CLOEXEC as u32;

/// An open file of a stopped task, duplicated into the engine.
#[derive(Debug)]
pub struct OpenFile {
    /// Host pid of the task.
    pub pid: i32,
    /// Its descriptor.
    pub fd: i32,
    /// What /proc/PID/fd/FD points to: a path, or a name such as `pipe:[17]`.
    pub link: PathBuf,
    /// Its inode.
    pub stat: Stat,
    /// /proc/PID/fdinfo/FD.
    pub info: FdInfo,
    /// The duplicate.
    pub file: OwnedFd,
}

impl OpenFile {
    /// Open flags without O_CLOEXEC.
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.info.flags & !O_CLOEXEC
    }

    /// The link as text.
    #[must_use]
    pub fn name(&self) -> String {
        self.link.to_string_lossy().into_owned()
    }

    /// The refusal of this file.
    #[must_use]
    pub fn refusal(&self, what: &str, way_out: &'static str) -> DumpError {
        let comm = proc::status::of(self.pid, self.pid).map_or_else(|_| "?".into(), |s| s.name);
        DumpError::Refused(Refusal {
            pid: self.pid,
            comm,
            resource: format!("descriptor {}: {what}", self.fd),
            way_out,
        })
    }
}

/// Who gets the signals of a file (F_SETOWN, F_SETSIG).
///
/// # Errors
/// Those of fcntl(2).
pub fn dump_owner(
    file: &OpenFile,
    inside: &dyn Fn(i32) -> i32,
) -> Result<msg::FownEntry, DumpError> {
    let kernel =
        |source| DumpError::Kernel { pid: file.pid, what: "cannot read the file's owner", source };
    if file.info.flags & libc::O_PATH as u32 != 0 {
        return Ok(msg::FownEntry::default());
    }
    let owner = fcntl::owner(file.file.as_fd()).map_err(kernel)?;
    Ok(msg::FownEntry {
        uid: owner.uid,
        euid: owner.euid,
        signum: owner.signal,
        pid_type: owner.kind,
        pid: if owner.pid == 0 { 0 } else { inside(owner.pid) as u32 },
    })
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    dev: u64,
    ino: u64,
    position: u64,
    flags: u32,
    mount: i32,
    link: PathBuf,
}

/// Where an open file description was seen first.
#[derive(Debug, Clone, Copy)]
struct Seen {
    pid: i32,
    fd: i32,
    id: u32,
    kind: msg::FdTypes,
}

/// Collects the open files of a tree.
pub struct Collector<'a> {
    /// Entries made so far.
    pub entries: Vec<msg::FileEntry>,
    /// Turns a host pid or tid into the container's.
    pub inside: &'a dyn Fn(i32) -> i32,
    /// Shared memory seen so far.
    pub segments: Segments,
    /// Pipes seen so far.
    pub pipes: pipes::Pipes,
    /// Files without a name seen so far.
    pub ghosts: ghosts::Ghosts,
    /// File locks seen so far.
    pub locks: locks::Locks,
    /// Root directory of the tree's first process.
    pub root: OwnedFd,
    /// Named pipes seen so far.
    pub fifos: fifos::Fifos,
    /// Unix sockets seen so far.
    pub unix: unix::Sockets,
    /// What waits in sockets.
    pub queues: queues::Recorder,
    next_id: u32,
    /// Descriptor tables seen, by their id.
    tables: HashSet<u32>,
    /// Open file descriptions seen, by what is cheap to compare, then in the kernel's order.
    seen: HashMap<Key, Vec<Seen>>,
    /// Descriptor tables with files open for direct I/O, by their id.
    direct: HashSet<u32>,
    /// Files known by their path and flags only: mapped, executable, directories.
    paths: HashMap<(u64, u64, PathBuf, u32), u32>,
}

impl std::fmt::Debug for Collector<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

impl<'a> Collector<'a> {
    /// Begins a collection for the tree whose first process is `pid`.
    ///
    /// # Errors
    /// Those of opening its root directory.
    pub fn new(pid: i32, inside: &'a dyn Fn(i32) -> i32) -> Result<Self, DumpError> {
        let path = format!("/proc/{pid}/root");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|e| DumpError::Proc { path, source: e.into() })?;
        Ok(Self {
            entries: Vec::new(),
            inside,
            segments: Segments::default(),
            pipes: pipes::Pipes::default(),
            ghosts: ghosts::Ghosts::default(),
            locks: locks::Locks::default(),
            root,
            fifos: fifos::Fifos::default(),
            unix: unix::Sockets::default(),
            queues: queues::Recorder::default(),
            next_id: 1,
            tables: HashSet::new(),
            direct: HashSet::new(),
            seen: HashMap::new(),
            paths: HashMap::new(),
        })
    }

    /// A new file id.
    pub fn fresh_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Whether the descriptor table of this id was not asked about before.
    pub fn is_new_table(&mut self, id: u32) -> bool {
        self.tables.insert(id)
    }

    /// Whether a descriptor table that was asked about holds files open for direct I/O.
    #[must_use]
    pub fn is_direct(&self, table: u32) -> bool {
        self.direct.contains(&table)
    }

    /// The descriptor table of a task, with the table's id.
    ///
    /// # Errors
    /// A refusal, or what the kernel said.
    pub fn table(&mut self, pid: i32, id: u32) -> Result<Vec<msg::FdinfoEntry>, DumpError> {
        let pidfd = process::pidfd_open(pid).map_err(|source| DumpError::Kernel {
            pid,
            what: "cannot be opened",
            source,
        })?;
        let mut table = Vec::new();
        for fd in fdinfo::descriptors(pid)? {
            let file = open(pid, pidfd.as_fd(), fd)?;
            if file.info.flags & libc::O_DIRECT as u32 != 0 {
                self.direct.insert(id);
            }
            let cloexec = file.info.flags & O_CLOEXEC != 0;
            let held = locks::of(&file)?;
            let (id, kind) = self.descriptor(file)?;
            self.locks.add((self.inside)(pid), fd, id, &held);
            table.push(msg::FdinfoEntry {
                id,
                flags: if cloexec { FD_CLOEXEC } else { 0 },
                r#type: kind.into(),
                fd: fd as u32,
                xattr_security_selinux: None,
            });
        }
        Ok(table)
    }

    fn descriptor(&mut self, file: OpenFile) -> Result<(u32, msg::FdTypes), DumpError> {
        let key = Key {
            dev: file.stat.st_dev,
            ino: file.stat.st_ino,
            position: file.info.position,
            flags: file.flags(),
            mount: file.info.mount_id,
            link: file.link.clone(),
        };
        // The kernel puts them in an order (kcmp(2)): thousands of openings of one file are searched in
        // a few steps.
        let known = self.seen.get(&key).map_or(&[][..], Vec::as_slice);
        let (mut low, mut high) = (0, known.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let seen = known[middle];
            let what = Kcmp::File(seen.fd as u64, file.fd as u64);
            let order = process::kcmp(seen.pid, file.pid, what).map_err(|source| {
                DumpError::Kernel { pid: file.pid, what: "cannot compare descriptors", source }
            })?;
            match order {
                Ordering::Equal => return Ok((seen.id, seen.kind)),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        let id = self.fresh_id();
        let (pid, fd) = (file.pid, file.fd);
        let entry = self.dump(id, file)?;
        let kind = entry.r#type();
        self.entries.push(entry);
        // Files on their way in a queue of this one may have been added meanwhile: none of this inode
        // and position, which are sockets' peers at most.
        self.seen.entry(key).or_default().insert(low, Seen { pid, fd, id, kind });
        Ok((id, kind))
    }

    /// The entry of a file on its way in the queue of the socket `holder`.
    ///
    /// # Errors
    /// A refusal, or what the kernel said.
    pub fn queued(&mut self, holder: &OpenFile, fd: &OwnedFd) -> Result<u32, DumpError> {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let pidfd = process::pidfd_open(own).map_err(|source| DumpError::Kernel {
            pid: own,
            what: "cannot be opened",
            source,
        })?;
        let file = open(own, pidfd.as_fd(), fd.as_raw_fd())?;
        let on_its_way = |what: &str, way_out| {
            holder.refusal(&format!("{what} on its way in the queue of a socket"), way_out)
        };
        match self.descriptor(file) {
            Ok((_, msg::FdTypes::Eventpoll)) => {
                Err(on_its_way("an epoll instance", "receive it before the checkpoint"))
            }
            Ok((id, _)) => Ok(id),
            Err(DumpError::Refused(refusal)) => Err(on_its_way(&refusal.resource, refusal.way_out)),
            Err(e) => Err(e),
        }
    }

    /// Dumps one open file of whatever kind.
    fn dump(&mut self, id: u32, file: OpenFile) -> Result<msg::FileEntry, DumpError> {
        let name = file.name();
        match FileType::from_raw_mode(file.stat.st_mode) {
            FileType::RegularFile if name.starts_with("/memfd:") => {
                return memfd::dump(self, id, file);
            }
            FileType::RegularFile | FileType::Directory if name.starts_with('/') => {
                return regular::dump(self, id, &file);
            }
            FileType::CharacterDevice if regular::is_plain_device(&file.stat) => {
                return regular::dump(self, id, &file);
            }
            FileType::Fifo if name.starts_with("pipe:[") => return pipes::dump(self, id, file),
            FileType::Fifo if file.info.flags & libc::O_PATH as u32 == 0 => {
                return fifos::dump(self, id, file);
            }
            _ => {}
        }
        if FileType::from_raw_mode(file.stat.st_mode) == FileType::Socket {
            let family =
                cryopod_sys::socket::option(file.file.as_fd(), libc::SOL_SOCKET, libc::SO_DOMAIN)
                    .map_err(|source| DumpError::Kernel {
                    pid: file.pid,
                    what: "cannot read a socket",
                    source,
                })?;
            return match family {
                libc::AF_INET | libc::AF_INET6 => inet::dump(self, id, &file, family),
                libc::AF_UNIX => unix::dump(self, id, file),
                libc::AF_NETLINK => netlink::dump(self, id, &file),
                _ => {
                    let what = format!("a socket of family {family} ({name})");
                    Err(file.refusal(&what, "close it before the checkpoint"))
                }
            };
        }
        match name.as_str() {
            "anon_inode:[eventfd]" => events::dump_eventfd(self, id, &file),
            "anon_inode:[eventpoll]" => events::dump_epoll(self, id, &file),
            "anon_inode:[signalfd]" => events::dump_signalfd(self, id, &file),
            "anon_inode:inotify" => inotify::dump(self, id, &file),
            "anon_inode:[timerfd]" => events::dump_timerfd(self, id, &file),
            _ => Err(file.refusal(&name, "close it before the checkpoint")),
        }
    }

    /// The entry of a file that is known by path: an executable, a mapped file, a directory.
    /// `flags` are the open flags it is to be opened with, `door` is a path of /proc that opens it.
    ///
    /// # Errors
    /// A refusal, or what the kernel said.
    pub fn path(
        &mut self,
        pid: i32,
        link: &Path,
        door: String,
        flags: u32,
    ) -> Result<u32, DumpError> {
        let stat = &rustix::fs::stat(&door)
            .map_err(|e| DumpError::Proc { path: door.clone(), source: io::Error::from(e) })?;
        let key = (stat.st_dev, stat.st_ino, link.to_owned(), flags);
        if let Some(id) = self.paths.get(&key) {
            return Ok(*id);
        }
        let id = self.fresh_id();
        let owner = msg::FownEntry::default();
        let opening =
            regular::Opening { id, pid, link, stat, flags, position: 0, owner, door, file: None };
        let reg = regular::entry(self, opening)?;
        self.entries.push(msg::FileEntry {
            r#type: msg::FdTypes::Reg.into(),
            id,
            reg: Some(reg),
            ..Default::default()
        });
        self.paths.insert(key, id);
        Ok(id)
    }

    /// The entry of a memfd that an area maps.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn mapped_memfd(&mut self, pid: i32, area: &Area, flags: u32) -> Result<u32, DumpError> {
        let path = format!("/proc/{pid}/map_files/{:x}-{:x}", area.start, area.end);
        let file = std::fs::File::open(&path)
            .map_err(|source| DumpError::Proc { path: path.clone(), source })?;
        let stat = rustix::fs::fstat(&file)
            .map_err(|e| DumpError::Proc { path, source: io::Error::from(e) })?;
        let key = (stat.st_dev, stat.st_ino, area.path.clone(), flags);
        if let Some(id) = self.paths.get(&key) {
            return Ok(*id);
        }
        let id = self.fresh_id();
        let link = match area.path.as_os_str().as_bytes() {
            memfd if memfd.starts_with(b"/memfd:") => memfd,
            _ => segments::ANONYMOUS,
        };
        let inode = self.segments.memfd(pid, file, link)?;
        self.entries.push(memfd::entry(id, inode, flags, 0, msg::FownEntry::default()));
        self.paths.insert(key, id);
        Ok(id)
    }

    /// The entry of what a link of /proc points to, such as `PID/exe`, `PID/cwd`.
    ///
    /// # Errors
    /// A refusal, or what the kernel said.
    pub fn link(&mut self, pid: i32, name: &str, flags: u32) -> Result<u32, DumpError> {
        let link = proc::link(&format!("{pid}/{name}"))?;
        self.path(pid, &link, format!("/proc/{pid}/{name}"), flags)
    }
}

fn open(pid: i32, pidfd: std::os::fd::BorrowedFd<'_>, fd: i32) -> Result<OpenFile, DumpError> {
    let kernel = |what, source| DumpError::Kernel { pid, what, source };
    let file =
        process::pidfd_getfd(pidfd, fd).map_err(|e| kernel("cannot take a descriptor", e))?;
    let stat =
        rustix::fs::fstat(&file).map_err(|e| kernel("cannot stat a descriptor", e.into()))?;
    let link = proc::link(&format!("self/fd/{}", file.as_raw_fd()))?;
    let info = fdinfo::of(pid, fd)?;
    Ok(OpenFile { pid, fd, link, stat, info, file })
}
