//! Where pages are: `pagemap-N.img` describes runs of addresses, `pages-K.img` holds their bytes.
//!
//! A pages file is bare page data from offset 0; the offset of a run is the sum of the present
//! runs before it. An address in no run reads as zeroes (or as its file, for a file mapping). A run
//! marked [`PE_PARENT`] is in the image set that the entry `parent` of the image directory names.

use crate::{Error, Image, Reader, Writer, msg};

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;
/// The run's content is in the parent image set.
pub const PE_PARENT: u32 = 1 << 0;
/// The run may be left out at first and filled when it is touched.
pub const PE_LAZY: u32 = 1 << 1;
/// The run's content is next in the pages file.
pub const PE_PRESENT: u32 = 1 << 2;

const KNOWN: u32 = PE_PARENT | PE_LAZY | PE_PRESENT;

/// Why a run cannot be part of a pagemap.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The address is not that of a page.
    #[error("address {vaddr:#x} is not the start of a page")]
    Unaligned {
        /// The address.
        vaddr: u64,
    },
    /// The flags have an unknown bit, none, or both places at once.
    #[error("flags {flags:#x} at {vaddr:#x} have no meaning")]
    Flags {
        /// The run's address.
        vaddr: u64,
        /// Its flags.
        flags: u32,
    },
    /// There are no pages, or more than addresses or file offsets there are.
    #[error("{nr_pages} pages at {vaddr:#x} do not fit")]
    Length {
        /// The run's address.
        vaddr: u64,
        /// Its number of pages.
        nr_pages: u64,
    },
    /// Runs do not ascend.
    #[error("{vaddr:#x} is below the end of the run before it, {end:#x}")]
    Order {
        /// The run's address.
        vaddr: u64,
        /// End of the run before it.
        end: u64,
    },
}

/// Pages at adjacent addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First address; the offset in bytes for a shared segment.
    pub vaddr: u64,
    /// Number of pages, at least 1.
    pub nr_pages: u64,
    /// `PE_*` bits.
    pub flags: u32,
    /// Offset in bytes in the pages file; `None` when the run is not in it.
    pub offset: Option<u64>,
}

impl Run {
    /// First address after the run.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.vaddr + self.len()
    }

    /// Bytes of the run.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.nr_pages * PAGE_SIZE
    }

    /// Never: a run has at least one page.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.nr_pages == 0
    }

    /// Whether the content is in the parent image set.
    #[must_use]
    pub const fn in_parent(&self) -> bool {
        self.flags & PE_PARENT != 0
    }
}

/// A pagemap image, checked: runs ascend, do not overlap, and neither addresses nor offsets wrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pagemap {
    /// The K of `pages-K.img`.
    pub pages_id: u32,
    runs: Vec<Run>,
    pages_len: u64,
}

impl Pagemap {
    /// An empty pagemap over `pages-{pages_id}.img`.
    #[must_use]
    pub const fn new(pages_id: u32) -> Self {
        Self { pages_id, runs: Vec::new(), pages_len: 0 }
    }

    /// Reads a pagemap image. Images without `flags` or `nr_pages` (CRIU before 2.x and 4.1) are
    /// understood.
    pub fn read(name: &str, data: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(Image::Pagemap, name, data)?;
        let Some(head) = reader.record::<msg::PagemapHead>()? else {
            return Err(Error::Count { name: name.to_owned(), found: "no" });
        };
        let mut map = Self::new(head.pages_id);
        let mut index = 0;
        while let Some(entry) = reader.record::<msg::PagemapEntry>()? {
            index += 1;
            let old = if entry.in_parent == Some(true) { PE_PARENT } else { PE_PRESENT };
            let flags = entry.flags.unwrap_or(old);
            let nr_pages = entry.nr_pages.unwrap_or(entry.compat_nr_pages.into());
            map.add(entry.vaddr, nr_pages, flags, false).map_err(|source| Error::Run {
                name: name.to_owned(),
                index,
                source,
            })?;
        }
        Ok(map)
    }

    /// Adds pages behind all others; joined to the last run when adjacent and of the same flags.
    ///
    /// `vaddr` must be a multiple of [`PAGE_SIZE`] and not below the end of the last run.
    pub fn push(&mut self, vaddr: u64, nr_pages: u64, flags: u32) -> Result<(), RunError> {
        self.add(vaddr, nr_pages, flags, true)
    }

