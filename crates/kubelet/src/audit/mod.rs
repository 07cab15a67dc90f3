//! Who did what: one line for each request that was authenticated or refused.
//!
//! Each line goes to the log (target `audit`) and, where a file was given, whole and as JSON into
//! that file. Lines say who asked (never with what: no token, no key), from where, for what, what
//! came of it, and of an archive its path, size and digest. A request whose client hangs up has a
//! line too: the line is written when its [`Record`] is dropped.
//!
//! The digest is the archive's id: the BLAKE3 digest of the table of digests at its end, which
//! covers every byte before it. To digest all of an archive of some GiB would cost as much as
//! making it. An archive of another runtime has no such table, and its line no digest.

mod file;
mod request_id;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use serde::Serialize;

use crate::authn::{Presented, User, credential_id};
use crate::checkpoint::Target;
use crate::metrics::Metrics;

pub use file::AuditFile;
pub(crate) use request_id::RequestId;

/// How much of an answer's text is kept as the reason, in bytes.
const REASON_BYTES: usize = 1024;

/// Takes the lines. Clones share the file.
#[derive(Clone, Debug)]
pub struct Audit {
    file: Option<Arc<AuditFile>>,
    metrics: Arc<Metrics>,
}

/// A line, as it stands in the file.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    time: Timestamp,
    request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    peer: SocketAddr,
    /// Which credentials were shown, good or bad.
    presented: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Who>,
    method: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    verb: &'static str,
    path: String,
    #[serde(flatten)]
    target: Option<Whose>,
    /// The answer's status; absent when the client did not wait for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    duration_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    archive: Option<Archive>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Who {
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    groups: Vec<String>,
    credential: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential_id: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Whose {
    namespace: String,
    pod: String,
    container: String,
}

/// What is said of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Archive {
    pub(crate) path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<u64>,
    /// `blake3:` and hexadecimal digits; see the head of this module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<String>,
    /// What the digest is of: `cryopod.digests`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) digest_of: Option<&'static str>,
}

/// The line of one request, until it is over.
#[derive(Debug)]
pub(crate) struct Record {
    audit: Audit,
    since: Instant,
    line: Line,
    /// Whether it is a reading of metrics or health: of no interest in the log when it succeeds.
    routine: bool,
}

impl Audit {
    /// Lines go to `file`, too.
    pub(crate) fn new(file: Option<AuditFile>, metrics: Arc<Metrics>) -> Self {
        Self { file: file.map(Arc::new), metrics }
    }

    /// Opens the file again, after somebody moved it away. Nothing without a file. (A moved file
    /// is noticed at the next line, too.)
    pub fn reopen(&self) {
        if let Some(file) = &self.file
            && let Err(error) = file.reopen()
        {
            let error = &error as &dyn std::error::Error;
            tracing::error!(path = %file.path().display(), error, "audit file not opened again");
        }
    }

    /// The line of a request that stands before authentication.
    pub(crate) fn begin(
        &self,
        request_id: &RequestId,
        peer: SocketAddr,
        method: &Method,
        path: &str,
        presented: Presented<'_>,
    ) -> Record {
        let mut shown = Vec::new();
        if !presented.certificates.is_empty() {
            shown.push("certificate");
        }
        if bears_token(presented.headers) {
            shown.push("token");
        }
        Record {
            audit: self.clone(),
            since: Instant::now(),
            routine: false,
            line: Line {
                time: Timestamp::now(),
                request_id: request_id.as_str().to_owned(),
                trace_id: crate::trace::trace_id(),
                peer,
                presented: shown,
                user: None,
                method: method.to_string(),
                verb: "",
                path: path.to_owned(),
                target: None,
                status: None,
                result: "cancelled",
                reason: None,
                duration_seconds: 0.0,
                archive: None,
            },
        }
    }

    fn write(&self, line: &Line, routine: bool) {
        log(line, routine);
        let Some(file) = &self.file else { return };
        let written = match serde_json::to_vec(line) {
            Ok(json) => file.append(json),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = written {
            self.metrics.audit_failures.inc();
            let error = &error as &dyn std::error::Error;
            tracing::error!(path = %file.path().display(), error, "audit line not written");
        }
    }
}

/// Whether a token is shown, in the header or as a websocket protocol.
fn bears_token(headers: &HeaderMap) -> bool {
    let has = |name: &str, text: &str| {
        headers.get_all(name).iter().any(|value| {
            value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains(text))
        })
    };
    has("authorization", "bearer") || has("sec-websocket-protocol", "base64url.bearer.")
}

impl Record {
    /// The caller is known, and asks for `verb`.
    pub(crate) fn user(&mut self, user: &User, verb: &'static str) {
        self.line.user = Some(Who {
            name: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            credential: user.credential.as_str(),
            credential_id: credential_id(user).map(str::to_owned),
        });
        self.line.verb = verb;
    }

    pub(crate) fn target(&mut self, target: &Target) {
        self.line.target = Some(Whose {
            namespace: target.namespace.clone(),
            pod: target.pod.clone(),
            container: target.container.clone(),
        });
    }

