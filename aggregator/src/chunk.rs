//! A chunk of a partition's log, decoded.

use crate::dedup::Seen;
use weir_events::{EventId, Position, Record, RecordError, RecordEvent, decode_record, event_id};
use weir_ids::OrganizationId;

/// How much a chunk may hold; a chunk that is done again has the bounds it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub events_max: usize,
    /// Bytes of events before compression.
    pub bytes_max: usize,
}

impl Limits {
    /// For a range of the log that is given.
    pub const NONE: Self = Self { events_max: usize::MAX, bytes_max: usize::MAX };
}

/// An event and where it came from.
#[derive(Debug, Clone, Copy)]
pub struct EventInLog<'a> {
    pub organization: OrganizationId,
    pub received_at_us: i64,
    pub id: EventId,
    pub position: Position,
    pub fields: RecordEvent<'a>,
}

/// A record whose bytes can't be read. Its events are lost to usage; a person must look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    pub offset: u64,
    pub error: RecordError,
}

/// Whole records of one partition, in log order.
#[derive(Debug)]
pub struct Decoded {
    records: Vec<(u64, Record)>,
    /// One for each event, in order.
    ids: Vec<EventId>,
    unreadable: Vec<Unreadable>,
    to: Position,
}

impl Decoded {
    /// Decodes records (offset and bytes) from `from` on until one of the limits is reached.
    pub fn decode<'b>(
        from: Position,
        stored: impl IntoIterator<Item = (u64, &'b [u8])>,
        limits: Limits,
    ) -> Self {
        let mut chunk =
            Self { records: Vec::new(), ids: Vec::new(), unreadable: Vec::new(), to: from };
        let mut bytes = 0;
        for (offset, stored) in stored {
            if chunk.ids.len() >= limits.events_max || bytes >= limits.bytes_max {
                break;
            }
            bytes += match decode_record(stored) {
                Ok(record) => chunk.push(offset, record),
                Err(error) => {
                    chunk.unreadable.push(Unreadable { offset, error });
                    0
                }
            };
            chunk.to = Position::new(offset + 1, 0);
        }
        chunk
    }

    /// Bytes of the record's events.
    fn push(&mut self, offset: u64, record: Record) -> usize {
        let organization = record.header.organization;
        let mut bytes = 0;
        self.ids.extend(record.events().map(|event| {
            bytes += event.encoded_bytes();
            event_id(organization, event.transaction_id)
        }));
        self.records.push((offset, record));
        bytes
    }

    /// The position behind the last record; where the chunk began if there is none.
    #[must_use]
    pub fn to(&self) -> Position {
        self.to
    }

    /// Number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Number of records that could be read.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records.len() as u64
    }

    /// Whether it holds no event; it may hold records all the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The records that could not be read.
    #[must_use]
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// The newest catalog that any of the events was checked against.
    #[must_use]
    pub fn catalog_version(&self) -> u64 {
        self.headers().map(|header| header.catalog_version).max().unwrap_or(0)
    }

    fn headers(&self) -> impl Iterator<Item = &weir_events::RecordHeader> {
        self.records.iter().map(|(_, record)| &record.header)
    }

    /// The events' ids, in log order.
    #[must_use]
    pub fn ids(&self) -> &[EventId] {
        &self.ids
    }

    /// The events, in log order.
    pub fn events(&self) -> impl Iterator<Item = EventInLog<'_>> {
        let fields = self.records.iter().flat_map(|(offset, record)| {
            // A record holds at most 65,535 events, so each has a place in 16 bits.
            (0..=u16::MAX)
                .zip(record.events())
                .map(move |(index, fields)| (record.header, Position::new(*offset, index), fields))
        });
        fields.zip(&self.ids).map(|((header, position, fields), id)| EventInLog {
            organization: header.organization,
            received_at_us: header.received_at_us,
            id: *id,
            position,
            fields,
        })
    }

    /// What telling copies apart needs of the events, in log order.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        let places = self.records.iter().flat_map(|(offset, record)| {
            (0..=u16::MAX)
                .zip(record.content_hashes())
                .map(move |(index, content_hash)| (Position::new(*offset, index), content_hash))
        });
        places
            .zip(&self.ids)
            .map(|((position, content_hash), id)| Seen { id: *id, position, content_hash })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_events::{RecordHeader, encode_record};

    fn record(transactions: &[&str]) -> Vec<u8> {
        let header = RecordHeader {
            organization: OrganizationId::from_u128(1),
            received_at_us: 5,
            catalog_version: transactions.len() as u64,
        };
        let events: Vec<_> = transactions
            .iter()
            .map(|transaction_id| RecordEvent {
                transaction_id,
                external_subscription_id: "s",
                code: "c",
                timestamp_us: 0,
                content_hash: 0,
                properties: "{}",
            })
            .collect();
        encode_record(&header, &events)
    }

    #[test]
    fn events_keep_their_place_and_a_broken_record_is_passed_over_but_covered() {
        let (one, two) = (record(&["a", "b"]), record(&["c"]));
        let stored = [(7, one.as_slice()), (8, b"broken".as_slice()), (9, two.as_slice())];
        let chunk = Decoded::decode(Position::new(7, 0), stored, Limits::NONE);
        let places: Vec<_> =
            chunk.events().map(|event| (event.fields.transaction_id, event.position)).collect();
        let at = Position::new;
        assert_eq!(places, [("a", at(7, 0)), ("b", at(7, 1)), ("c", at(9, 0))]);
        assert_eq!((chunk.to(), chunk.len(), chunk.catalog_version()), (at(10, 0), 3, 2));
        assert_eq!(chunk.unreadable()[0].offset, 8);
        assert_eq!(chunk.unreadable().len(), 1);
    }

    #[test]
    fn a_chunk_ends_with_the_record_that_reaches_a_limit() {
        let one = record(&["a", "b"]);
        let stored = [(0, one.as_slice()), (1, one.as_slice()), (2, one.as_slice())];
        for (events_max, to) in [(1, 1), (2, 1), (3, 2), (100, 3)] {
            let limits = Limits { events_max, bytes_max: usize::MAX };
            let chunk = Decoded::decode(Position::ZERO, stored, limits);
            assert_eq!(chunk.to(), Position::new(to, 0), "{events_max} events");
        }
        let limits = Limits { events_max: 100, bytes_max: 1 };
        assert_eq!(Decoded::decode(Position::ZERO, stored, limits).to(), Position::new(1, 0));
    }
}
