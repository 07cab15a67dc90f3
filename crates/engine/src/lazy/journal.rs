//! What has become of the memory that is filled late, in memory that outlives the filler.
//!
//! The kernel counts a message as heard when read(2) returns, and lets the program go on. Therefore
//! messages are read straight into the next slot of a shared mapping: either the kernel still has
//! the message, or it is here, however soon the filler is killed. State is a function of what was
//! there at first and of the slots in order; who takes over computes it anew. A slot counts when its
//! first byte is not zero, which is written last.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use cryopod_sys::missing::{MESSAGE, Message};
use cryopod_sys::shared::Shared;

/// Words of a slot: a message, the space it is of, and room.
const SLOT: usize = 8;
/// Slots there are; memory is used for those that were written.
const SLOTS: usize = 2 << 20;

/// The tree may run: who is left has to serve it.
pub(super) const LET_GO: u64 = 1;
/// The release was told.
pub(super) const TOLD: u64 = 2;
/// Everything is done, or nothing can be done any more.
pub(super) const FINISHED: u64 = 4;

/// What a slot says; `space` is the number of an address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// The kernel's word.
    Heard { space: usize, message: Message },
    /// Whether a page was registered, asked for while changes were settled.
    Answer { page: u64, registered: bool },
    /// What was answered since the last `Settled` counts for nothing.
    Retry,
    /// The changes heard of so far took effect.
    Settled { space: usize },
    /// All pages of a range were given.
    Done { space: usize, start: u64, end: u64 },
    /// The process has ended.
    Gone { space: usize },
}

#[derive(Debug)]
pub(super) struct Journal {
    shared: Shared,
    next: usize,
}

fn full() -> io::Error {
    io::Error::other("it changes its memory faster than can be written down")
}

impl Journal {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { shared: Shared::new(SLOTS * SLOT * 8)?, next: 1 })
    }

    pub(super) fn raise(&self, flag: u64) {
        self.shared.word(0).fetch_or(flag, Ordering::SeqCst);
    }

    pub(super) fn has(&self, flag: u64) -> bool {
        self.shared.word(0).load(Ordering::SeqCst) & flag != 0
    }

    /// Counts one more death since a range was done.
    pub(super) fn deaths(&self) -> u64 {
        self.shared.word(1).fetch_add(1, Ordering::SeqCst) + 1
    }

    fn set(&self, slot: usize, word: usize, value: u64) {
        self.shared.word(slot * SLOT + word).store(value, Ordering::SeqCst);
    }

    fn get(&self, slot: usize, word: usize) -> u64 {
        self.shared.word(slot * SLOT + word).load(Ordering::SeqCst)
    }

    pub(super) fn push(&mut self, entry: Entry) -> io::Result<()> {
        if self.next == SLOTS {
            return Err(full());
        }
        let (kind, space, a, b) = match entry {
            Entry::Heard { .. } => return Err(io::Error::other("a message is read, not written")),
            Entry::Answer { page, registered } => (1, 0, page, registered.into()),
            Entry::Retry => (2, 0, 0, 0),
            Entry::Settled { space } => (3, space, 0, 0),
            Entry::Done { space, start, end } => {
                self.shared.word(1).store(0, Ordering::SeqCst);
                (4, space, start, end)
            }
            Entry::Gone { space } => (5, space, 0, 0),
        };
        self.set(self.next, 4, space as u64);
        self.set(self.next, 1, a);
        self.set(self.next, 2, b);
        self.set(self.next, 0, kind);
        self.next += 1;
        Ok(())
    }

    /// Reads a message of an address space, if there is one. A fault is not kept: whoever waits for a
    /// page gets it sooner or later.
    pub(super) fn hear(&mut self, space: usize, fd: BorrowedFd<'_>) -> io::Result<Option<Message>> {
        if self.next == SLOTS {
            return Err(full());
        }
        self.set(self.next, 4, space as u64);
        match self.shared.read(fd, self.next * SLOT, MESSAGE) {
            Ok(MESSAGE) => {}
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e),
        }
        let message = self.message(self.next)?;
        if matches!(message, Message::Fault { .. }) {
            self.set(self.next, 0, 0);
        } else {
            self.next += 1;
        }
        Ok(Some(message))
    }

    fn message(&self, slot: usize) -> io::Result<Message> {
        let mut bytes = [0; MESSAGE];
        for (word, bytes) in bytes.chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&self.get(slot, word).to_le_bytes());
        }
        Message::parse(&bytes).ok_or_else(|| io::Error::other("an unknown message of the kernel"))
    }

    fn entry(&self, slot: usize) -> io::Result<Entry> {
        let space = self.get(slot, 4) as usize;
        let (a, b) = (self.get(slot, 1), self.get(slot, 2));
        Ok(match self.get(slot, 0) & 0xff {
            1 => Entry::Answer { page: a, registered: b != 0 },
            2 => Entry::Retry,
            3 => Entry::Settled { space },
            4 => Entry::Done { space, start: a, end: b },
            5 => Entry::Gone { space },
            _ => Entry::Heard { space, message: self.message(slot)? },
        })
    }

    /// Everything that was written, whoever wrote it; what comes next is written behind it.
    pub(super) fn replay(&mut self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        self.next = 1;
        while self.next < SLOTS && self.get(self.next, 0) & 0xff != 0 {
            let entry = self.entry(self.next)?;
            if matches!(entry, Entry::Heard { message: Message::Fault { .. }, .. }) {
                self.set(self.next, 0, 0);
                break;
            }
            entries.push(entry);
            self.next += 1;
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_was_written_and_read_is_there_for_another() {
        let mut journal = Journal::new().unwrap();
        let (from, to) = rustix::pipe::pipe().unwrap();
        let mut bytes = [0; MESSAGE];
        bytes[0] = 0x12;
        rustix::io::write(&to, &bytes).unwrap();
        bytes[0] = 0x15;
        bytes[8] = 1;
        bytes[16] = 2;
        rustix::io::write(&to, &bytes).unwrap();
        let done = Entry::Done { space: 3, start: 4096, end: 8192 };
        journal.push(done).unwrap();
        let fault = journal.hear(7, from.as_fd()).unwrap();
        assert!(matches!(fault, Some(Message::Fault { .. })));
        let message = journal.hear(7, from.as_fd()).unwrap().unwrap();
        assert_eq!(message, Message::Remove { start: 1, end: 2 });
        journal.push(Entry::Settled { space: 7 }).unwrap();
        let all = [done, Entry::Heard { space: 7, message }, Entry::Settled { space: 7 }];
        assert_eq!(journal.replay().unwrap(), all);
        journal.push(Entry::Retry).unwrap();
        assert_eq!(journal.replay().unwrap().len(), 4);
        journal.raise(LET_GO);
        assert!(journal.has(LET_GO) && !journal.has(TOLD));
    }
}
