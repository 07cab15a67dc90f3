//! The tar format: what an entry is, and how it is written ([`encode`]) and read ([`decode`]).
//!
//! One block is 512 bytes. An entry is a header block, before it any number of extension entries
//! (PAX records, GNU long names), after it the data filled up to whole blocks. Two zero blocks end
//! the archive. POSIX.1-2017 pax(1), "ustar Interchange Format" and "pax Interchange Format"; GNU
//! tar's manual for long names, numbers in base 256 and the sparse format 1.0.

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod sparse;

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 512;
/// Largest extension entry (PAX records or long name) taken, in bytes: the limit of Go's reader.
pub(crate) const MAX_EXTENSION: u64 = 1 << 20;

/// Bytes rounded up to whole blocks; `None` when that does not fit.
pub(crate) fn padded(len: u64) -> Option<u64> {
    len.checked_next_multiple_of(BLOCK)
}

/// Kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of an entry before it.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// Anything else, by its letter.
    Other(u8),
}

impl Kind {
    pub(crate) fn letter(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::CharDevice => b'3',
            Self::BlockDevice => b'4',
            Self::Directory => b'5',
            Self::Fifo => b'6',
            Self::Other(letter) => letter,
        }
    }

    pub(crate) fn from_letter(letter: u8) -> Self {
        match letter {
            b'0' | 0 => Self::File,
            b'1' => Self::HardLink,
            b'2' => Self::Symlink,
            b'3' => Self::CharDevice,
            b'4' => Self::BlockDevice,
            b'5' => Self::Directory,
            b'6' => Self::Fifo,
            other => Self::Other(other),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File => f.write_str("file"),
            Self::HardLink => f.write_str("hard link"),
            Self::Symlink => f.write_str("symbolic link"),
            Self::CharDevice => f.write_str("character device"),
            Self::BlockDevice => f.write_str("block device"),
            Self::Directory => f.write_str("directory"),
            Self::Fifo => f.write_str("fifo"),
            Self::Other(letter) => write!(f, "entry of type {:?}", char::from(*letter)),
        }
    }
}

/// A run of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Offset in the file, in bytes.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: u64,
}

/// Names and values of extended attributes.
pub(crate) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// What a header says, extensions applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// Name as stored, without the slash that ends a directory's.
    pub(crate) path: Vec<u8>,
    /// Target of a link.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits, 0..=0o7777.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bytes of data in the archive.
    pub(crate) size: u64,
    /// Seconds since 1970 and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Names and values, in the order stored.
    pub(crate) xattrs: Attributes,
    /// Bytes of the file when the data is sparse format 1.0: first the map, then the extents.
    pub(crate) sparse_size: Option<u64>,
}

impl Header {
    /// A header of which only name, kind, mode and size matter.
    pub(crate) fn plain(path: &str, kind: Kind, mode: u32, size: u64, mtime: i64) -> Self {
        Self {
            path: path.as_bytes().to_vec(),
            link: Vec::new(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            size,
            mtime: (mtime, 0),
            xattrs: Vec::new(),
            sparse_size: None,
        }
    }
}

/// A name for messages: what is not printable is escaped.
pub(crate) fn show(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}

/// Splits a stored name into its parts: a leading `./` or `/` and a trailing `/` are left out, the
/// top itself has no parts. `None` when a part is empty, `.` or `..`.
pub(crate) fn parts(name: &[u8]) -> Option<Vec<&[u8]>> {
    let name = name.strip_prefix(b"./").or_else(|| name.strip_prefix(b"/")).unwrap_or(name);
    if name.is_empty() || name == b"." {
        return Some(Vec::new());
    }
    let parts: Vec<&[u8]> = name.split(|&b| b == b'/').collect();
    parts.iter().all(|part| !matches!(*part, b"" | b"." | b"..")).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_have_no_parts() {
        assert_eq!(parts(b"./a/b"), Some(vec![&b"a"[..], b"b"]));
        assert_eq!(parts(b"/a"), Some(vec![&b"a"[..]]));
        assert_eq!(parts(b"./"), Some(vec![]));
        for bad in [&b".."[..], b"a/../b", b"a//b", b"././a", b"//a", b"a/.", b"a/"] {
            assert_eq!(parts(bad), None, "{}", show(bad));
        }
    }
}
