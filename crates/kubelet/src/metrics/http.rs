//! Requests by method and path, before anybody is asked who they are: a kubelet's three families.

use std::time::Instant;

use http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// The bounds a kubelet counts requests by, in seconds: the Go client's defaults.
const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A kubelet's labels, in its order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    method: &'static str,
    path: &'static str,
    server_type: &'static str,
    long_running: &'static str,
}

/// `kubelet_http_*`. Clones share the values.
#[derive(Clone, Debug)]
pub(crate) struct HttpMetrics {
    requests: Family<Labels, Counter>,
    duration: Family<Labels, Histogram>,
    inflight: Family<Labels, Gauge>,
}

/// A request under way; its end is the drop.
#[derive(Debug)]
pub(crate) struct InFlight {
    metrics: HttpMetrics,
    labels: Labels,
    since: Instant,
}

impl HttpMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(BOUNDS)),
            inflight: Family::default(),
        };
        registry.register(
            "kubelet_http_inflight_requests",
            "HTTP requests being answered now",
            metrics.inflight.clone(),
        );
        registry.register(
            "kubelet_http_requests_duration_seconds",
            "Seconds from a request's header to its answer",
            metrics.duration.clone(),
        );
        registry.register(
            "kubelet_http_requests",
            "HTTP requests since the server started",
            metrics.requests.clone(),
        );
        metrics
    }

    /// Counts a request; `path` is one of [`bucket`]'s.
    pub(crate) fn begin(&self, method: &Method, path: &'static str) -> InFlight {
        let labels = Labels {
            method: method_label(method),
            path,
            server_type: "readwrite",
            long_running: "false",
        };
        self.requests.get_or_create(&labels).inc();
        self.inflight.get_or_create(&labels).inc();
        InFlight { metrics: self.clone(), labels, since: Instant::now() }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.inflight.get_or_create(&self.labels).dec();
        let seconds = self.since.elapsed().as_secs_f64();
        self.metrics.duration.get_or_create(&self.labels).observe(seconds);
    }
}

/// The methods a kubelet counts apart; PATCH is not among them.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::OPTIONS => "OPTIONS",
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::TRACE => "TRACE",
        Method::CONNECT => "CONNECT",
        _ => "other",
    }
}

/// The label of a decoded path: the first segment if it is one of `known`, else `other`. Below
/// `/metrics`, two segments are looked at, so that a kubelet's other metrics pages stay apart.
pub(crate) fn bucket(path: &str, known: &[&'static str]) -> &'static str {
    let path = path.strip_prefix('/').unwrap_or(path);
    let first = path.split('/').next().unwrap_or_default();
    if first == "metrics" && path != first {
        return "other";
    }
    known.iter().find(|name| **name == first).copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Metrics};
    use super::*;

    #[test]
    fn a_request_is_in_flight_until_it_is_dropped() {
        let metrics = Metrics::new();
        let labels = "{method=\"POST\",path=\"checkpoint\",server_type=\"readwrite\",\
                      long_running=\"false\"}";
        let has = |line: String| {
            let text = metrics.expose(Format::Text);
            assert!(text.lines().any(|seen| seen == line), "{line} in\n{text}");
        };
        let request = metrics.http.begin(&Method::POST, "checkpoint");
        has(format!("kubelet_http_inflight_requests{labels} 1"));
        has(format!("kubelet_http_requests_total{labels} 1"));
        drop(request);
        has(format!("kubelet_http_inflight_requests{labels} 0"));
        has(format!("kubelet_http_requests_total{labels} 1"));
        has(format!("kubelet_http_requests_duration_seconds_count{labels} 1"));
        let le = labels.replace('}', ",le=\"10\"}");
        has(format!("kubelet_http_requests_duration_seconds_bucket{le} 1"));
    }
}
