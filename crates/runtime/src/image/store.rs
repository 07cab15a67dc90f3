//! The index of images and how one is found by name.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ImageDefaults, ImageError, ImageInfo, ImageSource, failed, files, folder};
use crate::config::ImageSpec;
use crate::error::RuntimeError;
use crate::record::{load, lock, make_dir, now, save};
use crate::root::RootPlan;

/// Id and name of the host's own programs.
pub(crate) const HOST_ID: &str = "host";

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    /// Digest of the unpacked tar (`sha256:…`).
    pub(crate) diff_id: String,
    /// Digest of the chain of layers up to this one: the name of its folder.
    pub(crate) chain: String,
    /// Digest of the blob as it came.
    pub(crate) blob: String,
    /// Media type of the blob.
    pub(crate) media_type: String,
    /// Bytes of the blob.
    pub(crate) size: u64,
}

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Origin {
    /// Layers, the lowest first, with the digests of manifest and configuration.
    Layers { manifest: String, layers: Vec<Layer> },
    /// A folder.
    Folder(PathBuf),
    /// The host's own programs.
    Host,
}

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) info: ImageInfo,
    pub(crate) defaults: ImageDefaults,
    pub(crate) origin: Origin,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    images: Vec<ImageRecord>,
}

/// The image store in its folder.
#[derive(Debug)]
pub(crate) struct Store {
    pub(super) dir: PathBuf,
}

impl Store {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn index(&self) -> Result<Index, RuntimeError> {
        Ok(load(&self.dir.join("index.json"))?.unwrap_or_default())
    }

