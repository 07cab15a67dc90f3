//! The small entries of an archive and what they say: CRI-O's layout, containerd's and podman's
//! where they differ. All are JSON that anybody may have made; unknown fields are left alone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::reader::{Archive, ReadError};

/// Names of an archive's entries.
pub mod names {
    /// [`ConfigDump`](super::ConfigDump).
    pub const CONFIG: &str = "config.dump";
    /// The container's OCI runtime specification, JSON.
    pub const SPEC: &str = "spec.dump";
    /// The directory of CRIU's images.
    pub const IMAGES: &str = "checkpoint";
    /// Changes to the root filesystem, a tar ([`crate::pack_upper`]).
    pub const ROOTFS_DIFF: &str = "rootfs-diff.tar";
    /// Paths removed from the root filesystem, a JSON list of strings.
    pub const DELETED_FILES: &str = "deleted.files";
    /// The container's bind mounts, a JSON list of [`BindMount`](super::BindMount).
    pub const BIND_MOUNTS: &str = "bind.mounts";
    /// Figures of the dump, one of CRIU's images.
    pub const STATS: &str = "stats-dump";
    /// What the engine logged during the dump.
    pub const DUMP_LOG: &str = "dump.log";
    /// The container's log, as CRI-O names it.
    pub const LOG: &str = "io.kubernetes.cri-o.LogPath";
    /// The container's log, as containerd names it.
    pub const LOG_CONTAINERD: &str = "container.log";
    /// The container's CRI status; containerd's archives have it.
    pub const STATUS: &str = "status.dump";
}

/// Bytes that a metadata entry may have.
pub const MAX_METADATA: u64 = 64 << 20;

/// Go's zero time, which stands for "never" in [`ConfigDump`].
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// `config.dump`: the container and when it was taken. Times are RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigDump {
    /// The container's id.
    pub id: String,
    /// Its name at the runtime; with CRI-O `k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT`.
    pub name: String,
    /// The image as it was asked for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rootfs_image: String,
    /// The image's id (64 hexadecimal digits) or `repository@sha256:…`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rootfs_image_ref: String,
    /// A name of the image.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rootfs_image_name: String,
    /// The runtime that ran it.
    #[serde(rename = "runtime", skip_serializing_if = "String::is_empty")]
    pub oci_runtime: String,
    /// When the container was made.
    pub created_time: String,
    /// When the checkpoint was taken.
    pub checkpointed_time: String,
    /// When the container was restored, if it was.
    pub restored_time: String,
    /// Whether the container had come from a checkpoint itself.
    pub restored: bool,
}

impl Default for ConfigDump {
    fn default() -> Self {
        Self {
            id: String::new(),
            name: String::new(),
            rootfs_image: String::new(),
            rootfs_image_ref: String::new(),
            rootfs_image_name: String::new(),
            oci_runtime: String::new(),
            created_time: ZERO_TIME.to_owned(),
            checkpointed_time: ZERO_TIME.to_owned(),
            restored_time: ZERO_TIME.to_owned(),
            restored: false,
        }
    }
}

/// One bind mount of `bind.mounts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindMount {
    /// Path on the host. Never to be trusted when restoring.
    pub source: String,
    /// Path in the container.
    pub destination: String,
    /// `file` or `directory`.
    pub file_type: String,
    /// Permission bits of the source.
    pub permissions: u32,
}

/// Who made an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Cryopod.
    Cryopod,
    /// CRI-O.
    #[serde(rename = "cri-o")]
    CriO,
    /// containerd.
    Containerd,
    /// podman.
    Podman,
}

/// Whose checkpoint an archive is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Identity {
    /// The pod's namespace.
    pub namespace: Option<String>,
    /// The pod.
    pub pod: Option<String>,
    /// The container.
    pub container: Option<String>,
}

/// What an archive says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// `config.dump`.
    pub config: ConfigDump,
    /// Whose it is.
    pub identity: Identity,
    /// Who made it.
    pub engine: Engine,
    /// Bytes of page data.
    pub memory: u64,
    /// Bytes of changes to the root filesystem.
    pub rootfs_diff: u64,
}

