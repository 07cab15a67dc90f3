//! What archives say about themselves.

use std::ffi::OsStr;
use std::path::Path;

use cryopod_archive::{Archive, ArchiveWriter, BindMount, ConfigDump, Engine, list_dir, to_json};

fn archive(dir: &Path, name: &str, config: &[u8], spec: &[u8]) {
    let mut writer = ArchiveWriter::create(dir).unwrap();
    writer.put("config.dump", config, 0o600).unwrap();
    writer.put("spec.dump", spec, 0o600).unwrap();
    writer.begin("checkpoint/pages-1.img", 0o600, true).unwrap();
    writer.append(&[1; 8192]).unwrap();
    writer.end().unwrap();
    writer.put("checkpoint/parent/pages-1.img", &[2; 4096], 0o600).unwrap();
    writer.put("volumes/pages-1.img", &[2; 4096], 0o600).unwrap();
    writer.put("rootfs-diff.tar", &[0; 1024], 0o600).unwrap();
    writer.finish(OsStr::new(name)).unwrap();
}

#[test]
fn a_directory_lists_archives_by_what_they_say_and_bad_ones_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let config = ConfigDump {
        id: "ab12".into(),
        name: "k8s_counter_web_default_uid_0".into(),
        checkpointed_time: "2026-11-22T10:00:00Z".into(),
        ..ConfigDump::default()
    };
    let spec = br#"{"ociVersion":"1.2.0","annotations":{"io.container.manager":"cri-o",
        "io.kubernetes.pod.name":"web","io.kubernetes.pod.namespace":"default",
        "io.kubernetes.container.name":"counter"}}"#;
    archive(dir.path(), "good.tar", &to_json(&config).unwrap(), spec);
    archive(dir.path(), "nojson.tar", b"{", spec);
    std::fs::write(dir.path().join("empty.tar"), "").unwrap();
    std::fs::write(dir.path().join("note.txt"), "").unwrap();
    std::fs::create_dir(dir.path().join("dir.tar")).unwrap();
    std::os::unix::fs::symlink("good.tar", dir.path().join("link.tar")).unwrap();
    let writing = ArchiveWriter::create(dir.path()).unwrap();

    let list = list_dir(dir.path()).unwrap();
    let names: Vec<_> =
        list.iter().map(|l| l.path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["empty.tar", "good.tar", "nojson.tar"]);
    assert!(list[0].summary.is_err() && list[2].summary.is_err());
    let summary = list[1].summary.as_ref().unwrap();
    assert_eq!(summary.config, config);
    assert_eq!(summary.identity.namespace.as_deref(), Some("default"));
    assert_eq!(summary.identity.pod.as_deref(), Some("web"));
    assert_eq!(summary.identity.container.as_deref(), Some("counter"));
    assert_eq!((summary.memory, summary.rootfs_diff), (8192 + 4096, 1024));
    assert_eq!(summary.engine, Engine::Cryopod);
    drop(writing);
}

#[test]
fn lists_within_an_archive_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let mount = BindMount {
        source: "/a".into(),
        destination: "/b".into(),
        file_type: "directory".into(),
        permissions: 0o755,
    };
    let mut writer = ArchiveWriter::create(dir.path()).unwrap();
    writer.put("bind.mounts", &to_json(&vec![mount.clone()]).unwrap(), 0o600).unwrap();
    writer.put("deleted.files", b"null", 0o600).unwrap();
    let done = writer.finish(OsStr::new("x.tar")).unwrap();
    let archive = Archive::open(&done.path).unwrap();
    assert_eq!(archive.bind_mounts().unwrap(), [mount]);
    assert!(archive.deleted_files().unwrap().is_empty());
    assert!(archive.config().is_err());
}
