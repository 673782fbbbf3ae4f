//! What a partition's owner does for a roll.

use super::{RollState, schedule::end_if_complete};
use crate::StoreError;
use crate::columns::{bigint, from_word, integer, unsigned};
use crate::intents::{Intent, fenced_unless, refuse_while_one_lags};
use sqlx::{Connection, PgConnection};

/// How far a roll is in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionRoll {
    /// The roll computes what is before this position; live chunks write the rest.
    pub to: u64,
    /// Whose metrics and subscriptions it goes by.
    pub catalog_version: u64,
    /// Computed so far.
    pub done_to: u64,
    /// The end of the chunk from `done_to` that was being written: exactly it comes next.
    pub open_to: Option<u64>,
    /// Nothing is left: `done_to` is `to`.
    pub finished: bool,
}

/// A chunk of a roll: the positions `from..to` of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RollChunk {
    pub generation: u64,
    pub partition: u32,
    pub from: u64,
    /// Exclusive; the partition's `to` at most, with which the partition is finished.
    pub to: u64,
    /// Of the owner that writes it.
    pub epoch: u64,
}

/// Where the roll goes on in the partition. The first time, it is fixed where the roll ends there:
/// at the committed position, so no chunk may be open. From then on no chunk with a catalog from
/// before the roll can be opened. None: the roll has ended, forget it.
/// Errors: `Fenced` when `epoch` is not the owner, its lease has run out, or a chunk is open.
pub async fn take_up(
    conn: &mut PgConnection,
    generation: u64,
    partition: u32,
    epoch: u64,
) -> Result<Option<PartitionRoll>, StoreError> {
    let mut tx = conn.begin().await?;
    hold(&mut tx, partition, epoch).await?;
    let state = state(&mut tx, generation).await?;
    if state != RollState::Rolling {
        return Ok(None);
    }
    let found = match find(&mut tx, generation, partition).await? {
        Some(found) => found,
        None => {
            fix(&mut tx, generation, partition).await?;
            let found = find(&mut tx, generation, partition).await?;
            found.ok_or(StoreError::Fenced { partition, epoch })?
        }
    };
    tx.commit().await?;
    if found.finished {
        end(conn, generation).await?;
    }
    Ok(Some(found))
}

/// Ends the roll if that was its last partition; how it is now.
///
/// In a transaction of its own, after the partition's: who changes the catalog locks its version and
/// then the partitions, so nobody may hold a partition and wait for the version. Between the two a
/// crash leaves a roll that is finished everywhere: the next one to take it up ends it.
async fn end(conn: &mut PgConnection, generation: u64) -> Result<RollState, StoreError> {
    let mut tx = conn.begin().await?;
    end_if_complete(&mut tx, generation).await?;
    let state = state(&mut tx, generation).await?;
    tx.commit().await?;
    Ok(state)
}

