//! TLS: the server's side of the handshake, and nothing about who the client is.
//!
//! A client certificate is asked for when there is a client CA, never required, and never judged
//! in the handshake: a bad one must get an HTTP answer (401), not a broken connection. What the
//! handshake does prove is that the client holds the certificate's key.

mod client;
mod policy;
mod serving;

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use tokio::sync::watch;

use crate::authn::ClientCa;

pub use policy::{MinVersion, Policy, PolicyError};
pub use serving::{ServingCertificate, ServingError};

/// The one crypto provider. Named everywhere, never taken from the process default: two
/// providers in one tree would make that default panic.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The crypto provider has nothing for the wanted versions. Cannot happen with ours.
#[derive(Debug, thiserror::Error)]
#[error("the wanted versions of TLS are not available")]
pub struct ProtocolError(#[source] rustls::Error);

/// The configuration for new connections, kept current.
#[derive(Debug)]
pub(crate) struct Handshakes {
    certificate: Arc<ServingCertificate>,
    client_ca: Option<Arc<ClientCa>>,
    policy: Policy,
    config: watch::Sender<Arc<ServerConfig>>,
}

impl Handshakes {
    pub(crate) fn new(
        certificate: Arc<ServingCertificate>,
        client_ca: Option<Arc<ClientCa>>,
        policy: Policy,
    ) -> Result<Self, ProtocolError> {
        let config = build(&certificate, client_ca.as_deref(), &policy)?;
        Ok(Self { certificate, client_ca, policy, config: watch::Sender::new(Arc::new(config)) })
    }

    /// The configuration of the moment.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.borrow())
    }

    /// Looks at all files again. What is wrong with them is logged here; the last good content
    /// stays in force.
    pub(crate) async fn reload(&self) {
        match self.certificate.reload().await {
            Ok(false) => {}
            Ok(true) => tracing::info!("serving certificate changed"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "serving certificate not reloaded");
            }
        }
        let Some(client_ca) = &self.client_ca else { return };
        match client_ca.reload().await {
            Ok(false) => {}
            Ok(true) => match build(&self.certificate, Some(client_ca), &self.policy) {
                Ok(config) => {
                    self.config.send_replace(Arc::new(config));
                    tracing::info!("client CA changed");
                }
                Err(error) => tracing::error!(error = &error as &dyn std::error::Error),
            },
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "client CA not reloaded");
            }
        }
    }
}

fn build(
    certificate: &Arc<ServingCertificate>,
    client_ca: Option<&ClientCa>,
    policy: &Policy,
) -> Result<ServerConfig, ProtocolError> {
    let provider = Arc::new(policy.narrow(Arc::unwrap_or_clone(provider())));
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(policy.versions())
        .map_err(ProtocolError)?;
    let builder = match client_ca {
        Some(ca) => builder.with_client_cert_verifier(Arc::new(client::AskOnly::new(
            ca.subjects(),
            provider.signature_verification_algorithms,
        ))),
        None => builder.with_no_client_auth(),
    };
    let resolver = Arc::clone(certificate) as Arc<dyn rustls::server::ResolvesServerCert>;
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
