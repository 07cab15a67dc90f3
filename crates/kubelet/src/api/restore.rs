//! `POST /cryopod/v1/restore`: a container of this node goes on from an archive of this node.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cryopod_archive::{Archive, MetadataError};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Deserialize;

use super::archives;
use super::problem::Problem;
use crate::runtime::{
    Caller, Code, RestoreCall, RestoreError, Restored, Restorer, RpcError, Shape,
};
use crate::store::{Reading, Store};

/// Bytes that a request may have.
const MOST_BYTES: usize = 64 << 10;
/// For the request's body to come in.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RestoreRequest {
    /// Name of the archive.
    archive: String,
    /// In place of the archive's namespace.
    namespace: Option<String>,
    /// In place of the archive's pod.
    pod: Option<String>,
    /// In place of the archive's container.
    container: Option<String>,
}

/// Restores, one at a time into each pod.
pub(super) struct Restores {
    restorer: Option<Arc<dyn Restorer>>,
    /// Pods that are being restored into: namespace and name.
    busy: Arc<Mutex<HashSet<(String, String)>>>,
}

/// A pod that nobody else restores into.
struct Turn {
    pod: (String, String),
    busy: Arc<Mutex<HashSet<(String, String)>>>,
}

impl Restores {
    pub(super) fn new(restorer: Option<Arc<dyn Restorer>>) -> Self {
        Self { restorer, busy: Arc::default() }
    }

    /// Reads the request and does what it says. When this is dropped, what was made is removed.
    pub(super) async fn answer(
        &self,
        store: &Store,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Restored, Problem> {
        let request = read(headers, body).await?;
        let reading = store.open(&request.archive).await.map_err(|error| archives::problem(&error));
        let (reading, call) = prepare(store, request, reading?).await?;
        let Some(restorer) = self.restorer.clone() else {
            return Err(problem(&RestoreError::Foreign));
        };
        let turn = self.take(&call)?;
        let (waiting, caller) = Caller::pair();
        let target = format!("{}/{}/{}", call.namespace, call.pod, call.container);
        // A task of its own: it has to come to its end, also when the client hangs up.
        let task = tokio::spawn(async move {
            let done = restorer.restore(call, caller).await;
            drop((reading, turn));
            if let Err(error) = &done {
                tracing::warn!(target, error = error as &dyn std::error::Error, "no restore");
            }
            done
        });
        let done = task.await;
        drop(waiting);
        match done {
            Ok(Ok(restored)) => Ok(restored),
            Ok(Err(error)) => Err(problem(&error)),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a restore panicked");
                Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the restore broke off"))
            }
        }
    }

    fn take(&self, call: &RestoreCall) -> Result<Turn, Problem> {
        let pod = (call.namespace.clone(), call.pod.clone());
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if !busy.insert(pod.clone()) {
            let text = format!(
                "another restore into pod {}/{} is under way: wait for it",
                call.namespace, call.pod
            );
            return Err(Problem::new(StatusCode::CONFLICT, text));
        }
        Ok(Turn { pod, busy: Arc::clone(&self.busy) })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.pod);
    }
}

async fn read(headers: &HeaderMap, body: Incoming) -> Result<RestoreRequest, Problem> {
    let media = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let essence = media.and_then(|text| text.split(';').next()).unwrap_or("").trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let text = "the body must be JSON: say `Content-Type: application/json`";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    let whole = tokio::time::timeout(PATIENCE, Limited::new(body, MOST_BYTES).collect()).await;
    let bytes: Bytes = match whole {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let text = format!("the body has more than {MOST_BYTES} bytes");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        Ok(Err(error)) => {
            return Err(Problem::bad_request(format!("the body broke off: {error}")));
        }
        Err(_) => return Err(Problem::bad_request("the body did not come in")),
    };
    let request: RestoreRequest = serde_json::from_slice(&bytes)
        .map_err(|error| Problem::bad_request(format!("the body cannot be understood: {error}")))?;
    check(&request)?;
    Ok(request)
}

fn check(request: &RestoreRequest) -> Result<(), Problem> {
    let names = [
        ("namespace", &request.namespace, 63, false),
        ("pod", &request.pod, 253, true),
        ("container", &request.container, 63, false),
    ];
    for (field, value, most, dots) in names {
        if let Some(value) = value
            && !is_name(value, most, dots)
        {
            let dots = if dots { ", dots" } else { "" };
            return Err(Problem::bad_request(format!(
                "{field} {value:?} is no name: at most {most} lower-case letters, digits{dots} and \
                 hyphens, with a letter or digit at both ends"
            )));
        }
    }
    Ok(())
}

