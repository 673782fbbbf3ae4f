//! Buckets that changed after they were billed.

use crate::{
    ClickHouse, Generations, UsageError,
    error::during,
    generations::Effective,
    lists::{self, Lists},
    rows,
    windows::WINDOWS_MAX,
};
use chrono::{DateTime, Utc};
use clickhouse::Row;
use serde::Deserialize;
use std::collections::BTreeSet;
use uuid::Uuid;
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};

/// Which of a subscription's buckets that begin before `before` changed after `changed_after`?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LateQuestion {
    pub subscription: SubscriptionId,
    pub before: DateTime<Utc>,
    /// Compared by whole milliseconds: a change within the same one counts as after.
    pub changed_after: DateTime<Utc>,
}

/// A bucket of a metric that changed late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LateBucket {
    pub subscription: SubscriptionId,
    pub metric: BillableMetricId,
    pub bucket: DateTime<Utc>,
}

#[derive(Row, Deserialize)]
struct LateWire {
    #[serde(with = "clickhouse::serde::uuid")]
    subscription_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    metric_id: Uuid,
    bucket: u32,
}

impl ClickHouse {
    /// The late buckets of all questions, each once: ordered by subscription, metric and bucket. Only
    /// what counts under these generations is looked at. A row is a share of its bucket, and the
    /// bucket is as new as the newest of them, so none need be added up.
    ///
    /// Errors: `OutOfRange` for `before` outside 1970 to 2106; `Unavailable`, `Refused`.
    pub async fn late_buckets(
        &self,
        organization: OrganizationId,
        questions: &[LateQuestion],
        generations: &Generations,
    ) -> Result<Vec<LateBucket>, UsageError> {
        self.catch_up(&["usage"]).await?;
        let mut buckets = BTreeSet::new();
        let mut left = questions.to_vec();
        while !left.is_empty() {
            let (questions, later) = page(left);
            left = later;
            let sql = sql(organization, &questions, generations)?;
            let found: Vec<LateWire> =
                self.ask(&sql).fetch_all().await.map_err(during("read late buckets"))?;
            for row in found {
                let bucket = rows::time("bucket", i64::from(row.bucket) * 1_000_000)?;
                buckets.insert(LateBucket {
                    subscription: SubscriptionId::from_u128(row.subscription_id.as_u128()),
                    metric: BillableMetricId::from_u128(row.metric_id.as_u128()),
                    bucket,
                });
            }
        }
        Ok(buckets.into_iter().collect())
    }
}

/// The questions of the next query, in which a subscription tells its question, and those after them.
fn page(questions: Vec<LateQuestion>) -> (Vec<LateQuestion>, Vec<LateQuestion>) {
    let mut asked = BTreeSet::new();
    questions
        .into_iter()
        .partition(|one| asked.len() < WINDOWS_MAX && asked.insert(one.subscription))
}

fn sql(
    organization: OrganizationId,
    questions: &[LateQuestion],
    generations: &Generations,
) -> Result<String, UsageError> {
    let mut befores = Vec::with_capacity(questions.len());
    let mut afters = Vec::with_capacity(questions.len());
    for question in questions {
        // A bucket begins at a whole second: before `before` if before the second after it.
        let fraction = u32::from(question.before.timestamp_subsec_nanos() > 0);
        befores.push(rows::seconds("before", question.before)?.saturating_add(fraction));
        afters.push(rows::micros("changed_after", question.changed_after)?.div_euclid(1_000));
    }
    let asked: BTreeSet<_> = questions.iter().map(|question| question.subscription).collect();
    let mut lists = Lists::default();
    lists.uuids("subscriptions", questions.iter().map(|question| question.subscription.as_u128()));
    lists.numbers("befores", "UInt32", &befores);
    lists.numbers("afters", "Int64", &afters);
    let effective = Effective::of(generations, &asked).condition(&mut lists);
    // The bounds over all questions are what the indexes can use.
    Ok(format!(
        "{lists}SELECT DISTINCT
            subscription_id,
            metric_id,
            bucket
        FROM usage AS rows
        WHERE organization_id = {organization}
            AND subscription_id IN subscriptions
            AND bucket < toDateTime({last}, 'UTC')
            AND changed_at >= fromUnixTimestamp64Milli({first}, 'UTC')
            AND toUInt32(bucket)
                < transform(subscription_id, subscriptions, befores, toUInt32(0))
            AND toUnixTimestamp64Milli(changed_at)
                >= transform(subscription_id, subscriptions, afters, toInt64(0))
            AND {effective}",
        lists = lists.clause(),
        organization = lists::uuid(organization.as_u128()),
        last = befores.iter().max().copied().unwrap_or(0),
        first = afters.iter().min().copied().unwrap_or(0),
    ))
}
