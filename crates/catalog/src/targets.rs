//! Under which generations usage is written.

use chrono::{DateTime, Utc};
use imbl::{HashMap, OrdMap};
use weir_ids::{OrganizationId, SubscriptionId};
use weir_store::catalog::OverrideRow;

/// The generations that one metric's usage in one cell is written under: the one in effect, and the
/// one of the roll that covers it. An organization has one roll at a time, so there are no more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Targets {
    effective: Option<u64>,
    rolling: Option<u64>,
}

impl Targets {
    /// Just this generation. `Targets::default()` is none at all.
    #[must_use]
    pub const fn only(generation: u64) -> Self {
        Self { effective: Some(generation), rolling: None }
    }

    /// Each generation once.
    pub fn iter(&self) -> impl Iterator<Item = u64> + use<> {
        self.effective.into_iter().chain(self.rolling)
    }

    /// Whether nothing is to be written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.effective.is_none() && self.rolling.is_none()
    }
}

/// By the start of the cell (none: the whole subscription) and the generation: whether it is
/// rolling.
type OfSubscription = OrdMap<(Option<DateTime<Utc>>, u64), bool>;

/// The subscriptions and cells that were, or are, computed again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    by_organization: HashMap<OrganizationId, HashMap<SubscriptionId, OfSubscription>>,
}

impl Overrides {
    pub fn insert(&mut self, row: &OverrideRow) {
        self.by_organization
            .entry(row.organization)
            .or_default()
            .entry(row.subscription)
            .or_default()
            .insert((row.bucket, row.generation), row.rolling);
    }

    pub fn remove(&mut self, row: &OverrideRow) {
        let Some(of_organization) = self.by_organization.get_mut(&row.organization) else { return };
        let Some(overrides) = of_organization.get_mut(&row.subscription) else { return };
        overrides.remove(&(row.bucket, row.generation));
        if overrides.is_empty() {
            of_organization.remove(&row.subscription);
        }
        if of_organization.is_empty() {
            self.by_organization.remove(&row.organization);
        }
    }

    /// Where a metric of generation `own` is written in the cell.
    pub fn targets(
        &self,
        own: u64,
        organization: OrganizationId,
        subscription: SubscriptionId,
        bucket: DateTime<Utc>,
    ) -> Targets {
        let mut targets = Targets::only(own);
        let overrides = self
            .by_organization
            .get(&organization)
            .and_then(|of_organization| of_organization.get(&subscription));
        let Some(overrides) = overrides else { return targets };
        for covering in [None, Some(bucket)] {
            for ((_, generation), rolling) in overrides.range((covering, 0)..=(covering, u64::MAX))
            {
                let place = if *rolling { &mut targets.rolling } else { &mut targets.effective };
                *place = (*place).max(Some(*generation));
            }
        }
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORGANIZATION: OrganizationId = OrganizationId::from_u128(1);
    const SUBSCRIPTION: SubscriptionId = SubscriptionId::from_u128(2);

    fn bucket(number: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(number * 900, 0).unwrap()
    }

    fn row(generation: u64, cell: Option<i64>, rolling: bool) -> OverrideRow {
        OverrideRow {
            generation,
            organization: ORGANIZATION,
            subscription: SUBSCRIPTION,
            bucket: cell.map(bucket),
            rolling,
        }
    }

    #[test]
    fn the_greatest_generation_counts_and_the_rolling_one_is_written_beside_it() {
        type Case = (&'static [(u64, Option<i64>, bool)], u64, &'static [u64]);
        let cases: [Case; 9] = [
            (&[], 0, &[0]),
            (&[], 7, &[7]),
            (&[(3, None, false)], 0, &[3]),
            (&[(3, None, false)], 7, &[7]),
            (&[(3, None, false), (5, Some(4), false)], 0, &[5]),
            (&[(5, Some(3), false)], 0, &[0]),
            (&[(9, Some(4), true)], 2, &[2, 9]),
            (&[(3, None, false), (9, None, true)], 0, &[3, 9]),
            (&[(9, Some(5), true)], 2, &[2]),
        ];
        for (rows, own, expected) in cases {
            let mut overrides = Overrides::default();
            for (generation, cell, rolling) in rows {
                overrides.insert(&row(*generation, *cell, *rolling));
            }
            let targets = overrides.targets(own, ORGANIZATION, SUBSCRIPTION, bucket(4));
            assert_eq!(targets.iter().collect::<Vec<_>>(), expected, "{rows:?} {own}");
            let other = SubscriptionId::from_u128(3);
            let elsewhere = overrides.targets(own, ORGANIZATION, other, bucket(4));
            assert_eq!(elsewhere, Targets::only(own));
        }
        assert!(Targets::default().is_empty());
        assert!(!Targets::only(0).is_empty());
    }

    #[test]
    fn what_is_removed_leaves_nothing() {
        let mut overrides = Overrides::default();
        let rows = [row(3, None, false), row(4, Some(1), true), row(5, Some(1), false)];
        for row in &rows {
            overrides.insert(row);
        }
        for row in &rows {
            overrides.remove(row);
            overrides.remove(row);
        }
        assert!(overrides.by_organization.is_empty());
    }
}
