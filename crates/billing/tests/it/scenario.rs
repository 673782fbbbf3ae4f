//! Scenario files: what they hold, and how invoices are compared with what they expect.
//! Shared with the database suite of the invoicer.

use chrono::{DateTime, NaiveDate, Utc};
use serde::Deserialize;
use std::{collections::BTreeMap, path::Path};
use weir_billing::{
    charge::{Charge, ChargeFilter, ChargeModel, Tier},
    invoice::{Invoice, InvoiceStatus},
    metric::{Aggregation, MetricFilter, RoundingFunction, UnitRounding},
};
use weir_ids::{BillableMetricId, ChargeFilterId, ChargeId, SubscriptionId};
use weir_money::{Amount, Currency, Money, Quantity, Rate};

/// One file of `scenarios/`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The rule in a sentence.
    pub why: String,
    #[serde(default)]
    pub customer: CustomerSpec,
    #[serde(default = "usd")]
    pub currency: String,
    #[serde(default)]
    pub metrics: BTreeMap<String, MetricSpec>,
    /// The versions of each plan, oldest first.
    pub plans: BTreeMap<String, Vec<VersionSpec>>,
    pub subscriptions: Vec<SubscriptionSpec>,
    #[serde(default)]
    pub events: Vec<EventSpec>,
    /// Everything due up to this instant, inclusive, is billed.
    pub until: DateTime<Utc>,
    pub expect: Vec<ExpectedInvoice>,
}

