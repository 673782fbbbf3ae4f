//! Logs to stderr, metrics for Prometheus, traces where a collector is named.

use crate::traces::{self, Traces};
use anyhow::Context;
use axum::{Router, routing::get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::{io::IsTerminal, time::Duration};
use tracing_subscriber::{EnvFilter, Layer, fmt, prelude::*};

/// Seconds: from a cache hit to the longest request that is let through.
const SECONDS_BUCKETS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Events of a chunk: from one alone to the largest that is taken.
const EVENTS_BUCKETS: [f64; 11] = [
    1.0, 10.0, 100.0, 1_000.0, 5_000.0, 10_000.0, 25_000.0, 50_000.0, 100_000.0, 150_000.0,
    200_000.0,
];

/// Sends logs to stderr: level from `WEIR_LOG` (default `info`), JSON lines with `WEIR_LOG_FORMAT=json`;
/// and spans, under the name `service`, to the collector of `OTEL_EXPORTER_OTLP_ENDPOINT`, if any. To
/// be called within a Tokio runtime; what it returns is to be kept until the process ends.
///
/// Errors: a filter or an address that can't be read, or a second call in one process.
pub fn init(service: &str) -> anyhow::Result<Traces> {
    let filter = match std::env::var("WEIR_LOG") {
        Ok(text) => EnvFilter::try_new(text).context("WEIR_LOG")?,
        Err(_) => EnvFilter::new("info,sqlx=warn,lsm_tree=warn,fjall=warn"),
    };
    let json = std::env::var("WEIR_LOG_FORMAT").is_ok_and(|format| format == "json");
    let colours = std::io::stderr().is_terminal();
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    let logs = if json { layer.json().boxed() } else { layer.with_target(false).boxed() };
    let (spans, traces) = traces::from_environment(service)?;
    tracing_subscriber::registry().with(spans).with(logs.with_filter(filter)).try_init()?;
    Ok(traces)
}

/// Installs the process's metrics recorder.
///
/// Errors: a second call in one process.
pub fn init_metrics() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_events".to_owned()), &EVENTS_BUCKETS)?
        .install_recorder()?;
    Ok(handle)
}

/// `GET /metrics` in the Prometheus text format. Histograms are drained every 5 seconds.
pub fn metrics_router(handle: PrometheusHandle) -> Router {
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    Router::new().route("/metrics", get(move || std::future::ready(handle.render())))
}
