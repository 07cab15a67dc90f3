//! How records are laid out in an image, both ways.
//!
//! Relies on nothing but the bytes. [`Reader`] takes an image that anybody may have made: it
//! refuses a wrong head, a length that runs past the end, a record above [`MAX_RECORD`], and a
//! message that is not protobuf, by image name and offset, and never panics. prost takes a missing
//! `required` field for its default (0, empty): who uses a value checks that it makes sense.

use prost::Message;

use crate::{COMMON_MAGIC, Head, Image, SERVICE_MAGIC};

/// Largest message taken from or put into an image, in bytes. The largest real one is an mm_entry
/// with the 65,530 mappings of `vm.max_map_count`, about 5 MiB.
pub const MAX_RECORD: usize = 16 << 20;
/// Largest run of raw bytes after a record, in bytes.
pub const MAX_PAYLOAD: u64 = 1 << 40;

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The head is not that of the image.
    #[error("{name}: head is {found:#010x} where an image of kind {image} has {expected:#010x}")]
    Magic {
        /// File name.
        name: String,
        /// The kind it should be.
        image: Image,
        /// The number that is there.
        found: u32,
        /// The number that should be there.
        expected: u32,
    },
    /// The image ends within something.
    #[error("{name}: cut at offset {offset}: {needed} more bytes needed, {left} left")]
    Cut {
        /// File name.
        name: String,
        /// Where the missing thing begins, in bytes.
        offset: usize,
        /// Bytes it takes.
        needed: u64,
        /// Bytes there are.
        left: usize,
    },
    /// A record or its raw bytes are larger than any real one.
    #[error("{name}: {size} bytes at offset {offset} are more than the limit of {limit}")]
    TooBig {
        /// File name.
        name: String,
        /// Where it begins, in bytes.
        offset: usize,
        /// Bytes it says it has.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A record's bytes are not the message expected.
    #[error("{name}: bad record at offset {offset}")]
    Decode {
        /// File name.
        name: String,
        /// Where the record's message begins, in bytes.
        offset: usize,
        /// What protobuf says.
        #[source]
        source: prost::DecodeError,
    },
    /// An image that holds exactly one record holds none or more.
    #[error("{name}: one record expected, {found} found")]
    Count {
        /// File name.
        name: String,
        /// `no` or `more`.
        found: &'static str,
    },
    /// A run of pages in a pagemap is impossible.
    #[error("{name}: bad run in record {index}")]
    Run {
        /// File name.
        name: String,
        /// Number of the record, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: crate::pages::RunError,
    },
}

/// Writes an image into memory.
#[derive(Debug, Clone)]
pub struct Writer {
    buf: Vec<u8>,
}

impl Writer {
    /// Starts an image: writes its head.
    #[must_use]
    pub fn new(image: Image) -> Self {
        let mut buf = Vec::new();
        match image.head() {
            Head::Own | Head::Raw => {}
            Head::Common => buf.extend(COMMON_MAGIC.to_le_bytes()),
            Head::Service => buf.extend(SERVICE_MAGIC.to_le_bytes()),
        }
        if let Some(magic) = image.magic() {
            buf.extend(magic.to_le_bytes());
        }
        Self { buf }
    }

    /// Adds a record.
    pub fn record<M: Message>(&mut self, message: &M) -> Result<&mut Self, Error> {
        let size = message.encoded_len();
        if size > MAX_RECORD {
            return Err(Error::TooBig {
                name: std::any::type_name::<M>().to_owned(),
                offset: self.buf.len(),
                size: size as u64,
                limit: MAX_RECORD as u64,
            });
        }
        self.buf.extend((size as u32).to_le_bytes());
        message.encode(&mut self.buf).expect("invariant: a Vec grows as needed");
        Ok(self)
    }

    /// Adds raw bytes after a record.
    pub fn payload(&mut self, bytes: &[u8]) -> &mut Self {
        self.buf.extend_from_slice(bytes);
        self
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// Whether not even a head has been written: a raw image without content.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// The image's bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.buf
    }
}

/// Reads an image from memory, record by record.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    name: &'a str,
    data: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts reading: checks the head. `name` is the file name that errors carry.
    pub fn new(image: Image, name: &'a str, data: &'a [u8]) -> Result<Self, Error> {
        let mut reader = Self { name, data, at: 0 };
        let first = match image.head() {
            Head::Raw | Head::Own => None,
            Head::Common => Some(COMMON_MAGIC),
            Head::Service => Some(SERVICE_MAGIC),
        };
        for expected in first.into_iter().chain(image.magic()) {
            let found = reader.number()?;
            if found != expected {
                return Err(Error::Magic { name: name.to_owned(), image, found, expected });
            }
        }
        Ok(reader)
    }

    /// The next record; `None` at the end of the image.
    pub fn record<M: Message + Default>(&mut self) -> Result<Option<M>, Error> {
        if self.at == self.data.len() {
            return Ok(None);
        }
        let start = self.at;
        let size = self.number()?;
        if size as usize > MAX_RECORD {
            return Err(Error::TooBig {
                name: self.name.to_owned(),
                offset: start,
                size: size.into(),
                limit: MAX_RECORD as u64,
            });
        }
        let offset = self.at;
        let bytes = self.take(size.into())?;
        M::decode(bytes).map(Some).map_err(|source| Error::Decode {
            name: self.name.to_owned(),
            offset,
            source,
        })
    }

    /// The raw bytes that follow the last record.
    pub fn payload(&mut self, len: u64) -> Result<&'a [u8], Error> {
        if len > MAX_PAYLOAD {
            return Err(Error::TooBig {
                name: self.name.to_owned(),
                offset: self.at,
                size: len,
                limit: MAX_PAYLOAD,
            });
        }
        self.take(len)
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = self.data.get(self.at..).unwrap_or_default();
        self.at = self.data.len();
        rest
    }

    /// All records that are left, of an image whose records carry no raw bytes.
    pub fn all<M: Message + Default>(mut self) -> Result<Vec<M>, Error> {
        let mut out = Vec::new();
        while let Some(message) = self.record()? {
            out.push(message);
        }
        Ok(out)
    }

    /// The one record of an image that holds exactly one.
    pub fn only<M: Message + Default>(mut self) -> Result<M, Error> {
        let count = |found| Error::Count { name: self.name.to_owned(), found };
        let Some(message) = self.record()? else {
            return Err(count("no"));
        };
        if self.at != self.data.len() {
            return Err(count("more"));
        }
        Ok(message)
    }

    /// Offset in bytes from the start of the image.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.at
    }

    fn number(&mut self) -> Result<u32, Error> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("invariant: four bytes were taken")))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], Error> {
        let left = self.data.get(self.at..).unwrap_or_default();
        let taken = usize::try_from(len).ok().and_then(|len| left.get(..len));
        let Some(bytes) = taken else {
            return Err(Error::Cut {
                name: self.name.to_owned(),
                offset: self.at,
                needed: len,
                left: left.len(),
            });
        };
        self.at += bytes.len();
        Ok(bytes)
    }
}

