//! What units cost under a charge model. Exact: rounding is the caller's, once per line.

use crate::charge::{Charge, ChargeModel, Tier};
use weir_money::{Amount, MoneyError, Quantity, Rate};

/// Why units have no price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// The exact amount needs more than 76 digits.
    #[error(transparent)]
    Money(#[from] MoneyError),
    /// No tier holds the quantity: the last one is not open.
    #[error("no tier holds {0} units")]
    NoTier(Quantity),
}

const TOO_MANY_DIGITS: PriceError = PriceError::Money(MoneyError::TooManyDigits);

impl Charge {
    /// What `units` cost; see [`ChargeModel::price`].
    pub fn price(&self, units: Quantity) -> Result<Amount, PriceError> {
        self.model.price(units)
    }
}

impl ChargeModel {
    /// What `units` (not negative) cost, in major units of the plan's currency, with every digit.
    /// Graduated 0–10 at 1.00 flat 0.50, 11–∞ at 0.50 flat 2.00: 15 units cost 15.00.
    /// Errors: more than 76 digits; tiers that end before `units`.
    pub fn price(&self, units: Quantity) -> Result<Amount, PriceError> {
        let exact = Amount::from(units);
        match self {
            Self::Standard { amount } => times(exact, *amount),
            Self::Graduated { tiers } => graduated(tiers, units),
            Self::Package { amount, size, free_units } => {
                let packages = packages(units, *size, *free_units).ok_or(TOO_MANY_DIGITS)?;
                times(Amount::from(packages), *amount)
            }
            Self::Volume { tiers } => {
                let holds = |tier: &&Tier| tier.to.is_none_or(|to| exact <= Amount::from(to));
                let tier = tiers.iter().find(holds).ok_or(PriceError::NoTier(units))?;
                add(times(exact, tier.per_unit)?, tier.flat.into())
            }
        }
    }
}

/// Each tier holds the units from the bound of the one before up to its own, so 0–10, 11–20 and
/// 0–10, 10–20 split alike, fractions included. The first is always reached, the others by any
/// quantity above the bound before.
fn graduated(tiers: &[Tier], units: Quantity) -> Result<Amount, PriceError> {
    let units_exact = Amount::from(units);
    let mut below = Amount::ZERO;
    let mut sum = Amount::ZERO;
    for (at, tier) in tiers.iter().enumerate() {
        if at > 0 && units_exact <= below {
            return Ok(sum);
        }
        let bound = tier.to.map_or(units_exact, |to| units_exact.min(Amount::from(to)));
        let inside = bound.checked_sub(below).ok_or(TOO_MANY_DIGITS)?;
        sum = add(add(sum, times(inside, tier.per_unit)?)?, tier.flat.into())?;
        below = bound;
    }
    if below < units_exact { Err(PriceError::NoTier(units)) } else { Ok(sum) }
}

/// ceil((units − free) ÷ size), not below 0. `None`: a size of 0 or more packages than 2^64.
fn packages(units: Quantity, size: u64, free_units: u64) -> Option<u64> {
    let billed = units.checked_sub(Quantity::from(free_units))?.or_zero_if_negative().scaled();
    let size = Quantity::from(size).scaled();
    let whole = billed.checked_div(size)?;
    u64::try_from(whole + i128::from(billed % size != 0)).ok()
}

fn times(units: Amount, rate: Rate) -> Result<Amount, PriceError> {
    units.checked_mul(rate.into()).ok_or(TOO_MANY_DIGITS)
}

