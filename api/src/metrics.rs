//! What the role measures of itself.

use std::time::Duration;
use tonic::Code;

const DURATION: &str = "api_request_duration_seconds";
const REFUSED: &str = "api_requests_refused_total";

/// Why a call ended before an rpc did: too many at once, no valid key, Postgres away while the key
/// was looked up, longer than a call may take.
pub const REASONS: [&str; 4] = ["overloaded", "unauthenticated", "unavailable", "too_slow"];

/// Says what the metrics mean; once in a process, after the recorder is there.
pub fn describe() {
    let unit = metrics::Unit::Seconds;
    metrics::describe_histogram!(DURATION, unit, "time of a call, by rpc and gRPC code");
    metrics::describe_counter!(REFUSED, "calls that ended before an rpc did, by reason");
    // The first increase of a counter that is not there before is not seen as one.
    for reason in REASONS {
        metrics::counter!(REFUSED, "reason" => reason).increment(0);
    }
}

/// One call of an rpc is done.
pub fn called(rpc: &str, code: Code, elapsed: Duration) {
    let labels = [("rpc", rpc.to_owned()), ("code", format!("{code:?}"))];
    metrics::histogram!(DURATION, &labels).record(elapsed);
}

/// A call ended before an rpc did; `reason` is one of [`REASONS`].
pub fn refused(reason: &'static str) {
    metrics::counter!(REFUSED, "reason" => reason).increment(1);
}
