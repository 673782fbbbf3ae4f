//! When a roll starts and what it covers.

use super::{Roll, RollKind, RolledSubscription};
use crate::columns::{bigint, id, unsigned};
use crate::{StoreError, Timestamp};
use sqlx::types::Uuid;
use sqlx::{Connection, PgConnection};
use std::collections::BTreeMap;
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};

/// Voids that one call makes rolls of, and those of the same instant; the rest is for the next.
const VOIDS_MAX: i64 = 10_000;

/// Makes rolls of new voids and starts the next roll of each organization where none is under way.
/// Any process may call it at any time. Returns how many were started.
pub async fn start_due(conn: &mut PgConnection) -> Result<u64, StoreError> {
    if !any_void_waits(conn).await? && startable(conn).await?.is_empty() {
        return Ok(0);
    }
    let mut tx = conn.begin().await?;
    // Whoever asks for a roll, or ends one, holds the same lock.
    let version = next_version(&mut tx).await?;
    collect_voids(&mut tx).await?;
    let due = startable(&mut tx).await?;
    for generation in &due {
        sqlx::query!(
            "UPDATE usage_rolls
             SET state = 'rolling', catalog_version = $2, started_at = clock_timestamp()
             WHERE generation = $1",
            generation,
            version,
        )
        .execute(&mut *tx)
        .await?;
        announce(&mut tx, *generation, version).await?;
    }
    tx.commit().await?;
    unsigned("usage_rolls", due.len())
}

async fn any_void_waits(conn: &mut PgConnection) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM event_voids WHERE generation IS NULL) AS "waits!""#
    )
    .fetch_one(conn)
    .await?)
}

/// The next roll of each organization in which none is under way.
async fn startable(conn: &mut PgConnection) -> Result<Vec<i64>, StoreError> {
    Ok(sqlx::query_scalar!(
        "SELECT DISTINCT ON (r.organization_id) r.generation
         FROM usage_rolls r
         WHERE r.state = 'waiting' AND NOT EXISTS (
             SELECT FROM usage_rolls o
             WHERE o.organization_id = r.organization_id AND o.state = 'rolling'
         )
         ORDER BY r.organization_id, r.generation"
    )
    .fetch_all(conn)
    .await?)
}

pub(super) async fn next_version(conn: &mut PgConnection) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar!(r#"SELECT catalog_next_version() AS "version!""#)
        .fetch_one(conn)
        .await?)
}