    /// Changes the index under its lock.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Index) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        make_dir(&self.dir)?;
        let _lock = lock(&self.dir.join("lock"))?;
        let mut index = self.index()?;
        let result = change(&mut index)?;
        save(&self.dir.join("index.json"), &index)?;
        Ok(result)
    }

    pub(crate) fn list(&self) -> Result<Vec<ImageRecord>, RuntimeError> {
        let mut images = vec![host()];
        images.extend(self.index()?.images);
        Ok(images)
    }

    /// By id, beginning of an id (at least 6 digits), digest or name.
    pub(crate) fn find(&self, reference: &str) -> Result<Option<ImageRecord>, RuntimeError> {
        let images = self.list()?;
        let plain = reference.strip_prefix("sha256:").unwrap_or(reference);
        let named = normalise(reference).ok();
        let by_name = |i: &&ImageRecord| {
            i.info.id == reference
                || i.info.repo_tags.iter().any(|t| t == reference || Some(t) == named.as_ref())
                || i.info.repo_digests.iter().any(|d| d == reference)
        };
        if let Some(image) = images.iter().find(by_name) {
            return Ok(Some(image.clone()));
        }
        if plain.len() < 6 || !plain.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let mut begins = images
            .into_iter()
            .filter(|i| i.info.id.strip_prefix("sha256:").is_some_and(|id| id.starts_with(plain)));
        match (begins.next(), begins.next()) {
            (Some(image), None) => Ok(Some(image)),
            (Some(_), Some(_)) => {
                Err(RuntimeError::Ambiguous { what: "image", id: reference.into() })
            }
            (None, _) => Ok(None),
        }
    }

    /// The image a container is to be made from.
    pub(crate) fn resolve(&self, spec: &ImageSpec) -> Result<ImageRecord, RuntimeError> {
        match spec {
            ImageSpec::Host => Ok(host()),
            ImageSpec::Stored(reference) => self
                .find(reference)?
                .ok_or_else(|| RuntimeError::NotFound { what: "image", id: reference.clone() }),
            ImageSpec::Folder(path) => self.import(&ImageSource::Folder(path.clone()), None),
        }
    }

    /// The image a container was made from.
    pub(crate) fn of_container(
        &self,
        record: &crate::record::ContainerRecord,
    ) -> Result<ImageRecord, RuntimeError> {
        let found = self.list()?.into_iter().find(|i| i.info.id == record.image_id);
        found.ok_or_else(|| RuntimeError::NotFound { what: "image", id: record.image_id.clone() })
    }

    /// The file of a blob.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs").join(digest.replace(':', "-"))
    }

    /// What a root filesystem of the image lies on.
    pub(crate) fn root_plan(&self, image: &ImageRecord) -> RootPlan {
        match &image.origin {
            Origin::Host => RootPlan::Host,
            Origin::Folder(path) => RootPlan::Folder(path.clone()),
            Origin::Layers { layers, .. } => {
                RootPlan::Layers(layers.iter().rev().map(|l| self.layer_dir(&l.chain)).collect())
            }
        }
    }

    /// The folder of an unpacked layer, by its chain.
    pub(crate) fn layer_dir(&self, chain: &str) -> PathBuf {
        self.dir.join("layers").join(chain.replace(':', "-"))
    }

    pub(crate) fn import(
        &self,
        source: &ImageSource,
        name: Option<&str>,
    ) -> Result<ImageRecord, RuntimeError> {
        let record = match source {
            ImageSource::Host => return Ok(host()),
            ImageSource::Folder(path) => folder_record(path, name)?,
            ImageSource::OciLayout(path) => {
                return self.import_files(&files::Folder(path.clone()), name);
            }
            ImageSource::Tar(path) => {
                return self.import_files(&files::Tar::open(path)?, name);
            }
        };
        self.add(record)
    }

    /// Takes a folder that `unpack` fills into the store; its digest must be `id`.
    pub(crate) fn adopt_folder(
        &self,
        id: &str,
        repo_tags: &[String],
        defaults: &ImageDefaults,
        unpack: impl FnOnce(&Path) -> Result<(), RuntimeError>,
    ) -> Result<ImageRecord, RuntimeError> {
        make_dir(&self.dir.join("folders"))?;
        let _importing = lock(&self.dir.join("import.lock"))?;
        let work = self.dir.join("folders").join("import.tmp");
        let target = self.dir.join("folders").join(id.replace(':', "-"));
        let remove = |dir: &Path| match fs::remove_dir_all(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", dir)(e)),
            _ => Ok(()),
        };
        remove(&work)?;
        make_dir(&work)?;
        let adopted = unpack(&work).and_then(|()| {
            let (found, size) = folder::digest(&work)?;
            if found != id {
                let (path, name) = (work.clone(), id.to_owned());
                return Err(ImageError::Damaged { path, name, found }.into());
            }
            remove(&target)?;
            fs::rename(&work, &target).map_err(failed("create", &target))?;
            Ok(size)
        });
        let size = match adopted {
            Ok(size) => size,
            Err(error) => {
                remove(&work)?;
                return Err(error);
            }
        };
        self.add(ImageRecord {
            info: ImageInfo {
                id: id.into(),
                repo_tags: repo_tags.to_vec(),
                repo_digests: Vec::new(),
                size,
                user: defaults.user.clone(),
                imported_at: now(),
                architecture: architecture().into(),
            },
            defaults: defaults.clone(),
            origin: Origin::Folder(target),
        })
    }

    /// Adds an image, or new names to one that is there; a name moves to the newest image.
    pub(crate) fn add(&self, mut record: ImageRecord) -> Result<ImageRecord, RuntimeError> {
        self.change(|index| {
            for image in &mut index.images {
                image.info.repo_tags.retain(|t| !record.info.repo_tags.contains(t));
            }
            let old = index.images.iter().position(|i| i.info.id == record.info.id);
            if let Some(old) = old {
                let old = index.images.remove(old).info;
                for tag in old.repo_tags {
                    if !record.info.repo_tags.contains(&tag) {
                        record.info.repo_tags.push(tag);
                    }
                }
                for digest in old.repo_digests {
                    if !record.info.repo_digests.contains(&digest) {
                        record.info.repo_digests.push(digest);
                    }
                }
            }
            index.images.push(record.clone());
            Ok(record)
        })
    }

    /// Takes an image out of the index. Its layers go when no other image has them.
    pub(crate) fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        if id == HOST_ID {
            return Ok(());
        }
        // What is being imported is not in the index yet.
        make_dir(&self.dir)?;
        let _importing = lock(&self.dir.join("import.lock"))?;
        self.change(|index| {
            index.images.retain(|i| i.info.id != id);
            self.sweep(index)
        })
    }

    /// Removes layers, blobs and folders that no image needs.
    fn sweep(&self, index: &Index) -> Result<(), RuntimeError> {
        let (layers, blobs, folders) = used(&index.images);
        sweep(&self.dir.join("layers"), &layers)?;
        sweep(&self.dir.join("blobs"), &blobs)?;
        sweep(&self.dir.join("folders"), &folders)?;
        Ok(())
    }

    /// Removes what an import that failed has left.
    pub(super) fn clean(&self) -> Result<(), RuntimeError> {
        self.change(|index| self.sweep(index))
    }
}

