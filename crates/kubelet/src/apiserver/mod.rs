//! The API server, asked who a token belongs to and what a user may do.
//!
//! [`Reviews`] is the seam: two questions, TokenReview and SubjectAccessReview, both v1.
//! [`ApiServer`] asks a real one, found by a kubeconfig file or from inside a pod; tests play it.
//! What comes before a question is here too, the same for both: a bounded cache of answers with
//! one call per question at a time ([`answers`]), and the retries after a failure that may pass
//! ([`Backoff`]).
//!
//! Tokens are secrets: they are in no error, in no log line and in no cache.

pub(crate) mod answers;
mod backoff;
mod client;
mod kubeconfig;

use std::time::Duration;

use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use k8s_openapi::api::authorization::v1::{SubjectAccessReviewSpec, SubjectAccessReviewStatus};

use crate::{BoxError, BoxFuture};

pub use backoff::Backoff;
pub use client::{ApiServer, ApiServerError};
pub use kubeconfig::{FieldError, KubeconfigError};

/// How long an answer is waited for in all, with its retries and with the wait for a place: the
/// limit of Kubernetes' token cache, which has none for access reviews.
pub const REVIEW_LIMIT: Duration = Duration::from_secs(30);

/// The questions. One call is one question: no cache, no retry.
pub trait Reviews: Send + Sync {
    /// Whose token it is: TokenReview without audiences.
    fn token(&self, token: String) -> BoxFuture<'_, Result<TokenReviewStatus, ReviewError>>;

    /// Whether they may: SubjectAccessReview.
    fn access(
        &self,
        spec: SubjectAccessReviewSpec,
    ) -> BoxFuture<'_, Result<SubjectAccessReviewStatus, ReviewError>>;
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The API server refused the request.
    #[error("the API server answered {code}: {message}")]
    Status {
        /// The HTTP status.
        code: u16,
        /// What it said, shortened.
        message: String,
        /// When to ask again, if it said so.
        retry_after: Option<Duration>,
    },
    /// It could not be reached, or the connection broke.
    #[error("the API server is not reached")]
    Connection {
        /// Whether an open connection was reset or closed without an answer.
        reset: bool,
        /// What the client met.
        #[source]
        source: BoxError,
    },
    /// It took too long.
    #[error("no answer from the API server within {} ms", limit.as_millis())]
    TimedOut {
        /// How long was waited.
        limit: Duration,
    },
    /// The answer is no review.
    #[error("the API server's answer cannot be read")]
    Answer(#[source] serde_json::Error),
    /// The answer is a review nobody filled in.
    #[error("the API server's answer has no status")]
    NoStatus,
    /// The answer is too large to be a review.
    #[error("the API server's answer is larger than {limit} bytes")]
    TooLarge {
        /// The most that is read.
        limit: usize,
    },
    /// The request cannot be put into words.
    #[error("a review cannot be asked for")]
    Request(#[source] BoxError),
    /// The API server could not check the token.
    #[error("the API server could not check the token: {message}")]
    NotChecked {
        /// What it said.
        message: String,
    },
    /// An authenticated user without a name.
    #[error("the API server authenticated a user without a name")]
    NoUser,
    /// An access review that allows and denies.
    #[error("the API server both allowed and denied")]
    Contradiction,
    /// The task that asked ended without an answer: a bug, told and not waited for.
    #[error("the review was abandoned")]
    Abandoned,
}

impl ReviewError {
    /// Whether the same question may be answered a moment later: client-go's rule (reset, 500,
    /// 504, 429, or whoever says when to come back), and an attempt that took too long.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Status { code, retry_after, .. } => {
                matches!(code, 429 | 500 | 504) || retry_after.is_some()
            }
            Self::Connection { reset, .. } => *reset,
            Self::TimedOut { .. } => true,
            _ => false,
        }
    }

    /// How long the API server wants to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
