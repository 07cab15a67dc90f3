//! Reads headers that anybody may have made. Strict: a field that is not a number, a checksum that
//! is not the block's, an extension that is too large, unknown global records, a block that is
//! missing, are errors with the offset; nothing panics and nothing large is allocated.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::{Attributes, BLOCK, Header, Kind, MAX_EXTENSION, padded};

/// Why a tar stream cannot be read on. Offsets are bytes from the start of the stream.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes cannot be had.
    #[error("cannot read at offset {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The stream ends before its end mark.
    #[error("cut: ends at offset {offset}, where {what} is due")]
    Cut {
        /// Where.
        offset: u64,
        /// What should be there.
        what: &'static str,
    },
    /// A header's checksum is not that of its bytes: damage, or no tar at all.
    #[error("header at offset {offset} is damaged: its checksum is wrong")]
    Checksum {
        /// Where.
        offset: u64,
    },
    /// A header's field makes no sense.
    #[error("header at offset {offset}: bad {field}")]
    Field {
        /// Where.
        offset: u64,
        /// Which.
        field: &'static str,
    },
    /// The records of a PAX extension make no sense.
    #[error("extended header at offset {offset}: {what}")]
    Pax {
        /// Where.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// An extension entry is larger than any real one.
    #[error("extended header at offset {offset} has {size} bytes, more than {MAX_EXTENSION}")]
    TooBig {
        /// Where.
        offset: u64,
        /// Its size.
        size: u64,
    },
}

/// Where the bytes come from, front to back.
pub(crate) trait Source {
    /// Fills `buf` as far as there are bytes and says how far.
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<usize>;
    /// Leaves out `len` bytes; the answer is how many there were, when that is known.
    fn skip(&mut self, len: u64) -> io::Result<u64>;
    /// Bytes from the start of the stream.
    fn position(&self) -> u64;
}

/// A stretch of a file, read by position: skipping costs nothing.
#[derive(Debug)]
pub(crate) struct FileSource<'a> {
    file: &'a File,
    start: u64,
    at: u64,
    end: u64,
}

impl<'a> FileSource<'a> {
    pub(crate) fn new(file: &'a File, start: u64, len: u64) -> Self {
        Self { file, start, at: start, end: start.saturating_add(len) }
    }
}

impl Source for FileSource<'_> {
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(self.end - self.at).map_or(buf.len(), |n| n.min(buf.len()));
        let mut done = 0;
        while done < len {
            match self.file.read_at(&mut buf[done..len], self.at) {
                Ok(0) => break,
                Ok(n) => {
                    done += n;
                    self.at += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn skip(&mut self, len: u64) -> io::Result<u64> {
        let len = len.min(self.end - self.at);
        self.at += len;
        Ok(len)
    }

    fn position(&self) -> u64 {
        self.at - self.start
    }
}

/// Any stream; skipping reads.
#[derive(Debug)]
pub(crate) struct StreamSource<R> {
    inner: R,
    at: u64,
}

impl<R: Read> StreamSource<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, at: 0 }
    }
}

impl<R: Read> Source for StreamSource<R> {
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.inner.read(&mut buf[done..]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.at += done as u64;
        Ok(done)
    }

    fn skip(&mut self, len: u64) -> io::Result<u64> {
        let n = io::copy(&mut (&mut self.inner).take(len), &mut io::sink())?;
        self.at += n;
        Ok(n)
    }

    fn position(&self) -> u64 {
        self.at
    }
}

/// A header and where it was.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) header: Header,
    /// Offset of the first extension's or the header's block.
    pub(crate) start: u64,
    /// Offset of the data.
    pub(crate) data: u64,
    /// All bytes from `start` to `data`.
    pub(crate) raw: Vec<u8>,
}

/// Extension records that await their header.
#[derive(Debug, Default)]
struct Pending {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Attributes,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_version: (Option<u64>, Option<u64>),
}

