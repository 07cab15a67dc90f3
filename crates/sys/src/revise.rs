//! Changing the middle of a long file without writing it anew.
//!
//! Bytes that go or come in whole blocks are taken out or made room for by the file system
//! (FALLOC_FL_COLLAPSE_RANGE and FALLOC_FL_INSERT_RANGE of fallocate(2): ext4, xfs), which changes its
//! tables only. Where it cannot, or there are so many places that moving the bytes is cheaper, what
//! lies between and behind them is moved within the file.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use crate::check;

const COLLAPSE_RANGE: i32 = 0x08;
const INSERT_RANGE: i32 = 0x20;
/// Places that the file system is asked to change, at most: each takes up to some milliseconds.
const MOST: usize = 1024;
/// Bytes moved at a time.
const PART: usize = 1 << 20;

/// A place in a file where bytes are replaced by others, of which there may be more or fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edit {
    /// Where they begin, in bytes from the beginning of the file as it was.
    pub at: u64,
    /// How many bytes go.
    pub removed: u64,
    /// How many come.
    pub added: u64,
}

/// Fills in the bytes that come: called with the number of the edit, the distance from the beginning of
/// what it adds, and where to put them.
pub type Content<'a> = dyn FnMut(usize, u64, &mut [u8]) -> io::Result<()> + 'a;

/// Bytes that stay together: where they are, where they are to be, how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    from: u64,
    to: u64,
    len: u64,
}

/// Changes `file` at all places, which ascend and do not overlap.
///
/// When it fails, what the file holds is not defined.
///
/// # Errors
/// Those of reading and writing the file and of `content`; EINVAL for places that are not in order or
/// beyond the end.
pub fn revise(file: &File, edits: &[Edit], content: &mut Content<'_>) -> io::Result<()> {
    let end = file.metadata()?.len();
    let kept = kept(edits, end).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    if kept.iter().any(|part| part.from != part.to) && !by_tables(file, edits, end)? {
        by_moving(file, &kept)?;
    }
    let shift: i64 = edits.iter().map(|edit| edit.added as i64 - edit.removed as i64).sum();
    file.set_len(end.wrapping_add_signed(shift))?;
    let mut buf = vec![0; PART];
    let mut shift = 0i64;
    for (number, edit) in edits.iter().enumerate() {
        let begin = edit.at.wrapping_add_signed(shift);
        let mut done = 0;
        while done < edit.added {
            let len = (edit.added - done).min(PART as u64) as usize;
            content(number, done, &mut buf[..len])?;
            file.write_all_at(&buf[..len], begin + done)?;
            done += len as u64;
        }
        shift += edit.added as i64 - edit.removed as i64;
    }
    Ok(())
}

/// What stays, in order; `None` for edits that make no sense.
fn kept(edits: &[Edit], end: u64) -> Option<Vec<Kept>> {
    let mut kept = Vec::with_capacity(edits.len() + 1);
    let (mut from, mut to) = (0u64, 0u64);
    for edit in edits {
        let len = edit.at.checked_sub(from)?;
        kept.push(Kept { from, to, len });
        from = edit.at.checked_add(edit.removed)?;
        to = to.checked_add(len)?.checked_add(edit.added)?;
    }
    kept.push(Kept { from, to, len: end.checked_sub(from)? });
    kept.retain(|part| part.len > 0);
    Some(kept)
}

/// Lets the file system do it; false when it does not and nothing was changed.
fn by_tables(file: &File, edits: &[Edit], end: u64) -> io::Result<bool> {
    let moving = || edits.iter().filter(|edit| edit.added != edit.removed);
    if moving().count() > MOST {
        return Ok(false);
    }
    let mut changed = false;
    // From the last to the first: the places before stay where they are.
    for edit in moving().rev() {
        let (mode, at, len) = if edit.removed > edit.added {
            (COLLAPSE_RANGE, edit.at + edit.added, edit.removed - edit.added)
        } else {
            (INSERT_RANGE, edit.at + edit.removed, edit.added - edit.removed)
        };
        // At the end there is nothing to move.
        if edit.at + edit.removed == end {
            continue;
        }
        match allocate(file, mode, at, len) {
            Ok(()) => changed = true,
            Err(error) => {
                let cannot = [libc::EOPNOTSUPP, libc::EINVAL, libc::ENOSYS, libc::EPERM];
                if !changed && error.raw_os_error().is_some_and(|e| cannot.contains(&e)) {
                    return Ok(false);
                }
                return Err(error);
            }
        }
    }
    Ok(true)
}

fn allocate(file: &File, mode: i32, at: u64, len: u64) -> io::Result<()> {
    let (at, len) = (at as libc::off_t, len as libc::off_t);
    // SAFETY: no memory is involved.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, at, len) }.into()).map(drop)
}

