//! The rows of the tables: plain types outside, wire types inside, and the way between them.

use crate::UsageError;
use chrono::{DateTime, Utc};
use clickhouse::{Row, types::Int256};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use uuid::Uuid;
use weir_events::{EventId, Position, event_id};
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};
use weir_money::Quantity;

/// The width of a bucket of usage: a quarter of an hour.
pub const BUCKET_SECONDS: i64 = 900;

/// The start of the bucket that holds `at`.
///
/// 10:14:59.999999 belongs to 10:00, 10:15:00 to 10:15.
#[must_use]
pub fn bucket_of(at: DateTime<Utc>) -> DateTime<Utc> {
    let start = at.timestamp().div_euclid(BUCKET_SECONDS) * BUCKET_SECONDS;
    // A time's own bucket is in range wherever the time is, but for the first minutes of chrono's years.
    DateTime::from_timestamp(start, 0).unwrap_or(at)
}

/// An event as it was received; the first copy of its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow<'a> {
    pub organization: OrganizationId,
    /// `None`: no subscription was active at the event's time.
    pub subscription: Option<SubscriptionId>,
    pub external_subscription_id: Cow<'a, str>,
    pub code: Cow<'a, str>,
    pub transaction_id: Cow<'a, str>,
    /// The hash of organization and transaction id. Not stored, but computed when read.
    pub event_id: EventId,
    pub timestamp: DateTime<Utc>,
    pub received_at: DateTime<Utc>,
    /// Below 65,536.
    pub partition: u32,
    pub position: Position,
    pub content_hash: u64,
    /// The JSON object as received.
    pub properties: Cow<'a, str>,
}

/// One chunk's share of a subscription's use of a metric in one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    pub organization: OrganizationId,
    pub subscription: SubscriptionId,
    pub metric: BillableMetricId,
    /// From [`bucket_of`]; 1970 to 2106.
    pub bucket: DateTime<Utc>,
    /// Of the roll that computed it; 0: none, it came as it was received.
    pub generation: u64,
    /// The values of the metric's dimensions, as canonical JSON; empty when there are none.
    pub group: String,
    /// 0 only for a cell from which a roll took the last event; the values then say nothing.
    pub events: u64,
    pub total: Quantity,
    pub greatest: Quantity,
    pub latest: Latest,
    /// Σ value × seconds since the bucket's start, in 10⁻¹⁸: a value's 12 digits, a time's 6.
    ///
    /// 2500 at 00:00:01.5 is 2500 × 1.5 = 3750, that is 3750 × 10¹⁸.
    pub value_seconds: i128,
    /// When what is counted here last changed: the newest receipt or void. Kept to the millisecond.
    pub changed_at: DateTime<Utc>,
}

/// The value with the greatest time; of equal times the one received later, then the one later in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Latest {
    pub timestamp: DateTime<Utc>,
    pub received_at: DateTime<Utc>,
    pub position: Position,
    pub value: Quantity,
}

/// The last operation on one distinct value in one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageValueRow {
    pub organization: OrganizationId,
    pub subscription: SubscriptionId,
    pub metric: BillableMetricId,
    /// From [`bucket_of`]; 1970 to 2106.
    pub bucket: DateTime<Utc>,
    /// As [`UsageRow::generation`].
    pub generation: u64,
    /// As [`UsageRow::group`].
    pub group: String,
    pub value: String,
    pub timestamp: DateTime<Utc>,
    pub received_at: DateTime<Utc>,
    pub position: Position,
    /// Whether the operation was `add`.
    pub added: bool,
}

/// A later copy of an id whose content differs from the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictRow<'a> {
    pub organization: OrganizationId,
    pub transaction_id: Cow<'a, str>,
    pub event_id: EventId,
    /// Below 65,536.
    pub partition: u32,
    pub position: Position,
    pub first_position: Position,
    pub received_at: DateTime<Utc>,
}

#[derive(Row, Deserialize)]
pub(crate) struct EventWire<'a> {
    #[serde(with = "clickhouse::serde::uuid")]
    organization_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    subscription_id: Uuid,
    external_subscription_id: &'a str,
    code: &'a str,
    transaction_id: &'a str,
    timestamp: i64,
    received_at: i64,
    partition: u16,
    position: u64,
    content_hash: u64,
    properties: &'a str,
}

