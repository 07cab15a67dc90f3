//! `cryopod.digests`: the last entry of an archive we write, so that damage is found and named.
//!
//! The entry is JSON, one object per line, without blanks:
//!
//! ```text
//! {"version":1,"hash":"blake3","chunk":1048576,"time":1700000000}
//! {"name":"checkpoint/","size":0,"mode":448,"head":"…","chunks":[]}
//! {"name":"checkpoint/core-1.img","size":2740,"mode":384,"head":"…","chunks":["…"]}
//! {"blake3":"…"}
//! ```
//!
//! First line: the format, and the time (seconds since 1970) that all headers carry. Then a line
//! for every other entry in the order of the archive: `head` is the BLAKE3 digest of all bytes from
//! the end of the entry before (its padding included) to the entry's data, that is of extension
//! headers, the comment that fills a gap, and the header itself; `chunks` are the digests of the
//! data, one for each MiB, the last for what is left; an entry whose chunks are of other lengths (see
//! [`crate::ArchiveWriter::revise`]) has `lengths`, in bytes, beside them. Last line: the digest of all lines before it,
//! which is also the archive's id. Digests are 64 lower-case hexadecimal digits. Other readers see
//! a small file that they do not know and leave it alone.

use blake3::Hash;
use serde::{Deserialize, Serialize};

use crate::chunks::Chunks;

/// Name of the entry.
pub const DIGESTS_NAME: &str = "cryopod.digests";
/// Bytes of data that one digest covers.
pub const CHUNK: u64 = 1 << 20;

/// Why a table of digests cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The digest in the last line is not that of the lines before.
    #[error("the table of digests is damaged")]
    Damaged,
    /// A line is not what the format says.
    #[error("line {line} of the table of digests cannot be understood")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// Why; absent when it is JSON but makes no sense.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// The table is of a later format.
    #[error("the table of digests is of version {version}, known is version 1")]
    Version {
        /// The version it says.
        version: u32,
    },
}

/// One entry's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Name; a directory's ends with a slash.
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) head: Hash,
    pub(crate) chunks: Chunks,
}

/// The table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// Seconds since 1970 in every header.
    pub(crate) time: i64,
    pub(crate) rows: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FirstLine {
    version: u32,
    hash: String,
    chunk: u64,
    time: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RowLine {
    name: String,
    size: u64,
    mode: u32,
    head: String,
    chunks: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lengths: Option<Vec<u64>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LastLine {
    blake3: String,
}

impl Table {
    /// The entry's bytes, and the digest of the table: the archive's id.
    pub(crate) fn encode(&self) -> (Vec<u8>, Hash) {
        let mut out = Vec::new();
        let first =
            FirstLine { version: 1, hash: "blake3".to_owned(), chunk: CHUNK, time: self.time };
        line(&mut out, &first);
        for row in &self.rows {
            let hex = |hash: &Hash| hash.to_hex().to_string();
            line(
                &mut out,
                &RowLine {
                    name: row.name.clone(),
                    size: row.size,
                    mode: row.mode,
                    head: hex(&row.head),
                    chunks: row.chunks.hashes.iter().map(hex).collect(),
                    lengths: row.chunks.lengths(),
                },
            );
        }
        let id = blake3::hash(&out);
        line(&mut out, &LastLine { blake3: id.to_hex().to_string() });
        (out, id)
    }

    /// Reads an entry's bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, Hash), TableError> {
        let body = bytes.strip_suffix(b"\n").ok_or(TableError::Damaged)?;
        let cut = body.iter().rposition(|&b| b == b'\n').ok_or(TableError::Damaged)? + 1;
        let (lines, last) = body.split_at(cut);
        // The last line has one spelling only: a change of any of its bytes is damage too.
        let id = blake3::hash(lines);
        let mut want = Vec::new();
        line(&mut want, &LastLine { blake3: id.to_hex().to_string() });
        if want.strip_suffix(b"\n") != Some(last) {
            return Err(TableError::Damaged);
        }
        let mut lines = lines.split_inclusive(|&b| b == b'\n').enumerate();
        let bad = |line: usize, source| TableError::Line { line: line + 1, source };
        let (at, first) = lines.next().ok_or(TableError::Damaged)?;
        let first: FirstLine = serde_json::from_slice(first).map_err(|e| bad(at, Some(e)))?;
        if first.version != 1 {
            return Err(TableError::Version { version: first.version });
        }
        if first.chunk != CHUNK || first.hash != "blake3" {
            return Err(bad(at, None));
        }
        let mut rows = Vec::new();
        for (at, line) in lines {
            let row: RowLine = serde_json::from_slice(line).map_err(|e| bad(at, Some(e)))?;
            let digest = |text: &String| Hash::from_hex(text).map_err(|_| bad(at, None));
            let hashes = row.chunks.iter().map(digest).collect::<Result<Vec<_>, _>>()?;
            let chunks = match &row.lengths {
                Some(lengths) => Chunks::of_lengths(hashes, lengths, row.size),
                None => Some(Chunks::usual(hashes)).filter(|chunks| chunks.fit(row.size)),
            };
            let chunks = chunks.ok_or_else(|| bad(at, None))?;
            let head = digest(&row.head)?;
            rows.push(Row { name: row.name, size: row.size, mode: row.mode, head, chunks });
        }
        Ok((Self { time: first.time, rows }, id))
    }
}

fn line<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(&mut *out, value).expect("invariant: plain structs become JSON");
    out.push(b'\n');
}

