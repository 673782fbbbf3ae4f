//! What can go wrong between us and ClickHouse.

use clickhouse::error::Error as ClickHouseError;

/// Why a read or a write of usage failed.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// ClickHouse can't be reached, did not answer in time, or lacks what it needs now: its Keeper, a
    /// majority of its replicas, memory. A write may or may not have happened;
    /// the same chunk under the same token can be written again.
    #[error("ClickHouse is not available ({operation}): {source}")]
    Unavailable { operation: &'static str, source: Box<ClickHouseError> },
    /// ClickHouse answered with an error.
    #[error("ClickHouse refused ({operation}): {source}")]
    Refused { operation: &'static str, source: Box<ClickHouseError> },
    /// A value that the table's column can't hold.
    #[error("{field} is out of range: {value}")]
    OutOfRange { field: &'static str, value: i64 },
    /// A text that is no cursor of a list of events.
    #[error("not a cursor: {0}")]
    Cursor(String),
    /// A read of raw events without bounds.
    #[error("more than {most} events at once: read them in pieces")]
    TooMany { most: usize },
    /// A row that this version did not write.
    #[error("unreadable {field} in ClickHouse: {value}")]
    Unreadable { field: &'static str, value: String },
}

impl UsageError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// ClickHouse's numbers of what passes: timeouts and networks among its servers, no memory, too many
/// parts to merge, Keeper away (read-only tables), no majority, a write whose outcome it doesn't know.
const PASSING_CODES: [u32; 13] = [159, 202, 209, 210, 225, 241, 242, 252, 285, 286, 289, 319, 999];

/// Sorts the client's errors: may the same call succeed later?
pub(crate) fn during(operation: &'static str) -> impl Fn(ClickHouseError) -> UsageError {
    move |source| {
        let passing = match &source {
            ClickHouseError::Network(_) | ClickHouseError::TimedOut => true,
            ClickHouseError::BadResponse(text) => {
                code(text).is_some_and(|code| PASSING_CODES.contains(&code))
            }
            _ => false,
        };
        let source = Box::new(source);
        if passing {
            UsageError::Unavailable { operation, source }
        } else {
            UsageError::Refused { operation, source }
        }
    }
}

/// The number in ClickHouse's own words: `Code: 242. DB::Exception: …`.
fn code(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("Code: ")?;
    rest.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_may_be_tried_again() {
        for (text, retryable) in [
            ("Code: 285. DB::Exception: Number of alive replicas", true),
            ("Code: 999. Coordination::Exception: Session expired", true),
            ("Code: 62. DB::Exception: Syntax error", false),
            ("no number", false),
        ] {
            let error = during("insert")(ClickHouseError::BadResponse(text.to_owned()));
            assert_eq!(error.is_retryable(), retryable, "{text}");
        }
        assert!(during("insert")(ClickHouseError::TimedOut).is_retryable());
    }
}
