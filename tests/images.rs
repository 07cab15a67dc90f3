//! `run --image`: OCI image layouts and image tars of this machine, as users bring them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Node, stdout, wait_for};

/// Makes a root filesystem of a shell, `sleep` and `cat`, with the libraries `ldd` names.
pub(crate) fn make_root(root: &Path) {
    for program in ["/bin/sh", "/bin/sleep", "/bin/cat"] {
        copy_into(root, Path::new(program));
        let output = Command::new("ldd").arg(program).output().unwrap();
        let text = stdout(&output);
        for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
            copy_into(root, Path::new(library));
        }
    }
}

fn copy_into(root: &Path, path: &Path) {
    let to = root.join(path.strip_prefix("/").unwrap());
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(path, to).unwrap();
}

fn digest(bytes: &[u8]) -> String {
    let sum = Sha256::digest(bytes);
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tar of a folder.
fn tar_of(folder: &Path) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    builder.append_dir_all(".", folder).unwrap();
    builder.into_inner().unwrap()
}

/// What an image says about its program.
fn config(layer: &[u8]) -> Value {
    json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": ["PATH=/bin", "FROM=image"],
            "Entrypoint": ["/bin/sh", "-c"],
            "Cmd": ["echo $FROM from $PWD; echo $MORE"],
            "WorkingDir": "/work",
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(layer))]},
    })
}

/// Writes an OCI image layout with one layer.
fn oci_layout(folder: &Path, layer: &[u8]) {
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8], kind: &str| {
        std::fs::write(blobs.join(digest(bytes)), bytes).unwrap();
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{}", digest(bytes)),
            "size": bytes.len(),
        })
    };
    let layer_entry = put(layer, "layer.v1.tar");
    let config_entry = put(config(layer).to_string().as_bytes(), "config.v1+json");
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config_entry,
        "layers": [layer_entry],
    });
    let entry = put(manifest.to_string().as_bytes(), "manifest.v1+json");
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
    std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// Writes what `docker save` writes.
pub(crate) fn docker_archive(path: &Path, layer: &[u8]) {
    let config = config(layer).to_string();
    let config_name = format!("{}.json", digest(config.as_bytes()));
    let manifest = json!([{
        "Config": config_name,
        "RepoTags": ["tests/shell:1"],
        "Layers": ["layer/layer.tar"],
    }]);
    let mut builder = tar::Builder::new(std::fs::File::create(path).unwrap());
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    put("layer/layer.tar", layer);
    put(&config_name, config.as_bytes());
    put("manifest.json", manifest.to_string().as_bytes());
    builder.finish().unwrap();
}

pub(crate) fn layer(folder: &Path) -> Vec<u8> {
    let root: PathBuf = folder.join("image-root");
    make_root(&root);
    std::fs::create_dir(root.join("work")).unwrap();
    tar_of(&root)
}

fn log_of(node: &Node, name: &str) -> String {
    wait_for("the container's end", || {
        let all = node.ps();
        let one = all.iter().find(|one| one["container"] == name)?;
        (one["state"] == "exited").then_some(())
    });
    node.ok(["logs", &format!("default/{name}")])
}

#[test]
fn an_image_layout_brings_its_program_environment_and_folder() {
    let node = Node::start();
    let layout = node.folder().join("layout");
    oci_layout(&layout, &layer(node.folder()));
    let layout = layout.to_str().unwrap();
    node.ok(["run", "--image", layout, "--name", "a", "--env", "MORE=mine"]);
    assert_eq!(log_of(&node, "a"), "image from /work\nmine\n");
    // Given words replace all of the image's, and a given variable the image's.
    let told = "echo other $FROM; echo x > /x; read a < /x; echo $a";
    node.ok(["run", "--image", layout, "--name", "b", "--env", "FROM=me", "--"]
        .into_iter()
        .chain(["/bin/sh", "-c", told]));
    assert_eq!(log_of(&node, "b"), "other me\nx\n");
}

#[test]
fn an_image_tar_is_known_by_its_name_afterwards() {
    let node = Node::start();
    let path = node.folder().join("image.tar");
    docker_archive(&path, &layer(node.folder()));
    node.ok(["run", "--image", path.to_str().unwrap(), "--name", "a"]);
    assert_eq!(log_of(&node, "a"), "image from /work\n\n");
    std::fs::remove_file(&path).unwrap();
    node.ok(["run", "--image", "tests/shell:1", "--name", "b"]);
    assert_eq!(log_of(&node, "b"), "image from /work\n\n");
    let text = node.fails(3, ["run", "--image", "tests/other:1", "--name", "c"]);
    assert!(text.contains("tests/other:1"), "{text}");
}

#[test]
fn what_is_no_image_is_refused_and_not_kept() {
    let node = Node::start();
    let path = node.folder().join("file");
    std::fs::write(&path, vec![9; 5000]).unwrap();
    let output = node.run(["run", "--image", path.to_str().unwrap(), "--name", "c"]);
    assert!(!output.status.success());
    assert!(node.ps().is_empty());
    node.fails(1, ["run", "--image", "./not-there", "--name", "c"]);
}
