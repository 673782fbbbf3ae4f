//! Reading usage: totals of many subscriptions' windows at once.

use crate::{
    ClickHouse, Generations, Latest, UsageError, Window,
    error::during,
    rows,
    windows::{Bounds, WINDOWS_MAX},
};
use clickhouse::Row;
use serde::Deserialize;
use std::collections::BTreeMap;
use uuid::Uuid;
use weir_events::Position;
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};
use weir_money::Quantity;

/// What a subscription used of one group of a metric within a window. Groups without an event are
/// not listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricUsage {
    /// The place of the window in the call.
    pub window: usize,
    pub subscription: SubscriptionId,
    pub metric: BillableMetricId,
    /// The values of the metric's dimensions, as canonical JSON; empty when there are none.
    pub group: String,
    /// The number of events.
    pub events: u64,
    /// The sum of their values.
    pub total: Quantity,
    /// `None` without events.
    pub greatest: Option<Quantity>,
    /// The event with the greatest time; of equal times the one received later. `None` without events.
    pub latest: Option<Latest>,
    /// Values whose last operation is `add`. 0 for metrics that don't count values. Values of several
    /// groups may be the same: see [`ClickHouse::distinct_unions`].
    pub distinct: u64,
    /// Σ value × seconds from the event to the window's end: exact, decimal, with up to 76 digits.
    ///
    /// 2500 on 5 March 00:00, window March: 2500 × 27 × 86,400 = 5832000000.
    pub value_seconds: String,
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
    group: String,
    events: u64,
    /// As text, as the one below: it may have 76 digits.
    total: String,
    value_seconds: String,
    greatest: i128,
    latest_timestamp: i64,
    latest_received_at: i64,
    latest_position: u64,
    latest_value: i128,
}

#[derive(Row, Deserialize)]
struct DistinctWire {
    window: u64,
    #[serde(with = "clickhouse::serde::uuid")]
    metric_id: Uuid,
    group: String,
    distinct: u64,
}

#[derive(Row, Deserialize)]
struct PlanWire {
    explain: String,
}

/// A bucket's values, each × the time to the window's end, are its total × the time from the
/// bucket's start, less Σ value × the time since then.
fn totals_sql(bounds: &Bounds, organization: OrganizationId) -> String {
    let rows = bounds.rows_of("usage", organization);
    format!(
        "{lists}SELECT
            window,
            metric_id,
            rows.`group` AS `group`,
            sum(rows.events) AS events,
            toString(sum(rows.total)) AS total,
            toString(
                sum(rows.total * (windows.end_exact - toUInt32(rows.bucket)))
                - sum(rows.value_seconds)) AS value_seconds,
            max(rows.greatest) AS greatest,
            tupleElement(max(rows.latest) AS newest, 'timestamp') AS latest_timestamp,
            tupleElement(newest, 'received_at') AS latest_received_at,
            tupleElement(newest, 'position') AS latest_position,
            tupleElement(newest, 'value') AS latest_value
        {from}
        GROUP BY window, metric_id, `group`",
        lists = rows.lists.clause(),
        from = rows.from,
    )
}

fn distinct_sql(bounds: &Bounds, organization: OrganizationId) -> String {
    let rows = bounds.rows_of("usage_values", organization);
    format!(
        "{lists}SELECT
            window,
            metric_id,
            `group`,
            countIf(added = 1) AS distinct
        FROM (
            SELECT
                window,
                metric_id,
                rows.`group` AS `group`,
                tupleElement(max(rows.last), 'added') AS added
            {from}
            GROUP BY window, metric_id, `group`, rows.value
        )
        GROUP BY window, metric_id, `group`
        HAVING distinct > 0",
        lists = rows.lists.clause(),
        from = rows.from,
    )
}

impl ClickHouse {
    /// ClickHouse's plan for a read of usage, with what its indexes leave to be read.
    #[doc(hidden)]
    pub async fn explain_usage(
        &self,
        organization: OrganizationId,
        windows: &[Window],
        generations: &Generations,
    ) -> Result<String, UsageError> {
        let bounds = Bounds::of(windows, generations)?;
        let sql = format!("EXPLAIN indexes = 1 {}", totals_sql(&bounds, organization));
        let lines: Vec<PlanWire> =
            self.ask(&sql).fetch_all().await.map_err(during("explain usage"))?;
        Ok(lines.into_iter().map(|line| line.explain + "\n").collect())
    }

