//! What can go wrong with the store, from SQLSTATE to meaning.

use crate::Timestamp;
use weir_ids::InvoiceId;

/// Why a store function has no result.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such row, or it belongs to another organization.
    #[error("not found")]
    NotFound,
    /// A row like it is there already; also periods or spans that overlap.
    #[error("already exists ({constraint})")]
    Duplicate { constraint: String },
    /// The row contradicts a constraint or names a row that is not there.
    #[error("refused by the constraint {constraint}")]
    Violation { constraint: String },
    /// Another owner has the partition, or its committed position has moved on.
    #[error("partition {partition}: epoch {epoch} may not go on")]
    Fenced { partition: u32, epoch: u64 },
    /// A generation has been taken up since, which the chunk would miss.
    #[error("partition {partition}: a chunk needs the catalog of version {floor} or newer")]
    CatalogTooOld { partition: u32, floor: u64 },
    /// ClickHouse must still know the token of every open chunk when it is written again.
    #[error("an open chunk of partition {behind} lies too far behind: it comes first")]
    Stalled { behind: u32 },
    /// An event must never change its partition, so their number is fixed.
    #[error("this deployment has {existing} log partitions, not {wanted}")]
    PartitionCount { existing: u32, wanted: u32 },
    /// The deployment runs on the machine's clock, which can't be moved.
    #[error("this deployment runs on the real clock")]
    RealClock,
    /// A test clock never goes back.
    #[error("the clock stands at {now} and cannot go back to {to}")]
    ClockBackwards { now: Timestamp, to: Timestamp },
    /// Only drafts are written and changed.
    #[error("invoice {0} is not a draft")]
    NotDraft(InvoiceId),
    /// The invariant of every invoice.
    #[error("invoice {invoice}: the fees sum to {fees}, the total is {total}")]
    Unbalanced { invoice: InvoiceId, fees: String, total: String },
    /// A number that the column can't hold.
    #[error("{value} is out of range for {column}")]
    OutOfRange { column: &'static str, value: String },
    /// A stored value that can't be read back.
    #[error("{column} holds {value:?}, which cannot be read")]
    Corrupt { column: &'static str, value: String },
    /// The database can't be reached, is busy or gave up a conflicting transaction: try again.
    #[error("the database is unavailable: try again")]
    Unavailable(#[source] sqlx::Error),
    /// Anything else that the database says.
    #[error("the database refused a statement")]
    Database(#[source] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the schema could not be brought up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

impl StoreError {
    /// Whether the same call may succeed a moment later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Whether it is a `Duplicate` of this constraint.
    #[must_use]
    pub fn is_duplicate_of(&self, name: &str) -> bool {
        matches!(self, Self::Duplicate { constraint } if constraint == name)
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let database = match &error {
            sqlx::Error::RowNotFound => return Self::NotFound,
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => return Self::Unavailable(error),
            sqlx::Error::Database(database) => database,
            _ => return Self::Database(error),
        };
        let constraint = || database.constraint().unwrap_or("unnamed").to_owned();
        match database.code().as_deref().unwrap_or_default() {
            // unique_violation, exclusion_violation
            "23505" | "23P01" => Self::Duplicate { constraint: constraint() },
            code if code.starts_with("23") => Self::Violation { constraint: constraint() },
            // serialization_failure, deadlock_detected, lock_not_available, shutdowns and crashes
            "40001" | "40P01" | "55P03" | "57P01" | "57P02" | "57P03" => Self::Unavailable(error),
            // connection exceptions; out of connections, memory or disk
            code if code.starts_with("08") || code.starts_with("53") => Self::Unavailable(error),
            _ => Self::Database(error),
        }
    }
}

/// `NotFound` unless the statement touched a row.
pub(crate) fn touched(result: &sqlx::postgres::PgQueryResult) -> Result<(), StoreError> {
    if result.rows_affected() == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}
