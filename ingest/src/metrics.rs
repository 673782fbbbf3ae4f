//! What the edge counts: once per request, never per event.

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

/// The edge's metrics, looked up once.
pub struct Metrics {
    pub accepted: Counter,
    pub duplicates: Counter,
    pub conflicts: Counter,
    pub retries: Counter,
    pub bytes: Counter,
    pub append_seconds: Histogram,
    pub recent_ids: Gauge,
    pub in_flight_bytes: Gauge,
}

impl Metrics {
    /// Declares them with their help texts. The process's recorder must be installed before.
    #[must_use]
    pub fn new() -> Self {
        describe_counter!("ingest_events_accepted_total", "Events made durable in the log");
        describe_counter!(
            "ingest_events_duplicate_total",
            "Events whose id was known with the same content"
        );
        describe_counter!(
            "ingest_events_conflict_total",
            "Events whose id was known with other content"
        );
        describe_counter!("ingest_events_rejected_total", "Events refused, by reason");
        describe_counter!(
            "ingest_events_retry_total",
            "Events that could not be made durable and were answered retry"
        );
        describe_counter!("ingest_bytes_total", "Bytes of bodies after decompression");
        describe_counter!("ingest_requests_total", "Requests answered, by HTTP status");
        describe_histogram!(
            "ingest_append_seconds",
            "Time from handing records to the log until it has them durably"
        );
        describe_gauge!("ingest_recent_ids", "Ids that the edge knows to be in the log");
        describe_gauge!("ingest_in_flight_bytes", "Bytes of bodies in memory");
        Self {
            accepted: counter!("ingest_events_accepted_total"),
            duplicates: counter!("ingest_events_duplicate_total"),
            conflicts: counter!("ingest_events_conflict_total"),
            retries: counter!("ingest_events_retry_total"),
            bytes: counter!("ingest_bytes_total"),
            append_seconds: histogram!("ingest_append_seconds"),
            recent_ids: gauge!("ingest_recent_ids"),
            in_flight_bytes: gauge!("ingest_in_flight_bytes"),
        }
    }

    /// Counts refused events of one reason.
    pub fn rejected(&self, reason: &'static str, events: u64) {
        counter!("ingest_events_rejected_total", "reason" => reason).increment(events);
    }

    /// Counts a request by the status it was answered with.
    pub fn answered(&self, status: http::StatusCode) {
        counter!("ingest_requests_total", "status" => status.as_str().to_owned()).increment(1);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
