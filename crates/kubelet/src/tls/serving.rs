//! The serving certificate: given files, or a self-signed one in `kubelet.crt` and `kubelet.key`.
//!
//! Both are files, and both are read again when they change. A self-signed pair that is there is
//! used as it is, whoever made it (a real kubelet keeps its own under the same names); only one
//! that is missing altogether is made, and only one made here is renewed, a week before its end.
//! Half a pair is refused rather than overwritten.

use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{Span, Timestamp, tz::TimeZone};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::{Mutex, watch};
use x509_parser::prelude::FromDer as _;

use crate::reload::{ReadError, Watched};

/// The organization in certificates made here, by which they are known again.
const ORGANIZATION: &str = "cryopod self-signed";
/// How long before its end a certificate made here is renewed, in seconds.
const RENEW_BEFORE: i64 = 7 * 24 * 3600;

/// Why there is no serving certificate.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// A file cannot be read.
    #[error("serving certificate")]
    Read(#[from] ReadError),
    /// A file is not PEM, or not of the right kind.
    #[error("{} holds no {what}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        /// What the reader said.
        #[source]
        source: pem::Error,
    },
    /// Key and certificate do not fit together, or are of an unknown kind.
    #[error("certificate {} and key {} cannot be used together", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the TLS library said.
        #[source]
        source: rustls::Error,
    },
    /// One of the two files exists.
    #[error("{} exists without {}: remove it or add the other", present.display(), missing.display())]
    Half {
        /// The file that is there.
        present: PathBuf,
        /// The file that is not.
        missing: PathBuf,
    },
    /// No certificate could be made.
    #[error("cannot make a self-signed certificate for {name:?}")]
    Make {
        /// The node's name.
        name: String,
        /// What the generator said.
        #[source]
        source: rcgen::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// The certificate served, and where it comes from.
#[derive(Debug)]
pub struct ServingCertificate {
    pair: Pair,
    /// The node's name, when the pair is ours to make and renew.
    self_signed: Option<String>,
    files: Mutex<Watched>,
    current: watch::Sender<Arc<CertifiedKey>>,
}

#[derive(Clone, Debug)]
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

impl ServingCertificate {
    /// Serves the given files.
    ///
    /// # Errors
    /// [`ServingError`]: unreadable, not PEM, or not a pair.
    pub async fn from_files(certificate: &Path, key: &Path) -> Result<Self, ServingError> {
        let pair = Pair { certificate: certificate.to_owned(), key: key.to_owned() };
        Self::open(pair, None).await
    }

    /// Serves `kubelet.crt` and `kubelet.key` of `folder`; makes both, and the folder (0700),
    /// where they are missing: valid for a year, for `node`, `localhost` and 127.0.0.1.
    ///
    /// # Errors
    /// [`ServingError`].
    pub async fn self_signed(folder: &Path, node: &str) -> Result<Self, ServingError> {
        let pair = Pair::in_folder(folder);
        pair.ensure(node)?;
        Self::open(pair, Some(node.to_owned())).await
    }

    /// What [`ServingCertificate::self_signed`] would find: whether a pair is there.
    ///
    /// # Errors
    /// [`ServingError`]: half a pair, or one that cannot be served.
    pub(crate) async fn is_in_folder(folder: &Path) -> Result<bool, ServingError> {
        let pair = Pair::in_folder(folder);
        if !pair.is_complete()? {
            return Ok(false);
        }
        Self::open(pair, None).await.map(|_| true)
    }

    async fn open(pair: Pair, self_signed: Option<String>) -> Result<Self, ServingError> {
        let mut files = Watched::new([pair.certificate.clone(), pair.key.clone()]);
        let contents = files.changed().await?.unwrap_or_default();
        let current = watch::Sender::new(Arc::new(pair.parse(&contents)?));
        Ok(Self { pair, self_signed, files: Mutex::new(files), current })
    }

    /// The certificate's file: what a client may trust when it is self-signed.
    pub fn path(&self) -> &Path {
        &self.pair.certificate
    }

    /// From when to when the certificate served now is valid, in seconds since 1970; `None` for
    /// one that cannot be read.
    pub(crate) fn validity(&self) -> Option<(i64, i64)> {
        let current = Arc::clone(&self.current.borrow());
        let (_, parsed) =
            x509_parser::certificate::X509Certificate::from_der(current.cert.first()?).ok()?;
        let validity = parsed.validity();
        Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
    }

    /// Reads the files again if they changed, and renews what was made here and is about to end;
    /// returns whether another certificate is served now.
    ///
    /// # Errors
    /// As at the start; the last good certificate stays in force. Two files cannot be replaced
    /// at one instant, so an error may mean that the second is on its way.
    pub async fn reload(&self) -> Result<bool, ServingError> {
        let mut files = self.files.lock().await;
        if let Some(node) = &self.self_signed
            && ends_soon(self.current.borrow().cert.first(), RENEW_BEFORE)
        {
            self.pair.ensure(node)?;
        }
        let Some(contents) = files.changed().await? else { return Ok(false) };
        self.current.send_replace(Arc::new(self.pair.parse(&contents)?));
        Ok(true)
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.borrow()))
    }
}