/// Digests data piece by piece.
#[derive(Debug, Default)]
pub(crate) struct Chunker {
    hasher: blake3::Hasher,
    filled: u64,
    chunks: Vec<Hash>,
}

impl Chunker {
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (CHUNK - self.filled) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.hasher.update(now);
            self.filled += now.len() as u64;
            if self.filled == CHUNK {
                self.close();
            }
            bytes = later;
        }
    }

    fn close(&mut self) {
        self.chunks.push(self.hasher.finalize());
        self.hasher.reset();
        self.filled = 0;
    }

    pub(crate) fn finish(self) -> Chunks {
        self.finish_with(Vec::new())
    }

    /// Ends with the digests of what came after the last update, which ended a chunk unless there is none.
    pub(crate) fn finish_with(mut self, mut rest: Vec<Hash>) -> Chunks {
        if self.filled > 0 {
            self.close();
        }
        self.chunks.append(&mut rest);
        Chunks::usual(self.chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut chunker = Chunker::default();
        chunker.update(&vec![7; CHUNK as usize + 1]);
        Table {
            time: 1_700_000_000,
            rows: vec![
                Row {
                    name: "checkpoint/".into(),
                    size: 0,
                    mode: 0o700,
                    head: blake3::hash(b"d"),
                    chunks: Chunks::default(),
                },
                Row {
                    name: "a".into(),
                    size: CHUNK + 1,
                    mode: 0o600,
                    head: blake3::hash(b"h"),
                    chunks: chunker.finish(),
                },
            ],
        }
    }

    #[test]
    fn a_table_comes_back_with_its_id() {
        let (bytes, id) = table().encode();
        assert_eq!(Table::decode(&bytes).unwrap(), (table(), id));
    }

    #[test]
    fn any_changed_bit_of_a_table_is_found() {
        let (bytes, _) = table().encode();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                assert!(Table::decode(&bytes).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn chunks_do_not_depend_on_how_data_arrives() {
        let data: Vec<u8> = (0..3 * CHUNK + 5).map(|n| (n % 251) as u8).collect();
        let mut whole = Chunker::default();
        whole.update(&data);
        let mut pieces = Chunker::default();
        data.chunks(777_777).for_each(|piece| pieces.update(piece));
        let want: Vec<Hash> = data.chunks(CHUNK as usize).map(blake3::hash).collect();
        assert_eq!(whole.finish().hashes, want);
        assert_eq!(pieces.finish().hashes, want);
    }
}
