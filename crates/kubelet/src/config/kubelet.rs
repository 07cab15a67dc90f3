//! The kubelet's own file, as far as it matters here: `kubelet.config.k8s.io/v1beta1`.
//!
//! What a field says when it is absent, null, empty or zero is that nothing was said, as in the
//! kubelet.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, de};

use super::duration::GoDuration;

/// `kind` of the kubelet's file.
pub(super) const KIND: &str = "KubeletConfiguration";
/// `apiVersion` of the kubelet's file.
pub(super) const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Kubelet {
    pub(super) enable_server: Option<bool>,
    #[serde(deserialize_with = "address")]
    pub(super) address: Option<IpAddr>,
    #[serde(deserialize_with = "port")]
    pub(super) port: Option<u16>,
    #[serde(deserialize_with = "port")]
    pub(super) read_only_port: Option<u16>,
    pub(super) authentication: Authentication,
    pub(super) authorization: Authorization,
    pub(super) enable_debugging_handlers: Option<bool>,
    pub(super) runtime_request_timeout: Option<GoDuration>,
    pub(super) container_runtime_endpoint: Option<String>,
    pub(super) image_service_endpoint: Option<String>,
    pub(super) feature_gates: BTreeMap<String, bool>,
    pub(super) tls_cert_file: Option<String>,
    pub(super) tls_private_key_file: Option<String>,
    pub(super) tls_cipher_suites: Option<Vec<String>>,
    pub(super) tls_min_version: Option<String>,
    pub(super) tls_curve_preferences: Option<Vec<Curve>>,
    #[serde(rename = "serverTLSBootstrap")]
    pub(super) server_tls_bootstrap: Option<bool>,
    pub(super) rotate_certificates: Option<bool>,
    #[serde(deserialize_with = "address")]
    pub(super) healthz_bind_address: Option<IpAddr>,
    #[serde(deserialize_with = "port")]
    pub(super) healthz_port: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Authentication {
    pub(super) anonymous: Switch,
    pub(super) webhook: TokenWebhook,
    pub(super) x509: X509,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Switch {
    pub(super) enabled: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TokenWebhook {
    pub(super) enabled: Option<bool>,
    #[serde(rename = "cacheTTL")]
    pub(super) cache_ttl: Option<GoDuration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct X509 {
    #[serde(rename = "clientCAFile")]
    pub(super) client_ca_file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Authorization {
    pub(super) mode: Option<String>,
    pub(super) webhook: AccessWebhook,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AccessWebhook {
    #[serde(rename = "cacheAuthorizedTTL")]
    pub(super) cache_authorized_ttl: Option<GoDuration>,
    #[serde(rename = "cacheUnauthorizedTTL")]
    pub(super) cache_unauthorized_ttl: Option<GoDuration>,
}

/// A key exchange group: the kubelet's file has IANA's numbers; names are taken too.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Curve(#[serde(deserialize_with = "number_or_name")] pub(super) String);

fn number_or_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct Either;

    impl de::Visitor<'_> for Either {
        type Value = String;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the number or name of a curve")
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_str<E: de::Error>(self, name: &str) -> Result<String, E> {
            Ok(name.to_owned())
        }
    }

    deserializer.deserialize_any(Either)
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    match text.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            de::Error::custom(format_args!("{text:?} is not an IP address such as 0.0.0.0 or ::"))
        }),
    }
}

fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    let number: Option<i64> = Option::deserialize(deserializer)?;
    number
        .map(|number| {
            u16::try_from(number)
                .map_err(|_| de::Error::custom(format_args!("{number} is not a port: 0 to 65535")))
        })
        .transpose()
}
