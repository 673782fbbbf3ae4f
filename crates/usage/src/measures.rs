//! Which metrics a read of usage is for, and what it needs of each: what nobody needs is not read.

use std::collections::{BTreeMap, BTreeSet};
use weir_ids::BillableMetricId;

/// What is read of a metric besides the number of its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Measure {
    /// Nothing more.
    Events,
    /// The sum of its values.
    Total,
    /// The sum of its values, and of each times the seconds to the window's end.
    Weighted,
    Greatest,
    Latest,
    /// Its distinct values.
    Distinct,
}

/// The metrics that are read, and what of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measures(BTreeMap<BillableMetricId, BTreeSet<Measure>>);

impl Measure {
    pub const ALL: [Self; 6] =
        [Self::Events, Self::Total, Self::Weighted, Self::Greatest, Self::Latest, Self::Distinct];
}

impl FromIterator<(BillableMetricId, Measure)> for Measures {
    fn from_iter<I: IntoIterator<Item = (BillableMetricId, Measure)>>(pairs: I) -> Self {
        let mut measures: BTreeMap<BillableMetricId, BTreeSet<Measure>> = BTreeMap::new();
        for (metric, measure) in pairs {
            measures.entry(metric).or_default().insert(measure);
        }
        Self(measures)
    }
}

impl Measures {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn metrics(&self) -> impl Iterator<Item = u128> {
        self.0.keys().map(|metric| metric.as_u128())
    }

    /// The metrics of which this is read.
    pub(crate) fn with(&self, measure: Measure) -> impl Iterator<Item = u128> {
        let with = self.0.iter().filter(move |(_, measures)| measures.contains(&measure));
        with.map(|(metric, _)| metric.as_u128())
    }

    /// Whether this is read of any metric.
    pub(crate) fn any(&self, measure: Measure) -> bool {
        self.with(measure).next().is_some()
    }

    /// Whether this is read of the metric.
    pub(crate) fn has(&self, metric: BillableMetricId, measure: Measure) -> bool {
        self.0.get(&metric).is_some_and(|measures| measures.contains(&measure))
    }
}
