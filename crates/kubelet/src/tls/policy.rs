//! Which TLS is spoken: least version, cipher suites, key exchange groups, by the kubelet's names.
//!
//! The names are those of Go's crypto/tls, as `tlsMinVersion`, `tlsCipherSuites` and
//! `tlsCurvePreferences` hold them. As in Go, cipher suites concern TLS 1.2 only: those of TLS
//! 1.3 are all offered whatever the list says, and naming them there is no mistake.
//!
//! What is refused rather than dropped: TLS 1.0 and 1.1, which the TLS library does not have;
//! suites that Go itself calls insecure; names that mean nothing. Suites and groups that are good
//! but not in the library are left out and named, unless nothing would be left.

use std::fmt;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, NamedGroup, SupportedCipherSuite, SupportedProtocolVersion};

/// The least version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// `VersionTLS12`: 1.2 and 1.3.
    #[default]
    Tls12,
    /// `VersionTLS13`: only that.
    Tls13,
}

/// Which TLS is spoken. The default is everything the TLS library has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    min_version: MinVersion,
    /// For TLS 1.2, in order of preference; empty: all.
    suites: Vec<CipherSuite>,
    /// In order of preference; empty: all.
    groups: Vec<NamedGroup>,
    left_out: Vec<String>,
}

/// Why a TLS setting cannot be followed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PolicyError {
    /// TLS 1.0 and 1.1.
    #[error("{name} is broken and not served: the least is VersionTLS12 (or VersionTLS13)")]
    OldVersion {
        /// As given.
        name: String,
    },
    /// Not a version.
    #[error("unknown tls version {name:?} (known: VersionTLS12, VersionTLS13)")]
    UnknownVersion {
        /// As given.
        name: String,
    },
    /// Go lists it among the insecure ones.
    #[error("cipher suite {name} is insecure and not served: remove it (served: {})", Served)]
    InsecureSuite {
        /// As given.
        name: String,
    },
    /// Not a suite.
    #[error("unknown cipher suite {name:?} (served: {})", Served)]
    UnknownSuite {
        /// As given.
        name: String,
    },
    /// Only suites that the library has not.
    #[error("none of the cipher suites can be served: {} (served: {})", names.join(", "), Served)]
    NoSuite {
        /// As given.
        names: Vec<String>,
    },
    /// Not a curve.
    #[error("unknown curve {name:?} (served: {ServedGroups})")]
    UnknownGroup {
        /// As given.
        name: String,
    },
    /// Named twice.
    #[error("duplicate curve preference {name}")]
    TwiceGroup {
        /// As given.
        name: String,
    },
    /// Only curves that the library has not.
    #[error("none of the curves can be served: {} (served: {ServedGroups})", names.join(", "))]
    NoGroup {
        /// As given.
        names: Vec<String>,
    },
}

/// Suites of TLS 1.2 by Go's names.
const SUITES: [(&str, SupportedCipherSuite); 6] = [
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Names from before the RFC, still taken by Go.
const OLD_NAMES: [(&str, &str); 2] = [
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
];

/// TLS 1.3: always on.
const ALWAYS: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// Go serves these, the TLS library here has not got them (CBC with SHA-1).
const ABSENT: [&str; 4] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
];

/// Go's `InsecureCipherSuites`: no forward secrecy, RC4, 3DES, or CBC with SHA-256.
const INSECURE: [&str; 13] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

/// A key exchange group: IANA's number (which is Go's CurveID), IANA's name, Go's name.
struct Group {
    number: u16,
    name: &'static str,
    go: &'static str,
    served: bool,
}

const GROUPS: [Group; 7] = [
    Group { number: 23, name: "secp256r1", go: "CurveP256", served: true },
    Group { number: 24, name: "secp384r1", go: "CurveP384", served: true },
    Group { number: 25, name: "secp521r1", go: "CurveP521", served: false },
    Group { number: 29, name: "x25519", go: "X25519", served: true },
    Group { number: 4587, name: "secp256r1mlkem768", go: "SecP256r1MLKEM768", served: true },
    Group { number: 4588, name: "x25519mlkem768", go: "X25519MLKEM768", served: true },
    Group { number: 4589, name: "secp384r1mlkem1024", go: "SecP384r1MLKEM1024", served: false },
];

/// The names of [`SUITES`], for messages.
struct Served;

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&SUITES.map(|(name, _)| name).join(", "))
    }
}

/// The names of what is served of [`GROUPS`], for messages.
struct ServedGroups;

