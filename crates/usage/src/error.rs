//! What can go wrong between us and ClickHouse.

use clickhouse::error::Error as ClickHouseError;

/// Why a read or a write of usage failed.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// ClickHouse can't be reached or did not answer in time. A write may or may not have happened;
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

/// Sorts the client's errors: did the server answer at all?
pub(crate) fn during(operation: &'static str) -> impl Fn(ClickHouseError) -> UsageError {
    move |source| {
        let answered = !matches!(source, ClickHouseError::Network(_) | ClickHouseError::TimedOut);
        let source = Box::new(source);
        if answered {
            UsageError::Refused { operation, source }
        } else {
            UsageError::Unavailable { operation, source }
        }
    }
}
