//! Trees packed and unpacked again.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use cryopod_archive::{Limits, NoteKind, Packed, pack_tree, unpack_diff, unpack_tree};
use rustix::fs::{CWD, Mode, XattrFlags};

use crate::layout::noise;
use crate::snapshot::snapshot;

/// A tree with one of everything that is carried.
pub(crate) fn make(root: &Path) {
    let write = |name: &str, bytes: &[u8]| {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    };
    write("etc/passwd", b"root:x:0:0\n");
    write("empty", b"");
    let big = write("data/big", &noise(1_234_567));
    std::fs::hard_link(&big, root.join("data/again")).unwrap();
    let suid = write("bin/su", b"#!");
    chown(&suid, Some(0), Some(42)).unwrap();
    std::fs::set_permissions(&suid, PermissionsExt::from_mode(0o6755)).unwrap();
    let owned = write("home/u/.wh.file", b"not a whiteout");
    chown(&owned, Some(3_000_000_000), Some(2_097_152)).unwrap();
    std::fs::set_permissions(root.join("home/u"), PermissionsExt::from_mode(0o1000)).unwrap();
    let tagged = write("tagged", b"t");
    let flags = XattrFlags::empty();
    rustix::fs::setxattr(&tagged, "user.key", b"v=\n\0w", flags).unwrap();
    rustix::fs::setxattr(root.join("data"), "trusted.note", b"", flags).unwrap();
    rustix::fs::setxattr(root.join("data"), "trusted.overlay.origin", b"x", flags).unwrap();
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    rustix::fs::setxattr(&suid, "security.capability", capability, flags).unwrap();
    symlink("../etc/passwd", root.join("data/link")).unwrap();
    symlink("/absolute/".to_owned() + &"l".repeat(150), root.join("dangling")).unwrap();
    lchown(root.join("dangling"), Some(7), Some(8)).unwrap();
    std::fs::hard_link(root.join("dangling"), root.join("dangling2")).unwrap();
    rustix::fs::mkfifoat(CWD, root.join("fifo"), Mode::from_raw_mode(0o640)).unwrap();
    write(&format!("{}/{}", "d".repeat(90), "f".repeat(120)), b"long");
    let odd = root.join(std::ffi::OsStr::from_bytes(b"odd \xff\xfe\n name"));
    std::fs::write(odd, "odd").unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(&noise(5000), 1 << 20).unwrap();
    sparse.write_all_at(b"end", (64 << 20) - 3).unwrap();
    File::create(root.join("hole")).unwrap().set_len(10 << 20).unwrap();
    for (name, time) in [("etc", 1_700_000_000_123_456_789_u64), ("tagged", 5), ("empty", 0)] {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(time);
        File::open(root.join(name)).unwrap().set_modified(time).unwrap();
    }
    let before = SystemTime::UNIX_EPOCH - Duration::from_millis(1500);
    File::open(root.join("bin")).unwrap().set_modified(before).unwrap();
}

pub(crate) fn pack(root: &Path, out: &mut dyn Write) -> Packed {
    pack_tree(File::open(root).unwrap(), &[], out).unwrap()
}

fn without_overlay(mut tree: std::collections::BTreeMap<String, String>) -> Vec<(String, String)> {
    for line in tree.values_mut() {
        *line = line.replace(" trusted.overlay.origin=x", "");
    }
    tree.into_iter().collect()
}

#[test]
fn a_tree_comes_back_with_all_its_properties() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    std::fs::create_dir(&to).unwrap();
    make(&from);
    std::fs::set_permissions(&from, PermissionsExt::from_mode(0o1777)).unwrap();
    let mut bytes = Vec::new();
    let packed = pack(&from, &mut bytes);
    assert_eq!(packed.notes, []);
    assert!(packed.deleted.is_empty());
    assert!(bytes.len() < 2 << 20, "holes were packed: {} bytes", bytes.len());
    let unpacked = unpack_tree(File::open(&to).unwrap(), &bytes[..], Limits::default()).unwrap();
    assert_eq!(unpacked.notes, []);
    assert_eq!(unpacked.entries, packed.entries);
    assert_eq!(without_overlay(snapshot(&from)), without_overlay(snapshot(&to)));
    assert!(to.join("sparse").metadata().unwrap().blocks() < 1000);
    let mut again = Vec::new();
    pack(&to, &mut again);
    assert!(again == bytes, "equal trees give equal bytes");
    // Over what is there already: the same again.
    unpack_diff(File::open(&to).unwrap(), &bytes[..], Limits::default()).unwrap();
    assert_eq!(without_overlay(snapshot(&from)), without_overlay(snapshot(&to)));
}

