//! From the usage of a charge to its lines: one for each filter, the default and each group.

use crate::{
    BillingError,
    book::{DistinctUnion, NoTotal, Span, UsageBook, UsageQuestion, UsageWindow},
    charge::{Charge, ChargeFilter},
    contract::MetricTerms,
    invoice::{GroupValues, Period, UsageSlot},
    metric::{Aggregation, RoundingFunction, UnitRounding},
    price::PriceError,
    slot::{Slot, UnreadableGroup, by_age, slots},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::{String, ToString},
    vec::Vec,
};
use weir_ids::{BillableMetricId, SubscriptionId};
use weir_money::{Amount, Currency, Money, Quantity, Rounding, Share};

/// A window of a subscription's usage, and what it is priced by.
#[derive(Debug, Clone, Copy)]
pub struct Pricing<'a> {
    pub subscription: SubscriptionId,
    /// Where totals that carry over begin.
    pub started_at: crate::Timestamp,
    pub period: Period,
    /// The seconds of the whole period in which the window ends: by these a weighted sum is divided.
    pub whole_seconds: u64,
    pub charge: &'a Charge,
    pub terms: &'a MetricTerms,
    pub currency: Currency,
}

/// A window of a subscription's usage, whichever charges price it.
#[derive(Debug, Clone, Copy)]
pub struct PricedWindow {
    pub subscription: SubscriptionId,
    pub started_at: crate::Timestamp,
    pub period: Period,
    /// As of [`Pricing::whole_seconds`].
    pub whole_seconds: u64,
    pub currency: Currency,
}

impl PricedWindow {
    /// How each of these charges is priced, in their order. Errors: a metric that is not there.
    pub fn pricings<'a>(
        self,
        charges: impl IntoIterator<Item = &'a Charge>,
        metrics: &'a BTreeMap<BillableMetricId, MetricTerms>,
    ) -> Result<Vec<Pricing<'a>>, BillingError> {
        let pricing = |charge: &'a Charge| {
            let metric = charge.metric;
            let terms = metrics.get(&metric);
            Ok(Pricing {
                subscription: self.subscription,
                started_at: self.started_at,
                period: self.period,
                whole_seconds: self.whole_seconds,
                charge,
                terms: terms.ok_or(BillingError::UnknownMetric { charge: charge.id, metric })?,
                currency: self.currency,
            })
        };
        charges.into_iter().map(pricing).collect()
    }
}

/// What usage comes to under one price of a charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageLine {
    pub slot: UsageSlot,
    /// What the customer reads.
    pub name: String,
    pub events: u64,
    pub units: Quantity,
    /// In major units, every digit.
    pub precise: Amount,
    /// Rounded to the minor unit, half away from zero.
    pub amount: Money,
}

impl UsageLine {
    /// Whether there was an event, or units that carried over.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.events > 0 || self.units != Quantity::ZERO
    }

    /// Whether an invoice has it: the default price always, a filter's when it was used or when 0
    /// units cost something.
    #[must_use]
    pub fn is_billed(&self) -> bool {
        self.slot.filter.is_none() || self.is_used() || !self.precise.is_zero()
    }
}

