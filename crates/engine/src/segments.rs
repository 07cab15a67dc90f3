//! Shared memory: mmap(MAP_SHARED | MAP_ANONYMOUS) and memfd_create(2).
//!
//! Both are files of the kernel's internal tmpfs: the same inode seen in several places is one
//! segment. Content is read through the file itself with SEEK_DATA and SEEK_HOLE (lseek(2)), once,
//! however many tasks map it. An anonymous segment is made again by a mapping in the first task
//! that needs it, whose file the engine then opens by /proc/PID/map_files (proc(5)), so that it is
//! the same kind of memory as before. Refused: System V segments.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use cryopod_images::pages::{PE_PRESENT, Pagemap};
use cryopod_images::{Image, msg};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, SeekFrom};

use crate::areas::PAGE;
use crate::error::{DumpError, RestoreError};
use crate::inject::Remote;
use crate::lazy::Chunks;
use crate::store::{ImageSink, Pages};

/// Bytes copied at a time.
const CHUNK: usize = 1 << 20;

/// The name under which anonymous segments are among the memfds, as criu has them: tasks that map
/// several of them each, stock criu restores in this form only.
pub const ANONYMOUS: &[u8] = b"/dev/zero";

/// A segment seen during a dump.
#[derive(Debug)]
struct Seen {
    /// The S of `pagemap-shmem-S.img`.
    id: u32,
    pid: i32,
    file: File,
}

/// The segments of a tree, by device and inode.
#[derive(Debug, Default)]
pub struct Segments {
    seen: BTreeMap<(u64, u64), Seen>,
    /// Inodes of memfds, each once.
    memfds: Vec<msg::MemfdInodeEntry>,
}

impl Segments {
    fn add(&mut self, pid: i32, file: File) -> io::Result<(u32, bool)> {
        let stat = rustix::fs::fstat(&file)?;
        let next = self.seen.len() as u32 + 1;
        let key = (stat.st_dev, stat.st_ino);
        let fresh = !self.seen.contains_key(&key);
        let seen = self.seen.entry(key).or_insert(Seen { id: next, pid, file });
        Ok((seen.id, fresh))
    }

    /// The id of the inode of a memfd, for which `file` is open.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn memfd(&mut self, pid: i32, file: File, link: &[u8]) -> Result<u32, DumpError> {
        let kernel = |source| DumpError::Kernel { pid, what: "cannot read a memfd", source };
        let stat = rustix::fs::fstat(&file).map_err(|e| kernel(e.into()))?;
        let seals = rustix::fs::fcntl_get_seals(&file).map_err(|e| kernel(e.into()))?;
        let (id, fresh) = self.add(pid, file).map_err(kernel)?;
        if fresh {
            let name = link.strip_prefix(b"/memfd:").unwrap_or(link);
            let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
            self.memfds.push(msg::MemfdInodeEntry {
                name: name.to_vec(),
                uid: stat.st_uid,
                gid: stat.st_gid,
                size: stat.st_size as u64,
                shmid: id,
                seals: seals.bits(),
                inode_id: u64::from(id),
                hugetlb_flag: None,
                mode: Some(stat.st_mode),
            });
        }
        Ok(id)
    }

    /// The inodes of all memfds.
    #[must_use]
    pub fn memfds(&self) -> &[msg::MemfdInodeEntry] {
        &self.memfds
    }

    /// Copies the content of all segments into the sink, each into a pages image of its own from
    /// `first_pages_id` on; gives the pagemap images and the number of pages.
    ///
    /// # Errors
    /// What the kernel or the sink said.
    pub fn copy(
        &self,
        first_pages_id: u32,
        sink: &mut dyn ImageSink,
    ) -> Result<Vec<(u32, Vec<u8>, u64)>, DumpError> {
        let mut maps = Vec::new();
        for (pages_id, seen) in (first_pages_id..).zip(self.seen.values()) {
            let name = Image::Pages.file_name(pages_id.into());
            let failed = |source| DumpError::Sink { name: name.clone(), source };
            sink.begin_pages(&name).map_err(failed)?;
            let map = copy_one(&seen.file, pages_id, sink).map_err(|source| DumpError::Kernel {
                pid: seen.pid,
                what: "cannot copy shared memory",
                source,
            })?;
            sink.end_pages().map_err(failed)?;
            let bytes = map.write().map_err(|e| failed(io::Error::other(e)))?;
            maps.push((seen.id, bytes, map.pages_len() / PAGE));
        }
        Ok(maps)
    }
}

fn copy_one(file: &File, pages_id: u32, sink: &mut dyn ImageSink) -> io::Result<Pagemap> {
    let size = file.metadata()?.len().next_multiple_of(PAGE);
    let mut map = Pagemap::new(pages_id);
    let mut buf = vec![0u8; CHUNK];
    let mut at = 0;
    while at < size {
        at = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data / PAGE * PAGE,
            // Nothing but holes up to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let hole = rustix::fs::seek(file, SeekFrom::Hole(at))?.next_multiple_of(PAGE);
        map.push(at, (hole - at) / PAGE, PE_PRESENT).map_err(io::Error::other)?;
        while at < hole {
            let part = &mut buf[..((hole - at) as usize).min(CHUNK)];
            // The last page may reach beyond the end of the file.
            part.fill(0);
            let mut done = 0;
            while done < part.len() {
                match file.read_at(&mut part[done..], at + done as u64)? {
                    0 => break,
                    n => done += n,
                }
            }
            sink.write_pages(part)?;
            at += part.len() as u64;
        }
    }
    Ok(map)
}