/// Has live chunks write the generation beside the one in effect.
async fn announce(
    conn: &mut PgConnection,
    generation: i64,
    version: i64,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO catalog_metrics
             (id, organization_id, event_code, aggregation, field_name, expression, dimensions,
              generation, rolling, version_from)
         SELECT m.id, m.organization_id, m.event_code, m.aggregation, m.field_name, m.expression,
             metric_dimensions(m.filters, m.group_keys), r.generation, true, $2
         FROM usage_rolls r
         JOIN billable_metrics m
             ON m.organization_id = r.organization_id AND m.id = r.metric_id
         WHERE r.generation = $1 AND m.deleted_at IS NULL",
        generation,
        version,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "INSERT INTO catalog_overrides
             (generation, organization_id, subscription_id, bucket, rolling, version_from)
         SELECT generation, organization_id, subscription_id, bucket, true, $2
         FROM usage_roll_cells
         WHERE generation = $1",
        generation,
        version,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Gives the voids that belong to no roll to one of each organization, a new one or one that has
/// not started; those of one instant together. A void belongs to the cells of every subscription
/// that ever held its external id at its time; those of no subscription make a roll without cells,
/// which is done at once: they only get its generation.
async fn collect_voids(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query_file!("src/sql/roll_voids.sql", VOIDS_MAX).execute(conn).await?;
    Ok(())
}

/// All rolls that are under way, by generation.
pub async fn rolling(conn: &mut PgConnection) -> Result<Vec<Roll>, StoreError> {
    let rolls = sqlx::query!(
        r#"SELECT generation, organization_id, kind, metric_id,
               catalog_version AS "catalog_version!"
           FROM usage_rolls
           WHERE state = 'rolling'
           ORDER BY generation"#
    )
    .fetch_all(&mut *conn)
    .await?;
    with_kinds(conn, rolls, |roll| (roll.generation, &roll.kind, roll.metric_id))
        .await?
        .into_iter()
        .map(|(roll, kind)| {
            Ok(Roll {
                generation: unsigned("usage_rolls.generation", roll.generation)?,
                organization: id::<OrganizationId>(roll.organization_id),
                kind,
                takes_hold_in: unsigned("usage_rolls.catalog_version", roll.catalog_version)?,
            })
        })
        .collect()
}

/// These rolls, each with what it computes again: `columns` says a roll's generation, kind and metric.
/// Errors: `Corrupt` when that names nothing to compute.
pub(super) async fn with_kinds<R>(
    conn: &mut PgConnection,
    rolls: Vec<R>,
    columns: impl Fn(&R) -> (i64, &str, Option<Uuid>),
) -> Result<Vec<(R, RollKind)>, StoreError> {
    let generations: Vec<i64> = rolls.iter().map(|roll| columns(roll).0).collect();
    let cells = sqlx::query!(
        "SELECT c.generation, c.subscription_id, c.bucket, s.external_id
         FROM usage_roll_cells c
         JOIN subscriptions s
             ON s.organization_id = c.organization_id AND s.id = c.subscription_id
         WHERE c.generation = ANY($1)
         ORDER BY c.generation, c.subscription_id, c.bucket",
        &generations,
    )
    .fetch_all(conn)
    .await?;
    let mut subscriptions = BTreeMap::<i64, Vec<RolledSubscription>>::new();
    let mut buckets = BTreeMap::<i64, Vec<(SubscriptionId, Timestamp)>>::new();
    for cell in cells {
        let subscription = id::<SubscriptionId>(cell.subscription_id);
        match cell.bucket {
            Some(bucket) => {
                buckets.entry(cell.generation).or_default().push((subscription, bucket));
            }
            None => subscriptions
                .entry(cell.generation)
                .or_default()
                .push(RolledSubscription { id: subscription, external_id: cell.external_id }),
        }
    }
    rolls
        .into_iter()
        .map(|roll| {
            let (generation, word, metric) = columns(&roll);
            let kind = match (word, metric) {
                ("metric", Some(metric)) => {
                    RollKind::Metric { metric: id::<BillableMetricId>(metric) }
                }
                ("subscriptions", None) => RollKind::Subscriptions {
                    subscriptions: subscriptions.remove(&generation).unwrap_or_default(),
                },
                ("cells", None) => {
                    RollKind::Cells { cells: buckets.remove(&generation).unwrap_or_default() }
                }
                _ => {
                    let value = word.to_owned();
                    return Err(StoreError::Corrupt { column: "usage_rolls.kind", value });
                }
            };
            Ok((roll, kind))
        })
        .collect()
}

/// Ends a roll whose every partition is computed: readers take its generation. Nothing happens
/// before that, or when it has ended.
pub(super) async fn end_if_complete(
    conn: &mut PgConnection,
    generation: u64,
) -> Result<(), StoreError> {
    let generation = bigint("usage_rolls.generation", generation)?;
    // Of two owners that end the last two partitions at once, the second sees both.
    sqlx::query!("SELECT version FROM catalog_version FOR UPDATE").fetch_one(&mut *conn).await?;
    if !is_complete(conn, generation).await? {
        return Ok(());
    }
    let ended = sqlx::query!(
        "UPDATE usage_rolls
         SET state = 'done', ended_at = clock_timestamp()
         WHERE generation = $1 AND state = 'rolling'",
        generation,
    )
    .execute(&mut *conn)
    .await?;
    if ended.rows_affected() == 0 {
        return Ok(());
    }
    let version = next_version(conn).await?;
    switch_metric(conn, generation, version).await?;
    switch_overrides(conn, generation, version).await
}

async fn is_complete(conn: &mut PgConnection, generation: i64) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT NOT EXISTS (
               SELECT FROM log_partitions p
               WHERE NOT EXISTS (
                   SELECT FROM usage_roll_partitions r
                   WHERE r.generation = $1 AND r.partition = p.partition
                     AND r.done_to = r.to_position
               )
           ) AS "complete!""#,
        generation,
    )
    .fetch_one(conn)
    .await?)
}

/// The metric as it was is gone, the metric as it is is read.
async fn switch_metric(
    conn: &mut PgConnection,
    generation: i64,
    version: i64,
) -> Result<(), StoreError> {
    sqlx::query!(
        "WITH closed AS (
             UPDATE catalog_metrics c
             SET version_to = $2
             FROM usage_rolls r
             WHERE r.generation = $1 AND c.id = r.metric_id AND c.version_to IS NULL
             RETURNING c.*
         )
         INSERT INTO catalog_metrics
             (id, organization_id, event_code, aggregation, field_name, expression, dimensions,
              generation, rolling, version_from)
         SELECT id, organization_id, event_code, aggregation, field_name, expression, dimensions,
             generation, false, $2
         FROM closed
         WHERE generation = $1",
        generation,
        version,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What an override replaces is gone too: the catalog holds one for a subscription and one for a
/// cell.
async fn switch_overrides(
    conn: &mut PgConnection,
    generation: i64,
    version: i64,
) -> Result<(), StoreError> {
    sqlx::query_file!("src/sql/switch_overrides.sql", generation, version).execute(conn).await?;
    Ok(())
}
