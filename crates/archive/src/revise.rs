//! Changing entries of pages after they were written.
//!
//! Pages are written while their program runs. What it writes to afterwards is replaced in place; pages
//! that are new or gone are put in or taken out ([`cryopod_sys::revise`]), so that the entry holds the
//! pages of one instant, in the order of their addresses, as if it had been written then.

use std::io;
use std::os::unix::fs::FileExt;

use blake3::Hash;
use cryopod_sys::revise::{self, Content, Edit};

use crate::digests::CHUNK;
use crate::tar::BLOCK;
use crate::tar::encode::patch_size;
use crate::write_error::WriteError;
use crate::writer::{ArchiveWriter, DATA_ALIGN};

/// An entry with aligned data that has ended.
#[derive(Debug)]
pub(crate) struct Placed {
    /// Number of its row in the table of digests.
    pub(crate) row: usize,
    /// Where its ustar block is.
    pub(crate) block_at: u64,
    /// All bytes between the entry before and its data.
    pub(crate) head: Vec<u8>,
}

impl Placed {
    fn data_at(&self) -> u64 {
        self.block_at + BLOCK
    }
}

impl ArchiveWriter {
    /// Changes an entry that began aligned and has ended. The places are those in its data; everything
    /// is a multiple of [`DATA_ALIGN`] bytes.
    ///
    /// # Errors
    /// When another entry is open, there is no such entry, the places make no sense, or the file cannot
    /// be changed; the archive is of no use then.
    pub fn revise(
        &mut self,
        name: &str,
        edits: &[Edit],
        content: &mut Content<'_>,
    ) -> Result<(), WriteError> {
        let order = |what| WriteError::Order { name: name.to_owned(), what };
        if self.is_open() {
            return Err(order("cannot be changed while an entry is open"));
        }
        let rows = &self.table.rows;
        let found = self.placed.iter().position(|placed| rows[placed.row].name == name);
        let Some(index) = found else { return Err(order("is no entry that can be changed")) };
        let (row, data_at) = (self.placed[index].row, self.placed[index].data_at());
        let size = rows[row].size;
        let aligned =
            |edit: &Edit| (edit.at | edit.removed | edit.added).is_multiple_of(DATA_ALIGN);
        let inside = |edit: &Edit| edit.at.checked_add(edit.removed).is_some_and(|end| end <= size);
        if !size.is_multiple_of(DATA_ALIGN) || !edits.iter().all(|e| aligned(e) && inside(e)) {
            return Err(order("cannot be changed at such places"));
        }
        if edits.is_empty() {
            return Ok(());
        }
        self.settle()?;
        let placed: Vec<Edit> =
            edits.iter().map(|edit| Edit { at: edit.at + data_at, ..*edit }).collect();
        revise::revise(&self.file, &placed, content).map_err(|e| self.fail("change", e))?;
        let shift: i64 = edits.iter().map(|e| e.added as i64 - e.removed as i64).sum();
        self.shifted(shift);
        for later in &mut self.placed[index + 1..] {
            later.block_at = later.block_at.wrapping_add_signed(shift);
        }
        let new_size = size.wrapping_add_signed(shift);
        let mut buf = vec![0; CHUNK as usize];
        let file = self.file.clone();
        let mut hash = |range: std::ops::Range<u64>| -> io::Result<Hash> {
            let bytes = &mut buf[..(range.end - range.start) as usize];
            file.read_exact_at(bytes, data_at + range.start)?;
            Ok(blake3::hash(bytes))
        };
        let chunks = self.table.rows[row].chunks.revised(size, edits, &mut hash);
        let chunks = chunks.map_err(|e| self.fail("read", e))?;
        let placed = &mut self.placed[index];
        let at = placed.head.len() - BLOCK as usize;
        let mut block = [0; BLOCK as usize];
        block.copy_from_slice(&placed.head[at..]);
        patch_size(&mut block, new_size);
        placed.head[at..].copy_from_slice(&block);
        let (head, block_at) = (blake3::hash(&placed.head), placed.block_at);
        self.file.write_all_at(&block, block_at).map_err(|e| self.fail("write", e))?;
        let row = &mut self.table.rows[row];
        (row.size, row.head, row.chunks) = (new_size, head, chunks);
        Ok(())
    }
}
