//! What the memory of a stopped tree was, as digests of its pages: the proof that the images hold the
//! memory of one instant, by other means than those the images were made with.
//!
//! Taken in the freeze, where it costs more than a copy of the memory would; compared with the images
//! when they are complete. A page must be there when it was there, with its bytes, and not when not.
//! Private memory only: what is shared is copied in the freeze itself.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use blake3::Hash;
use cryopod_images::msg;
use cryopod_sys::process;

use crate::areas::PAGE;
use crate::error::RestoreError;
use crate::memory;
use crate::restore::Memory;
use crate::store::ImageSource;

/// Bytes read at a time.
const PART: usize = 1 << 20;

/// The pages of all processes of a tree.
#[derive(Debug, Default)]
pub struct Witness {
    /// By the process's pid inside: address and digest of each page, ascending.
    tasks: Vec<(u64, Vec<(u64, Hash)>)>,
}

/// Why images do not hold what the memory was.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The images cannot be read.
    #[error("{0}")]
    Images(#[from] RestoreError),
    /// The pages cannot be read.
    #[error("the pages of process {id} cannot be read back")]
    Pages {
        /// Its pid inside.
        id: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A page is not what it was.
    #[error("the page at {address:x} of process {id} {what}")]
    Differs {
        /// Its pid inside.
        id: u64,
        /// Where the page is.
        address: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Witness {
    /// Looks at the memory of a stopped process. `id` is its pid inside.
    ///
    /// # Errors
    /// Those of reading its memory.
    pub(crate) fn look(&mut self, pid: i32, id: u64, vmas: &[msg::VmaEntry]) -> io::Result<()> {
        let pagemap = process::open_proc(pid, "pagemap")?;
        let mem = process::open_proc(pid, "mem")?;
        let (runs, _) = memory::find(&pagemap, vmas)?;
        let mut pages = Vec::new();
        let mut buf = vec![0; PART];
        for run in runs {
            let mut at = run.start;
            while at < run.end {
                let len = ((run.end - at) as usize).min(PART);
                memory::read(pid, &mem, &[(at, len)], &mut buf[..len])?;
                let addresses = (at..).step_by(PAGE as usize);
                let found = addresses.zip(buf[..len].chunks(PAGE as usize));
                pages.extend(found.map(|(address, page)| (address, blake3::hash(page))));
                at += len as u64;
            }
        }
        pages.sort_unstable_by_key(|(address, _)| *address);
        self.tasks.push((id, pages));
        Ok(())
    }

    /// Compares with images; how many pages were compared.
    ///
    /// # Errors
    /// The first page that is not what it was, and what prevents the comparison.
    pub fn compare(&self, images: &dyn ImageSource) -> Result<u64, WitnessError> {
        let mut compared = 0;
        for (id, pages) in &self.tasks {
            let id = *id;
            let differs = |address, what| Err(WitnessError::Differs { id, address, what });
            let mut seen = pages.iter();
            let mut buf = vec![0; PART];
            for extent in &Memory::load(images, id)?.extents {
                let (mut at, mut offset) = (extent.start, extent.offset());
                while at < extent.end {
                    let len = ((extent.end - at) as usize).min(PART);
                    let file: &File = extent.file();
                    file.read_exact_at(&mut buf[..len], offset)
                        .map_err(|source| WitnessError::Pages { id, source })?;
                    for page in buf[..len].chunks(PAGE as usize) {
                        match seen.next() {
                            Some((address, _)) if *address < at => {
                                return differs(*address, "is missing");
                            }
                            Some((address, hash)) if *address == at => {
                                if *hash != blake3::hash(page) {
                                    return differs(at, "is not what it was");
                                }
                            }
                            _ => return differs(at, "was not there"),
                        }
                        compared += 1;
                        at += PAGE;
                    }
                    offset += len as u64;
                }
            }
            if let Some((address, _)) = seen.next() {
                return differs(*address, "is missing");
            }
        }
        Ok(compared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{DirectorySink, DirectorySource, ImageSink};
    use cryopod_images::pages::{PE_PRESENT, Pagemap};

    fn images(pages: &[(u64, u8)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = DirectorySink::new(folder.path());
        let mut map = Pagemap::new(1);
        sink.begin_pages("pages-1.img").unwrap();
        for (page, value) in pages {
            map.push(page * PAGE, 1, PE_PRESENT).unwrap();
            sink.write_pages(&vec![*value; PAGE as usize]).unwrap();
        }
        sink.end_pages().unwrap();
        sink.put("pagemap-7.img", &map.write().unwrap()).unwrap();
        folder
    }

    #[test]
    fn each_page_must_be_what_it_was_and_none_may_be_missing_or_more() {
        let hash = |value: u8| blake3::hash(&vec![value; PAGE as usize]);
        let pages = [3, 4, 9].map(|page| (page * PAGE, hash(page as u8)));
        let witness = Witness { tasks: vec![(7, pages.to_vec())] };
        let compare = |pages: &[(u64, u8)]| {
            let folder = images(pages);
            witness.compare(&DirectorySource::new(folder.path())).map_err(|e| e.to_string())
        };
        assert_eq!(compare(&[(3, 3), (4, 4), (9, 9)]), Ok(3));
        for (pages, what) in [
            (&[(3, 3), (4, 5), (9, 9)][..], "4000 of process 7 is not what it was"),
            (&[(3, 3), (9, 9)], "4000 of process 7 is missing"),
            (&[(3, 3), (4, 4)], "9000 of process 7 is missing"),
            (&[(3, 3), (4, 4), (5, 5), (9, 9)], "5000 of process 7 was not there"),
            (&[(3, 3), (4, 4), (9, 9), (10, 1)], "a000 of process 7 was not there"),
        ] {
            let said = compare(pages).unwrap_err();
            assert!(said.contains(what), "{said}");
        }
    }
}
