//! Certificates for tests.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate authority.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) chain_pem: String,
    pub(crate) key_pem: String,
    key_der: Vec<u8>,
}

/// What a certificate says.
pub(crate) struct Leaf<'a> {
    pub(crate) names: &'a [&'a str],
    pub(crate) organizations: &'a [&'a str],
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) expired: bool,
    pub(crate) hosts: &'a [&'a str],
}

impl<'a> Leaf<'a> {
    pub(crate) fn client(names: &'a [&'a str], organizations: &'a [&'a str]) -> Self {
        let usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Self { names, organizations, usages, expired: false, hosts: &[] }
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let params = authority_params(name);
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    /// An authority below this one.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let params = authority_params(name);
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::signed_by(params, key, &self.issuer).unwrap() }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn issue(&self, leaf: &Leaf<'_>) -> Identity {
        let hosts: Vec<String> = leaf.hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = DistinguishedName::new();
        // One value of a kind is kept in this structure; the same kind by its number is another.
        let kinds = |known: DnType, last: u64| [known, DnType::CustomDnType(vec![2, 5, 4, last])];
        for (kind, name) in kinds(DnType::CommonName, 3).into_iter().zip(leaf.names) {
            params.distinguished_name.push(kind, *name);
        }
        let organizations = kinds(DnType::OrganizationName, 10).into_iter().zip(leaf.organizations);
        for (kind, organization) in organizations {
            params.distinguished_name.push(kind, *organization);
        }
        params.extended_key_usages = leaf.usages.clone();
        if leaf.expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            chain: vec![certificate.der().clone()],
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            key_der: key.serialize_der(),
        }
    }

    /// A client certificate of the usual kind.
    pub(crate) fn client(&self, name: &str) -> Identity {
        self.issue(&Leaf::client(&[name], &["dev"]))
    }

    /// A server certificate for localhost.
    pub(crate) fn server(&self) -> Identity {
        self.issue(&Leaf {
            names: &["server"],
            organizations: &[],
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
            expired: false,
            hosts: &["localhost"],
        })
    }

    /// Itself, as if it were a client.
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            chain: vec![self.der()],
            chain_pem: self.pem(),
            key_pem: self.issuer.key().serialize_pem(),
            key_der: self.issuer.key().serialize_der(),
        }
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }
}

impl Identity {
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key_der.clone()).into()
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}
