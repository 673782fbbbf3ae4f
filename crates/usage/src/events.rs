//! Reading events: one, a page of them, the ids of a partition, and counts for the verifier.

use crate::{
    ClickHouse, EventRow, UsageError,
    error::during,
    rows::{self, EventWire},
};
use chrono::{DateTime, Utc};
use clickhouse::{Row, query::Query};
use serde::Deserialize;
use std::{fmt, str::FromStr};
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

#[derive(Row, Deserialize)]
struct Count {
    rows: u64,
}

const PAGE: &str = "
    SELECT ?fields
    FROM events
    WHERE organization_id = {organization:UUID}
        AND ({any_subscription:Bool} OR external_subscription_id = {subscription:String})
        AND ({any_code:Bool} OR code = {code:String})
        AND timestamp >= fromUnixTimestamp64Micro({from:Int64}, 'UTC')
        AND timestamp < fromUnixTimestamp64Micro({to:Int64}, 'UTC')
        AND timestamp <= fromUnixTimestamp64Micro({last:Int64}, 'UTC')
        AND (timestamp, partition, position)
            < (fromUnixTimestamp64Micro({last:Int64}, 'UTC'), {last_partition:UInt16}, {last_position:UInt64})
    ORDER BY timestamp DESC, partition DESC, position DESC
    LIMIT {limit:UInt64}";

/// 1900-01-01 and the last microsecond of 2299: what the column holds.
const FIRST_US: i64 = -2_208_988_800_000_000;
const LAST_US: i64 = 10_413_791_999_999_999;

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
        let micros = |at: Option<DateTime<Utc>>, default| {
            at.map_or(default, |at| at.timestamp_micros().clamp(FIRST_US, LAST_US))
        };
        let query = self
            .reader()
            .query(PAGE)
            .param("organization", Uuid::from_u128(organization.as_u128()).to_string())
            .param("any_subscription", filter.external_subscription_id.is_none())
            .param("subscription", filter.external_subscription_id.as_deref().unwrap_or(""))
            .param("any_code", filter.code.is_none())
            .param("code", filter.code.as_deref().unwrap_or(""))
            .param("from", micros(filter.from, FIRST_US))
            .param("to", micros(filter.to, LAST_US))
            .param("last", after.timestamp_us.clamp(FIRST_US, LAST_US))
            .param("last_partition", after.partition)
            .param("last_position", after.position.as_u64())
            // One more than asked for tells whether there is a next page.
            .param("limit", limit + 1);
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

    /// The number of events that the partition's positions `[from, to)` left in the table.
    pub async fn chunk_count(
        &self,
        partition: u32,
        from: Position,
        to: Position,
    ) -> Result<u64, UsageError> {
        let query = self
            .reader()
            .query(
                "SELECT count() AS rows
                FROM events
                WHERE partition = {partition:UInt16}
                    AND position >= {from:UInt64}
                    AND position < {to:UInt64}",
            )
            .param("partition", rows::partition(partition)?)
            .param("from", from.as_u64())
            .param("to", to.as_u64());
        count(query).await
    }

    /// The number of the organization's events, unmatched ones included.
    pub async fn count_events(&self, organization: OrganizationId) -> Result<u64, UsageError> {
        let query = self
            .reader()
            .query("SELECT count() AS rows FROM events WHERE organization_id = {organization:UUID}")
            .param("organization", Uuid::from_u128(organization.as_u128()).to_string());
        count(query).await
    }
}

async fn fetch_events(query: Query) -> Result<Vec<EventRow<'static>>, UsageError> {
    let failed = during("read events");
    let mut cursor = query.fetch::<EventWire<'_>>().map_err(&failed)?;
    let mut events = Vec::new();
    while let Some(row) = cursor.next().await.map_err(&failed)? {
        events.push(row.into_row()?);
    }
    Ok(events)
}

async fn count(query: Query) -> Result<u64, UsageError> {
    let count: Count = query.fetch_one().await.map_err(during("count events"))?;
    Ok(count.rows)
}

#[cfg(test)]
mod tests {
    use super::*;

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
