//! What a writer makes and a reader finds.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use cryopod_archive::{Archive, ArchiveWriter, CHUNK, DATA_ALIGN, ReadError, WriteError};

/// Data that repeats nowhere near.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend((state >> 11).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// An archive with something of everything; the answer is its path.
pub(crate) fn sample(dir: &Path) -> PathBuf {
    let mut writer = ArchiveWriter::create(dir).unwrap();
    writer.put("config.dump", b"{}", 0o600).unwrap();
    writer.directory("checkpoint").unwrap();
    writer.put("checkpoint/inventory.img", &noise(100), 0o600).unwrap();
    writer.begin("checkpoint/pages-1.img", 0o600, true).unwrap();
    for chunk in noise(2 * CHUNK as usize + 12_288).chunks(300_000) {
        writer.append(chunk).unwrap();
    }
    writer.put("checkpoint/core-1.img", &noise(2740), 0o600).unwrap();
    writer.end().unwrap();
    writer.begin("checkpoint/pages-2.img", 0o600, true).unwrap();
    writer.append(&noise(4096)).unwrap();
    writer.end().unwrap();
    writer.put(&format!("volumes/{}/x.tar", "long".repeat(40)), &noise(700), 0o640).unwrap();
    writer.put("empty", b"", 0o600).unwrap();
    writer.finish(OsStr::new("sample.tar")).unwrap().path
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = sample(dir.path());
    let archive = Archive::open(&path).unwrap();
    let names: Vec<&str> = archive.entries().iter().map(|e| e.name.as_str()).collect();
    let long = format!("volumes/{}", "long".repeat(40));
    let file = format!("{long}/x.tar");
    let want = [
        "config.dump",
        "checkpoint",
        "checkpoint/inventory.img",
        "checkpoint/pages-1.img",
        "checkpoint/core-1.img",
        "checkpoint/pages-2.img",
        "volumes",
        &long,
        &file,
        "empty",
        "cryopod.digests",
    ];
    assert_eq!(names, want);
    assert_eq!(archive.read("config.dump", 10).unwrap(), b"{}");
    assert_eq!(archive.read(&file, 1000).unwrap(), noise(700));
    assert_eq!(archive.entry(&file).unwrap().mode, 0o640);
    assert_eq!(archive.read("checkpoint/core-1.img", 1 << 20).unwrap(), noise(2740));
    let mut pages = Vec::new();
    archive.stream("checkpoint/pages-1.img").unwrap().read_to_end(&mut pages).unwrap();
    assert!(pages == noise(2 * CHUNK as usize + 12_288));
    assert!(matches!(archive.read("checkpoint", 10), Err(ReadError::Missing { .. })));
    assert!(matches!(archive.read(&file, 699), Err(ReadError::TooBig { size: 700, .. })));
    assert!(archive.read_optional("nothing", 1).unwrap().is_none());
}

#[test]
fn page_data_begins_at_whole_pages() {
    let dir = tempfile::tempdir().unwrap();
    for small in [0, 1, 511, 512, 513, 2048, 2560, 3072, 3584, 4000] {
        let mut writer = ArchiveWriter::create(dir.path()).unwrap();
        writer.put("small", &noise(small), 0o600).unwrap();
        writer.begin("pages", 0o600, true).unwrap();
        writer.append(&noise(8192)).unwrap();
        writer.end().unwrap();
        let done = writer.finish(OsStr::new(&format!("{small}.tar"))).unwrap();
        let archive = Archive::open(&done.path).unwrap();
        let entry = archive.entry("pages").unwrap();
        assert_eq!(entry.offset % DATA_ALIGN, 0, "{small}");
        assert_eq!(archive.verify_entry("pages").unwrap().bytes, 8192);
    }
}

#[test]
fn however_data_arrives_the_archive_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let data = noise(3_500_001);
    for (at, piece) in [1_usize << 30, 1 << 20, 999_999, 4096, 511].into_iter().enumerate() {
        let mut writer = ArchiveWriter::create(dir.path()).unwrap();
        writer.put("a", &noise(at * 100), 0o600).unwrap();
        writer.begin("pages", 0o600, true).unwrap();
        for chunk in data.chunks(piece) {
            writer.data().write_all(chunk).unwrap();
        }
        assert_eq!(writer.end().unwrap(), data.len() as u64);
        let size = writer.copy("copy", 0o600, &mut &data[..]).unwrap();
        assert_eq!(size, data.len() as u64);
        let done = writer.finish(OsStr::new(&format!("{at}.tar"))).unwrap();
        let archive = Archive::open(&done.path).unwrap();
        assert_eq!(archive.len(), done.size);
        assert_eq!(archive.id(), Some(done.id));
        let verified = archive.verify(&mut |_| {}).unwrap();
        assert_eq!(verified.bytes, 2 * data.len() as u64 + at as u64 * 100);
        assert!(archive.read("copy", 1 << 30).unwrap() == data);
    }
}

