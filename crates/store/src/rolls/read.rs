//! What others must know of rolls: which generation counts, who must wait, how far it is.

use super::RollState;
use crate::columns::{from_word, id, unsigned};
use crate::{StoreError, Timestamp};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};

/// Under which generation usage counts. What is not here was never rolled: generation 0. Of several
/// that cover a value the greatest counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GenerationRows {
    pub metrics: Vec<(BillableMetricId, u64)>,
    pub subscriptions: Vec<(SubscriptionId, u64)>,
    /// By the start of their 15 minutes.
    pub cells: Vec<(SubscriptionId, Timestamp, u64)>,
}

/// What a roll is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RollSubject {
    Metric(BillableMetricId),
    /// How many.
    Subscriptions(u64),
    /// How many.
    Cells(u64),
}

/// How far a roll is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollProgress {
    pub generation: u64,
    pub subject: RollSubject,
    pub state: RollState,
    /// Computed to the end, of `partitions`.
    pub partitions_done: u32,
    pub partitions: u32,
    /// One for each partition where the roll was taken up.
    pub taken_up: Vec<PartitionProgress>,
    /// Real time, as the others.
    pub requested_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
}

/// How far a roll is in one partition, in positions of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionProgress {
    pub partition: u32,
    pub done_to: u64,
    pub to: u64,
}

impl RollProgress {
    /// How much of the roll is computed, 0..=100: the mean of its partitions, rounded down.
    #[must_use]
    pub fn percent(&self) -> u32 {
        if self.state == RollState::Done {
            return 100;
        }
        let shares = self.taken_up.iter().map(|part| match part.to {
            0 => 100,
            to => u128::from(part.done_to) * 100 / u128::from(to),
        });
        let mean = shares.sum::<u128>() / u128::from(self.partitions.max(1));
        u32::try_from(mean).unwrap_or(100).min(100)
    }
}

/// Under which generation the usage of these subscriptions counts now.
pub async fn generations(
    conn: &mut PgConnection,
    organization: OrganizationId,
    subscriptions: &[SubscriptionId],
) -> Result<GenerationRows, StoreError> {
    let mut found = GenerationRows::default();
    let metrics = sqlx::query!(
        r#"SELECT metric_id AS "metric_id!", max(generation) AS "generation!"
           FROM usage_rolls
           WHERE organization_id = $1 AND state = 'done' AND kind = 'metric'
           GROUP BY metric_id
           ORDER BY metric_id"#,
        organization as _,
    )
    .fetch_all(&mut *conn)
    .await?;
    for row in metrics {
        let generation = unsigned("usage_rolls.generation", row.generation)?;
        found.metrics.push((id(row.metric_id), generation));
    }
    let cells = sqlx::query!(
        r#"SELECT c.subscription_id, c.bucket, max(c.generation) AS "generation!"
           FROM usage_roll_cells c
           JOIN usage_rolls r ON r.generation = c.generation
           WHERE c.organization_id = $1 AND c.subscription_id = ANY($2::uuid[])
             AND r.state = 'done'
           GROUP BY c.subscription_id, c.bucket
           ORDER BY c.subscription_id, c.bucket"#,
        organization as _,
        subscriptions as _,
    )
    .fetch_all(conn)
    .await?;
    for row in cells {
        let subscription = id(row.subscription_id);
        let generation = unsigned("usage_rolls.generation", row.generation)?;
        match row.bucket {
            Some(bucket) => found.cells.push((subscription, bucket, generation)),
            None => found.subscriptions.push((subscription, generation)),
        }
    }
    Ok(found)
}

/// A subscription that counts events which came before it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    pub subscription: SubscriptionId,
    pub external_id: String,
    /// Its events' times: half open, without an end while it runs.
    pub from: Timestamp,
    pub to: Option<Timestamp>,
}

/// The subscriptions for which a roll has counted what had come before them.
pub async fn adopted(
    conn: &mut PgConnection,
    organization: OrganizationId,
) -> Result<Vec<Adopted>, StoreError> {
    let rows = sqlx::query!(
        "SELECT DISTINCT s.id, s.external_id, s.started_at, s.ended_at
         FROM usage_roll_cells c
         JOIN usage_rolls r ON r.generation = c.generation
         JOIN subscriptions s ON s.organization_id = c.organization_id
             AND s.id = c.subscription_id
         WHERE c.organization_id = $1 AND c.bucket IS NULL AND r.state = 'done'",
        organization as _,
    )
    .fetch_all(conn)
    .await?;
    let adopted = rows.into_iter().map(|row| Adopted {
        subscription: id(row.id),
        external_id: row.external_id,
        from: row.started_at,
        to: row.ended_at,
    });
    Ok(adopted.collect())
}