/// Why an archive's metadata cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The archive or the entry cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An entry is not the JSON it should be.
    #[error("{path}: entry {name:?} cannot be understood")]
    Json {
        /// The archive.
        path: PathBuf,
        /// The entry.
        name: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SpecHead {
    annotations: Option<BTreeMap<String, String>>,
}

/// A metadata entry's bytes: JSON with two blanks to a level, as the other engines write it.
///
/// # Errors
/// When the value has no JSON form.
pub fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec_pretty(value)
}

impl Archive {
    /// `config.dump`.
    ///
    /// # Errors
    /// When it is missing, damaged or not what it should be.
    pub fn config(&self) -> Result<ConfigDump, MetadataError> {
        self.json(names::CONFIG, &self.read(names::CONFIG, MAX_METADATA)?)
    }

    /// The annotations of `spec.dump`.
    ///
    /// # Errors
    /// When it is missing, damaged or not what it should be.
    pub fn annotations(&self) -> Result<BTreeMap<String, String>, MetadataError> {
        Ok(self.spec::<SpecHead>()?.annotations.unwrap_or_default())
    }

    /// Parts of `spec.dump`, the OCI specification.
    ///
    /// # Errors
    /// When it is missing, damaged or not what it should be.
    pub fn spec<T: serde::de::DeserializeOwned>(&self) -> Result<T, MetadataError> {
        self.json(names::SPEC, &self.read(names::SPEC, MAX_METADATA)?)
    }

    /// Whose checkpoint it is, as far as the archive says. `config.dump` may be missing.
    ///
    /// # Errors
    /// When `spec.dump` is missing, or an entry is damaged or not what it should be.
    pub fn identity(&self) -> Result<Identity, MetadataError> {
        let config = match self.read_optional(names::CONFIG, MAX_METADATA)? {
            Some(bytes) => self.json(names::CONFIG, &bytes)?,
            None => ConfigDump::default(),
        };
        Ok(identity(&config, &self.annotations()?))
    }

    /// `deleted.files`: paths in the container; none when there is no such entry.
    ///
    /// # Errors
    /// When it is damaged or not what it should be.
    pub fn deleted_files(&self) -> Result<Vec<String>, MetadataError> {
        self.list(names::DELETED_FILES)
    }

    /// `bind.mounts`; none when there is no such entry.
    ///
    /// # Errors
    /// When it is damaged or not what it should be.
    pub fn bind_mounts(&self) -> Result<Vec<BindMount>, MetadataError> {
        self.list(names::BIND_MOUNTS)
    }

    /// What the archive says about itself.
    ///
    /// # Errors
    /// When `config.dump` or `spec.dump` is missing, damaged or not what it should be.
    pub fn summary(&self) -> Result<Summary, MetadataError> {
        let config = self.config()?;
        let annotations = self.annotations()?;
        let size = |name: &str| self.entry(name).map_or(0, |entry| entry.size);
        let pages = |name: &str| {
            let mut parts = name.rsplit('/');
            let image = parts.next().unwrap_or_default();
            parts.next_back() == Some(names::IMAGES) && image.starts_with("pages-")
        };
        let memory = self.entries().iter().filter(|entry| pages(&entry.name));
        let engine = match annotations.get("io.container.manager").map(String::as_str) {
            Some("cryopod") => Engine::Cryopod,
            Some("cri-o") if self.id().is_some() => Engine::Cryopod,
            Some("cri-o") => Engine::CriO,
            Some("libpod") => Engine::Podman,
            _ if self.id().is_some() => Engine::Cryopod,
            _ => Engine::Containerd,
        };
        Ok(Summary {
            identity: identity(&config, &annotations),
            engine,
            memory: memory.map(|entry| entry.size).sum(),
            rootfs_diff: size(names::ROOTFS_DIFF),
            config,
        })
    }

    fn list<T: serde::de::DeserializeOwned>(
        &self,
        name: &'static str,
    ) -> Result<Vec<T>, MetadataError> {
        match self.read_optional(name, MAX_METADATA)? {
            // Go writes an empty list as null.
            Some(bytes) => Ok(self.json::<Option<Vec<T>>>(name, &bytes)?.unwrap_or_default()),
            None => Ok(Vec::new()),
        }
    }

    fn json<T: serde::de::DeserializeOwned>(
        &self,
        name: &'static str,
        bytes: &[u8],
    ) -> Result<T, MetadataError> {
        serde_json::from_slice(bytes).map_err(|source| MetadataError::Json {
            path: self.path().to_owned(),
            name,
            source,
        })
    }
}