/// Names of the folders of layers, of the blobs and of the unpacked folders that images need.
fn used(images: &[ImageRecord]) -> (Vec<String>, Vec<String>, Vec<String>) {
    let (mut layer_dirs, mut blobs, mut folders) = (Vec::new(), Vec::new(), Vec::new());
    for image in images {
        folders.push(image.info.id.replace(':', "-"));
        if let Origin::Layers { manifest, layers } = &image.origin {
            blobs.push(manifest.replace(':', "-"));
            blobs.push(image.info.id.replace(':', "-"));
            for layer in layers {
                layer_dirs.push(layer.chain.replace(':', "-"));
                blobs.push(layer.blob.replace(':', "-"));
            }
        }
    }
    (layer_dirs, blobs, folders)
}

fn sweep(dir: &Path, keep: &[String]) -> Result<(), ImageError> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let entry = entry.map_err(failed("list", dir))?;
        if entry.file_name().to_str().is_some_and(|name| keep.iter().any(|k| k == name)) {
            continue;
        }
        let path = entry.path();
        let kind = entry.file_type().map_err(failed("read", &path))?;
        if kind.is_dir() {
            fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
        } else {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}

fn host() -> ImageRecord {
    ImageRecord {
        info: ImageInfo {
            id: HOST_ID.into(),
            repo_tags: vec![HOST_ID.into()],
            repo_digests: Vec::new(),
            size: 0,
            user: String::new(),
            imported_at: 0,
            architecture: architecture().into(),
        },
        defaults: ImageDefaults { cmd: vec!["/bin/sh".into()], ..ImageDefaults::default() },
        origin: Origin::Host,
    }
}

/// The machine's architecture in the words of image descriptions.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn folder_record(path: &Path, name: Option<&str>) -> Result<ImageRecord, ImageError> {
    let path = fs::canonicalize(path).map_err(failed("find", path))?;
    let (id, size) = folder::digest(&path)?;
    let repo_tags = match name {
        Some(name) => vec![normalise(name)?],
        None => vec![path.to_string_lossy().into_owned()],
    };
    Ok(ImageRecord {
        info: ImageInfo {
            id,
            repo_tags,
            repo_digests: Vec::new(),
            size,
            user: String::new(),
            imported_at: now(),
            architecture: architecture().into(),
        },
        defaults: ImageDefaults { cmd: vec!["/bin/sh".into()], ..ImageDefaults::default() },
        origin: Origin::Folder(path),
    })
}

/// A name with its tag: `busybox` becomes `busybox:latest`.
pub(crate) fn normalise(name: &str) -> Result<String, ImageError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-/:".contains(&b);
    let ok = !name.is_empty()
        && name.len() < 256
        && name.bytes().all(allowed)
        && !name.starts_with(['.', '-', '/', ':'])
        && !name.ends_with(['/', ':']);
    if !ok {
        return Err(ImageError::Name { name: name.into() });
    }
    let last = name.rsplit('/').next().unwrap_or(name);
    Ok(if last.contains(':') { name.into() } else { format!("{name}:latest") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_tag_is_the_latest() {
        assert_eq!(normalise("busybox").unwrap(), "busybox:latest");
        assert_eq!(normalise("localhost:5000/a/b").unwrap(), "localhost:5000/a/b:latest");
        assert_eq!(normalise("a:1").unwrap(), "a:1");
        assert!(normalise("/absolute").is_err());
    }

    #[test]
    fn a_folder_is_found_by_its_name_and_the_beginning_of_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("x"), "x").unwrap();
        let store = Store::new(dir.path().join("images"));
        let image = store.import(&ImageSource::Folder(root), Some("mine")).unwrap();
        assert_eq!(store.find("mine").unwrap().unwrap(), image);
        let short = &image.info.id["sha256:".len()..][..12];
        assert_eq!(store.find(short).unwrap().unwrap(), image);
        store.remove(&image.info.id).unwrap();
        assert!(store.find("mine").unwrap().is_none());
        assert!(store.find("host").unwrap().is_some());
    }
}