impl EventWire<'_> {
    pub(crate) fn into_row(self) -> Result<EventRow<'static>, UsageError> {
        let subscription = self.subscription_id;
        let organization = OrganizationId::from_u128(self.organization_id.as_u128());
        Ok(EventRow {
            organization,
            subscription: (!subscription.is_nil())
                .then(|| SubscriptionId::from_u128(subscription.as_u128())),
            external_subscription_id: Cow::Owned(self.external_subscription_id.to_owned()),
            code: Cow::Owned(self.code.to_owned()),
            transaction_id: Cow::Owned(self.transaction_id.to_owned()),
            event_id: event_id(organization, self.transaction_id),
            timestamp: time("timestamp", self.timestamp)?,
            received_at: time("received_at", self.received_at)?,
            partition: u32::from(self.partition),
            position: Position::from_u64(self.position),
            content_hash: self.content_hash,
            properties: Cow::Owned(self.properties.to_owned()),
        })
    }
}

#[derive(Row, Serialize)]
pub(crate) struct UsageWire<'a> {
    #[serde(with = "clickhouse::serde::uuid")]
    organization_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    subscription_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    metric_id: Uuid,
    bucket: u32,
    generation: u64,
    group: &'a str,
    events: u64,
    total: Int256,
    greatest: i128,
    latest: (i64, i64, u64, i128),
    value_seconds: Int256,
    changed_at: i64,
}

/// Less than any value, so that a row without events does not count in a maximum.
const NO_GREATEST: i128 = -Quantity::MAX.scaled();
/// Before any other: 1900-01-01.
const NO_LATEST: (i64, i64, u64, i128) = (FIRST_US, FIRST_US, 0, 0);

impl<'a> TryFrom<&'a UsageRow> for UsageWire<'a> {
    type Error = UsageError;

    fn try_from(row: &'a UsageRow) -> Result<Self, UsageError> {
        let some = row.events > 0;
        Ok(Self {
            organization_id: Uuid::from_u128(row.organization.as_u128()),
            subscription_id: Uuid::from_u128(row.subscription.as_u128()),
            metric_id: Uuid::from_u128(row.metric.as_u128()),
            bucket: seconds("bucket", row.bucket)?,
            generation: row.generation,
            group: &row.group,
            events: row.events,
            total: if some { int_256(row.total.scaled()) } else { int_256(0) },
            greatest: if some { row.greatest.scaled() } else { NO_GREATEST },
            latest: if some { latest(&row.latest)? } else { NO_LATEST },
            value_seconds: if some { int_256(row.value_seconds) } else { int_256(0) },
            changed_at: micros("changed_at", row.changed_at)?.div_euclid(1_000),
        })
    }
}

fn latest(latest: &Latest) -> Result<(i64, i64, u64, i128), UsageError> {
    Ok((
        micros("latest.timestamp", latest.timestamp)?,
        micros("latest.received_at", latest.received_at)?,
        latest.position.as_u64(),
        latest.value.scaled(),
    ))
}

#[derive(Row, Serialize)]
pub(crate) struct UsageValueWire<'a> {
    #[serde(with = "clickhouse::serde::uuid")]
    organization_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    subscription_id: Uuid,
    #[serde(with = "clickhouse::serde::uuid")]
    metric_id: Uuid,
    bucket: u32,
    generation: u64,
    group: &'a str,
    value: &'a str,
    last: (i64, i64, u64, u8),
}

impl<'a> TryFrom<&'a UsageValueRow> for UsageValueWire<'a> {
    type Error = UsageError;

    fn try_from(row: &'a UsageValueRow) -> Result<Self, UsageError> {
        Ok(Self {
            organization_id: Uuid::from_u128(row.organization.as_u128()),
            subscription_id: Uuid::from_u128(row.subscription.as_u128()),
            metric_id: Uuid::from_u128(row.metric.as_u128()),
            bucket: seconds("bucket", row.bucket)?,
            generation: row.generation,
            group: &row.group,
            value: &row.value,
            last: (
                micros("timestamp", row.timestamp)?,
                micros("received_at", row.received_at)?,
                row.position.as_u64(),
                u8::from(row.added),
            ),
        })
    }
}

#[derive(Row, Serialize)]
pub(crate) struct ConflictWire<'a> {
    #[serde(with = "clickhouse::serde::uuid")]
    organization_id: Uuid,
    transaction_id: &'a str,
    #[serde(with = "clickhouse::serde::uuid")]
    event_id: Uuid,
    partition: u16,
    position: u64,
    first_position: u64,
    received_at: i64,
}

impl<'a> TryFrom<&'a ConflictRow<'_>> for ConflictWire<'a> {
    type Error = UsageError;

    fn try_from(row: &'a ConflictRow<'_>) -> Result<Self, UsageError> {
        Ok(Self {
            organization_id: Uuid::from_u128(row.organization.as_u128()),
            transaction_id: &row.transaction_id,
            event_id: Uuid::from_u128(row.event_id.as_u128()),
            partition: partition(row.partition)?,
            position: row.position.as_u64(),
            first_position: row.first_position.as_u64(),
            received_at: micros("received_at", row.received_at)?,
        })
    }
}

