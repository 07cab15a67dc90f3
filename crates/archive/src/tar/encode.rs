//! Writes headers. Numbers that do not fit the ustar fields go to PAX records, but for the size: it
//! goes into its field in base 256, because it may become known only after the data is written and
//! must then fit the block that is already there. GNU tar, bsdtar, Go and Python read that.

use super::{BLOCK, Header, Kind};

/// The bytes before an entry's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Data begins right after the header.
    None,
    /// Data begins at a multiple of this many bytes (a multiple of 512) in the archive.
    To(u64),
}

/// Encodes a header that begins at `at` bytes from the start of the archive. The last 512 bytes of
/// the answer are the ustar block.
pub(crate) fn encode(header: &Header, at: u64, align: Align) -> Vec<u8> {
    let mut records = records_of(header);
    let head = |records: &[u8]| {
        let body = records.len().next_multiple_of(BLOCK as usize) as u64;
        if records.is_empty() { BLOCK } else { 2 * BLOCK + body }
    };
    if let Align::To(unit) = align {
        let gap = |len: u64| (at + len).next_multiple_of(unit) - (at + len);
        let mut need = gap(head(&records));
        if need > 0 {
            // The gap is closed with a comment record that readers ignore, so the extension entry
            // must have at least one block for it beyond what it has.
            if records.is_empty() {
                // Its own header block comes on top; what is left must hold at least one block.
                need = gap(2 * BLOCK);
                if need == 0 {
                    need = unit;
                }
            }
            let total = records.len().next_multiple_of(BLOCK as usize) as u64 + need;
            let fill = total as usize - records.len();
            records.extend(comment(fill));
        }
    }
    let mut out = Vec::new();
    if !records.is_empty() {
        let last = header.path.rsplit(|&b| b == b'/').next().unwrap_or_default();
        let mut name = b"PaxHeaders/".to_vec();
        name.extend(last.iter().take(80));
        let body = Header {
            path: name,
            link: Vec::new(),
            kind: Kind::Other(b'x'),
            mode: 0o600,
            size: records.len() as u64,
            xattrs: Vec::new(),
            sparse_size: None,
            ..header.clone()
        };
        out.extend(ustar(&body));
        let padded = records.len().next_multiple_of(BLOCK as usize);
        records.resize(padded, 0);
        out.extend(records);
    }
    out.extend(ustar(header));
    out
}

/// Puts the size and the new checksum into a ustar block.
pub(crate) fn patch_size(block: &mut [u8; BLOCK as usize], size: u64) {
    number(&mut block[124..136], size);
    checksum(block);
}

/// A PAX record: its own length, a blank, key=value and a newline.
pub(crate) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = 1 + key.len() + 1 + value.len() + 1;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    let mut out = format!("{len} ").into_bytes();
    out.extend(key);
    out.push(b'=');
    out.extend(value);
    out.push(b'\n');
    out
}

/// A comment record of exactly `len` bytes; `len` is at least 16.
fn comment(len: usize) -> Vec<u8> {
    let fixed = len.to_string().len() + 1 + b"comment=\n".len();
    let mut out = format!("{len} comment=").into_bytes();
    out.resize(out.len() + (len - fixed), b'.');
    out.push(b'\n');
    out
}

fn records_of(header: &Header) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(size) = header.sparse_size {
        out.extend(record(b"GNU.sparse.major", b"1"));
        out.extend(record(b"GNU.sparse.minor", b"0"));
        out.extend(record(b"GNU.sparse.name", &header.path));
        out.extend(record(b"GNU.sparse.realsize", size.to_string().as_bytes()));
    } else if stored_name(header).len() > 100 {
        out.extend(record(b"path", &stored_name(header)));
    }
    if header.link.len() > 100 {
        out.extend(record(b"linkpath", &header.link));
    }
    for (key, value) in [(&b"uid"[..], header.uid), (&b"gid"[..], header.gid)] {
        if value > MAX_ID {
            out.extend(record(key, value.to_string().as_bytes()));
        }
    }
    let (seconds, nanos) = header.mtime;
    if nanos != 0 || !(0..=MAX_OCTAL_11).contains(&seconds) {
        out.extend(record(b"mtime", decimal_time(seconds, nanos).as_bytes()));
    }
    for (name, value) in &header.xattrs {
        let mut key = b"SCHILY.xattr.".to_vec();
        key.extend(name);
        out.extend(record(&key, value));
    }
    out
}

/// `seconds + nanos / 10^9` in decimal; before 1970 that is a negative number nearer to zero.
fn decimal_time(seconds: i64, nanos: u32) -> String {
    if seconds >= 0 || nanos == 0 {
        return if nanos == 0 { seconds.to_string() } else { format!("{seconds}.{nanos:09}") };
    }
    let whole = -(seconds + 1);
    let rest = 1_000_000_000 - nanos;
    format!("-{whole}.{rest:09}")
}

const MAX_ID: u32 = 0o777_7777;
const MAX_OCTAL_11: i64 = 0o777_7777_7777;

fn stored_name(header: &Header) -> Vec<u8> {
    let mut name = header.path.clone();
    if header.kind == Kind::Directory {
        name.push(b'/');
    }
    name
}

fn ustar(header: &Header) -> [u8; BLOCK as usize] {
    let mut block = [0_u8; BLOCK as usize];
    let name = match header.sparse_size {
        // Readers that do not know sparse files unpack the raw data under this name.
        Some(_) => [&b"GNUSparseFile.0/"[..], &header.path[..]].concat(),
        None => stored_name(header),
    };
    text(&mut block[0..100], &name);
    number(&mut block[100..108], header.mode.into());
    number(&mut block[108..116], header.uid.min(MAX_ID).into());
    number(&mut block[116..124], header.gid.min(MAX_ID).into());
    number(&mut block[124..136], header.size);
    number(&mut block[136..148], header.mtime.0.clamp(0, MAX_OCTAL_11) as u64);
    block[156] = header.kind.letter();
    text(&mut block[157..257], &header.link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    number(&mut block[329..337], 0);
    number(&mut block[337..345], 0);
    checksum(&mut block);
    block
}

fn text(field: &mut [u8], value: &[u8]) {
    let len = value.len().min(field.len());
    field[..len].copy_from_slice(&value[..len]);
}

/// Octal digits and a NUL, or base 256 when they do not fit.
fn number(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    if value < 1_u64.checked_shl(3 * digits as u32).unwrap_or(u64::MAX) {
        let octal = format!("{value:0digits$o}");
        field[..digits].copy_from_slice(octal.as_bytes());
        field[digits] = 0;
    } else {
        let end = field.len();
        field.fill(0);
        field[0] = 0x80;
        field[end - 8..].copy_from_slice(&value.to_be_bytes());
    }
}

fn checksum(block: &mut [u8; BLOCK as usize]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    let octal = format!("{sum:06o}\0 ");
    block[148..156].copy_from_slice(octal.as_bytes());
}