/// Reads the next header; `None` at the end mark, both blocks of which must be there.
pub(crate) fn next(source: &mut impl Source) -> Result<Option<Entry>, TarError> {
    let start = source.position();
    let mut raw = Vec::new();
    let mut pending = Pending::default();
    loop {
        let offset = source.position();
        let block = take_block(source, if raw.is_empty() { "a header" } else { "the header" })?;
        if block.iter().all(|&b| b == 0) {
            if !raw.is_empty() {
                return Err(TarError::Pax { offset: start, what: "no entry follows" });
            }
            let second = take_block(source, "the second half of the end mark")?;
            if second.iter().any(|&b| b != 0) {
                return Err(TarError::Field { offset, field: "header (all zero)" });
            }
            return Ok(None);
        }
        raw.extend(block);
        let header = parse_block(&block, offset)?;
        match header.kind {
            Kind::Other(letter @ (b'x' | b'g' | b'L' | b'K')) => {
                let body = take_extension(source, offset, header.size, &mut raw)?;
                match letter {
                    b'L' => pending.path = Some(until_nul(&body).to_vec()),
                    b'K' => pending.link = Some(until_nul(&body).to_vec()),
                    b'x' => read_records(&body, offset, &mut pending)?,
                    _ => check_global(&body, offset)?,
                }
            }
            _ => {
                let header = apply(header, pending, offset)?;
                return Ok(Some(Entry { header, start, data: source.position(), raw }));
            }
        }
        if raw.len() as u64 > 4 * MAX_EXTENSION {
            return Err(TarError::TooBig { offset: start, size: raw.len() as u64 });
        }
    }
}

pub(super) fn take_block(
    source: &mut impl Source,
    what: &'static str,
) -> Result<[u8; BLOCK as usize], TarError> {
    let offset = source.position();
    let mut block = [0; BLOCK as usize];
    let n = source.fill(&mut block).map_err(|source| TarError::Read { offset, source })?;
    if n < block.len() {
        return Err(TarError::Cut { offset: offset + n as u64, what });
    }
    Ok(block)
}

fn take_extension(
    source: &mut impl Source,
    offset: u64,
    size: u64,
    raw: &mut Vec<u8>,
) -> Result<Vec<u8>, TarError> {
    let too_big = TarError::TooBig { offset, size };
    let Some(len) = padded(size).filter(|_| size <= MAX_EXTENSION) else {
        return Err(too_big);
    };
    let mut body = vec![0; len as usize];
    let n = source.fill(&mut body).map_err(|source| TarError::Read { offset, source })?;
    if n < body.len() {
        let offset = source.position();
        return Err(TarError::Cut { offset, what: "the rest of an extended header" });
    }
    raw.extend(&body);
    body.truncate(size as usize);
    Ok(body)
}

fn parse_block(block: &[u8; BLOCK as usize], offset: u64) -> Result<Header, TarError> {
    let field = |field| TarError::Field { offset, field };
    let sum: u64 = block[..148].iter().chain(&block[156..]).map(|&b| u64::from(b)).sum::<u64>()
        + 8 * u64::from(b' ');
    if octal(&block[148..156]) != Some(sum) {
        return Err(TarError::Checksum { offset });
    }
    let kind = Kind::from_letter(block[156]);
    let mut path = until_nul(&block[0..100]).to_vec();
    if &block[257..263] == b"ustar\0" && block[345] != 0 {
        let mut full = until_nul(&block[345..500]).to_vec();
        full.push(b'/');
        full.extend(path);
        path = full;
    }
    let id = |range, name| {
        number(&block[range]).and_then(|n| u32::try_from(n).ok()).ok_or_else(|| field(name))
    };
    Ok(Header {
        path,
        link: until_nul(&block[157..257]).to_vec(),
        kind,
        mode: id(100..108, "mode")? & 0o7777,
        uid: id(108..116, "uid")?,
        gid: id(116..124, "gid")?,
        size: number(&block[124..136]).ok_or_else(|| field("size"))?,
        mtime: (
            number(&block[136..148])
                .and_then(|n| i64::try_from(n).ok())
                .ok_or_else(|| field("time"))?,
            0,
        ),
        xattrs: Vec::new(),
        sparse_size: None,
    })
}

