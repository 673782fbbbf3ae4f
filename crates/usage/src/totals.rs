//! Reading usage: totals of many subscriptions' windows at once.

use crate::{
    ClickHouse, Generations, Latest, Measure, Measures, UsageError, Window,
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
    /// The sum of their values; 0 where it was not asked for.
    pub total: Quantity,
    /// `None` without events, and where it was not asked for.
    pub greatest: Option<Quantity>,
    /// The event with the greatest time; of equal times the one received later. `None` without
    /// events, and where it was not asked for.
    pub latest: Option<Latest>,
    /// Values whose last operation is `add`. 0 for metrics that don't count values, and where it was
    /// not asked for. Values of several groups may be the same: see [`ClickHouse::distinct_unions`].
    pub distinct: u64,
    /// Σ value × seconds from the event to the window's end: exact, decimal, with up to 76 digits.
    /// "0" where it was not asked for.
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

/// Sums and maxima of the metrics that are asked for: only those columns that some of them needs.
///
/// A bucket's values, each × the time to the window's end, are its total × the time from the
/// bucket's start, less Σ value × the time since then. That product of 76 digits costs more than all
/// the rest together, so it is made for the metrics that need it and no other.
fn totals_sql(bounds: &Bounds, organization: OrganizationId, measures: &Measures) -> String {
    let mut rows = bounds.rows_of("usage", organization);
    rows.lists.uuids("asked", measures.metrics());
    let weighted = measures.any(Measure::Weighted);
    if weighted {
        rows.lists.uuids("weighted", measures.with(Measure::Weighted));
    }
    let column = |is_read: bool, read: String, blank: &str| match is_read {
        true => read,
        false => blank.to_owned(),
    };
    let total = weighted || measures.any(Measure::Total);
    let value_seconds = format!(
        "toString(sum(if(
                metric_id IN weighted,
                rows.total * ({end} - toUInt32(rows.bucket)) - rows.value_seconds,
                toDecimal256(0, 18)))) AS value_seconds",
        end = rows.end
    );
    let latest = "tupleElement(max(rows.latest) AS newest, 'timestamp') AS latest_timestamp,
            tupleElement(newest, 'received_at') AS latest_received_at,
            tupleElement(newest, 'position') AS latest_position,
            tupleElement(newest, 'value') AS latest_value";
    let no_latest = "toDateTime64(0, 6, 'UTC') AS latest_timestamp,
            toDateTime64(0, 6, 'UTC') AS latest_received_at,
            toUInt64(0) AS latest_position,
            toDecimal128(0, 12) AS latest_value";
    let greatest = measures.any(Measure::Greatest);
    format!(
        "{lists}SELECT
            {place} AS window,
            metric_id,
            rows.`group` AS `group`,
            sum(rows.events) AS events,
            {total},
            {value_seconds},
            {greatest},
            {latest}
        {from}
            AND metric_id IN asked
        GROUP BY {key}, metric_id, rows.`group`",
        lists = rows.lists.clause(),
        place = rows.place_of(rows.key),
        total = column(total, "toString(sum(rows.total)) AS total".into(), "'0' AS total"),
        value_seconds = column(weighted, value_seconds, "'0' AS value_seconds"),
        greatest = column(
            greatest,
            "max(rows.greatest) AS greatest".into(),
            "toDecimal128(0, 12) AS greatest"
        ),
        latest = column(measures.any(Measure::Latest), latest.into(), no_latest),
        from = rows.from,
        key = rows.key,
    )
}

fn distinct_sql(bounds: &Bounds, organization: OrganizationId, measures: &Measures) -> String {
    let mut rows = bounds.rows_of("usage_values", organization);
    rows.lists.uuids("asked", measures.with(Measure::Distinct));
    format!(
        "{lists}SELECT
            {place} AS window,
            metric_id,
            `group`,
            countIf(added = 1) AS distinct
        FROM (
            SELECT
                {key} AS of_window,
                metric_id,
                rows.`group` AS `group`,
                tupleElement(max(rows.last), 'added') AS added
            {from}
                AND metric_id IN asked
            GROUP BY {key}, metric_id, rows.`group`, rows.value
        )
        GROUP BY of_window, metric_id, `group`
        HAVING distinct > 0",
        lists = rows.lists.clause(),
        place = rows.place_of("of_window"),
        from = rows.from,
        key = rows.key,
    )
}

