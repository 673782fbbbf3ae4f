//! What is about to be written to ClickHouse, recorded before the first insert.
//!
//! After a crash exactly the open chunk is written again: the same bounds, the same catalog
//! version, so the same rows and deduplication tokens. Every change takes the partition's row
//! lock and checks the epoch under it; a claim takes the same lock, so of an old and a new owner
//! one comes first and the other sees it.

use crate::columns::{bigint, integer, unsigned};
use crate::{StoreError, Timestamp, rolls};
use sqlx::{Connection, PgConnection};

/// A chunk of a partition: the positions `from..to`, resolved with one version of the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intent {
    pub partition: u32,
    pub from: u64,
    /// Exclusive.
    pub to: u64,
    pub catalog_version: u64,
    /// The owner that writes it.
    pub epoch: u64,
}

/// What a chunk held, for the verifier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChunkCounts {
    /// New events: the rows written to `events`.
    pub events: u64,
    /// Copies of events seen before, with the same content.
    pub duplicates: u64,
    /// Copies of events seen before, with other content: the rows written to `conflicts`.
    pub conflicts: u64,
}

/// A chunk that is in ClickHouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoneChunk {
    pub intent: Intent,
    pub counts: ChunkCounts,
    /// Real time.
    pub done_at: Timestamp,
}

/// Done chunks kept of each partition: more than a lease lasts, few enough to read at once.
const DONE_KEPT: i64 = 1_000;
/// The same of those that the verifier has not seen: five hours of chunks as fast as they come.
const UNVERIFIED_KEPT: i64 = 100_000;

/// How many chunks, live and of rolls, may be opened while an older one stays open. ClickHouse drops
/// a repeated chunk by its token, and remembers the last 10,000 tokens of a table; half of that is kept in hand.
const OPENED_SINCE_MAX: i64 = 5_000;

/// Records a chunk before its first insert. Said twice with the same bounds, it is recorded once.
/// Rolls that the chunk is the first of its partition to write live are taken up before it.
/// Errors: `Fenced` when the epoch is not the owner, its lease has run out, `from` is not the
/// committed position, or another chunk is open: claim again. `CatalogTooOld` when the catalog
/// version is below the partition's floor: decide again. `Stalled` when another partition's open
/// chunk is so old that ClickHouse could forget its token: try again later.
pub async fn open(conn: &mut PgConnection, intent: &Intent) -> Result<(), StoreError> {
    refuse_while_one_lags(conn, intent.partition).await?;
    let mut tx = conn.begin().await?;
    let result = sqlx::query!(
        "WITH held AS (
             SELECT partition
             FROM log_partitions
             WHERE partition = $1 AND committed = $2 AND epoch = $5
               AND lease_until > clock_timestamp() AND catalog_floor <= $4
             FOR UPDATE
         )
         INSERT INTO chunk_intents AS old
             (partition, from_position, to_position, catalog_version, epoch, state)
         SELECT partition, $2, $3, $4, $5, 'open' FROM held
         ON CONFLICT (partition, from_position) DO UPDATE
         SET state = 'open'
         WHERE old.to_position = excluded.to_position
           AND old.catalog_version = excluded.catalog_version
           AND old.epoch = excluded.epoch
           AND old.state = 'open'",
        integer("chunk_intents.partition", intent.partition)?,
        bigint("chunk_intents.from_position", intent.from)?,
        bigint("chunk_intents.to_position", intent.to)?,
        bigint("chunk_intents.catalog_version", intent.catalog_version)?,
        bigint("chunk_intents.epoch", intent.epoch)?,
    )
    .execute(&mut *tx)
    .await?;
    if result.rows_affected() == 0 {
        return Err(refusal(&mut tx, intent).await?);
    }
    rolls::take_up_at(&mut tx, intent).await?;
    tx.commit().await?;
    Ok(())
}

/// Why a chunk was not opened: `CatalogTooOld` where only that stood against it, else `Fenced`.
async fn refusal(conn: &mut PgConnection, intent: &Intent) -> Result<StoreError, StoreError> {
    let Intent { partition, epoch, .. } = *intent;
    let floor = sqlx::query_scalar!(
        "SELECT catalog_floor
         FROM log_partitions
         WHERE partition = $1 AND committed = $2 AND epoch = $4
           AND lease_until > clock_timestamp() AND catalog_floor > $3",
        integer("chunk_intents.partition", intent.partition)?,
        bigint("chunk_intents.from_position", intent.from)?,
        bigint("chunk_intents.catalog_version", intent.catalog_version)?,
        bigint("chunk_intents.epoch", intent.epoch)?,
    )
    .fetch_optional(conn)
    .await?;
    let Some(floor) = floor else { return Ok(StoreError::Fenced { partition, epoch }) };
    let floor = unsigned("log_partitions.catalog_floor", floor)?;
    Ok(StoreError::CatalogTooOld { partition, floor })
}

