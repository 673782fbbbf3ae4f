//! Scenarios as facts for the pure engine.

use crate::scenario::{MetricSpec, Scenario};
use chrono::DateTime;
use std::{collections::BTreeMap, sync::Arc};
use weir_billing::{
    Timestamp,
    bill::UsageBook,
    check::check_charges,
    contract::MetricTerms,
    invoice::Period,
    plan::{Interval, PlanVersion},
    usage::UsageTotal,
};
use weir_ids::{BillableMetricId, PlanId, PlanVersionId, SubscriptionId};
use weir_money::Quantity;

impl Scenario {
    pub fn metric_terms(&self) -> BTreeMap<BillableMetricId, MetricTerms> {
        let terms = |(name, spec): (&String, &MetricSpec)| {
            let aggregation = spec.aggregation;
            (self.metric_id(name), MetricTerms { name: name.clone(), aggregation })
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

    /// The totals of some windows, summed one event after the other.
    pub fn usage(&self, windows: &[(SubscriptionId, Period)]) -> UsageBook {
        let mut book = UsageBook::new();
        let mut latest_at = BTreeMap::new();
        let mut values: BTreeMap<_, BTreeMap<&str, (Timestamp, bool)>> = BTreeMap::new();
        for event in &self.events {
            let id = self.subscription_id(&event.subscription);
            let inside =
                |(of, window): &&(SubscriptionId, Period)| *of == id && window.contains(event.at);
            if !windows.iter().any(|window| inside(&window)) {
                continue;
            }
            let key = (id, self.metric_id(&event.metric));
            let total = book.entry(key).or_insert(UsageTotal::none(key.0, key.1));
            let value = Quantity::parse_value(&event.value).unwrap();
            for _ in 0..event.times {
                total.events += 1;
                total.total = total.total.and_then(|sum| sum.checked_add(value));
            }
            total.greatest = Some(total.greatest.map_or(value, |greatest| greatest.max(value)));
            if latest_at.get(&key).is_none_or(|at| *at <= event.at) {
                latest_at.insert(key, event.at);
                total.latest = Some(value);
            }
            let last = values.entry(key).or_default().entry(&event.value);
            let last = last.or_insert((event.at, !event.remove));
            if last.0 <= event.at {
                *last = (event.at, !event.remove);
            }
            total.distinct = values[&key].values().filter(|(_, held)| *held).count() as u64;
        }
        book
    }
}
