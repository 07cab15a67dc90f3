//! Archives as other engines' tools write them.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use cryopod_archive::{Archive, Verified};

/// Too long for the name field alone, short enough for every format.
fn long_name() -> String {
    format!("checkpoint/{}/{}", "n".repeat(80), "m".repeat(60))
}

fn tree(dir: &Path) {
    let long = long_name();
    std::fs::create_dir_all(dir.join("in").join(&long).parent().unwrap()).unwrap();
    std::fs::write(dir.join("in/config.dump"), "{\"id\":\"1\"}").unwrap();
    std::fs::write(dir.join("in").join(long), "long").unwrap();
    std::fs::write(dir.join("in/checkpoint/pages-1.img"), vec![1; 20_000]).unwrap();
}

#[test]
fn names_with_a_leading_dot_and_both_header_formats_are_read() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    for format in ["gnu", "posix", "ustar"] {
        for what in [".", "config.dump checkpoint"] {
            let path = dir.path().join("x.tar");
            let mut command = Command::new("tar");
            command.arg(format!("--format={format}")).arg("-cf").arg(&path).arg("-C");
            command.arg(dir.path().join("in")).args(what.split(' '));
            assert!(command.status().unwrap().success());
            let archive = Archive::open(&path).unwrap();
            assert_eq!(archive.read("config.dump", 100).unwrap(), b"{\"id\":\"1\"}");
            assert_eq!(archive.read(&long_name(), 100).unwrap(), b"long");
            assert!(archive.entry("checkpoint").unwrap().directory);
            assert_eq!(archive.entry("checkpoint/pages-1.img").unwrap().size, 20_000);
            assert_eq!(archive.id(), None);
            assert_eq!(archive.verify(&mut |_| {}).unwrap(), Verified::default());
        }
    }
}

#[test]
fn archives_of_the_tar_crate_are_read_and_the_other_way_round() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let path = dir.path().join("x.tar");
    let mut builder = tar::Builder::new(File::create(&path).unwrap());
    builder.append_dir_all("", dir.path().join("in")).unwrap();
    builder.into_inner().unwrap();
    let archive = Archive::open(&path).unwrap();
    assert_eq!(archive.read("config.dump", 100).unwrap(), b"{\"id\":\"1\"}");

    let ours = crate::layout::sample(dir.path());
    let archive = Archive::open(&ours).unwrap();
    let mut theirs = tar::Archive::new(File::open(&ours).unwrap());
    for (entry, want) in theirs.entries().unwrap().zip(archive.entries()) {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        assert_eq!(path, Path::new(&want.name).components().collect::<std::path::PathBuf>());
        assert_eq!((entry.size(), entry.raw_file_position()), (want.size, want.offset));
    }
}

#[test]
fn what_is_behind_the_end_of_a_foreign_archive_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let path = dir.path().join("x.tar");
    let mut builder = tar::Builder::new(File::create(&path).unwrap());
    builder.append_dir_all("", dir.path().join("in")).unwrap();
    builder.into_inner().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend([b'x'; 5000]);
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(Archive::open(&path).unwrap().read("config.dump", 100).unwrap(), b"{\"id\":\"1\"}");
}
