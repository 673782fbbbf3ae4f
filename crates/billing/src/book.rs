//! The usage that lines are priced from: totals of groups by subscription and metric.

use crate::{
    invoice::Period,
    metric::Aggregation,
    usage::{Overflow, UsageTotal},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};
use weir_ids::{BillableMetricId, SubscriptionId};
use weir_money::Quantity;

/// How far back a total reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Span {
    /// The window that is billed.
    Window,
    /// From the subscription's start to the window's end, for metrics that carry over.
    SinceStart,
}

/// Usage to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageWindow {
    pub subscription: SubscriptionId,
    pub span: Span,
    pub period: Period,
}

/// A metric to be read in a window, as far as it is counted this way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageQuestion {
    pub window: UsageWindow,
    pub metric: BillableMetricId,
    pub aggregation: Aggregation,
}

/// Groups whose distinct values must be counted together, since a value may be in several.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DistinctUnion {
    pub window: UsageWindow,
    pub metric: BillableMetricId,
    pub groups: BTreeSet<String>,
}

/// What was used in one window of each subscription. What is absent had no events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsageBook {
    metrics: BTreeMap<(SubscriptionId, BillableMetricId), MetricBook>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct MetricBook {
    window: BTreeMap<String, UsageTotal>,
    since_start: BTreeMap<String, UsageTotal>,
    overflows: bool,
    unions: BTreeMap<(Span, BTreeSet<String>), u64>,
}

/// Why groups have no total together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoTotal {
    Overflow,
    /// The union of their distinct values was not asked for.
    NotCounted,
}

impl From<Overflow> for NoTotal {
    fn from(_: Overflow) -> Self {
        Self::Overflow
    }
}

impl UsageBook {
    /// Nothing used.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes what a group comes to. `group` is the canonical text of its values, empty without any.
    pub fn insert(
        &mut self,
        (subscription, span): (SubscriptionId, Span),
        metric: BillableMetricId,
        group: String,
        total: UsageTotal,
    ) {
        let book = self.metrics.entry((subscription, metric)).or_default();
        match span {
            Span::Window => book.window.insert(group, total),
            Span::SinceStart => book.since_start.insert(group, total),
        };
    }

    /// Writes that a sum of the metric is beyond 38 digits: it can't be billed.
    pub fn overflow(&mut self, subscription: SubscriptionId, metric: BillableMetricId) {
        self.metrics.entry((subscription, metric)).or_default().overflows = true;
    }

    /// Writes how many distinct values some groups have together.
    pub fn insert_union(&mut self, union: DistinctUnion, count: u64) {
        let DistinctUnion { window, metric, groups } = union;
        let book = self.metrics.entry((window.subscription, metric)).or_default();
        book.unions.insert((window.span, groups), count);
    }

    /// The texts of all groups of a metric that carries over, or not.
    pub(crate) fn groups(
        &self,
        subscription: SubscriptionId,
        metric: BillableMetricId,
        recurring: bool,
    ) -> BTreeSet<&str> {
        let Some(book) = self.metrics.get(&(subscription, metric)) else { return BTreeSet::new() };
        let before = book.since_start.keys().filter(|_| recurring);
        book.window.keys().chain(before).map(String::as_str).collect()
    }

    /// What some groups come to together, but for distinct values.
    pub(crate) fn total(
        &self,
        (subscription, metric): (SubscriptionId, BillableMetricId),
        span: Span,
        groups: &BTreeSet<&str>,
    ) -> Result<UsageTotal, NoTotal> {
        let none = UsageTotal::default();
        let Some(book) = self.metrics.get(&(subscription, metric)) else { return Ok(none) };
        if book.overflows {
            return Err(NoTotal::Overflow);
        }
        let totals = book.of(span);
        let mut of_groups = groups.iter().filter_map(|group| totals.get(*group).copied());
        of_groups.try_fold(none, UsageTotal::and).map_err(NoTotal::from)
    }

    /// How many distinct values some groups have together: of a single one its own.
    pub(crate) fn distinct(
        &self,
        (subscription, metric): (SubscriptionId, BillableMetricId),
        span: Span,
        groups: &BTreeSet<&str>,
    ) -> Result<Quantity, NoTotal> {
        let Some(book) = self.metrics.get(&(subscription, metric)) else {
            return Ok(Quantity::ZERO);
        };
        let there = book.there(span, groups);
        let count = match there.as_slice() {
            [] => 0,
            [(_, only)] => only.distinct,
            several => {
                let groups = several.iter().map(|(group, _)| String::from(*group)).collect();
                *book.unions.get(&(span, groups)).ok_or(NoTotal::NotCounted)?
            }
        };
        Ok(Quantity::from(count))
    }

    /// Which of these groups must be counted together; `None` where one is enough.
    pub(crate) fn union_of(
        &self,
        (subscription, metric): (SubscriptionId, BillableMetricId),
        span: Span,
        groups: &BTreeSet<&str>,
    ) -> Option<BTreeSet<String>> {
        let there = self.metrics.get(&(subscription, metric))?.there(span, groups);
        (there.len() > 1).then(|| there.into_iter().map(|(group, _)| String::from(group)).collect())
    }
}

impl MetricBook {
    fn of(&self, span: Span) -> &BTreeMap<String, UsageTotal> {
        match span {
            Span::Window => &self.window,
            Span::SinceStart => &self.since_start,
        }
    }

    fn there<'a>(&self, span: Span, groups: &BTreeSet<&'a str>) -> Vec<(&'a str, UsageTotal)> {
        let totals = self.of(span);
        groups.iter().filter_map(|group| Some((*group, *totals.get(*group)?))).collect()
    }
}
