//! Which pages of a process hold data: PAGEMAP_SCAN on /proc/PID/pagemap (Linux 6.7).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Page is in memory.
pub const PRESENT: u64 = 1 << 3;
/// Page is in swap.
pub const SWAPPED: u64 = 1 << 4;
/// Page is the shared zero page.
pub const PFN_ZERO: u64 = 1 << 5;
/// Page is file-backed or shared anonymous memory.
pub const FILE: u64 = 1 << 2;
/// Page was written since it was protected (userfaultfd write-protect mode).
pub const WRITTEN: u64 = 1 << 1;
/// Page is a guard region (Linux 6.15).
pub const GUARD: u64 = 1 << 8;

/// A run of pages with the same categories.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// Address after the last byte.
    pub end: u64,
    /// Category bits, of those asked for.
    pub categories: u64,
}

/// Which pages [`scan`] reports.
#[derive(Debug, Clone, Copy, Default)]
pub struct Query {
    /// PM_SCAN_* flags.
    pub flags: u64,
    /// Categories whose meaning is turned round before matching.
    pub inverted: u64,
    /// All of these must hold.
    pub mask: u64,
    /// At least one of these must hold, when not 0.
    pub any_of: u64,
    /// Categories to report; runs are split where they change.
    pub report: u64,
}

#[repr(C)]
struct Arg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: u64 = 0xc060_6610;

/// Lists the runs of matching pages within `start..end`, appending to `out`.
///
/// On 6.18 `walk_end` may be stale when the walk is complete, so the end is told by a vector that
/// was not filled, never by `walk_end` alone.
///
/// # Errors
/// EINVAL on unaligned bounds or an older kernel (ENOTTY), EPERM for tracking flags on an area
/// that is not registered.
pub fn scan(
    pagemap: &File,
    start: u64,
    end: u64,
    query: Query,
    out: &mut Vec<Region>,
) -> io::Result<()> {
    const BATCH: usize = 4096;
    // No more runs than pages: a small range is to cost little.
    let batch = usize::try_from(end.saturating_sub(start) / 4096).unwrap_or(BATCH).clamp(8, BATCH);
    let mut at = start;
    while at < end {
        let used = out.len();
        out.resize(used + batch, Region::default());
        let mut arg = Arg {
            size: size_of::<Arg>() as u64,
            flags: query.flags,
            start: at,
            end,
            walk_end: 0,
            vec: out[used..].as_mut_ptr() as u64,
            vec_len: batch as u64,
            max_pages: 0,
            category_inverted: query.inverted,
            category_mask: query.mask,
            category_anyof_mask: query.any_of,
            return_mask: query.report,
        };
        // SAFETY: `arg` is live and points to `batch` live regions.
        let got = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN as _, &raw mut arg) };
        if got < 0 {
            let err = io::Error::last_os_error();
            out.truncate(used);
            if err.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(err);
        }
        out.truncate(used + got as usize);
        if (got as usize) < batch {
            return Ok(());
        }
        // Never back into what was reported.
        at = arg.walk_end.max(out.last().map_or(at, |run| run.end));
    }
    Ok(())
}
