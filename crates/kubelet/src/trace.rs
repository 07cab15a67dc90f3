//! Where a request belongs in somebody's trace: W3C Trace Context in and out.
//!
//! The context that came with a request is the current one while it is answered. Spans of
//! `tracing` made meanwhile become its children where an exporter is installed (the program's
//! business, not this crate's); where none is, the context that came in goes on to the runtime as
//! it came, so that a trace is never broken here.

use http::{HeaderMap, Method};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// Headers as the propagator reads them. What is not text is not there.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Pairs as the propagator writes them.
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl Injector for Pairs {
    fn set(&mut self, key: &str, value: String) {
        self.0.push((key.to_owned(), value));
    }
}

/// The context of a request; empty if it has none, or a bad one.
pub(crate) fn received(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers))
}

/// The metadata of a call made now.
pub(crate) fn metadata() -> Vec<(String, String)> {
    let mut pairs = Pairs::default();
    TraceContextPropagator::new().inject_context(&Context::current(), &mut pairs);
    // An empty state says nothing.
    pairs.0.retain(|(_, value)| !value.is_empty());
    pairs.0
}

/// The id of the trace of now, for the audit line.
pub(crate) fn trace_id() -> Option<String> {
    let context = Context::current();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| span.trace_id().to_string())
}

/// The span of a request, below `remote`.
pub(crate) fn request_span(
    remote: &Context,
    method: &Method,
    route: &'static str,
    path: &str,
    request_id: &str,
) -> tracing::Span {
    // A span without a parent of its own takes the current context for it.
    let _remote = remote.clone().attach();
    tracing::debug_span!(
        "kubelet",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = tracing::field::Empty,
        http.request.method = %method,
        http.route = route,
        http.response.status_code = tracing::field::Empty,
        url.path = path,
        request_id,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::context::FutureExt as _;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[tokio::test]
    async fn what_came_in_goes_on_as_it_came() {
        let remote = received(&headers(&[("traceparent", PARENT), ("tracestate", "a=b")]));
        let (sent, id) = async {
            tokio::task::yield_now().await;
            (metadata(), trace_id())
        }
        .with_context(remote)
        .await;
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(sent, [pair("traceparent", PARENT), pair("tracestate", "a=b")]);
        assert_eq!(id.as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
        assert_eq!((metadata(), trace_id()), (Vec::new(), None));
    }

    #[tokio::test]
    async fn a_bad_context_is_none() {
        for bad in ["", "nonsense", "00-00000000000000000000000000000000-b7ad6b7169203331-01"] {
            let remote = received(&headers(&[("traceparent", bad)]));
            assert_eq!(async { metadata() }.with_context(remote).await, [], "{bad}");
        }
    }
}
