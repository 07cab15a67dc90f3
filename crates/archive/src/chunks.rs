//! Which bytes of an entry each digest covers.
//!
//! One [`CHUNK`] after another, the last what is left; but where an entry was changed after it was
//! written ([`crate::ArchiveWriter::revise`]) chunks have grown or shrunk.

use std::ops::Range;

use blake3::Hash;
use cryopod_sys::revise::Edit;

use crate::digests::CHUNK;

/// The digests of an entry's data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Chunks {
    pub(crate) hashes: Vec<Hash>,
    /// Where each chunk ends, when that is not the usual place.
    ends: Option<Vec<u64>>,
}

impl Chunks {
    /// Chunks of the usual size.
    pub(crate) const fn usual(hashes: Vec<Hash>) -> Self {
        Self { hashes, ends: None }
    }

    /// Chunks of these lengths in bytes; `None` when they do not make up `size`, or one is empty or
    /// longer than a chunk.
    pub(crate) fn of_lengths(hashes: Vec<Hash>, lengths: &[u64], size: u64) -> Option<Self> {
        let mut end = 0u64;
        let mut ends = Vec::with_capacity(lengths.len());
        for len in lengths {
            end = end.checked_add(*len).filter(|_| (1..=CHUNK).contains(len))?;
            ends.push(end);
        }
        (end == size && ends.len() == hashes.len()).then_some(Self { hashes, ends: Some(ends) })
    }

    /// The lengths, unless they are the usual ones.
    pub(crate) fn lengths(&self) -> Option<Vec<u64>> {
        let ends = self.ends.as_ref()?;
        let begins = [0].into_iter().chain(ends.iter().copied());
        Some(begins.zip(ends).map(|(begin, end)| end - begin).collect())
    }

    /// Whether there are as many as an entry of this size has.
    pub(crate) fn fit(&self, size: u64) -> bool {
        match &self.ends {
            Some(ends) => ends.last().copied().unwrap_or(0) == size,
            None => self.hashes.len() as u64 == size.div_ceil(CHUNK),
        }
    }

    /// The bytes of chunk number `index`, in an entry of this size.
    pub(crate) fn range(&self, index: usize, size: u64) -> Range<u64> {
        match &self.ends {
            Some(ends) => {
                let begin = index.checked_sub(1).and_then(|i| ends.get(i)).copied().unwrap_or(0);
                begin..ends.get(index).copied().unwrap_or(size)
            }
            None => {
                let begin = (index as u64).saturating_mul(CHUNK).min(size);
                begin..begin.saturating_add(CHUNK).min(size)
            }
        }
    }

    /// The number of the chunk that byte `at` is in.
    pub(crate) fn at(&self, at: u64) -> usize {
        match &self.ends {
            Some(ends) => ends.partition_point(|end| *end <= at),
            None => (at / CHUNK) as usize,
        }
    }

    /// The chunks after such edits of an entry of `size` bytes; `hash` gives the digest of a range of
    /// the new data.
    pub(crate) fn revised<E>(
        &self,
        size: u64,
        edits: &[Edit],
        hash: &mut dyn FnMut(Range<u64>) -> Result<Hash, E>,
    ) -> Result<Self, E> {
        let shift: i64 = edits.iter().map(|e| e.added as i64 - e.removed as i64).sum();
        let new_size = size.wrapping_add_signed(shift);
        let (mut hashes, mut ends) = (Vec::with_capacity(self.hashes.len()), Vec::new());
        let mut add = |hash: Hash, end: u64| {
            hashes.push(hash);
            ends.push(end);
        };
        let mut begin = 0;
        for (index, known) in self.hashes.iter().enumerate() {
            let old = self.range(index, size);
            let last = index + 1 == self.hashes.len();
            let end = if last { new_size } else { moved(edits, old.end) };
            let touched = edits[edits.partition_point(|e| e.at + e.removed < old.start)..]
                .iter()
                .take_while(|e| e.at < old.end || (last && e.at == old.end))
                .any(|e| e.at >= old.start || e.at + e.removed > old.start);
            if !touched && begin < end {
                add(*known, end);
            } else {
                for at in (begin..end).step_by(CHUNK as usize) {
                    let upto = (at + CHUNK).min(end);
                    add(hash(at..upto)?, upto);
                }
            }
            begin = end;
        }
        // There was none: all is new.
        for at in (begin..new_size).step_by(CHUNK as usize) {
            let upto = (at + CHUNK).min(new_size);
            add(hash(at..upto)?, upto);
        }
        let usual = ends.iter().zip(1u64..).all(|(end, n)| *end == (n * CHUNK).min(new_size));
        Ok(Self { hashes, ends: (!usual).then_some(ends) })
    }
}

