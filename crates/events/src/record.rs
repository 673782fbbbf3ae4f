//! The log record: a batch of one organization's events of one partition. Versioned, compressed,
//! with a checksum. `docs/log-format.md` has every byte.

use std::ops::Range;
use weir_ids::OrganizationId;

/// Events of one record, at most: an event's place must fit 16 bits of its position.
pub const RECORD_EVENTS_MAX: usize = 65_535;
/// Bytes of a record's events before compression, at most. A record is never larger than this and
/// its header, so it passes Kafka's default limit of 1,000,000 bytes a message whatever it holds.
pub const RECORD_BODY_BYTES_MAX: usize = 900_000;

const MAGIC: [u8; 4] = *b"WEIR";
const VERSION: u8 = 1;
const PLAIN: u8 = 0;
const LZ4: u8 = 1;
const HEADER_BYTES: usize = 48;
/// Of the header, what the checksum covers; the checksum itself follows.
const CHECKED_BYTES: usize = 44;
/// Of each event, the part of fixed size.
const ROW_BYTES: usize = 26;

/// What all events of a record have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Whose events these are.
    pub organization: OrganizationId,
    /// When the edge took them, microseconds since 1970.
    pub received_at_us: i64,
    /// The version of the catalog that they were checked against.
    pub catalog_version: u64,
}

/// One event of a record. The texts are at most 1,020 bytes (255 characters) but for `properties`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordEvent<'a> {
    pub transaction_id: &'a str,
    pub external_subscription_id: &'a str,
    pub code: &'a str,
    /// Microseconds since 1970: the event's own, or else the time of receipt.
    pub timestamp_us: i64,
    /// `content_hash` of the event as it was sent.
    pub content_hash: u64,
    /// A JSON object as it was written.
    pub properties: &'a str,
}

impl RecordEvent<'_> {
    fn texts(&self) -> [&str; 4] {
        [self.transaction_id, self.external_subscription_id, self.code, self.properties]
    }

    /// Bytes of the event in a record before compression.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        ROW_BYTES + self.texts().iter().map(|text| text.len()).sum::<usize>()
    }
}

/// Cuts events into runs that each fit one record, in order and as few as possible.
pub fn cut_into_records<'s, 'e>(
    events: &'s [RecordEvent<'e>],
) -> impl Iterator<Item = &'s [RecordEvent<'e>]> {
    let mut rest = events;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fitting = rest.iter().take(RECORD_EVENTS_MAX).take_while(|event| {
            bytes += event.encoded_bytes();
            bytes <= RECORD_BODY_BYTES_MAX
        });
        // One event is always taken: the wire's bounds keep it far below a record's.
        let count = fitting.count().max(1).min(rest.len());
        let (run, after) = rest.split_at(count);
        rest = after;
        (!run.is_empty()).then_some(run)
    })
}

/// The bytes of a record.
/// Panics: more events or bytes than one record holds (`cut_into_records` keeps to both), or a text
/// beyond what the wire form lets pass.
#[must_use]
pub fn encode_record(header: &RecordHeader, events: &[RecordEvent<'_>]) -> Vec<u8> {
    let mut body = RecordBody {
        events: 0,
        rows: Vec::with_capacity(events.iter().map(RecordEvent::encoded_bytes).sum()),
        texts: Vec::new(),
    };
    for event in events {
        body.push_row(event);
    }
    // The texts come right behind the rows: all in one place from the start.
    for event in events {
        event.texts().iter().for_each(|text| body.rows.extend_from_slice(text.as_bytes()));
    }
    body.encode(header)
}

/// Events in the form in which a record holds them: what several requests bring becomes one record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordBody {
    events: usize,
    rows: Vec<u8>,
    texts: Vec<u8>,
}

impl RecordBody {
    /// How many events there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Adds an event behind the others. Panics: a text beyond what the wire form lets pass.
    pub fn push(&mut self, event: &RecordEvent<'_>) {
        self.push_row(event);
        event.texts().iter().for_each(|text| self.texts.extend_from_slice(text.as_bytes()));
    }

    fn push_row(&mut self, event: &RecordEvent<'_>) {
        self.events += 1;
        self.rows.extend_from_slice(&event.timestamp_us.to_le_bytes());
        self.rows.extend_from_slice(&event.content_hash.to_le_bytes());
        for name in [event.transaction_id, event.external_subscription_id, event.code] {
            self.rows.extend_from_slice(&length_u16(name.len()).to_le_bytes());
        }
        self.rows.extend_from_slice(&length_u32(event.properties.len()).to_le_bytes());
    }

    /// Whether one record can hold these and the `others`.
    #[must_use]
    pub fn has_room_for(&self, others: &Self) -> bool {
        self.events + others.events <= RECORD_EVENTS_MAX
            && self.bytes() + others.bytes() <= RECORD_BODY_BYTES_MAX
    }