    /// The usage of all windows under these generations, in few queries however many there are:
    /// ordered by window, metric and group.
    ///
    /// A total beyond 38 digits is an `Err` in its own place. Errors: `OutOfRange` for windows
    /// outside 1970 to 2106; `Unavailable`, `Refused`.
    pub async fn usage(
        &self,
        organization: OrganizationId,
        windows: &[Window],
        generations: &Generations,
    ) -> Result<Vec<Result<MetricUsage, UsageOverflow>>, UsageError> {
        if windows.is_empty() {
            return Ok(Vec::new());
        }
        self.catch_up(&["usage", "usage_values"]).await?;
        let mut all = Vec::new();
        for (page, windows) in windows.chunks(WINDOWS_MAX).enumerate() {
            let bounds = Bounds::of(windows, generations)?;
            let first = page * WINDOWS_MAX;
            all.extend(self.usage_within(organization, windows, first, &bounds).await?);
        }
        Ok(all)
    }

    /// The usage of one query's windows, of which the first has this place in the call.
    async fn usage_within(
        &self,
        organization: OrganizationId,
        windows: &[Window],
        first: usize,
        bounds: &Bounds,
    ) -> Result<Vec<Result<MetricUsage, UsageOverflow>>, UsageError> {
        let (totals, distinct) = futures::try_join!(
            self.ask(&totals_sql(bounds, organization)).fetch_all::<TotalWire>(),
            self.ask(&distinct_sql(bounds, organization)).fetch_all::<DistinctWire>(),
        )
        .map_err(during("read usage"))?;
        join(windows, first, totals, distinct)
    }
}

type Key = (u64, Uuid, String);

fn join(
    windows: &[Window],
    first: usize,
    totals: Vec<TotalWire>,
    distinct: Vec<DistinctWire>,
) -> Result<Vec<Result<MetricUsage, UsageOverflow>>, UsageError> {
    let mut distinct: BTreeMap<Key, u64> = distinct
        .into_iter()
        .map(|row| ((row.window, row.metric_id, row.group), row.distinct))
        .collect();
    let mut all = BTreeMap::new();
    // A cell whose last event a roll took away has a row without events.
    for row in totals.into_iter().filter(|row| row.events > 0) {
        let key = (row.window, row.metric_id, row.group);
        let mut usage = blank(windows, first, &key)?;
        usage.distinct = distinct.remove(&key).unwrap_or(0);
        usage.events = row.events;
        usage.value_seconds = row.value_seconds;
        usage.greatest = Some(Quantity::from_scaled(row.greatest));
        usage.latest = Some(Latest {
            timestamp: rows::time("latest.timestamp", row.latest_timestamp)?,
            received_at: rows::time("latest.received_at", row.latest_received_at)?,
            position: Position::from_u64(row.latest_position),
            value: Quantity::from_scaled(row.latest_value),
        });
        all.insert(key, total_of(usage, row.total));
    }
    // The two queries are two moments: a value may be there whose chunk's totals were not yet.
    for (key, count) in distinct {
        let usage = MetricUsage { distinct: count, ..blank(windows, first, &key)? };
        all.insert(key, Ok(usage));
    }
    Ok(all.into_values().collect())
}

fn blank(
    windows: &[Window],
    first: usize,
    (place, metric, group): &Key,
) -> Result<MetricUsage, UsageError> {
    let unknown = || UsageError::Unreadable { field: "window", value: place.to_string() };
    let place = usize::try_from(*place).map_err(|_| unknown())?;
    let (subscription, _, _) = windows.get(place).ok_or_else(unknown)?;
    Ok(MetricUsage {
        window: first + place,
        subscription: *subscription,
        metric: BillableMetricId::from_u128(metric.as_u128()),
        group: group.clone(),
        events: 0,
        total: Quantity::ZERO,
        greatest: None,
        latest: None,
        distinct: 0,
        value_seconds: "0".to_owned(),
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
