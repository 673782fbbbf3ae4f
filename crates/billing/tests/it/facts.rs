//! Scenarios as facts for the pure engine.

use crate::scenario::{EventSpec, MetricSpec, Scenario};
use chrono::DateTime;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use weir_billing::{
    Timestamp,
    book::{DistinctUnion, UsageBook, UsageWindow},
    check::check_charges,
    contract::MetricTerms,
    metric::Aggregation,
    plan::{Interval, PlanVersion},
    usage::{Latest, UsageTotal},
};
use weir_ids::{BillableMetricId, PlanId, PlanVersionId};
use weir_money::{Amount, Quantity};

impl Scenario {
    pub fn metric_terms(&self) -> BTreeMap<BillableMetricId, MetricTerms> {
        let terms = |(name, spec): (&String, &MetricSpec)| {
            let custom = spec.aggregation == Aggregation::Custom;
            assert_eq!(spec.expression.is_some(), custom, "{name}: only custom has an expression");
            let terms = MetricTerms {
                name: name.clone(),
                aggregation: spec.aggregation,
                recurring: spec.recurring,
                rounding: spec.rounding(),
                filters: spec.filters(),
            };
            (self.metric_id(name), terms)
        };
        self.metrics.iter().map(terms).collect()
    }

    /// The versions of a plan with the instants from which they hold.
    pub fn versions(&self, plan: &str) -> Vec<(Timestamp, Arc<PlanVersion>)> {
        let at = self.plans.keys().position(|key| key == plan).unwrap() as u128 + 1;
        let specs = self.plans[plan].iter().enumerate();
        specs
            .map(|(number, spec)| {
                let from = spec.from.unwrap_or(DateTime::UNIX_EPOCH);
                let version = PlanVersion {
                    id: PlanVersionId::from_u128(at * 100 + number as u128),
                    plan: PlanId::from_u128(at),
                    number: u32::try_from(number).unwrap() + 1,
                    interval: Interval::Monthly,
                    amount: self.money(&spec.amount),
                    pay_in_advance: spec.in_advance,
                    charges: self.charges(&spec.charges),
                    created_at: from,
                };
                assert_eq!(check_charges(&version.charges), [], "{plan}");
                (from, Arc::new(version))
            })
            .collect()
    }

    /// The totals of some windows at `now`, summed one event after the other.
    pub fn usage(&self, windows: &[UsageWindow], now: Timestamp) -> UsageBook {
        let mut book = UsageBook::new();
        for window in windows {
            let mut groups: BTreeMap<_, UsageTotal> = BTreeMap::new();
            for event in self.events_in(window, now) {
                let key = (self.metric_id(&event.metric), self.group(event));
                add(groups.entry(key).or_default(), event, window.period.end);
            }
            for ((metric, group), mut total) in groups {
                let only = BTreeSet::from([group.clone()]);
                total.distinct = self.distinct(window, metric, &only, now);
                book.insert((window.subscription, window.span), metric, group, total);
            }
        }
        book
    }

    /// Counts what was asked for over several groups.
    pub fn count_unions(&self, unions: Vec<DistinctUnion>, book: &mut UsageBook, now: Timestamp) {
        for union in unions {
            let count = self.distinct(&union.window, union.metric, &union.groups, now);
            book.insert_union(union, count);
        }
    }

    fn events_in(&self, window: &UsageWindow, now: Timestamp) -> impl Iterator<Item = &EventSpec> {
        let window = *window;
        self.events.iter().filter(move |event| {
            self.subscription_id(&event.subscription) == window.subscription
                && window.period.contains(event.at)
                && counts(event, now)
        })
    }

    fn distinct(
        &self,
        window: &UsageWindow,
        metric: BillableMetricId,
        groups: &BTreeSet<String>,
        now: Timestamp,
    ) -> u64 {
        let mut last: BTreeMap<&str, (Timestamp, bool)> = BTreeMap::new();
        for event in self.events_in(window, now) {
            if self.metric_id(&event.metric) == metric && groups.contains(&self.group(event)) {
                let operation = last.entry(&event.value).or_insert((event.at, !event.remove));
                if operation.0 <= event.at {
                    *operation = (event.at, !event.remove);
                }
            }
        }
        last.values().filter(|(_, held)| *held).count() as u64
    }
}

/// Whether an event has come by `now` and was not voided.
fn counts(event: &EventSpec, now: Timestamp) -> bool {
    event.arrives.unwrap_or(event.at) <= now && event.voided.is_none_or(|voided| voided > now)
}

fn add(total: &mut UsageTotal, event: &EventSpec, end: Timestamp) {
    let value = Quantity::parse_value(&event.value).unwrap();
    let seconds = (end - event.at).num_microseconds().unwrap();
    let held = Amount::from(value).checked_mul(Amount::from_scaled(seconds.into(), 6)).unwrap();
    for _ in 0..event.times {
        total.events += 1;
        total.total = total.total.checked_add(value).unwrap();
        total.value_seconds = total.value_seconds.checked_add(held).unwrap();
    }
    total.greatest = total.greatest.max(Some(value));
    let latest = Latest { timestamp: event.at, received_at: event.at, position: 0, value };
    total.latest = total.latest.filter(|before| before.timestamp > event.at).or(Some(latest));
}
