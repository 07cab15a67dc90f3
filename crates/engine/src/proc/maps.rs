//! /proc/PID/maps and the VmFlags of /proc/PID/smaps: the areas of an address space.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::{malformed, read};
use crate::error::DumpError;

/// One area (VMA).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// Address after the last byte.
    pub end: u64,
    /// PROT_READ, PROT_WRITE, PROT_EXEC bits.
    pub prot: u32,
    /// MAP_SHARED rather than MAP_PRIVATE.
    pub shared: bool,
    /// Offset of `start` in the file, in bytes.
    pub offset: u64,
    /// Device of the file, as `dev_t`.
    pub dev: u64,
    /// Inode of the file; 0: none.
    pub inode: u64,
    /// File path, or a name in brackets; empty for plain anonymous memory.
    pub path: PathBuf,
    /// The two-letter flags of smaps; empty when read from maps.
    pub flags: Vec<[u8; 2]>,
}

impl Area {
    /// Whether smaps shows this flag.
    #[must_use]
    pub fn has(&self, flag: &[u8; 2]) -> bool {
        self.flags.contains(flag)
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether the area is empty; the kernel has no such area.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end == self.start
    }

    /// The name in brackets, such as `[heap]`.
    #[must_use]
    pub fn special(&self) -> Option<&str> {
        self.path.to_str().filter(|p| p.starts_with('['))
    }
}

/// Turns octal escapes (`\012`, the kernel writes newlines so) back into bytes.
pub(crate) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        if text[at] == b'\\' && at + 3 < text.len() {
            let digits = &text[at + 1..at + 4];
            if digits.iter().all(|d| (b'0'..=b'7').contains(d)) {
                let value = digits.iter().fold(0u32, |v, d| v * 8 + u32::from(d - b'0'));
                if let Ok(byte) = u8::try_from(value) {
                    out.push(byte);
                    at += 4;
                    continue;
                }
            }
        }
        out.push(text[at]);
        at += 1;
    }
    out
}

fn hex(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

fn area(line: &[u8]) -> Option<Area> {
    let mut parts = line.splitn(6, |b| *b == b' ');
    let range = parts.next()?;
    let dash = range.iter().position(|b| *b == b'-')?;
    let perms = parts.next()?;
    if perms.len() != 4 {
        return None;
    }
    let offset = hex(parts.next()?)?;
    let dev = parts.next()?;
    let colon = dev.iter().position(|b| *b == b':')?;
    let (major, minor) = (hex(&dev[..colon])?, hex(&dev[colon + 1..])?);
    let inode = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let path = parts.next().unwrap_or_default();
    let path = &path[path.iter().position(|b| *b != b' ').unwrap_or(path.len())..];
    let bit = |at: usize, letter: u8, value: u32| if perms[at] == letter { value } else { 0 };
    Some(Area {
        start: hex(&range[..dash])?,
        end: hex(&range[dash + 1..])?,
        prot: bit(0, b'r', 1) | bit(1, b'w', 2) | bit(2, b'x', 4),
        shared: perms[3] == b's',
        offset,
        dev: rustix::fs::makedev(u32::try_from(major).ok()?, u32::try_from(minor).ok()?),
        inode,
        path: PathBuf::from(OsString::from_vec(unescape(path))),
        flags: Vec::new(),
    })
}

fn is_header(line: &[u8]) -> bool {
    line.first().is_some_and(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b))
}

/// Parses maps or smaps.
///
/// # Errors
/// The line that was not understood.
pub fn parse(text: &[u8]) -> Result<Vec<Area>, String> {
    let mut areas: Vec<Area> = Vec::new();
    for line in text.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        if is_header(line) {
            let Some(area) = area(line) else {
                return Err(format!("line {:?}", String::from_utf8_lossy(line)));
            };
            areas.push(area);
        } else if let Some(flags) = line.strip_prefix(b"VmFlags:")
            && let Some(last) = areas.last_mut()
        {
            last.flags =
                flags.split(|b| *b == b' ').filter_map(|f| <[u8; 2]>::try_from(f).ok()).collect();
        }
    }
    Ok(areas)
}

/// The areas of a process without flags: cheap.
///
/// # Errors
/// [`DumpError::Proc`].
pub fn of(pid: i32) -> Result<Vec<Area>, DumpError> {
    let name = format!("{pid}/maps");
    parse(&read(&name)?).map_err(|what| malformed(&name, &what))
}

/// The areas of a process with their flags; walks all its page tables.
///
/// # Errors
/// [`DumpError::Proc`].
pub fn with_flags(pid: i32) -> Result<Vec<Area>, DumpError> {
    let name = format!("{pid}/smaps");
    parse(&read(&name)?).map_err(|what| malformed(&name, &what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_areas_with_flags_and_odd_names() {
        let text = b"00400000-00401000 r-xp 00001000 fe:01 1234       /bin/a b\\012c\nRss: 4 kB\nVmFlags: rd ex mr mw me \n7fff0000-7fff1000 rw-s 00000000 00:01 7 /dev/zero (deleted)\n";
        let areas = parse(text).unwrap();
        assert_eq!(areas.len(), 2);
        assert_eq!(areas[0].path, PathBuf::from("/bin/a b\nc"));
        assert_eq!(areas[0].prot, 5);
        assert!(areas[0].has(b"mw") && !areas[0].has(b"gd"));
        assert_eq!(areas[0].dev, rustix::fs::makedev(0xfe, 1));
        assert!(areas[1].shared);
        assert_eq!(areas[1].inode, 7);
    }

    #[test]
    fn refuses_a_line_it_does_not_know() {
        assert!(parse(b"0040-x r-xp 0 0:0 0\n").is_err());
    }

    #[test]
    fn reads_itself() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let areas = with_flags(pid).unwrap();
        assert!(areas.iter().any(|a| a.special() == Some("[stack]") && a.has(b"gd")));
    }
}