#[test]
fn archive_is_roots_alone_and_hidden_until_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ArchiveWriter::create(dir.path()).unwrap();
    writer.put("a", b"b", 0o644).unwrap();
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(dir.path()).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    let [temp] = &names()[..] else { panic!("{:?}", names()) };
    assert!(!temp.ends_with(".tar"), "{temp}");
    assert_eq!(dir.path().join(temp).metadata().unwrap().mode() & 0o7777, 0o600);
    let done = writer.finish(OsStr::new("x.tar")).unwrap();
    assert_eq!(names(), ["x.tar"]);
    let stat = done.path.metadata().unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.nlink()), (0o600, 0, 1));
    drop(writer);
    assert_eq!(names(), ["x.tar"]);
}

#[test]
fn a_writer_that_goes_away_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ArchiveWriter::create(dir.path()).unwrap();
    writer.begin("pages", 0o600, true).unwrap();
    writer.append(&noise(5 << 20)).unwrap();
    drop(writer);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_existing_archive_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x.tar"), "mine").unwrap();
    let mut writer = ArchiveWriter::create(dir.path()).unwrap();
    writer.put("a", b"b", 0o600).unwrap();
    assert!(matches!(writer.finish(OsStr::new("x.tar")), Err(WriteError::Exists { .. })));
    assert_eq!(std::fs::read(dir.path().join("x.tar")).unwrap(), b"mine");
    assert!(matches!(writer.put("c", b"", 0o600), Err(WriteError::Name { .. })));
    let done = writer.finish(OsStr::new("x-1.tar")).unwrap();
    assert_eq!(Archive::open(&done.path).unwrap().read("a", 9).unwrap(), b"b");
}

#[test]
fn what_killed_writers_left_is_removed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let alive = ArchiveWriter::create(dir.path()).unwrap();
    std::fs::write(dir.path().join(".cryopod-0123.partial"), "left").unwrap();
    std::fs::write(dir.path().join("other.partial"), "other").unwrap();
    let removed = cryopod_archive::remove_partial(dir.path()).unwrap();
    assert_eq!(removed, [dir.path().join(".cryopod-0123.partial")]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    drop(alive);
}

#[test]
fn a_directory_others_may_change_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let set = |mode| {
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set(0o777);
    let error = ArchiveWriter::create(dir.path()).unwrap_err();
    assert!(error.to_string().contains("can be written by others"), "{error}");
    set(0o1777);
    ArchiveWriter::create(dir.path()).unwrap();
    set(0o700);
    std::os::unix::fs::chown(dir.path(), Some(1234), None).unwrap();
    let error = ArchiveWriter::create(dir.path()).unwrap_err();
    assert!(error.to_string().contains("another user"), "{error}");
}

#[test]
fn only_exact_names_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ArchiveWriter::create(dir.path()).unwrap();
    for name in ["", ".", "..", "/a", "./a", "a/", "a//b", "a/../b", "a\nb", "cryopod.digests"] {
        assert!(matches!(writer.put(name, b"", 0o600), Err(WriteError::Name { .. })), "{name:?}");
    }
    writer.put("a", b"", 0o600).unwrap();
    writer.put("d/e", b"", 0o600).unwrap();
    for name in ["a", "a/b", "d"] {
        assert!(matches!(writer.put(name, b"", 0o600), Err(WriteError::Name { .. })), "{name:?}");
    }
}

#[test]
fn an_archive_outlives_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = sample(dir.path());
    let archive = Archive::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(archive.read("config.dump", 10).unwrap(), b"{}");
    archive.verify(&mut |_| {}).unwrap();
}

fn tar(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("tar").args(args).current_dir(dir).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    assert_eq!(errors, "");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn tar_lists_and_extracts_it_without_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let list = tar(dir.path(), &["tvf", "sample.tar"]);
    assert_eq!(list.lines().count(), 11, "{list}");
    assert!(list.contains("drwx------ 0/0 ") && list.contains(" checkpoint/\n"), "{list}");
    assert!(list.contains("-rw------- 0/0 ") && list.contains(" checkpoint/pages-1.img"), "{list}");
    std::fs::create_dir(dir.path().join("out")).unwrap();
    tar(dir.path(), &["xf", "sample.tar", "-C", "out"]);
    let pages = std::fs::read(dir.path().join("out/checkpoint/pages-1.img")).unwrap();
    assert!(pages == noise(2 * CHUNK as usize + 12_288));
    let core = std::fs::read(dir.path().join("out/checkpoint/core-1.img")).unwrap();
    assert!(core == noise(2740));
}

#[test]
fn an_entry_above_8_gib_is_found_by_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big.tar");
    let size = (8_u64 << 30) + 5;
    let mut header = tar::Header::new_ustar();
    header.set_path("pages").unwrap();
    header.set_mode(0o600);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(size);
    header.set_cksum();
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(512 + size.next_multiple_of(512) + 1024).unwrap();
    let archive = Archive::open(&path).unwrap();
    assert_eq!(archive.entry("pages").unwrap().size, size);
}
