//! Memory of the engine in which copied pages wait until the tree runs again.
//!
//! The disk is slower than memory by an order of magnitude, so what must be copied in the freeze goes
//! here first. Fresh memory costs more than the copy itself, so room is made ready before.

use std::io;

use crate::store::{Content, Edit, ImageSink};

/// Bytes of one piece of the memory.
const PIECE: usize = 1 << 20;

/// Bytes one after another, in pieces that never move.
#[derive(Debug, Default)]
pub struct Staging {
    pieces: Vec<Box<[u8]>>,
    used: usize,
}

impl Staging {
    /// Makes room for so many bytes more ready, touched, so that using it costs no fault.
    pub fn reserve(&mut self, bytes: usize) {
        while self.pieces.len() * PIECE < self.used + bytes {
            self.grow();
        }
    }

    fn grow(&mut self) {
        // Not zeroed by the allocator alone: that would leave the pages untouched.
        let mut piece = vec![0u8; PIECE].into_boxed_slice();
        for page in piece.chunks_mut(4096) {
            page[0] = 1;
        }
        self.pieces.push(piece);
    }

    /// Bytes stored so far: where the next will be.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether nothing is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// The next free bytes, at most `want`, and at least one; they count as stored.
    pub fn next(&mut self, want: usize) -> &mut [u8] {
        if self.pieces.len() * PIECE == self.used {
            self.grow();
        }
        let (piece, at) = (self.used / PIECE, self.used % PIECE);
        let len = want.min(PIECE - at);
        self.used += len;
        &mut self.pieces[piece][at..at + len]
    }

    /// Stores bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.next(bytes.len());
            let (now, later) = bytes.split_at(room.len());
            room.copy_from_slice(now);
            bytes = later;
        }
    }

    /// Stored bytes from `at` on, as far as they lie together, at most `want`.
    #[must_use]
    pub fn get(&self, at: usize, want: usize) -> &[u8] {
        let (piece, from) = (at / PIECE, at % PIECE);
        let len = want.min(PIECE - from).min(self.used.saturating_sub(at));
        &self.pieces[piece][from..from + len]
    }
}

/// Images of pages that are kept back until the tree runs again, as long as there is memory for
/// them; then they go where they belong at once.
#[derive(Debug, Default)]
pub struct Held {
    staging: Staging,
    images: Vec<(String, usize)>,
    /// Bytes that may be kept.
    budget: usize,
    /// No more is kept: the sink has an image open or had what came before.
    passing: bool,
}

impl Held {
    /// May keep `budget` bytes.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        Self { budget, ..Self::default() }
    }

    /// Everything that comes is kept or handed to `sink`.
    pub fn over<'a>(&'a mut self, sink: &'a mut dyn ImageSink) -> Holding<'a> {
        Holding { held: self, sink }
    }

    /// Hands everything kept to the sink.
    ///
    /// # Errors
    /// The sink's.
    pub fn release(&mut self, sink: &mut dyn ImageSink) -> io::Result<()> {
        let ends = self.images.iter().skip(1).map(|(_, at)| *at).chain([self.staging.len()]);
        for ((name, start), end) in self.images.iter().zip(ends.collect::<Vec<_>>()) {
            sink.begin_pages(name)?;
            let mut at = *start;
            while at < end {
                let part = self.staging.get(at, end - at);
                sink.write_pages(part)?;
                at += part.len();
            }
            sink.end_pages()?;
        }
        self.images.clear();
        self.staging = Staging::default();
        Ok(())
    }
}

/// [`Held`] in front of a sink.
pub struct Holding<'a> {
    held: &'a mut Held,
    sink: &'a mut dyn ImageSink,
}

impl std::fmt::Debug for Holding<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Holding").field("held", &self.held).finish_non_exhaustive()
    }
}