/// Where the boundary between two chunks lies afterwards: what comes at it belongs behind it.
fn moved(edits: &[Edit], at: u64) -> u64 {
    let before = &edits[..edits.partition_point(|e| e.at < at)];
    let mut to = at;
    for edit in before {
        let gone = edit.removed.min(at - edit.at);
        to = to + edit.added - gone;
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn apply(before: &[u8], edits: &[Edit]) -> Vec<u8> {
        let mut after = Vec::new();
        let mut at = 0;
        for (number, edit) in edits.iter().enumerate() {
            after.extend(&before[at as usize..edit.at as usize]);
            after.resize(after.len() + edit.added as usize, 200 + number as u8);
            at = edit.at + edit.removed;
        }
        after.extend(&before[at as usize..]);
        after
    }

    fn edit(at: u64, removed: u64, added: u64) -> Edit {
        Edit { at: at * PAGE, removed: removed * PAGE, added: added * PAGE }
    }

    #[test]
    fn chunks_follow_what_is_changed_and_the_others_are_not_read() {
        let before: Vec<u8> = (0..3 * CHUNK + 5 * PAGE).map(|n| (n / 509) as u8).collect();
        let hashes: Vec<Hash> = before.chunks(CHUNK as usize).map(blake3::hash).collect();
        let chunks = Chunks::usual(hashes);
        let size = before.len() as u64;
        assert!(chunks.fit(size));
        // Edits, and how many bytes have to be read for them at most.
        let cases: &[(&[Edit], u64)] = &[
            (&[], 0),
            (&[edit(1, 1, 1)], CHUNK),
            (&[edit(0, 0, 3)], 2 * CHUNK),
            (&[edit(256, 0, 3)], 2 * CHUNK),
            (&[edit(250, 10, 1), edit(511, 1, 2)], 3 * CHUNK),
            (&[edit(0, 256, 0)], 0),
            (&[edit(10, 600, 0)], 3 * CHUNK),
            (&[edit(773, 0, 900)], 5 * CHUNK),
            (&[edit(768, 5, 0)], 0),
            (&[edit(0, 773, 0)], 0),
        ];
        for (edits, most) in cases {
            let after = apply(&before, edits);
            let mut read = 0;
            let mut hash = |range: Range<u64>| -> Result<Hash, ()> {
                read += range.end - range.start;
                Ok(blake3::hash(&after[range.start as usize..range.end as usize]))
            };
            let revised = chunks.revised(size, edits, &mut hash).unwrap();
            assert!(read <= *most, "{edits:?}: {read}");
            let len = after.len() as u64;
            assert!(revised.fit(len), "{edits:?}");
            let mut at = 0;
            for (index, known) in revised.hashes.iter().enumerate() {
                let range = revised.range(index, len);
                assert_eq!(range.start, at);
                let bytes = &after[range.start as usize..range.end as usize];
                assert_eq!(*known, blake3::hash(bytes), "{edits:?} {index}");
                assert_eq!(revised.at(range.start), index);
                assert_eq!(revised.at(range.end - 1), index);
                at = range.end;
            }
            assert_eq!(at, len);
            if let Some(lengths) = revised.lengths() {
                let again = Chunks::of_lengths(revised.hashes.clone(), &lengths, len);
                assert_eq!(again, Some(revised));
            }
        }
    }

    #[test]
    fn nothing_at_first_becomes_something() {
        let after = vec![3; CHUNK as usize + 7];
        let mut hash =
            |r: Range<u64>| Ok::<_, ()>(blake3::hash(&after[r.start as usize..r.end as usize]));
        let edits = [Edit { at: 0, removed: 0, added: after.len() as u64 }];
        let revised = Chunks::default().revised(0, &edits, &mut hash).unwrap();
        assert_eq!(revised.hashes.len(), 2);
        assert!(revised.lengths().is_none());
    }

    #[test]
    fn lengths_that_make_no_sense_are_refused() {
        let hashes = vec![blake3::hash(b""); 2];
        for lengths in [&[1, 2][..], &[CHUNK + 1, 1], &[0, 3], &[3], &[u64::MAX, 4]] {
            assert!(Chunks::of_lengths(hashes.clone(), lengths, 4).is_none(), "{lengths:?}");
        }
        assert!(Chunks::of_lengths(hashes, &[1, 3], 4).is_some());
    }
}