/// A segment to be made again.
#[derive(Debug)]
pub struct Content {
    /// Where its pages are.
    pub map: Pagemap,
    /// The pages.
    pub pages: Option<Arc<Pages>>,
}

fn fill(file: &File, content: &Content) -> io::Result<()> {
    let Some(pages) = &content.pages else { return Ok(()) };
    let mut buf = vec![0u8; CHUNK];
    let mut chunks = Chunks::default();
    for run in content.map.runs() {
        let Some(offset) = run.offset else { continue };
        let (mut at, mut from) = (run.vaddr, offset);
        while at < run.end() {
            let part = &mut buf[..((run.end() - at) as usize).min(CHUNK)];
            match pages.check {
                Some(_) => chunks.read(pages, from, part)?,
                None => pages.file.read_exact_at(part, pages.offset + from)?,
            }
            file.write_all_at(part, at)?;
            at += part.len() as u64;
            from += part.len() as u64;
        }
    }
    Ok(())
}

/// Makes an anonymous segment of `size` bytes by a mapping in a task under construction (host pid
/// `pid`), and fills it.
///
/// # Errors
/// What the kernel said.
pub fn restore_anonymous(
    pid: i32,
    size: u64,
    content: Option<&Content>,
    remote: &mut Remote,
) -> io::Result<OwnedFd> {
    let at = remote.mmap(
        0,
        size,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS,
        -1,
        0,
    )?;
    let path = format!("/proc/{pid}/map_files/{:x}-{:x}", at, at + size.next_multiple_of(PAGE));
    let fd = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    remote.munmap(at, size)?;
    let file = File::from(fd);
    if let Some(content) = content {
        fill(&file, content)?;
    }
    Ok(file.into())
}

/// Makes the inode of a memfd, sealed as it was but for the seal against future writes, which only
/// [`seal`] sets: mappings made before it may be writable.
///
/// # Errors
/// What the kernel said.
pub fn restore_memfd(
    inode: &msg::MemfdInodeEntry,
    content: Option<&Content>,
) -> Result<OwnedFd, RestoreError> {
    let name = String::from_utf8_lossy(&inode.name).into_owned();
    let kernel = |source: io::Error| RestoreError::Kernel {
        pid: 0,
        what: format!("cannot make memfd {name} again"),
        source,
    };
    if inode.hugetlb_flag.is_some() {
        return Err(RestoreError::Refused {
            pid: 0,
            what: format!("memfd {name} has huge pages"),
            way_out: "memory of hugetlbfs is not carried",
        });
    }
    let mut flags = MemfdFlags::CLOEXEC;
    let seals = SealFlags::from_bits_retain(inode.seals);
    // Without permission to seal, the one seal there is forbids others.
    if seals != SealFlags::SEAL {
        flags |= MemfdFlags::ALLOW_SEALING;
    }
    let make = || -> io::Result<OwnedFd> {
        let fd = rustix::fs::memfd_create(inode.name.as_slice(), flags)?;
        rustix::fs::ftruncate(&fd, inode.size)?;
        let file = File::from(fd);
        if let Some(content) = content {
            fill(&file, content)?;
        }
        // The last page was written whole.
        rustix::fs::ftruncate(&file, inode.size)?;
        if let Some(mode) = inode.mode {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777))?;
        }
        let owner = (rustix::fs::Uid::from_raw(inode.uid), rustix::fs::Gid::from_raw(inode.gid));
        rustix::fs::fchown(&file, Some(owner.0), Some(owner.1))?;
        let now = seals & !(SealFlags::FUTURE_WRITE | SealFlags::SEAL);
        if flags.contains(MemfdFlags::ALLOW_SEALING) && !now.is_empty() {
            rustix::fs::fcntl_add_seals(&file, now)?;
        }
        Ok(file.into())
    };
    make().map_err(kernel)
}

/// Sets the seals that had to wait for the mappings.
///
/// # Errors
/// What the kernel said.
pub fn seal(inode: &msg::MemfdInodeEntry, fd: BorrowedFd<'_>) -> Result<(), RestoreError> {
    let seals = SealFlags::from_bits_retain(inode.seals);
    let late = seals & (SealFlags::FUTURE_WRITE | SealFlags::SEAL);
    if late.is_empty() || seals == SealFlags::SEAL {
        return Ok(());
    }
    rustix::fs::fcntl_add_seals(fd.as_fd(), late).map_err(|e| RestoreError::Kernel {
        pid: 0,
        what: "cannot seal a memfd".into(),
        source: e.into(),
    })
}
