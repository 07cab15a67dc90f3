//! Pipes: which ends exist, what is in them, and whose other end is outside the tree.
//!
//! What is in a pipe is copied with tee(2), which takes nothing out. A pipe in packet mode keeps
//! its packets apart: one record each. A pipe whose other end somebody outside holds is external
//! and must have been named by the caller (the container's stdio). Refused: any other such pipe.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use cryopod_images::{Image, Writer, msg};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, SpliceFlags};

use super::{Collector, OpenFile, dump_owner};
use crate::error::{DumpError, RestoreError};

const ACCESS: u32 = libc::O_ACCMODE as u32;
/// O_LARGEFILE as the kernel has it on x86_64, where libc says 0.
const LARGEFILE: u32 = 0o100_000;
const WRITE_ONLY: u32 = libc::O_WRONLY as u32;

/// One pipe of the tree while the tree is stopped.
#[derive(Debug)]
struct Seen {
    holder: OpenFile,
    reader: Option<OwnedFd>,
    writer: Option<OwnedFd>,
}

/// The pipes seen so far, by inode.
#[derive(Debug, Default)]
pub struct Pipes {
    seen: BTreeMap<u64, Seen>,
}

/// The id of a pipe in the image, which has 32 bits for it.
fn pipe_id(inode: u64) -> u32 {
    inode as u32
}

/// Makes the entry of one end.
///
/// # Errors
/// What the kernel said.
pub fn dump(
    collector: &mut Collector<'_>,
    id: u32,
    file: OpenFile,
) -> Result<msg::FileEntry, DumpError> {
    let entry = msg::PipeEntry {
        id,
        pipe_id: pipe_id(file.stat.st_ino),
        flags: file.flags(),
        fown: dump_owner(&file, collector.inside)?,
    };
    let kernel =
        |source| DumpError::Kernel { pid: file.pid, what: "cannot keep a pipe end", source };
    let end = file.file.try_clone().map_err(kernel)?;
    let writes = file.flags() & ACCESS == WRITE_ONLY;
    let seen = collector.pipes.seen.entry(file.stat.st_ino).or_insert_with(|| Seen {
        holder: file,
        reader: None,
        writer: None,
    });
    if writes {
        seen.writer.get_or_insert(end);
    } else {
        seen.reader.get_or_insert(end);
    }
    Ok(msg::FileEntry {
        r#type: msg::FdTypes::Pipe.into(),
        id,
        pipe: Some(entry),
        ..Default::default()
    })
}

fn has_event(fd: &OwnedFd, event: PollFlags) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(fds[0].revents().intersects(event))
}

/// Copies what is in a pipe: the bytes, packet by packet in packet mode.
pub(super) fn content(reader: &OwnedFd, size: usize, packets: bool) -> io::Result<Vec<Vec<u8>>> {
    let waiting = rustix::io::ioctl_fionread(reader)? as usize;
    if waiting == 0 {
        return Ok(Vec::new());
    }
    let (copy, into) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    rustix::pipe::fcntl_setpipe_size(&into, size)?;
    // Two calls: the copy may have room in fewer buffers than the original used.
    let copied = rustix::pipe::tee(reader, &into, waiting, SpliceFlags::NONBLOCK)?;
    if copied != waiting {
        return Err(io::Error::other("a pipe could not be copied whole"));
    }
    drop(into);
    let mut copy = File::from(copy);
    let mut parts = Vec::new();
    if packets {
        let mut packet = vec![0u8; 4096];
        loop {
            let n = copy.read(&mut packet)?;
            if n == 0 {
                break;
            }
            parts.push(packet[..n].to_vec());
        }
    } else {
        let mut all = Vec::with_capacity(waiting);
        copy.read_to_end(&mut all)?;
        parts.push(all);
    }
    Ok(parts)
}

/// Settles all pipes at the end of the collection: refuses those that lead outside, and gives the
/// image of what is in the others.
///
/// # Errors
/// A refusal, or what the kernel said.
pub fn finish(pipes: Pipes, external: &[String]) -> Result<Option<Vec<u8>>, DumpError> {
    let mut writer = Writer::new(Image::PipesData);
    for (inode, seen) in pipes.seen {
        let pid = seen.holder.pid;
        let kernel = |source| DumpError::Kernel { pid, what: "cannot copy a pipe", source };
        if external.contains(&format!("pipe:[{inode}]")) {
            continue;
        }
        let outside = match (&seen.reader, &seen.writer) {
            (Some(_), Some(_)) | (None, None) => false,
            (Some(reader), None) => !has_event(reader, PollFlags::HUP).map_err(kernel)?,
            (None, Some(writer)) => !has_event(writer, PollFlags::ERR).map_err(kernel)?,
        };
        if outside {
            let what = format!("pipe:[{inode}], whose other end is outside the container");
            return Err(seen.holder.refusal(&what, "give the process a file or its own pipe"));
        }
        let Some(reader) = &seen.reader else { continue };
        let size =
            rustix::pipe::fcntl_getpipe_size(reader).map_err(|e| kernel(io::Error::from(e)))?;
        let direct =
            |fd: &OwnedFd| rustix::fs::fcntl_getfl(fd).is_ok_and(|f| f.contains(OFlags::DIRECT));
        let packets = seen.writer.as_ref().is_some_and(direct);
        for part in content(reader, size, packets).map_err(kernel)? {
            let entry = msg::PipeDataEntry {
                pipe_id: pipe_id(inode),
                bytes: part.len() as u32,
                size: Some(size as u32),
            };
            writer.record(&entry).map_err(|e| kernel(io::Error::other(e)))?;
            writer.payload(&part);
        }
    }
    Ok((!writer.is_empty()).then(|| writer.finish()))
}

