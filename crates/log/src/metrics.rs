//! What the log measures of itself, whichever of the two it is.

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};
use std::time::Duration;

const REFUSED: &str = "log_refused_appends_total";
const COMMIT_SECONDS: &str = "log_commit_duration_seconds";
const COMMITTED_RECORDS: &str = "log_committed_records_total";
const REOPENED: &str = "log_reopened_total";

/// Help for what both logs count. Called where a log is opened.
pub(crate) fn describe() {
    describe_counter!(REFUSED, "Appends that found the log's queue full");
    counter!(REFUSED, "reason" => "busy").increment(0);
}

/// Help for what only the embedded log counts.
pub(crate) fn describe_embedded() {
    describe();
    describe_histogram!(
        COMMIT_SECONDS,
        Unit::Seconds,
        "Time to write one group of the embedded log, with its fsync"
    );
    describe_counter!(COMMITTED_RECORDS, "Records that the embedded log has on disk");
    counter!(COMMITTED_RECORDS).increment(0);
    describe_counter!(REOPENED, "Times the embedded log could write again after a failed write");
    counter!(REOPENED).increment(0);
}

pub(crate) fn refused_busy() {
    counter!(REFUSED, "reason" => "busy").increment(1);
}

/// One group is on disk.
pub(crate) fn committed(records: u64, elapsed: Duration) {
    histogram!(COMMIT_SECONDS).record(elapsed);
    counter!(COMMITTED_RECORDS).increment(records);
}

/// The log writes again.
pub(crate) fn reopened() {
    counter!(REOPENED).increment(1);
}
