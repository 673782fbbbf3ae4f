//! What the events of a group come to in a window, and how groups are put together.

use crate::Timestamp;
use weir_money::{Amount, Quantity};

/// What some of a subscription's events of one metric come to in one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageTotal {
    pub events: u64,
    /// Σ of the values.
    pub total: Quantity,
    /// The greatest value; none without events.
    pub greatest: Option<Quantity>,
    /// None without events.
    pub latest: Option<Latest>,
    /// Values whose last operation is `add`.
    pub distinct: u64,
    /// Σ value × seconds from the event to the window's end.
    pub value_seconds: Amount,
}

/// The value of the event with the greatest time; ties go to the later receipt, then to the later
/// place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Latest {
    pub timestamp: Timestamp,
    pub received_at: Timestamp,
    pub position: u64,
    pub value: Quantity,
}

/// A sum that needs more than 38 digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow;

impl UsageTotal {
    /// Both together, but for `distinct`, which no sum can tell: a value may be in both. It becomes 0.
    /// Errors: sums beyond 38 digits.
    pub fn and(self, other: Self) -> Result<Self, Overflow> {
        Ok(Self {
            events: self.events.checked_add(other.events).ok_or(Overflow)?,
            total: self.total.checked_add(other.total).ok_or(Overflow)?,
            greatest: self.greatest.max(other.greatest),
            latest: self.latest.max(other.latest),
            distinct: 0,
            value_seconds: self.value_seconds.checked_add(other.value_seconds).ok_or(Overflow)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latest(second: i64, value: u64) -> Option<Latest> {
        let timestamp = chrono::DateTime::from_timestamp(second, 0).unwrap();
        Some(Latest { timestamp, received_at: timestamp, position: 0, value: value.into() })
    }

    #[test]
    fn groups_put_together_are_as_if_they_had_been_one() {
        let one = UsageTotal {
            events: 2,
            total: 7_u64.into(),
            greatest: Some(5_u64.into()),
            latest: latest(10, 5),
            distinct: 1,
            value_seconds: 100_u64.into(),
        };
        let other = UsageTotal {
            events: 1,
            total: 9_u64.into(),
            greatest: Some(9_u64.into()),
            latest: latest(9, 9),
            distinct: 1,
            value_seconds: 1_u64.into(),
        };
        let both = one.and(other).unwrap();
        assert_eq!((both.events, both.total), (3, 16_u64.into()));
        assert_eq!((both.greatest, both.latest), (Some(9_u64.into()), latest(10, 5)));
        assert_eq!(both.value_seconds, 101_u64.into());
        assert_eq!(one.and(UsageTotal::default()), Ok(UsageTotal { distinct: 0, ..one }));
    }

    #[test]
    fn a_sum_beyond_38_digits_is_an_overflow() {
        let most = UsageTotal { total: Quantity::MAX, ..UsageTotal::default() };
        assert_eq!(most.and(most), Err(Overflow));
    }
}
