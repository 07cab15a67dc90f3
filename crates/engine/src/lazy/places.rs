//! What the missing pages of one address space are to become.
//!
//! Every registered stretch of addresses has a piece here, which says where in the archived address
//! space its content was. The pieces follow the changes that the program makes to its memory, of
//! which the kernel tells ([`cryopod_sys::missing`]). An address without a piece is zero: it is of
//! an area that has grown.
//!
//! Changes that threads make at the same time may be told in another order than that in which they
//! took place. They come in batches: all that were begun before the kernel said that none is under
//! way. Within a batch, a stretch that was moved to where another piece still is waits for the change
//! that takes that piece away; one that was unmapped where something was moved to is asked for.

use std::collections::BTreeMap;
use std::io;

use cryopod_sys::missing::Message;

/// Adjacent addresses of one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) end: u64,
    /// Archived address of the first byte; `None`: the content was thrown away, pages are zero.
    pub(super) from: Option<u64>,
    /// All its pages were given.
    pub(super) done: bool,
}

/// All pieces of an address space, by their first address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Places(BTreeMap<u64, Piece>);

/// Changes at the same time of which it cannot be told which came first.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsettled {
    #[error(
        "memory at {0:x} was changed by one thread while another forked: which was first is not known; restore it without --lazy"
    )]
    Ambiguous(u64),
    #[error("another change has begun")]
    Changing,
    #[error("the kernel does not tell what is registered")]
    Kernel(#[from] io::Error),
}

/// Asks the kernel whether a page is registered; `None`: a change is under way.
pub(super) type IsRegistered<'a> = dyn FnMut(u64) -> io::Result<Option<bool>> + 'a;

impl Places {
    pub(super) fn add(&mut self, start: u64, end: u64) {
        self.0.insert(start, Piece { end, from: Some(start), done: false });
    }

    /// Makes a piece begin at this address, if one goes across it.
    fn cut(&mut self, at: u64) {
        let Some((&start, piece)) = self.0.range_mut(..at).next_back() else { return };
        if piece.end <= at {
            return;
        }
        let rest = Piece { from: piece.from.map(|from| from + (at - start)), ..*piece };
        piece.end = at;
        self.0.insert(at, rest);
    }

    /// Takes out what is between two addresses.
    fn take(&mut self, start: u64, end: u64) -> Vec<(u64, Piece)> {
        self.cut(start);
        self.cut(end);
        let starts: Vec<u64> = self.0.range(start..end).map(|(at, _)| *at).collect();
        starts.into_iter().filter_map(|at| Some((at, self.0.remove(&at)?))).collect()
    }

    fn each(&mut self, start: u64, end: u64, change: impl Fn(&mut Piece)) {
        self.cut(start);
        self.cut(end);
        self.0.range_mut(start..end).for_each(|(_, piece)| change(piece));
    }

    /// The first piece that ends after an address, cut to begin there or later.
    fn piece_from(&self, address: u64) -> Option<(u64, Piece)> {
        if let Some((start, piece)) = self.0.range(..=address).next_back()
            && piece.end > address
        {
            let from = piece.from.map(|from| from + (address - start));
            return Some((address, Piece { from, ..*piece }));
        }
        self.0.range(address..).next().map(|(start, piece)| (*start, *piece))
    }

    fn is_free(&self, start: u64, end: u64) -> bool {
        self.piece_from(start).is_none_or(|(at, _)| at >= end)
    }

    /// Remembers that the pages of a range are there.
    pub(super) fn done(&mut self, start: u64, end: u64) {
        self.each(start, end, |piece| piece.done = true);
    }

    /// The archived address of a page that is still to be given.
    pub(super) fn wanted(&self, page: u64) -> Option<u64> {
        let (at, piece) = self.piece_from(page)?;
        piece.from.filter(|_| at == page && !piece.done)
    }

    /// The first range at or after an address of which pages are to be given, at most `most` bytes:
    /// its first address, the one after it, and the archived address.
    pub(super) fn next(&self, address: u64, most: u64) -> Option<(u64, u64, u64)> {
        let mut at = address;
        while let Some((start, piece)) = self.piece_from(at) {
            if let (Some(from), false) = (piece.from, piece.done) {
                return Some((start, piece.end.min(start.saturating_add(most)), from));
            }
            at = piece.end;
        }
        None
    }