/// Moves the bytes: those that go to the front first, from the first to the last, then those that go
/// to the back, from the last to the first. So nothing is written over that is still to be read.
fn by_moving(file: &File, kept: &[Kept]) -> io::Result<()> {
    let mut buf = vec![0; PART];
    for part in kept.iter().filter(|part| part.to < part.from) {
        let mut done = 0;
        while done < part.len {
            let len = (part.len - done).min(PART as u64) as usize;
            file.read_exact_at(&mut buf[..len], part.from + done)?;
            file.write_all_at(&buf[..len], part.to + done)?;
            done += len as u64;
        }
    }
    for part in kept.iter().rev().filter(|part| part.to > part.from) {
        let mut left = part.len;
        while left > 0 {
            let len = left.min(PART as u64);
            left -= len;
            let bytes = &mut buf[..len as usize];
            file.read_exact_at(bytes, part.from + left)?;
            file.write_all_at(bytes, part.to + left)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn page(value: u8) -> Vec<u8> {
        vec![value; PAGE as usize]
    }

    /// What should be there afterwards, made the simple way.
    fn expected(before: &[u8], edits: &[Edit]) -> Vec<u8> {
        let mut after = Vec::new();
        let mut at = 0;
        for (number, edit) in edits.iter().enumerate() {
            after.extend(&before[at as usize..edit.at as usize]);
            after.extend((0..edit.added).map(|n| filler(number, n)));
            at = edit.at + edit.removed;
        }
        after.extend(&before[at as usize..]);
        after
    }

    fn filler(number: usize, at: u64) -> u8 {
        (number as u64 * 31 + at / PAGE + at % 13) as u8
    }

    fn check_in(dir: &std::path::Path, edits: &[Edit], moving: bool) {
        let before: Vec<u8> = (0..200).flat_map(|n| page(n as u8)).collect();
        let file = tempfile::tempfile_in(dir).unwrap();
        file.write_all_at(&before, 0).unwrap();
        if moving {
            let kept = kept(edits, before.len() as u64).unwrap();
            by_moving(&file, &kept).unwrap();
            for part in kept {
                let mut bytes = vec![0; part.len as usize];
                file.read_exact_at(&mut bytes, part.to).unwrap();
                assert!(bytes == before[part.from as usize..][..part.len as usize], "{part:?}");
            }
            return;
        }
        let mut fill = |number: usize, done: u64, bytes: &mut [u8]| {
            for (byte, at) in bytes.iter_mut().zip(done..) {
                *byte = filler(number, at);
            }
            Ok(())
        };
        revise(&file, edits, &mut fill).unwrap();
        let mut after = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut after, 0).unwrap();
        assert!(after == expected(&before, edits), "{edits:?}");
    }

    fn edit(at: u64, removed: u64, added: u64) -> Edit {
        Edit { at: at * PAGE, removed: removed * PAGE, added: added * PAGE }
    }

    #[test]
    fn bytes_are_replaced_taken_out_and_put_in() {
        let cases: &[&[Edit]] = &[
            &[],
            &[edit(3, 1, 1), edit(9, 2, 2)],
            &[edit(0, 0, 5)],
            &[edit(0, 7, 0), edit(10, 0, 1), edit(20, 9, 300)],
            &[edit(5, 0, 3), edit(6, 5, 0), edit(50, 1, 2), edit(60, 100, 1), edit(170, 0, 90)],
            &[edit(190, 10, 0)],
            &[edit(190, 10, 700)],
            &[edit(200, 0, 4)],
            &[edit(0, 200, 0)],
            &[edit(0, 200, 3)],
            &[edit(1, 0, 1), edit(2, 0, 1), edit(3, 0, 1), edit(4, 1, 0), edit(5, 1, 0)],
        ];
        // The disk's file system and one in memory, which cannot do it by its tables.
        for dir in [std::env::temp_dir(), "/dev/shm".into()] {
            for edits in cases {
                check_in(&dir, edits, false);
                check_in(&dir, edits, true);
            }
        }
    }

    #[test]
    fn more_places_than_tables_are_worth_are_changed_too() {
        let file = tempfile::tempfile().unwrap();
        let count = MOST as u64 + 5;
        file.set_len(count * PAGE).unwrap();
        let edits: Vec<Edit> = (0..count).map(|n| edit(n, 0, 1)).collect();
        let mut fill = |number: usize, _: u64, bytes: &mut [u8]| {
            bytes.fill(number as u8 | 1);
            Ok(())
        };
        revise(&file, &edits, &mut fill).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 2 * count * PAGE);
        let mut byte = [0];
        for n in 0..2 * count {
            file.read_exact_at(&mut byte, n * PAGE).unwrap();
            let wanted = if n % 2 == 0 { (n / 2) as u8 | 1 } else { 0 };
            assert_eq!(byte[0], wanted, "{n}");
        }
    }

    #[test]
    fn places_out_of_order_are_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 * PAGE).unwrap();
        for edits in [[edit(5, 2, 0), edit(6, 1, 0)], [edit(5, 2, 0), edit(9, 2, 0)]] {
            let error = revise(&file, &edits, &mut |_, _, _| Ok(())).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        }
    }
}
