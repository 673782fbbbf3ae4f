//! Multiplication, division and rounding of quantities, over their values times 10^12.

use std::cmp::Ordering;
use weir_money::Quantity;

const ONE: u128 = 10_u128.pow(Quantity::SCALE);

/// Which way a number goes to the next multiple of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the nearest; a half goes away from zero.
    Nearest,
    Up,
    Down,
}

/// The product, rounded half away from zero at 12 digits. `None`: beyond 38 digits.
pub fn multiply(a: Quantity, b: Quantity) -> Option<Quantity> {
    let negative = a.is_negative() != b.is_negative();
    let (a, b) = (a.scaled().unsigned_abs(), b.scaled().unsigned_abs());
    // Whole parts are below 10^26 and fractions below 10^12: each product but the first fits.
    let (a_whole, a_part, b_whole, b_part) = (a / ONE, a % ONE, b / ONE, b % ONE);
    let whole = a_whole.checked_mul(b_whole)?.checked_mul(ONE)?;
    let part = a_part * b_part;
    let rounded = part / ONE + u128::from(part % ONE >= ONE / 2);
    let sum = whole.checked_add(a_whole * b_part)?.checked_add(a_part * b_whole)?;
    signed(negative, sum.checked_add(rounded)?)
}

/// The quotient, rounded half away from zero at 12 digits. `None`: beyond 38 digits.
/// Panics: a divisor of zero.
pub fn divide(a: Quantity, b: Quantity) -> Option<Quantity> {
    let negative = a.is_negative() != b.is_negative();
    let (a, b) = (a.scaled().unsigned_abs(), b.scaled().unsigned_abs());
    let (quotient, rest) = match a.checked_mul(ONE) {
        Some(dividend) => (dividend / b, dividend % b),
        None => divide_digit_by_digit(a, b)?,
    };
    // Half of the divisor or more: without doubling, which may not fit.
    signed(negative, quotient.checked_add(u128::from(rest >= b - rest))?)
}

/// `a × 10^12 ÷ b` and the rest, where the product does not fit. `None`: nor does the quotient.
fn divide_digit_by_digit(a: u128, b: u128) -> Option<(u128, u128)> {
    let (mut quotient, mut rest) = (a / b, a % b);
    for _ in 0..Quantity::SCALE {
        let (mut digit, mut next) = (0, 0);
        // Ten times the rest modulo b by adding, which stays below b where a product may not fit.
        for _ in 0..10 {
            if next >= b - rest {
                next -= b - rest;
                digit += 1;
            } else {
                next += rest;
            }
        }
        quotient = quotient.checked_mul(10)?.checked_add(digit)?;
        rest = next;
    }
    Some((quotient, rest))
}

/// The number at `digits` after the point (before it, where negative; at most 12 either way).
/// `None`: beyond 38 digits.
pub fn round(number: Quantity, direction: Direction, digits: i32) -> Option<Quantity> {
    let power = u32::try_from(i32::try_from(Quantity::SCALE).ok()? - digits).ok()?;
    let unit = 10_u128.checked_pow(power)?;
    let (negative, scaled) = (number.is_negative(), number.scaled().unsigned_abs());
    let rest = scaled % unit;
    let away = match direction {
        Direction::Nearest => rest.cmp(&(unit - rest)) != Ordering::Less,
        Direction::Up => rest > 0 && !negative,
        Direction::Down => rest > 0 && negative,
    };
    let units = scaled / unit + u128::from(away);
    signed(negative, units.checked_mul(unit)?)
}

