//! Who takes which partition of the event log further, and how far it is.
//!
//! An owner holds a partition by an epoch. Each claim takes the next epoch, and whatever an older
//! epoch does afterwards is refused, so a paused owner can't harm. The lease, by the database's
//! clock, only says when others may claim.

use crate::columns::{bigint, integer, unsigned};
use crate::{StoreError, Timestamp, intents, intents::Intent};
use sqlx::{Connection, PgConnection};
use std::time::Duration;

/// A partition taken by a new owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub epoch: u64,
    /// Everything before this position is in ClickHouse.
    pub committed: u64,
    /// What the owner before was writing, with its own epoch: adopt it and write it again first.
    pub open: Option<Intent>,
    /// No chunk may be opened with an older catalog.
    pub catalog_floor: u64,
}

/// A partition as operators and health checks see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub partition: u32,
    pub owner: Option<String>,
    pub epoch: u64,
    pub lease_until: Option<Timestamp>,
    pub committed: u64,
    pub watermark: Option<Timestamp>,
}

/// Makes the partitions 0..count of a new deployment. Errors: `PartitionCount` when it was made
/// with another number, because an event must never change its partition.
pub async fn ensure(conn: &mut PgConnection, count: u32) -> Result<(), StoreError> {
    let last = integer("log_partitions.partition", count)? - 1;
    let mut tx = conn.begin().await?;
    // Two roles that start at once must not each make a part.
    sqlx::query!("LOCK TABLE log_partitions IN SHARE ROW EXCLUSIVE MODE").execute(&mut *tx).await?;
    let existing = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM log_partitions"#)
        .fetch_one(&mut *tx)
        .await?;
    if existing == 0 {
        sqlx::query!(
            // What the catalog holds by now counts from the first event on.
            "INSERT INTO log_partitions (partition, catalog_floor)
             SELECT generate_series(0, $1::integer), version FROM catalog_version",
            last
        )
        .execute(&mut *tx)
        .await?;
    } else if existing != i64::from(count) {
        let existing = unsigned("log_partitions", existing)?;
        return Err(StoreError::PartitionCount { existing, wanted: count });
    }
    tx.commit().await?;
    Ok(())
}

/// Takes a partition that is free, whose lease has expired, or that `owner` itself held before a
/// crash. None: another owner holds it, or there is no such partition.
pub async fn claim(
    conn: &mut PgConnection,
    partition: u32,
    owner: &str,
    lease: Duration,
) -> Result<Option<Claim>, StoreError> {
    let mut tx = conn.begin().await?;
    let claimed = sqlx::query!(
        "UPDATE log_partitions
         SET owner = $2,
             epoch = epoch + 1,
             lease_until = clock_timestamp() + $3::bigint * interval '1 millisecond'
         WHERE partition = $1
           AND (owner IS NULL OR owner = $2 OR lease_until < clock_timestamp())
         RETURNING epoch, committed, catalog_floor",
        integer("log_partitions.partition", partition)?,
        owner,
        millis(lease)?,
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = claimed else { return Ok(None) };
    let open = intents::find_open(&mut tx, partition).await?;
    tx.commit().await?;
    Ok(Some(Claim {
        epoch: unsigned("log_partitions.epoch", row.epoch)?,
        committed: unsigned("log_partitions.committed", row.committed)?,
        open,
        catalog_floor: unsigned("log_partitions.catalog_floor", row.catalog_floor)?,
    }))
}

/// Holds the partition for another `lease` from now on. False: `epoch` is not the owner any more.
pub async fn renew(
    conn: &mut PgConnection,
    partition: u32,
    epoch: u64,
    lease: Duration,
) -> Result<bool, StoreError> {
    let result = sqlx::query!(
        "UPDATE log_partitions
         SET lease_until = clock_timestamp() + $3::bigint * interval '1 millisecond'
         WHERE partition = $1 AND epoch = $2 AND owner IS NOT NULL",
        integer("log_partitions.partition", partition)?,
        bigint("log_partitions.epoch", epoch)?,
        millis(lease)?,
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Lets another owner claim the partition at once. Does nothing when `epoch` is not the owner.
pub async fn release(
    conn: &mut PgConnection,
    partition: u32,
    epoch: u64,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE log_partitions
         SET owner = NULL, lease_until = NULL
         WHERE partition = $1 AND epoch = $2",
        integer("log_partitions.partition", partition)?,
        bigint("log_partitions.epoch", epoch)?,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Says that every event acknowledged before `at` (real time) is in ClickHouse. Never goes back.
/// False: `epoch` is not the owner any more.
pub async fn set_watermark(
    conn: &mut PgConnection,
    partition: u32,
    epoch: u64,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let result = sqlx::query!(
        "UPDATE log_partitions
         SET watermark = greatest(watermark, $3)
         WHERE partition = $1 AND epoch = $2 AND owner IS NOT NULL",
        integer("log_partitions.partition", partition)?,
        bigint("log_partitions.epoch", epoch)?,
        at,
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// The instant (real time) before which every acknowledged event of every partition is in
/// ClickHouse. None: not known of some partition yet, or there are none.
pub async fn min_watermark(conn: &mut PgConnection) -> Result<Option<Timestamp>, StoreError> {
    Ok(sqlx::query_scalar!(
        "SELECT CASE WHEN count(*) = count(watermark) THEN min(watermark) END
         FROM log_partitions"
    )
    .fetch_one(conn)
    .await?)
}

/// Whether every event acknowledged before `at` (real time) is in ClickHouse. True without any
/// partition: then nothing was ever accepted.
pub async fn covers(conn: &mut PgConnection, at: Timestamp) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT NOT EXISTS (
               SELECT FROM log_partitions WHERE watermark IS NULL OR watermark < $1
           ) AS "covers!""#,
        at
    )
    .fetch_one(conn)
    .await?)
}

/// All partitions in order.
pub async fn list(conn: &mut PgConnection) -> Result<Vec<Partition>, StoreError> {
    sqlx::query!(
        "SELECT partition, owner, epoch, lease_until, committed, watermark
         FROM log_partitions
         ORDER BY partition"
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| {
        Ok(Partition {
            partition: unsigned("log_partitions.partition", row.partition)?,
            owner: row.owner,
            epoch: unsigned("log_partitions.epoch", row.epoch)?,
            lease_until: row.lease_until,
            committed: unsigned("log_partitions.committed", row.committed)?,
            watermark: row.watermark,
        })
    })
    .collect()
}

pub(crate) fn millis(lease: Duration) -> Result<i64, StoreError> {
    i64::try_from(lease.as_millis()).map_err(|_| StoreError::OutOfRange {
        column: "log_partitions.lease_until",
        value: format!("{lease:?}"),
    })
}