/// Errors: `Stalled` when a chunk, live or of a roll, of another partition was opened so long ago
/// that ClickHouse could forget its token.
pub(crate) async fn refuse_while_one_lags(
    conn: &mut PgConnection,
    partition: u32,
) -> Result<(), StoreError> {
    let lagging = sqlx::query_scalar!(
        r#"SELECT partition AS "partition!"
           FROM chunk_intents
           WHERE state = 'open' AND partition <> $1 AND sequence < chunk_intents_newest() - $2
           UNION ALL
           SELECT p.partition
           FROM usage_roll_partitions p
           JOIN usage_rolls r ON r.generation = p.generation AND r.state = 'rolling'
           WHERE p.open_to IS NOT NULL AND p.partition <> $1
             AND p.open_sequence < chunk_intents_newest() - $2
           LIMIT 1"#,
        integer("chunk_intents.partition", partition)?,
        OPENED_SINCE_MAX,
    )
    .fetch_optional(conn)
    .await?;
    match lagging {
        Some(behind) => {
            Err(StoreError::Stalled { behind: u32::try_from(behind).unwrap_or_default() })
        }
        None => Ok(()),
    }
}

/// Takes over the open chunk of a partition that `epoch` has claimed: its bounds and catalog
/// version stay, its epoch is the new owner's. None: nothing is open.
/// Errors: `Fenced` when `epoch` is not the owner any more.
pub async fn adopt(
    conn: &mut PgConnection,
    partition: u32,
    epoch: u64,
) -> Result<Option<Intent>, StoreError> {
    let mut tx = conn.begin().await?;
    let held = sqlx::query_scalar!(
        "SELECT partition
         FROM log_partitions
         WHERE partition = $1 AND epoch = $2 AND owner IS NOT NULL
         FOR UPDATE",
        integer("log_partitions.partition", partition)?,
        bigint("log_partitions.epoch", epoch)?,
    )
    .fetch_optional(&mut *tx)
    .await?;
    fenced_unless(held.is_some(), partition, epoch)?;
    sqlx::query!(
        "UPDATE chunk_intents SET epoch = $2 WHERE partition = $1 AND state = 'open'",
        integer("chunk_intents.partition", partition)?,
        bigint("chunk_intents.epoch", epoch)?,
    )
    .execute(&mut *tx)
    .await?;
    let open = find_open(&mut tx, partition).await?;
    tx.commit().await?;
    Ok(open)
}

/// Marks the chunk done and moves the partition's committed position to its end, in one step.
/// Said twice, it is done once. Done chunks older than the last 1000 of the partition are deleted
/// once they are verified.
/// Errors: `Fenced` when the epoch is not the owner, or the chunk is not its open one.
pub async fn finish(
    conn: &mut PgConnection,
    intent: &Intent,
    counts: &ChunkCounts,
) -> Result<(), StoreError> {
    let partition = integer("chunk_intents.partition", intent.partition)?;
    let mut tx = conn.begin().await?;
    let result = sqlx::query!(
        "WITH moved AS (
             UPDATE log_partitions p
             SET committed = i.to_position
             FROM chunk_intents i
             WHERE p.partition = $1 AND p.epoch = $2 AND p.committed = $3
               AND i.partition = p.partition AND i.from_position = p.committed
               AND i.to_position = $4 AND i.epoch = p.epoch AND i.state = 'open'
             RETURNING p.partition
         )
         UPDATE chunk_intents i
         SET state = 'done', events = $5, duplicates = $6, conflicts = $7,
             done_at = clock_timestamp()
         FROM moved
         WHERE i.partition = moved.partition AND i.from_position = $3",
        partition,
        bigint("chunk_intents.epoch", intent.epoch)?,
        bigint("chunk_intents.from_position", intent.from)?,
        bigint("chunk_intents.to_position", intent.to)?,
        bigint("chunk_intents.events", counts.events)?,
        bigint("chunk_intents.duplicates", counts.duplicates)?,
        bigint("chunk_intents.conflicts", counts.conflicts)?,
    )
    .execute(&mut *tx)
    .await?;
    if result.rows_affected() == 0 {
        let done = is_done(&mut tx, intent).await?;
        return fenced_unless(done, intent.partition, intent.epoch);
    }
    sqlx::query!(
        "DELETE FROM chunk_intents
         WHERE partition = $1 AND state = 'done' AND (
             to_position <= (SELECT verified FROM log_partitions WHERE partition = $1)
             AND from_position <= (
                 SELECT from_position
                 FROM chunk_intents
                 WHERE partition = $1 AND state = 'done'
                 ORDER BY from_position DESC
                 OFFSET $2
                 LIMIT 1
             )
             OR from_position <= (
                 SELECT from_position
                 FROM chunk_intents
                 WHERE partition = $1 AND state = 'done'
                 ORDER BY from_position DESC
                 OFFSET $3
                 LIMIT 1
             )
         )",
        partition,
        DONE_KEPT,
        UNVERIFIED_KEPT,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

/// The done chunks of the owner's partitions that were not verified yet, oldest first.
pub async fn unverified(
    conn: &mut PgConnection,
    owner: &str,
    limit: u32,
) -> Result<Vec<DoneChunk>, StoreError> {
    sqlx::query!(
        r#"SELECT i.partition, i.from_position, i.to_position, i.catalog_version, i.epoch,
               i.events AS "events!", i.duplicates AS "duplicates!", i.conflicts AS "conflicts!",
               i.done_at AS "done_at!"
           FROM log_partitions p
           JOIN chunk_intents i ON i.partition = p.partition AND i.from_position >= p.verified
           WHERE p.owner = $1 AND i.state = 'done'
           ORDER BY i.sequence
           LIMIT $2"#,
        owner,
        i64::from(limit)
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| {
        Ok(DoneChunk {
            intent: Intent {
                partition: unsigned("chunk_intents.partition", row.partition)?,
                from: unsigned("chunk_intents.from_position", row.from_position)?,
                to: unsigned("chunk_intents.to_position", row.to_position)?,
                catalog_version: unsigned("chunk_intents.catalog_version", row.catalog_version)?,
                epoch: unsigned("chunk_intents.epoch", row.epoch)?,
            },
            counts: ChunkCounts {
                events: unsigned("chunk_intents.events", row.events)?,
                duplicates: unsigned("chunk_intents.duplicates", row.duplicates)?,
                conflicts: unsigned("chunk_intents.conflicts", row.conflicts)?,
            },
            done_at: row.done_at,
        })
    })
    .collect()
}

/// How many chunks [`unverified`] would give without its limit.
pub async fn count_unverified(conn: &mut PgConnection, owner: &str) -> Result<u64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!"
           FROM log_partitions p
           JOIN chunk_intents i ON i.partition = p.partition AND i.from_position >= p.verified
           WHERE p.owner = $1 AND i.state = 'done'"#,
        owner
    )
    .fetch_one(conn)
    .await?;
    unsigned("chunk_intents", count)
}

