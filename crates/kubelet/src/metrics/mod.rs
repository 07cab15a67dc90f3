//! What is counted, and how it is told to Prometheus.
//!
//! Two families of names. `kubelet_…` are a kubelet's own, with its labels and buckets, so that
//! dashboards, alerts and the upstream e2e test read them here as there. `cryopod_…` are ours:
//! checkpoints take minutes and a kubelet's buckets end at ten seconds.
//!
//! One [`Metrics`] belongs to one server and is handed down; nothing is global. A family without
//! a value yet is not printed, as in Go: "absent" and 0 are told apart by nobody who reads them.

mod checkpoints;
mod exposition;
mod http;
mod operations;

use std::fmt;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::authn::Credential;
use crate::authz::Attributes;

pub(crate) use checkpoints::{CheckpointMetrics, Course, Phase};
pub(crate) use exposition::Format;
pub(crate) use http::{HttpMetrics, bucket};
pub(crate) use operations::Operations;

/// All metrics of one server.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) http: HttpMetrics,
    pub(crate) operations: Operations,
    pub(crate) checkpoints: CheckpointMetrics,
    authentication: Family<AuthenticationLabels, Counter>,
    authorization: Family<AuthorizationLabels, Counter>,
    pub(crate) audit_failures: Counter,
    certificate_expiration: Family<NoLabels, Gauge>,
}

/// So that a gauge is absent until it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NoLabels {}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuthenticationLabels {
    result: &'static str,
    credential: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuthorizationLabels {
    decision: &'static str,
    resource: &'static str,
    subresource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at their beginning.
    #[must_use]
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let http = HttpMetrics::register(&mut registry);
        let operations = Operations::register(&mut registry);
        let checkpoints = CheckpointMetrics::register(&mut registry);
        let authentication = Family::<AuthenticationLabels, Counter>::default();
        registry.register(
            "cryopod_authentication",
            "Requests by the outcome of authentication and the credential that decided it",
            authentication.clone(),
        );
        let authorization = Family::<AuthorizationLabels, Counter>::default();
        registry.register(
            "cryopod_authorization",
            "Decisions of authorization, by outcome and what was asked for",
            authorization.clone(),
        );
        let audit_failures = Counter::default();
        registry.register(
            "cryopod_audit_write_failures",
            "Lines that could not be written to the audit file",
            audit_failures.clone(),
        );
        let certificate_expiration = Family::<NoLabels, Gauge>::default();
        registry.register(
            "cryopod_serving_certificate_expiration_timestamp_seconds",
            "End of the serving certificate, in seconds since 1970",
            certificate_expiration.clone(),
        );
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("cryopod_build_info", "The version of this program; always 1", build);
        Self {
            registry,
            http,
            operations,
            checkpoints,
            authentication,
            authorization,
            audit_failures,
            certificate_expiration,
        }
    }

    /// A caller was let in as a user, or (`None`) not.
    pub(crate) fn authenticated(&self, credential: Option<Credential>) {
        let labels = AuthenticationLabels {
            result: if credential.is_some() { "success" } else { "failure" },
            credential: credential.map_or("none", Credential::as_str),
        };
        self.authentication.get_or_create(&labels).inc();
    }

    /// `decision`: `allowed`, `denied` or `error`.
    pub(crate) fn authorized(&self, decision: &'static str, of: &Attributes) {
        let labels =
            AuthorizationLabels { decision, resource: of.resource, subresource: of.subresource };
        self.authorization.get_or_create(&labels).inc();
    }

    /// The serving certificate's end, in seconds since 1970.
    pub(crate) fn certificate_ends(&self, at: i64) {
        self.certificate_expiration.get_or_create(&NoLabels {}).set(at);
    }

    /// Everything, in a format of Prometheus.
    pub(crate) fn expose(&self, format: Format) -> String {
        format.write(&self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::{NodeAttributes, RequestAttributes as _};

    #[test]
    fn what_has_no_value_yet_is_absent_and_the_build_is_always_there() {
        let metrics = Metrics::new();
        let text = metrics.expose(Format::Text);
        assert!(!text.contains("kubelet_"), "{text}");
        assert!(!text.contains("expiration"), "{text}");
        let build = format!("cryopod_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"));
        assert!(text.contains(&build), "{text}");
        metrics.certificate_ends(7);
        metrics.authenticated(Some(Credential::Token));
        metrics.authenticated(None);
        let node = NodeAttributes::new("n");
        let user = crate::authn::User::anonymous();
        let all = node.attributes(&user, &::http::Method::POST, "/checkpoint/a/b/c");
        metrics.authorized("denied", &all[0]);
        let text = metrics.expose(Format::Text);
        for line in [
            "cryopod_serving_certificate_expiration_timestamp_seconds 7",
            "cryopod_authentication_total{result=\"success\",credential=\"token\"} 1",
            "cryopod_authentication_total{result=\"failure\",credential=\"none\"} 1",
            "cryopod_authorization_total{decision=\"denied\",resource=\"nodes\",\
             subresource=\"checkpoint\"} 1",
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line} in\n{text}");
        }
    }
}
