//! From a request's body to checked events that borrow from it.

use crate::{
    BodyError, Properties, Reason, Rejection,
    json::{Cursor, Digester, Flaw, Kind, SyntaxError, Text},
    property::Field,
    timestamp,
};
use std::{borrow::Cow, ops::Range};

/// Bytes of one event as written, at most.
pub const EVENT_BYTES_MAX: usize = 64 * 1024;
/// Characters of a transaction id, an external subscription id or a code, at most.
pub const NAME_CHARS_MAX: usize = 255;
/// Events of one body, at most. A body of 16 MB holds 60,000 events of the usual 267 bytes; the
/// bound is for bodies of very small ones, whose verdicts would need a multiple of the body.
pub const BATCH_EVENTS_MAX: usize = 100_000;
/// Levels of objects and arrays in an event's properties, themselves included.
pub const PROPERTIES_DEPTH_MAX: u32 = 32;

/// How the events of a batch's body are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An array of events, or `{"events":[…]}`.
    Json,
    /// One event a line; empty lines don't count.
    Ndjson,
}

/// An event that passed every check which needs no catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireEvent<'a> {
    /// 1 to 255 characters.
    pub transaction_id: Cow<'a, str>,
    /// 1 to 255 characters.
    pub external_subscription_id: Cow<'a, str>,
    /// 1 to 255 characters.
    pub code: Cow<'a, str>,
    /// Microseconds since 1970, up to the year 2299; `None` means the time of receipt.
    pub timestamp_us: Option<i64>,
    /// A JSON object as it was written, `{}` where none was given. No key stands twice in it.
    pub properties: &'a str,
    pub(crate) properties_digest: u64,
    /// Which fields of the body are its properties'.
    fields: Range<usize>,
}

/// What a body holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// A verdict for each event, in order.
    pub events: Vec<Result<WireEvent<'a>, Rejection>>,
    /// Where the fields of all their properties stand: found on the way, so that nobody who asks
    /// for one has to search.
    fields: Vec<Field>,
}

impl Parsed<'_> {
    /// The properties of one of the events.
    #[must_use]
    pub fn properties<'p>(&'p self, event: &'p WireEvent<'_>) -> Properties<'p> {
        let fields = self.fields.get(event.fields.clone()).unwrap_or_default();
        Properties::new(event.properties, fields)
    }
}

/// Reads the body of a single event. Errors: a body that is not JSON; the event's own faults are
/// the inner result.
pub fn parse_one(body: &[u8]) -> Result<Result<WireEvent<'_>, Rejection>, BodyError> {
    one(body, &mut Vec::new())
}

/// The same in the form of a batch of one.
pub fn parse_single(body: &[u8]) -> Result<Parsed<'_>, BodyError> {
    let mut fields = Vec::new();
    let events = vec![one(body, &mut fields)?];
    Ok(Parsed { events, fields })
}

/// Reads the body of a batch.
/// Errors: a JSON body that is no batch or not JSON throughout, of which nothing is taken. In NDJSON
/// a line that is not JSON is a verdict like any other, so only `TooManyEvents` is possible.
pub fn parse_batch(body: &[u8], format: Format) -> Result<Parsed<'_>, BodyError> {
    let mut fields = Vec::with_capacity(expected_events(body.len()) * USUAL_FIELDS);
    let events = match format {
        Format::Json => parse_json_batch(text_of(body)?, &mut fields)?,
        Format::Ndjson => parse_lines(body, &mut fields)?,
    };
    Ok(Parsed { events, fields })
}

fn one<'a>(
    body: &'a [u8],
    fields: &mut Vec<Field>,
) -> Result<Result<WireEvent<'a>, Rejection>, BodyError> {
    let mut reader = Reader::new(text_of(body)?, fields);
    let event = reader.event()?;
    reader.cursor.end()?;
    Ok(event)
}

fn text_of(body: &[u8]) -> Result<&str, BodyError> {
    std::str::from_utf8(body).map_err(|error| BodyError::NotUtf8 { at: error.valid_up_to() })
}

impl From<SyntaxError> for BodyError {
    fn from(error: SyntaxError) -> Self {
        Self::NotJson { at: error.at, expected: error.expected }
    }
}

fn parse_json_batch<'a>(
    text: &'a str,
    fields: &mut Vec<Field>,
) -> Result<Vec<Result<WireEvent<'a>, Rejection>>, BodyError> {
    let mut reader = Reader::new(text, fields);
    let events = match reader.cursor.kind()? {
        Kind::Array => reader.events()?,
        Kind::Object => {
            reader.cursor.take(b'{');
            let mut events = None;
            while let Some(key) = reader.cursor.next_key(events.is_none())? {
                if events.is_some() || !key.is("events") {
                    return Err(BodyError::UnexpectedField { field: short(&key.value()) });
                }
                if reader.cursor.kind()? != Kind::Array {
                    return Err(BodyError::NotABatch);
                }
                events = Some(reader.events()?);
            }
            events.ok_or(BodyError::NotABatch)?
        }
        Kind::String | Kind::Number | Kind::Bool | Kind::Null => {
            reader.cursor.scalar()?;
            return Err(BodyError::NotABatch);
        }
    };
    reader.cursor.end()?;
    Ok(events)
}

