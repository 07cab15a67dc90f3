//! The map of a sparse file, GNU sparse format 1.0: the entry's data begins with decimal numbers, one
//! to a line, filled up to whole blocks: how many extents, then offset and length of each.

use super::decode::{Source, TarError, take_block};
use super::{BLOCK, Extent, MAX_EXTENSION};

/// Reads the map of a sparse entry (format 1.0) from the start of its data. The answer is the map
/// and the bytes it took. Extents ascend, lie within `real_size`, and their sum is the data's rest.
pub(crate) fn read_map(
    source: &mut impl Source,
    size: u64,
    real_size: u64,
) -> Result<(Vec<Extent>, u64), TarError> {
    let offset = source.position();
    let bad = |what| TarError::Pax { offset, what };
    let mut text = Vec::new();
    let mut at = 0;
    let mut number = |source: &mut _, text: &mut Vec<u8>| -> Result<u64, TarError> {
        loop {
            if let Some(len) = text[at..].iter().position(|&b| b == b'\n') {
                let digits = &text[at..at + len];
                at += len + 1;
                let digits = std::str::from_utf8(digits).ok().filter(|s| !s.starts_with('+'));
                return digits
                    .and_then(|s| s.parse().ok())
                    .ok_or_else(|| bad("the sparse map is not numbers"));
            }
            if text.len() as u64 + BLOCK > size.min(16 * MAX_EXTENSION) {
                return Err(bad("the sparse map has no end"));
            }
            text.extend(take_block(source, "a sparse map")?);
        }
    };
    let count = number(source, &mut text)?;
    let mut map = Vec::new();
    let (mut end, mut sum) = (0_u64, 0_u64);
    for _ in 0..count {
        let extent = Extent { offset: number(source, &mut text)?, len: number(source, &mut text)? };
        let next = extent.offset.checked_add(extent.len).filter(|&n| n <= real_size);
        let (Some(next), true) = (next, extent.offset >= end) else {
            return Err(bad("the sparse map makes no sense"));
        };
        end = next;
        sum += extent.len;
        map.push(extent);
    }
    let taken = text.len() as u64;
    if taken.checked_add(sum) != Some(size) {
        return Err(bad("the sparse map does not fit the data"));
    }
    Ok((map, taken))
}

/// The map of a sparse entry as its data begins with, filled up to whole blocks.
pub(crate) fn encode_map(map: &[Extent]) -> Vec<u8> {
    let mut text = format!("{}\n", map.len());
    for extent in map {
        text.push_str(&format!("{}\n{}\n", extent.offset, extent.len));
    }
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::decode::StreamSource;
    use super::*;

    #[test]
    fn sparse_maps_come_back() {
        let map = vec![Extent { offset: 0, len: 512 }, Extent { offset: 8192, len: 3 }];
        let bytes = encode_map(&map);
        let size = bytes.len() as u64 + 515;
        let mut source = StreamSource::new(&bytes[..]);
        assert_eq!(read_map(&mut source, size, 10_000).unwrap(), (map, bytes.len() as u64));
        let mut source = StreamSource::new(&bytes[..]);
        assert!(read_map(&mut source, size, 8193).is_err());
        let mut source = StreamSource::new(&bytes[..]);
        assert!(read_map(&mut source, size + 1, 10_000).is_err());
    }
}
