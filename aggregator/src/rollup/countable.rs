//! What the rollup needs of an event, whether it comes from the log or from ClickHouse.

use crate::chunk::EventInLog;
use chrono::{DateTime, Utc};
use weir_events::Position;
use weir_ids::OrganizationId;
use weir_usage::{BUCKET_SECONDS, EventRow, storable_micros};

/// An event as it is counted. A decoded chunk and stored rows both turn into it, so that a re-roll
/// and an audit count as the first pass did.
#[derive(Debug, Clone, Copy)]
pub struct Countable<'a> {
    pub organization: OrganizationId,
    pub external_subscription_id: &'a str,
    pub code: &'a str,
    /// Unix microseconds.
    pub timestamp_us: i64,
    /// Unix microseconds.
    pub received_at_us: i64,
    pub position: Position,
    /// The JSON object as received.
    pub properties: &'a str,
}

impl<'a> From<&EventInLog<'a>> for Countable<'a> {
    fn from(event: &EventInLog<'a>) -> Self {
        Self {
            organization: event.organization,
            external_subscription_id: event.fields.external_subscription_id,
            code: event.fields.code,
            timestamp_us: event.fields.timestamp_us,
            received_at_us: event.received_at_us,
            position: event.position,
            properties: event.fields.properties,
        }
    }
}

/// The row's subscription is left out: it is the one at arrival, and may be another by now.
impl<'a> From<&'a EventRow<'_>> for Countable<'a> {
    fn from(row: &'a EventRow<'_>) -> Self {
        Self {
            organization: row.organization,
            external_subscription_id: &row.external_subscription_id,
            code: &row.code,
            timestamp_us: row.timestamp.timestamp_micros(),
            received_at_us: row.received_at.timestamp_micros(),
            position: row.position,
            properties: &row.properties,
        }
    }
}

impl Countable<'_> {
    /// The start of its bucket, in Unix seconds. `None` where a `DateTime` column can't hold it:
    /// before 1970 and from early 2106 on.
    pub(crate) fn bucket(&self) -> Option<u32> {
        const BUCKET_US: i64 = BUCKET_SECONDS * 1_000_000;
        u32::try_from(self.timestamp_us.div_euclid(BUCKET_US) * BUCKET_SECONDS).ok()
    }
}

/// The instant as the columns can hold it. The edge refuses others; one that got past it must not
/// keep its partition from going on.
pub(super) fn storable(at_us: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(storable_micros(at_us)).unwrap_or(DateTime::UNIX_EPOCH)
}
