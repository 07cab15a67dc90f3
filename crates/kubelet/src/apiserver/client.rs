//! A real API server.
//!
//! Certificates and tokens of a node are rotated under a running process: all files that were
//! read are looked at again once a minute, before a question; a changed one makes a new client,
//! an unusable one leaves the last good client in force.

use std::error::Error as StdError;
use std::io;
use std::path::Path;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::authorization::v1::{
    SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::kubeconfig::{KubeconfigError, Source};
use super::{ReviewError, Reviews};
use crate::reload::Watched;
use crate::{BoxError, BoxFuture};

const TOKEN_REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS_REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
/// For one attempt: a connection whose other end is gone must not use up a question's whole time.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Between looks at the files.
const LOOK: Duration = Duration::from_secs(60);
/// The most that is read of an answer. A user with thousands of groups takes a tenth of it.
const ANSWER_BYTES: usize = 1 << 20;
/// The most that is told of an API server's complaint, in characters.
const MESSAGE_CHARS: usize = 256;
const AGENT: &str = concat!("cryopod/", env!("CARGO_PKG_VERSION"));

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ApiServerError {
    /// The kubeconfig, or what a pod has in its place.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// It is readable, and what it says does not fit together, such as a key and the certificate
    /// of another.
    #[error("no client for the API server can be made of {place}")]
    Client {
        /// The kubeconfig, or the pod's folder.
        place: String,
        /// What the client said.
        #[source]
        source: Box<kube::Error>,
    },
}

/// The client.
pub struct ApiServer {
    source: Source,
    client: watch::Sender<kube::Client>,
    files: Mutex<Files>,
    attempt: Duration,
}

struct Files {
    watched: Watched,
    next_look: Instant,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer")
            .field("source", &self.source)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

impl ApiServer {
    /// By a kubeconfig file: its current context. Nothing is asked yet.
    ///
    /// # Errors
    /// [`ApiServerError`], with file and field.
    pub async fn from_kubeconfig(file: &Path) -> Result<Self, ApiServerError> {
        Self::open(Source::File(file.to_owned())).await
    }

    /// From inside a pod, by its service account.
    ///
    /// # Errors
    /// [`ApiServerError`]; also when this process does not run in a pod.
    pub async fn from_pod() -> Result<Self, ApiServerError> {
        Self::open(Source::pod()).await
    }

    /// As [`ApiServer::from_pod`], with what the environment and the folder of the service
    /// account (with `ca.crt` and `token`) would be.
    ///
    /// # Errors
    /// As [`ApiServer::from_pod`].
    pub async fn from_pod_folder(
        host: &str,
        port: u16,
        folder: &Path,
    ) -> Result<Self, ApiServerError> {
        let (host, port) = (Some(host.to_owned()), Some(port.to_string()));
        Self::open(Source::Pod { host, port, folder: folder.to_owned() }).await
    }

    /// With another limit for one attempt than ten seconds.
    #[must_use]
    pub fn with_attempt_limit(mut self, limit: Duration) -> Self {
        self.attempt = limit;
        self
    }

    async fn open(source: Source) -> Result<Self, ApiServerError> {
        let (watched, client) = build(&source).await?;
        let files = Files { watched, next_look: Instant::now() + LOOK };
        Ok(Self {
            source,
            client: watch::Sender::new(client),
            files: Mutex::new(files),
            attempt: ATTEMPT,
        })
    }

    /// The client of the moment.
    async fn client(&self) -> kube::Client {
        // Whoever looks does so for all.
        if let Ok(mut files) = self.files.try_lock()
            && Instant::now() >= files.next_look
        {
            files.next_look = Instant::now() + LOOK;
            match files.watched.changed().await {
                Ok(None) => {}
                Ok(Some(_)) => match build(&self.source).await {
                    Ok((watched, client)) => {
                        files.watched = watched;
                        self.client.send_replace(client);
                        tracing::info!("credentials for the API server changed");
                    }
                    Err(error) => {
                        let error = &error as &dyn StdError;
                        tracing::warn!(error, "credentials for the API server not reloaded");
                    }
                },
                Err(error) => {
                    let error = &error as &dyn StdError;
                    tracing::warn!(error, "credentials for the API server not reloaded");
                }
            }
        }
        self.client.borrow().clone()
    }

    /// Asks once, within the limit of an attempt.
    async fn ask<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &'static str,
        review: &Q,
    ) -> Result<A, ReviewError> {
        let limit = self.attempt;
        match tokio::time::timeout(limit, self.post(path, review)).await {
            Ok(answer) => answer,
            Err(_) => Err(ReviewError::TimedOut { limit }),
        }
    }

    async fn post<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &'static str,
        review: &Q,
    ) -> Result<A, ReviewError> {
        let unsayable = |error: BoxError| ReviewError::Request(error);
        let body = serde_json::to_vec(review).map_err(|error| unsayable(error.into()))?;
        let request = Request::post(path)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, AGENT)
            .body(kube::client::Body::from(body))
            .map_err(|error| unsayable(error.into()))?;
        // Not by the client's own reading of answers: that logs a body it cannot read, and the
        // body has the token in it.
        let answer = self.client().await.send(request).await.map_err(broken)?;
        let (parts, body) = answer.into_parts();
        let body = match Limited::new(body, ANSWER_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(ReviewError::TooLarge { limit: ANSWER_BYTES });
            }
            Err(source) => {
                return Err(ReviewError::Connection { reset: is_reset(&*source), source });
            }
        };
        if !parts.status.is_success() {
            return Err(refusal(parts.status.as_u16(), &parts.headers, &body));
        }
        let review: Filled<A> = serde_json::from_slice(&body).map_err(ReviewError::Answer)?;
        review.status.ok_or(ReviewError::NoStatus)
    }
}

