//! What the edge counts: once per request, never per event.

use crate::refusal::Refusal;
use http::StatusCode;
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use weir_log::LogError;

/// The edge's metrics, looked up once.
pub struct Metrics {
    pub accepted: Counter,
    pub duplicates: Counter,
    pub conflicts: Counter,
    pub retries: Counter,
    pub bytes: Counter,
    pub append_seconds: Histogram,
    pub recent_ids: Gauge,
    pub forgotten_ids: Counter,
    pub in_flight_bytes: Gauge,
    /// Looked up once: nearly every request has one of these.
    answered: [(StatusCode, Counter); 4],
}

/// The statuses that senders are answered with when all is well, and when it is not for long.
const STATUSES: [StatusCode; 4] = [
    StatusCode::OK,
    StatusCode::ACCEPTED,
    StatusCode::BAD_REQUEST,
    StatusCode::SERVICE_UNAVAILABLE,
];

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
        describe_counter!(
            "ingest_requests_refused_total",
            "Requests of which nothing was taken, by the reason that was answered"
        );
        describe_counter!(
            "ingest_append_errors_total",
            "Records that the log did not confirm, by what is known of them"
        );
        describe_histogram!(
            "ingest_append_seconds",
            "Time from handing records to the log until it has them durably"
        );
        describe_gauge!("ingest_recent_ids", "Ids that the edge knows to be in the log");
        describe_counter!(
            "ingest_recent_ids_forgotten_total",
            "Ids let go before the aggregator's index had them, because it is too far behind"
        );
        describe_gauge!("ingest_in_flight_bytes", "Bytes of bodies in memory");
        start_at_zero();
        Self {
            accepted: counter!("ingest_events_accepted_total"),
            duplicates: counter!("ingest_events_duplicate_total"),
            conflicts: counter!("ingest_events_conflict_total"),
            retries: counter!("ingest_events_retry_total"),
            bytes: counter!("ingest_bytes_total"),
            append_seconds: histogram!("ingest_append_seconds"),
            recent_ids: gauge!("ingest_recent_ids"),
            forgotten_ids: counter!("ingest_recent_ids_forgotten_total"),
            in_flight_bytes: gauge!("ingest_in_flight_bytes"),
            answered: STATUSES.map(|status| (status, answered(status))),
        }
    }

    /// Counts refused events of one reason.
    pub fn rejected(&self, reason: &'static str, events: u64) {
        counter!("ingest_events_rejected_total", "reason" => reason).increment(events);
    }

    /// Counts a request of which nothing was taken.
    pub fn refused(&self, reason: &'static str) {
        counter!("ingest_requests_refused_total", "reason" => reason).increment(1);
    }

    /// Counts a record that the log did not confirm.
    pub fn append_failed(&self, error: &LogError) {
        counter!("ingest_append_errors_total", "reason" => append_reason(error)).increment(1);
    }

    /// Counts a request by the status it was answered with.
    pub fn answered(&self, status: StatusCode) {
        match self.answered.iter().find(|(known, _)| *known == status) {
            Some((_, counter)) => counter.increment(1),
            None => answered(status).increment(1),
        }
    }
}

fn answered(status: StatusCode) -> Counter {
    counter!("ingest_requests_total", "status" => status.as_str().to_owned())
}

/// The first increase of a counter that is not there before is not seen as one.
fn start_at_zero() {
    for reason in weir_events::Reason::ALL {
        counter!("ingest_events_rejected_total", "reason" => reason.as_str()).increment(0);
    }
    for refusal in Refusal::RETRYABLE {
        counter!("ingest_requests_refused_total", "reason" => refusal.reason()).increment(0);
    }
    for reason in APPEND_REASONS {
        counter!("ingest_append_errors_total", "reason" => reason).increment(0);
    }
    for status in STATUSES {
        answered(status).increment(0);
    }
}

/// The queue was full; the log refused it; it may be in the log; the log can't be reached.
const APPEND_REASONS: [&str; 4] = ["busy", "rejected", "unknown", "unavailable"];

fn append_reason(error: &LogError) -> &'static str {
    let [busy, rejected, unknown, unavailable] = APPEND_REASONS;
    match error {
        LogError::Busy => busy,
        LogError::Unknown(_) => unknown,
        LogError::Rejected(_) | LogError::NoSuchPartition { .. } => rejected,
        LogError::Unavailable(_)
        | LogError::BelowStart { .. }
        | LogError::BeyondEnd { .. }
        | LogError::PartitionCount { .. }
        | LogError::InUse { .. }
        | LogError::Format { .. }
        | LogError::Open { .. } => unavailable,
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
