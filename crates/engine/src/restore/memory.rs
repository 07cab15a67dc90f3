//! Where the pages of a task are: in the pages image of the image set, or in those of its parents.
//!
//! A run of a pagemap may say that its content is in the image set that the entry `parent` of the
//! images' folder names, which may have a parent itself (CRIU's incremental images).

use std::fs::File;
use std::sync::Arc;

use cryopod_images::Image;
use cryopod_images::pages::Pagemap;

use super::load::bad;
use crate::error::RestoreError;
use crate::store::{ImageSource, Pages};

/// Where the parent of an image set is.
const PARENT: &str = "parent";
/// Parents of parents, at most.
const GENERATIONS: usize = 32;

/// Pages at adjacent addresses, and where they are.
#[derive(Debug, Clone)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// The image that has them.
    pub(crate) pages: Arc<Pages>,
    /// Of the first page in the image, in bytes.
    pub(crate) at: u64,
}

impl Extent {
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.pages.file
    }

    /// Of the first page in the file, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        self.pages.offset + self.at
    }
}

/// All pages of a task, ascending by address.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) extents: Vec<Extent>,
}

impl Memory {
    /// Reads the pagemaps of task `id`, and finds the images of pages.
    pub(crate) fn load(source: &dyn ImageSource, id: u64) -> Result<Self, RestoreError> {
        Self::load_generation(source, id, "", 0)
    }

    fn load_generation(
        source: &dyn ImageSource,
        id: u64,
        folder: &str,
        generation: usize,
    ) -> Result<Self, RestoreError> {
        let name = format!("{folder}{}", Image::Pagemap.file_name(id));
        let found = source
            .get(&name)
            .map_err(|source| RestoreError::Source { name: name.clone(), source })?
            .ok_or_else(|| RestoreError::Missing { name: name.clone() })?;
        let map = Pagemap::read(&name, &found).map_err(|e| bad(&name, e))?;
        let pages_name = format!("{folder}{}", Image::Pages.file_name(map.pages_id.into()));
        let pages = source
            .pages(&pages_name)
            .map_err(|source| RestoreError::Source { name: pages_name.clone(), source })?
            .map(Arc::new);
        if pages.as_ref().map_or(0, |p| p.len) < map.pages_len() {
            return Err(bad(&pages_name, "it is shorter than its pagemap says"));
        }
        let parent = if map.runs().iter().any(|run| run.in_parent()) {
            if generation == GENERATIONS {
                return Err(bad(&name, "it has too many generations of parents"));
            }
            let folder = format!("{folder}{PARENT}/");
            Self::load_generation(source, id, &folder, generation + 1)?
        } else {
            Self::default()
        };
        let mut extents = Vec::with_capacity(map.runs().len());
        for run in map.runs() {
            if run.in_parent() {
                parent.take(run.vaddr, run.end(), &mut extents).map_err(|at| {
                    bad(&name, format!("its parent does not have the page at {at:x}"))
                })?;
            } else if let (Some(offset), Some(pages)) = (run.offset, &pages) {
                extents.push(Extent {
                    start: run.vaddr,
                    end: run.end(),
                    pages: Arc::clone(pages),
                    at: offset,
                });
            }
        }
        Ok(Self { extents })
    }

    /// Adds the part of it between two addresses to `out`; the error is the first page missing.
    fn take(&self, start: u64, end: u64, out: &mut Vec<Extent>) -> Result<(), u64> {
        let mut at = start;
        let first = self.extents.partition_point(|extent| extent.end <= start);
        for extent in &self.extents[first..] {
            if at >= end || extent.start > at {
                break;
            }
            let upto = extent.end.min(end);
            out.push(Extent {
                start: at,
                end: upto,
                pages: Arc::clone(&extent.pages),
                at: extent.at + (at - extent.start),
            });
            at = upto;
        }
        if at < end { Err(at) } else { Ok(()) }
    }

    /// Where the page an address is in can be read: the file and the offset in it.
    pub(crate) fn page(&self, address: u64) -> Option<(&File, u64)> {
        let extent = self.from(address).first().filter(|extent| extent.start <= address)?;
        Some((&**extent.file(), extent.offset() + (address - extent.start)))
    }

    /// The extents from an address on; the first may begin before it.
    pub(crate) fn from(&self, address: u64) -> &[Extent] {
        &self.extents[self.extents.partition_point(|extent| extent.end <= address)..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{DirectorySink, DirectorySource, ImageSink};
    use cryopod_images::pages::{PE_PARENT, PE_PRESENT};

    const PAGE: u64 = 4096;

    fn put(sink: &mut DirectorySink, folder: &str, runs: &[(u64, u64, u32)]) {
        let mut map = Pagemap::new(1);
        for (page, count, flags) in runs {
            map.push(page * PAGE, *count, *flags).unwrap();
        }
        sink.put(&format!("{folder}pagemap-7.img"), &map.write().unwrap()).unwrap();
        sink.begin_pages(&format!("{folder}pages-1.img")).unwrap();
        sink.write_pages(&vec![0; map.pages_len() as usize]).unwrap();
        sink.end_pages().unwrap();
    }

    #[test]
    fn pages_are_found_through_generations() {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = DirectorySink::new(folder.path());
        put(&mut sink, "", &[(1, 2, PE_PRESENT), (3, 4, PE_PARENT)]);
        put(&mut sink, "parent/", &[(2, 2, PE_PRESENT), (4, 1, PE_PARENT), (5, 9, PE_PRESENT)]);
        put(&mut sink, "parent/parent/", &[(0, 6, PE_PRESENT)]);
        let memory = Memory::load(&DirectorySource::new(folder.path()), 7).unwrap();
        let found: Vec<_> = memory
            .extents
            .iter()
            .map(|e| (e.start / PAGE, e.end / PAGE, e.offset() / PAGE))
            .collect();
        assert_eq!(found, [(1, 3, 0), (3, 4, 1), (4, 5, 4), (5, 7, 2)]);
        assert_eq!(memory.page(6 * PAGE + 5).unwrap().1, 3 * PAGE + 5);
        assert!(memory.page(7 * PAGE).is_none() && memory.page(0).is_none());
    }

    #[test]
    fn a_page_that_no_parent_has_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = DirectorySink::new(folder.path());
        put(&mut sink, "", &[(3, 4, PE_PARENT)]);
        let source = DirectorySource::new(folder.path());
        let load = || Memory::load(&source, 7).unwrap_err().to_string();
        assert!(load().contains("parent/pagemap-7.img"), "{}", load());
        put(&mut sink, "parent/", &[(2, 3, PE_PRESENT), (6, 9, PE_PRESENT)]);
        assert!(load().contains("the page at 5000"), "{}", load());
    }
}
