//! What the rollup needs of an event, whether it comes from the log or from ClickHouse.

use crate::chunk::EventInLog;
use chrono::{DateTime, Utc};
use weir_events::{EventFields, Position};
use weir_ids::OrganizationId;
use weir_usage::{EventRow, bucket_of};

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

impl<'a> Countable<'a> {
    /// What a metric measures it by.
    pub(super) fn fields(&self) -> EventFields<'a> {
        let Self { code, timestamp_us, properties, .. } = *self;
        EventFields { code, timestamp_us, properties }
    }

    /// The start of its bucket, in Unix seconds. `None` where a `DateTime` column can't hold it:
    /// before 1970 and from early 2106 on.
    pub(crate) fn bucket(&self) -> Option<u32> {
        let bucket = bucket_of(DateTime::from_timestamp_micros(self.timestamp_us)?);
        u32::try_from(bucket.timestamp()).ok()
    }
}

/// 1900-01-01 and 2299-12-31 in Unix seconds: what a `DateTime64(6)` column holds.
const STORABLE_S: std::ops::RangeInclusive<i64> = -2_208_988_800..=10_413_705_600;

/// The instant as the columns can hold it. The edge refuses others; one that got past it must not
/// keep its partition from going on.
pub(super) fn storable(at_us: i64) -> DateTime<Utc> {
    let seconds = at_us.div_euclid(1_000_000).clamp(*STORABLE_S.start(), *STORABLE_S.end());
    let micros = at_us.rem_euclid(1_000_000);
    DateTime::from_timestamp_micros(seconds * 1_000_000 + micros).unwrap_or(DateTime::UNIX_EPOCH)
}
