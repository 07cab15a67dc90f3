//! The folder of archives as a store.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use cryopod_kubelet::store::{Held, Identity, Store, StoreError};

use crate::small::{fill, write_archive};

const OF: [&str; 3] = ["default", "counter", "app"];

/// Sets the time of the last change, in seconds since 1970.
fn date(folder: &Path, name: &str, seconds: u64) {
    let file = File::options().append(true).open(folder.join(name)).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
}

fn names(all: &[cryopod_kubelet::store::Stored]) -> Vec<&str> {
    all.iter().map(|one| one.name.as_str()).collect()
}

#[tokio::test]
async fn archives_are_listed_newest_first_with_what_is_inside() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    for (name, seconds) in [("a.tar", 20), ("b.tar", 30), ("c.tar", 10), ("d.tar", 20)] {
        write_archive(folder.path(), name, OF, 1);
        date(folder.path(), name, seconds);
    }
    let all = store.list().await.unwrap();
    assert_eq!(names(&all), ["b.tar", "d.tar", "a.tar", "c.tar"]);
    let [namespace, pod, container] = OF.map(str::to_owned);
    let one = &all[0];
    assert_eq!(one.identity, Some(Identity { namespace, pod, container }));
    assert_eq!(one.path, folder.path().join("b.tar"));
    assert_eq!(one.bytes, one.path.metadata().unwrap().len());
    assert_eq!(one.finished_at.as_second(), 30);
    assert_eq!(one.digest.as_deref().map(str::len), Some(64));
    assert!(one.is_ours() && one.unreadable.is_none() && !one.pinned && !one.in_use);
    assert!(one.disk_bytes > 0, "{one:?}");
    assert_eq!(store.find("b.tar").await.unwrap(), *one);
}

#[tokio::test]
async fn what_is_no_archive_is_not_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_archive(folder.path(), "good.tar", OF, 0);
    std::fs::copy(path("good.tar"), path(".hidden.tar")).unwrap();
    std::fs::copy(path("good.tar"), path("good.tar.gz")).unwrap();
    std::fs::create_dir(path("folder.tar")).unwrap();
    symlink("good.tar", path("link.tar")).unwrap();
    symlink("nowhere", path("dangling.tar")).unwrap();
    let bound = std::os::unix::net::UnixListener::bind(path("socket.tar")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("fifo.tar"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    std::fs::write(path("good.tar.keep"), "").unwrap();
    let store = Store::at(folder.path()).unwrap();
    assert_eq!(names(&store.list().await.unwrap()), ["good.tar"]);
    for name in ["folder.tar", "link.tar", "dangling.tar", "socket.tar", "fifo.tar", "none.tar"] {
        for error in [
            store.find(name).await.unwrap_err(),
            store.open(name).await.unwrap_err(),
            store.delete(name).await.unwrap_err(),
            store.pin(name).await.unwrap_err(),
            store.unpin(name).await.unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Missing { .. }), "{name}: {error:?}");
        }
        assert!(!path(&format!("{name}.keep")).exists());
    }
    drop(bound);
}

#[tokio::test]
async fn names_that_no_archive_can_have_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    write_archive(folder.path(), "out.tar", OF, 0);
    let store = Store::at(&inner).unwrap();
    let long = format!("{}.tar", "x".repeat(252));
    for name in ["../out.tar", "/out.tar", "", ".", "..", ".tar", ".a.tar", "a", "a.tar/", &long] {
        for error in [
            store.find(name).await.unwrap_err(),
            store.open(name).await.unwrap_err(),
            store.delete(name).await.unwrap_err(),
            store.pin(name).await.unwrap_err(),
            store.unpin(name).await.unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Name { .. }), "{name:?}: {error:?}");
        }
    }
    assert!(store.find("a\n.tar").await.unwrap_err().to_string().contains("\"a\\n.tar\""));
    assert!(folder.path().join("out.tar").exists());
}