impl Pair {
    fn parse(&self, contents: &[Vec<u8>]) -> Result<CertifiedKey, ServingError> {
        let [certificate, key] = contents else {
            unreachable!("two files are watched");
        };
        let unusable = |path: &Path, what| {
            let path = path.to_owned();
            move |source| ServingError::Pem { path, what, source }
        };
        let chain = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<Vec<_>, _>>()
            .and_then(
                |chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) },
            )
            .map_err(unusable(&self.certificate, "certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(unusable(&self.key, "private key"))?;
        CertifiedKey::from_der(chain, key, &crate::tls::provider()).map_err(|source| {
            ServingError::Pair {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
                source,
            }
        })
    }

    fn in_folder(folder: &Path) -> Self {
        Self { certificate: folder.join("kubelet.crt"), key: folder.join("kubelet.key") }
    }

    /// Both files are there, or neither.
    fn is_complete(&self) -> Result<bool, ServingError> {
        let there = |path: &Path| fs::symlink_metadata(path).is_ok();
        let half = |present: &Path, missing: &Path| {
            Err(ServingError::Half { present: present.to_owned(), missing: missing.to_owned() })
        };
        match (there(&self.certificate), there(&self.key)) {
            (true, true) => Ok(true),
            (false, false) => Ok(false),
            (true, false) => half(&self.certificate, &self.key),
            (false, true) => half(&self.key, &self.certificate),
        }
    }

    /// Makes the pair if it is missing, or if it was made here and is about to end.
    fn ensure(&self, node: &str) -> Result<(), ServingError> {
        if self.is_complete()? && !self.is_ours_and_ends_soon() {
            return Ok(());
        }
        if let Some(folder) = self.certificate.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(|source| ServingError::Write { path: folder.to_owned(), source })?;
        }
        let (certificate, key) = generate(node)
            .map_err(|source| ServingError::Make { name: node.to_owned(), source })?;
        write_private(&self.key, &key)?;
        write_private(&self.certificate, &certificate)
    }

    fn is_ours_and_ends_soon(&self) -> bool {
        let Ok(pem) = fs::read(&self.certificate) else { return false };
        let Ok(leaf) = CertificateDer::from_pem_slice(&pem) else { return false };
        let Ok((_, parsed)) = x509_parser::certificate::X509Certificate::from_der(&leaf) else {
            return false;
        };
        let ours = parsed
            .subject()
            .iter_organization()
            .any(|organization| organization.as_str() == Ok(ORGANIZATION));
        ours && ends_soon(Some(&leaf), RENEW_BEFORE)
    }
}

/// Whether a certificate ends within `seconds` from now.
fn ends_soon(leaf: Option<&CertificateDer<'_>>, seconds: i64) -> bool {
    leaf.and_then(|leaf| x509_parser::certificate::X509Certificate::from_der(leaf).ok())
        .is_some_and(|(_, parsed)| {
            parsed.validity().not_after.timestamp() < Timestamp::now().as_second() + seconds
        })
}