fn parse_lines<'a>(
    body: &'a [u8],
    fields: &mut Vec<Field>,
) -> Result<Vec<Result<WireEvent<'a>, Rejection>>, BodyError> {
    let mut events = Vec::with_capacity(expected_events(body.len()));
    for line in body.split(|byte| *byte == b'\n') {
        if line.trim_ascii().is_empty() {
            continue;
        }
        if events.len() == BATCH_EVENTS_MAX {
            return Err(BodyError::TooManyEvents { max: BATCH_EVENTS_MAX });
        }
        events.push(one(line, fields).unwrap_or_else(|error| {
            let message = error.to_string().replace("the body", "the line");
            Err(Rejection::new(Reason::InvalidJson, "", message))
        }));
    }
    Ok(events)
}

/// How many events to make room for: those of 256 bytes that the body could hold.
fn expected_events(bytes: usize) -> usize {
    (bytes / 256 + 1).min(BATCH_EVENTS_MAX)
}

/// Fields of an event's properties, usually.
const USUAL_FIELDS: usize = 4;

struct Reader<'a, 'f> {
    cursor: Cursor<'a>,
    digester: Digester,
    /// Of the properties of all events.
    all_fields: &'f mut Vec<Field>,
    bytes: usize,
}

/// The fields of one event as they were found.
#[derive(Default)]
struct Fields<'a> {
    transaction_id: Option<Value<'a>>,
    external_subscription_id: Option<Value<'a>>,
    code: Option<Value<'a>>,
    timestamp: Option<Value<'a>>,
    properties: Option<Value<'a>>,
}

enum Value<'a> {
    Null,
    Text(Text<'a>),
    Number(&'a str),
    Object { raw: &'a str, digest: Result<u64, Flaw>, fields: Range<usize> },
    Other,
}

impl<'a, 'f> Reader<'a, 'f> {
    fn new(text: &'a str, all_fields: &'f mut Vec<Field>) -> Self {
        Self {
            cursor: Cursor::new(text),
            digester: Digester::new(PROPERTIES_DEPTH_MAX),
            all_fields,
            bytes: text.len(),
        }
    }

    /// Reads an array of events.
    fn events(&mut self) -> Result<Vec<Result<WireEvent<'a>, Rejection>>, BodyError> {
        self.cursor.take(b'[');
        let mut events = Vec::with_capacity(expected_events(self.bytes));
        while self.cursor.next_element(events.is_empty())? {
            if events.len() == BATCH_EVENTS_MAX {
                return Err(BodyError::TooManyEvents { max: BATCH_EVENTS_MAX });
            }
            events.push(self.event()?);
        }
        Ok(events)
    }

    /// Reads one event to its end, whatever is wrong with it short of its syntax.
    fn event(&mut self) -> Result<Result<WireEvent<'a>, Rejection>, SyntaxError> {
        if self.cursor.kind()? != Kind::Object {
            self.cursor.skip_value()?;
            let message = "an event is a JSON object";
            return Ok(Err(Rejection::new(Reason::NotAnObject, "", message)));
        }
        let start = self.cursor.at();
        let (fields, fault) = self.fields()?;
        let too_large = self.cursor.at() - start > EVENT_BYTES_MAX;
        let fault = if too_large { Some(too_large_event()) } else { fault };
        let named = fields.transaction_id.as_ref().and_then(readable_name);
        let outcome = match fault {
            Some(fault) => Err(fault),
            None => check(fields),
        };
        Ok(outcome.map_err(|rejection| Rejection {
            transaction_id: named.map(Cow::into_owned),
            ..rejection
        }))
    }

    /// The fields of an event, and the first that is unknown or stands twice.
    fn fields(&mut self) -> Result<(Fields<'a>, Option<Rejection>), SyntaxError> {
        self.cursor.take(b'{');
        let (mut fields, mut fault, mut first) = (Fields::default(), None, true);
        while let Some(key) = self.cursor.next_key(first)? {
            first = false;
            let name = key.value();
            let value = self.value()?;
            let slot = match name.as_ref() {
                "transactionId" => &mut fields.transaction_id,
                "externalSubscriptionId" => &mut fields.external_subscription_id,
                "code" => &mut fields.code,
                "timestamp" => &mut fields.timestamp,
                "properties" => &mut fields.properties,
                unknown => {
                    fault.get_or_insert_with(|| unknown_field(unknown));
                    continue;
                }
            };
            if slot.is_some() {
                fault.get_or_insert_with(|| duplicate_field(name.as_ref()));
            } else {
                *slot = Some(value);
            }
        }
        Ok((fields, fault))
    }

    fn value(&mut self) -> Result<Value<'a>, SyntaxError> {
        match self.cursor.kind()? {
            Kind::Null => self.cursor.scalar().map(|()| Value::Null),
            Kind::String => self.cursor.string().map(Value::Text),
            Kind::Number => self.cursor.number().map(Value::Number),
            Kind::Object => {
                let (start, first) = (self.cursor.at(), self.all_fields.len());
                let digest = self.digester.read(&mut self.cursor, self.all_fields)?;
                let fields = first..self.all_fields.len();
                Ok(Value::Object { raw: self.cursor.since(start), digest, fields })
            }
            Kind::Array | Kind::Bool => self.cursor.skip_value().map(|_| Value::Other),
        }
    }
}

