//! What can be wrong with a configuration.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use super::decode::FieldError;
use super::document::Origin;
use super::{extras, kubelet};
use crate::feature_gates::FeatureGateError;
use crate::tls::PolicyError;

/// One thing that is wrong, with the place it was written at and the way out.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or folder cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A file is larger than any configuration.
    #[error("{} is no configuration: larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// In bytes.
        limit: u64,
    },
    /// A file is not text.
    #[error("{} is not UTF-8", path.display())]
    Utf8 {
        /// The file.
        path: PathBuf,
        /// Where.
        #[source]
        source: std::str::Utf8Error,
    },
    /// A file is neither YAML nor JSON.
    #[error("{}:{line}: neither YAML nor JSON", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What the reader said.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// A file has no document.
    #[error("{} is empty: it needs at least apiVersion and kind", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A document of another kind.
    #[error(
        "{origin}: this is apiVersion {api_version:?}, kind {kind:?}; wanted is apiVersion \
         {wanted_version}, kind {wanted_kind}"
    )]
    Kind {
        /// Of the document.
        origin: Origin,
        /// As written; empty if it is not there.
        api_version: String,
        /// As written; empty if it is not there.
        kind: String,
        /// What belongs there.
        wanted_version: &'static str,
        /// What belongs there.
        wanted_kind: &'static str,
    },
    /// Two documents of one kind in a file.
    #[error("{origin}: a second document of kind {kind}: put them into one")]
    Twice {
        /// Of the second.
        origin: Origin,
        /// The kind.
        kind: &'static str,
    },
    /// A value is of the wrong kind.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A field in our own document that means nothing.
    #[error("{origin}: {path} is no field of {} (known: {})", extras::KIND, known.join(", "))]
    UnknownField {
        /// Where.
        origin: Origin,
        /// Keys with dots between them.
        path: String,
        /// What means something.
        known: Vec<String>,
    },
    /// `--feature-gates`.
    #[error("--feature-gates")]
    FeatureGates(#[source] FeatureGateError),
    /// A TLS setting.
    #[error("{field} ({origin})")]
    Tls {
        /// Which.
        field: &'static str,
        /// Where.
        origin: Origin,
        /// What is wrong.
        #[source]
        source: PolicyError,
    },
    /// A certificate without its key, or the other way round.
    #[error("{given} ({origin}) is given without {missing}: TLS needs both")]
    HalfPair {
        /// The one that is there.
        given: &'static str,
        /// Where.
        origin: Origin,
        /// The one that is not.
        missing: &'static str,
    },
    /// Nobody could be authenticated.
    #[error(
        "no authentication method configured: give --client-ca-file, or --kubeconfig with \
         --authentication-token-webhook"
    )]
    NoMethod,
    /// The mode is empty.
    #[error("no authorization mode specified: Webhook, AlwaysAllow or ClientCertificates")]
    NoMode,
    /// The mode means nothing.
    #[error(
        "unknown authorization mode {mode} ({origin}): Webhook, AlwaysAllow or \
             ClientCertificates"
    )]
    UnknownMode {
        /// As given.
        mode: String,
        /// Where.
        origin: Origin,
    },
    /// A second check by somebody who knows nothing of pods.
    #[error(
        "authorizePods ({origin}) is decided by the API server: it needs --authorization-mode=\
         Webhook"
    )]
    PodsUnjudged {
        /// Of the setting.
        origin: Origin,
    },
    /// TokenReview without an API server.
    #[error(
        "authentication.webhook.enabled ({origin}) asks the API server about tokens: give \
         --kubeconfig, or --authentication-token-webhook=false"
    )]
    TokenReviewer {
        /// Of the setting.
        origin: Origin,
    },
    /// SubjectAccessReview without an API server.
    #[error(
        "authorization.mode Webhook ({origin}) asks the API server who may: give --kubeconfig, \
         or --authorization-mode=ClientCertificates to let every client certificate of the client \
         CA in"
    )]
    AccessReviewer {
        /// Of the setting.
        origin: Origin,
    },
}

impl ConfigError {
    /// Whether the command line alone is to blame, so that it is wrong usage.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::HalfPair { origin: Origin::Flag(_), .. })
    }

    pub(super) fn not_kubelet(origin: Origin, api_version: String, kind: String) -> Self {
        Self::Kind {
            origin,
            api_version,
            kind,
            wanted_version: kubelet::API_VERSION,
            wanted_kind: kubelet::KIND,
        }
    }

    pub(super) fn not_ours(origin: Origin, api_version: String, kind: String) -> Self {
        Self::Kind {
            origin,
            api_version,
            kind,
            wanted_version: extras::API_VERSION,
            wanted_kind: extras::KIND,
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n  ")?;
            }
            f.write_str(&chain(error))?;
        }
        Ok(())
    }
}

/// An error with all its causes, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}
