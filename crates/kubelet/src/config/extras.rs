//! Settings that no kubelet has: a document of our own, in a file of its own (`--cryopod-config`)
//! or behind the kubelet's in the same file, where a kubelet does not look.
//!
//! To add one, add a field here and its default: reading, merging, errors with line, `cryopod
//! config check` and the origin come with it. A flag for it is one
//! [`Flags::extra`](super::Flags::extra).

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::KubernetesVersion;
use crate::checkpoint::Settings;

/// `kind` of our own document.
pub(super) const KIND: &str = "CryopodConfiguration";
/// `apiVersion` of our own document.
pub(super) const API_VERSION: &str = "config.cryopod/v1alpha1";

/// Our own settings. An unknown field is an error: nobody else's fields are in this document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Extras {
    /// File that takes a line of JSON for each request that was authenticated or refused.
    pub audit_log: Option<PathBuf>,
    /// Whether `create pods/checkpoint` in the pod's namespace is needed, too: the right to the
    /// node's endpoint alone opens every container of the node.
    pub authorize_pods: bool,
    /// Checkpoints at the same time on this node; more wait.
    pub checkpoints_at_once: NonZeroUsize,
    /// Bytes that a checkpoint must leave free where the archives are.
    pub checkpoints_free_reserve: u64,
    /// Whose texts and attributes: the cluster's version.
    #[serde(with = "version")]
    pub kubernetes_version: KubernetesVersion,
    /// HTTPS connections at once. What descriptors are left for may be less.
    pub max_connections: usize,
    /// OpenTelemetry collector that takes traces, by gRPC.
    pub otlp_endpoint: Option<String>,
    /// Policies by which old archives are deleted; without them none ever is.
    pub retention_policy: Option<PathBuf>,
}

impl Default for Extras {
    fn default() -> Self {
        Self {
            audit_log: None,
            authorize_pods: false,
            checkpoints_at_once: Settings::default().at_once,
            checkpoints_free_reserve: Settings::default().free_reserve,
            kubernetes_version: KubernetesVersion::default(),
            max_connections: crate::Limits::default().connections,
            otlp_endpoint: None,
            retention_policy: None,
        }
    }
}

/// A version as text: as a number 1.30 would be 1.3.
mod version {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        version: &KubernetesVersion,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(version)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<KubernetesVersion, D::Error> {
        struct Text;

        impl de::Visitor<'_> for Text {
            type Value = KubernetesVersion;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a version in quotes, such as \"1.36\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<KubernetesVersion, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Text)
    }
}
