//! Whose checkpoint an archive is: read from the OCI spec in it, not from its file name, whose parts
//! cannot be told apart. The archive is foreign: names are all that is taken from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cryopod_archive::{Archive, ReadError};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The OCI spec's entry.
const SPEC: &str = "spec.dump";

/// Largest spec read, in bytes.
const MAX_SPEC: u64 = 16 << 20;

/// Why an archive does not tell.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// Not an archive, or damaged.
    #[error("read the archive's identity")]
    Read(#[source] ReadError),
    /// Its OCI spec is not one.
    #[error("{SPEC} of {} is not an OCI spec", path.display())]
    Spec {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// What the archive says about its container. Empty where it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) container: String,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Reads an archive's identity.
pub(crate) fn read(path: &Path) -> Result<Identity, IdentityError> {
    let spec: Spec = read_spec(path)?;
    Ok(of(&spec.annotations))
}

/// Parts of an archive's OCI spec.
pub(crate) fn read_spec<T: DeserializeOwned>(path: &Path) -> Result<T, IdentityError> {
    let bytes = Archive::open(path)
        .and_then(|archive| archive.read(SPEC, MAX_SPEC))
        .map_err(IdentityError::Read)?;
    serde_json::from_slice(&bytes)
        .map_err(|source| IdentityError::Spec { path: path.to_owned(), source })
}

/// The annotations of containerd, then those of CRI-O, then the kubelet's labels.
fn of(annotations: &BTreeMap<String, String>) -> Identity {
    let crio: BTreeMap<String, String> = annotations
        .get("io.kubernetes.cri-o.Labels")
        .and_then(|json| serde_json::from_str(json).ok())
        .unwrap_or_default();
    let get = |containerd: &str, label: &str| {
        annotations
            .get(containerd)
            .or_else(|| crio.get(label))
            .or_else(|| annotations.get(label))
            .cloned()
            .unwrap_or_default()
    };
    use cryopod_cri::labels;
    Identity {
        namespace: get("io.kubernetes.cri.sandbox-namespace", labels::POD_NAMESPACE),
        pod: get("io.kubernetes.cri.sandbox-name", labels::POD_NAME),
        container: get("io.kubernetes.cri.container-name", labels::CONTAINER_NAME),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut builder = tar::Builder::new(file.reopen().unwrap());
        for (name, kind, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            builder.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        builder.finish().unwrap();
        file
    }

    #[test]
    fn both_dialects_are_understood() {
        let containerd = r#"{"annotations": {"io.kubernetes.cri.sandbox-namespace": "n",
            "io.kubernetes.cri.sandbox-name": "p", "io.kubernetes.cri.container-name": "c"}}"#;
        let crio = r#"{"annotations": {"io.kubernetes.cri-o.Labels":
"{\"io.kubernetes.pod.name\":\"p\"}",
            "io.kubernetes.pod.namespace": "n", "io.kubernetes.container.name": "c"}}"#;
        for spec in [containerd, crio] {
            let file = archive(&[
                ("config.dump", tar::EntryType::Regular, "{}"),
                ("spec.dump", tar::EntryType::Regular, spec),
            ]);
            let identity = read(file.path()).unwrap();
            let expected =
                Identity { namespace: "n".into(), pod: "p".into(), container: "c".into() };
            assert_eq!(identity, expected);
        }
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let file = archive(&[("x/spec.dump", tar::EntryType::Regular, "{}")]);
        let error = anyhow::Error::new(read(file.path()).unwrap_err());
        assert!(format!("{error:#}").contains("spec.dump"), "{error:#}");
        let file = archive(&[("spec.dump", tar::EntryType::Regular, "not json")]);
        assert!(matches!(read(file.path()), Err(IdentityError::Spec { .. })));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; 4096]).unwrap();
        assert!(matches!(read(file.path()), Err(IdentityError::Read(_))));
    }
}
