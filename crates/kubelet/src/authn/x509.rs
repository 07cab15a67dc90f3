//! Client certificates: common name -> user, organizations -> groups.
//!
//! The handshake has only proven that the caller holds the leaf's key. Here, for every request,
//! the chain is verified against the client CA as it is now (the file may have changed since the
//! connection was made), with the key usage "client authentication". A bad chain is a failure; a
//! good one without a common name is nobody. The last common name counts and a name in a string
//! type that cannot be read is a failure, so that two readers of one certificate never see two
//! different users.
//!
//! Stricter than Go's verifier in one point: a certificate marked as a CA is no client.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::DistinguishedName;
use rustls::RootCertStore;
use rustls::client::VerifierBuilderError;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, watch};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::{Authenticator, Credential, Presented, User};
use crate::reload::{ReadError, Watched};
use crate::{BoxError, BoxFuture, tls};

/// The key of [`User::extra`] that names the credential.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// The id of what a user showed: `X509SHA256=` of a certificate, `JTI=` of a token.
pub(crate) fn credential_id(user: &User) -> Option<&str> {
    user.extra.get(CREDENTIAL_ID).and_then(|ids| ids.first()).map(String::as_str)
}

/// Why a client CA file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientCaError {
    /// It cannot be read.
    #[error("client CA file")]
    Read(#[from] ReadError),
    /// It is not PEM.
    #[error("client CA file {} is not PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        #[source]
        source: pem::Error,
    },
    /// It has no certificate.
    #[error("client CA file {} holds no certificate", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// One of its certificates cannot be a trust anchor.
    #[error("client CA file {}: certificate {number} is unusable", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        number: usize,
        /// What the verifier said.
        #[source]
        source: rustls::Error,
    },
    /// The verifier does not take the whole.
    #[error("client CA file {} makes no verifier", path.display())]
    Verifier {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: VerifierBuilderError,
    },
}

/// Why a presented certificate is bad.
#[derive(Debug, thiserror::Error)]
pub enum X509Error {
    /// The chain does not lead to the client CA, has expired, or is for another use.
    #[error("client certificate sha256:{sha256} is not good")]
    Chain {
        /// Of the leaf, hexadecimal.
        sha256: String,
        /// What the verifier said.
        #[source]
        source: rustls::Error,
    },
    /// The leaf cannot be read.
    #[error("client certificate sha256:{sha256} cannot be read")]
    Malformed {
        /// Of the leaf, hexadecimal.
        sha256: String,
        /// What the parser said.
        #[source]
        source: x509_parser::nom::Err<x509_parser::error::X509Error>,
    },
    /// A name is in a string type that cannot be read.
    #[error("client certificate sha256:{sha256} has an unreadable {attribute} in its subject")]
    Name {
        /// Of the leaf, hexadecimal.
        sha256: String,
        /// `common name` or `organization`.
        attribute: &'static str,
        /// What the parser said.
        #[source]
        source: x509_parser::error::X509Error,
    },
}

/// The client CA file, and the authenticator over it.
#[derive(Debug)]
pub struct ClientCa {
    path: PathBuf,
    file: Mutex<Watched>,
    current: watch::Sender<Bundle>,
}

/// One content of the file.
#[derive(Clone, Debug)]
struct Bundle {
    verifier: Arc<dyn ClientCertVerifier>,
    subjects: Arc<[DistinguishedName]>,
}

impl ClientCa {
    /// Reads the file.
    ///
    /// # Errors
    /// [`ClientCaError`]: unreadable, not PEM, empty, or not usable.
    pub async fn load(path: &Path) -> Result<Self, ClientCaError> {
        let mut file = Watched::new([path.to_owned()]);
        let content = file.changed().await?.and_then(|mut files| files.pop()).unwrap_or_default();
        let bundle = parse_bundle(path, &content)?;
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(file),
            current: watch::Sender::new(bundle),
        })
    }

    /// Reads the file again if it changed; returns whether it did. On an error the last good
    /// content stays in force.
    ///
    /// # Errors
    /// As [`ClientCa::load`].
    pub async fn reload(&self) -> Result<bool, ClientCaError> {
        let content = self.file.lock().await.changed().await?.and_then(|mut files| files.pop());
        let Some(content) = content else { return Ok(false) };
        self.current.send_replace(parse_bundle(&self.path, &content)?);
        Ok(true)
    }

    /// The names of the CAs, to be hinted at in the handshake.
    pub(crate) fn subjects(&self) -> Arc<[DistinguishedName]> {
        Arc::clone(&self.current.borrow().subjects)
    }

    /// The user of a chain at a time.
    fn identify(
        &self,
        leaf: &CertificateDer<'static>,
        intermediates: &[CertificateDer<'static>],
        now: UnixTime,
    ) -> Result<Option<User>, X509Error> {
        let sha256 = hex(&Sha256::digest(leaf));
        let verifier = Arc::clone(&self.current.borrow().verifier);
        if let Err(source) = verifier.verify_client_cert(leaf, intermediates, now) {
            return Err(X509Error::Chain { sha256, source });
        }
        let certificate = match X509Certificate::from_der(leaf) {
            Ok((_, certificate)) => certificate,
            Err(source) => return Err(X509Error::Malformed { sha256, source }),
        };
        let unreadable = |attribute| {
            let sha256 = sha256.clone();
            move |source| X509Error::Name { sha256, attribute, source }
        };
        let subject = certificate.subject();
        let name = match subject.iter_common_name().last() {
            None => return Ok(None),
            Some(name) => name.as_str().map_err(unreadable("common name"))?,
        };
        if name.is_empty() {
            return Ok(None);
        }
        let groups = subject
            .iter_organization()
            .map(|group| group.as_str().map(str::to_owned))
            .collect::<Result<_, _>>()
            .map_err(unreadable("organization"))?;
        let id = vec![format!("X509SHA256={sha256}")];
        Ok(Some(User {
            name: name.to_owned(),
            uid: String::new(),
            groups,
            extra: BTreeMap::from([(CREDENTIAL_ID.to_owned(), id)]),
            credential: Credential::ClientCertificate,
        }))
    }
}

impl Authenticator for ClientCa {
    fn authenticate<'a>(
        &'a self,
        presented: Presented<'a>,
    ) -> BoxFuture<'a, Result<Option<User>, BoxError>> {
        let user = match presented.certificates.split_first() {
            None => Ok(None),
            Some((leaf, intermediates)) => {
                self.identify(leaf, intermediates, UnixTime::now()).map_err(BoxError::from)
            }
        };
        Box::pin(async move { user })
    }
}

fn parse_bundle(path: &Path, content: &[u8]) -> Result<Bundle, ClientCaError> {
    let mut roots = RootCertStore::empty();
    for (at, certificate) in CertificateDer::pem_slice_iter(content).enumerate() {
        let certificate =
            certificate.map_err(|source| ClientCaError::Pem { path: path.to_owned(), source })?;
        roots.add(certificate).map_err(|source| ClientCaError::Certificate {
            path: path.to_owned(),
            number: at + 1,
            source,
        })?;
    }
    if roots.is_empty() {
        return Err(ClientCaError::Empty { path: path.to_owned() });
    }
    let subjects = roots.subjects().into();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider())
        .build()
        .map_err(|source| ClientCaError::Verifier { path: path.to_owned(), source })?;
    Ok(Bundle { verifier, subjects })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