impl ClickHouse {
    /// ClickHouse's plan for a read of usage, with what its indexes leave to be read.
    #[doc(hidden)]
    pub async fn explain_usage(
        &self,
        organization: OrganizationId,
        windows: &[Window],
        measures: &Measures,
        generations: &Generations,
    ) -> Result<String, UsageError> {
        let bounds = Bounds::of(windows, generations)?;
        let sql = format!("EXPLAIN indexes = 1 {}", totals_sql(&bounds, organization, measures));
        let lines: Vec<PlanWire> =
            self.ask(&sql).fetch_all().await.map_err(during("explain usage"))?;
        Ok(lines.into_iter().map(|line| line.explain + "\n").collect())
    }

    /// The usage of these metrics in all windows under these generations, in few queries however many
    /// windows there are: ordered by window, metric and group. What is not asked for of a metric has
    /// its blank value, or that of the metric's events.
    ///
    /// A total beyond 38 digits, where it is asked for, is an `Err` in its own place. Errors:
    /// `OutOfRange` for windows outside 1970 to 2106; `Unavailable`, `Refused`.
    pub async fn usage(
        &self,
        organization: OrganizationId,
        windows: &[Window],
        measures: &Measures,
        generations: &Generations,
    ) -> Result<Vec<Result<MetricUsage, UsageOverflow>>, UsageError> {
        if windows.is_empty() || measures.is_empty() {
            return Ok(Vec::new());
        }
        self.catch_up(&["usage", "usage_values"]).await?;
        let mut all = Vec::new();
        for (page, windows) in windows.chunks(WINDOWS_MAX).enumerate() {
            let bounds = Bounds::of(windows, generations)?;
            let asked = Asked { windows, first: page * WINDOWS_MAX, measures };
            all.extend(self.usage_within(organization, &asked, &bounds).await?);
        }
        Ok(all)
    }

    async fn usage_within(
        &self,
        organization: OrganizationId,
        asked: &Asked<'_>,
        bounds: &Bounds,
    ) -> Result<Vec<Result<MetricUsage, UsageOverflow>>, UsageError> {
        let totals = async {
            let sql = totals_sql(bounds, organization, asked.measures);
            // Without it the products of 76 digits are made of every row.
            let query = self.ask(&sql).with_setting("short_circuit_function_evaluation", FORCED);
            query.fetch_all::<TotalWire>().await
        };
        let distinct = async {
            if !asked.measures.any(Measure::Distinct) {
                return Ok(Vec::new());
            }
            let sql = distinct_sql(bounds, organization, asked.measures);
            self.ask(&sql).fetch_all::<DistinctWire>().await
        };
        let (totals, distinct) =
            futures::try_join!(totals, distinct).map_err(during("read usage"))?;
        join(asked, totals, distinct)
    }
}

const FORCED: &str = "force_enable";

/// What one query is asked.
struct Asked<'a> {
    windows: &'a [Window],
    /// The place of the first window in the call.
    first: usize,
    measures: &'a Measures,
}

type Key = (u64, Uuid, String);

fn join(
    asked: &Asked<'_>,
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
        let mut usage = blank(asked, &key)?;
        let has = |measure| asked.measures.has(usage.metric, measure);
        let greatest = has(Measure::Greatest).then(|| Quantity::from_scaled(row.greatest));
        let latest = match has(Measure::Latest) {
            true => Some(Latest {
                timestamp: rows::time("latest.timestamp", row.latest_timestamp)?,
                received_at: rows::time("latest.received_at", row.latest_received_at)?,
                position: Position::from_u64(row.latest_position),
                value: Quantity::from_scaled(row.latest_value),
            }),
            false => None,
        };
        let total = has(Measure::Total) || has(Measure::Weighted);
        (usage.greatest, usage.latest) = (greatest, latest);
        usage.distinct = distinct.remove(&key).unwrap_or(0);
        usage.events = row.events;
        usage.value_seconds = row.value_seconds;
        all.insert(key, if total { total_of(usage, row.total) } else { Ok(usage) });
    }
    // The two queries are two moments: a value may be there whose chunk's totals were not yet.
    for (key, count) in distinct {
        let usage = MetricUsage { distinct: count, ..blank(asked, &key)? };
        all.insert(key, Ok(usage));
    }
    Ok(all.into_values().collect())
}

fn blank(asked: &Asked<'_>, (place, metric, group): &Key) -> Result<MetricUsage, UsageError> {
    let unknown = || UsageError::Unreadable { field: "window", value: place.to_string() };
    let place = usize::try_from(*place).map_err(|_| unknown())?;
    let (subscription, _, _) = asked.windows.get(place).ok_or_else(unknown)?;
    Ok(MetricUsage {
        window: asked.first + place,
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
