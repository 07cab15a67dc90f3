//! A node with an open HTTPS door.

use std::net::SocketAddr;

use http::{Request, Response};

use crate::certificates::Certificates;
use crate::client::send;
use crate::harness::{Node, wait_for};

/// A node with an HTTPS door, and what one needs to come in by it.
pub(crate) struct Door {
    pub(crate) node: Node,
    pub(crate) certificates: Certificates,
    pub(crate) address: SocketAddr,
    /// Of the certificates, which the server looks at now and then.
    _files: tempfile::TempDir,
}

impl Door {
    /// A node whose HTTPS door is open to its own certificates.
    pub(crate) fn open(more: &[&str]) -> Self {
        let certificates = Certificates::make().unwrap();
        let files = tempfile::tempdir().unwrap();
        let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
        for (name, pem) in [
            ("ca", &certificates.authority),
            ("crt", &certificates.server.certificate),
            ("key", &certificates.server.key),
        ] {
            std::fs::write(path(name), pem).unwrap();
        }
        let (ca, crt, key) = (path("ca"), path("crt"), path("key"));
        let mut options = vec!["--client-ca-file", &ca];
        options.extend(["--tls-cert-file", &crt, "--tls-private-key-file", &key]);
        options.extend(more);
        let node = Node::start_with(&options);
        let address = wait_for("the address in the log", || told_address(&node.log()));
        Self { node, certificates, address, _files: files }
    }

    /// Posts nothing to a path.
    pub(crate) async fn post(&self, path: &str) -> Response<String> {
        self.send(Request::post(path)).await
    }

    /// Sends a request, with the client's certificate.
    pub(crate) async fn send(&self, request: http::request::Builder) -> Response<String> {
        send(self.address, request, &self.certificates, true).await.unwrap()
    }
}

/// The address of the HTTPS door, by the log of its server.
pub(crate) fn told_address(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.rsplit_once("serving HTTPS address=")?;
    rest.split_whitespace().next()?.parse().ok()
}
