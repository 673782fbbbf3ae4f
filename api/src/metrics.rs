//! What the role measures of itself.

use std::time::Duration;
use tonic::Code;

const DURATION: &str = "api_request_duration_seconds";
const REFUSED: &str = "api_requests_refused_total";

/// Says what the metrics mean; once in a process, after the recorder is there.
pub fn describe() {
    let unit = metrics::Unit::Seconds;
    metrics::describe_histogram!(DURATION, unit, "time of a call, by rpc and gRPC code");
    metrics::describe_counter!(REFUSED, "calls refused before an rpc was known, by reason");
}

/// One call of an rpc is done.
pub fn called(rpc: &str, code: Code, elapsed: Duration) {
    let labels = [("rpc", rpc.to_owned()), ("code", format!("{code:?}"))];
    metrics::histogram!(DURATION, &labels).record(elapsed);
}

/// A call was refused before its rpc was known.
pub fn refused(reason: &'static str) {
    metrics::counter!(REFUSED, "reason" => reason).increment(1);
}
