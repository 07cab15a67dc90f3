//! Images of layers: OCI image layouts and docker archives.
//!
//! Every blob is checked against its digest and every layer against the digest of its content. A
//! layer is unpacked on an overlay of those below it, so that the kernel itself turns its deletions
//! into whiteouts; its folder is therefore named by the whole chain of layers up to it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cryopod_archive::{Limits, unpack_diff};
use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::read::GzEncoder;
use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::files::Files;
use super::store::{Layer, architecture, normalise};
use super::{ImageDefaults, ImageError, ImageInfo, ImageRecord, Origin, Store, failed};
use crate::error::RuntimeError;
use crate::record::{hex, make_dir, now};
use crate::root::RootPlan;

/// Largest description (index, manifest, configuration).
const JSON_MAX: u64 = 16 << 20;

/// `manifest.json` of a docker archive.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

struct Reader<'a> {
    files: &'a dyn Files,
}

impl Reader<'_> {
    fn malformed(&self, name: &str, reason: impl std::fmt::Display) -> ImageError {
        ImageError::Malformed {
            path: self.files.path().into(),
            name: name.into(),
            reason: reason.to_string(),
        }
    }

    fn unsupported(&self, what: impl Into<String>) -> ImageError {
        ImageError::Unsupported { path: self.files.path().into(), what: what.into() }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(file) = self.files.open(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(JSON_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(failed("read", self.files.path().join(name)))?;
        if bytes.len() as u64 > JSON_MAX {
            return Err(self.malformed(name, "it is too large"));
        }
        Ok(Some(bytes))
    }

    fn missing(&self, name: &str) -> ImageError {
        ImageError::Missing { path: self.files.path().into(), name: name.into() }
    }

    fn json<T: DeserializeOwned>(&self, name: &str, bytes: &[u8]) -> Result<T, ImageError> {
        serde_json::from_slice(bytes).map_err(|e| self.malformed(name, e))
    }

    /// A description by its digest.
    fn described(&self, digest: &str) -> Result<Vec<u8>, ImageError> {
        let name = self.blob_name(digest)?;
        let bytes = self.read(&name)?.ok_or_else(|| self.missing(&name))?;
        let found = digest_of(&bytes);
        if found != digest {
            return Err(ImageError::Damaged { path: self.files.path().into(), name, found });
        }
        Ok(bytes)
    }

    fn blob_name(&self, digest: &str) -> Result<String, ImageError> {
        match digest.strip_prefix("sha256:") {
            Some(hex) if crate::record::is_id(hex) => Ok(format!("blobs/sha256/{hex}")),
            _ => Err(self.unsupported(format!("digest {digest:?}"))),
        }
    }
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(Sha256::digest(bytes).as_slice()))
}

/// Where a blob of the image to be made lies in the source.
struct Plan {
    manifest: Vec<u8>,
    manifest_digest: String,
    config: Vec<u8>,
    config_digest: String,
    /// Name in the source, digest if it is known, and media type.
    layers: Vec<(String, Option<String>, String)>,
    tags: Vec<String>,
}

impl Store {
    /// Takes an image of layers into the store.
    pub(crate) fn import_files(
        &self,
        files: &dyn Files,
        name: Option<&str>,
    ) -> Result<ImageRecord, RuntimeError> {
        make_dir(&self.dir)?;
        // Nobody sweeps away what is not in the index yet.
        let _importing = crate::record::lock(&self.dir.join("import.lock"))?;
        let reader = Reader { files };
        let built = plan(&reader).and_then(|plan| self.build(&reader, plan, name));
        match built {
            Ok(record) => self.add(record),
            Err(error) => {
                self.clean()?;
                Err(error.into())
            }
        }
    }

