//! Reading many ranges of a process's memory at once, while it runs.

use std::fs::File;

use crate::areas::PAGE;
use crate::memory;

/// Ranges that are read together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    ranges: Vec<(u64, usize)>,
    len: usize,
}

impl Batch {
    /// Adds as much of a range as there is room for; how much.
    pub(super) fn add(&mut self, at: u64, end: u64, room: usize) -> u64 {
        let len = ((end - at) as usize).min(room - self.len);
        self.ranges.push((at, len));
        self.len += len;
        len as u64
    }

    pub(super) fn is_full(&self, room: usize) -> bool {
        // IOV_MAX of process_vm_readv(2).
        self.len == room || self.ranges.len() == 1024
    }

    /// Reads all, and zeros for what is gone meanwhile.
    pub(super) fn read<'b>(&mut self, pid: i32, mem: &File, buf: &'b mut [u8]) -> &'b [u8] {
        let bytes = &mut buf[..self.len];
        if !bytes.is_empty() && memory::read(pid, mem, &self.ranges, bytes).is_err() {
            let mut at = 0;
            for &(start, len) in &self.ranges {
                read_what_is_there(mem, start, &mut bytes[at..at + len]);
                at += len;
            }
        }
        let len = std::mem::take(&mut self.len);
        self.ranges.clear();
        &buf[..len]
    }
}

/// Reads page by page, and zeros for pages that are not mapped.
pub(super) fn read_what_is_there(mem: &File, start: u64, buf: &mut [u8]) {
    use std::os::unix::fs::FileExt as _;
    for (page, at) in buf.chunks_mut(PAGE as usize).zip((start..).step_by(PAGE as usize)) {
        if mem.read_exact_at(page, at).is_err() {
            page.fill(0);
        }
    }
}
