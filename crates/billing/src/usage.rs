//! From the totals of a window to the units that are billed.

use crate::metric::Aggregation;
use weir_ids::{BillableMetricId, SubscriptionId};
use weir_money::Quantity;

/// What a subscription's events of one metric come to in one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageTotal {
    pub subscription: SubscriptionId,
    pub metric: BillableMetricId,
    pub events: u64,
    /// Σ of the values; none when it is beyond 38 digits.
    pub total: Option<Quantity>,
    /// The greatest value; none without events.
    pub greatest: Option<Quantity>,
    /// The value of the event with the greatest timestamp; none without events.
    pub latest: Option<Quantity>,
    /// Values whose last operation is `add`.
    pub distinct: u64,
}

/// A sum that needs more than 38 digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow;

impl UsageTotal {
    /// No events.
    #[must_use]
    pub const fn none(subscription: SubscriptionId, metric: BillableMetricId) -> Self {
        Self {
            subscription,
            metric,
            events: 0,
            total: Some(Quantity::ZERO),
            greatest: None,
            latest: None,
            distinct: 0,
        }
    }

    /// The units that an aggregation bills: never negative. A sum of 3 − 5 bills 0.
    /// Errors: values whose sum is beyond 38 digits, whatever is asked of them.
    pub fn units(&self, aggregation: Aggregation) -> Result<Quantity, Overflow> {
        let total = self.total.ok_or(Overflow)?;
        let units = match aggregation {
            Aggregation::Count => Quantity::from(self.events),
            Aggregation::Sum => total,
            Aggregation::Max => self.greatest.unwrap_or_default(),
            Aggregation::UniqueCount => Quantity::from(self.distinct),
            Aggregation::Latest => self.latest.unwrap_or_default(),
        };
        Ok(units.or_zero_if_negative())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    fn total() -> UsageTotal {
        UsageTotal {
            events: 3,
            total: Some(quantity("12.5")),
            greatest: Some(quantity("9")),
            latest: Some(quantity("1.5")),
            distinct: 2,
            ..UsageTotal::none(SubscriptionId::from_u128(1), BillableMetricId::from_u128(1))
        }
    }

    #[test]
    fn each_aggregation_bills_its_own_units() {
        for (aggregation, units) in [
            (Aggregation::Count, "3"),
            (Aggregation::Sum, "12.5"),
            (Aggregation::Max, "9"),
            (Aggregation::UniqueCount, "2"),
            (Aggregation::Latest, "1.5"),
        ] {
            assert_eq!(total().units(aggregation), Ok(quantity(units)), "{aggregation:?}");
            let none = UsageTotal::none(total().subscription, total().metric);
            assert_eq!(none.units(aggregation), Ok(Quantity::ZERO), "{aggregation:?}");
        }
    }

    #[test]
    fn negative_totals_bill_as_zero() {
        let minus = Some(quantity("-4"));
        let total = UsageTotal { total: minus, greatest: minus, latest: minus, ..total() };
        for aggregation in [Aggregation::Sum, Aggregation::Max, Aggregation::Latest] {
            assert_eq!(total.units(aggregation), Ok(Quantity::ZERO), "{aggregation:?}");
        }
    }

    #[test]
    fn an_overflowing_total_has_no_units() {
        let total = UsageTotal { total: None, ..total() };
        for aggregation in [Aggregation::Sum, Aggregation::Count, Aggregation::Max] {
            assert_eq!(total.units(aggregation), Err(Overflow), "{aggregation:?}");
        }
    }
}