    fn bytes(&self) -> usize {
        self.rows.len() + self.texts.len()
    }

    /// Adds the `others` behind these.
    pub fn append(&mut self, others: &Self) {
        self.events += others.events;
        self.rows.extend_from_slice(&others.rows);
        self.texts.extend_from_slice(&others.texts);
    }

    /// The bytes of the record that holds them. Panics: more events or bytes than one record holds
    /// (`has_room_for` keeps to both).
    #[must_use]
    pub fn encode(self, header: &RecordHeader) -> Vec<u8> {
        let Self { events, rows: mut body, texts } = self;
        body.extend_from_slice(&texts);
        assert!(events <= RECORD_EVENTS_MAX, "{events} events in one record");
        assert!(body.len() <= RECORD_BODY_BYTES_MAX, "{} bytes in one record", body.len());
        let body_bytes = body.len();
        let compressed = lz4_flex::block::compress(&body);
        let (encoding, stored) =
            if compressed.len() < body_bytes { (LZ4, compressed) } else { (PLAIN, body) };

        let mut out = Vec::with_capacity(HEADER_BYTES + stored.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, encoding]);
        out.extend_from_slice(&length_u16(events).to_le_bytes());
        out.extend_from_slice(&header.organization.as_u128().to_be_bytes());
        out.extend_from_slice(&header.received_at_us.to_le_bytes());
        out.extend_from_slice(&header.catalog_version.to_le_bytes());
        out.extend_from_slice(&length_u32(body_bytes).to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&out), &stored);
        out.extend_from_slice(&checksum.to_le_bytes());
        out.extend_from_slice(&stored);
        out
    }
}

#[expect(clippy::expect_used, reason = "a cut length would make another event of it")]
fn length_u16(length: usize) -> u16 {
    u16::try_from(length).expect("length within the wire's bounds")
}

#[expect(clippy::expect_used, reason = "a cut length would make another event of it")]
fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("length within the wire's bounds")
}

/// Why bytes are no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than a header, or another start.
    #[error("not a log record")]
    NotARecord,
    /// Written by a later release.
    #[error("record version {found}, this release reads up to {VERSION}")]
    UnknownVersion { found: u8 },
    /// Compressed in a way that this version does not know.
    #[error("record encoding {found} is not known")]
    UnknownEncoding { found: u8 },
    /// The bytes changed since they were written.
    #[error("checksum {found:08x}, expected {expected:08x}")]
    Checksum { expected: u32, found: u32 },
    /// The checksum is right and the content is not: not written by `encode_record`.
    #[error("malformed record: {what}")]
    Malformed { what: &'static str },
}

/// A record as it was read: the header and events that borrow from it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What the events have in common.
    pub header: RecordHeader,
    rows: Vec<Row>,
    text: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Row {
    timestamp_us: i64,
    content_hash: u64,
    /// Where the four texts start and where the last ends.
    starts: [u32; 5],
}

impl Record {
    /// How many events it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The event at `index`, counted from 0 as in its position.
    #[must_use]
    pub fn event(&self, index: u16) -> Option<RecordEvent<'_>> {
        self.rows.get(usize::from(index)).map(|row| self.event_of(row))
    }

    /// The events' content hashes, in order.
    pub fn content_hashes(&self) -> impl Iterator<Item = u64> + '_ {
        self.rows.iter().map(|row| row.content_hash)
    }

    /// The events in order.
    #[must_use]
    pub fn events(&self) -> RecordEvents<'_> {
        RecordEvents { record: self, rows: self.rows.iter() }
    }

    fn event_of(&self, row: &Row) -> RecordEvent<'_> {
        let [transaction_id, subscription, code, properties, end] = row.starts;
        // `decode_record` has checked every start.
        let text = |range: Range<u32>| {
            self.text.get(range.start as usize..range.end as usize).unwrap_or_default()
        };
        RecordEvent {
            transaction_id: text(transaction_id..subscription),
            external_subscription_id: text(subscription..code),
            code: text(code..properties),
            timestamp_us: row.timestamp_us,
            content_hash: row.content_hash,
            properties: text(properties..end),
        }
    }
}

/// The events of a record, in order.
#[derive(Clone, Debug)]
pub struct RecordEvents<'r> {
    record: &'r Record,
    rows: std::slice::Iter<'r, Row>,
}

impl<'r> Iterator for RecordEvents<'r> {
    type Item = RecordEvent<'r>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rows.next().map(|row| self.record.event_of(row))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rows.size_hint()
    }
}

impl ExactSizeIterator for RecordEvents<'_> {}