    /// Any address that has, or had, a piece.
    pub(super) fn any(&self) -> Option<u64> {
        self.0.keys().next().copied()
    }

    /// Applies a batch of changes; gives the places of each child that was forked, with its descriptor.
    pub(super) fn settle(
        &mut self,
        batch: &[Message],
        is_registered: &mut IsRegistered<'_>,
    ) -> Result<Vec<(i32, Self)>, Unsettled> {
        let before = (batch.len() > 1).then(|| self.clone());
        let mut left = batch.to_vec();
        let mut moved: Vec<(u64, u64)> = Vec::new();
        let mut children = Vec::new();
        while !left.is_empty() {
            let mut turn = 0;
            // At most as often as there are changes: each look goes on to a later one.
            while let Message::Remap { to, len, .. } = left[turn] {
                let end = to.saturating_add(len);
                let frees = |change: &Message| match *change {
                    Message::Remap { from, len, .. } => from < end && to < from.saturating_add(len),
                    _ => false,
                };
                match left[turn + 1..].iter().position(frees) {
                    Some(later) if !self.is_free(to, end) => turn += 1 + later,
                    _ => break,
                }
            }
            match left.remove(turn) {
                Message::Fault { .. } => {}
                Message::Fork { fd } => children.push(fd),
                Message::Remove { start, end } => self.each(start, end, |piece| piece.from = None),
                Message::Remap { from, to, len } => {
                    let pieces = self.take(from, from.saturating_add(len));
                    self.take(to, to.saturating_add(len));
                    for (start, piece) in pieces {
                        let end = piece.end - from + to;
                        self.0.insert(start - from + to, Piece { end, ..piece });
                    }
                    moved.push((to, to.saturating_add(len)));
                }
                Message::Unmap { start, end } => {
                    for (s, e) in &moved {
                        self.cut(*s);
                        self.cut(*e);
                    }
                    let pieces = self.take(start, end);
                    for (at, piece) in pieces {
                        let doubtful = moved.iter().any(|(s, e)| *s < piece.end && at < *e);
                        if doubtful && is_registered(at)?.ok_or(Unsettled::Changing)? {
                            self.0.insert(at, piece);
                        }
                    }
                }
            }
        }
        let of_child = match before {
            Some(before) if !children.is_empty() => self.joined(&before, is_registered)?,
            _ => self.clone(),
        };
        Ok(children.into_iter().map(|fd| (fd, of_child.clone())).collect())
    }

