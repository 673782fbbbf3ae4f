//! Raw events as they are sent: by column, in ClickHouse's Native format. The engine takes columns
//! as they are where it would take rows apart, value by value.

use crate::{
    EventRow, UsageError,
    error::during,
    rows::{checked_micros, partition},
};
use bytes::Bytes;
use clickhouse::Client;
use hashbrown::HashMap;
use std::time::Duration;
use weir_events::Position;
use weir_ids::{OrganizationId, SubscriptionId};

/// Names and types, in the order in which [`columns_of`] makes them. The engine casts the code to the
/// table's own type.
const COLUMNS: [(&str, &str); 11] = [
    ("organization_id", "UUID"),
    ("subscription_id", "UUID"),
    ("external_subscription_id", "String"),
    ("code", "String"),
    ("transaction_id", "String"),
    ("timestamp", "DateTime64(6, 'UTC')"),
    ("received_at", "DateTime64(6, 'UTC')"),
    ("partition", "UInt16"),
    ("position", "UInt64"),
    ("content_hash", "UInt64"),
    ("properties", "String"),
];
/// Bytes that are handed to the connection at once.
const SEND_BYTES: usize = 1 << 20;
/// Enough for what stands before a column's data.
const HEAD_BYTES: usize = 64;

/// An event to be stored; the first copy of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewEvent<'a> {
    pub organization: OrganizationId,
    /// `None`: no subscription was active at the event's time.
    pub subscription: Option<SubscriptionId>,
    pub external_subscription_id: &'a str,
    pub code: &'a str,
    pub transaction_id: &'a str,
    /// Unix microseconds, 1900 to 2299.
    pub timestamp_us: i64,
    /// Unix microseconds, 1900 to 2299.
    pub received_at_us: i64,
    /// Below 65,536.
    pub partition: u32,
    pub position: Position,
    pub content_hash: u64,
    /// The JSON object as received.
    pub properties: &'a str,
}

impl<'a> From<&'a EventRow<'_>> for NewEvent<'a> {
    fn from(row: &'a EventRow<'_>) -> Self {
        Self {
            organization: row.organization,
            subscription: row.subscription,
            external_subscription_id: &row.external_subscription_id,
            code: &row.code,
            transaction_id: &row.transaction_id,
            timestamp_us: row.timestamp.timestamp_micros(),
            received_at_us: row.received_at.timestamp_micros(),
            partition: row.partition,
            position: row.position,
            content_hash: row.content_hash,
            properties: &row.properties,
        }
    }
}

/// Events by column. Clones share their memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventBlock {
    rows: usize,
    /// Those of [`COLUMNS`].
    columns: [Bytes; COLUMNS.len()],
}

impl EventBlock {
    /// The events in the order of their table, which the engine then need not make.
    /// Errors: `OutOfRange`.
    pub fn of(events: &[NewEvent<'_>]) -> Result<Self, UsageError> {
        let order = table_order(events);
        let sorted = order.iter().filter_map(|place| events.get(place.index as usize));
        let columns = columns_of(sorted, events.len(), text_bytes(events))?;
        Ok(Self { rows: events.len(), columns: columns.map(Bytes::from) })
    }

    /// How many events there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Sends them as one insert of one block; nothing at all when there are none.
    pub(crate) async fn insert(
        &self,
        client: &Client,
        send_timeout: Duration,
        end_timeout: Duration,
    ) -> Result<(), UsageError> {
        if self.is_empty() {
            return Ok(());
        }
        let failed = during("insert");
        let names = COLUMNS.map(|(name, _)| name).join(", ");
        let sql = format!("INSERT INTO events ({names}) FORMAT Native");
        let mut insert =
            client.insert_formatted_with(sql).with_timeouts(Some(send_timeout), Some(end_timeout));
        let mut head = Vec::with_capacity(HEAD_BYTES);
        push_length(&mut head, COLUMNS.len());
        push_length(&mut head, self.rows);
        for ((name, kind), column) in COLUMNS.into_iter().zip(&self.columns) {
            push_text(&mut head, name);
            push_text(&mut head, kind);
            insert.send(std::mem::take(&mut head).into()).await.map_err(&failed)?;
            for from in (0..column.len()).step_by(SEND_BYTES) {
                let part = column.slice(from..column.len().min(from + SEND_BYTES));
                insert.send(part).await.map_err(&failed)?;
            }
        }
        insert.end().await.map_err(&failed)
    }
}

/// Where an event stands in its table. Compared field by field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Of organization, subscription and code.
    rank: u32,
    timestamp_us: i64,
    position: Position,
    /// Of the event.
    index: u32,
}

