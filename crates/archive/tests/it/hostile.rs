//! Archives made by an enemy.

use std::path::{Path, PathBuf};

use cryopod_archive::{Archive, ReadError};
use proptest::prelude::*;

type Block = (tar::EntryType, &'static [u8], u64);

/// A tar of headers and so many zero bytes of data each.
fn build(dir: &Path, entries: &[Block]) -> PathBuf {
    let mut bytes = Vec::new();
    for (kind, name, size) in entries {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(*kind);
        header.set_mode(0o600);
        header.set_size(*size);
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + (*size).min(4096).next_multiple_of(512) as usize, 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    let path = dir.join("hostile.tar");
    std::fs::write(&path, &bytes).unwrap();
    path
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let names: [&[u8]; 14] = [
        b"../x",
        b"a/../../x",
        b"/etc/passwd",
        b"a/..",
        b"..",
        b".",
        b"a//b",
        b"./../x",
        b"././x",
        b".//x",
        b"a\nb",
        b"a\x1b[2Jb",
        b"\xff\xfe",
        b"",
    ];
    for name in names {
        let path = build(dir.path(), &[(tar::EntryType::Regular, name, 0)]);
        let error = Archive::open(&path).unwrap_err();
        assert!(matches!(error, ReadError::Refused { offset: 0, .. }), "{name:?}: {error}");
    }
}

#[test]
fn links_devices_and_unknown_kinds_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for letter in [b'1', b'2', b'3', b'4', b'6', b'7', b'S', b'V', b'M', b'D', b'Z', 0xff] {
        let kind = tar::EntryType::new(letter);
        let path =
            build(dir.path(), &[(tar::EntryType::Regular, b"a", 3), (kind, b"checkpoint/x", 0)]);
        let error = Archive::open(&path).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ReadError::Refused { offset: 1024, .. }), "{letter}: {error}");
        assert!(text.contains("checkpoint/x") && text.contains("1024"), "{text}");
    }
}

#[test]
fn two_entries_of_one_name_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let twice: [[Block; 2]; 3] = [
        [(tar::EntryType::Regular, b"a", 0), (tar::EntryType::Regular, b"a", 0)],
        [(tar::EntryType::Regular, b"a", 0), (tar::EntryType::Regular, b"./a", 0)],
        [(tar::EntryType::Directory, b"a/", 0), (tar::EntryType::Regular, b"a", 0)],
    ];
    for entries in twice {
        let path = build(dir.path(), &entries);
        let error = Archive::open(&path).unwrap_err();
        assert!(error.to_string().contains("twice"), "{error}");
    }
}

#[test]
fn huge_sizes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for size in [1 << 20, 1 << 40, u64::MAX >> 1, u64::MAX - 511, u64::MAX] {
        let path = build(dir.path(), &[(tar::EntryType::Regular, b"pages", size)]);
        let error = Archive::open(&path).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("run past the end"), "{size}: {text}");
        let path = build(dir.path(), &[(tar::EntryType::XHeader, b"pages", size)]);
        assert!(Archive::open(&path).is_err());
        let path = build(dir.path(), &[(tar::EntryType::GNULongName, b"pages", size)]);
        assert!(Archive::open(&path).is_err());
    }
}

#[test]
fn what_is_no_archive_is_refused_by_its_kind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    for (bytes, want) in [
        (&b"\x1f\x8b\x08\0\0\0"[..], "gzip"),
        (b"\x28\xb5\x2f\xfd\0\0", "zstd"),
        (b"", "cut"),
        (b"hello", "cut"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = Archive::open(&path).unwrap_err();
        let text = format!("{error}: {}", error_source(&error));
        assert!(text.contains(want), "{text}");
    }
    std::fs::write(&path, [b'x'; 600]).unwrap();
    let error = Archive::open(&path).unwrap_err();
    assert!(error_source(&error).contains("checksum"), "{error}");
    assert!(matches!(Archive::open(dir.path()), Err(ReadError::NotAFile { .. })));
    assert!(matches!(Archive::open(Path::new("/dev/null")), Err(ReadError::NotAFile { .. })));
    assert!(matches!(Archive::open(&dir.path().join("no")), Err(ReadError::Io { .. })));
}

fn error_source(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_reader_panic(
        blocks in proptest::collection::vec((any::<u8>(), any::<[u8; 12]>(), any::<[u8; 32]>(), any::<bool>()), 0..6),
        tail in proptest::collection::vec(any::<u8>(), 0..700),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        for (kind, size, name, small) in blocks {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..32].copy_from_slice(&name);
            header.as_mut_bytes()[124..136].copy_from_slice(&size);
            if small {
                header.set_size(u64::from(size[0]) * 9);
            }
            header.as_mut_bytes()[156] = match kind % 4 { 0 => b'x', 1 => b'0', 2 => b'L', _ => kind };
            header.set_cksum();
            bytes.extend(header.as_bytes());
            bytes.extend_from_slice(&[size[3]; 512]);
        }
        bytes.extend(tail);
        bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
        let path = dir.path().join("x.tar");
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(archive) = Archive::open(&path) {
            for entry in archive.entries() {
                let _ = archive.read(&entry.name, 1 << 20);
            }
            let _ = archive.verify(&mut |_| {});
        }
    }
}