impl ImageSink for Holding<'_> {
    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.sink.put(name, bytes)
    }

    fn begin_pages(&mut self, name: &str) -> io::Result<()> {
        if self.held.passing {
            return self.sink.begin_pages(name);
        }
        self.held.images.push((name.to_owned(), self.held.staging.len()));
        Ok(())
    }

    fn write_pages(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.held.passing {
            return self.sink.write_pages(bytes);
        }
        if self.held.staging.len() + bytes.len() <= self.held.budget {
            self.held.staging.push(bytes);
            return Ok(());
        }
        // What is kept goes first; the image that is open goes on there.
        self.held.passing = true;
        let Some((open, start)) = self.held.images.pop() else {
            return Err(io::Error::other("no image of pages is open"));
        };
        let staging = std::mem::take(&mut self.held.staging);
        let end = staging.len();
        let images = std::mem::take(&mut self.held.images);
        let ends = images.iter().skip(1).map(|(_, at)| *at).chain([start]);
        let whole =
            images.iter().zip(ends).map(|((name, at), end)| (name.as_str(), *at, end, true));
        for (name, mut at, end, close) in whole.chain([(open.as_str(), start, end, false)]) {
            self.sink.begin_pages(name)?;
            while at < end {
                let part = staging.get(at, end - at);
                self.sink.write_pages(part)?;
                at += part.len();
            }
            if close {
                self.sink.end_pages()?;
            }
        }
        self.sink.write_pages(bytes)
    }

    fn end_pages(&mut self) -> io::Result<()> {
        if self.held.passing { self.sink.end_pages() } else { Ok(()) }
    }

    fn revise_pages(&mut self, name: &str, _: &[Edit], _: &mut Content<'_>) -> io::Result<()> {
        // What is kept back has not ended.
        Err(io::Error::other(format!("{name} cannot be changed yet")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Eq)]
    struct Seen(Vec<(String, Vec<u8>, bool)>);

    impl ImageSink for Seen {
        fn put(&mut self, _: &str, _: &[u8]) -> io::Result<()> {
            Ok(())
        }
        fn begin_pages(&mut self, name: &str) -> io::Result<()> {
            self.0.push((name.to_owned(), Vec::new(), false));
            Ok(())
        }
        fn write_pages(&mut self, bytes: &[u8]) -> io::Result<()> {
            let open = self.0.last_mut().filter(|(.., ended)| !ended);
            open.ok_or_else(|| io::Error::other("none open"))?.1.extend(bytes);
            Ok(())
        }
        fn revise_pages(&mut self, _: &str, _: &[Edit], _: &mut Content<'_>) -> io::Result<()> {
            Err(io::Error::other("nothing is to be changed here"))
        }
        fn end_pages(&mut self) -> io::Result<()> {
            let open = self.0.last_mut().filter(|(.., ended)| !ended);
            open.ok_or_else(|| io::Error::other("none open"))?.2 = true;
            Ok(())
        }
    }

    fn through(budget: usize) -> (Seen, Seen) {
        let (mut before, mut sink) = (Seen::default(), Seen::default());
        let mut held = Held::new(budget);
        for (name, parts) in [("a", 3), ("empty", 0), ("b", 2)] {
            let mut sink = held.over(&mut before);
            sink.begin_pages(name).unwrap();
            for part in 0..parts {
                sink.write_pages(&vec![part as u8 + name.as_bytes()[0]; PIECE / 2 + 8]).unwrap();
            }
            sink.end_pages().unwrap();
        }
        held.release(&mut sink).unwrap();
        (before, sink)
    }

    #[test]
    fn images_come_out_as_they_went_in_whatever_the_budget() {
        let (before, all) = through(usize::MAX);
        assert_eq!(before.0.len(), 0);
        assert_eq!(
            all.0.iter().map(|(n, b, e)| (&**n, b.len(), *e)).collect::<Vec<_>>(),
            [
                ("a", 3 * (PIECE / 2 + 8), true),
                ("empty", 0, true),
                ("b", 2 * (PIECE / 2 + 8), true)
            ]
        );
        for budget in [0, PIECE / 2 + 8, PIECE, 2 * PIECE, 5 * PIECE] {
            let (mut before, after) = through(budget);
            before.0.extend(after.0);
            assert!(before == all, "{budget}");
        }
    }
}
