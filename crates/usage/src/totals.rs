//! Reading usage: totals of many subscriptions' windows at once.

use crate::{ClickHouse, UsageError, error::during, rows};
use chrono::{DateTime, Utc};
use clickhouse::{Row, query::Query};
use serde::Deserialize;
use std::collections::BTreeMap;
use uuid::Uuid;
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};
use weir_money::Quantity;

/// A subscription and a half-open span of time, `[start, end)`, read by whole buckets: one that the
/// span only touches counts. Periods are cut at midnights, which are bounds of buckets; where a
/// subscription starts or ends within one, its other events are not this subscription's.
pub type Window = (SubscriptionId, DateTime<Utc>, DateTime<Utc>);

/// What a subscription used of one metric within a window. Metrics without an event are not listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricUsage {
    /// The place of the window in the call.
    pub window: usize,
    pub subscription: SubscriptionId,
    pub metric: BillableMetricId,
    /// The number of events.
    pub events: u64,
    /// The sum of their values.
    pub total: Quantity,
    /// `None` without events.
    pub greatest: Option<Quantity>,
    /// The value of the event with the greatest time; of equal times the one received later.
    pub latest: Option<Quantity>,
    /// Values whose last operation is `add`. 0 for metrics that don't count values.
    pub distinct: u64,
}

/// A sum beyond 38 digits. It stops its own subscription's invoice and no other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("usage of {metric} by {subscription} is {total}: more than 38 digits")]
pub struct UsageOverflow {
    /// The place of the window in the call.
    pub window: usize,
    pub subscription: SubscriptionId,
    pub metric: BillableMetricId,
    /// All its digits.
    pub total: String,
}

#[derive(Row, Deserialize)]
struct TotalWire {
    window: u64,
    #[serde(with = "clickhouse::serde::uuid")]
    metric_id: Uuid,
    events: u64,
    /// As text: it may have 76 digits.
    total: String,
    greatest: i128,
    latest: i128,
}

#[derive(Row, Deserialize)]
struct DistinctWire {
    window: u64,
    #[serde(with = "clickhouse::serde::uuid")]
    metric_id: Uuid,
    distinct: u64,
}

/// The rows of `$table` that lie in a window, each with the window's place. Both copies of the
/// subscriptions matter: `IN` finds the granules, the join tells the windows of one subscription apart.
macro_rules! in_windows {
    ($table:literal) => {
        concat!(
            "FROM ",
            $table,
            " AS rows
            INNER JOIN (
                SELECT
                    arrayJoin(arrayZip(
                        range(length({subscriptions:Array(UUID)})),
                        {subscriptions:Array(UUID)},
                        {starts:Array(UInt32)},
                        {ends:Array(UInt32)})) AS item,
                    toUInt64(item.1) AS window,
                    item.2 AS subscription_id,
                    toDateTime(item.3, 'UTC') AS start_at,
                    toDateTime(item.4, 'UTC') AS end_at
            ) AS windows USING (subscription_id)
            WHERE organization_id = {organization:UUID}
                AND subscription_id IN (SELECT arrayJoin({subscriptions:Array(UUID)}))
                AND bucket >= start_at
                AND bucket < end_at "
        )
    };
}

const TOTALS: &str = concat!(
    "SELECT
        window,
        metric_id,
        sum(rows.events) AS events,
        toString(sum(rows.total)) AS total,
        max(rows.greatest) AS greatest,
        tupleElement(max(rows.latest), 'value') AS latest ",
    in_windows!("usage"),
    "GROUP BY window, metric_id"
);

const DISTINCT: &str = concat!(
    "SELECT
        window,
        metric_id,
        countIf(added = 1) AS distinct
    FROM (
        SELECT
            window,
            metric_id,
            tupleElement(max(rows.last), 'added') AS added ",
    in_windows!("usage_values"),
    "   GROUP BY window, metric_id, rows.value
    )
    GROUP BY window, metric_id"
);

impl ClickHouse {
    /// The usage of all windows, in two queries however many there are: ordered by window and metric.
    ///
    /// A total beyond 38 digits is an `Err` in its own place. Errors: `OutOfRange` for windows
    /// outside 1970 to 2106; `Unavailable`, `Refused`.
    pub async fn usage(
        &self,
        organization: OrganizationId,
        windows: &[Window],
    ) -> Result<Vec<Result<MetricUsage, UsageOverflow>>, UsageError> {
        if windows.is_empty() {
            return Ok(Vec::new());
        }
        let bounds = Bounds::of(windows)?;
        let failed = during("read usage");
        let (totals, distinct) = futures::try_join!(
            bounds.ask(self.reader().query(TOTALS), organization).fetch_all::<TotalWire>(),
            bounds.ask(self.reader().query(DISTINCT), organization).fetch_all::<DistinctWire>(),
        )
        .map_err(failed)?;
        join(windows, totals, distinct)
    }
}

