//! Changes to a root filesystem: from a real overlay to another.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use cryopod_archive::{
    Limits, Packed, TreeError, pack_upper, remove_deleted, unpack_diff, unpack_tree,
};
use rustix::fs::XattrFlags;

use crate::snapshot::snapshot;
use crate::trees::Mounted;

/// Two lower layers and an upper one, mounted.
struct Overlay {
    dir: tempfile::TempDir,
    mount: Option<Mounted>,
}

impl Overlay {
    fn new(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["bottom", "top", "upper", "work", "merged"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        lower(&dir.path().join("bottom"), &dir.path().join("top"));
        let at = |name: &str| dir.path().join(name).display().to_string();
        let (top, bottom, upper) = (at("top"), at("bottom"), at("upper"));
        let all =
            format!("{options},lowerdir={top}:{bottom},upperdir={upper},workdir={}", at("work"));
        let args = ["-t", "overlay", "overlay", "-o", &all];
        let mount = Some(Mounted::run(&args, &dir.path().join("merged")));
        Self { dir, mount }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn root(&self) -> PathBuf {
        self.path("merged")
    }

    fn pack(&self) -> Result<(Packed, Vec<u8>), TreeError> {
        let lowers: Vec<OwnedFd> =
            ["top", "bottom"].iter().map(|n| File::open(self.path(n)).unwrap().into()).collect();
        let mut bytes = Vec::new();
        let upper = File::open(self.path("upper")).unwrap();
        let packed = pack_upper(upper, &lowers, &[], &mut bytes)?;
        Ok((packed, bytes))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        self.mount.take();
    }
}

/// Equal content in every overlay of a test, times included.
fn lower(bottom: &Path, top: &Path) {
    let write = |layer: &Path, name: &str| {
        let path = layer.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, name).unwrap();
    };
    for name in ["app/config", "app/keep", "gone/a", "gone/b/c", "old/x", "old/sub/y", "old/sub/z"]
    {
        write(bottom, name);
    }
    for name in ["file-to-dir", "dir-to-file/x/y", "lib/one", "lib/two", "both/bottom"] {
        write(bottom, name);
    }
    for name in ["both/top", "old/sub/top", "top-only/x"] {
        write(top, name);
    }
    symlink("app", bottom.join("link")).unwrap();
    // The layer on top hides this one of the layer below.
    write(bottom, "hidden/x");
    std::fs::create_dir_all(top.join("hidden")).unwrap();
    rustix::fs::setxattr(top.join("hidden"), "trusted.overlay.opaque", b"y", XattrFlags::empty())
        .unwrap();
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000);
    for layer in [bottom, top] {
        let mut waiting = vec![layer.to_owned()];
        while let Some(path) = waiting.pop() {
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                waiting.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            }
            File::open(&path).unwrap().set_modified(time).unwrap();
        }
    }
}

/// What a container does to its root.
fn change(root: &Path) {
    std::fs::write(root.join("app/config"), "changed").unwrap();
    std::fs::write(root.join("app/new"), "new").unwrap();
    std::fs::create_dir_all(root.join("fresh/deep")).unwrap();
    std::fs::write(root.join("fresh/deep/f"), "f").unwrap();
    std::fs::remove_dir_all(root.join("gone")).unwrap();
    std::fs::remove_file(root.join("lib/one")).unwrap();
    std::fs::remove_file(root.join("file-to-dir")).unwrap();
    std::fs::create_dir(root.join("file-to-dir")).unwrap();
    std::fs::write(root.join("file-to-dir/in"), "in").unwrap();
    std::fs::remove_dir_all(root.join("dir-to-file")).unwrap();
    std::fs::write(root.join("dir-to-file"), "file").unwrap();
    // Made anew: hides all that was below.
    std::fs::remove_dir_all(root.join("old")).unwrap();
    std::fs::create_dir_all(root.join("old/sub")).unwrap();
    std::fs::write(root.join("old/sub/y"), "new y").unwrap();
    std::fs::remove_dir_all(root.join("hidden")).unwrap();
    std::fs::create_dir(root.join("hidden")).unwrap();
    // Nothing but owner and mode.
    std::fs::set_permissions(root.join("both"), PermissionsExt::from_mode(0o711)).unwrap();
    chown(root.join("top-only/x"), Some(33), Some(34)).unwrap();
    std::fs::remove_file(root.join("link")).unwrap();
    symlink("both", root.join("link")).unwrap();
    std::fs::hard_link(root.join("app/new"), root.join("both/new")).unwrap();
    rustix::fs::setxattr(root.join("app/keep"), "user.note", b"n", XattrFlags::empty()).unwrap();
    std::fs::set_permissions(root, PermissionsExt::from_mode(0o750)).unwrap();
}

