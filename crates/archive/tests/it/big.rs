//! Entries big enough that threads write them.

use std::ffi::OsStr;
use std::path::Path;

use cryopod_archive::{Archive, ArchiveWriter, CHUNK, DATA_ALIGN, Edit, WriteError};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::layout::noise;

const BIG: usize = 21 * CHUNK as usize + 5 * DATA_ALIGN as usize;

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// The digests that the archive keeps of an entry's chunks, as it writes them.
fn digests(archive: &[u8], name: &str) -> String {
    let begin = format!("{{\"name\":\"{name}\",");
    let text = String::from_utf8_lossy(&archive[archive.len() - 65536..]).into_owned();
    let line = text.lines().find(|line| line.starts_with(&begin)).unwrap();
    line.split_once("\"chunks\":").unwrap().1.to_owned()
}

#[test]
fn threads_make_the_digests_that_one_thread_makes() {
    let data = noise(BIG + 77);
    let disk = tempfile::tempdir().unwrap();
    // A file system in memory, which has no disk to begin with.
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    for dir in [disk.path(), memory.path()] {
        for piece in [BIG * 2, CHUNK as usize, 3 * CHUNK as usize - 1, 1_234_567, 4096, 1_000] {
            let mut writer = ArchiveWriter::create(dir).unwrap();
            for (name, aligned) in [("threads", true), ("plain", false), ("again", true)] {
                writer.begin(name, 0o600, aligned).unwrap();
                data.chunks(piece).for_each(|part| writer.append(part).unwrap());
                writer.put(&format!("{name}.small"), b"between", 0o600).unwrap();
                assert_eq!(writer.end().unwrap(), data.len() as u64);
            }
            let done = writer.finish(OsStr::new(&format!("{piece}.tar"))).unwrap();
            let bytes = std::fs::read(&done.path).unwrap();
            assert_eq!(bytes.len() as u64, done.size);
            let plain = digests(&bytes, "plain");
            assert_eq!(plain.matches(',').count(), data.len() / CHUNK as usize);
            assert_eq!(digests(&bytes, "threads"), plain, "{piece}");
            assert_eq!(digests(&bytes, "again"), plain, "{piece}");
            let archive = Archive::open(&done.path).unwrap();
            archive.verify(&mut |_| {}).unwrap();
            for name in ["threads", "again"] {
                assert!(archive.read(name, 1 << 30).unwrap() == data, "{name} {piece}");
                assert!(archive.entry(name).unwrap().offset.is_multiple_of(DATA_ALIGN));
            }
            std::fs::remove_file(done.path).unwrap();
        }
    }
}

#[test]
fn what_threads_wrote_is_changed_afterwards() {
    let page = DATA_ALIGN;
    let mut want = noise(BIG);
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ArchiveWriter::create(dir.path()).unwrap();
    for name in ["first", "second"] {
        writer.begin(name, 0o600, true).unwrap();
        writer.append(&want).unwrap();
        writer.end().unwrap();
    }
    writer.put("small", b"behind", 0o600).unwrap();
    let edits = [
        Edit { at: page, removed: page, added: page },
        Edit { at: 9 * CHUNK, removed: 0, added: 3 * page },
        Edit { at: BIG as u64 - page, removed: page, added: 0 },
    ];
    let mut fill = |number: usize, _: u64, bytes: &mut [u8]| {
        bytes.fill(number as u8 + 1);
        Ok(())
    };
    writer.revise("first", &edits, &mut fill).unwrap();
    let untouched = want.clone();
    want.truncate(BIG - page as usize);
    let at = 9 * CHUNK as usize;
    want.splice(at..at, vec![2; 3 * page as usize]);
    want[page as usize..2 * page as usize].fill(1);
    // Whoever comes next finds the place where the file ends now.
    writer.begin("third", 0o600, true).unwrap();
    writer.append(&untouched).unwrap();
    writer.end().unwrap();
    let done = writer.finish(OsStr::new("a.tar")).unwrap();
    let archive = Archive::open(&done.path).unwrap();
    archive.verify(&mut |_| {}).unwrap();
    assert!(archive.read("first", 1 << 30).unwrap() == want);
    assert!(archive.read("second", 1 << 30).unwrap() == untouched);
    assert!(archive.read("third", 1 << 30).unwrap() == untouched);
    assert_eq!(archive.read("small", 100).unwrap(), b"behind");
}

#[test]
fn a_writer_that_goes_away_in_the_middle_of_much_data_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ArchiveWriter::create(dir.path()).unwrap();
    writer.begin("pages", 0o600, true).unwrap();
    writer.append(&noise(BIG)).unwrap();
    assert_eq!(files(dir.path()), 1);
    drop(writer);
    assert_eq!(files(dir.path()), 0);
}

/// A file system of eight MiB.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = c"size=8m,mode=700";
        rustix::mount::mount("none", dir.path(), "tmpfs", MountFlags::empty(), data).unwrap();
        Self(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH).unwrap();
    }
}

fn is_no_space(error: &WriteError) -> bool {
    let WriteError::Io { source, action: "write", .. } = error else { return false };
    source.raw_os_error() == Some(rustix::io::Errno::NOSPC.raw_os_error())
}

#[test]
fn a_full_disk_is_told_by_whatever_comes_next_and_nothing_stays() {
    let small = Small::new();
    let dir = small.0.path();
    let data = noise(BIG);
    // So little more than there is room for that only the end can tell, and so much that it is told
    // before.
    for (len, before) in [(8 * CHUNK as usize, false), (4 * BIG, true)] {
        let mut writer = ArchiveWriter::create(dir).unwrap();
        writer.begin("pages", 0o600, true).unwrap();
        let mut told = None;
        for part in data.chunks(CHUNK as usize).cycle().take(len / CHUNK as usize) {
            told = writer.append(part).err();
            if told.is_some() {
                break;
            }
        }
        assert!(told.is_some() || !before);
        if let Some(error) = &told {
            assert!(is_no_space(error), "{error:?}");
        }
        let error = writer.end().unwrap_err();
        assert!(is_no_space(&error), "{error:?}");
        assert!(is_no_space(&writer.put("small", b"x", 0o600).unwrap_err()));
        assert!(is_no_space(&writer.seal().unwrap_err()));
        assert!(is_no_space(&writer.finish(OsStr::new("a.tar")).unwrap_err()));
        drop(writer);
        assert_eq!(files(dir), 0);
    }
    let mut writer = ArchiveWriter::create(dir).unwrap();
    writer.put("small", b"fits again", 0o600).unwrap();
    writer.finish(OsStr::new("a.tar")).unwrap();
}