/// A certificate and its key, in PEM.
fn generate(node: &str) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::default();
    let mut names = vec![san(node)?];
    for name in [san("localhost")?, SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))] {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    params.subject_alt_names = names;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, ORGANIZATION);
    params.distinguished_name.push(DnType::CommonName, node);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let day = |date: jiff::civil::Date| {
        let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs());
        rcgen::date_time_ymd(i32::from(date.year()), month, day)
    };
    // A day earlier, for clocks that are behind.
    params.not_before = day(today.saturating_sub(Span::new().days(1)));
    params.not_after = day(today.saturating_add(Span::new().days(365)));
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn san(name: &str) -> Result<SanType, rcgen::Error> {
    Ok(match name.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into()?),
    })
}

/// Replaces a file by one that only its owner reads; it is never seen half written.
fn write_private(path: &Path, content: &str) -> Result<(), ServingError> {
    let failed = |source| ServingError::Write { path: path.to_owned(), source };
    let temporary = path.with_extension(format!("new.{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn a_missing_pair_is_made_private_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("pki");
        ServingCertificate::self_signed(&folder, "node-1").await.unwrap();
        assert_eq!(mode(&folder), 0o700);
        let files = ["kubelet.crt", "kubelet.key"].map(|name| folder.join(name));
        for file in &files {
            assert_eq!(mode(file), 0o600);
        }
        let read = || files.each_ref().map(|file| fs::read(file).unwrap());
        let made = read();
        ServingCertificate::self_signed(&folder, "node-2").await.unwrap();
        assert_eq!(read(), made);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn half_a_pair_is_refused_and_left_alone() {
        for name in ["kubelet.crt", "kubelet.key"] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(name), "precious").unwrap();
            let error = ServingCertificate::self_signed(folder.path(), "n").await.unwrap_err();
            assert!(matches!(error, ServingError::Half { .. }), "{error}");
            assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), "precious");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }

    /// A pair that ends tomorrow, in `folder`.
    fn write_ending(folder: &Path, organization: &str) {
        let mut params = CertificateParams::new(["n".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        let tomorrow = Timestamp::now().to_zoned(TimeZone::UTC).date();
        let tomorrow = tomorrow.saturating_add(Span::new().days(1));
        params.not_after = rcgen::date_time_ymd(
            i32::from(tomorrow.year()),
            tomorrow.month().unsigned_abs(),
            tomorrow.day().unsigned_abs(),
        );
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.join("kubelet.crt"), certificate.pem()).unwrap();
        fs::write(folder.join("kubelet.key"), key.serialize_pem()).unwrap();
    }

    #[tokio::test]
    async fn only_a_certificate_made_here_is_renewed() {
        let folder = tempfile::tempdir().unwrap();
        let certificate = || fs::read(folder.path().join("kubelet.crt")).unwrap();
        write_ending(folder.path(), "somebody else");
        let before = certificate();
        let serving = ServingCertificate::self_signed(folder.path(), "n").await.unwrap();
        assert!(!serving.reload().await.unwrap());
        assert_eq!(certificate(), before);

        write_ending(folder.path(), ORGANIZATION);
        let before = certificate();
        assert!(serving.reload().await.unwrap());
        assert_ne!(certificate(), before);
        assert!(!serving.reload().await.unwrap());
    }

    #[tokio::test]
    async fn files_that_do_not_fit_leave_the_last_good_pair_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let serving = ServingCertificate::self_signed(folder.path(), "n").await.unwrap();
        ServingCertificate::self_signed(other.path(), "n").await.unwrap();
        let served = || serving.current.borrow().cert.clone();
        let first = served();
        let replace = |name| {
            fs::copy(other.path().join(name), folder.path().join(name)).unwrap();
        };
        replace("kubelet.crt");
        let error = serving.reload().await.unwrap_err();
        assert!(matches!(error, ServingError::Pair { .. }), "{error}");
        assert_eq!(served(), first);
        replace("kubelet.key");
        assert!(serving.reload().await.unwrap());
        assert_ne!(served(), first);
        fs::write(folder.path().join("kubelet.key"), "no key").unwrap();
        let error = serving.reload().await.unwrap_err();
        assert!(matches!(error, ServingError::Pem { what: "private key", .. }), "{error}");
    }

    #[test]
    fn a_node_named_like_an_address_or_localhost_gets_a_certificate() {
        for node in ["10.0.0.1", "::1", "localhost", "127.0.0.1", "node.example"] {
            assert!(generate(node).is_ok(), "{node}");
        }
        assert!(generate("näme").is_err());
    }
}
