//! Raw events as rolls and audits read them: by position, in pieces of a bounded size.

use crate::{
    ClickHouse, EventRow, UsageError,
    error::during,
    events::{EVENT_COLUMNS, fetch_events},
    lists::{self, Lists},
    rows,
};
use chrono::{DateTime, Utc};
use clickhouse::Row;
use serde::Deserialize;
use weir_events::Position;
use weir_ids::OrganizationId;

/// The most events that [`ClickHouse::raw_events`] answers; one more is an error.
pub const RAW_EVENTS_MAX: usize = 1_000_000;
/// The span of positions that is searched first for a boundary: 1,000 records.
const SPAN_FIRST: u64 = 1_000 << 16;
/// Each further search takes this many times the span of the one before.
const SPAN_GROWTH: u64 = 4;

/// Which of an organization's raw events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawScope {
    pub organization: OrganizationId,
    /// Empty: of every code.
    pub codes: Vec<String>,
    /// Empty: of every subscription.
    pub external_subscription_ids: Vec<String>,
    /// Half-open spans of the events' own times, `[from, to)`; they may overlap. Empty: of every time.
    pub times: Vec<(DateTime<Utc>, DateTime<Utc>)>,
}

#[derive(Row, Deserialize)]
struct BoundaryWire {
    position: u64,
}

impl ClickHouse {
    /// Where to end a read of the partition that begins at `from`, so that it has at most `rows_max`
    /// events of the scope: the position of the first event beyond them, or `below` when there is none.
    /// The same events give the same boundary.
    ///
    /// Errors: `OutOfRange`, `Unavailable`, `Refused`.
    pub async fn raw_boundary(
        &self,
        scope: &RawScope,
        partition: u32,
        from: Position,
        below: Position,
        rows_max: u64,
    ) -> Result<Position, UsageError> {
        self.catch_up(&["events"]).await?;
        let mut span = SPAN_FIRST;
        // The events of a piece are near its beginning: what lies far behind is not read each time.
        loop {
            let to = from.as_u64().saturating_add(span).min(below.as_u64());
            let (lists, condition) = scope.condition(Some(partition), from.as_u64(), to)?;
            let sql = format!(
                "{}SELECT position FROM events WHERE {condition}
                ORDER BY position LIMIT 1 OFFSET {rows_max}",
                lists.clause()
            );
            let first_beyond: Option<BoundaryWire> = self
                .ask(&sql)
                .fetch_optional()
                .await
                .map_err(during("read the boundary of raw events"))?;
            if let Some(row) = first_beyond {
                return Ok(Position::from_u64(row.position));
            }
            if to == below.as_u64() {
                return Ok(below);
            }
            span = span.saturating_mul(SPAN_GROWTH);
        }
    }

    /// The scope's events at positions `[from, to)` of one partition or of each, ordered by partition
    /// and position: at most [`RAW_EVENTS_MAX`]; see [`Self::raw_boundary`].
    ///
    /// Errors: `TooMany`, `OutOfRange`, `Unavailable`, `Refused`.
    pub async fn raw_events(
        &self,
        scope: &RawScope,
        partition: Option<u32>,
        from: Position,
        to: Position,
    ) -> Result<Vec<EventRow<'static>>, UsageError> {
        self.catch_up(&["events"]).await?;
        let (lists, condition) = scope.condition(partition, from.as_u64(), to.as_u64())?;
        let sql = format!(
            "{}SELECT {EVENT_COLUMNS}
            FROM events
            WHERE {condition}
            ORDER BY partition, position
            LIMIT {}",
            lists.clause(),
            RAW_EVENTS_MAX + 1
        );
        let events = fetch_events(self.ask(&sql)).await?;
        if events.len() > RAW_EVENTS_MAX {
            return Err(UsageError::TooMany { most: RAW_EVENTS_MAX });
        }
        Ok(events)
    }
}

impl RawScope {
    fn condition(
        &self,
        partition: Option<u32>,
        from: u64,
        to: u64,
    ) -> Result<(Lists, String), UsageError> {
        let mut lists = Lists::default();
        let mut all = vec![
            format!("organization_id = {}", lists::uuid(self.organization.as_u128())),
            format!("position >= {from} AND position < {to}"),
        ];
        if let Some(partition) = partition {
            all.push(format!("partition = {}", rows::partition(partition)?));
        }
        if !self.codes.is_empty() {
            lists.texts("codes", &self.codes);
            all.push("code IN (SELECT arrayJoin(codes))".to_owned());
        }
        if !self.external_subscription_ids.is_empty() {
            lists.texts("external_ids", &self.external_subscription_ids);
            all.push("external_subscription_id IN (SELECT arrayJoin(external_ids))".to_owned());
        }
        if !self.times.is_empty() {
            let spans = joined(&self.times);
            let at = |micros: i64| format!("fromUnixTimestamp64Micro({micros}, 'UTC')");
            let first = spans.first().map_or(0, |(from, _)| *from);
            let end = spans.last().map_or(0, |(_, to)| *to);
            // Around all spans: what the indexes can use.
            all.push(format!("timestamp >= {} AND timestamp < {}", at(first), at(end)));
            if spans.len() > 1 {
                lists.numbers("span_starts", "Int64", spans.iter().map(|(from, _)| from));
                lists.numbers("span_ends", "Int64", spans.iter().map(|(_, to)| to));
                all.push(
                    "arrayExists((start, end) -> toUnixTimestamp64Micro(timestamp) >= start
                        AND toUnixTimestamp64Micro(timestamp) < end, span_starts, span_ends)"
                        .to_owned(),
                );
            }
        }
        Ok((lists, all.join("\nAND ")))
    }
}

/// The same instants in spans that are in order and don't touch, in Unix microseconds.
fn joined(times: &[(DateTime<Utc>, DateTime<Utc>)]) -> Vec<(i64, i64)> {
    let mut spans: Vec<_> = times
        .iter()
        .map(|(from, to)| (rows::clamped_micros(*from), rows::clamped_micros(*to)))
        .collect();
    spans.retain(|(from, to)| from < to);
    spans.sort_unstable();
    let mut joined: Vec<(i64, i64)> = Vec::with_capacity(spans.len());
    for (from, to) in spans {
        match joined.last_mut() {
            Some(last) if from <= last.1 => last.1 = to.max(last.1),
            _ => joined.push((from, to)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_that_touch_or_overlap_are_one() {
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        let spans = |all: &[(i64, i64)]| {
            let times: Vec<_> = all.iter().map(|(from, to)| (at(*from), at(*to))).collect();
            joined(&times)
                .into_iter()
                .map(|(a, b)| (a / 1_000_000, b / 1_000_000))
                .collect::<Vec<_>>()
        };
        for (given, expected) in [
            (vec![(10, 20), (0, 10)], vec![(0, 20)]),
            (vec![(0, 10), (5, 7), (11, 12)], vec![(0, 10), (11, 12)]),
            (vec![(3, 3), (5, 4)], vec![]),
        ] {
            assert_eq!(spans(&given), expected, "{given:?}");
        }
    }
}