impl Pricing<'_> {
    /// The lines of the charge, filters first, oldest first, then the default price; of each its
    /// groups in order. The default and every filter have at least one, with 0 units where there was
    /// no usage; groups have one when they were used.
    /// Errors: a sum beyond 38 digits; an amount out of range.
    pub fn lines(&self, book: &UsageBook) -> Result<Vec<UsageLine>, BillingError> {
        let mut lines = Vec::new();
        let filled = self.slots(book)?;
        let filters = by_age(self.charge);
        for filter in filters.into_iter().map(Some).chain([None]) {
            let before = lines.len();
            for slot in filled.iter().filter(|slot| is_of(slot.filter, filter)) {
                let line = self.line(book, slot)?;
                // Voided events leave an empty group behind.
                if line.is_used() {
                    lines.push(line);
                }
            }
            if lines.len() == before {
                let group = GroupValues::new();
                lines.push(self.line(book, &Slot { filter, group, groups: BTreeSet::new() })?);
            }
        }
        Ok(lines)
    }

    /// What must be counted before [`Pricing::lines`], from the book without it.
    /// Errors: a group that can't be read.
    pub fn unions(&self, book: &UsageBook) -> Result<Vec<DistinctUnion>, BillingError> {
        if self.terms.aggregation != Aggregation::UniqueCount {
            return Ok(Vec::new());
        }
        let span = self.carried_span();
        let window = self.window(span);
        let union = |slot: &Slot<'_>| {
            let groups = book.union_of(self.key(), span, &slot.groups)?;
            Some(DistinctUnion { window, metric: self.charge.metric, groups })
        };
        Ok(self.slots(book)?.iter().filter_map(union).collect())
    }

    /// What must be read for it.
    pub fn questions(&self) -> impl Iterator<Item = UsageQuestion> + use<> {
        let (metric, aggregation) = (self.charge.metric, self.terms.aggregation);
        self.windows().map(move |window| UsageQuestion { window, metric, aggregation })
    }

    /// The windows that must be read for it.
    pub fn windows(&self) -> impl Iterator<Item = UsageWindow> + use<> {
        let since_start = self.terms.recurring.then(|| self.window(Span::SinceStart));
        [self.window(Span::Window)].into_iter().chain(since_start)
    }

    fn window(&self, span: Span) -> UsageWindow {
        let start = match span {
            Span::Window => self.period.start,
            Span::SinceStart => self.started_at.min(self.period.start),
        };
        let period = Period { start, end: self.period.end };
        UsageWindow { subscription: self.subscription, span, period }
    }

    fn key(&self) -> (SubscriptionId, BillableMetricId) {
        (self.subscription, self.charge.metric)
    }

    fn carried_span(&self) -> Span {
        if self.terms.recurring { Span::SinceStart } else { Span::Window }
    }

    fn slots<'a>(&'a self, book: &'a UsageBook) -> Result<Vec<Slot<'a>>, BillingError> {
        let groups = book.groups(self.subscription, self.charge.metric, self.terms.recurring);
        slots(self.charge, groups).map_err(|UnreadableGroup(group)| BillingError::UnreadableGroup {
            metric: self.charge.metric,
            group,
        })
    }

    fn line(&self, book: &UsageBook, slot: &Slot<'_>) -> Result<UsageLine, BillingError> {
        let (subscription, metric) = self.key();
        let overflow = BillingError::UsageOverflow { subscription, metric };
        let no_total = |error| match error {
            NoTotal::Overflow => BillingError::UsageOverflow { subscription, metric },
            NoTotal::NotCounted => BillingError::NotCounted { subscription, metric },
        };
        let (events, units) = self.units(book, &slot.groups).map_err(no_total)?;
        let units = rounded(units.or_zero_if_negative(), self.terms.rounding).ok_or(overflow)?;
        let name = self.name(slot);
        let out_of_range =
            |source| BillingError::Amount { subscription, line: name.clone(), source };
        let model = slot.filter.map_or(&self.charge.model, |filter| &filter.model);
        let precise = model.price(units).map_err(|error| match error {
            PriceError::Money(source) => out_of_range(source),
            PriceError::NoTier(units) => {
                BillingError::NoTier { charge: self.charge.id, units: units.to_string() }
            }
        })?;
        let amount = precise.round(self.currency).map_err(out_of_range)?;
        Ok(UsageLine { slot: slot.key(self.charge), name, events, units, precise, amount })
    }

    /// Events of the window and units, neither clipped nor rounded.
    fn units(&self, book: &UsageBook, groups: &BTreeSet<&str>) -> Result<(u64, Quantity), NoTotal> {
        let total = book.total(self.key(), Span::Window, groups)?;
        let carried = || book.total(self.key(), self.carried_span(), groups);
        let units = match self.terms.aggregation {
            Aggregation::Count => Quantity::from(total.events),
            Aggregation::Sum => carried()?.total,
            Aggregation::Max => total.greatest.unwrap_or_default(),
            Aggregation::UniqueCount => book.distinct(self.key(), self.carried_span(), groups)?,
            Aggregation::Latest => total.latest.map(|latest| latest.value).unwrap_or_default(),
            Aggregation::Custom => total.total,
            Aggregation::WeightedSum => {
                let before = carried()?.total.checked_sub(total.total).ok_or(NoTotal::Overflow)?;
                self.weighted(before, total.value_seconds).ok_or(NoTotal::Overflow)?
            }
        };
        Ok((total.events, units))
    }

    /// (`before` × the window's seconds + Σ value × seconds to its end) ÷ the whole period's seconds.
    /// 2500 on 5 March: 2500 × 27 days ÷ 31 days = 2177.419354838710.
    fn weighted(&self, before: Quantity, value_seconds: Amount) -> Option<Quantity> {
        let seconds = (self.period.end - self.period.start).num_microseconds()?;
        let seconds = Amount::from_scaled(seconds.into(), 6);
        let held = Amount::from(before).checked_mul(seconds)?.checked_add(value_seconds)?;
        held.share(Share { part: 1, whole: self.whole_seconds }).ok()?.to_quantity()
    }

    /// `Tokens (eu, us; gpt-4)`: the charge's name, what the filter takes and the group's values.
    fn name(&self, slot: &Slot<'_>) -> String {
        let mut name = charge_name(self.charge, self.terms);
        let filter = slot.filter.map(filter_name);
        let values = slot.group.values().flatten().cloned();
        let parts: Vec<String> = filter.into_iter().chain(values).collect();
        if !parts.is_empty() {
            name.push_str(" (");
            name.push_str(&parts.join("; "));
            name.push(')');
        }
        name
    }
}

fn is_of(filter: Option<&ChargeFilter>, wanted: Option<&ChargeFilter>) -> bool {
    filter.map(|filter| filter.id) == wanted.map(|filter| filter.id)
}

fn charge_name(charge: &Charge, terms: &MetricTerms) -> String {
    charge.invoice_display_name.clone().unwrap_or_else(|| terms.name.clone())
}

fn filter_name(filter: &ChargeFilter) -> String {
    filter.invoice_display_name.clone().unwrap_or_else(|| {
        let values: Vec<String> = filter.values.values().map(|values| values.join(", ")).collect();
        values.join("; ")
    })
}

fn rounded(units: Quantity, rounding: Option<UnitRounding>) -> Option<Quantity> {
    let Some(UnitRounding { function, precision }) = rounding else { return Some(units) };
    let rule = match function {
        RoundingFunction::Round => Rounding::HalfAwayFromZero,
        RoundingFunction::Ceil => Rounding::Ceil,
        RoundingFunction::Floor => Rounding::Floor,
    };
    units.round_to(precision, rule)
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
