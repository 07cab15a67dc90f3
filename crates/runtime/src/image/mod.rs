//! Images: what root filesystems are made from.
//!
//! The store keeps one index file and, for images of layers, their blobs (by digest, as they came)
//! and the unpacked layers (by the digest of their content), shared between images. A folder is used
//! in place and named by a digest of its content; the host's own programs are always there.

pub(crate) mod files;
mod folder;
mod oci;
mod store;

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::ErrorKind;
pub(crate) use folder::digest as folder_digest;
pub(crate) use store::{HOST_ID, ImageRecord, Origin, Store};

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

/// What an image says about the process to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ImageDefaults {
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    /// `KEY=value`.
    pub(crate) env: Vec<String>,
    pub(crate) working_dir: PathBuf,
    pub(crate) user: String,
    pub(crate) stop_signal: String,
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
    /// A file of the image is not what its digest says.
    #[error("{path:?}: {name} is damaged: its digest is {found}")]
    Damaged {
        /// Where the image is imported from.
        path: PathBuf,
        /// The file.
        name: String,
        /// Digest of what is there.
        found: String,
    },
    /// The image lacks a file that it names.
    #[error("{path:?} lacks {name}")]
    Missing {
        /// Where the image is imported from.
        path: PathBuf,
        /// The file.
        name: String,
    },
    /// A description in the image is not understood.
    #[error("{path:?}: {name} is not understood: {reason}")]
    Malformed {
        /// Where the image is imported from.
        path: PathBuf,
        /// The file.
        name: String,
        /// Why.
        reason: String,
    },
    /// The image uses something this store does not know.
    #[error("{path:?}: {what} is not supported")]
    Unsupported {
        /// Where the image is imported from.
        path: PathBuf,
        /// What it uses.
        what: String,
    },
    /// The name is not one of an image.
    #[error("{name:?} is not the name of an image")]
    Name {
        /// The name.
        name: String,
    },
    /// A file could not be used.
    #[error("{action} {path:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl ImageError {
    /// What a caller must tell apart.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::Internal,
            _ => ErrorKind::InvalidArgument,
        }
    }
}

pub(crate) fn failed<E: Into<io::Error>>(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> ImageError {
    let path = path.into();
    move |e| ImageError::Io { action, path, source: e.into() }
}
