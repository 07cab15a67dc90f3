//! The base image in an archive: an OCI image layout below `image/`, or one tar of a folder.

use std::fs::File;
use std::path::Path;

use cryopod_archive::{ArchiveWriter, pack_tree, to_json};
use rustix::fs::{Mode, OFlags};
use serde_json::json;

use super::dump::CheckpointError;
use crate::image::{ImageRecord, Origin, Store, folder_digest};
use crate::manifest::{IMAGE_DIR, IMAGE_TREE};
use crate::record::Layout;

type Result<T> = std::result::Result<T, CheckpointError>;

/// Puts the image into the archive. `check` is asked now and then whether to go on.
pub(super) fn image(
    writer: &mut ArchiveWriter,
    layout: &Layout,
    image: &ImageRecord,
    check: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let refuse = |reason: String| CheckpointError::Image { id: image.info.id.clone(), reason };
    match &image.origin {
        Origin::Host => Err(refuse("the host's own programs are not an image".into())),
        Origin::Folder(path) => folder(writer, path, &image.info.id),
        Origin::Layers { manifest, layers } => {
            let store = Store::new(layout.images());
            let put = |writer: &mut ArchiveWriter, digest: &str| -> Result<u64> {
                let plain = digest.strip_prefix("sha256:").unwrap_or(digest);
                let file = store.blob(digest);
                let mut blob = File::open(&file).map_err(|e| refuse(format!("{file:?}: {e}")))?;
                let size =
                    writer.copy(&format!("{IMAGE_DIR}/blobs/sha256/{plain}"), 0o600, &mut blob)?;
                check()?;
                Ok(size)
            };
            let size = put(writer, manifest)?;
            put(writer, &image.info.id)?;
            let mut done = Vec::new();
            for layer in layers {
                // An image may have the same layer twice.
                if !done.contains(&&layer.blob) {
                    put(writer, &layer.blob)?;
                    done.push(&layer.blob);
                }
            }
            let version = json!({"imageLayoutVersion": "1.0.0"});
            writer.put(&format!("{IMAGE_DIR}/oci-layout"), &to_json(&version)?, 0o600)?;
            let index = json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": [{
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": manifest,
                    "size": size,
                }],
            });
            writer.put(&format!("{IMAGE_DIR}/index.json"), &to_json(&index)?, 0o600)?;
            Ok(())
        }
    }
}

fn folder(writer: &mut ArchiveWriter, path: &Path, id: &str) -> Result<()> {
    let refuse = |reason: String| CheckpointError::Image { id: id.into(), reason };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| refuse(format!("{path:?}: {e}")))?;
    writer.begin(IMAGE_TREE, 0o600, false)?;
    let packed = pack_tree(&dir, &[], &mut writer.data())
        .map_err(|source| CheckpointError::Tree { what: "base image", source })?;
    writer.end()?;
    if let Some(note) = packed.notes.first() {
        return Err(refuse(format!("{path:?} holds what a tar cannot: {:?}", note.path)));
    }
    let (found, _) = folder_digest(path).map_err(|e| refuse(crate::wire::chain(&e)))?;
    if found != id {
        return Err(refuse(format!(
            "{path:?} has changed since it was imported: it is {found} now"
        )));
    }
    Ok(())
}
