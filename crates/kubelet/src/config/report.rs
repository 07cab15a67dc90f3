//! What is in force, as rows for people and programs.

use serde::Serialize;
use serde_json::Value;

use super::document::{Located, Origin};
use super::duration::GoDuration;
use super::{Effective, Extras, Setting};

/// One value in force.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The field's path in its file; a flag, where there is no field.
    pub name: String,
    /// The value; null for none.
    pub value: Value,
    /// `default`, `FILE:LINE` or a flag.
    pub origin: String,
}

impl Row {
    /// The value as one writes it.
    pub fn text(&self) -> String {
        match &self.value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            Value::Array(values) if values.is_empty() => "-".to_owned(),
            Value::Array(values) => {
                let texts = values.iter().map(|value| match value {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                });
                texts.collect::<Vec<_>>().join(",")
            }
            other => other.to_string(),
        }
    }
}

fn row(name: &str, value: impl Into<Value>, origin: &Origin) -> Row {
    Row { name: name.to_owned(), value: value.into(), origin: origin.to_string() }
}

fn shown<T>(name: &str, setting: &Setting<T>, value: impl FnOnce(&T) -> Value) -> Row {
    row(name, value(&setting.value), &setting.origin)
}

impl Effective {
    /// Every value in force, those of the kubelet's file first.
    pub fn rows(&self) -> Vec<Row> {
        let flag = |name, setting: &Setting<bool>| shown(name, setting, |on| Value::Bool(*on));
        let number = |name, setting: &Setting<u16>| shown(name, setting, |n| Value::from(*n));
        let text = |name, setting: &Setting<String>| shown(name, setting, |t| t.clone().into());
        let texts =
            |name, setting: &Setting<Vec<String>>| shown(name, setting, |t| t.clone().into());
        let address = |name, setting: &Setting<std::net::IpAddr>| {
            shown(name, setting, |address| address.to_string().into())
        };
        let time = |name, setting: &Setting<std::time::Duration>| {
            shown(name, setting, |time| GoDuration(*time).to_string().into())
        };
        let folder = |name, setting: &Setting<std::path::PathBuf>| {
            shown(name, setting, |path| path.to_string_lossy().into())
        };
        let file = |name, setting: &Setting<Option<std::path::PathBuf>>| {
            shown(name, setting, |path| {
                path.as_ref().map(|path| path.to_string_lossy().into_owned()).into()
            })
        };
        let maybe =
            |name, setting: &Setting<Option<String>>| shown(name, setting, |t| t.clone().into());
        let mut rows = vec![
            flag("enableServer", &self.enable_server),
            address("address", &self.address),
            number("port", &self.port),
            number("readOnlyPort", &self.read_only_port),
            file("authentication.x509.clientCAFile", &self.client_ca_file),
            flag("authentication.webhook.enabled", &self.token_webhook),
            time("authentication.webhook.cacheTTL", &self.token_cache_ttl),
            flag("authentication.anonymous.enabled", &self.anonymous),
            text("authorization.mode", &self.authorization_mode),
            time("authorization.webhook.cacheAuthorizedTTL", &self.authorized_ttl),
            time("authorization.webhook.cacheUnauthorizedTTL", &self.unauthorized_ttl),
            flag("enableDebuggingHandlers", &self.debugging_handlers),
            shown("featureGates.ContainerCheckpoint", &self.feature_gates, |gates| {
                gates.container_checkpoint.into()
            }),
            time("runtimeRequestTimeout", &self.runtime_request_timeout),
            maybe("containerRuntimeEndpoint", &self.container_runtime_endpoint),
            maybe("imageServiceEndpoint", &self.image_service_endpoint),
            file("tlsCertFile", &self.tls_cert_file),
            file("tlsPrivateKeyFile", &self.tls_private_key_file),
            text("tlsMinVersion", &self.tls_min_version),
            texts("tlsCipherSuites", &self.tls_cipher_suites),
            texts("tlsCurvePreferences", &self.tls_curve_preferences),
            flag("serverTLSBootstrap", &self.server_tls_bootstrap),
            flag("rotateCertificates", &self.rotate_certificates),
            address("healthzBindAddress", &self.healthz_bind_address),
            number("healthzPort", &self.healthz_port),
            file("--kubeconfig", &self.kubeconfig),
            text("--node-name", &self.node_name),
            folder("--root-dir", &self.root_dir),
            folder("--cert-dir", &self.cert_dir),
        ];
        let extras = serde_json::to_value(&self.extras).unwrap_or_default();
        flatten("", &extras, &self.extras_tree, &mut rows);
        rows
    }
}

/// The paths of all fields of our own document.
pub(super) fn fields(extras: &Extras) -> Vec<String> {
    let mut rows = Vec::new();
    let extras = serde_json::to_value(extras).unwrap_or_default();
    flatten("", &extras, &Located::empty(), &mut rows);
    rows.into_iter().map(|row| row.name).collect()
}

/// Rows of a mapping's leaves.
fn flatten(above: &str, value: &Value, tree: &Located, rows: &mut Vec<Row>) {
    let Value::Object(entries) = value else {
        rows.push(row(above, value.clone(), &tree.origin(above)));
        return;
    };
    for (key, value) in entries {
        let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        flatten(&path, value, tree, rows);
    }
}
