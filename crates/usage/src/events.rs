//! Reading events: one, a page of them, the ids of a partition.

use crate::{
    ClickHouse, EventRow, UsageError,
    error::during,
    lists::{self, Lists},
    rows::{self, EventWire, LAST_US},
};
use chrono::{DateTime, Utc};
use clickhouse::{Row, query::Query};
use serde::Deserialize;
use std::{collections::BTreeMap, fmt, str::FromStr};
use uuid::Uuid;
use weir_events::{EventId, Position, event_id};
use weir_ids::OrganizationId;

/// The most events of one page.
const PAGE_MAX: usize = 1_000;

/// Which events to list; what is absent does not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    pub external_subscription_id: Option<String>,
    pub code: Option<String>,
    /// At or after.
    pub from: Option<DateTime<Utc>>,
    /// Before.
    pub to: Option<DateTime<Utc>>,
    /// Only those that count nowhere.
    pub unmatched: Option<Unmatched>,
}

/// What tells, now, which events count nowhere: those of a code that is not known, and those that
/// came without an active subscription and that no later one has adopted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unmatched {
    pub codes_known: Vec<String>,
    /// External id and half-open span of subscriptions that adopt events of before they were made;
    /// without an end it is open.
    pub adopted: Vec<(String, DateTime<Utc>, Option<DateTime<Utc>>)>,
}

/// The last event of a page; the next page begins after it. Its text form is opaque.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventCursor {
    timestamp_us: i64,
    partition: u16,
    position: Position,
}

/// Events, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    pub events: Vec<EventRow<'static>>,
    /// `None`: this is the last page.
    pub next: Option<EventCursor>,
}

/// What the index of seen ids keeps of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredId {
    pub event_id: EventId,
    pub content_hash: u64,
    pub position: Position,
}

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.timestamp_us, self.partition, self.position.as_u64())
    }
}

impl FromStr for EventCursor {
    type Err = UsageError;

    fn from_str(text: &str) -> Result<Self, UsageError> {
        let mut fields = text.split('-').map(|field| u64::from_str_radix(field, 16).ok());
        let mut field = || fields.next().flatten();
        let (timestamp, partition, position) = (field(), field(), field());
        let cursor = || {
            Some(Self {
                // The hexadecimal digits of a negative time are those of its 64 bits.
                timestamp_us: timestamp?.cast_signed(),
                partition: partition?.try_into().ok()?,
                position: Position::from_u64(position?),
            })
        };
        cursor()
            .filter(|_| text.split('-').count() == 3)
            .ok_or_else(|| UsageError::Cursor(text.to_owned()))
    }
}

#[derive(Row, Deserialize)]
struct IdWire<'a> {
    #[serde(with = "clickhouse::serde::uuid")]
    organization_id: Uuid,
    transaction_id: &'a str,
    content_hash: u64,
    position: u64,
}

/// What an [`EventRow`] is read from, where a query is not a template.
pub(crate) const EVENT_COLUMNS: &str = "organization_id, subscription_id, external_subscription_id,
    code, transaction_id, timestamp, received_at, partition, position, content_hash, properties";

impl ClickHouse {
    /// The event with this transaction id. `None`: there is none (yet).
    pub async fn event(
        &self,
        organization: OrganizationId,
        transaction_id: &str,
    ) -> Result<Option<EventRow<'static>>, UsageError> {
        let query = self
            .reader()
            .query(
                "SELECT ?fields
                FROM events
                WHERE organization_id = {organization:UUID} AND transaction_id = {id:String}
                LIMIT 1",
            )
            .param("organization", Uuid::from_u128(organization.as_u128()).to_string())
            .param("id", transaction_id);
        Ok(fetch_events(query).await?.pop())
    }

    /// The organization's events, newest first, those of one time in the reverse of the log; at most 1,000.
    pub async fn events(
        &self,
        organization: OrganizationId,
        filter: &EventFilter,
        cursor: Option<EventCursor>,
        limit: usize,
    ) -> Result<EventPage, UsageError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let after = cursor.unwrap_or(EventCursor {
            timestamp_us: LAST_US,
            partition: u16::MAX,
            position: Position::from_u64(u64::MAX),
        });
        // One more than asked for tells whether there is a next page.
        let sql = page_sql(organization, filter, after, limit + 1);
        let query = self.ask(&sql);
        let mut events = fetch_events(query).await?;
        let more = events.len() > limit;
        events.truncate(limit);
        let next = match events.last() {
            Some(last) if more => Some(EventCursor {
                timestamp_us: last.timestamp.timestamp_micros(),
                partition: rows::partition(last.partition)?,
                position: last.position,
            }),
            _ => None,
        };
        Ok(EventPage { events, next })
    }

    /// Hands every stored id of the partition at a position below `below` to `sink`, in no order,
    /// streaming: for an index that must be built again. Errors: also in the middle; start afresh then.
    pub async fn ids_of_partition(
        &self,
        partition: u32,
        below: Position,
        mut sink: impl FnMut(StoredId),
    ) -> Result<(), UsageError> {
        // An id that is missed here would be taken for new.
        self.catch_up(&["events"]).await?;
        let failed = during("read ids");
        let mut rows = self
            .writer()
            .query(
                "SELECT ?fields
                FROM events
                WHERE partition = {partition:UInt16} AND position < {below:UInt64}",
            )
            .param("partition", rows::partition(partition)?)
            .param("below", below.as_u64())
            .fetch::<IdWire<'_>>()
            .map_err(&failed)?;
        while let Some(row) = rows.next().await.map_err(&failed)? {
            let organization = OrganizationId::from_u128(row.organization_id.as_u128());
            sink(StoredId {
                event_id: event_id(organization, row.transaction_id),
                content_hash: row.content_hash,
                position: Position::from_u64(row.position),
            });
        }
        Ok(())
    }
}