/// 1900-01-01.
const FIRST_SECOND: i64 = -2_208_988_800;
/// 2300-01-01.
const END_SECOND: i64 = 10_413_792_000;
/// The first instant that a `DateTime64(6)` column holds, in microseconds since 1970.
pub(crate) const FIRST_US: i64 = FIRST_SECOND * 1_000_000;
/// The last one.
pub(crate) const LAST_US: i64 = END_SECOND * 1_000_000 - 1;

/// `DateTime64(6)` holds the years 1900 to 2299; outside them its comparisons are not defined.
pub(crate) fn micros(field: &'static str, at: DateTime<Utc>) -> Result<i64, UsageError> {
    // Times that microseconds don't fit are far outside.
    let clamped = at.timestamp().clamp(FIRST_SECOND - 1, END_SECOND);
    checked_micros(field, clamped * 1_000_000 + i64::from(at.timestamp_subsec_micros()))
}

/// The same for microseconds since 1970.
pub(crate) fn checked_micros(field: &'static str, at_us: i64) -> Result<i64, UsageError> {
    if storable_micros(at_us) == at_us {
        Ok(at_us)
    } else {
        Err(UsageError::OutOfRange { field, value: at_us.div_euclid(1_000_000) })
    }
}

/// The instant in microseconds since 1970, or the first or last one that a column holds.
#[must_use]
pub fn storable_micros(at_us: i64) -> i64 {
    at_us.clamp(FIRST_US, LAST_US)
}

/// The same of a time.
pub(crate) fn clamped_micros(at: DateTime<Utc>) -> i64 {
    storable_micros(at.timestamp_micros())
}

/// `DateTime` holds 1970 to early 2106.
pub(crate) fn seconds(field: &'static str, at: DateTime<Utc>) -> Result<u32, UsageError> {
    let value = at.timestamp();
    u32::try_from(value).map_err(|_| UsageError::OutOfRange { field, value })
}

pub(crate) fn partition(value: u32) -> Result<u16, UsageError> {
    let out_of_range = UsageError::OutOfRange { field: "partition", value: i64::from(value) };
    u16::try_from(value).map_err(|_| out_of_range)
}

pub(crate) fn time(field: &'static str, micros: i64) -> Result<DateTime<Utc>, UsageError> {
    DateTime::from_timestamp_micros(micros)
        .ok_or_else(|| UsageError::Unreadable { field, value: micros.to_string() })
}

/// The bits of a `Decimal(76, …)`: 256, two's complement, little endian.
fn int_256(scaled: i128) -> Int256 {
    let mut bytes = if scaled.is_negative() { [0xFF; 32] } else { [0; 32] };
    let (low, _sign) = bytes.split_at_mut(16);
    low.copy_from_slice(&scaled.to_le_bytes());
    Int256::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_begin_at_quarters_of_an_hour_also_before_1970() {
        for (at, bucket) in [
            ("2026-03-01T10:14:59.999999Z", "2026-03-01T10:00:00Z"),
            ("2026-03-01T10:15:00Z", "2026-03-01T10:15:00Z"),
            ("1969-12-31T23:59:59Z", "1969-12-31T23:45:00Z"),
        ] {
            let (at, bucket): (DateTime<Utc>, DateTime<Utc>) =
                (at.parse().unwrap(), bucket.parse().unwrap());
            assert_eq!(bucket_of(at), bucket);
        }
    }

    #[test]
    fn times_that_a_column_cannot_hold_are_refused_by_name() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        assert!(seconds("bucket", at("1969-12-31T23:45:00Z")).is_err());
        assert!(micros("timestamp", at("1899-12-31T23:59:59Z")).is_err());
        assert!(micros("timestamp", at("1900-01-01T00:00:00Z")).is_ok());
        assert!(micros("timestamp", at("2300-01-01T00:00:00Z")).is_err());
        let error = seconds("bucket", at("2200-01-01T00:00:00Z")).unwrap_err();
        assert_eq!(error.to_string(), "bucket is out of range: 7258118400");
    }

    #[test]
    fn a_negative_total_keeps_its_sign_in_256_bits() {
        let minus_one = int_256(-1).to_le_bytes();
        assert_eq!(minus_one, [0xFF; 32]);
        let (low, high) = (u128::MAX >> 1, int_256(i128::MAX));
        assert_eq!(high.to_le_bytes()[..16], low.to_le_bytes());
        assert_eq!(high.to_le_bytes()[16..], [0; 16]);
    }
}
