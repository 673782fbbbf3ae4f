//! Tables and properties of exact amounts.

use super::*;
use proptest::prelude::*;

fn amount(text: &str) -> Amount {
    text.parse().unwrap()
}

fn currency(code: &str) -> Currency {
    Currency::parse(code).unwrap()
}

#[test]
fn rounding_is_half_away_from_zero_at_the_minor_unit() {
    for (text, code, minor) in [
        ("6.332", "USD", 633),
        ("0.005", "USD", 1),
        ("-0.005", "USD", -1),
        ("0.00499999999999999999999999999999", "USD", 0),
        ("37.5", "USD", 3750),
        ("0.5", "JPY", 1),
        ("0.4999", "JPY", 0),
        ("1.2345", "KWD", 1235),
        ("90071992547409.92", "USD", 1 << 53),
        ("0", "USD", 0),
    ] {
        assert_eq!(amount(text).round(currency(code)).unwrap().minor, minor, "{text} {code}");
    }
    assert_eq!(
        amount("90071992547409.93").round(currency("USD")),
        Err(MoneyError::OutOfRange(currency("USD")))
    );
}

#[test]
fn ceil_and_floor_go_by_the_number_line() {
    for (text, ceil, floor) in [("0.121", 13, 12), ("-0.121", -12, -13), ("0.12", 12, 12)] {
        let by = |rounding| amount(text).round_by(rounding, currency("USD")).unwrap().minor;
        assert_eq!((by(Rounding::Ceil), by(Rounding::Floor)), (ceil, floor), "{text}");
    }
}

#[test]
fn a_share_is_multiplied_before_it_is_divided() {
    let share = |text: &str, part, whole| amount(text).share(Share { part, whole }).unwrap();
    assert_eq!(share("50.00", 21, 28), amount("37.5"));
    assert_eq!(share("910.00", 32, 91), amount("320"));
    assert_eq!(share("10", 1, 3), amount("3.333333333333333333333333"));
    assert_eq!(share("-10", 2, 3), amount("-6.666666666666666666666666"));
    assert_eq!(amount("1").share(Share { part: 1, whole: 0 }), Err(MoneyError::EmptyWhole));
}

#[test]
fn huge_quantities_times_finest_prices_stay_exact() {
    let units = Amount::from(Quantity::MAX);
    let price = Amount::from(Rate::parse("0.0000000000000000000000000001").unwrap());
    let product = units.checked_mul(price).unwrap();
    assert_eq!(product.to_string(), "0.0099999999999999999999999999999999999999");
    let units = Amount::from(Quantity::parse_value("9007199254740993").unwrap());
    assert_eq!(units.checked_mul(amount("0.01")).unwrap(), amount("90071992547409.93"));
}

#[test]
fn overflow_is_no_result_and_never_wraps() {
    let great = amount("1e75");
    assert_eq!(great.checked_mul(amount("100")), None);
    assert_eq!(amount("5e76").checked_add(amount("5e76")), None);
    assert!("1e77".parse::<Amount>().is_err());
    assert!("1e-65".parse::<Amount>().is_err());
    assert_eq!(great.share(Share { part: 1, whole: 3 }), Err(MoneyError::TooManyDigits));
}

#[test]
fn order_holds_where_scales_are_far_apart() {
    assert!(amount("1e75") > amount("1e-30"));
    assert!(amount("-1e75") < amount("1e-30"));
    assert!(amount("1e-30") < amount("1e75"));
    assert!(amount("0.1") < amount("0.11"));
    assert_eq!(amount("0.10"), amount("0.1"));
}

#[test]
fn cents_of_an_amount_keep_its_digits() {
    assert_eq!(amount("0.0123").in_minor_units(currency("USD")).unwrap(), amount("1.23"));
    assert_eq!(amount("0.5").in_minor_units(currency("JPY")).unwrap(), amount("0.5"));
}

proptest! {
    #[test]
    fn text_form_round_trips(mantissa in any::<i128>(), scale in 0_u32..=64) {
        let value = Amount::from_scaled(mantissa, scale);
        prop_assert_eq!(value.to_string().parse(), Ok(value));
    }

    #[test]
    fn sums_agree_with_whole_numbers(left in any::<i64>(), right in any::<i64>(), scale in 0_u32..30) {
        let sum = Amount::from_scaled(left.into(), scale).checked_add(Amount::from_scaled(right.into(), scale));
        prop_assert_eq!(sum, Some(Amount::from_scaled(i128::from(left) + i128::from(right), scale)));
    }

    #[test]
    fn rounding_is_within_half_a_unit(mantissa in -(1_i128 << 86)..(1_i128 << 86), scale in 12_u32..30) {
        let value = Amount::from_scaled(mantissa, scale);
        let usd = currency("USD");
        let rounded = value.round(usd).unwrap();
        let off = rounded.amount().checked_sub(value).unwrap();
        prop_assert!(off <= amount("0.005") && off >= amount("-0.005"));
    }

    #[test]
    fn a_cut_quotient_rounds_like_the_exact_one(minor in -(1_i64 << 53)..(1_i64 << 53), part in 0_u64..=400, whole in 1_u64..=400) {
        prop_assume!(part <= whole);
        let usd = currency("USD");
        let rounded = Money { minor, currency: usd }.amount().share(Share { part, whole }).unwrap().round(usd).unwrap();
        let twice = 2 * i128::from(minor.unsigned_abs()) * i128::from(part);
        let exact = (twice + i128::from(whole)) / (2 * i128::from(whole));
        prop_assert_eq!(i128::from(rounded.minor.unsigned_abs()), exact);
    }
}
