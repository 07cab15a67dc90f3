//! What the freeze asks the page tables of a tracked process.
//!
//! Each area is looked at once, by the kernel's fast path: what is not protected any more was written,
//! or is gone, or is a guard region. All other questions are asked about these places only, so they
//! cost nothing where nothing happened.

use std::fs::File;
use std::io;

use cryopod_images::{msg, vma};
use cryopod_sys::pagemap::{self, Query, Region};

use super::CHECK_WPASYNC;
use crate::areas::{self, PAGE};
use crate::memory;

/// What is not protected any more: pages that were written, and places where no page is (what was
/// there may have been in the base). Exactly these arguments take the kernel's fast path
/// (fs/proc/task_mmu.c, pagemap_scan_pmd_entry).
const CHANGED: Query = Query {
    flags: CHECK_WPASYNC,
    inverted: 0,
    mask: pagemap::WRITTEN,
    any_of: 0,
    report: pagemap::WRITTEN,
};

/// Places this near to each other, in bytes, are asked about together.
const NEAR: u64 = 256 * PAGE;

/// What became of the memory of a process since the last round.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Areas that were tracked all the time, as a whole.
    pub(super) valid: Vec<(u64, u64)>,
    /// Pages in them that are not stored, or are no longer what was copied.
    pub(super) gone: Vec<(u64, u64)>,
    /// Pages that are to be copied in the freeze.
    pub(super) last: Vec<Region>,
    /// Guard regions.
    pub(super) guards: Vec<msg::VmaEntry>,
}

impl Changes {
    /// Looks at all private areas of a stopped process.
    ///
    /// # Errors
    /// Those of PAGEMAP_SCAN.
    pub(super) fn find(pagemap: &File, vmas: &[msg::VmaEntry]) -> io::Result<Self> {
        let mut this = Self::default();
        for area in vmas.iter().filter(|a| vma::has_private_pages(a.status)) {
            let range = (area.start, area.end);
            if area.status & vma::VDSO != 0 {
                // The kernel's page: always stored, so that another kernel's is noticed.
                this.last.push(Region { start: area.start, end: area.end, categories: 0 });
                continue;
            }
            let mut changed = Vec::new();
            match memory::scan_range(pagemap, range, CHANGED, &mut changed) {
                Ok(()) => {
                    this.valid.push(range);
                    this.gone.extend(changed.iter().map(|run| (run.start, run.end)));
                    for range in near(&changed) {
                        let mut query = memory::query(area.status);
                        query.mask |= pagemap::WRITTEN;
                        memory::scan_range(pagemap, range, query, &mut this.last)?;
                        this.find_guards(pagemap, range)?;
                    }
                }
                // Not registered, or not as a whole.
                Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                    let query = memory::query(area.status);
                    memory::scan_range(pagemap, range, query, &mut this.last)?;
                    this.find_guards(pagemap, range)?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(this)
    }

    /// A kernel that does not report guard regions (before 6.15) has none that could be carried.
    fn find_guards(&mut self, pagemap: &File, (start, end): (u64, u64)) -> io::Result<()> {
        let mut runs = Vec::new();
        match pagemap::scan(pagemap, start, end, memory::GUARDS, &mut runs) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            other => other?,
        }
        self.guards.extend(runs.iter().map(|run| areas::guard(run.start, run.end)));
        Ok(())
    }
}

/// Ranges that hold all of the runs, few enough that asking about each is cheap.
fn near(runs: &[Region]) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for run in runs {
        match ranges.last_mut() {
            Some(last) if run.start - last.1 <= NEAR => last.1 = run.end,
            _ => ranges.push((run.start, run.end)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_places_are_asked_about_together() {
        let run = |from: u64, to: u64| Region { start: from * PAGE, end: to * PAGE, categories: 0 };
        let found = near(&[run(1, 2), run(3, 9), run(9 + 257, 300), run(400, 401)]);
        let pages: Vec<_> = found.iter().map(|(s, e)| (s / PAGE, e / PAGE)).collect();
        assert_eq!(pages, [(1, 9), (266, 401)]);
        assert!(near(&[]).is_empty());
    }
}
