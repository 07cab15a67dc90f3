//! Pages read late: a chunk at a time, compared with its digest before any of it is used.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::store::Pages;

/// Chunks kept for the next use.
const KEPT: usize = 4;

/// Chunks of images of pages, the last ones used.
#[derive(Debug, Default)]
pub(crate) struct Chunks(VecDeque<(Arc<Pages>, u64, Vec<u8>)>);

impl Chunks {
    /// The bytes of an image of pages from a place to the end of the chunk it is in.
    pub(crate) fn get(&mut self, pages: &Arc<Pages>, offset: u64) -> io::Result<&[u8]> {
        let (index, range) = pages.chunk(offset);
        if !range.contains(&offset) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let number = index as u64;
        let known = |(of, n, _): &(Arc<Pages>, u64, _)| Arc::ptr_eq(of, pages) && *n == number;
        if let Some(found) = self.0.iter().position(known) {
            self.0.swap(0, found);
        } else {
            let mut bytes = match self.0.len() {
                KEPT => self.0.pop_back().map(|(_, _, bytes)| bytes).unwrap_or_default(),
                _ => Vec::new(),
            };
            bytes.resize((range.end - range.start) as usize, 0);
            pages.file.read_exact_at(&mut bytes, pages.offset + range.start)?;
            if let Some(check) = &pages.check {
                check.check(index, &bytes)?;
            }
            self.0.push_front((Arc::clone(pages), number, bytes));
        }
        let first =
            self.0.front().and_then(|(_, _, bytes)| bytes.get((offset - range.start) as usize..));
        first.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Reads from a place of an image of pages.
    pub(crate) fn read(
        &mut self,
        pages: &Arc<Pages>,
        mut offset: u64,
        mut to: &mut [u8],
    ) -> io::Result<()> {
        while !to.is_empty() {
            let from = self.get(pages, offset)?;
            let len = from.len().min(to.len());
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (now, later) = to.split_at_mut(len);
            now.copy_from_slice(&from[..len]);
            offset += len as u64;
            to = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{CHUNK, CheckPages};
    use std::io::Write;
    use std::ops::Range;

    /// Knows that only one chunk is as it was.
    #[derive(Debug)]
    struct Good(usize);

    impl CheckPages for Good {
        fn chunk(&self, at: u64) -> (usize, Range<u64>) {
            let begin = at / CHUNK * CHUNK;
            ((at / CHUNK) as usize, begin..(begin + CHUNK).min(2 * CHUNK + 8192))
        }

        fn check(&self, index: usize, bytes: &[u8]) -> io::Result<()> {
            assert_eq!(bytes.len() as u64, CHUNK.min(2 * CHUNK + 8192 - index as u64 * CHUNK));
            if index == self.0 { Ok(()) } else { Err(io::Error::other("damaged")) }
        }
    }

    #[test]
    fn chunks_are_checked_whole_before_a_byte_of_them_is_given() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..2 * CHUNK + 8192 + 100).map(|n| (n % 249) as u8).collect();
        file.write_all(&content).unwrap();
        let pages = |check: Option<Arc<dyn CheckPages>>| {
            let file = Arc::new(file.try_clone().unwrap());
            Arc::new(Pages { file, offset: 100, len: 2 * CHUNK + 8192, check })
        };
        let (free, bound) = (pages(None), pages(Some(Arc::new(Good(2)))));
        let mut chunks = Chunks::default();
        let mut found = vec![0; 8192];
        for offset in [0, CHUNK - 4096, 2 * CHUNK - 4096, 2 * CHUNK] {
            chunks.read(&free, offset, &mut found).unwrap();
            let at = offset as usize + 100;
            assert_eq!(found, content[at..at + 8192]);
        }
        chunks.read(&bound, 2 * CHUNK, &mut found).unwrap();
        assert!(chunks.read(&bound, 2 * CHUNK - 4096, &mut found).is_err());
        assert!(chunks.read(&free, 2 * CHUNK + 4096, &mut found).is_err());
    }
}