/// The bytes of an image of one record.
pub fn encode_one<M: Message>(image: Image, message: &M) -> Result<Vec<u8>, Error> {
    let mut writer = Writer::new(image);
    writer.record(message)?;
    Ok(writer.finish())
}

/// The record of an image of exactly one record.
pub fn decode_one<M: Message + Default>(image: Image, name: &str, data: &[u8]) -> Result<M, Error> {
    Reader::new(image, name, data)?.only()
}

/// `len` rounded up to a multiple of `unit`: System V ipc bodies are filled up so. `None` when the
/// sum does not fit.
#[must_use]
pub const fn pad_len(len: u64, unit: u64) -> Option<u64> {
    len.checked_next_multiple_of(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msg;

    fn fs() -> msg::FsEntry {
        msg::FsEntry { cwd_id: 3, root_id: 4, umask: Some(0o22) }
    }

    #[test]
    fn head_is_the_standards() {
        assert_eq!(Writer::new(Image::Inventory).finish(), 0x5831_3116_u32.to_le_bytes());
        let stats = Writer::new(Image::StatsDump).finish();
        assert_eq!(stats, [0x40, 0x59, 0x10, 0x55, 0x06, 0x33, 0x09, 0x57]);
        assert_eq!(
            Writer::new(Image::Fs).finish(),
            [0x19, 0x43, 0x56, 0x54, 0x12, 0x39, 0x40, 0x51]
        );
        assert!(Writer::new(Image::Pages).finish().is_empty());
    }

    #[test]
    fn another_kind_is_refused_by_name() {
        let bytes = encode_one(Image::Fs, &fs()).unwrap();
        let error = decode_one::<msg::MmEntry>(Image::Mm, "mm-1.img", &bytes).unwrap_err();
        assert_eq!(
            error.to_string(),
            "mm-1.img: head is 0x51403912 where an image of kind mm-N.img has 0x57492820"
        );
    }

    #[test]
    fn a_cut_image_is_refused_by_offset() {
        let bytes = encode_one(Image::Fs, &fs()).unwrap();
        for len in 0..bytes.len() {
            let error =
                decode_one::<msg::FsEntry>(Image::Fs, "fs-1.img", &bytes[..len]).unwrap_err();
            assert!(error.to_string().starts_with("fs-1.img: "), "{error}");
        }
    }

    #[test]
    fn a_huge_record_is_refused_before_it_is_read() {
        let mut bytes = Writer::new(Image::Fs).finish();
        bytes.extend(u32::MAX.to_le_bytes());
        let error = decode_one::<msg::FsEntry>(Image::Fs, "fs-1.img", &bytes).unwrap_err();
        assert!(matches!(error, Error::TooBig { offset: 8, .. }), "{error}");
    }

    #[test]
    fn more_than_one_record_is_refused_where_one_is_due() {
        let mut writer = Writer::new(Image::Fs);
        writer.record(&fs()).unwrap().record(&fs()).unwrap();
        let bytes = writer.finish();
        assert!(matches!(
            decode_one::<msg::FsEntry>(Image::Fs, "fs-1.img", &bytes),
            Err(Error::Count { found: "more", .. })
        ));
        let all: Vec<msg::FsEntry> =
            Reader::new(Image::Fs, "fs-1.img", &bytes).unwrap().all().unwrap();
        assert_eq!(all, [fs(), fs()]);
    }

    #[test]
    fn raw_bytes_follow_their_record() {
        let entry = msg::PipeDataEntry { pipe_id: 9, bytes: 3, size: Some(65536) };
        let mut writer = Writer::new(Image::PipesData);
        writer.record(&entry).unwrap().payload(b"abc").record(&entry).unwrap().payload(b"xyz");
        let bytes = writer.finish();
        let mut reader = Reader::new(Image::PipesData, "pipes-data.img", &bytes).unwrap();
        for want in [b"abc", b"xyz"] {
            let got: msg::PipeDataEntry = reader.record().unwrap().unwrap();
            assert_eq!(reader.payload(got.bytes.into()).unwrap(), want);
        }
        assert!(reader.record::<msg::PipeDataEntry>().unwrap().is_none());
    }
}
