//! Where `serve` says what it does: log lines on stderr, and traces to an OpenTelemetry collector
//! where one is named.
//!
//! Traces go by OTLP over gRPC, in batches, from a thread of the exporter's own: a collector that
//! is slow or gone costs spans, never a request. Which requests are traced is the caller's say
//! (the `sampled` flag of its `traceparent`) and, for callers that say nothing, that of the
//! standard variables OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG: all, unless set.
//! OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES are heard, too.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, ensure};
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tonic::metadata::{KeyRef, MetadataMap};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::LogFormat;

/// How long the last spans may take on their way out.
const LAST_SPANS: Duration = Duration::from_secs(5);

/// What must be ended before the program ends.
#[derive(Debug)]
pub(crate) struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Installs logging for the whole program, and tracing if there is a collector.
///
/// Must be called within the async runtime: the exporter's connection lives in it.
pub(crate) fn start(format: LogFormat, collector: Option<&str>) -> anyhow::Result<Telemetry> {
    let filter = EnvFilter::try_from_env("CRYOPOD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // An empty variable names nobody.
    let provider = collector.filter(|name| !name.is_empty()).map(exporting).transpose()?;
    // Our own spans, at whatever level: what the exporter's own libraries do is not to be traced,
    // and log lines are no span events.
    let spans = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("cryopod"))
            .with_location(false)
            .with_threads(false)
            .with_filter(filter_fn(|metadata| {
                metadata.is_span() && metadata.target().starts_with("cryopod")
            }))
    });
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans).init();
    Ok(Telemetry { provider })
}

fn exporting(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    ensure!(
        endpoint.starts_with("http://"),
        "--otlp-endpoint {endpoint}: only http:// is spoken; name a collector on this node, such \
         as http://127.0.0.1:4317"
    );
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .with_context(|| format!("--otlp-endpoint {endpoint}"))?;
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("cryopod");
    }
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build())
}

/// The span of a call that came in by CRI, below the one its caller names in the call's metadata.
pub(crate) fn call_span(metadata: &MetadataMap, method: &'static str) -> tracing::Span {
    let remote = TraceContextPropagator::new()
        .extract_with_context(&opentelemetry::Context::new(), &Pairs(metadata));
    // A span without a parent of its own takes the current context for it.
    let _remote = remote.attach();
    tracing::debug_span!(
        "cri",
        otel.name = format_args!("runtime.v1.RuntimeService/{method}"),
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.service = "runtime.v1.RuntimeService",
        rpc.method = method,
    )
}

/// Metadata as the propagator reads it.
struct Pairs<'a>(&'a MetadataMap);

impl Extractor for Pairs<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        let text = |key| match key {
            KeyRef::Ascii(key) => Some(key.as_str()),
            KeyRef::Binary(_) => None,
        };
        self.0.keys().filter_map(text).collect()
    }
}

impl Telemetry {
    /// Sends what is left. What cannot be sent in time is lost, with a line in the log.
    pub(crate) async fn end(self) {
        let Some(provider) = self.provider else { return };
        let ended =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST_SPANS)).await;
        if let Ok(Err(error)) = ended {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the last spans did not reach the collector");
        }
    }
}
