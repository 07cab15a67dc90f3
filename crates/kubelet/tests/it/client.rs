//! An HTTPS client that shows every header.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::pki::Identity;

/// A way to connect: what is trusted and what is presented.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Client {
    pub(crate) fn new(
        address: SocketAddr,
        trusted: CertificateDer<'static>,
        identity: Option<&Identity>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(trusted).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            Some(identity) => {
                builder.with_client_auth_cert(identity.chain.clone(), identity.key()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        Self { address, config: Arc::new(config) }
    }

    /// A TLS stream with these protocols offered.
    pub(crate) async fn stream(&self, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = (*self.config).clone();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let socket = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, socket).await
    }

    pub(crate) async fn try_http1(
        &self,
    ) -> std::io::Result<hyper::client::conn::http1::SendRequest<Full<Bytes>>> {
        let stream = TokioIo::new(self.stream(&["http/1.1"]).await?);
        let (sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    pub(crate) async fn http2(&self) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
        let stream = TokioIo::new(self.stream(&["h2"]).await.unwrap());
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// One HTTP/1.1 request on a connection of its own.
    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut sender = self.try_http1().await.unwrap();
        let request = request(method, path, headers);
        read(sender.send_request(request).await.unwrap()).await
    }

    /// The same over h2.
    pub(crate) async fn send_h2(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut sender = self.http2().await;
        let request = request(method, &format!("https://localhost{path}"), headers);
        read(sender.send_request(request).await.unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str) -> Answer {
        self.send("POST", path, &[]).await
    }
}

pub(crate) fn request(
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Request<Full<Bytes>> {
    let mut builder = Request::builder().method(method).uri(target);
    if target.starts_with('/') {
        builder = builder.header("host", "localhost");
    }
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Full::default()).unwrap()
}

pub(crate) async fn read(response: http::Response<Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: parts.status,
        version: parts.version,
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

/// A client that presents a certificate with a key that is not its own.
pub(crate) struct Forged(Arc<rustls::sign::CertifiedKey>);

impl std::fmt::Debug for Forged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Forged")
    }
}

impl Forged {
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: rustls_pki_types::PrivateKeyDer<'static>,
    ) -> Self {
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        Self(Arc::new(rustls::sign::CertifiedKey::new(chain, key)))
    }

    pub(crate) async fn post(
        self,
        address: SocketAddr,
        trusted: CertificateDer<'static>,
        path: &str,
    ) -> Result<Answer, Box<dyn std::error::Error>> {
        let mut client = Client::new(address, trusted, None);
        let mut config = (*client.config).clone();
        config.client_auth_cert_resolver = Arc::new(self);
        client.config = Arc::new(config);
        let mut sender = client.try_http1().await?;
        Ok(read(sender.send_request(request("POST", path, &[])).await?).await)
    }
}

impl rustls::client::ResolvesClientCert for Forged {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
