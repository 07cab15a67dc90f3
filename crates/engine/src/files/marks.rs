//! What tells one file from another under the same path: size, time of the last change, and the
//! build id of an ELF file.
//!
//! The time is recorded of files that are mapped or open for reading only: what the program itself
//! writes changes, and comes back with the root filesystem. An unpacked file may have whole seconds
//! only, then whole seconds are compared. Files of the kernel (proc, sysfs, cgroup) have no mark.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use cryopod_images::msg;
use rustix::fs::{FileType, Stat};

use crate::error::RestoreError;

/// Notes beyond this many bytes are not looked at, as stock criu does.
const WINDOW: u64 = 1 << 20;
const SECOND: i64 = 1_000_000_000;
/// f_type of filesystems whose files are made by the kernel when they are read (statfs(2)).
const KERNEL_MADE: [i64; 8] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
];

/// Time of the last change in nanoseconds since 1970.
fn changed(stat: &Stat) -> i64 {
    stat.st_mtime.saturating_mul(SECOND).saturating_add(stat.st_mtime_nsec as i64)
}

fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let part = bytes.get(at..at.checked_add(len)?)?;
    Some(part.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// The note with the build id among the notes of one segment.
fn note(bytes: &[u8]) -> Option<Vec<u8>> {
    const BUILD_ID: u64 = 3;
    let mut at = 0;
    loop {
        let name = number(bytes, at, 4)? as usize;
        let len = number(bytes, at + 4, 4)? as usize;
        let kind = number(bytes, at + 8, 4)?;
        let content = at.checked_add(12)?.checked_add(name.checked_next_multiple_of(4)?)?;
        if kind == BUILD_ID && bytes.get(at + 12..at + 12 + name)? == b"GNU\0" {
            return bytes.get(content..content.checked_add(len)?).map(<[u8]>::to_vec);
        }
        at = content.checked_add(len.checked_next_multiple_of(4)?)?;
    }
}

/// The build id of an ELF file as the image has it: words of four bytes. Empty for any other file,
/// and for one without.
///
/// # Errors
/// Those of reading the file.
pub fn build_id(file: &File) -> io::Result<Vec<u32>> {
    let mut head = [0; 64];
    if file.read_at(&mut head, 0)? != head.len() || head[..5] != *b"\x7fELF\x02" {
        return Ok(Vec::new());
    }
    let size = file.metadata()?.len().min(WINDOW);
    let found = || -> Option<Vec<u8>> {
        let table = number(&head, 32, 8)?;
        let (len, count) = (number(&head, 54, 2)?, number(&head, 56, 2)?);
        let read = |at: u64, len: u64| {
            let end = at.checked_add(len).filter(|end| *end <= size)?;
            let mut bytes = vec![0; (end - at) as usize];
            file.read_exact_at(&mut bytes, at).ok()?;
            Some(bytes)
        };
        let table = read(table, len * count)?;
        table.chunks(len.max(1) as usize).find_map(|entry| {
            const NOTE: u64 = 4;
            if number(entry, 0, 4)? != NOTE {
                return None;
            }
            note(&read(number(entry, 8, 8)?, number(entry, 32, 8)?)?)
        })
    };
    let id = found().unwrap_or_default();
    Ok(id.chunks(4).map(|part| number(part, 0, part.len()).unwrap_or(0) as u32).collect())
}

/// Whether the kernel makes the content of this file when it is read.
fn is_kernel_made(file: &File) -> io::Result<bool> {
    let kind = rustix::fs::fstatfs(file)?.f_type;
    Ok(KERNEL_MADE.contains(&kind))
}

/// Adds the marks of a regular file that is open for reading.
///
/// # Errors
/// Those of reading the file.
pub fn dump(entry: &mut msg::RegFileEntry, file: &File, stat: &Stat) -> io::Result<()> {
    if !is_kernel_made(file)? {
        entry.mtime = Some(changed(stat));
        entry.build_id = build_id(file)?;
    }
    Ok(())
}

/// Whether the entry has what a file can be compared by before it is opened for the program.
#[must_use]
pub fn are_in(entry: &msg::RegFileEntry) -> bool {
    entry.mtime.is_some() || !entry.build_id.is_empty()
}

fn is_same_time(was: i64, is: i64) -> bool {
    let whole = |time: i64| time.rem_euclid(SECOND) == 0;
    was == is || (was.div_euclid(SECOND) == is.div_euclid(SECOND) && (whole(was) || whole(is)))
}

/// Compares a file, open in any way, with what it was.
///
/// # Errors
/// [`RestoreError::FileDiffers`].
pub fn compare(entry: &msg::RegFileEntry, file: &impl AsFd) -> Result<(), RestoreError> {
    let path = String::from_utf8_lossy(&entry.name).into_owned();
    let differs = |what: String| RestoreError::FileDiffers { path: path.clone(), what };
    let kernel = |source: io::Error| RestoreError::Kernel {
        pid: 0,
        what: format!("cannot compare {path} with what it was"),
        source,
    };
    let stat = rustix::fs::fstat(file).map_err(|e| kernel(e.into()))?;
    let is = FileType::from_raw_mode(stat.st_mode);
    if let Some(mode) = entry.mode {
        let was = FileType::from_raw_mode(mode);
        if was != is {
            return Err(differs(format!("it was {was:?}, now {is:?}")));
        }
    }
    if let Some(size) = entry.size
        && stat.st_size as u64 != size
    {
        return Err(differs(format!("it had {size} bytes, now {}", stat.st_size)));
    }
    if !entry.build_id.is_empty() && is == FileType::RegularFile {
        let door = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        let now = build_id(&File::open(door).map_err(kernel)?).map_err(kernel)?;
        if now != entry.build_id {
            return Err(differs("it is another build (the build ids differ)".into()));
        }
    }
    if let Some(was) = entry.mtime
        && !is_same_time(was, changed(&stat))
    {
        let now = changed(&stat);
        let text =
            |time: i64| format!("{}.{:09}", time.div_euclid(SECOND), time.rem_euclid(SECOND));
        return Err(differs(format!(
            "it was last changed at {} (seconds since 1970), now {}",
            text(was),
            text(now)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_are_compared_when_one_side_has_no_more() {
        assert!(is_same_time(5 * SECOND + 7, 5 * SECOND + 7));
        assert!(is_same_time(5 * SECOND + 7, 5 * SECOND));
        assert!(!is_same_time(5 * SECOND + 7, 5 * SECOND + 8));
        assert!(!is_same_time(5 * SECOND, 6 * SECOND));
        assert!(is_same_time(-SECOND / 2, -SECOND));
    }

    #[test]
    fn a_build_id_is_found_behind_other_notes() {
        let mut notes = Vec::new();
        for (name, kind, text) in [(&b"GNU\0"[..], 1u32, &b"abcd"[..]), (b"GNU\0", 3, b"12345")] {
            notes.extend((name.len() as u32).to_le_bytes());
            notes.extend((text.len() as u32).to_le_bytes());
            notes.extend(kind.to_le_bytes());
            notes.extend(name);
            notes.extend(text);
        }
        assert_eq!(note(&notes).unwrap(), b"12345");
        assert!(note(&notes[..30]).is_none());
        assert!(note(&[0xff; 40]).is_none());
    }

    #[test]
    fn the_test_program_has_a_build_id_and_its_source_has_none() {
        let own = File::open("/proc/self/exe").unwrap();
        // Linkers may be told to leave it out: then it is empty, and nothing is compared.
        assert!(matches!(build_id(&own).unwrap().len(), 0 | 4 | 5));
        assert!(build_id(&File::open("Cargo.toml").unwrap()).unwrap().is_empty());
    }
}