pub(crate) async fn fetch_events(query: Query) -> Result<Vec<EventRow<'static>>, UsageError> {
    let failed = during("read events");
    let mut cursor = query.fetch::<EventWire<'_>>().map_err(&failed)?;
    let mut events = Vec::new();
    while let Some(row) = cursor.next().await.map_err(&failed)? {
        events.push(row.into_row()?);
    }
    Ok(events)
}

fn page_sql(
    organization: OrganizationId,
    filter: &EventFilter,
    after: EventCursor,
    limit: usize,
) -> String {
    let mut lists = Lists::default();
    let micros = |at: i64| format!("fromUnixTimestamp64Micro({at}, 'UTC')");
    let mut all = vec![format!("organization_id = {}", lists::uuid(organization.as_u128()))];
    if let Some(id) = &filter.external_subscription_id {
        all.push(format!("external_subscription_id = {}", lists::quoted(id)));
    }
    if let Some(code) = &filter.code {
        all.push(format!("code = {}", lists::quoted(code)));
    }
    if let Some(from) = filter.from {
        all.push(format!("timestamp >= {}", micros(rows::clamped_micros(from))));
    }
    if let Some(to) = filter.to {
        all.push(format!("timestamp < {}", micros(rows::clamped_micros(to))));
    }
    let last = micros(rows::storable_micros(after.timestamp_us));
    all.push(format!(
        "timestamp <= {last}
        AND (timestamp, partition, position) < ({last}, {}, {})",
        after.partition,
        after.position.as_u64()
    ));
    if let Some(unmatched) = &filter.unmatched {
        all.push(unmatched.condition(&mut lists));
    }
    format!(
        "{}SELECT {EVENT_COLUMNS}
        FROM events
        WHERE {}
        ORDER BY timestamp DESC, partition DESC, position DESC
        LIMIT {limit}",
        lists.clause(),
        all.join("\nAND ")
    )
}

impl Unmatched {
    fn condition(&self, lists: &mut Lists) -> String {
        lists.texts("codes_known", &self.codes_known);
        let mut spans: BTreeMap<&str, Vec<(i64, i64)>> = BTreeMap::new();
        for (external_id, from, to) in &self.adopted {
            let to = to.map_or(LAST_US + 1, rows::clamped_micros);
            spans.entry(external_id).or_default().push((rows::clamped_micros(*from), to));
        }
        let orphan = "subscription_id = toUUID('00000000-0000-0000-0000-000000000000')";
        let unknown = "code NOT IN (SELECT arrayJoin(codes_known))";
        if spans.is_empty() {
            return format!("({orphan} OR {unknown})");
        }
        // Each id's spans as one text, so that a look-up is by hash and not through all of them.
        let texts = spans.values().map(|spans| {
            let spans: Vec<_> = spans.iter().map(|(from, to)| format!("({from},{to})")).collect();
            format!("[{}]", spans.join(","))
        });
        lists.texts("adopted_spans", texts);
        lists.texts("adopted_ids", spans.keys());
        format!(
            "({orphan} AND NOT arrayExists(
                span -> toUnixTimestamp64Micro(timestamp) >= span.1
                    AND toUnixTimestamp64Micro(timestamp) < span.2,
                CAST(transform(external_subscription_id, adopted_ids, adopted_spans, '[]')
                    AS Array(Tuple(Int64, Int64))))
            OR {unknown})"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::FIRST_US;

    #[test]
    fn cursors_round_trip_also_before_1970() {
        for timestamp_us in [0, 1_772_359_200_000_001, -1, FIRST_US] {
            let position = Position::from_u64(u64::MAX);
            let cursor = EventCursor { timestamp_us, partition: 65_535, position };
            assert_eq!(cursor.to_string().parse::<EventCursor>().unwrap(), cursor);
        }
        for text in ["", "-", "--", "1", "1-1", "g-1-1", "1-10000-1", "1-1-1-1"] {
            assert!(text.parse::<EventCursor>().is_err(), "{text}");
        }
    }
}
