//! Named pipes (fifo(7)): each opening, and what is in the pipe.
//!
//! What is in it is copied with tee(2) from an end that the tree has open; the engine opens none,
//! which would let through a process that waits for a partner. At restore the path is opened again.
//! A reader of a pipe that nobody has for writing is opened before any writer was there, so that it
//! sees no end. When only a process outside reads, what is in the pipe stays with it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use cryopod_images::{Image, Writer, msg};
use rustix::fs::{Mode, OFlags};

use super::{Collector, OpenFile, dump_owner, pipes, regular};
use crate::error::{DumpError, RestoreError};

const ACCESS: u32 = libc::O_ACCMODE as u32;
const WRITE_ONLY: u32 = libc::O_WRONLY as u32;

/// A reading end of each pipe seen so far, by inode, with its task.
#[derive(Debug, Default)]
pub struct Fifos {
    readers: BTreeMap<u64, (i32, OwnedFd)>,
}

/// Makes the entries of one opening: the path, and the pipe.
///
/// # Errors
/// A refusal, or what the kernel said.
pub fn dump(
    collector: &mut Collector<'_>,
    id: u32,
    file: OpenFile,
) -> Result<msg::FileEntry, DumpError> {
    let path_id = collector.fresh_id();
    let mut path = regular::dump(collector, path_id, &file)?;
    if let Some(reg) = path.reg.as_mut() {
        // A pipe has no position.
        reg.pos = 0;
        reg.fown = dump_owner(&file, collector.inside)?;
    }
    collector.entries.push(path);
    let inode = file.stat.st_ino;
    if file.flags() & ACCESS != WRITE_ONLY {
        collector.fifos.readers.entry(inode).or_insert((file.pid, file.file));
    }
    Ok(msg::FileEntry {
        r#type: msg::FdTypes::Fifo.into(),
        id,
        fifo: Some(msg::FifoEntry { id, pipe_id: inode as u32, regf_id: Some(path_id) }),
        ..Default::default()
    })
}

/// The image of what is in them.
///
/// # Errors
/// What the kernel said.
pub fn finish(fifos: Fifos) -> Result<Option<Vec<u8>>, DumpError> {
    let mut writer = Writer::new(Image::FifoData);
    for (inode, (pid, reader)) in fifos.readers {
        let kernel = |source| DumpError::Kernel { pid, what: "cannot copy a named pipe", source };
        let size = rustix::pipe::fcntl_getpipe_size(&reader).map_err(|e| kernel(e.into()))?;
        let parts = pipes::content(&reader, size, false).map_err(kernel)?;
        let bytes = parts.concat();
        let entry = msg::PipeDataEntry {
            pipe_id: inode as u32,
            bytes: bytes.len() as u32,
            size: Some(size as u32),
        };
        writer.record(&entry).map_err(|e| kernel(io::Error::other(e)))?;
        writer.payload(&bytes);
    }
    Ok((!writer.is_empty()).then(|| writer.finish()))
}

/// Pipes that are held open for both until all ends are there, by pipe id.
#[derive(Debug, Default)]
pub struct Made {
    held: BTreeMap<u32, OwnedFd>,
}

/// Opens one end. `path` is the file of the pipe opened with O_PATH; `written` says that the tree
/// has an end to write: the pipe is held open for both then, so that no opening waits.
///
/// # Errors
/// What the kernel said.
pub fn restore(
    entry: &msg::FifoEntry,
    flags: u32,
    path: OwnedFd,
    written: bool,
    made: &mut Made,
    contents: &pipes::Contents,
) -> Result<OwnedFd, RestoreError> {
    let kernel = |source: io::Error| RestoreError::Kernel {
        pid: 0,
        what: format!("cannot open named pipe {} again", entry.pipe_id),
        source,
    };
    let name = format!("/proc/self/fd/{}", path.as_raw_fd());
    let open = |flags: OFlags| {
        rustix::fs::open(&name, flags | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
            .map_err(|e| kernel(e.into()))
    };
    let filled = contents.has_bytes(entry.pipe_id);
    if (written || filled) && !made.held.contains_key(&entry.pipe_id) {
        let both = open(OFlags::RDWR)?;
        contents.pour(entry.pipe_id, both.as_fd()).map_err(kernel)?;
        made.held.insert(entry.pipe_id, both);
    }
    let wanted = OFlags::from_bits_retain(flags);
    let fd = open(wanted)?;
    rustix::fs::fcntl_setfl(&fd, wanted).map_err(|e| kernel(e.into()))?;
    Ok(fd)
}