/// Reads a record. Needs at most `RECORD_BODY_BYTES_MAX` of memory and a row of 40 bytes for each
/// event, whatever the bytes say. Errors: anything but what `encode_record` wrote.
pub fn decode_record(bytes: &[u8]) -> Result<Record, RecordError> {
    let (head, stored) = bytes.split_at_checked(HEADER_BYTES).ok_or(RecordError::NotARecord)?;
    let mut fields = Fields(head);
    if fields.take::<4>()? != MAGIC {
        return Err(RecordError::NotARecord);
    }
    let [version, encoding] = fields.take::<2>()?;
    if version != VERSION {
        return Err(RecordError::UnknownVersion { found: version });
    }
    let events = usize::from(u16::from_le_bytes(fields.take()?));
    let header = RecordHeader {
        organization: OrganizationId::from_u128(u128::from_be_bytes(fields.take()?)),
        received_at_us: i64::from_le_bytes(fields.take()?),
        catalog_version: u64::from_le_bytes(fields.take()?),
    };
    let body_bytes = u32::from_le_bytes(fields.take()?) as usize;
    let expected = u32::from_le_bytes(fields.take()?);
    let checked = head.get(..CHECKED_BYTES).unwrap_or_default();
    let found = crc32c::crc32c_append(crc32c::crc32c(checked), stored);
    if found != expected {
        return Err(RecordError::Checksum { expected, found });
    }
    let body = decompress(encoding, stored, body_bytes)?;
    let (rows, text) = decode_body(body, events)?;
    Ok(Record { header, rows, text })
}

/// How many events a record says it holds, without reading them; 0 for what is no record.
#[must_use]
pub fn events_in_record(bytes: &[u8]) -> usize {
    match bytes {
        [b'W', b'E', b'I', b'R', _version, _encoding, low, high, ..] => {
            usize::from(u16::from_le_bytes([*low, *high]))
        }
        _ => 0,
    }
}

fn decompress(encoding: u8, stored: &[u8], body_bytes: usize) -> Result<Vec<u8>, RecordError> {
    if body_bytes > RECORD_BODY_BYTES_MAX {
        return Err(RecordError::Malformed { what: "too large" });
    }
    let body = match encoding {
        PLAIN => stored.to_vec(),
        LZ4 => lz4_flex::block::decompress(stored, body_bytes)
            .map_err(|_| RecordError::Malformed { what: "not an lz4 block of its length" })?,
        found => return Err(RecordError::UnknownEncoding { found }),
    };
    if body.len() != body_bytes {
        return Err(RecordError::Malformed { what: "another length than its header says" });
    }
    Ok(body)
}

fn decode_body(mut body: Vec<u8>, events: usize) -> Result<(Vec<Row>, String), RecordError> {
    let table_bytes = events * ROW_BYTES;
    let table =
        body.get(..table_bytes).ok_or(RecordError::Malformed { what: "fewer rows than events" })?;
    let (rows, text_bytes) = decode_rows(table, events)?;
    // In place: these bytes are in the cache, fresh ones would not be.
    body.drain(..table_bytes);
    let text =
        String::from_utf8(body).map_err(|_| RecordError::Malformed { what: "text not UTF-8" })?;
    let is_cut = |start: &u32| !text.is_char_boundary(*start as usize);
    if rows.iter().any(|row| row.starts.iter().any(is_cut)) {
        return Err(RecordError::Malformed { what: "a text beyond the end or cut" });
    }
    if text_bytes != text.len() as u64 {
        return Err(RecordError::Malformed { what: "bytes after the last event" });
    }
    Ok((rows, text))
}

/// The rows of a table, and how many bytes of text they speak of.
fn decode_rows(table: &[u8], events: usize) -> Result<(Vec<Row>, u64), RecordError> {
    let mut fields = Fields(table);
    let mut rows = Vec::with_capacity(events);
    let mut at = 0_u64;
    for _ in 0..events {
        let timestamp_us = i64::from_le_bytes(fields.take()?);
        let content_hash = u64::from_le_bytes(fields.take()?);
        let mut lengths = [0_u32; 4];
        for length in lengths.iter_mut().take(3) {
            *length = u32::from(u16::from_le_bytes(fields.take()?));
        }
        lengths[3] = u32::from_le_bytes(fields.take()?);
        let mut starts = [0_u32; 5];
        for (start, length) in starts.iter_mut().zip(lengths.into_iter().chain([0])) {
            *start = u32::try_from(at)
                .map_err(|_| RecordError::Malformed { what: "a text beyond the end or cut" })?;
            at += u64::from(length);
        }
        rows.push(Row { timestamp_us, content_hash, starts });
    }
    Ok((rows, at))
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (field, rest) =
            self.0.split_first_chunk::<N>().ok_or(RecordError::Malformed { what: "cut short" })?;
        self.0 = rest;
        Ok(*field)
    }
}