fn apply(mut header: Header, pending: Pending, offset: u64) -> Result<Header, TarError> {
    if let Some(path) = pending.path {
        header.path = path;
    }
    if let Some(link) = pending.link {
        header.link = link;
    }
    header.uid = pending.uid.unwrap_or(header.uid);
    header.gid = pending.gid.unwrap_or(header.gid);
    header.size = pending.size.unwrap_or(header.size);
    header.mtime = pending.mtime.unwrap_or(header.mtime);
    header.xattrs = pending.xattrs;
    match (pending.sparse_version, pending.sparse_size) {
        ((None, None), None) => {}
        ((Some(1), Some(0)), Some(size)) => {
            header.sparse_size = Some(size);
            if let Some(name) = pending.sparse_name {
                header.path = name;
            }
        }
        _ => return Err(TarError::Pax { offset, what: "unknown kind of sparse file" }),
    }
    if header.path.ends_with(b"/") {
        header.path.pop();
        if header.kind == Kind::File {
            header.kind = Kind::Directory; // as archives from before ustar say it
        }
    }
    if header.path.contains(&0) || header.link.contains(&0) {
        return Err(TarError::Field { offset, field: "name" });
    }
    Ok(header)
}

fn read_records(body: &[u8], offset: u64, pending: &mut Pending) -> Result<(), TarError> {
    let bad = |what| TarError::Pax { offset, what };
    for record in Records(body) {
        let (key, value) = record.ok_or_else(|| bad("a record is malformed"))?;
        let decimal = || text(value).and_then(|s| s.parse::<u64>().ok());
        let id = |what| decimal().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| bad(what));
        match key {
            b"path" => pending.path = Some(value.to_vec()),
            b"linkpath" => pending.link = Some(value.to_vec()),
            b"uid" => pending.uid = Some(id("uid is not a number")?),
            b"gid" => pending.gid = Some(id("gid is not a number")?),
            b"size" => {
                pending.size = Some(decimal().ok_or_else(|| bad("size is not a number"))?);
            }
            b"mtime" => {
                let time = text(value).and_then(parse_time);
                pending.mtime = Some(time.ok_or_else(|| bad("mtime is not a time"))?);
            }
            b"GNU.sparse.name" => pending.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.realsize" => {
                pending.sparse_size = Some(decimal().ok_or_else(|| bad("bad sparse size"))?);
            }
            b"GNU.sparse.major" => {
                pending.sparse_version.0 = Some(decimal().ok_or_else(|| bad("bad version"))?);
            }
            b"GNU.sparse.minor" => {
                pending.sparse_version.1 = Some(decimal().ok_or_else(|| bad("bad version"))?);
            }
            _ if key.starts_with(b"GNU.sparse.") => return Err(bad("unknown kind of sparse file")),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    pending.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

/// Global records could change any entry: only a comment is taken.
fn check_global(body: &[u8], offset: u64) -> Result<(), TarError> {
    for record in Records(body) {
        match record {
            Some((b"comment", _)) => {}
            _ => return Err(TarError::Pax { offset, what: "a global record is not a comment" }),
        }
    }
    Ok(())
}

/// PAX records: `Some((key, value))`, or `None` once for what is not a record.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Option<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = split_record(self.0);
        self.0 = record.map_or(&[], |(.., rest)| rest);
        Some(record.map(|(key, value, _)| (key, value)))
    }
}

fn split_record(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = body.iter().take(8).position(|&b| b == b' ')?;
    let len: usize = text(&body[..blank])?.parse().ok()?;
    let record = body.get(..len)?;
    let (record, b"\n") = record.split_at_checked(len.checked_sub(1)?)? else { return None };
    let pair = record.get(blank + 1..)?;
    let equals = pair.iter().position(|&b| b == b'=')?;
    if equals == 0 {
        return None;
    }
    Some((&pair[..equals], &pair[equals + 1..], &body[len..]))
}

/// Digits only: `parse` alone would take a plus sign.
fn text(value: &[u8]) -> Option<&str> {
    let s = std::str::from_utf8(value).ok()?;
    (!s.is_empty() && !s.starts_with('+')).then_some(s)
}

