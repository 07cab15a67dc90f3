//! Settings that no kubelet has: a document of our own, in a file of its own (`--cryopod-config`)
//! or behind the kubelet's in the same file, where a kubelet does not look.
//!
//! To add one, add a field here and its default: reading, merging, errors with line, `cryopod
//! config check` and the origin come with it. A flag for it is one
//! [`Flags::extra`](super::Flags::extra).

use serde::{Deserialize, Serialize};

/// `kind` of our own document.
pub(super) const KIND: &str = "CryopodConfiguration";
/// `apiVersion` of our own document.
pub(super) const API_VERSION: &str = "config.cryopod/v1alpha1";

/// Our own settings. An unknown field is an error: nobody else's fields are in this document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Extras {
    /// HTTPS connections at once. What descriptors are left for may be less.
    pub max_connections: usize,
}

impl Default for Extras {
    fn default() -> Self {
        Self { max_connections: crate::Limits::default().connections }
    }
}