impl fmt::Display for ServedGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let served = GROUPS.iter().filter(|group| group.served);
        let names: Vec<String> =
            served.map(|group| format!("{} {}", group.number, group.go)).collect();
        f.write_str(&names.join(", "))
    }
}

impl Policy {
    /// From the three settings; an empty one is the default.
    ///
    /// # Errors
    /// [`PolicyError`]: all of them, in this order.
    pub fn parse(
        min_version: &str,
        suites: &[impl AsRef<str>],
        curves: &[impl AsRef<str>],
    ) -> Result<Self, Vec<PolicyError>> {
        let mut policy = Self::default();
        let mut errors = Vec::new();
        match version(min_version) {
            Ok(version) => policy.min_version = version,
            Err(error) => errors.push(error),
        }
        policy.take_suites(suites, &mut errors);
        policy.take_groups(curves, &mut errors);
        if errors.is_empty() { Ok(policy) } else { Err(errors) }
    }

    fn take_suites(&mut self, names: &[impl AsRef<str>], errors: &mut Vec<PolicyError>) {
        let mut always = false;
        let before = errors.len();
        for given in names.iter().map(|name| name.as_ref().trim()) {
            let name =
                OLD_NAMES.iter().find(|(old, _)| *old == given).map_or(given, |(_, new)| new);
            let named = || given.to_owned();
            if let Some((_, suite)) = SUITES.iter().find(|(known, _)| *known == name) {
                if !self.suites.contains(&suite.suite()) {
                    self.suites.push(suite.suite());
                }
            } else if ALWAYS.contains(&name) {
                always = true;
            } else if ABSENT.contains(&name) {
                self.left_out.push(named());
            } else if INSECURE.contains(&name) {
                errors.push(PolicyError::InsecureSuite { name: named() });
            } else {
                errors.push(PolicyError::UnknownSuite { name: named() });
            }
        }
        if errors.len() > before || names.is_empty() || !self.suites.is_empty() {
            return;
        }
        if always {
            // Suites of TLS 1.3 and nothing else: in Go too there is no TLS 1.2 then.
            self.min_version = MinVersion::Tls13;
        } else {
            let names = names.iter().map(|name| name.as_ref().to_owned()).collect();
            errors.push(PolicyError::NoSuite { names });
        }
    }

    fn take_groups(&mut self, names: &[impl AsRef<str>], errors: &mut Vec<PolicyError>) {
        let before = errors.len();
        let mut seen = Vec::new();
        for given in names.iter().map(|name| name.as_ref().trim()) {
            let number: Option<u16> = given.parse().ok();
            let known = GROUPS.iter().find(|group| {
                number == Some(group.number)
                    || given.eq_ignore_ascii_case(group.name)
                    || given.eq_ignore_ascii_case(group.go)
            });
            let name = given.to_owned();
            match known {
                None => errors.push(PolicyError::UnknownGroup { name }),
                Some(group) if seen.contains(&group.number) => {
                    errors.push(PolicyError::TwiceGroup { name });
                }
                Some(group) => {
                    seen.push(group.number);
                    match group.served {
                        true => self.groups.push(NamedGroup::from(group.number)),
                        false => self.left_out.push(group.go.to_owned()),
                    }
                }
            }
        }
        if errors.len() == before && !names.is_empty() && self.groups.is_empty() {
            let names = names.iter().map(|name| name.as_ref().to_owned()).collect();
            errors.push(PolicyError::NoGroup { names });
        }
    }

    /// What was named and is not served: good, but not in the TLS library.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// The versions of TLS served.
    pub(super) fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
        match self.min_version {
            MinVersion::Tls12 => &BOTH,
            MinVersion::Tls13 => &BOTH[..1],
        }
    }

    /// The provider, narrowed.
    pub(super) fn narrow(&self, mut provider: CryptoProvider) -> CryptoProvider {
        if !self.suites.is_empty() {
            let ours = |suite: &SupportedCipherSuite| {
                self.suites.iter().position(|wanted| *wanted == suite.suite())
            };
            provider.cipher_suites.retain(|suite| suite.tls13().is_some() || ours(suite).is_some());
            // A stable sort: those of TLS 1.3, which are not in the list, keep their place in front.
            provider.cipher_suites.sort_by_key(|suite| ours(suite).map_or(0, |at| at + 1));
        }
        if !self.groups.is_empty() {
            let all = rustls::crypto::aws_lc_rs::ALL_KX_GROUPS;
            provider.kx_groups = self
                .groups
                .iter()
                .filter_map(|name| all.iter().find(|group| group.name() == *name).copied())
                .collect();
        }
        provider
    }
}