fn too_large_event() -> Rejection {
    let message = format!("an event has at most {EVENT_BYTES_MAX} bytes");
    Rejection::new(Reason::TooLarge, "", message)
}

fn unknown_field(name: &str) -> Rejection {
    let message = match name {
        "preciseTotalAmountCents" => "not supported yet",
        _ => "an event has no such field",
    };
    Rejection::new(Reason::UnknownField, short(name), message)
}

fn duplicate_field(path: impl Into<String>) -> Rejection {
    Rejection::new(Reason::DuplicateField, path, "stands twice")
}

/// A name of the sender's, cut so that verdicts stay small.
fn short(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect()
}

/// A transaction id that a verdict may repeat.
fn readable_name<'a>(value: &Value<'a>) -> Option<Cow<'a, str>> {
    let Value::Text(text) = value else { return None };
    let name = text.value();
    (!text.broken && within_bounds(&name)).then_some(name)
}

fn within_bounds(name: &str) -> bool {
    name.len() <= NAME_CHARS_MAX || name.chars().count() <= NAME_CHARS_MAX
}

fn check(fields: Fields<'_>) -> Result<WireEvent<'_>, Rejection> {
    let transaction_id = name("transactionId", fields.transaction_id)?;
    let external_subscription_id = name("externalSubscriptionId", fields.external_subscription_id)?;
    let code = name("code", fields.code)?;
    let timestamp_us = timestamp_of(fields.timestamp)?;
    let (properties, properties_digest, fields) = properties_of(fields.properties)?;
    Ok(WireEvent {
        transaction_id,
        external_subscription_id,
        code,
        timestamp_us,
        properties,
        properties_digest,
        fields,
    })
}

fn name<'a>(field: &str, value: Option<Value<'a>>) -> Result<Cow<'a, str>, Rejection> {
    let text = match value {
        Some(Value::Text(text)) => text,
        None | Some(Value::Null) => return Err(required(field)),
        Some(_) => return Err(Rejection::new(Reason::InvalidType, field, "must be a string")),
    };
    if text.broken {
        return Err(broken_text(field));
    }
    let name = text.value();
    if name.is_empty() {
        return Err(required(field));
    }
    if !within_bounds(&name) {
        let message = format!("must have at most {NAME_CHARS_MAX} characters");
        return Err(Rejection::new(Reason::TooLong, field, message));
    }
    Ok(name)
}

fn required(field: &str) -> Rejection {
    Rejection::new(Reason::Required, field, "must be given")
}

fn broken_text(field: &str) -> Rejection {
    Rejection::new(Reason::InvalidText, field, "holds half of a surrogate pair")
}

fn timestamp_of(value: Option<Value<'_>>) -> Result<Option<i64>, Rejection> {
    let parsed = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(digits)) => timestamp::parse(digits),
        Some(Value::Text(text)) => timestamp::parse(&text.value()),
        Some(Value::Object { .. } | Value::Other) => None,
    };
    parsed.map(Some).ok_or_else(|| {
        let message = "must be RFC 3339 or Unix seconds, from 1970 to 2299";
        Rejection::new(Reason::InvalidTimestamp, "timestamp", message)
    })
}

fn properties_of(value: Option<Value<'_>>) -> Result<(&str, u64, Range<usize>), Rejection> {
    const FIELD: &str = "properties";
    match value {
        None | Some(Value::Null) => Ok(("{}", empty_object_digest(), 0..0)),
        Some(Value::Object { raw, digest, fields }) => match digest {
            Ok(digest) => Ok((raw, digest, fields)),
            Err(Flaw::DuplicateKey(Some(key))) => {
                Err(duplicate_field(format!("{FIELD}.{}", short(&key))))
            }
            Err(Flaw::DuplicateKey(None)) => {
                let message = "a key stands twice in one object";
                Err(Rejection::new(Reason::DuplicateField, FIELD, message))
            }
            Err(Flaw::TooDeep) => {
                let message = format!("must have at most {PROPERTIES_DEPTH_MAX} levels");
                Err(Rejection::new(Reason::TooDeep, FIELD, message))
            }
            Err(Flaw::BrokenText) => Err(broken_text(FIELD)),
        },
        Some(_) => Err(Rejection::new(Reason::InvalidType, FIELD, "must be an object")),
    }
}

fn empty_object_digest() -> u64 {
    crate::json::digest_of([u64::from(b'{'), 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_properties_have_the_digest_of_empty_ones() {
        let read = Digester::new(1).read(&mut Cursor::new("{ }"), &mut Vec::new());
        assert_eq!(read, Ok(Ok(empty_object_digest())));
    }
}