/// Windows as the columns that a query takes.
struct Bounds {
    subscriptions: Vec<String>,
    starts: Vec<u32>,
    ends: Vec<u32>,
}

impl Bounds {
    fn of(windows: &[Window]) -> Result<Self, UsageError> {
        let (mut subscriptions, mut starts, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for (subscription, start, end) in windows {
            subscriptions.push(Uuid::from_u128(subscription.as_u128()).to_string());
            starts.push(rows::seconds("start", rows::bucket_of(*start))?);
            // A bucket begins at a whole second: it begins before `end` if before the second after it.
            let fraction = u32::from(end.timestamp_subsec_nanos() > 0);
            ends.push(rows::seconds("end", *end)?.saturating_add(fraction));
        }
        Ok(Self { subscriptions, starts, ends })
    }

    fn ask(&self, query: Query, organization: OrganizationId) -> Query {
        query
            .param("organization", Uuid::from_u128(organization.as_u128()).to_string())
            .param("subscriptions", &self.subscriptions)
            .param("starts", &self.starts)
            .param("ends", &self.ends)
    }
}

fn join(
    windows: &[Window],
    totals: Vec<TotalWire>,
    distinct: Vec<DistinctWire>,
) -> Result<Vec<Result<MetricUsage, UsageOverflow>>, UsageError> {
    let mut distinct: BTreeMap<(u64, Uuid), u64> =
        distinct.into_iter().map(|row| ((row.window, row.metric_id), row.distinct)).collect();
    let mut all = BTreeMap::new();
    for row in totals {
        let key = (row.window, row.metric_id);
        let mut usage = blank(windows, key)?;
        usage.distinct = distinct.remove(&key).unwrap_or(0);
        usage.events = row.events;
        if row.events > 0 {
            usage.greatest = Some(Quantity::from_scaled(row.greatest));
            usage.latest = Some(Quantity::from_scaled(row.latest));
        }
        all.insert(key, total_of(usage, row.total));
    }
    // The two queries are two moments: a value may be there whose chunk's totals were not yet.
    for (key, count) in distinct {
        all.insert(key, Ok(MetricUsage { distinct: count, ..blank(windows, key)? }));
    }
    Ok(all.into_values().collect())
}

fn blank(windows: &[Window], (place, metric): (u64, Uuid)) -> Result<MetricUsage, UsageError> {
    let unknown = || UsageError::Unreadable { field: "window", value: place.to_string() };
    let window = usize::try_from(place).map_err(|_| unknown())?;
    let (subscription, _, _) = windows.get(window).ok_or_else(unknown)?;
    Ok(MetricUsage {
        window,
        subscription: *subscription,
        metric: BillableMetricId::from_u128(metric.as_u128()),
        events: 0,
        total: Quantity::ZERO,
        greatest: None,
        latest: None,
        distinct: 0,
    })
}

/// `total` is ClickHouse's own text of a sum, so the only reason not to read it is its length.
fn total_of(usage: MetricUsage, total: String) -> Result<MetricUsage, UsageOverflow> {
    match total.parse() {
        Ok(total) => Ok(MetricUsage { total, ..usage }),
        Err(_) => Err(UsageOverflow {
            window: usage.window,
            subscription: usage.subscription,
            metric: usage.metric,
            total,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_takes_every_bucket_that_it_touches() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let subscription = SubscriptionId::from_u128(1);
        let seconds = |text: &str| u32::try_from(at(text).timestamp()).unwrap();
        for (start, end, first, before) in [
            ("10:00:00", "10:15:00", "10:00:00", "10:15:00"),
            ("10:07:33", "10:15:00.000001", "10:00:00", "10:15:01"),
        ] {
            let day = |time: &str| format!("2026-03-01T{time}Z");
            let bounds = Bounds::of(&[(subscription, at(&day(start)), at(&day(end)))]).unwrap();
            assert_eq!(bounds.starts, [seconds(&day(first))], "{start}");
            assert_eq!(bounds.ends, [seconds(&day(before))], "{end}");
        }
    }
}