    fn add(&mut self, vaddr: u64, nr_pages: u64, flags: u32, join: bool) -> Result<(), RunError> {
        if !vaddr.is_multiple_of(PAGE_SIZE) {
            return Err(RunError::Unaligned { vaddr });
        }
        if flags & !KNOWN != 0
            || flags & KNOWN == 0
            || flags & (PE_PARENT | PE_PRESENT) == PE_PARENT | PE_PRESENT
        {
            return Err(RunError::Flags { vaddr, flags });
        }
        let end = nr_pages.checked_mul(PAGE_SIZE).and_then(|len| vaddr.checked_add(len));
        let Some(end) = end.filter(|&end| end > vaddr) else {
            return Err(RunError::Length { vaddr, nr_pages });
        };
        let last_end = self.runs.last().map_or(0, Run::end);
        if vaddr < last_end {
            return Err(RunError::Order { vaddr, end: last_end });
        }
        let len = end - vaddr;
        let offset = if flags & PE_PRESENT != 0 {
            let at = self.pages_len;
            self.pages_len = at.checked_add(len).ok_or(RunError::Length { vaddr, nr_pages })?;
            Some(at)
        } else {
            None
        };
        match self.runs.last_mut() {
            Some(last) if join && last.end() == vaddr && last.flags == flags => {
                last.nr_pages += nr_pages;
            }
            _ => self.runs.push(Run { vaddr, nr_pages, flags, offset }),
        }
        Ok(())
    }

    /// The runs, ascending by address.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Bytes of the pages file that the runs take.
    #[must_use]
    pub const fn pages_len(&self) -> u64 {
        self.pages_len
    }

    /// The run an address is in.
    #[must_use]
    pub fn find(&self, vaddr: u64) -> Option<&Run> {
        let after = self.runs.partition_point(|run| run.vaddr <= vaddr);
        let run = self.runs.get(after.checked_sub(1)?)?;
        (vaddr < run.end()).then_some(run)
    }

    /// Offset in bytes in the pages file of the page an address is in; `None` when it is not there.
    #[must_use]
    pub fn page_offset(&self, vaddr: u64) -> Option<u64> {
        let run = self.find(vaddr)?;
        let within = (vaddr - run.vaddr) / PAGE_SIZE * PAGE_SIZE;
        Some(run.offset? + within)
    }

    /// The image's bytes.
    pub fn write(&self) -> Result<Vec<u8>, Error> {
        let mut writer = Writer::new(Image::Pagemap);
        writer.record(&msg::PagemapHead { pages_id: self.pages_id })?;
        for run in &self.runs {
            writer.record(&msg::PagemapEntry {
                vaddr: run.vaddr,
                // Stock criu writes 0 and reads nr_pages alone; go-criu, and with it
                // checkpointctl memparse, knows only this field.
                compat_nr_pages: u32::try_from(run.nr_pages).unwrap_or(0),
                in_parent: None,
                flags: Some(run.flags),
                nr_pages: Some(run.nr_pages),
            })?;
        }
        Ok(writer.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_count_present_runs_only() {
        let mut map = Pagemap::new(1);
        map.push(0x1000, 2, PE_PRESENT).unwrap();
        map.push(0x3000, 1, PE_PRESENT).unwrap();
        map.push(0x4000, 4, PE_PARENT).unwrap();
        map.push(0x9000, 1, PE_PRESENT | PE_LAZY).unwrap();
        assert_eq!(map.runs().len(), 3);
        assert_eq!(map.pages_len(), 4 * PAGE_SIZE);
        assert_eq!(map.page_offset(0x3fff), Some(0x2000));
        assert_eq!(map.page_offset(0x4000), None);
        assert_eq!(map.page_offset(0x9000), Some(0x3000));
        assert_eq!(map.find(0x8000), None);
        assert!(map.find(0x7fff).is_some_and(Run::in_parent));
        assert_eq!(Pagemap::read("pagemap-1.img", &map.write().unwrap()).unwrap(), map);
    }

    #[test]
    fn old_pagemaps_are_understood() {
        let mut writer = Writer::new(Image::Pagemap);
        writer.record(&msg::PagemapHead { pages_id: 7 }).unwrap();
        for (vaddr, in_parent) in [(0x1000, None), (0x2000, Some(true)), (0x3000, Some(false))] {
            let entry = msg::PagemapEntry {
                vaddr,
                compat_nr_pages: 1,
                in_parent,
                flags: None,
                nr_pages: None,
            };
            writer.record(&entry).unwrap();
        }
        let map = Pagemap::read("pagemap-7.img", &writer.finish()).unwrap();
        let flags: Vec<u32> = map.runs().iter().map(|run| run.flags).collect();
        assert_eq!(flags, [PE_PRESENT, PE_PARENT, PE_PRESENT]);
        assert_eq!(map.page_offset(0x3000), Some(0x1000));
    }

    #[test]
    fn runs_that_make_no_sense_are_refused() {
        let cases: &[(u64, u64, u32)] = &[
            (0x800, 1, PE_PRESENT),
            (0, 1, PE_PRESENT),
            (0x2000, 0, PE_PRESENT),
            (0x2000, u64::MAX, PE_PRESENT),
            (0x2000, u64::MAX / PAGE_SIZE, PE_PRESENT),
            (0x2000, 1, 0),
            (0x2000, 1, PE_PARENT | PE_PRESENT),
            (0x2000, 1, 8),
        ];
        for &(vaddr, nr_pages, flags) in cases {
            let mut map = Pagemap::new(1);
            map.push(0x1000, 1, PE_PRESENT).unwrap();
            assert!(map.push(vaddr, nr_pages, flags).is_err(), "{vaddr:#x} {nr_pages} {flags}");
        }
    }
}