/// The events' places in order.
fn table_order(events: &[NewEvent<'_>]) -> Vec<Place> {
    let mut numbers = HashMap::new();
    let mut places: Vec<Place> = (0_u32..)
        .zip(events)
        .map(|(index, event)| {
            let next = numbers.len() as u32;
            Place {
                rank: *numbers.entry(TableKey::of(event)).or_insert(next),
                timestamp_us: event.timestamp_us,
                position: event.position,
                index,
            }
        })
        .collect();
    let mut keys: Vec<(TableKey<'_>, u32)> = numbers.into_iter().collect();
    keys.sort_unstable();
    let mut ranks = vec![0; keys.len()];
    for (rank, (_, number)) in (0_u32..).zip(keys) {
        ranks[number as usize] = rank;
    }
    for place in &mut places {
        place.rank = ranks[place.rank as usize];
    }
    places.sort_unstable();
    places
}

/// The beginning of the table's sort key. ClickHouse orders UUIDs by their second half first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct TableKey<'a> {
    organization: (u64, u64),
    subscription: (u64, u64),
    code: &'a str,
}

impl<'a> TableKey<'a> {
    fn of(event: &NewEvent<'a>) -> Self {
        let halves_turned = |uuid: u128| (uuid as u64, (uuid >> 64) as u64);
        Self {
            organization: halves_turned(event.organization.as_u128()),
            subscription: halves_turned(event.subscription.map_or(0, |id| id.as_u128())),
            code: event.code,
        }
    }
}

/// Bytes that the columns of texts need.
fn text_bytes(events: &[NewEvent<'_>]) -> [usize; 4] {
    events.iter().fold([0; 4], |mut sizes, event| {
        for (size, text) in sizes.iter_mut().zip(texts_of(event)) {
            // Names are mostly shorter than 128 bytes, properties are not.
            *size += text.len() + 1 + usize::from(text.len() >= 1 << 7);
        }
        sizes
    })
}

fn texts_of<'a>(event: &NewEvent<'a>) -> [&'a str; 4] {
    [event.external_subscription_id, event.code, event.transaction_id, event.properties]
}

fn columns_of<'a>(
    events: impl Iterator<Item = &'a NewEvent<'a>>,
    count: usize,
    text_bytes: [usize; 4],
) -> Result<[Vec<u8>; COLUMNS.len()], UsageError> {
    let fixed = |bytes: usize| Vec::with_capacity(bytes * count);
    let (mut organizations, mut subscriptions) = (fixed(16), fixed(16));
    let (mut timestamps, mut received, mut partitions) = (fixed(8), fixed(8), fixed(2));
    let (mut positions, mut hashes) = (fixed(8), fixed(8));
    let mut texts: [Vec<u8>; 4] = text_bytes.map(Vec::with_capacity);
    for event in events {
        push_uuid(&mut organizations, event.organization.as_u128());
        push_uuid(&mut subscriptions, event.subscription.map_or(0, |id| id.as_u128()));
        let timestamp = checked_micros("timestamp", event.timestamp_us)?;
        timestamps.extend_from_slice(&timestamp.to_le_bytes());
        let received_at = checked_micros("received_at", event.received_at_us)?;
        received.extend_from_slice(&received_at.to_le_bytes());
        partitions.extend_from_slice(&partition(event.partition)?.to_le_bytes());
        positions.extend_from_slice(&event.position.as_u64().to_le_bytes());
        hashes.extend_from_slice(&event.content_hash.to_le_bytes());
        for (column, text) in texts.iter_mut().zip(texts_of(event)) {
            push_text(column, text);
        }
    }
    let [external_ids, codes, transactions, properties] = texts;
    Ok([
        organizations,
        subscriptions,
        external_ids,
        codes,
        transactions,
        timestamps,
        received,
        partitions,
        positions,
        hashes,
        properties,
    ])
}

/// ClickHouse's UUID: its halves as two numbers.
fn push_uuid(out: &mut Vec<u8>, uuid: u128) {
    out.extend_from_slice(&((uuid >> 64) as u64).to_le_bytes());
    out.extend_from_slice(&(uuid as u64).to_le_bytes());
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    push_length(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// LEB128.
fn push_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 1 << 7 {
        out.push((length as u8) | 1 << 7);
        length >>= 7;
    }
    out.push(length as u8);
}
