//! The one error a caller of [`Runtime`](crate::Runtime) sees.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a caller must tell apart; maps one to one to a gRPC status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// No such sandbox, container or image.
    NotFound,
    /// The name is taken, or the thing was made before.
    AlreadyExists,
    /// The request itself is wrong.
    InvalidArgument,
    /// Right request, wrong moment: the state does not allow it.
    FailedPrecondition,
    /// The container holds something that cannot be carried over, or the archive does not fit here.
    Refused,
    /// Time ran out.
    DeadlineExceeded,
    /// The caller asked to stop.
    Cancelled,
    /// The machine, the kernel or this program failed.
    Internal,
}

/// Why an operation of the runtime failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No such thing.
    #[error("{what} {id:?} does not exist")]
    NotFound {
        /// `pod sandbox`, `container` or `image`.
        what: &'static str,
        /// What was asked for.
        id: String,
    },
    /// A beginning of an id that fits several.
    #[error("{what} id {id:?} is ambiguous")]
    Ambiguous {
        /// `pod sandbox` or `container`.
        what: &'static str,
        /// What was asked for.
        id: String,
    },
    /// The name is taken.
    #[error("{what} {name:?} exists already with id {id}")]
    AlreadyExists {
        /// `pod sandbox` or `container`.
        what: &'static str,
        /// The name.
        name: String,
        /// Who has it.
        id: String,
    },
    /// The request is wrong.
    #[error("{field} is not valid: {reason}")]
    InvalidArgument {
        /// Field of the request.
        field: &'static str,
        /// Why.
        reason: String,
    },
    /// The state does not allow it.
    #[error("{what} {id} is {state}: {reason}")]
    State {
        /// `pod sandbox` or `container`.
        what: &'static str,
        /// Which.
        id: String,
        /// Its state.
        state: String,
        /// What would be needed.
        reason: String,
    },
    /// The feature is not there.
    #[error("{what} is not supported")]
    NotSupported {
        /// Which feature.
        what: &'static str,
    },
    /// A file or folder could not be used.
    #[error("{action} {path:?}")]
    Io {
        /// What was tried (`write`, `create`).
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A record on disk is damaged.
    #[error("record {path:?} is damaged")]
    Record {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Time ran out.
    #[error("{what} took longer than {seconds} s")]
    Timeout {
        /// What.
        what: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// The caller asked to stop.
    #[error("{what} was cancelled")]
    Cancelled {
        /// What.
        what: &'static str,
    },
    /// What the shim, or a process it started, answered.
    #[error("{message}")]
    Shim {
        /// Kind as the shim saw it.
        kind: ErrorKind,
        /// Its message, causes included.
        message: String,
    },
    /// An image cannot be used.
    #[error(transparent)]
    Image(#[from] crate::image::ImageError),
}

impl RuntimeError {
    /// What a caller must tell apart.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Self::Ambiguous { .. } | Self::InvalidArgument { .. } => ErrorKind::InvalidArgument,
            Self::State { .. } => ErrorKind::FailedPrecondition,
            Self::Timeout { .. } => ErrorKind::DeadlineExceeded,
            Self::Cancelled { .. } => ErrorKind::Cancelled,
            Self::Shim { kind, .. } => *kind,
            Self::Image(error) => error.kind(),
            Self::NotSupported { .. } | Self::Io { .. } | Self::Record { .. } => {
                ErrorKind::Internal
            }
        }
    }
}