    fn build(
        &self,
        reader: &Reader<'_>,
        plan: Plan,
        name: Option<&str>,
    ) -> Result<ImageRecord, ImageError> {
        let config: ImageConfiguration = reader.json("configuration", &plan.config)?;
        let machine = architecture();
        if config.architecture().to_string() != machine {
            return Err(reader.unsupported(format!(
                "an image for {} on a machine of {machine}",
                config.architecture()
            )));
        }
        let diff_ids = config.rootfs().diff_ids();
        if diff_ids.len() != plan.layers.len() {
            return Err(reader.malformed("configuration", "it has another number of layers"));
        }
        let mut size = self.keep(&plan.config_digest, &plan.config)?;
        let mut layers: Vec<Layer> = Vec::new();
        for ((source, digest, media_type), diff_id) in plan.layers.iter().zip(diff_ids) {
            let (blob, bytes) = self.keep_layer(reader, source, digest.as_deref())?;
            let chain = match layers.last() {
                Some(below) => digest_of(format!("{} {diff_id}", below.chain).as_bytes()),
                None => diff_id.clone(),
            };
            let below: Vec<PathBuf> =
                layers.iter().rev().map(|l| self.layer_dir(&l.chain)).collect();
            self.unpack(reader, &blob, diff_id, &chain, below)?;
            size += bytes;
            layers.push(Layer {
                diff_id: diff_id.clone(),
                chain,
                blob,
                media_type: media_type.clone(),
                size: bytes,
            });
        }
        let (manifest, manifest_digest) = if plan.manifest.is_empty() {
            self.describe(&plan, &layers)?
        } else {
            (plan.manifest, plan.manifest_digest)
        };
        size += self.keep(&manifest_digest, &manifest)?;
        let mut repo_tags = Vec::new();
        match name {
            Some(name) => repo_tags.push(normalise(name)?),
            None => {
                for tag in &plan.tags {
                    repo_tags.push(normalise(tag)?);
                }
            }
        }
        let repo_digests = repo_tags
            .iter()
            .map(|tag| {
                let end = tag.rfind(':').unwrap_or(tag.len());
                format!("{}@{manifest_digest}", &tag[..end])
            })
            .collect();
        let defaults = defaults(&config);
        Ok(ImageRecord {
            info: ImageInfo {
                id: plan.config_digest,
                repo_tags,
                repo_digests,
                size,
                user: defaults.user.clone(),
                imported_at: now(),
                architecture: machine.into(),
            },
            defaults,
            origin: Origin::Layers { manifest: manifest_digest, layers },
        })
    }

