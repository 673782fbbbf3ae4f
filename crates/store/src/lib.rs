//! Postgres: the catalog, the customers and the invoices, how far the pipeline is, and the clock.
//! All of Weir's SQL for Postgres is here, one file per aggregate.
//!
//! Functions take the connection first, then the organization. Work for one organization runs in
//! a [`Tx`], where row-level security repeats what each statement says; the pipeline's and the
//! invoicer's own jobs run on the pool's role.
//!
//! Rows are locked in this order: organization, customer, plan, subscription or invoice, log
//! partition, and the catalog version last, which the triggers take. (Before the first chunk of a
//! deployment they lock its partitions behind that; nobody who holds one waits for it then.)

pub mod aggregators;
pub mod api_keys;
pub mod billable_metrics;
pub mod billing;
pub mod billing_failures;
pub mod catalog;
pub mod clock;
pub mod customers;
pub mod idempotency;
pub mod intents;
pub mod invoices;
pub mod organizations;
pub mod partitions;
pub mod plans;
pub mod rolls;
pub mod subscriptions;
pub mod voids;

mod columns;
mod error;
mod page;
mod tx;

pub use error::StoreError;
pub use page::{Cursor, CursorError, LIMIT_DEFAULT, LIMIT_MAX, Page, PageRequest};
pub use sqlx::{PgConnection, PgPool};
pub use tx::Tx;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use std::{sync::Arc, time::Duration};

/// An instant, in UTC, to the microsecond.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// The channel on which Postgres says that the catalog or the test clock has changed.
pub const CATALOG_CHANNEL: &str = "weir_catalog";

/// How long a transaction may say nothing: longer than the reads of ClickHouse that it may wait for
/// in between, which take 60 s each at most.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// Opens a pool of at most `connections_max` connections. A transaction that says nothing for five
/// minutes is ended by Postgres: its process is held up or cut off, and others must get at the rows
/// that it has locked. Errors: `Unavailable`, or a bad URL.
pub async fn connect(url: &str, connections_max: u32) -> Result<PgPool, StoreError> {
    connect_impatiently(url, connections_max, SILENCE_MAX).await
}

/// The same, with another time than five minutes.
pub async fn connect_impatiently(
    url: &str,
    connections_max: u32,
    silence_max: Duration,
) -> Result<PgPool, StoreError> {
    // A pooler refuses start parameters that it does not know: neither this one, which is about how
    // floats are written, nor the time below is sent as one.
    let options = url.parse::<PgConnectOptions>()?.extra_float_digits(None);
    let silence_max: Arc<str> = format!("{}ms", silence_max.as_millis()).into();
    let pool = PgPoolOptions::new()
        .max_connections(connections_max)
        // Longer than a slow commit, shorter than a client's patience.
        .acquire_timeout(Duration::from_secs(10))
        .after_connect(move |connection, _| {
            let silence_max = silence_max.clone();
            Box::pin(async move { end_after_silence(connection, &silence_max).await })
        })
        .connect_with(options)
        .await?;
    Ok(pool)
}

async fn end_after_silence(connection: &mut PgConnection, silence_max: &str) -> sqlx::Result<()> {
    sqlx::query("SELECT set_config('idle_in_transaction_session_timeout', $1, false)")
        .bind(silence_max)
        .execute(connection)
        .await?;
    Ok(())
}

/// Brings the schema up to date. Any number of processes may call it at once.
/// Errors: a migration that failed, or one that was edited after it had been applied.
pub async fn migrate(pool: &PgPool) -> Result<(), StoreError> {
    sqlx::migrate!("../../migrations/postgres").run(pool).await?;
    Ok(())
}

/// Answers when Postgres does. Errors: `Unavailable`.
pub async fn ping(pool: &PgPool) -> Result<(), StoreError> {
    sqlx::query("SELECT 1").execute(pool).await?;
    Ok(())
}
