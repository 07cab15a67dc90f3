//! Shows 6 of the archive: cut anywhere, flipped anywhere.

use std::path::Path;

use cryopod_archive::{Archive, ReadError};

use crate::layout::sample;

/// Opens and reads all there is; says what was refused, or how many bytes were good.
fn examine(path: &Path) -> Result<u64, ReadError> {
    let archive = Archive::open(path)?;
    let verified = archive.verify(&mut |_| {})?;
    for entry in archive.entries().iter().filter(|entry| !entry.directory) {
        archive.read(&entry.name, 16 << 20)?;
    }
    Ok(verified.bytes)
}

/// `count` numbers below `end`, the ends among them, spread without a pattern.
fn places(count: u64, end: u64) -> impl Iterator<Item = u64> {
    let step = end / count;
    (0..count).map(move |n| (n * step + n.wrapping_mul(0x9e37_79b9) % step.max(1)).min(end - 1))
}

#[test]
fn an_archive_cut_at_200_places_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(sample(dir.path())).unwrap();
    let path = dir.path().join("cut.tar");
    let end = whole.len() as u64;
    let near = [0, 1, 511, 512, 513, end - 1, end - 511, end - 512, end - 513, end - 1024];
    for len in places(200, end).chain(near) {
        std::fs::write(&path, &whole[..len as usize]).unwrap();
        let error = examine(&path).expect_err(&format!("cut at {len} of {end}"));
        let text = chain(&error);
        assert!(text.contains("offset"), "cut at {len}: {text}");
    }
}

#[test]
fn every_flipped_byte_is_refused_by_entry_and_offset() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(sample(dir.path())).unwrap();
    let path = dir.path().join("flipped.tar");
    let archive = Archive::open(&dir.path().join("sample.tar")).unwrap();
    let mut at: Vec<u64> = places(200, whole.len() as u64).collect();
    // Headers are few among the data: all their bytes of the first and of one with a gap count.
    let pages = archive.entry("checkpoint/pages-1.img").unwrap();
    at.extend((0..512).chain((pages.start..pages.offset).step_by(7)));
    let table = archive.entry("cryopod.digests").unwrap();
    at.extend((table.start..whole.len() as u64).step_by(11));
    for at in at {
        let mut bytes = whole.clone();
        bytes[at as usize] ^= 1 << (at % 8);
        std::fs::write(&path, &bytes).unwrap();
        let error = examine(&path).expect_err(&format!("byte {at} flipped"));
        let text = chain(&error);
        assert!(text.contains("offset"), "byte {at}: {text}");
        let inside = archive.entries().iter().find(|e| (e.offset..e.offset + e.size).contains(&at));
        if let Some(entry) = inside.filter(|entry| entry.name != table.name) {
            assert!(text.contains(&entry.name), "byte {at} of {}: {text}", entry.name);
        }
    }
}

#[test]
fn bytes_behind_the_end_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(sample(dir.path())).unwrap();
    bytes.push(0);
    let path = dir.path().join("longer.tar");
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(examine(&path), Err(ReadError::Damaged { .. })));
}

#[test]
fn a_file_cut_after_it_was_opened_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = sample(dir.path());
    let archive = Archive::open(&path).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(2000).unwrap();
    let error = archive.verify(&mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("cut after it was opened"), "{error}");
}

/// The message with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
