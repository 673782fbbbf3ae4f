//! Which generation of each cell of usage counts: the greatest that a finished roll gave it.

use crate::lists::Lists;
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, BTreeSet};
use weir_ids::{BillableMetricId, SubscriptionId};

/// The generations of finished rolls; what is not named has generation 0. A cell (subscription,
/// bucket) of a metric is read under the greatest of the metric's, the subscription's and its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Generations {
    pub metrics: Vec<(BillableMetricId, u64)>,
    pub subscriptions: Vec<(SubscriptionId, u64)>,
    /// Buckets from [`bucket_of`](crate::bucket_of). Few: those of voided events.
    pub cells: Vec<(SubscriptionId, DateTime<Utc>, u64)>,
}

/// [`Generations`], as far as a query can meet them; one, the greatest, for each key.
#[derive(Debug)]
pub(crate) struct Effective {
    metrics: BTreeMap<u128, u64>,
    subscriptions: BTreeMap<u128, u64>,
    /// By subscription and the bucket's Unix seconds.
    cells: BTreeMap<(u128, u32), u64>,
}

impl Effective {
    /// Of what a read of these subscriptions can meet.
    pub(crate) fn of(generations: &Generations, asked: &BTreeSet<SubscriptionId>) -> Self {
        let metrics = generations.metrics.iter().map(|(metric, g)| (metric.as_u128(), *g));
        let subscriptions = generations.subscriptions.iter();
        let subscriptions = subscriptions
            .filter(|(subscription, _)| asked.contains(subscription))
            .map(|(subscription, generation)| (subscription.as_u128(), *generation));
        let cells = generations.cells.iter().filter(|(one, _, _)| asked.contains(one));
        // A bucket that the column can't hold has no rows.
        let cells = cells.filter_map(|(subscription, bucket, generation)| {
            let bucket = u32::try_from(bucket.timestamp()).ok()?;
            Some(((subscription.as_u128(), bucket), *generation))
        });
        Self {
            metrics: greatest(metrics),
            subscriptions: greatest(subscriptions),
            cells: greatest(cells),
        }
    }

    /// The condition on a row of `usage` or `usage_values`, without the parts that can't matter. Adds
    /// the lists that it names.
    pub(crate) fn condition(&self, lists: &mut Lists) -> String {
        let mut parts = Vec::new();
        if !self.metrics.is_empty() {
            lists.uuids("metrics", self.metrics.keys().copied());
            lists.numbers("metric_generations", "UInt64", self.metrics.values());
            parts.push("transform(metric_id, metrics, metric_generations, toUInt64(0))");
        }
        if !self.subscriptions.is_empty() {
            lists.uuids("rolled", self.subscriptions.keys().copied());
            lists.numbers("rolled_generations", "UInt64", self.subscriptions.values());
            parts.push("transform(subscription_id, rolled, rolled_generations, toUInt64(0))");
        }
        if !self.cells.is_empty() {
            lists.uuids("cell_subscriptions", self.cells.keys().map(|(one, _)| *one));
            lists.numbers("cell_buckets", "UInt32", self.cells.keys().map(|(_, bucket)| *bucket));
            lists.numbers("cell_generations", "UInt64", self.cells.values());
            parts.push(
                "transform((subscription_id, toUInt32(bucket)),
                    arrayZip(cell_subscriptions, cell_buckets), cell_generations, toUInt64(0))",
            );
        }
        match parts.as_slice() {
            [] => "generation = 0".to_owned(),
            [part] => format!("generation = {part}"),
            parts => format!("generation = greatest({})", parts.join(",\n")),
        }
    }
}

/// One generation for each key, the greatest; keys in order. Zeros say nothing.
fn greatest<K: Ord>(all: impl Iterator<Item = (K, u64)>) -> BTreeMap<K, u64> {
    let mut greatest = BTreeMap::new();
    for (key, generation) in all.filter(|(_, generation)| *generation > 0) {
        let entry = greatest.entry(key).or_insert(generation);
        *entry = generation.max(*entry);
    }
    greatest
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SubscriptionId = SubscriptionId::from_u128(1);
    const TWO: SubscriptionId = SubscriptionId::from_u128(2);

    #[test]
    fn a_query_hears_only_of_what_it_can_meet_and_of_the_greatest_generation() {
        let bucket: DateTime<Utc> = "2026-03-01T10:00:00Z".parse().unwrap();
        let generations = Generations {
            metrics: vec![(BillableMetricId::from_u128(7), 3), (BillableMetricId::from_u128(7), 5)],
            subscriptions: vec![(TWO, 4), (ONE, 0)],
            cells: vec![(ONE, bucket, 6), (ONE, bucket, 2), (TWO, bucket, 9)],
        };
        let effective = Effective::of(&generations, &BTreeSet::from([ONE]));
        assert_eq!(effective.metrics, BTreeMap::from([(7, 5)]));
        assert_eq!(effective.subscriptions, BTreeMap::new());
        assert_eq!(effective.cells, BTreeMap::from([((1, 1_772_359_200), 6)]));
        let mut lists = Lists::default();
        assert!(!effective.condition(&mut lists).contains("rolled"));
        assert!(lists.clause().contains("AS cell_generations"));
    }

    #[test]
    fn without_rolls_there_is_one_generation() {
        let none = Effective::of(&Generations::default(), &BTreeSet::from([ONE]));
        let mut lists = Lists::default();
        assert_eq!(none.condition(&mut lists), "generation = 0");
        assert_eq!(lists.clause(), "");
    }
}
