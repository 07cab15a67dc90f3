//! Requests to a node's HTTPS API, straight or by the API server's proxy.
//!
//! Nothing is sent twice: a checkpoint that failed half-way must not be taken again behind the
//! user's back.

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use kube::client::Body;
use kube::config::AuthInfo;
use serde::de::DeserializeOwned;

use super::ServerArgs;
use crate::exit::Refused;

/// Bytes of an answer that is read whole.
const MOST_BYTES: usize = 64 << 20;
/// Bytes of a refusal's text that are shown.
const MOST_SHOWN: usize = 2048;

/// Why a node did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    /// It cannot be reached.
    #[error("no answer from {server}")]
    Unreachable {
        /// As given.
        server: String,
        /// What went wrong.
        #[source]
        source: kube::Error,
    },
    /// It said no.
    #[error("{server} answered {status}: {detail}")]
    Refused {
        /// As given.
        server: String,
        /// The answer's status.
        status: StatusCode,
        /// The answer's own words.
        detail: String,
    },
    /// The answer broke off.
    #[error("the answer of {server} broke off")]
    Broken {
        /// As given.
        server: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is not what it should be.
    #[error("the answer of {server} is not one of cryopod")]
    Strange {
        /// As given.
        server: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// A node's API.
#[derive(Clone)]
pub(crate) struct Remote {
    client: kube::Client,
    /// What errors call it.
    server: String,
    /// Before every path; of a node's proxy, where the client is the API server's.
    prefix: String,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Remote {
    /// The node that the options name, if they name one.
    pub(crate) fn open(args: &ServerArgs) -> anyhow::Result<Option<Self>> {
        let Some(server) = &args.server else { return Ok(None) };
        let url: http::Uri = server.parse().with_context(|| format!("--server {server}"))?;
        if url.scheme_str() != Some("https") || url.authority().is_none() {
            let reason = format!("--server {server}: an address is https://HOST:PORT");
            return Err(Refused { reason }.into());
        }
        let text = |path: &std::path::Path| {
            path.to_str().map(str::to_owned).context("a certificate's path is not UTF-8")
        };
        let mut config = kube::Config::new(url);
        config.default_retry = false;
        if let Some(path) = &args.cacert {
            let pem =
                std::fs::read(path).with_context(|| format!("--cacert {}", path.display()))?;
            config.root_cert =
                Some(certificates(&pem).with_context(|| {
                    format!("--cacert {}: no certificates in it", path.display())
                })?);
        }
        config.auth_info = AuthInfo {
            client_certificate: args.cert.as_deref().map(text).transpose()?,
            client_key: args.key.as_deref().map(text).transpose()?,
            ..AuthInfo::default()
        };
        if let Some(token) = &args.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
                .context("--token is no token")?;
            value.set_sensitive(true);
            config.headers.push((AUTHORIZATION, value));
        }
        let client = kube::Client::try_from(config).context("prepare TLS")?;
        Ok(Some(Self {
            client,
            server: server.trim_end_matches('/').to_owned(),
            prefix: String::new(),
        }))
    }

    /// A node behind an API server's client.
    pub(crate) fn behind(client: kube::Client, node: &str) -> Self {
        Self {
            client,
            server: format!("node {node}"),
            prefix: format!("/api/v1/nodes/{}/proxy", segment(node)),
        }
    }

    /// Sends a request; the answer is a good one.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: impl Into<Bytes>,
    ) -> Result<Response<Body>, RemoteError> {
        let mut request = Request::new(Body::from(body.into()));
        *request.method_mut() = method;
        *request.headers_mut() = headers;
        let target = format!("{}{path}", self.prefix);
        *request.uri_mut() = target.parse().map_err(|error: http::uri::InvalidUri| {
            self.unreachable(kube::Error::HttpError(error.into()))
        })?;
        let answer = self.client.send(request).await.map_err(|error| self.unreachable(error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let bytes = self.whole(answer).await.unwrap_or_default();
        Err(RemoteError::Refused { server: self.server.clone(), status, detail: detail(&bytes) })
    }

    /// The answer of a GET, as JSON.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, RemoteError> {
        let answer = self.send(Method::GET, path, HeaderMap::new(), Bytes::new()).await?;
        self.parse(answer).await
    }

    /// The answer of a POST of JSON, as JSON.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<T, RemoteError> {
        let json = HeaderValue::from_static("application/json");
        let headers = [(CONTENT_TYPE, json)].into_iter().collect();
        let answer = self.send(Method::POST, path, headers, body).await?;
        self.parse(answer).await
    }

    async fn parse<T: DeserializeOwned>(&self, answer: Response<Body>) -> Result<T, RemoteError> {
        let bytes = self.whole(answer).await?;
        serde_json::from_slice(&bytes)
            .map_err(|source| RemoteError::Strange { server: self.server.clone(), source })
    }

    async fn whole(&self, answer: Response<Body>) -> Result<Bytes, RemoteError> {
        match Limited::new(answer.into_body(), MOST_BYTES).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(source) => Err(self.broken(source)),
        }
    }

    pub(crate) fn broken(&self, source: Box<dyn std::error::Error + Send + Sync>) -> RemoteError {
        RemoteError::Broken { server: self.server.clone(), source }
    }

    fn unreachable(&self, source: kube::Error) -> RemoteError {
        RemoteError::Unreachable { server: self.server.clone(), source }
    }
}

/// Certificates of a PEM text.
fn certificates(pem: &[u8]) -> Option<Vec<Vec<u8>>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all: Vec<Vec<u8>> = all.ok()?.into_iter().map(|one| one.to_vec()).collect();
    (!all.is_empty()).then_some(all)
}

/// A refusal's own words: of a problem document, of an API server's Status, or as they are.
fn detail(body: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = match json["detail"].as_str().or_else(|| json["message"].as_str()) {
        Some(text) => text.to_owned(),
        None => String::from_utf8_lossy(body).trim().to_owned(),
    };
    text.chars().take(MOST_SHOWN).collect()
}

/// A text as one segment of a path.
pub(crate) fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        // What RFC 3986 lets stand in a segment.
        if byte.is_ascii_alphanumeric() || b"-._~:@!$&'()*+,;=".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_archives_go_through_a_path() {
        let name = "checkpoint-p_n-c-2026-11-25T10:00:00+01:00.tar";
        assert_eq!(segment(name), name);
        assert_eq!(segment("a/b ?%#é"), "a%2Fb%20%3F%25%23%C3%A9");
    }

    #[test]
    fn refusals_are_told_in_their_own_words() {
        assert_eq!(detail(br#"{"type":"about:blank","detail":"no archive a"}"#), "no archive a");
        assert_eq!(
            detail(br#"{"kind":"Status","message":"nodes \"n\" not found"}"#),
            "nodes \"n\" not found"
        );
        assert_eq!(detail(b"Forbidden (user=a)\n"), "Forbidden (user=a)");
        assert_eq!(detail(b""), "");
        assert_eq!(detail(&[b'a'; 5000]).len(), MOST_SHOWN);
    }

    #[test]
    fn only_https_is_spoken() {
        let open = |server: &str| {
            Remote::open(&ServerArgs { server: Some(server.to_owned()), ..ServerArgs::default() })
        };
        for server in ["http://node:10250", "node:10250", "node", "/x", ""] {
            assert!(open(server).is_err(), "{server}");
        }
        assert!(Remote::open(&ServerArgs::default()).unwrap().is_none());
    }
}
