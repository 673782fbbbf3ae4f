//! Traces for an OpenTelemetry collector (OTLP over gRPC): off, and free, unless one is named.

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};
use std::time::Duration;
use tracing::{Metadata, Subscriber, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::{
    Layer,
    filter::{FilterFn, Filtered, filter_fn},
    registry::LookupSpan,
};

/// Where the collector is, `http://host:4317`: the standard's own name.
pub const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// A collector that does not answer must hold up neither work nor an end.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Sends the spans that are left when it is dropped.
#[must_use]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Of a process that sends none.
    pub const OFF: Self = Self(None);
}

impl Drop for Traces {
    fn drop(&mut self) {
        let Some(provider) = &self.0 else { return };
        if let Err(error) = provider.shutdown_with_timeout(TIMEOUT) {
            // The log may be gone by now.
            eprintln!("the last traces were not sent: {error}");
        }
    }
}

type SpansOf<S> =
    Filtered<OpenTelemetryLayer<S, SdkTracer>, FilterFn<fn(&Metadata<'_>) -> bool>, S>;

/// The layer that sends this project's spans to the collector at `endpoint` under the name
/// `service`, in batches, from a thread of its own; what the collector is too slow for is dropped.
/// To be called within a Tokio runtime. Errors: an endpoint that is no address.
pub fn to<S>(endpoint: &str, service: &str) -> anyhow::Result<(SpansOf<S>, Traces)>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(TIMEOUT)
        .build()
        .with_context(|| format!("{ENDPOINT}={endpoint}"))?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name(service.to_owned()).build())
        .build();
    let ours: fn(&Metadata<'_>) -> bool =
        |metadata| metadata.is_span() && metadata.target().starts_with("weir");
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("weir"))
        .with_filter(filter_fn(ours).with_max_level_hint(LevelFilter::DEBUG));
    Ok((layer, Traces(Some(provider))))
}

/// The same for the collector that the environment names; none when it names none.
pub(crate) fn from_environment<S>(service: &str) -> anyhow::Result<(Option<SpansOf<S>>, Traces)>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    match std::env::var(ENDPOINT) {
        Ok(endpoint) if !endpoint.is_empty() => {
            let (layer, traces) = to(&endpoint, service)?;
            Ok((Some(layer), traces))
        }
        _ => Ok((None, Traces::OFF)),
    }
}