    /// A manifest for an image that came without one.
    fn describe(&self, plan: &Plan, layers: &[Layer]) -> Result<(Vec<u8>, String), ImageError> {
        let layers: Vec<serde_json::Value> = layers
            .iter()
            .map(|l| {
                serde_json::json!({"mediaType": l.media_type, "digest": l.blob, "size": l.size})
            })
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": plan.config_digest,
                "size": plan.config.len(),
            },
            "layers": layers,
        });
        let bytes = serde_json::to_vec(&manifest)
            .map_err(|e| failed("describe", &self.dir)(io::Error::from(e)))?;
        let digest = digest_of(&bytes);
        Ok((bytes, digest))
    }

    /// Keeps a small blob.
    fn keep(&self, digest: &str, bytes: &[u8]) -> Result<u64, ImageError> {
        let path = self.blob(digest);
        let dir = self.dir.join("blobs");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(failed("create", dir))?;
        crate::record::replace(&path, bytes).map_err(failed("write", path))?;
        Ok(bytes.len() as u64)
    }

    /// Keeps the blob of a layer: its digest and size.
    fn keep_layer(
        &self,
        reader: &Reader<'_>,
        source: &str,
        digest: Option<&str>,
    ) -> Result<(String, u64), ImageError> {
        let from = reader.files.path().join(source);
        let mut input = reader.files.open(source)?.ok_or_else(|| reader.missing(source))?;
        let temporary = self.dir.join("blobs").join(format!("import-{}.tmp", std::process::id()));
        let kept = (|| {
            let mut out = File::create(&temporary).map_err(failed("create", &temporary))?;
            let mut hasher = Sha256::new();
            let mut buffer = vec![0; 256 << 10];
            let mut size = 0;
            loop {
                let count = input.read(&mut buffer).map_err(failed("read", &from))?;
                if count == 0 {
                    break;
                }
                hasher.update(&buffer[..count]);
                out.write_all(&buffer[..count]).map_err(failed("write", &temporary))?;
                size += count as u64;
            }
            out.sync_data().map_err(failed("write", &temporary))?;
            let found = format!("sha256:{}", hex(hasher.finalize().as_slice()));
            if digest.is_some_and(|d| d != found) {
                let (path, name) = (reader.files.path().into(), source.into());
                return Err(ImageError::Damaged { path, name, found });
            }
            let path = self.blob(&found);
            fs::rename(&temporary, &path).map_err(failed("write", path))?;
            Ok((found, size))
        })();
        if kept.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        kept
    }

    /// Unpacks a layer over those below it, unless it is there.
    fn unpack(
        &self,
        reader: &Reader<'_>,
        blob: &str,
        diff_id: &str,
        chain: &str,
        below: Vec<PathBuf>,
    ) -> Result<(), ImageError> {
        let target = self.layer_dir(chain);
        if target.exists() {
            return Ok(());
        }
        let work = self.dir.join("layers").join("import.tmp");
        let made = self.unpack_in(reader, blob, diff_id, below, &work).and_then(|()| {
            fs::rename(work.join("upper"), &target).map_err(failed("create", target))
        });
        let _ = fs::remove_dir_all(&work);
        made
    }

    fn unpack_in(
        &self,
        reader: &Reader<'_>,
        blob: &str,
        diff_id: &str,
        below: Vec<PathBuf>,
        work: &Path,
    ) -> Result<(), ImageError> {
        let _ = fs::remove_dir_all(work);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(work)
            .map_err(failed("create", work))?;
        let first = below.is_empty();
        let root = RootPlan::Layers(below);
        root.prepare(work).map_err(|e| ImageError::Io {
            action: e.action,
            path: e.path,
            source: e.source,
        })?;
        let upper = work.join("upper");
        fs::set_permissions(&upper, fs::Permissions::from_mode(0o755))
            .map_err(failed("set the mode of", &upper))?;
        let tree: OwnedFd = if first {
            File::open(&upper).map_err(failed("open", &upper))?.into()
        } else {
            root.overlay(work).map_err(failed("mount overlayfs for", work))?
        };
        let path = self.blob(blob);
        let file = File::open(&path).map_err(failed("open", &path))?;
        let mut magic = [0; 4];
        let count = file.read_at(&mut magic, 0).map_err(failed("read", &path))?;
        if magic[..count].starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            return Err(reader.unsupported("a layer compressed with zstd"));
        }
        let input: Box<dyn Read> = if magic[..count].starts_with(&[0x1f, 0x8b]) {
            Box::new(MultiGzDecoder::new(io::BufReader::with_capacity(256 << 10, file)))
        } else {
            Box::new(file)
        };
        let mut hashing = Hashing { input, hasher: Sha256::new() };
        // Deletions are looked for in gzip streams only, which is what layers usually are; a plain
        // one is wrapped without being compressed.
        let wrapped = GzEncoder::new(&mut hashing, Compression::none());
        let damaged = |reason: String| reader.malformed(blob, reason);
        unpack_diff(&tree, wrapped, Limits::default())
            .map_err(|e| damaged(crate::wire::chain(&e)))?;
        // What follows the end mark counts too.
        io::copy(&mut hashing, &mut io::sink()).map_err(failed("read", &path))?;
        let found = format!("sha256:{}", hex(hashing.hasher.finalize().as_slice()));
        if found != diff_id {
            return Err(ImageError::Damaged {
                path: reader.files.path().into(),
                name: format!("layer {diff_id}"),
                found,
            });
        }
        Ok(())
    }
}