fn signed(negative: bool, magnitude: u128) -> Option<Quantity> {
    let scaled = i128::try_from(magnitude).ok()?;
    let within = scaled <= Quantity::MAX.scaled();
    within.then(|| Quantity::from_scaled(if negative { -scaled } else { scaled }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    #[test]
    fn products_and_quotients_are_those_worked_out_by_hand() {
        for (a, b, product, quotient) in [
            ("6", "3", Some("18"), Some("2")),
            ("-1", "3", Some("-3"), Some("-0.333333333333")),
            ("2", "-3", Some("-6"), Some("-0.666666666667")),
            ("0.1", "0.2", Some("0.02"), Some("0.5")),
            ("0.000001", "0.000001", Some("0.000000000001"), Some("1")),
            ("0.000001", "0.0000005", Some("0.000000000001"), Some("2")),
            ("0.000001", "0.0000004", Some("0"), Some("2.5")),
            ("9007199254740993", "1000", Some("9007199254740993000"), Some("9007199254740.993")),
            ("99999999999999999999999999", "10", None, Some("9999999999999999999999999.9")),
            ("99999999999999999999999999", "0.1", Some("9999999999999999999999999.9"), None),
            (
                "99999999999999999999999999.999999999999",
                "99999999999999999999999999.999999999999",
                None,
                Some("1"),
            ),
            (
                "12345678901234567890123456",
                "98765432109876543210987654",
                None,
                Some("0.124999998861"),
            ),
        ] {
            let (left, right) = (quantity(a), quantity(b));
            let text = |result: Option<Quantity>| result.map(|value| value.to_string());
            assert_eq!(text(multiply(left, right)).as_deref(), product, "{a} * {b}");
            assert_eq!(text(divide(left, right)).as_deref(), quotient, "{a} / {b}");
        }
    }

    #[test]
    fn rounding_takes_digits_on_both_sides_of_the_point() {
        for (number, digits, nearest, up, down) in [
            ("2.5", 0, "3", "3", "2"),
            ("-2.5", 0, "-3", "-2", "-3"),
            ("2.449", 1, "2.4", "2.5", "2.4"),
            ("1250", -2, "1300", "1300", "1200"),
            ("-1249.9", -2, "-1200", "-1200", "-1300"),
            ("7", 3, "7", "7", "7"),
            ("0.000000000001", 12, "0.000000000001", "0.000000000001", "0.000000000001"),
            ("1", -12, "0", "1000000000000", "0"),
        ] {
            let round = |direction| round(quantity(number), direction, digits).unwrap().to_string();
            assert_eq!(round(Direction::Nearest), nearest, "{number}, {digits}");
            assert_eq!(round(Direction::Up), up, "{number}, {digits}");
            assert_eq!(round(Direction::Down), down, "{number}, {digits}");
        }
        assert_eq!(round(Quantity::MAX, Direction::Up, 0), None);
    }

    proptest! {
        #[test]
        fn small_numbers_multiply_and_divide_as_128_bits_do(
            a in -1_000_000_000_000_000_000_i128..1_000_000_000_000_000_000,
            b in 1_i128..1_000_000_000_000_000_000,
        ) {
            let half_away = |n: i128, d: i128| (n.abs() * 2 + d) / (2 * d) * n.signum();
            let (left, right) = (Quantity::from_scaled(a), Quantity::from_scaled(b));
            let one = 10_i128.pow(12);
            prop_assert_eq!(multiply(left, right).unwrap().scaled(), half_away(a * b, one));
            prop_assert_eq!(divide(left, right).unwrap().scaled(), half_away(a * one, b));
        }

        #[test]
        fn both_ways_of_dividing_agree(a in 1_u128..10_u128.pow(25), b in 1_u128..10_u128.pow(38)) {
            let dividend = a * ONE;
            prop_assert_eq!(divide_digit_by_digit(a, b), Some((dividend / b, dividend % b)));
        }

        #[test]
        fn nothing_panics(a in -(10_i128.pow(38) - 1)..10_i128.pow(38), b in 1_i128..10_i128.pow(38), digits in -12..=12) {
            let (a, b) = (Quantity::from_scaled(a), Quantity::from_scaled(b));
            let _ = (multiply(a, b), divide(a, b), round(a, Direction::Nearest, digits));
            let _ = (round(a, Direction::Up, digits), round(a, Direction::Down, digits));
        }
    }
}