fn version(name: &str) -> Result<MinVersion, PolicyError> {
    match name {
        "" | "VersionTLS12" => Ok(MinVersion::Tls12),
        "VersionTLS13" => Ok(MinVersion::Tls13),
        "VersionTLS10" | "VersionTLS11" => Err(PolicyError::OldVersion { name: name.to_owned() }),
        _ => Err(PolicyError::UnknownVersion { name: name.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::kx_group;

    use super::*;

    const NONE: [&str; 0] = [];

    fn errors(version: &str, suites: &[&str], curves: &[&str]) -> Vec<String> {
        let errors = Policy::parse(version, suites, curves).unwrap_err();
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nothing_said_is_everything_the_library_has() {
        let policy = Policy::parse("", &NONE, &NONE).unwrap();
        assert_eq!(policy, Policy::default());
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let narrowed = policy.narrow(provider.clone());
        assert_eq!(narrowed.cipher_suites, provider.cipher_suites);
        assert_eq!(policy.versions().len(), 2);
    }

    #[test]
    fn suites_are_those_named_in_that_order_and_all_of_tls_1_3() {
        let names = [
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            " TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            "TLS_AES_128_GCM_SHA256",
            "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
        ];
        let policy = Policy::parse("VersionTLS12", &names, &NONE).unwrap();
        assert_eq!(policy.left_out(), ["TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"]);
        let narrowed = policy.narrow(rustls::crypto::aws_lc_rs::default_provider());
        let left: Vec<CipherSuite> =
            narrowed.cipher_suites.iter().map(SupportedCipherSuite::suite).collect();
        assert_eq!(
            left,
            [
                CipherSuite::TLS13_AES_256_GCM_SHA384,
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            ]
        );
    }

    #[test]
    fn suites_of_tls_1_3_alone_leave_only_that() {
        let policy = Policy::parse("", &["TLS_AES_128_GCM_SHA256"], &NONE).unwrap();
        assert_eq!(policy.versions(), [&TLS13]);
    }

    #[test]
    fn groups_are_taken_by_number_and_by_either_name() {
        let policy = Policy::parse("", &NONE, &["29", "CurveP256", "secp521r1", "4588"]).unwrap();
        assert_eq!(policy.left_out(), ["CurveP521"]);
        let narrowed = policy.narrow(rustls::crypto::aws_lc_rs::default_provider());
        let left: Vec<NamedGroup> = narrowed.kx_groups.iter().map(|group| group.name()).collect();
        let wanted = [kx_group::X25519, kx_group::SECP256R1, kx_group::X25519MLKEM768];
        assert_eq!(left, wanted.map(|group| group.name()));
    }

    #[test]
    fn every_group_said_to_be_served_is_in_the_library() {
        let all = rustls::crypto::aws_lc_rs::ALL_KX_GROUPS;
        for group in GROUPS {
            let there = all.iter().any(|one| one.name() == NamedGroup::from(group.number));
            assert_eq!(there, group.served, "{}", group.go);
        }
    }

    #[test]
    fn all_mistakes_are_named_with_what_would_be_right() {
        let errors = errors(
            "VersionTLS11",
            &["TLS_RSA_WITH_AES_128_GCM_SHA256", "TLS_FOO"],
            &["23", "CurveP256", "0", "brainpool"],
        );
        let served = SUITES.map(|(name, _)| name).join(", ");
        let groups = "23 CurveP256, 24 CurveP384, 29 X25519, 4587 SecP256r1MLKEM768, \
                      4588 X25519MLKEM768";
        assert_eq!(
            errors,
            [
                "VersionTLS11 is broken and not served: the least is VersionTLS12 (or \
                 VersionTLS13)"
                    .to_owned(),
                format!(
                    "cipher suite TLS_RSA_WITH_AES_128_GCM_SHA256 is insecure and not served: \
                     remove it (served: {served})"
                ),
                format!("unknown cipher suite \"TLS_FOO\" (served: {served})"),
                "duplicate curve preference CurveP256".to_owned(),
                format!("unknown curve \"0\" (served: {groups})"),
                format!("unknown curve \"brainpool\" (served: {groups})"),
            ]
        );
    }

    #[test]
    fn what_leaves_nothing_is_refused() {
        let only = ["TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"];
        assert!(errors("", &only, &[])[0].starts_with("none of the cipher suites can be served"));
        assert!(errors("", &[], &["25"])[0].starts_with("none of the curves can be served: 25"));
        let unknown = "unknown tls version \"1.2\" (known: VersionTLS12, VersionTLS13)";
        assert_eq!(errors("1.2", &[], &[]), [unknown]);
    }
}