/// Computes the digest of all that is read through it.
struct Hashing {
    input: Box<dyn Read>,
    hasher: Sha256,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

fn defaults(config: &ImageConfiguration) -> ImageDefaults {
    let Some(config) = config.config() else { return ImageDefaults::default() };
    ImageDefaults {
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        cmd: config.cmd().clone().unwrap_or_default(),
        env: config.env().clone().unwrap_or_default(),
        working_dir: config.working_dir().clone().unwrap_or_default().into(),
        user: config.user().clone().unwrap_or_default(),
        stop_signal: config.stop_signal().clone().unwrap_or_default(),
    }
}

/// Finds out what the image is made of.
fn plan(reader: &Reader<'_>) -> Result<Plan, ImageError> {
    let docker = reader.read("manifest.json")?;
    let Some(index) = reader.read("index.json")? else {
        let Some(docker) = docker else {
            return Err(ImageError::NotAnImage { path: reader.files.path().into() });
        };
        return docker_plan(reader, &docker);
    };
    let index: ImageIndex = reader.json("index.json", &index)?;
    let mut tags: Vec<String> = Vec::new();
    let (digest, bytes) = choose(reader, &index, &mut tags, 0)?;
    let manifest: ImageManifest = reader.json("manifest", &bytes)?;
    if let Some(docker) = docker
        && let Ok(images) = reader.json::<Vec<DockerImage>>("manifest.json", &docker)
        && let Some(named) = images.into_iter().find_map(|i| i.repo_tags.filter(|t| !t.is_empty()))
    {
        tags = named;
    }
    let config_digest = manifest.config().digest().to_string();
    let config = reader.described(&config_digest)?;
    let layers = manifest
        .layers()
        .iter()
        .map(|layer| {
            let digest = layer.digest().to_string();
            let name = reader.blob_name(&digest)?;
            Ok((name, Some(digest), layer.media_type().to_string()))
        })
        .collect::<Result<_, ImageError>>()?;
    Ok(Plan { manifest: bytes, manifest_digest: digest, config, config_digest, layers, tags })
}

/// The manifest of this machine's platform: its digest and bytes.
fn choose(
    reader: &Reader<'_>,
    index: &ImageIndex,
    tags: &mut Vec<String>,
    depth: u32,
) -> Result<(String, Vec<u8>), ImageError> {
    let fits = |d: &&oci_spec::image::Descriptor| match d.platform() {
        Some(p) => p.architecture().to_string() == architecture() && p.os().to_string() == "linux",
        None => true,
    };
    let found = index.manifests().iter().find(fits).ok_or_else(|| {
        reader.unsupported(format!("an image without a variant for {}", architecture()))
    })?;
    let annotations = found.annotations().clone().unwrap_or_default();
    for key in ["io.containerd.image.name", "org.opencontainers.image.ref.name"] {
        // A reference may be a bare tag, which says nothing without a name.
        if let Some(name) = annotations.get(key).filter(|n| n.contains([':', '/'])) {
            tags.push(name.clone());
            break;
        }
    }
    let digest = found.digest().to_string();
    let bytes = reader.described(&digest)?;
    let is_index = found.media_type().to_string().contains("index")
        || found.media_type().to_string().contains("manifest.list");
    if !is_index {
        return Ok((digest, bytes));
    }
    if depth > 3 {
        return Err(reader.malformed("index.json", "its indexes are nested too deeply"));
    }
    choose(reader, &reader.json("index", &bytes)?, tags, depth + 1)
}

fn docker_plan(reader: &Reader<'_>, bytes: &[u8]) -> Result<Plan, ImageError> {
    let images: Vec<DockerImage> = reader.json("manifest.json", bytes)?;
    let image = images
        .into_iter()
        .next()
        .ok_or_else(|| reader.malformed("manifest.json", "it names no image"))?;
    let config = reader.read(&image.config)?.ok_or_else(|| reader.missing(&image.config))?;
    let media = "application/vnd.oci.image.layer.v1.tar";
    Ok(Plan {
        manifest: Vec::new(),
        manifest_digest: String::new(),
        config_digest: digest_of(&config),
        config,
        layers: image.layers.into_iter().map(|l| (l, None, media.into())).collect(),
        tags: image.repo_tags.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::files::{Folder, Tar};
    use super::*;
    use serde_json::json;

    fn layer(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        GzEncoder::new(bytes, Compression::fast()).read_to_end(&mut out).unwrap();
        out
    }

    /// A docker archive of two layers, the second of which deletes a file of the first.
    fn docker_archive() -> Vec<u8> {
        let (a, b) = (
            layer(&[("etc/kept", "kept"), ("etc/gone", "gone")]),
            layer(&[("etc/.wh.gone", ""), ("etc/new", "new")]),
        );
        let config = json!({"architecture": architecture(), "os": "linux",
            "config": {"Cmd": ["/bin/app"], "Env": ["A=1"], "User": "7", "WorkingDir": "/etc"},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(&a), digest_of(&b)]},
            "history": []})
        .to_string();
        let manifest = json!([{"Config": "config.json", "RepoTags": ["app:1"],
            "Layers": ["a/layer.tar", "b/layer.tar"]}])
        .to_string();
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in [
            ("manifest.json", manifest.as_bytes()),
            ("config.json", config.as_bytes()),
            ("a/layer.tar", &a),
            ("b/layer.tar", &b),
        ] {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append_data(&mut header, name, content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn look(store: &Store, image: &ImageRecord) -> (tempfile::TempDir, PathBuf, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let plan = store.root_plan(image);
        plan.prepare(dir.path()).unwrap();
        let root = plan.overlay(dir.path()).unwrap();
        use std::os::fd::AsRawFd;
        let path = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        (dir, path, root)
    }

    #[test]
    fn a_docker_archive_becomes_an_image_whose_layers_delete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.tar");
        for bytes in [docker_archive(), gzip(&docker_archive())] {
            fs::write(&path, bytes).unwrap();
            let store = Store::new(dir.path().join("images"));
            let image = store.import_files(&Tar::open(&path).unwrap(), None).unwrap();
            assert_eq!(image.info.repo_tags, ["app:1"]);
            assert_eq!(image.defaults.cmd, ["/bin/app"]);
            assert_eq!((image.defaults.user.as_str(), image.info.user.as_str()), ("7", "7"));
            let (_bundle, root, _mount) = look(&store, &image);
            assert_eq!(fs::read_to_string(root.join("etc/kept")).unwrap(), "kept");
            assert_eq!(fs::read_to_string(root.join("etc/new")).unwrap(), "new");
            assert!(!root.join("etc/gone").exists() && !root.join("etc/.wh.gone").exists());
        }
    }

    #[test]
    fn an_oci_layout_is_imported_by_digest_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let layout = dir.path().join("layout");
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let put = |bytes: &[u8]| {
            let digest = digest_of(bytes);
            fs::write(blobs.join(&digest["sha256:".len()..]), bytes).unwrap();
            digest
        };
        let plain = layer(&[("hello", "world")]);
        let packed = gzip(&plain);
        let layer_digest = put(&packed);
        let config = json!({"architecture": architecture(), "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest_of(&plain)]}, "history": []})
        .to_string();
        let config_digest = put(config.as_bytes());
        let manifest = json!({"schemaVersion": 2,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest, "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": layer_digest, "size": packed.len()}]})
        .to_string();
        let manifest_digest = put(manifest.as_bytes());
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest_digest, "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "registry/app:2"}}]});
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let store = Store::new(dir.path().join("images"));
        let image = store.import_files(&Folder(layout.clone()), None).unwrap();
        assert_eq!(image.info.id, config_digest);
        assert_eq!(image.info.repo_digests, [format!("registry/app@{manifest_digest}")]);
        let (_bundle, root, mount) = look(&store, &image);
        assert_eq!(fs::read_to_string(root.join("hello")).unwrap(), "world");
        drop(mount);
        store.remove(&image.info.id).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("images/layers")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(dir.path().join("images/blobs")).unwrap().count(), 0);
        let file = blobs.join(&layer_digest["sha256:".len()..]);
        fs::write(file, gzip(b"something else")).unwrap();
        let error = store.import_files(&Folder(layout), None).unwrap_err();
        assert!(error.to_string().contains("is damaged"), "{error}");
        assert!(store.find(&config_digest).unwrap().is_none());
    }
}