/// What is in the pipes, from the image: by pipe id, size and parts.
#[derive(Debug, Default)]
pub struct Contents {
    parts: BTreeMap<u32, (Option<u32>, Vec<Vec<u8>>)>,
}

impl Contents {
    /// Reads the image of what was in pipes or in named pipes.
    ///
    /// # Errors
    /// [`RestoreError::Image`].
    pub fn read(image: Image, name: &str, bytes: &[u8]) -> Result<Self, RestoreError> {
        let bad = |what: String| RestoreError::Image { name: name.to_owned(), what };
        let mut reader =
            cryopod_images::Reader::new(image, name, bytes).map_err(|e| bad(e.to_string()))?;
        let mut contents = Self::default();
        while let Some(entry) =
            reader.record::<msg::PipeDataEntry>().map_err(|e| bad(e.to_string()))?
        {
            let bytes = reader.payload(entry.bytes.into()).map_err(|e| bad(e.to_string()))?;
            let slot = contents.parts.entry(entry.pipe_id).or_default();
            slot.0 = slot.0.or(entry.size);
            slot.1.push(bytes.to_vec());
        }
        Ok(contents)
    }

    /// True when anything was in the pipe.
    #[must_use]
    pub fn has_bytes(&self, pipe_id: u32) -> bool {
        self.parts.get(&pipe_id).is_some_and(|(_, parts)| parts.iter().any(|p| !p.is_empty()))
    }

    /// Gives a pipe its size and what was in it.
    ///
    /// # Errors
    /// EPERM for a size above what the machine allows; those of write(2).
    pub fn pour(&self, pipe_id: u32, writer: BorrowedFd<'_>) -> io::Result<()> {
        let Some((size, parts)) = self.parts.get(&pipe_id) else { return Ok(()) };
        if let Some(size) = size {
            rustix::pipe::fcntl_setpipe_size(writer, *size as usize)?;
        }
        // Packets stay apart only when written in packet mode.
        let mut flags = OFlags::NONBLOCK;
        if parts.len() > 1 {
            flags |= OFlags::DIRECT;
        }
        rustix::fs::fcntl_setfl(writer, flags)?;
        for part in parts {
            let mut rest = &part[..];
            while !rest.is_empty() {
                let n = rustix::io::write(writer, rest)?;
                rest = &rest[n..];
            }
        }
        Ok(())
    }
}

/// An end made again; the first entry gets it, others open it anew.
#[derive(Debug)]
struct End {
    fd: OwnedFd,
    given: bool,
}

/// Pipes made again, by pipe id: reader and writer.
#[derive(Debug, Default)]
pub struct Made {
    ends: BTreeMap<u32, (End, End)>,
}

/// Opens one end.
///
/// # Errors
/// What the kernel said.
pub fn restore(
    entry: &msg::PipeEntry,
    made: &mut Made,
    contents: &Contents,
    inherit: &[(String, OwnedFd)],
) -> Result<OwnedFd, RestoreError> {
    let kernel = |source: io::Error| RestoreError::Kernel {
        pid: 0,
        what: format!("cannot make pipe {} again", entry.pipe_id),
        source,
    };
    let name = format!("pipe:[{}]", entry.pipe_id);
    if let Some((_, fd)) = inherit.iter().find(|(n, _)| *n == name) {
        return fd.try_clone().map_err(kernel);
    }
    if let std::collections::btree_map::Entry::Vacant(slot) = made.ends.entry(entry.pipe_id) {
        let (reader, writer) = fill(entry.pipe_id, contents).map_err(kernel)?;
        slot.insert((End { fd: reader, given: false }, End { fd: writer, given: false }));
    }
    let Some((reader, writer)) = made.ends.get_mut(&entry.pipe_id) else {
        return Err(kernel(io::Error::other("it is gone")));
    };
    let end = if entry.flags & ACCESS == WRITE_ONLY { writer } else { reader };
    let wanted = OFlags::from_bits_retain(entry.flags);
    // An opening by the name in /proc has O_LARGEFILE, an end of pipe2(2) has not.
    let fd = if end.given || entry.flags & LARGEFILE != 0 {
        // A further open file description of the same end.
        let path = format!("/proc/self/fd/{}", end.fd.as_raw_fd());
        let flags = (wanted & !OFlags::DIRECT) | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::open(path, flags, Mode::empty()).map_err(|e| kernel(e.into()))?
    } else {
        end.given = true;
        end.fd.try_clone().map_err(kernel)?
    };
    rustix::fs::fcntl_setfl(&fd, wanted).map_err(|e| kernel(e.into()))?;
    Ok(fd)
}

fn fill(pipe_id: u32, contents: &Contents) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    contents.pour(pipe_id, writer.as_fd())?;
    Ok((reader, writer))
}
