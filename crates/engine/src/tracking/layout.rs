//! How the image of pages that was written while the program ran becomes that of the freeze.

use std::collections::BTreeMap;
use std::io;

use cryopod_images::pages::{PE_PRESENT, Pagemap};

use crate::areas::PAGE;
use crate::spans::Spans;
use crate::staging::Staging;
use crate::store::Edit;

/// A copy in the staging memory: address, bytes, place.
pub(super) type Copy = (u64, u64, usize);

/// What the freeze found out about the memory of one process.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    /// Areas that were tracked all the time.
    pub(super) valid: Spans,
    /// Pages in them that are not stored, or are no longer what was copied.
    pub(super) gone: Spans,
    /// Pages whose copy made in the freeze counts.
    pub(super) last: Spans,
}

/// Pieces of the staging memory that lie one after another in an edit: distance from its beginning,
/// bytes, place.
type Pieces = Vec<(u64, u64, usize)>;

/// The image of pages as it is to be.
#[derive(Debug)]
pub(super) struct Layout {
    /// Its pagemap.
    pub(super) map: Pagemap,
    /// What is to be changed in what was written.
    pub(super) edits: Vec<Edit>,
    /// Where the new bytes of each edit are.
    pieces: Vec<Pieces>,
}

impl Layout {
    /// `base` is the pagemap of what was written; later copies of a page replace earlier ones.
    ///
    /// # Errors
    /// When a page that should be in the staging memory is not.
    pub(super) fn new(base: &Pagemap, staged: &[Copy], frozen: &Frozen) -> io::Result<Self> {
        let mut newest: BTreeMap<u64, usize> = BTreeMap::new();
        for &(start, len, place) in staged {
            for page in (0..len).step_by(PAGE as usize) {
                newest.insert(start + page, place + page as usize);
            }
        }
        let written = Spans::of(base.runs().iter().map(|run| (run.vaddr, run.end())).collect());
        let kept = frozen.valid.without(&frozen.gone).without(&frozen.last);
        let rounds = Spans::of(newest.keys().map(|page| (*page, page + PAGE)).collect());
        let fresh = Spans::of([rounds.and(&kept).ranges(), frozen.last.ranges()].concat());
        let all = Spans::of([written.and(&kept).ranges(), fresh.ranges()].concat());
        let mut map = Pagemap::new(base.pages_id);
        for &(start, end) in all.ranges() {
            map.push(start, (end - start) / PAGE, PE_PRESENT).map_err(io::Error::other)?;
        }
        let gone = written.without(&all);
        let mut changes: Vec<(u64, u64, bool)> = Vec::new();
        changes.extend(gone.ranges().iter().map(|(start, end)| (*start, *end, false)));
        for part in [fresh.and(&written), fresh.without(&written)] {
            changes.extend(part.ranges().iter().map(|(start, end)| (*start, *end, true)));
        }
        changes.sort_unstable();
        let mut this = Self { map, edits: Vec::new(), pieces: Vec::new() };
        for (start, end, stored) in changes {
            let (at, until) = (place(base, start), place(base, end));
            this.change(at, until - at);
            if stored {
                for page in (start..end).step_by(PAGE as usize) {
                    let place = newest.get(&page).copied();
                    this.add(place.ok_or_else(|| io::Error::other("a page was not copied"))?);
                }
            }
        }
        Ok(this)
    }

    /// Begins an edit, or goes on with one that ends there.
    fn change(&mut self, at: u64, removed: u64) {
        match self.edits.last_mut() {
            Some(last) if last.at + last.removed == at => last.removed += removed,
            _ => {
                self.edits.push(Edit { at, removed, added: 0 });
                self.pieces.push(Pieces::new());
            }
        }
    }

    /// Adds a page to the last edit.
    fn add(&mut self, place: usize) {
        let (Some(edit), Some(pieces)) = (self.edits.last_mut(), self.pieces.last_mut()) else {
            return;
        };
        match pieces.last_mut() {
            Some((_, len, from)) if *from + *len as usize == place => *len += PAGE,
            _ => pieces.push((edit.added, PAGE, place)),
        }
        edit.added += PAGE;
    }

    /// Fills in bytes of an edit.
    ///
    /// # Errors
    /// When there are not so many.
    pub(super) fn fill(
        &self,
        staging: &Staging,
        number: usize,
        mut done: u64,
        mut bytes: &mut [u8],
    ) -> io::Result<()> {
        let end = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let pieces = self.pieces.get(number).ok_or_else(end)?;
        let mut index = pieces.partition_point(|(at, len, _)| at + len <= done);
        while !bytes.is_empty() {
            let &(at, len, place) = pieces.get(index).ok_or_else(end)?;
            let within = done - at;
            let want = (len - within).min(bytes.len() as u64) as usize;
            let part = staging.get(place + within as usize, want);
            if part.is_empty() {
                return Err(end());
            }
            let (now, later) = bytes.split_at_mut(part.len());
            now.copy_from_slice(part);
            done += part.len() as u64;
            if done == at + len {
                index += 1;
            }
            bytes = later;
        }
        Ok(())
    }
}

