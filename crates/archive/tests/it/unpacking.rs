//! Trees made by an enemy.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::Path;

use cryopod_archive::{Limits, TreeError, Unpacked, unpack_diff, unpack_tree};
use proptest::prelude::*;
use tar::EntryType;

/// Kind, name, target, data.
type Block<'a> = (EntryType, &'a [u8], &'a [u8], &'a [u8]);

/// A tar of headers.
fn build(entries: &[Block<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, name, link, data) in entries {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn unpack(root: &Path, bytes: &[u8]) -> Result<Unpacked, TreeError> {
    unpack_tree(File::open(root).unwrap(), bytes, Limits::default())
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in [&b"../x"[..], b"a/../../x", b"..", b"a//b", b"a/./b"] {
        let error =
            unpack(dir.path(), &build(&[(EntryType::Regular, name, b"", b"x")])).unwrap_err();
        assert!(matches!(error, TreeError::Refused { offset: 0, .. }), "{error}");
        let files: [Block<'_>; 2] =
            [(EntryType::Regular, b"f", b"", b""), (EntryType::Link, b"l", name, b"")];
        assert!(unpack(dir.path(), &build(&files)).is_err());
    }
}

#[test]
fn devices_and_unknown_kinds_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for letter in [b'3', b'4', b'7', b'S', b'V', b'Z'] {
        let kind = EntryType::new(letter);
        let error = unpack(dir.path(), &build(&[(kind, b"dev/x", b"", b"")])).unwrap_err();
        assert!(matches!(error, TreeError::Refused { .. }), "{letter}: {error}");
    }
    assert!(!dir.path().join("dev/x").exists());
}

#[test]
fn links_lead_no_further_than_the_top() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(dir.path().join("secret"), "secret").unwrap();
    let outside = dir.path().as_os_str().as_encoded_bytes();
    let bytes = build(&[
        (EntryType::Symlink, b"up", b"..", b""),
        (EntryType::Regular, b"up/made", b"", b"inside"),
        (EntryType::Symlink, b"abs", b"/", b""),
        (EntryType::Regular, b"abs/made2", b"", b"inside"),
        (EntryType::Symlink, b"target", b"../secret", b""),
        (EntryType::Regular, b"target", b"", b"replaced"),
        (EntryType::Directory, b"up", b"", b""),
    ]);
    unpack(&root, &bytes).unwrap();
    assert_eq!(std::fs::read(root.join("made")).unwrap(), b"inside");
    assert_eq!(std::fs::read(root.join("made2")).unwrap(), b"inside");
    assert_eq!(std::fs::read(root.join("target")).unwrap(), b"replaced");
    assert!(root.join("up").symlink_metadata().unwrap().is_dir());
    assert_eq!(std::fs::read(dir.path().join("secret")).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);

    // Another way: to where nothing is within the tree.
    let bytes = build(&[
        (EntryType::Symlink, b"out", outside, b""),
        (EntryType::Regular, b"out/made", b"", b"x"),
    ]);
    assert!(unpack(&root, &bytes).is_err());
    let bytes = build(&[(EntryType::Link, b"hard", b"out/secret", b"")]);
    assert!(unpack(&root, &bytes).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_link_that_was_there_before_is_replaced_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(dir.path().join("secret"), "secret").unwrap();
    symlink(dir.path().join("secret"), root.join("log")).unwrap();
    let bytes = build(&[(EntryType::Regular, b"log", b"", b"mine")]);
    unpack(&root, &bytes).unwrap();
    assert_eq!(std::fs::read(dir.path().join("secret")).unwrap(), b"secret");
    assert_eq!(std::fs::read(root.join("log")).unwrap(), b"mine");
}

#[test]
fn limits_hold() {
    let dir = tempfile::tempdir().unwrap();
    let files: [Block<'_>; 2] =
        [(EntryType::Regular, b"a", b"", &[1; 600]), (EntryType::Regular, b"b", b"", &[1; 600])];
    let root = File::open(dir.path()).unwrap();
    for limits in [Limits { entries: 1, bytes: 9999 }, Limits { entries: 9, bytes: 1000 }] {
        let error = unpack_tree(&root, &build(&files)[..], limits).unwrap_err();
        assert!(matches!(error, TreeError::Limit { .. }), "{error}");
    }
}

#[test]
fn a_cut_tree_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = build(&[
        (EntryType::Regular, b"a", b"", &[1; 700]),
        (EntryType::Directory, b"d", b"", b""),
    ]);
    for len in (0..bytes.len()).step_by(37) {
        let error = unpack(dir.path(), &bytes[..len]).unwrap_err();
        assert!(matches!(error, TreeError::Tar { .. }), "cut at {len}: {error}");
    }
    let error =
        unpack_diff(File::open(dir.path()).unwrap(), &b"\x28\xb5\x2f\xfd"[..], Limits::default());
    assert!(matches!(error, Err(TreeError::Compressed { format: "zstd" })));
    assert!(
        unpack_diff(File::open(dir.path()).unwrap(), &b"\x1f\x8bxx"[..], Limits::default())
            .is_err()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_made_outside_whatever_the_entries(
        entries in proptest::collection::vec((
            proptest::sample::select(&[b'0', b'1', b'2', b'5', b'6', b'0', b'x', b'L'][..]),
            proptest::sample::select(&["a", "a/b", "b", "b/a", "./a/b/c", "/c", "..", "a/..", "c/.wh.a", ".wh..wh..opq"][..]),
            proptest::sample::select(&["..", "../..", "/", "a", "b", "a/b", "/tmp", "../../..", "."][..]),
            proptest::collection::vec(any::<u8>(), 0..40),
        ), 0..12),
        whiteouts in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("x/y/root");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(dir.path().join("x/y/sentinel"), "s").unwrap();
        let entries: Vec<_> = entries.iter().map(|(kind, name, link, data)| {
            let data: &[u8] = if matches!(kind, b'0' | b'x' | b'L') { data } else { b"" };
            (EntryType::new(*kind), name.as_bytes(), link.as_bytes(), data)
        }).collect();
        let bytes = build(&entries);
        let fd = File::open(&root).unwrap();
        if whiteouts {
            let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut gz, &bytes).unwrap();
            let _ = unpack_diff(&fd, &gz.finish().unwrap()[..], Limits::default());
        } else {
            let _ = unpack_tree(&fd, &bytes[..], Limits::default());
        }
        for (at, count) in [("", 1), ("x", 1), ("x/y", 2)] {
            prop_assert_eq!(std::fs::read_dir(dir.path().join(at)).unwrap().count(), count);
        }
        prop_assert_eq!(std::fs::read(dir.path().join("x/y/sentinel")).unwrap(), b"s");
    }
}