fn add(left: Amount, right: Amount) -> Result<Amount, PriceError> {
    left.checked_add(right).ok_or(TOO_MANY_DIGITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{string::ToString, vec, vec::Vec};
    use proptest::prelude::*;
    use rust_decimal::Decimal;

    fn rate(text: &str) -> Rate {
        Rate::parse(text).unwrap()
    }

    fn tiers(rows: &[(&str, Option<&str>, &str, &str)]) -> Vec<Tier> {
        let decimal = |text: &str| Decimal::from_str_exact(text).unwrap();
        rows.iter()
            .map(|(from, to, per_unit, flat)| Tier {
                from: decimal(from),
                to: to.map(decimal),
                per_unit: rate(per_unit),
                flat: rate(flat),
            })
            .collect()
    }

    fn check(model: &ChargeModel, cases: &[(&str, &str)]) {
        for (units, amount) in cases {
            let price = model.price(units.parse().unwrap()).unwrap();
            assert_eq!(price.to_string(), *amount, "{units} units");
        }
    }

    #[test]
    fn graduated_bills_each_tier_reached() {
        let model = ChargeModel::Graduated {
            tiers: tiers(&[("0", Some("10"), "1.00", "0.50"), ("11", None, "0.50", "2.00")]),
        };
        check(
            &model,
            &[("0", "0.5"), ("10", "10.5"), ("15", "15"), ("10.5", "12.75"), ("11", "13")],
        );
    }

    #[test]
    fn gapped_and_adjacent_bounds_split_alike() {
        let gapped =
            [("0", Some("10"), "1", "0"), ("11", Some("20"), "2", "0"), ("21", None, "3", "0")];
        let adjacent =
            [("0", Some("10"), "1", "0"), ("10", Some("20"), "2", "0"), ("20", None, "3", "0")];
        for rows in [gapped, adjacent] {
            check(
                &ChargeModel::Graduated { tiers: tiers(&rows) },
                &[("20", "30"), ("20.5", "31.5"), ("10.25", "10.5"), ("25", "45")],
            );
        }
    }

    #[test]
    fn package_bills_begun_packages_after_the_free_units() {
        let model = ChargeModel::Package { amount: rate("5.00"), size: 100, free_units: 50 };
        check(
            &model,
            &[
                ("0", "0"),
                ("50", "0"),
                ("50.000000000001", "5"),
                ("51", "5"),
                ("150", "5"),
                ("151", "10"),
            ],
        );
        let none = ChargeModel::Package { amount: rate("5"), size: 0, free_units: 0 };
        assert!(none.price(Quantity::from(1)).is_err(), "a size of 0 is refused when written");
    }

    #[test]
    fn volume_bills_all_units_in_one_tier() {
        let model = ChargeModel::Volume {
            tiers: tiers(&[("0", Some("100"), "1", "7"), ("101", None, "0.5", "0")]),
        };
        check(&model, &[("0", "7"), ("100", "107"), ("100.5", "50.25"), ("101", "50.5")]);
    }

    #[test]
    fn standard_keeps_every_digit() {
        let model = ChargeModel::Standard { amount: rate("0.0000025") };
        check(
            &model,
            &[
                ("22361870", "55.904675"),
                ("9007199254740993", "22517998136.8524825"),
                ("0.3", "0.00000075"),
            ],
        );
    }

    #[test]
    fn tiers_that_end_hold_no_more() {
        let rows = [("0", Some("10"), "1", "0")];
        for model in [
            ChargeModel::Graduated { tiers: tiers(&rows) },
            ChargeModel::Volume { tiers: tiers(&rows) },
        ] {
            assert_eq!(
                model.price(Quantity::from(11)),
                Err(PriceError::NoTier(Quantity::from(11)))
            );
        }
        let empty = ChargeModel::Graduated { tiers: vec![] };
        assert!(empty.price(Quantity::from(1)).is_err());
    }

    #[test]
    fn the_greatest_quantity_has_a_price() {
        let model = ChargeModel::Standard { amount: rate("0.0000000000000000000000000001") };
        assert!(model.price(Quantity::MAX).is_ok());
    }

    proptest! {
        #[test]
        fn more_usage_never_costs_less_on_graduated_tiers(
            bounds in prop::collection::btree_set(1_u32..10_000, 1..6),
            prices in prop::collection::vec((0_u32..1_000, 0_u32..1_000), 7),
            less in 0_u64..20_000_000, more in 0_u64..20_000_000,
        ) {
            let mut from = Decimal::ZERO;
            let mut rows = Vec::new();
            let tos = bounds.iter().map(|to| Some(Decimal::from(*to))).chain([None]);
            for (to, (per_unit, flat)) in tos.zip(&prices) {
                let price = |cents: u32| Rate::new(Decimal::new(cents.into(), 2)).unwrap();
                rows.push(Tier { from, to, per_unit: price(*per_unit), flat: price(*flat) });
                from = to.unwrap_or_default();
            }
            let model = ChargeModel::Graduated { tiers: rows };
            let price = |thousandths: u64| {
                model.price(Quantity::from_scaled(i128::from(thousandths) * 1_000_000_000)).unwrap()
            };
            prop_assert!(price(less.min(more)) <= price(less.max(more)));
        }

        #[test]
        fn one_open_graduated_tier_is_the_standard_price(units in any::<u32>(), cents in 0_u32..100_000) {
            let per_unit = Rate::new(Decimal::new(cents.into(), 2)).unwrap();
            let tier = Tier { from: Decimal::ZERO, to: None, per_unit, flat: Rate::ZERO };
            let units = Quantity::from(u64::from(units));
            prop_assert_eq!(
                ChargeModel::Graduated { tiers: vec![tier] }.price(units),
                ChargeModel::Standard { amount: per_unit }.price(units)
            );
        }
    }
}
