//! Splitting an amount into parts that add up to it.

use crate::{Money, MoneyError};
use alloc::vec::Vec;

/// Splits `total` in proportion to `weights`, by largest remainder: each part is within one minor
/// unit of its exact share, and the parts add up to `total`. Of equal remainders the earlier gets
/// the unit: 10.00 over three equal weights is 3.34, 3.33, 3.33.
/// Errors: `EmptyWhole` when the weights are all zero or none; `OutOfRange` for a `total` beyond 2^53.
pub fn allocate(total: Money, weights: &[u64]) -> Result<Vec<Money>, MoneyError> {
    let total = Money::new(total.minor, total.currency)?;
    let whole: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    if whole == 0 {
        return Err(MoneyError::EmptyWhole);
    }
    let magnitude = u128::from(total.minor.unsigned_abs());
    // 2^53 × 2^64 fits in 128 bits.
    let exact: Vec<(u128, u128)> = weights
        .iter()
        .map(|weight| magnitude * u128::from(*weight))
        .map(|product| (product / whole, product % whole))
        .collect();
    let left = magnitude - exact.iter().map(|(floor, _)| floor).sum::<u128>();
    let mut by_remainder: Vec<(usize, u128)> =
        exact.iter().map(|(_, rest)| *rest).enumerate().collect();
    by_remainder.sort_by_key(|(_, rest)| core::cmp::Reverse(*rest));
    let mut parts: Vec<u128> = exact.into_iter().map(|(floor, _)| floor).collect();
    for (at, _) in by_remainder.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
        if let Some(part) = parts.get_mut(at) {
            *part += 1;
        }
    }
    let money = |units: u128| {
        let units = i64::try_from(units).map_err(|_| MoneyError::OutOfRange(total.currency))?;
        Money::new(if total.minor < 0 { -units } else { units }, total.currency)
    };
    parts.into_iter().map(money).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Currency;
    use proptest::prelude::*;

    fn usd(minor: i64) -> Money {
        Money { minor, currency: Currency::parse("USD").unwrap() }
    }

    fn minors(total: i64, weights: &[u64]) -> Vec<i64> {
        allocate(usd(total), weights).unwrap().iter().map(|part| part.minor).collect()
    }

    #[test]
    fn a_coupon_of_ten_over_three_equal_fees() {
        assert_eq!(minors(1000, &[3333, 3333, 3333]), [334, 333, 333]);
        assert_eq!(minors(-1000, &[3333, 3333, 3333]), [-334, -333, -333]);
    }

    #[test]
    fn the_largest_remainder_gets_the_cent_and_no_weight_gets_nothing() {
        assert_eq!(minors(100, &[1, 0, 2]), [33, 0, 67]);
        assert_eq!(minors(1, &[1, 3]), [0, 1]);
        assert_eq!(minors(0, &[1, 3]), [0, 0]);
        assert_eq!(allocate(usd(1), &[0, 0]), Err(MoneyError::EmptyWhole));
        assert_eq!(allocate(usd(1), &[]), Err(MoneyError::EmptyWhole));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_part_is_off_by_a_unit(
            total in -Money::MINOR_MAX..=Money::MINOR_MAX,
            weights in prop::collection::vec(any::<u64>(), 1..20),
        ) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let whole: u128 = weights.iter().map(|w| u128::from(*w)).sum();
            let parts = allocate(usd(total), &weights).unwrap();
            prop_assert_eq!(parts.iter().map(|part| part.minor).sum::<i64>(), total);
            for (part, weight) in parts.iter().zip(&weights) {
                let floor = u128::from(total.unsigned_abs()) * u128::from(*weight) / whole;
                let units = u128::from(part.minor.unsigned_abs());
                prop_assert!(units == floor || units == floor + 1);
            }
        }
    }
}
