//! Images: what root filesystems are made from.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::ErrorKind;

/// Where an image is imported from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// An OCI image layout: a folder with `oci-layout` and `index.json`.
    OciLayout(PathBuf),
    /// A tar file made by `docker save` or holding an OCI image layout, compressed or not.
    Tar(PathBuf),
    /// A folder with a root filesystem; used in place, named by a digest of its content.
    Folder(PathBuf),
    /// The host's own programs.
    Host,
}

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// `sha256:` and 64 hexadecimal digits: the digest of its configuration, or of a folder's
    /// content; `host` for the host's programs.
    pub id: String,
    /// `name:tag`.
    pub repo_tags: Vec<String>,
    /// `name@sha256:…`.
    pub repo_digests: Vec<String>,
    /// Bytes on disk.
    pub size: u64,
    /// User its configuration names.
    pub user: String,
    /// Nanoseconds since 1970 at which it was imported.
    pub imported_at: i64,
    /// Architecture (`amd64`); empty: unknown.
    pub architecture: String,
}

/// Disk used by the image store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStoreUsage {
    /// Folder of the store.
    pub mountpoint: PathBuf,
    /// Bytes.
    pub used_bytes: u64,
    /// Files, folders and links.
    pub inodes_used: u64,
    /// Nanoseconds since 1970 at which it was read.
    pub timestamp: i64,
}

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Nothing recognised at the path.
    #[error("{path:?} is neither an OCI image layout, nor a docker archive, nor a folder")]
    NotAnImage {
        /// The path.
        path: PathBuf,
    },
}

impl ImageError {
    /// What a caller must tell apart.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotAnImage { .. } => ErrorKind::InvalidArgument,
        }
    }
}