#[tokio::test]
async fn a_missing_folder_is_an_empty_store_and_a_file_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path().join("later")).unwrap();
    assert!(store.list().await.unwrap().is_empty());
    assert!(matches!(store.open("a.tar").await, Err(StoreError::Missing { .. })));
    std::fs::create_dir(store.folder()).unwrap();
    rustix::fs::chmod(store.folder(), rustix::fs::Mode::RWXU).unwrap();
    write_archive(store.folder(), "a.tar", OF, 0);
    assert_eq!(store.list().await.unwrap().len(), 1);
    assert!(store.disk().await.unwrap().total > 0);
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(Store::at(&file), Err(StoreError::Folder { .. })));
}

#[tokio::test]
async fn a_broken_file_is_listed_with_the_reason_and_read_again_when_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    std::fs::write(&path, vec![7; 4096]).unwrap();
    write_archive(folder.path(), "good.tar", OF, 0);
    let store = Store::at(folder.path()).unwrap();
    let broken = store.find("a.tar").await.unwrap();
    assert!(broken.unreadable.as_deref().unwrap().contains("a.tar"), "{broken:?}");
    assert_eq!((&broken.identity, broken.is_ours()), (&None, false));
    assert_eq!(store.list().await.unwrap().len(), 2);
    // A runtime that writes in place is done now.
    let whole = std::fs::read(folder.path().join("good.tar")).unwrap();
    let mut file = File::options().write(true).truncate(true).open(&path).unwrap();
    file.write_all(&whole).unwrap();
    let good = store.find("a.tar").await.unwrap();
    assert_eq!((good.unreadable, good.identity.is_some()), (None, true));
}

#[tokio::test]
async fn another_file_of_the_same_name_is_another_archive() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    write_archive(folder.path(), "a.tar", OF, 0);
    let first = store.find("a.tar").await.unwrap();
    let stamp = store.open("a.tar").await.unwrap().stamp();
    assert_eq!(store.open("a.tar").await.unwrap().stamp(), stamp);
    store.delete("a.tar").await.unwrap();
    write_archive(folder.path(), "a.tar", ["default", "counter", "sec"], 0);
    let second = store.find("a.tar").await.unwrap();
    assert_eq!(second.bytes, first.bytes);
    assert_eq!(second.identity.unwrap().container, "sec");
    let again = store.open("a.tar").await.unwrap();
    assert_ne!(again.stamp(), stamp);
    assert!(again.stamp().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
}

#[tokio::test]
async fn while_it_is_read_nobody_deletes_it() {
    let folder = tempfile::tempdir().unwrap();
    write_archive(folder.path(), "a.tar", OF, 1);
    let store = Store::at(folder.path()).unwrap();
    // As another process has it: nothing in common but the folder.
    let other = Store::at(folder.path()).unwrap();
    let one = store.open("a.tar").await.unwrap();
    let two = store.open("a.tar").await.unwrap();
    assert!(store.find("a.tar").await.unwrap().in_use);
    for held in [&one, &two] {
        assert_eq!(held.bytes(), folder.path().join("a.tar").metadata().unwrap().len());
        for store in [&store, &other] {
            let error = store.delete("a.tar").await.unwrap_err();
            assert!(matches!(error, StoreError::InUse { held: Held::Locked, .. }), "{error:?}");
        }
    }
    drop(one);
    assert!(matches!(other.delete("a.tar").await, Err(StoreError::InUse { .. })));
    drop(two);
    store.released().notified().await;
    assert!(!store.find("a.tar").await.unwrap().in_use);
    other.delete("a.tar").await.unwrap();
    assert!(matches!(store.delete("a.tar").await, Err(StoreError::Missing { .. })));
}

#[tokio::test]
async fn an_archive_that_is_restored_from_is_not_deleted() {
    let folder = tempfile::tempdir().unwrap();
    write_archive(folder.path(), "a.tar", OF, 1);
    let store = Store::at(folder.path()).unwrap();
    let archive = cryopod_archive::Archive::open(&folder.path().join("a.tar")).unwrap();
    assert!(matches!(store.delete("a.tar").await, Err(StoreError::InUse { .. })));
    // Who restores hands it on, open.
    let handed_on = archive.clone();
    drop(archive);
    assert!(matches!(store.delete("a.tar").await, Err(StoreError::InUse { .. })));
    drop(handed_on);
    store.delete("a.tar").await.unwrap();
}