/// The organizations whose usage is about to change by a roll or a void: their invoices wait.
pub async fn unsettled(conn: &mut PgConnection) -> Result<BTreeSet<OrganizationId>, StoreError> {
    let rows = sqlx::query_scalar!(
        r#"SELECT organization_id AS "organization_id!" FROM unsettled_organizations"#
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(id).collect())
}

/// Ended rolls that are shown.
const ENDED_SHOWN: i64 = 20;

/// The rolls of an organization: all that wait or are under way, and the last that ended. Newest
/// first.
pub async fn progress(
    conn: &mut PgConnection,
    organization: OrganizationId,
) -> Result<Vec<RollProgress>, StoreError> {
    let rolls = sqlx::query_file!("src/sql/roll_progress.sql", organization as _, ENDED_SHOWN)
        .fetch_all(&mut *conn)
        .await?;
    let generations: Vec<i64> = rolls.iter().map(|roll| roll.generation).collect();
    let mut taken_up = taken_up(conn, organization, &generations).await?;
    rolls
        .into_iter()
        .map(|row| {
            let taken_up = taken_up.remove(&row.generation).unwrap_or_default();
            let done = taken_up.iter().filter(|part| part.done_to == part.to).count();
            let count = unsigned("usage_roll_cells", row.cells)?;
            let subject = match (row.kind.as_str(), row.metric_id) {
                ("metric", Some(metric)) => RollSubject::Metric(id(metric)),
                ("subscriptions", None) => RollSubject::Subscriptions(count),
                ("cells", None) => RollSubject::Cells(count),
                _ => {
                    let column = "usage_rolls.kind";
                    return Err(StoreError::Corrupt { column, value: row.kind });
                }
            };
            Ok(RollProgress {
                generation: unsigned("usage_rolls.generation", row.generation)?,
                subject,
                state: from_word("usage_rolls.state", &row.state)?,
                partitions_done: unsigned("usage_roll_partitions", done)?,
                partitions: unsigned("log_partitions", row.partitions)?,
                taken_up,
                requested_at: row.requested_at,
                started_at: row.started_at,
                ended_at: row.ended_at,
            })
        })
        .collect()
}

async fn taken_up(
    conn: &mut PgConnection,
    organization: OrganizationId,
    generations: &[i64],
) -> Result<BTreeMap<i64, Vec<PartitionProgress>>, StoreError> {
    let rows = sqlx::query!(
        "SELECT generation, partition, done_to, to_position
         FROM usage_roll_partitions
         WHERE organization_id = $1 AND generation = ANY($2)
         ORDER BY generation, partition",
        organization as _,
        generations,
    )
    .fetch_all(conn)
    .await?;
    let mut found = BTreeMap::<i64, Vec<PartitionProgress>>::new();
    for row in rows {
        let part = PartitionProgress {
            partition: unsigned("usage_roll_partitions.partition", row.partition)?,
            done_to: unsigned("usage_roll_partitions.done_to", row.done_to)?,
            to: unsigned("usage_roll_partitions.to_position", row.to_position)?,
        };
        found.entry(row.generation).or_default().push(part);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_the_mean_of_all_partitions() {
        let of = |state, parts: &[(u64, u64)]| RollProgress {
            generation: 1,
            subject: RollSubject::Cells(1),
            state,
            partitions_done: 0,
            partitions: 4,
            taken_up: parts
                .iter()
                .map(|(done_to, to)| PartitionProgress { partition: 0, done_to: *done_to, to: *to })
                .collect(),
            requested_at: Timestamp::UNIX_EPOCH,
            started_at: None,
            ended_at: None,
        };
        let cases = [
            (RollState::Waiting, &[][..], 0),
            (RollState::Rolling, &[(50, 100)], 12),
            (RollState::Rolling, &[(0, 0), (7, 7)], 50),
            (RollState::Rolling, &[(u64::MAX, u64::MAX); 4], 100),
            (RollState::Rolling, &[(9, 9), (9, 9), (9, 9), (8, 9)], 97),
            (RollState::Done, &[], 100),
        ];
        for (state, parts, expected) in cases {
            assert_eq!(of(state, parts).percent(), expected, "{parts:?}");
        }
    }
}