/// Where the bytes of an address are in the image, or would be.
fn place(base: &Pagemap, address: u64) -> u64 {
    let next = base.runs().partition_point(|run| run.end() <= address);
    match base.runs().get(next) {
        Some(run) => run.offset.unwrap_or(0) + address.saturating_sub(run.vaddr),
        None => base.pages_len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory as a map from page number to a value, at each of the moments.
    type Pages = BTreeMap<u64, u8>;

    fn spans(pages: impl IntoIterator<Item = u64>) -> Spans {
        Spans::of(pages.into_iter().map(|p| (p * PAGE, (p + 1) * PAGE)).collect())
    }

    /// Applies a layout to an image and reads it back by its pagemap.
    fn outcome(image: &[u8], layout: &Layout, staging: &Staging) -> Pages {
        let mut after = Vec::new();
        let mut at = 0;
        for (number, edit) in layout.edits.iter().enumerate() {
            assert!(edit.at >= at, "{:?}", layout.edits);
            after.extend(&image[at as usize..edit.at as usize]);
            let mut bytes = vec![0; edit.added as usize];
            // In two parts, the first of an odd length.
            let cut = bytes.len() / 3;
            let (first, second) = bytes.split_at_mut(cut);
            layout.fill(staging, number, 0, first).unwrap();
            layout.fill(staging, number, cut as u64, second).unwrap();
            after.extend(bytes);
            at = edit.at + edit.removed;
        }
        after.extend(&image[at as usize..]);
        assert_eq!(after.len() as u64, layout.map.pages_len());
        let mut pages = Pages::new();
        for run in layout.map.runs() {
            for n in 0..run.nr_pages {
                let at = (run.offset.unwrap() + n * PAGE) as usize;
                let page = &after[at..at + PAGE as usize];
                assert!(page.iter().all(|byte| *byte == page[0]));
                pages.insert(run.vaddr / PAGE + n, page[0]);
            }
        }
        pages
    }

    /// A small generator: reproducible, with nothing to install.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % n
        }
    }

    #[test]
    fn the_image_becomes_that_of_the_freeze_whatever_happened_meanwhile() {
        let mut random = Random(7);
        for _ in 0..400 {
            let (mut base, mut image) = (Pagemap::new(3), Vec::new());
            let mut memory = Pages::new();
            for page in 1..40 {
                if random.below(3) > 0 {
                    let value = random.below(250) as u8;
                    memory.insert(page, value);
                    base.push(page * PAGE, 1, PE_PRESENT).unwrap();
                    image.extend(vec![value; PAGE as usize]);
                }
            }
            let (mut staging, mut staged) = (Staging::default(), Vec::new());
            let copy = |page: u64, value: u8, staging: &mut Staging, staged: &mut Vec<Copy>| {
                staged.push((page * PAGE, PAGE, staging.len()));
                staging.push(&vec![value; PAGE as usize]);
            };
            // Rounds: some are written to, some come; their copies are made.
            for _ in 0..random.below(3) {
                for page in 1..45 {
                    if random.below(5) == 0 {
                        let value = random.below(250) as u8;
                        memory.insert(page, value);
                        copy(page, value, &mut staging, &mut staged);
                    }
                }
            }
            // Then some go, some are written, and an area was never tracked as a whole.
            let (mut gone, mut last) = (Vec::new(), Vec::new());
            for page in 1..45 {
                match random.below(6) {
                    0 => {
                        memory.remove(&page);
                        gone.push(page);
                    }
                    1 => {
                        memory.insert(page, random.below(250) as u8);
                        gone.push(page);
                        last.push(page);
                    }
                    _ => {}
                }
            }
            let lost = random.below(40) + 1;
            for page in lost..lost + 4 {
                // What is there now is copied whole.
                if memory.contains_key(&page) && !last.contains(&page) {
                    last.push(page);
                }
            }
            for page in &last {
                copy(*page, memory[page], &mut staging, &mut staged);
            }
            let frozen = Frozen {
                valid: spans((1..45).filter(|page| !(lost..lost + 4).contains(page))),
                gone: spans(gone),
                last: spans(last),
            };
            let layout = Layout::new(&base, &staged, &frozen).unwrap();
            assert_eq!(outcome(&image, &layout, &staging), memory);
        }
    }

    #[test]
    fn a_page_without_a_copy_is_an_error() {
        let base = Pagemap::new(1);
        let frozen = Frozen { last: spans([3]), ..Frozen::default() };
        assert!(Layout::new(&base, &[], &frozen).is_err());
    }
}