/// A DNS label (RFC 1123), or with `dots` several.
fn is_name(text: &str, most: usize, dots: bool) -> bool {
    let label = |label: &str| {
        let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = label.as_bytes();
        ends(bytes.first())
            && ends(bytes.last())
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
    };
    text.len() <= most && if dots { text.split('.').all(label) } else { label(text) }
}

/// What the archive says and the request does not.
async fn prepare(
    store: &Store,
    request: RestoreRequest,
    reading: Reading,
) -> Result<(Reading, RestoreCall), Problem> {
    let path = store.path(&request.archive);
    let name = request.archive.clone();
    let refuse = move |error: &MetadataError| {
        let mut text = error.to_string();
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            text = format!("{text}: {cause}");
            next = cause.source();
        }
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("{name} cannot be read as a checkpoint archive: {text}"),
        )
    };
    let look = move || {
        let file = reading.file().try_clone()?;
        let read = Archive::from_file(file, &path)
            .map_err(MetadataError::from)
            .and_then(|archive| Ok((archive.identity()?, Shape::of(&archive)?)));
        Ok::<_, std::io::Error>((read, reading, path))
    };
    let broken = |error: &(dyn std::error::Error + 'static)| {
        tracing::error!(error, "an archive to restore from");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the archive cannot be read now: try again")
    };
    let (read, reading, path) = match tokio::task::spawn_blocking(look).await {
        Ok(Ok(all)) => all,
        Ok(Err(error)) => return Err(broken(&error)),
        Err(error) => return Err(broken(&error)),
    };
    let (identity, shape) = read.map_err(|error| refuse(&error))?;
    let choose = |given: Option<String>, stored: Option<String>, field: &str| {
        let stored = stored.filter(|name| !name.is_empty());
        given.or(stored).ok_or_else(|| {
            let text = format!("the archive does not say its {field}: give one");
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text)
        })
    };
    let call = RestoreCall {
        archive: path,
        namespace: choose(request.namespace, identity.namespace, "namespace")?,
        pod: choose(request.pod, identity.pod, "pod")?,
        container: choose(request.container, identity.container, "container")?,
        shape,
    };
    // The archive is foreign: what it calls itself becomes part of paths.
    let names = [
        ("namespace", &call.namespace, 63, false),
        ("pod", &call.pod, 253, true),
        ("container", &call.container, 63, false),
    ];
    for (field, value, most, dots) in names {
        if !is_name(value, most, dots) {
            let text = format!("the archive's {field} {value:?} is no name: give another");
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text));
        }
    }
    Ok((reading, call))
}

fn problem(error: &RestoreError) -> Problem {
    let status = match error {
        RestoreError::Foreign => StatusCode::NOT_IMPLEMENTED,
        RestoreError::Runs { .. } | RestoreError::HostNetwork { .. } => StatusCode::CONFLICT,
        RestoreError::Rpc { source, .. } => status(source),
        // Nobody reads it.
        RestoreError::HungUp => StatusCode::BAD_REQUEST,
    };
    Problem::new(status, error.to_string())
}

fn status(error: &RpcError) -> StatusCode {
    match error.code {
        Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => StatusCode::CONFLICT,
        Code::InvalidArgument | Code::OutOfRange | Code::NotFound => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_kubernetes_takes() {
        for name in ["a", "a-b", "a1", "0"] {
            assert!(is_name(name, 63, false), "{name}");
        }
        assert!(is_name("a.b-c.d", 253, true));
        let long = "a".repeat(64);
        for name in ["", "-a", "a-", "A", "a_b", "a/b", "..", "a b", "é", "a.b", &long] {
            assert!(!is_name(name, 63, false), "{name}");
        }
        for name in ["a..b", ".a", "a.", "a.-b", "../a", "a/b"] {
            assert!(!is_name(name, 253, true), "{name}");
        }
    }

    #[test]
    fn the_runtimes_refusals_keep_their_kind() {
        let of = |code| {
            problem(&RestoreError::Rpc {
                action: "restore the container",
                source: RpcError { code, message: "m".into() },
            })
        };
        assert_eq!(of(Code::FailedPrecondition).status, 409);
        assert_eq!(of(Code::InvalidArgument).status, 422);
        assert_eq!(of(Code::AlreadyExists).status, 409);
        assert_eq!(of(Code::Unavailable).status, 503);
        assert_eq!(of(Code::DeadlineExceeded).status, 504);
        assert_eq!(of(Code::Internal).status, 502);
        assert_eq!(
            of(Code::Internal).detail,
            "cannot restore the container: rpc error: code = Internal desc = m"
        );
        assert_eq!(problem(&RestoreError::Foreign).status, 501);
    }
}