/// From the annotations of containerd, the labels that CRI-O keeps in one annotation, or
/// annotations named like those labels, in this order, which is that of other readers; otherwise
/// from the name.
fn identity(config: &ConfigDump, annotations: &BTreeMap<String, String>) -> Identity {
    let labels: BTreeMap<String, String> = annotations
        .get("io.kubernetes.cri-o.Labels")
        .and_then(|json| serde_json::from_str(json).ok())
        .unwrap_or_default();
    let first = |containerd: &str, label: &str| {
        let found = annotations.get(containerd).or_else(|| labels.get(label));
        found.or_else(|| annotations.get(label)).cloned()
    };
    let mut identity = Identity {
        namespace: first("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"),
        pod: first("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"),
        container: first("io.kubernetes.cri.container-name", "io.kubernetes.container.name"),
    };
    let parts: Vec<&str> = config.name.split('_').collect();
    if let ["k8s", container, pod, namespace, _, _] = parts[..] {
        identity.container.get_or_insert_with(|| container.to_owned());
        identity.pod.get_or_insert_with(|| pod.to_owned());
        identity.namespace.get_or_insert_with(|| namespace.to_owned());
    }
    if identity.container.is_none() && !config.name.is_empty() {
        identity.container = Some(config.name.clone());
    }
    identity
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_is_written_with_the_standards_names() {
        let config = ConfigDump {
            id: "1".into(),
            name: "k8s_c_p_n_u_0".into(),
            rootfs_image_ref: "abc".into(),
            oci_runtime: "cryopod".into(),
            created_time: "2026-11-22T10:00:00Z".into(),
            ..ConfigDump::default()
        };
        let text = String::from_utf8(to_json(&config).unwrap()).unwrap();
        let want = "{\n  \"id\": \"1\",\n  \"name\": \"k8s_c_p_n_u_0\",\n  \"rootfsImageRef\": \"abc\",\n  \
                    \"runtime\": \"cryopod\",\n  \"createdTime\": \"2026-11-22T10:00:00Z\",\n  \
                    \"checkpointedTime\": \"0001-01-01T00:00:00Z\",\n  \
                    \"restoredTime\": \"0001-01-01T00:00:00Z\",\n  \"restored\": false\n}";
        assert_eq!(text, want);
        assert_eq!(serde_json::from_str::<ConfigDump>(&text).unwrap(), config);
    }

    #[test]
    fn identity_comes_from_annotations_or_the_name() {
        let named = |name: &str| ConfigDump { name: name.into(), ..ConfigDump::default() };
        let from = |config: &ConfigDump, pairs: &[(&str, &str)]| {
            let map = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let got = identity(config, &map);
            [got.namespace, got.pod, got.container].map(Option::unwrap_or_default)
        };
        assert_eq!(from(&named("k8s_c_p_n_u_0"), &[]), ["n", "p", "c"]);
        assert_eq!(from(&named("alone"), &[]), ["", "", "alone"]);
        let containerd = [
            ("io.kubernetes.cri.container-name", "c"),
            ("io.kubernetes.cri.sandbox-name", "p"),
            ("io.kubernetes.cri.sandbox-namespace", "n"),
        ];
        assert_eq!(from(&named("x"), &containerd), ["n", "p", "c"]);
        let crio = [
            ("io.kubernetes.container.name", "c"),
            ("io.kubernetes.pod.name", "p"),
            ("io.kubernetes.pod.namespace", "n"),
        ];
        assert_eq!(from(&named("k8s_x_y_z_u_0"), &crio), ["n", "p", "c"]);
        let labels = r#"{"io.kubernetes.pod.name": "p", "io.kubernetes.pod.namespace": "n"}"#;
        let labelled = [
            ("io.kubernetes.cri-o.Labels", labels),
            ("io.kubernetes.container.name", "c"),
            ("io.kubernetes.pod.name", "other"),
        ];
        assert_eq!(from(&named("x"), &labelled), ["n", "p", "c"]);
        // What is no JSON says nothing.
        assert_eq!(from(&named("x"), &[("io.kubernetes.cri-o.Labels", "{")]), ["", "", "x"]);
    }
}