#[test]
fn changes_of_an_overlay_make_the_same_root_elsewhere() {
    let from = Overlay::new("redirect_dir=off,metacopy=off,index=off");
    change(&from.root());
    let (packed, bytes) = from.pack().unwrap();
    assert_eq!(packed.notes, []);
    let mut deleted = packed.deleted.clone();
    deleted.sort();
    assert_eq!(deleted, ["/gone", "/lib/one", "/old/sub/top", "/old/sub/z", "/old/x"]);

    let to = Overlay::new("redirect_dir=off,metacopy=off,index=off");
    let root = File::open(to.root()).unwrap();
    let done = unpack_diff(&root, &bytes[..], Limits::default()).unwrap();
    assert_eq!(done.notes, []);
    remove_deleted(&root, &packed.deleted).unwrap();
    let times = |root: PathBuf| -> Vec<(String, String)> {
        // Removing what is deleted changes the times of the directory it was in.
        let tree = snapshot(&root).into_iter();
        let dirs = ["", "lib", "old", "old/sub"];
        tree.map(|(name, line)| {
            let end = if dirs.contains(&name.as_str()) { line.find(" time") } else { None };
            let line = line[..end.unwrap_or(line.len())].to_owned();
            (name, line)
        })
        .collect()
    };
    assert_eq!(times(from.root()), times(to.root()));
}

#[test]
fn an_untouched_overlay_has_no_changes() {
    let overlay = Overlay::new("redirect_dir=off,metacopy=off");
    let (packed, bytes) = overlay.pack().unwrap();
    assert_eq!((packed.entries, packed.deleted.len()), (1, 0));
    assert_eq!(bytes.len(), 512 * 3 + 1024);
}

#[test]
fn an_overlay_that_keeps_parts_of_files_elsewhere_is_refused() {
    let overlay = Overlay::new("redirect_dir=on,metacopy=on");
    chown(overlay.root().join("app/config"), Some(5), None).unwrap();
    let error = overlay.pack().unwrap_err();
    assert!(matches!(&error, TreeError::Layered { path, .. } if path == Path::new("app/config")));

    let overlay = Overlay::new("redirect_dir=on,metacopy=off");
    std::fs::rename(overlay.root().join("lib"), overlay.root().join("lib2")).unwrap();
    let error = overlay.pack().unwrap_err();
    assert!(matches!(&error, TreeError::Layered { path, .. } if path == Path::new("lib2")));
}

#[test]
fn a_layer_with_whiteouts_deletes_what_was_there_before() {
    let overlay = Overlay::new("redirect_dir=off,metacopy=off");
    let mut builder =
        tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let mut file = |name: &str, content: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content.as_bytes()).unwrap();
    };
    file("app/.wh.config", "");
    file("old/new", "new");
    file("old/.wh..wh..opq", "");
    file("old/later", "later");
    file(".wh..wh.plnk", "");
    file(".wh.nothing", "");
    let bytes = builder.into_inner().unwrap().finish().unwrap();
    let root = File::open(overlay.root()).unwrap();
    unpack_diff(&root, &bytes[..], Limits::default()).unwrap();
    let names = |dir: &str| -> Vec<String> {
        let dir = std::fs::read_dir(overlay.root().join(dir)).unwrap();
        let mut names: Vec<_> =
            dir.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names("app"), ["keep"]);
    assert_eq!(names("old"), ["later", "new"]);
    assert!(!overlay.root().join(".wh.nothing").exists());
}

#[test]
fn deleted_files_never_lead_out_of_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("d/e")).unwrap();
    std::fs::write(root.join("d/e/f"), "").unwrap();
    std::fs::write(dir.path().join("outside"), "").unwrap();
    symlink("..", root.join("up")).unwrap();
    symlink(dir.path(), root.join("away")).unwrap();
    let fd = File::open(&root).unwrap();
    for bad in ["../outside", "/../outside", "/d/../../outside", "outside", "", "/", "/d//e", "//d"]
    {
        let error = remove_deleted(&fd, &[bad.to_owned()]).unwrap_err();
        assert!(matches!(error, TreeError::Deleted { .. }), "{bad}");
    }
    for harmless in ["/up/outside", "/away/outside", "/not/there", "/d/e/f/g"] {
        remove_deleted(&fd, &[harmless.to_owned()]).unwrap();
    }
    assert!(dir.path().join("outside").exists());
    remove_deleted(&fd, &["/d".to_owned(), "/up".to_owned()]).unwrap();
    assert!(!root.join("d").exists() && !root.join("up").is_symlink());
    assert!(root.is_dir());
    let _ = unpack_tree(&fd, &[0_u8; 1024][..], Limits::default()).unwrap();
}