    /// It is a reading of metrics or health.
    pub(crate) fn routine(&mut self) {
        self.routine = true;
    }

    pub(crate) fn archive(&mut self, archive: Archive) {
        self.line.archive = Some(archive);
    }

    /// Why not: the answer's text.
    pub(crate) fn reason(&mut self, text: &str) {
        let text = text.trim_end();
        self.line.reason = Some(text[..text.floor_char_boundary(REASON_BYTES)].to_owned());
    }

    /// One word for what came of it.
    pub(crate) fn result(&mut self, result: &'static str) {
        self.line.result = result;
    }

    /// Answered.
    pub(crate) fn end(mut self, status: StatusCode) {
        self.line.status = Some(status.as_u16());
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.line.duration_seconds = self.since.elapsed().as_secs_f64();
        if self.line.status.is_none() {
            self.line.result = "cancelled";
        }
        self.audit.write(&self.line, self.routine);
    }
}

/// The same line in the log.
fn log(line: &Line, routine: bool) {
    let user = line.user.as_ref();
    let target = line.target.as_ref();
    let archive = line.archive.as_ref();
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                target: "audit",
                request_id = line.request_id,
                trace_id = line.trace_id,
                peer = %line.peer,
                presented = ?line.presented,
                user = user.map(|user| &*user.name),
                groups = user.map(|user| tracing::field::debug(&user.groups)),
                credential = user.map(|user| user.credential),
                credential_id = user.and_then(|user| user.credential_id.as_deref()),
                method = line.method,
                verb = line.verb,
                path = line.path,
                namespace = target.map(|target| &*target.namespace),
                pod = target.map(|target| &*target.pod),
                container = target.map(|target| &*target.container),
                status = line.status,
                result = line.result,
                reason = line.reason,
                seconds = line.duration_seconds,
                archive = archive.map(|archive| &*archive.path),
                bytes = archive.and_then(|archive| archive.bytes),
                digest = archive.and_then(|archive| archive.digest.as_deref()),
            )
        };
    }
    if routine && line.status.is_some_and(|status| status < 400) {
        event!(debug);
    } else {
        event!(info);
    }
}

/// What can be said of the archive at `path`: reads its end and its headers, not its data.
pub(crate) async fn describe(path: String, bytes: Option<u64>) -> Archive {
    let place = path.clone();
    let read = tokio::task::spawn_blocking(move || {
        let size = std::fs::metadata(&place).map(|metadata| metadata.len()).ok();
        let id = cryopod_archive::Archive::open(place.as_ref()).ok().and_then(|one| one.id());
        (size, id)
    });
    let (size, id) = read.await.unwrap_or_default();
    Archive {
        path,
        bytes: size.or(bytes),
        digest_of: id.map(|_| cryopod_archive::DIGESTS_NAME),
        digest: id.map(|id| format!("blake3:{}", id.to_hex())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(audit: &Audit, headers: &HeaderMap) -> Record {
        let id = RequestId::of(headers);
        let presented = Presented { headers, certificates: &[] };
        let peer = SocketAddr::from(([127, 0, 0, 1], 7));
        audit.begin(&id, peer, &Method::POST, "/checkpoint/n/p/c", presented)
    }

    fn lines(path: &std::path::Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_says_who_and_what_and_never_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let audit = Audit::new(Some(AuditFile::open(&path).unwrap()), Arc::default());
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer s3cret".parse().unwrap());
        headers.insert("x-request-id", "abc".parse().unwrap());
        let mut one = record(&audit, &headers);
        one.user(&User::anonymous(), "create");
        one.target(&Target { namespace: "n".into(), pod: "p".into(), container: "c".into() });
        one.result("done");
        one.reason(&"é".repeat(REASON_BYTES));
        one.end(StatusCode::OK);
        drop(record(&audit, &headers));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("s3cret"), "{text}");
        let lines = lines(&path);
        let one = &lines[0];
        assert_eq!(one["requestId"], "abc");
        assert_eq!(one["presented"], serde_json::json!(["token"]));
        assert_eq!(one["user"]["name"], "system:anonymous");
        assert_eq!(one["user"]["credential"], "anonymous");
        for (key, value) in [("namespace", "n"), ("pod", "p"), ("container", "c")] {
            assert_eq!(one[key], value);
        }
        assert_eq!(one["status"], 200);
        assert_eq!(one["result"], "done");
        assert_eq!(one["reason"].as_str().unwrap().len(), REASON_BYTES);
        // The client did not wait for the answer.
        assert_eq!(lines[1]["result"], "cancelled");
        assert!(lines[1].get("status").is_none());
        assert!(lines[1].get("user").is_none());
    }

    #[tokio::test]
    async fn a_file_that_is_no_archive_has_a_size_and_no_digest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        std::fs::write(&path, b"archive").unwrap();
        let path = path.to_str().unwrap().to_owned();
        let seen = describe(path.clone(), Some(9)).await;
        let expected =
            Archive { path: path.clone(), bytes: Some(7), digest: None, digest_of: None };
        assert_eq!(seen, expected);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(describe(path, Some(9)).await.bytes, Some(9));
    }
}