    /// What a child has that was forked some time between two states.
    ///
    /// What was unmapped or moved away, and is registered again, may have grown there before or after
    /// the fork: the child has either zeros or the old content.
    fn joined(
        &self,
        before: &Self,
        is_registered: &mut IsRegistered<'_>,
    ) -> Result<Self, Unsettled> {
        let mut all = self.clone();
        for (&start, piece) in &before.0 {
            let mut at = start;
            while at < piece.end {
                let from = piece.from.map(|from| from + (at - start));
                match self.piece_from(at) {
                    Some((found, now)) if found == at => {
                        if let (Some(now), Some(from)) = (now.from, from)
                            && now != from
                        {
                            return Err(Unsettled::Ambiguous(at));
                        }
                        // What one of both has given is there for the child, or the other's copy is.
                        at = now.end;
                    }
                    next => {
                        let end = next.map_or(piece.end, |(next, _)| next.min(piece.end));
                        if is_registered(at)?.ok_or(Unsettled::Changing)? {
                            return Err(Unsettled::Ambiguous(at));
                        }
                        all.0.insert(at, Piece { end, from, done: piece.done });
                        at = end;
                    }
                }
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: u64 = 1 << 20;

    fn places(list: &[(u64, u64, Option<u64>)]) -> Places {
        let piece = |(start, end, from): &(u64, u64, Option<u64>)| {
            (*start, Piece { end: *end, from: *from, done: false })
        };
        Places(list.iter().map(piece).collect())
    }

    fn registered(_: u64) -> io::Result<Option<bool>> {
        Ok(Some(true))
    }

    #[test]
    fn pages_thrown_away_and_unmapped_are_never_wanted_again() {
        let mut all = places(&[(M, 9 * M, Some(M))]);
        let batch = [Message::Remove { start: 2 * M, end: 3 * M }];
        all.settle(&batch, &mut registered).unwrap();
        all.settle(&[Message::Unmap { start: 5 * M, end: 6 * M }], &mut registered).unwrap();
        assert_eq!(all.wanted(2 * M - 4096), Some(2 * M - 4096));
        assert_eq!((all.wanted(2 * M), all.wanted(3 * M)), (None, Some(3 * M)));
        assert_eq!((all.wanted(5 * M), all.wanted(6 * M)), (None, Some(6 * M)));
        assert_eq!(all.next(2 * M, 64 * M), Some((3 * M, 5 * M, 3 * M)));
    }

    #[test]
    fn a_moved_stretch_keeps_its_content() {
        let mut all = places(&[(M, 3 * M, Some(M)), (7 * M, 9 * M, Some(7 * M))]);
        all.done(M, M + 4096);
        let batch = [
            Message::Unmap { start: 7 * M, end: 8 * M },
            Message::Remap { from: M, to: 7 * M, len: M },
            Message::Unmap { start: M, end: 2 * M },
        ];
        all.settle(&batch, &mut registered).unwrap();
        assert_eq!((all.wanted(7 * M), all.wanted(7 * M + 4096)), (None, Some(M + 4096)));
        assert_eq!((all.wanted(M), all.wanted(2 * M)), (None, Some(2 * M)));
        assert_eq!(all.wanted(8 * M), Some(8 * M));
    }

    #[test]
    fn two_threads_that_moved_memory_may_be_told_in_the_wrong_order() {
        // In truth: 3 to 5, then 1 to 3.
        let mut all = places(&[(M, 2 * M, Some(M)), (3 * M, 4 * M, Some(3 * M))]);
        let batch = [
            Message::Remap { from: M, to: 3 * M, len: M },
            Message::Remap { from: 3 * M, to: 5 * M, len: M },
        ];
        all.settle(&batch, &mut registered).unwrap();
        assert_eq!((all.wanted(3 * M), all.wanted(5 * M)), (Some(M), Some(3 * M)));

        // In truth: 3 unmapped, then 1 to 3.
        let mut all = places(&[(M, 2 * M, Some(M)), (3 * M, 4 * M, Some(3 * M))]);
        let batch = [
            Message::Remap { from: M, to: 3 * M, len: M },
            Message::Unmap { start: 3 * M, end: 4 * M },
        ];
        all.settle(&batch, &mut registered).unwrap();
        assert_eq!(all.wanted(3 * M), Some(M));
    }

    #[test]
    fn a_batch_is_given_back_when_another_change_begins() {
        let mut all = places(&[(M, 2 * M, Some(M)), (3 * M, 4 * M, Some(3 * M))]);
        let batch = [
            Message::Remap { from: M, to: 3 * M, len: M },
            Message::Unmap { start: 3 * M, end: 4 * M },
        ];
        let outcome = all.settle(&batch, &mut |_| Ok(None));
        assert!(matches!(outcome, Err(Unsettled::Changing)));
    }

    #[test]
    fn a_child_forked_meanwhile_has_what_was_and_what_is() {
        let mut all = places(&[(M, 2 * M, Some(M)), (3 * M, 4 * M, Some(3 * M))]);
        let batch = [
            Message::Remap { from: M, to: 5 * M, len: M },
            Message::Fork { fd: 9 },
            Message::Unmap { start: 3 * M, end: 4 * M },
        ];
        let mut grown = all.clone();
        let outcome = grown.settle(&batch, &mut registered);
        assert!(matches!(outcome, Err(Unsettled::Ambiguous(_))), "{outcome:?}");
        let children = all.settle(&batch, &mut |_| Ok(Some(false))).unwrap();
        let [(9, child)] = &children[..] else { panic!("{children:?}") };
        assert_eq!((child.wanted(M), child.wanted(5 * M)), (Some(M), Some(M)));
        assert_eq!(child.wanted(3 * M), Some(3 * M));
        assert_eq!((all.wanted(M), all.wanted(3 * M)), (None, None));
    }
}