#[test]
fn tar_extracts_what_we_pack_without_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    std::fs::create_dir(&to).unwrap();
    make(&from);
    // tar warns about times before 1970.
    File::open(from.join("bin")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let mut file = File::create(dir.path().join("x.tar")).unwrap();
    pack(&from, &mut file);
    let mut command = Command::new("tar");
    command.args(["--xattrs", "--xattrs-include=*", "--same-owner", "-xpf", "../x.tar"]);
    let output = command.current_dir(&to).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
    assert_eq!(without_overlay(snapshot(&from)), without_overlay(snapshot(&to)));
}

#[test]
fn we_unpack_what_tar_packs() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    std::fs::create_dir(&from).unwrap();
    make(&from);
    rustix::fs::removexattr(from.join("data"), "trusted.overlay.origin").unwrap();
    for args in [
        &["--format=posix", "--xattrs", "--xattrs-include=*"][..],
        &["--format=posix", "--xattrs", "--xattrs-include=*", "--sparse"][..],
    ] {
        let to = tempfile::tempdir_in(dir.path()).unwrap();
        let mut command = Command::new("tar");
        command.args(args).args(["-cf", "../x.tar", "."]);
        assert!(command.current_dir(&from).status().unwrap().success());
        let input = File::open(dir.path().join("x.tar")).unwrap();
        let done = unpack_tree(File::open(to.path()).unwrap(), input, Limits::default()).unwrap();
        assert_eq!(done.notes, []);
        assert_eq!(snapshot(&from), snapshot(to.path()), "{args:?}");
    }
}

#[test]
fn sockets_devices_and_mountpoints_are_left_out_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let _socket = UnixListener::bind(root.join("socket")).unwrap();
    let device = rustix::fs::makedev(1, 3);
    let mode = Mode::from_raw_mode(0o666);
    let kind = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(CWD, root.join("null"), kind, mode, device).unwrap();
    std::fs::create_dir(root.join("mnt")).unwrap();
    std::fs::create_dir(root.join("skipped")).unwrap();
    std::fs::write(root.join("skipped/x"), "").unwrap();
    let mounted = Mounted::tmpfs(&root.join("mnt"));
    std::fs::write(root.join("mnt/x"), "").unwrap();
    let mut bytes = Vec::new();
    let skip = [PathBuf::from("skipped")];
    let packed = pack_tree(File::open(root).unwrap(), &skip, &mut bytes).unwrap();
    let notes: Vec<_> =
        packed.notes.iter().map(|n| (n.path.to_str().unwrap(), n.what.clone())).collect();
    let want =
        [("mnt", NoteKind::Mountpoint), ("null", NoteKind::Device), ("socket", NoteKind::Socket)];
    assert_eq!(notes, want);
    assert_eq!(packed.entries, 1);
    drop(mounted);
}

/// A mount that goes away with the test.
#[derive(Debug)]
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    pub(crate) fn tmpfs(at: &Path) -> Self {
        Self::run(&["-t", "tmpfs", "none"], at)
    }

    pub(crate) fn run(args: &[&str], at: &Path) -> Self {
        let status = Command::new("mount").args(args).arg(at).status().unwrap();
        assert!(status.success(), "mount {args:?}");
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::empty()).unwrap();
    }
}

/// Changes a file when the first of its data goes by.
struct Meddler {
    out: Vec<u8>,
    file: File,
    len: u64,
    done: bool,
}

impl Write for Meddler {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > 100_000 && !self.done {
            self.done = true;
            self.file.set_len(self.len)?;
        }
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_that_changes_its_size_while_it_is_packed_is_cut_or_filled_and_named() {
    for len in [300_000, 5_000_000] {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("a"), noise(1_000_000)).unwrap();
        std::fs::write(from.join("b"), "after").unwrap();
        let file = File::options().write(true).open(from.join("a")).unwrap();
        let mut meddler = Meddler { out: Vec::new(), file, len, done: false };
        let packed = pack(&from, &mut meddler);
        assert_eq!(packed.notes.len(), 1);
        assert_eq!(packed.notes[0].what, NoteKind::SizeChanged { packed: 1_000_000 });
        unpack_tree(File::open(&to).unwrap(), &meddler.out[..], Limits::default()).unwrap();
        let got = std::fs::read(to.join("a")).unwrap();
        assert_eq!(got.len(), 1_000_000);
        assert!(got[..300_000] == noise(1_000_000)[..300_000]);
        assert_eq!(std::fs::read(to.join("b")).unwrap(), b"after");
    }
}
