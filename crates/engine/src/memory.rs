//! Page contents: found with PAGEMAP_SCAN, copied with process_vm_readv(2).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use cryopod_images::{msg, pages, vma};
use cryopod_sys::pagemap::{self, Query, Region};
use cryopod_sys::process;

use crate::areas::PAGE;
use crate::store::ImageSink;

/// Bytes copied at a time: what fits the second-level cache is fastest.
const CHUNK: usize = 1 << 20;
/// Ranges in one process_vm_readv(2) (IOV_MAX).
const RANGES: usize = 1024;

/// What a copy came to, in pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pages looked at.
    pub scanned: u64,
    /// Pages stored.
    pub written: u64,
}

/// Runs of pages whose content the image must hold.
///
/// Private memory: present or swapped, without zero pages. A private file mapping: only what was
/// written, which is memory of its own and no longer the file's.
pub(crate) fn query(status: u32) -> Query {
    // A guard looks like a swapped page.
    let mut not = pagemap::PFN_ZERO | pagemap::GUARD;
    if status & vma::FILE_PRIVATE != 0 {
        not |= pagemap::FILE;
    }
    Query {
        flags: 0,
        inverted: not,
        mask: not,
        any_of: pagemap::PRESENT | pagemap::SWAPPED,
        report: pagemap::PRESENT,
    }
}

/// Finds the runs of pages of all private areas, ascending.
///
/// # Errors
/// Those of PAGEMAP_SCAN.
pub fn find(pagemap: &File, areas: &[msg::VmaEntry]) -> io::Result<(Vec<Region>, u64)> {
    let mut runs = Vec::new();
    let mut scanned = 0;
    for area in areas.iter().filter(|a| vma::has_private_pages(a.status)) {
        scanned += (area.end - area.start) / PAGE;
        if area.status & vma::VDSO != 0 {
            // The kernel's page: always stored, so that another kernel's is noticed.
            runs.push(Region { start: area.start, end: area.end, categories: 0 });
        } else {
            scan_range(pagemap, (area.start, area.end), query(area.status), &mut runs)?;
        }
    }
    Ok((runs, scanned))
}

/// PAGEMAP_SCAN of a range; a kernel before 6.15 does not know the category of guards.
pub(crate) fn scan_range(
    pagemap: &File,
    (start, end): (u64, u64),
    mut query: Query,
    out: &mut Vec<Region>,
) -> io::Result<()> {
    match pagemap::scan(pagemap, start, end, query, out) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            query.inverted &= !pagemap::GUARD;
            query.mask &= !pagemap::GUARD;
            query.report &= !pagemap::GUARD;
            pagemap::scan(pagemap, start, end, query, out)
        }
        other => other,
    }
}

/// Guard regions.
pub(crate) const GUARDS: Query =
    Query { flags: 0, inverted: 0, mask: pagemap::GUARD, any_of: 0, report: pagemap::GUARD };

/// Finds the guard regions of the private areas without a file. A kernel that does not report them
/// (before 6.15) has none that could be carried.
///
/// # Errors
/// Those of PAGEMAP_SCAN.
pub fn guards(pagemap: &File, areas: &[msg::VmaEntry]) -> io::Result<Vec<msg::VmaEntry>> {
    let mut runs = Vec::new();
    for area in areas.iter().filter(|a| a.status & (vma::ANON_PRIVATE | vma::FILE_PRIVATE) != 0) {
        if area.status & (vma::VDSO | vma::VVAR | vma::VSYSCALL) != 0 {
            continue;
        }
        match pagemap::scan(pagemap, area.start, area.end, GUARDS, &mut runs) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Ok(Vec::new()),
            other => other?,
        }
    }
    Ok(runs.iter().map(|run| crate::areas::guard(run.start, run.end)).collect())
}

/// Reads the given ranges back to back, falling back to /proc/PID/mem for memory that has no read
/// permission (process_vm_readv(2) respects it, ptrace does not).
pub(crate) fn read(
    pid: i32,
    mem: &File,
    ranges: &[(u64, usize)],
    buf: &mut [u8],
) -> io::Result<()> {
    if matches!(process::read_ranges(pid, ranges, buf), Ok(n) if n == buf.len()) {
        return Ok(());
    }
    let mut at = 0;
    for &(addr, len) in ranges {
        mem.read_exact_at(&mut buf[at..at + len], addr)?;
        at += len;
    }
    Ok(())
}

/// Copies the pages of `runs` into the sink's open image of pages and returns the pagemap.
///
/// # Errors
/// Those of reading the process's memory and of the sink.
pub fn copy(
    pid: i32,
    mem: &File,
    runs: &[Region],
    pages_id: u32,
    sink: &mut dyn ImageSink,
) -> io::Result<(pages::Pagemap, u64)> {
    let mut map = pages::Pagemap::new(pages_id);
    let mut buf = vec![0u8; CHUNK];
    let mut batch: Vec<(u64, usize)> = Vec::with_capacity(RANGES);
    let mut fill = 0;
    let mut written = 0;
    let mut flush = |batch: &mut Vec<(u64, usize)>, fill: &mut usize| -> io::Result<()> {
        if *fill > 0 {
            read(pid, mem, batch, &mut buf[..*fill])?;
            sink.write_pages(&buf[..*fill])?;
        }
        batch.clear();
        *fill = 0;
        Ok(())
    };
    for run in runs {
        let count = (run.end - run.start) / PAGE;
        map.push(run.start, count, pages::PE_PRESENT).map_err(io::Error::other)?;
        written += count;
        let mut at = run.start;
        while at < run.end {
            let len = ((run.end - at) as usize).min(CHUNK - fill);
            batch.push((at, len));
            fill += len;
            at += len as u64;
            if fill == CHUNK || batch.len() == RANGES {
                flush(&mut batch, &mut fill)?;
            }
        }
    }
    flush(&mut batch, &mut fill)?;
    Ok((map, written))
}
