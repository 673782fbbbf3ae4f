//! The database's own time, and the test clock that a deployment may run on instead of it.

use crate::{StoreError, Timestamp};
use sqlx::{PgConnection, PgPool};
use weir_runtime::Clock;

/// A time that stands still until it is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestClock {
    /// What every role takes for the present.
    pub now: Timestamp,
    /// The real instant at which it was last moved.
    pub moved_at: Timestamp,
}

/// The clock of this deployment. With `test`, a new deployment runs on a test clock that begins
/// there. Errors: `RealClock` when an organization was made on the real clock before.
pub async fn start(pool: &PgPool, test: Option<Timestamp>) -> Result<Clock, StoreError> {
    let mut conn = pool.acquire().await?;
    let found = match test {
        Some(at) => Some(start_test_clock(&mut conn, at).await?),
        None => test_clock(&mut conn).await?,
    };
    Ok(found.map_or_else(Clock::real, |clock| Clock::test(clock.now)))
}

/// The real time by the database's clock, the one that leases and watermarks go by.
pub async fn database_now(conn: &mut PgConnection) -> Result<Timestamp, StoreError> {
    Ok(sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(conn).await?)
}

/// The test clock; none when the deployment runs on the real one.
pub async fn test_clock(conn: &mut PgConnection) -> Result<Option<TestClock>, StoreError> {
    Ok(sqlx::query_as!(TestClock, "SELECT now, moved_at FROM test_clock")
        .fetch_optional(conn)
        .await?)
}

/// Makes a new deployment run on a test clock that stands at `at`. One that already has a test
/// clock keeps it where it stands. Errors: `RealClock` when an organization was made before.
pub async fn start_test_clock(
    conn: &mut PgConnection,
    at: Timestamp,
) -> Result<TestClock, StoreError> {
    sqlx::query!(
        "INSERT INTO test_clock (now, moved_at)
         SELECT $1, clock_timestamp()
         WHERE NOT EXISTS (SELECT FROM organizations)
         ON CONFLICT (one_row) DO NOTHING",
        at
    )
    .execute(&mut *conn)
    .await?;
    test_clock(conn).await?.ok_or(StoreError::RealClock)
}

/// Moves the test clock to `to`, which may be where it stands: `moved_at` is new in any case.
/// Errors: `RealClock`; `ClockBackwards`.
pub async fn advance(conn: &mut PgConnection, to: Timestamp) -> Result<TestClock, StoreError> {
    let moved = sqlx::query_as!(
        TestClock,
        "UPDATE test_clock
         SET now = $1, moved_at = clock_timestamp()
         WHERE now <= $1
         RETURNING now, moved_at",
        to
    )
    .fetch_optional(&mut *conn)
    .await?;
    match moved {
        Some(clock) => Ok(clock),
        None => {
            let clock = test_clock(conn).await?.ok_or(StoreError::RealClock)?;
            Err(StoreError::ClockBackwards { now: clock.now, to })
        }
    }
}