/// Fixes the roll's end in the partition, unless a chunk is open.
async fn fix(conn: &mut PgConnection, generation: u64, partition: u32) -> Result<(), StoreError> {
    sqlx::query!(
        "WITH fixed AS (
             INSERT INTO usage_roll_partitions
                 (generation, organization_id, partition, to_position, catalog_version)
             SELECT r.generation, r.organization_id, p.partition, p.committed, v.version
             FROM usage_rolls r, log_partitions p, catalog_version v
             WHERE r.generation = $1 AND p.partition = $2 AND NOT EXISTS (
                 SELECT FROM chunk_intents i
                 WHERE i.partition = p.partition AND i.state = 'open'
             )
             RETURNING generation, partition
         )
         UPDATE log_partitions p
         SET catalog_floor = greatest(p.catalog_floor, r.catalog_version)
         FROM fixed f
         JOIN usage_rolls r ON r.generation = f.generation
         WHERE p.partition = f.partition",
        bigint("usage_rolls.generation", generation)?,
        integer("log_partitions.partition", partition)?,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The same for every roll that the chunk writes live and that was not taken up in its partition:
/// what is before the chunk was written without. The chunk has just been opened, in this
/// transaction.
pub(crate) async fn take_up_at(conn: &mut PgConnection, intent: &Intent) -> Result<(), StoreError> {
    sqlx::query!(
        "WITH fixed AS (
             INSERT INTO usage_roll_partitions
                 (generation, organization_id, partition, to_position, catalog_version)
             SELECT generation, organization_id, $1, $2, $3
             FROM usage_rolls
             WHERE state = 'rolling' AND catalog_version <= $3
             ON CONFLICT DO NOTHING
             RETURNING generation, partition
         )
         UPDATE log_partitions p
         SET catalog_floor = greatest(p.catalog_floor, r.catalog_version)
         FROM (
             SELECT f.partition, max(r.catalog_version) AS catalog_version
             FROM fixed f
             JOIN usage_rolls r ON r.generation = f.generation
             GROUP BY f.partition
         ) r
         WHERE p.partition = r.partition",
        integer("chunk_intents.partition", intent.partition)?,
        bigint("chunk_intents.from_position", intent.from)?,
        bigint("chunk_intents.catalog_version", intent.catalog_version)?,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Records a chunk of a roll before its first insert. Said twice with the same bounds, it is
/// recorded once. `Rolling`: go on; anything else: the roll has ended, forget it.
/// Errors: `Fenced` when the epoch is not the owner, its lease has run out, `from` is not where the
/// roll goes on, or another chunk of it is open; `Stalled` like [`crate::intents::open`].
pub async fn open_chunk(
    conn: &mut PgConnection,
    chunk: &RollChunk,
) -> Result<RollState, StoreError> {
    refuse_while_one_lags(conn, chunk.partition).await?;
    let mut tx = conn.begin().await?;
    hold(&mut tx, chunk.partition, chunk.epoch).await?;
    let state = state(&mut tx, chunk.generation).await?;
    if state != RollState::Rolling {
        return Ok(state);
    }
    let result = sqlx::query!(
        "UPDATE usage_roll_partitions
         SET open_to = $4,
             open_sequence = coalesce(open_sequence, nextval('chunk_intents_sequence_seq'))
         WHERE generation = $1 AND partition = $2 AND done_to = $3 AND to_position >= $4
           AND (open_to IS NULL OR open_to = $4)",
        bigint("usage_rolls.generation", chunk.generation)?,
        integer("usage_roll_partitions.partition", chunk.partition)?,
        bigint("usage_roll_partitions.done_to", chunk.from)?,
        bigint("usage_roll_partitions.open_to", chunk.to)?,
    )
    .execute(&mut *tx)
    .await?;
    fenced_unless(result.rows_affected() == 1, chunk.partition, chunk.epoch)?;
    tx.commit().await?;
    Ok(RollState::Rolling)
}

/// Marks the open chunk of a roll done. The one that ends at the partition's `to` finishes the
/// partition, and the last partition the roll: right after it readers take its generation.
/// Said twice, it is done once. Returns how the roll is now.
/// Errors: `Fenced` when the epoch is not the owner, or the chunk is not the open one.
pub async fn finish_chunk(
    conn: &mut PgConnection,
    chunk: &RollChunk,
) -> Result<RollState, StoreError> {
    let generation = bigint("usage_rolls.generation", chunk.generation)?;
    let partition = integer("usage_roll_partitions.partition", chunk.partition)?;
    let to = bigint("usage_roll_partitions.open_to", chunk.to)?;
    let mut tx = conn.begin().await?;
    let held = sqlx::query_scalar!(
        "SELECT partition
         FROM log_partitions
         WHERE partition = $1 AND epoch = $2 AND owner IS NOT NULL
         FOR UPDATE",
        partition,
        bigint("log_partitions.epoch", chunk.epoch)?,
    )
    .fetch_optional(&mut *tx)
    .await?;
    fenced_unless(held.is_some(), chunk.partition, chunk.epoch)?;
    sqlx::query!(
        "UPDATE usage_roll_partitions
         SET done_to = $4, open_to = NULL, open_sequence = NULL
         WHERE generation = $1 AND partition = $2 AND done_to = $3 AND open_to = $4",
        generation,
        partition,
        bigint("usage_roll_partitions.done_to", chunk.from)?,
        to,
    )
    .execute(&mut *tx)
    .await?;
    // Also when it was done before: the answer of the first time was lost.
    let now = find(&mut tx, chunk.generation, chunk.partition).await?;
    let now = now.filter(|now| now.done_to == chunk.to && now.open_to.is_none());
    let finished = match now {
        Some(now) => now.finished,
        None => return Err(StoreError::Fenced { partition: chunk.partition, epoch: chunk.epoch }),
    };
    tx.commit().await?;
    if finished { end(conn, chunk.generation).await } else { state(conn, chunk.generation).await }
}

/// Locks the partition for its owner. Errors: `Fenced`.
async fn hold(conn: &mut PgConnection, partition: u32, epoch: u64) -> Result<(), StoreError> {
    let held = sqlx::query_scalar!(
        "SELECT partition
         FROM log_partitions
         WHERE partition = $1 AND epoch = $2 AND lease_until > clock_timestamp()
         FOR UPDATE",
        integer("log_partitions.partition", partition)?,
        bigint("log_partitions.epoch", epoch)?,
    )
    .fetch_optional(conn)
    .await?;
    fenced_unless(held.is_some(), partition, epoch)
}

/// `Abandoned` for a roll that was never there.
async fn state(conn: &mut PgConnection, generation: u64) -> Result<RollState, StoreError> {
    let word = sqlx::query_scalar!(
        "SELECT state FROM usage_rolls WHERE generation = $1",
        bigint("usage_rolls.generation", generation)?,
    )
    .fetch_optional(conn)
    .await?;
    word.map_or(Ok(RollState::Abandoned), |word| from_word("usage_rolls.state", &word))
}

async fn find(
    conn: &mut PgConnection,
    generation: u64,
    partition: u32,
) -> Result<Option<PartitionRoll>, StoreError> {
    let row = sqlx::query!(
        "SELECT to_position, catalog_version, done_to, open_to
         FROM usage_roll_partitions
         WHERE generation = $1 AND partition = $2",
        bigint("usage_rolls.generation", generation)?,
        integer("usage_roll_partitions.partition", partition)?,
    )
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(PartitionRoll {
        to: unsigned("usage_roll_partitions.to_position", row.to_position)?,
        catalog_version: unsigned("usage_roll_partitions.catalog_version", row.catalog_version)?,
        done_to: unsigned("usage_roll_partitions.done_to", row.done_to)?,
        open_to: row.open_to.map(|to| unsigned("usage_roll_partitions.open_to", to)).transpose()?,
        finished: row.done_to == row.to_position,
    }))
}