impl Reviews for ApiServer {
    fn token(&self, token: String) -> BoxFuture<'_, Result<TokenReviewStatus, ReviewError>> {
        Box::pin(async move {
            let spec = TokenReviewSpec { token, audiences: None };
            self.ask(TOKEN_REVIEWS, &TokenReview { spec, ..TokenReview::default() }).await
        })
    }

    fn access(
        &self,
        spec: SubjectAccessReviewSpec,
    ) -> BoxFuture<'_, Result<SubjectAccessReviewStatus, ReviewError>> {
        Box::pin(async move {
            let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
            self.ask(ACCESS_REVIEWS, &review).await
        })
    }
}

/// A review as it comes back, without its question: the token is not taken in again.
#[derive(Deserialize)]
struct Filled<A> {
    status: Option<A>,
}

/// What the API server says when it refuses; `metav1.Status`, the parts of use here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Complaint {
    message: String,
    details: Option<Details>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    retry_after_seconds: Option<u32>,
}

fn refusal(code: u16, headers: &HeaderMap, body: &[u8]) -> ReviewError {
    let complaint: Complaint = serde_json::from_slice(body).unwrap_or_else(|_| Complaint {
        message: String::from_utf8_lossy(body).trim().to_owned(),
        details: None,
    });
    let header = || headers.get(RETRY_AFTER)?.to_str().ok()?.parse::<u32>().ok();
    let seconds =
        header().or_else(|| complaint.details?.retry_after_seconds).filter(|seconds| *seconds > 0);
    ReviewError::Status {
        code,
        message: complaint.message.chars().take(MESSAGE_CHARS).collect(),
        retry_after: seconds.map(|seconds| Duration::from_secs(seconds.into())),
    }
}

fn broken(error: kube::Error) -> ReviewError {
    ReviewError::Connection { reset: is_reset(&error), source: error.into() }
}

/// Whether an open connection broke, at any depth of the error.
fn is_reset(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            )
        {
            return true;
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && (error.is_incomplete_message() || error.is_canceled() || error.is_closed())
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// The files of a source and a client made of them.
async fn build(source: &Source) -> Result<(Watched, kube::Client), ApiServerError> {
    // The list of files is known by reading them; what is used is read after they are watched,
    // so that no change falls between.
    let list = source.load().await?.files;
    let mut watched = Watched::new(list);
    // A failure to read comes again below, with file and field.
    let _ = watched.changed().await;
    let mut config = source.load().await?.config;
    // Retries are ours: what is retried is Kubernetes' own choice, and bounded.
    config.default_retry = false;
    config.connect_timeout = Some(ATTEMPT);
    let client = kube::Client::try_from(config).map_err(|source_error| {
        let place = match source {
            Source::File(file) => format!("kubeconfig {}", file.display()),
            Source::Pod { folder, .. } => format!("the pod's service account {}", folder.display()),
        };
        ApiServerError::Client { place, source: Box::new(source_error) }
    })?;
    Ok((watched, client))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(error: &ReviewError) -> (u16, &str, Option<Duration>) {
        match error {
            ReviewError::Status { code, message, retry_after } => (*code, message, *retry_after),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_refusal_says_what_the_api_server_said_in_short() {
        let status =
            br#"{"kind":"Status","message":"no such user","code":403,"reason":"Forbidden"}"#;
        let error = refusal(403, &HeaderMap::new(), status);
        assert_eq!(parts(&error), (403, "no such user", None));
        assert!(!error.is_transient());
        let error = refusal(502, &HeaderMap::new(), "x".repeat(5000).as_bytes());
        assert_eq!(parts(&error).1.len(), MESSAGE_CHARS);
    }

    #[test]
    fn when_to_come_back_is_read_from_header_and_details() {
        let mut headers = HeaderMap::new();
        let details = br#"{"message":"busy","details":{"retryAfterSeconds":3}}"#;
        let error = refusal(503, &headers, details);
        assert_eq!(parts(&error), (503, "busy", Some(Duration::from_secs(3))));
        assert!(error.is_transient());
        headers.insert(RETRY_AFTER, "2".parse().unwrap());
        assert_eq!(parts(&refusal(429, &headers, details)).2, Some(Duration::from_secs(2)));
        headers.insert(RETRY_AFTER, "0".parse().unwrap());
        assert_eq!(parts(&refusal(503, &headers, b"")).2, None);
    }

    #[test]
    fn broken_connections_are_told_from_refused_ones() {
        let of = |kind| is_reset(&io::Error::from(kind));
        assert!(of(io::ErrorKind::ConnectionReset));
        assert!(of(io::ErrorKind::UnexpectedEof));
        assert!(!of(io::ErrorKind::ConnectionRefused));
        let nested = kube::Error::Service(Box::new(io::Error::from(io::ErrorKind::BrokenPipe)));
        assert!(is_reset(&nested));
    }
}
