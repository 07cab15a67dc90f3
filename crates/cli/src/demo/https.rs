//! One HTTPS request with a client certificate, as `curl --cert --key --cacert -X POST` makes it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificates::Certificates;

/// Posts nothing to `path` and gives the answer. With `identify` false no certificate is shown.
pub(super) async fn post(
    address: SocketAddr,
    path: &str,
    certificates: &Certificates,
    identify: bool,
) -> anyhow::Result<Response<String>> {
    send(address, Request::post(path), certificates, identify).await
}

/// Sends a request without a body and reads the answer to its end.
pub(super) async fn send(
    address: SocketAddr,
    request: http::request::Builder,
    certificates: &Certificates,
    identify: bool,
) -> anyhow::Result<Response<String>> {
    let (parts, body) = exchange(address, request, certificates, identify).await?.into_parts();
    let body = body.collect().await.context("read the answer")?.to_bytes();
    Ok(Response::from_parts(parts, String::from_utf8_lossy(&body).into_owned()))
}

/// Sends a request without a body; the answer's own is still to be read.
pub(super) async fn exchange(
    address: SocketAddr,
    request: http::request::Builder,
    certificates: &Certificates,
    identify: bool,
) -> anyhow::Result<Response<Incoming>> {
    let stream = begin(address, certificates, identify).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("begin HTTP")?;
    // It ends with the sender; what goes wrong on it, the request itself reports.
    tokio::spawn(connection);
    let request = request
        .header(http::header::HOST, address.to_string())
        .body(Empty::<bytes::Bytes>::new())
        .context("make the request")?;
    sender.send_request(request).await.context("send the request")
}

/// A TLS connection on which nothing was said yet.
pub(super) async fn begin(
    address: SocketAddr,
    certificates: &Certificates,
    identify: bool,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::new(config(certificates, identify)?));
    let stream =
        TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    connector.connect(ServerName::from(address.ip()), stream).await.context("begin TLS")
}

fn config(certificates: &Certificates, identify: bool) -> anyhow::Result<ClientConfig> {
    let certificate =
        |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).context("read a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&certificates.authority)?).context("trust the authority")?;
    // Named, because another part of the program may bring a second provider along.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose a version of TLS")?
        .with_root_certificates(roots);
    if !identify {
        return Ok(builder.with_no_client_auth());
    }
    let chain = vec![certificate(&certificates.client.certificate)?];
    let key = PrivateKeyDer::from_pem_slice(certificates.client.key.as_bytes())
        .context("read the client's key")?;
    builder.with_client_auth_cert(chain, key).context("show the client's certificate")
}