/// Says that every chunk of a partition before a position was verified; never goes back.
pub async fn set_verified(
    conn: &mut PgConnection,
    verified: &[(u32, u64)],
) -> Result<(), StoreError> {
    let (mut partitions, mut positions) = (Vec::new(), Vec::new());
    for (partition, position) in verified {
        partitions.push(integer("log_partitions.partition", *partition)?);
        positions.push(bigint("log_partitions.verified", *position)?);
    }
    sqlx::query!(
        "UPDATE log_partitions p
         SET verified = greatest(p.verified, given.verified)
         FROM unnest($1::integer[], $2::bigint[]) AS given (partition, verified)
         WHERE p.partition = given.partition",
        &partitions,
        &positions,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The open chunk of a partition.
pub async fn find_open(
    conn: &mut PgConnection,
    partition: u32,
) -> Result<Option<Intent>, StoreError> {
    sqlx::query!(
        "SELECT from_position, to_position, catalog_version, epoch
         FROM chunk_intents
         WHERE partition = $1 AND state = 'open'",
        integer("chunk_intents.partition", partition)?,
    )
    .fetch_optional(conn)
    .await?
    .map(|row| {
        Ok(Intent {
            partition,
            from: unsigned("chunk_intents.from_position", row.from_position)?,
            to: unsigned("chunk_intents.to_position", row.to_position)?,
            catalog_version: unsigned("chunk_intents.catalog_version", row.catalog_version)?,
            epoch: unsigned("chunk_intents.epoch", row.epoch)?,
        })
    })
    .transpose()
}

/// Whether this very chunk was finished by the owner that still holds the partition: the answer
/// of its first `finish` was lost.
async fn is_done(conn: &mut PgConnection, intent: &Intent) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM chunk_intents i
               JOIN log_partitions p ON p.partition = i.partition AND p.epoch = i.epoch
               WHERE i.partition = $1 AND i.from_position = $2 AND i.to_position = $3
                 AND i.epoch = $4 AND i.state = 'done'
           ) AS "done!""#,
        integer("chunk_intents.partition", intent.partition)?,
        bigint("chunk_intents.from_position", intent.from)?,
        bigint("chunk_intents.to_position", intent.to)?,
        bigint("chunk_intents.epoch", intent.epoch)?,
    )
    .fetch_one(conn)
    .await?)
}

pub(crate) fn fenced_unless(held: bool, partition: u32, epoch: u64) -> Result<(), StoreError> {
    if held { Ok(()) } else { Err(StoreError::Fenced { partition, epoch }) }
}