fn usd() -> String {
    "USD".to_owned()
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomerSpec {
    pub timezone: Option<chrono_tz::Tz>,
    /// The customer moves: from the instant on the zone is another.
    pub moves: Option<(DateTime<Utc>, chrono_tz::Tz)>,
    pub grace_days: Option<u16>,
    pub net_term_days: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricSpec {
    pub aggregation: Aggregation,
    /// For `custom`; the events' values are what it comes to.
    pub expression: Option<String>,
    #[serde(default)]
    pub recurring: bool,
    pub rounding: Option<RoundingSpec>,
    /// By key the values that charges may choose from.
    #[serde(default)]
    pub filters: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundingSpec {
    pub function: RoundingFunction,
    #[serde(default)]
    pub precision: i32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionSpec {
    /// When the edit took hold; the first version holds from the start.
    pub from: Option<DateTime<Utc>>,
    pub amount: String,
    #[serde(default)]
    pub in_advance: bool,
    #[serde(default)]
    pub charges: Vec<ChargeSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChargeSpec {
    pub metric: String,
    pub standard: Option<String>,
    pub graduated: Option<Vec<TierSpec>>,
    pub volume: Option<Vec<TierSpec>>,
    pub package: Option<PackageSpec>,
    /// Oldest first.
    #[serde(default)]
    pub filters: Vec<FilterSpec>,
    #[serde(default)]
    pub group_keys: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterSpec {
    pub values: BTreeMap<String, Vec<String>>,
    pub name: Option<String>,
    pub standard: String,
    #[serde(default)]
    pub group_keys: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierSpec {
    pub from: String,
    pub to: Option<String>,
    pub per_unit: String,
    #[serde(default = "zero")]
    pub flat: String,
}

fn zero() -> String {
    "0".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageSpec {
    pub amount: String,
    pub size: u64,
    #[serde(default)]
    pub free: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubscriptionSpec {
    pub id: String,
    pub plan: String,
    pub start: DateTime<Utc>,
    pub ending: Option<DateTime<Utc>>,
    pub terminated: Option<DateTime<Utc>>,
    #[serde(default)]
    pub skip_final: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventSpec {
    pub subscription: String,
    pub metric: String,
    pub at: DateTime<Utc>,
    #[serde(default = "one")]
    pub value: String,
    #[serde(default = "once")]
    pub times: u64,
    /// For `unique_count`: takes the value away instead of adding it.
    #[serde(default)]
    pub remove: bool,
    /// Those that a metric's filters and group keys may name.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
    /// When it was accepted; its own time when absent.
    pub arrives: Option<DateTime<Utc>>,
    /// When it was voided: from then on it is as if it had never come.
    pub voided: Option<DateTime<Utc>>,
}

fn one() -> String {
    "1".to_owned()
}

fn once() -> u64 {
    1
}

/// An invoice as the scenario states it; what is left out is not compared.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedInvoice {
    pub due: DateTime<Utc>,
    pub issued: Option<NaiveDate>,
    pub pay_by: Option<NaiveDate>,
    pub finalize: Option<DateTime<Utc>>,
    pub lines: Vec<ExpectedLine>,
    pub total: Amount,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedLine {
    pub of: Option<String>,
    pub text: String,
    pub units: Option<Quantity>,
    pub amount: Amount,
    pub precise: Option<Amount>,
    pub from: Option<DateTime<Utc>>,
    pub to: Option<DateTime<Utc>>,
}

impl Scenario {
    /// Reads a file. Panics on one that is not a scenario.
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn currency(&self) -> Currency {
        Currency::parse(&self.currency).unwrap()
    }

    pub fn metric_id(&self, name: &str) -> BillableMetricId {
        let at = self.metrics.keys().position(|key| key == name);
        BillableMetricId::from_u128(at.unwrap_or_else(|| panic!("no metric {name}")) as u128 + 1)
    }

    pub fn subscription_id(&self, name: &str) -> SubscriptionId {
        let at = self.subscriptions.iter().position(|one| one.id == name);
        SubscriptionId::from_u128(
            at.unwrap_or_else(|| panic!("no subscription {name}")) as u128 + 1,
        )
    }

    pub fn money(&self, text: &str) -> Money {
        let money = text.parse::<Amount>().unwrap().round(self.currency()).unwrap();
        assert_eq!(
            money.amount(),
            text.parse().unwrap(),
            "{text} has more digits than the currency"
        );
        money
    }

    pub fn charges(&self, specs: &[ChargeSpec]) -> Vec<Charge> {
        let charge = |(at, spec): (usize, &ChargeSpec)| Charge {
            id: ChargeId::from_u128(at as u128 + 1),
            code: spec.metric.clone(),
            metric: self.metric_id(&spec.metric),
            invoice_display_name: None,
            model: spec.model(),
            filters: filters(at, &spec.filters),
            pricing_group_keys: spec.group_keys.clone(),
        };
        specs.iter().enumerate().map(charge).collect()
    }

    /// The group of an event: the values of its metric's dimensions, as the aggregator writes them.
    pub fn group(&self, event: &EventSpec) -> String {
        let filters = &self.metrics[&event.metric].filters;
        let charges = self.plans.values().flatten().flat_map(|version| &version.charges);
        let keys: Vec<&String> = charges
            .filter(|charge| charge.metric == event.metric)
            .flat_map(|charge| {
                let of_filters = charge.filters.iter().flat_map(|filter| &filter.group_keys);
                charge.group_keys.iter().chain(of_filters)
            })
            .collect();
        let told_apart = |key: &String, value: &String| {
            keys.contains(&key) || filters.get(key).is_some_and(|values| values.contains(value))
        };
        let pairs = event.properties.iter().filter(|(key, value)| told_apart(key, value));
        let pairs: Vec<String> = pairs.map(|(key, value)| format!("{key:?}:{value:?}")).collect();
        if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
    }

    /// `invoice` in the scenario's words.
    pub fn describe(&self, invoice: &Invoice) -> ExpectedInvoice {
        let finalize = match &invoice.status {
            InvoiceStatus::Draft { finalize_at } => *finalize_at,
            InvoiceStatus::Finalized { at, .. } => *at,
        };
        let name = |id: SubscriptionId| {
            let of = |one: &&SubscriptionSpec| self.subscription_id(&one.id) == id;
            self.subscriptions.iter().find(of).map(|one| one.id.clone())
        };
        ExpectedInvoice {
            due: invoice.due_at,
            issued: Some(invoice.issuing_date),
            pay_by: Some(invoice.payment_due_date),
            finalize: Some(finalize),
            lines: invoice
                .fees
                .iter()
                .map(|fee| ExpectedLine {
                    of: name(fee.subscription),
                    text: fee.name.clone(),
                    units: Some(fee.units),
                    amount: fee.amount.amount(),
                    precise: Some(fee.precise),
                    from: Some(fee.period.start),
                    to: Some(fee.period.end),
                })
                .collect(),
            total: invoice.total.amount(),
        }
    }
}

impl MetricSpec {
    pub fn rounding(&self) -> Option<UnitRounding> {
        let of = |spec: RoundingSpec| UnitRounding {
            function: spec.function,
            precision: spec.precision,
        };
        self.rounding.map(of)
    }

    pub fn filters(&self) -> Vec<MetricFilter> {
        let filter = |(key, values): (&String, &Vec<String>)| MetricFilter {
            key: key.clone(),
            values: values.clone(),
        };
        self.filters.iter().map(filter).collect()
    }
}

impl ChargeSpec {
    fn model(&self) -> ChargeModel {
        match (&self.standard, &self.graduated, &self.volume, &self.package) {
            (Some(amount), None, None, None) => ChargeModel::Standard { amount: rate(amount) },
            (None, Some(specs), None, None) => ChargeModel::Graduated { tiers: tiers(specs) },
            (None, None, Some(specs), None) => ChargeModel::Volume { tiers: tiers(specs) },
            (None, None, None, Some(package)) => ChargeModel::Package {
                amount: rate(&package.amount),
                size: package.size,
                free_units: package.free,
            },
            _ => panic!("a charge has exactly one model: {self:?}"),
        }
    }
}

fn filters(charge: usize, specs: &[FilterSpec]) -> Vec<ChargeFilter> {
    let filter = |(at, spec): (usize, &FilterSpec)| ChargeFilter {
        id: ChargeFilterId::from_u128(charge as u128 * 100 + at as u128 + 1),
        values: spec.values.clone(),
        invoice_display_name: spec.name.clone(),
        model: ChargeModel::Standard { amount: rate(&spec.standard) },
        pricing_group_keys: spec.group_keys.clone(),
    };
    specs.iter().enumerate().map(filter).collect()
}

fn rate(text: &str) -> Rate {
    Rate::parse(text).unwrap()
}

fn tiers(specs: &[TierSpec]) -> Vec<Tier> {
    let decimal = |text: &String| rate(text).decimal();
    let tier = |spec: &TierSpec| Tier {
        from: decimal(&spec.from),
        to: spec.to.as_ref().map(decimal),
        per_unit: rate(&spec.per_unit),
        flat: rate(&spec.flat),
    };
    specs.iter().map(tier).collect()
}

impl ExpectedInvoice {
    /// The same without what `stated` leaves out, so that the two can be compared.
    pub fn kept_as_far_as(mut self, stated: &Self) -> Self {
        fn keep<T>(value: &mut Option<T>, stated: &Option<T>) {
            if stated.is_none() {
                *value = None;
            }
        }
        keep(&mut self.issued, &stated.issued);
        keep(&mut self.pay_by, &stated.pay_by);
        keep(&mut self.finalize, &stated.finalize);
        for (line, stated) in self.lines.iter_mut().zip(&stated.lines) {
            keep(&mut line.of, &stated.of);
            keep(&mut line.units, &stated.units);
            keep(&mut line.precise, &stated.precise);
            keep(&mut line.from, &stated.from);
            keep(&mut line.to, &stated.to);
        }
        self
    }
}