fn parse_time(s: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = s.split_once('.').unwrap_or((s, ""));
    let negative = whole.starts_with('-');
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    if negative && nanos > 0 {
        Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos))
    } else {
        Some((seconds, nanos))
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

/// Octal digits with blanks before and a NUL or blanks after; empty is 0.
fn octal(field: &[u8]) -> Option<u64> {
    let field = until_nul(field).trim_ascii();
    let mut value = 0_u64;
    for &b in field {
        let digit = b.checked_sub(b'0').filter(|&d| d < 8)?;
        value = value.checked_mul(8)?.checked_add(digit.into())?;
    }
    Some(value)
}

/// Octal, or base 256 when the highest bit is set. Negative numbers are refused.
fn number(field: &[u8]) -> Option<u64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 == 0 {
        return octal(field);
    }
    let mut value = u64::from(first & 0x7f);
    for &b in rest {
        value = value.checked_mul(256)?.checked_add(b.into())?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::super::encode::{Align, encode, patch_size, record};
    use super::super::show;
    use super::*;

    fn read_back(bytes: &[u8]) -> Entry {
        let mut source = StreamSource::new(bytes);
        next(&mut source).unwrap().unwrap()
    }

    fn full() -> Header {
        Header {
            path: [&b"d/"[..], &[b'x'; 150]].concat(),
            link: vec![b'l'; 101],
            kind: Kind::Symlink,
            mode: 0o4755,
            uid: 3_000_000_000,
            gid: 0o777_7777,
            size: 0,
            mtime: (1_700_000_000, 123_456_789),
            xattrs: vec![(b"user.a=b".to_vec(), b"1\n=\0".to_vec())],
            sparse_size: None,
        }
    }

    #[test]
    fn headers_come_back_as_they_were() {
        let mut header = full();
        // PAX keys end at the first equals sign: such an attribute name cannot be stored.
        header.xattrs[0].0 = b"user.a".to_vec();
        assert_eq!(read_back(&encode(&header, 0, Align::None)).header, header);
        for mtime in [(0, 0), (-1, 500_000_000), (-7, 0), (1 << 40, 1)] {
            let header = Header { mtime, ..Header::plain("a", Kind::File, 0o600, 0, 0) };
            assert_eq!(read_back(&encode(&header, 0, Align::None)).header, header);
        }
    }

    #[test]
    fn data_begins_where_it_is_asked_to() {
        for name in ["short".to_owned(), "x".repeat(101), "y".repeat(2000)] {
            for at in (0..16).map(|n| n * BLOCK) {
                let header = Header::plain(&name, Kind::File, 0o600, 7, 3);
                let head = encode(&header, at, Align::To(4096));
                assert_eq!((at + head.len() as u64) % 4096, 0, "{at} {}", name.len());
                assert!(head.len() <= 3 * 4096);
                assert_eq!(read_back(&head).header, header);
            }
        }
    }

    #[test]
    fn sizes_above_8_gib_fit_the_block() {
        for size in [0, 0o777_7777_7777, 0o1_0000_0000_0000, u64::MAX / 2] {
            let mut block: [u8; 512] =
                encode(&Header::plain("a", Kind::File, 0o600, 0, 0), 0, Align::None)
                    .try_into()
                    .unwrap();
            patch_size(&mut block, size);
            assert_eq!(read_back(&block).header.size, size);
        }
    }

    #[test]
    fn record_lengths_count_themselves() {
        for n in 80..120 {
            let r = record(b"k", &vec![b'v'; n]);
            let blank = r.iter().position(|&b| b == b' ').unwrap();
            assert_eq!(
                std::str::from_utf8(&r[..blank]).unwrap().parse::<usize>().unwrap(),
                r.len()
            );
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for body in [&b"5 a=\n"[..], b"x a=b\n", b"99 a=b\n", b"+6 a=b\n", b"6 a=bb", b"0 a=b\n"] {
            let got = Records(body).next().unwrap();
            assert!(got.is_none() || got == Some((&b"a"[..], &b""[..])), "{}", show(body));
        }
    }
}