#[tokio::test]
async fn what_is_being_written_is_neither_seen_nor_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path()).unwrap();
    let mut writer = cryopod_archive::ArchiveWriter::create(folder.path()).unwrap();
    fill(&mut writer, OF, 1);
    assert!(store.list().await.unwrap().is_empty());
    // It has its name, and its writer has not let go yet.
    writer.finish("a.tar".as_ref()).unwrap();
    assert_eq!(store.list().await.unwrap().len(), 1);
    assert!(matches!(store.delete("a.tar").await, Err(StoreError::InUse { .. })));
    drop(writer);
    // One that writes in place.
    let writing = (store.writing("a.tar"), store.writing("a.tar"));
    drop(writing.0);
    assert!(store.list().await.unwrap().is_empty());
    for error in [
        store.find("a.tar").await.unwrap_err(),
        store.open("a.tar").await.unwrap_err(),
        store.delete("a.tar").await.unwrap_err(),
        store.pin("a.tar").await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::InUse { held: Held::Written, .. }), "{error:?}");
    }
    drop(writing.1);
    store.delete("a.tar").await.unwrap();
}

#[tokio::test]
async fn pinned_archives_stay_until_they_are_unpinned() {
    let folder = tempfile::tempdir().unwrap();
    write_archive(folder.path(), "a.tar", OF, 0);
    let store = Store::at(folder.path()).unwrap();
    let marker = folder.path().join("a.tar.keep");
    assert!(store.pin("a.tar").await.unwrap());
    assert!(!store.pin("a.tar").await.unwrap());
    assert!(marker.exists() && store.find("a.tar").await.unwrap().pinned);
    let error = store.delete("a.tar").await.unwrap_err();
    assert!(matches!(error, StoreError::Pinned { .. }));
    assert!(error.to_string().contains("a.tar.keep"), "{error}");
    assert!(store.unpin("a.tar").await.unwrap());
    assert!(!store.unpin("a.tar").await.unwrap());
    assert!(!marker.exists());
    // Somebody's own note is a pin like any other, and a link is, too.
    std::fs::write(&marker, "keep this for Monday").unwrap();
    assert!(matches!(store.delete("a.tar").await, Err(StoreError::Pinned { .. })));
    assert!(store.unpin("a.tar").await.unwrap());
    symlink("/nowhere", &marker).unwrap();
    assert!(matches!(store.delete("a.tar").await, Err(StoreError::Pinned { .. })));
    assert!(store.unpin("a.tar").await.unwrap());
    store.delete("a.tar").await.unwrap();
    // A pin whose archive is gone can be taken away.
    std::fs::write(&marker, "").unwrap();
    assert!(store.unpin("a.tar").await.unwrap());
    assert!(matches!(store.unpin("a.tar").await, Err(StoreError::Missing { .. })));
}

#[tokio::test]
async fn a_pin_that_a_program_keeps_is_not_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    write_archive(folder.path(), "a.tar", OF, 0);
    let store = Store::at(folder.path()).unwrap();
    let marker = folder.path().join("a.tar.keep");
    let text = r#"{"managedBy":"checkpoint-restore-operator/podrestore",
        "podRestoreOwners":["default/redis-restore"]}"#;
    std::fs::write(&marker, text).unwrap();
    let error = store.unpin("a.tar").await.unwrap_err();
    assert!(matches!(error, StoreError::PinnedBy { .. }), "{error:?}");
    let said = error.to_string();
    for part in ["checkpoint-restore-operator/podrestore", "default/redis-restore"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(std::fs::read_to_string(&marker).unwrap(), text);
    assert!(!store.pin("a.tar").await.unwrap());
    assert_eq!(std::fs::read_to_string(&marker).unwrap(), text);
}
