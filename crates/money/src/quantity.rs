//! Units and event values: fixed point with 12 digits after the point, 38 digits in all.

use crate::{QuantityError, Rounding, digits::Number};
use alloc::string::String;
use core::fmt;

/// A number of units. Exact; kept as the value times 10^12.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Quantity(i128);

impl Quantity {
    /// Digits after the point.
    pub const SCALE: u32 = 12;
    /// None.
    pub const ZERO: Self = Self(0);
    /// The greatest quantity, 38 nines; the least is its negative.
    pub const MAX: Self = Self(10_i128.pow(38) - 1);
    const ONE: i128 = 10_i128.pow(Self::SCALE);

    /// The quantity `scaled / 10^12`. The caller keeps `scaled` within 38 digits.
    #[must_use]
    pub const fn from_scaled(scaled: i128) -> Self {
        Self(scaled)
    }

    /// The value times 10^12.
    #[must_use]
    pub const fn scaled(self) -> i128 {
        self.0
    }

    /// The sum. `None`: beyond 38 digits.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let sum = self.0.checked_add(other.0)?;
        (-Self::MAX.0..=Self::MAX.0).contains(&sum).then_some(Self(sum))
    }

    /// The difference. `None`: beyond 38 digits.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.checked_add(Self(other.0.checked_neg()?))
    }

    /// Rounds to `digits` after the point, -12..=12; -2 rounds to hundreds.
    /// Ceil to hundreds: 101 → 200, −101 → −100. `None`: other digits; beyond 38 digits.
    #[must_use]
    pub fn round_to(self, digits: i32, rounding: Rounding) -> Option<Self> {
        let scale = i32::try_from(Self::SCALE).ok()?;
        if !(-scale..=scale).contains(&digits) {
            return None;
        }
        let unit = 10_i128.checked_pow(u32::try_from(scale.checked_sub(digits)?).ok()?)?;
        let (quotient, rest) = (self.0 / unit, self.0 % unit);
        let grow = match rounding {
            // |rest| ≥ unit − |rest| says 2 × |rest| ≥ unit without overflow.
            Rounding::HalfAwayFromZero => rest.abs() >= unit - rest.abs(),
            Rounding::Ceil => rest > 0,
            Rounding::Floor => rest < 0,
        };
        let away = i128::from(grow) * if self.0 < 0 { -1 } else { 1 };
        Self::ZERO.checked_add(Self((quotient + away).checked_mul(unit)?))
    }

    /// Whether it is below zero.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// The quantity, or 0 for a negative one.
    #[must_use]
    pub fn or_zero_if_negative(self) -> Self {
        self.max(Self::ZERO)
    }

    /// Reads an event's value: a JSON number with at most 16 digits before and 12 after the point
    /// (zeros at the end of the fraction don't count). Nothing is rounded.
    /// Errors: `NotANumber`; `TooManyDigits`.
    pub fn parse_value(text: &str) -> Result<Self, QuantityError> {
        match read_short(text.as_bytes()) {
            Some(quantity) => Ok(quantity),
            None => read(text, 16),
        }
    }
}

/// Digits before or after the point that [`read_short`] takes: their number fits 32 bits.
const SHORT_DIGITS: usize = 9;

/// The form that nearly every value has, `1234` or `0.25`, in a fifth of the time that the general
/// reader takes. `None`: another form, or no number.
fn read_short(text: &[u8]) -> Option<Quantity> {
    let (head, tail) = match text.iter().position(|byte| *byte == b'.') {
        None => (text, None),
        Some(point) => (text.get(..point)?, Some(text.get(point + 1..)?)),
    };
    if head.len() > 1 && head.first() == Some(&b'0') {
        return None;
    }
    let (units, _) = short_digits(head)?;
    let mut scaled = i128::from(units) * Quantity::ONE;
    if let Some(tail) = tail {
        let (fraction, digits) = short_digits(tail)?;
        scaled += i128::from(fraction) * 10_i128.pow(Quantity::SCALE.checked_sub(digits)?);
    }
    Some(Quantity(scaled))
}

/// One to nine digits: their number, and how many they are.
fn short_digits(text: &[u8]) -> Option<(u32, u32)> {
    if text.is_empty() || text.len() > SHORT_DIGITS {
        return None;
    }
    let (mut value, mut digits) = (0, 0);
    for letter in text {
        if !letter.is_ascii_digit() {
            return None;
        }
        value = value * 10 + u32::from(letter - b'0');
        digits += 1;
    }
    Some((value, digits))
}

fn read(text: &str, digits_before_point: i64) -> Result<Quantity, QuantityError> {
    let number = Number::read(text).ok_or(QuantityError::NotANumber)?;
    let scale = i64::from(Quantity::SCALE);
    if number.point > digits_before_point || number.fraction_digits() > scale {
        return Err(QuantityError::TooManyDigits);
    }
    let digits = number.digits().fold(0_i128, |value, digit| value * 10 + i128::from(digit));
    // At most 38 digits: `point` before the point and 12 after it.
    let zeros = scale + number.point - i64::try_from(number.significant).unwrap_or(i64::MAX);
    let power = u32::try_from(zeros).map_err(|_| QuantityError::TooManyDigits)?;
    let scaled = if digits == 0 { 0 } else { digits * 10_i128.pow(power) };
    Ok(Quantity(if number.negative { -scaled } else { scaled }))
}

impl core::str::FromStr for Quantity {
    type Err = QuantityError;
    /// Reads a total: at most 26 digits before and 12 after the point, 38 in all.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read(text, 26)
    }
}

impl From<u64> for Quantity {
    fn from(units: u64) -> Self {
        Self(i128::from(units) * Self::ONE)
    }
}

/// Plain, without zeros at the end: `0.3`, `-12`, `9007199254740993`.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        let one = Self::ONE.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        write!(f, "{}", magnitude / one)?;
        let (mut fraction, mut width) = (magnitude % one, Self::SCALE as usize);
        if fraction == 0 {
            return Ok(());
        }
        while fraction % 10 == 0 {
            fraction /= 10;
            width -= 1;
        }
        write!(f, ".{fraction:0width$}")
    }
}

impl fmt::Debug for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Quantity {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Quantity {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{format, string::ToString};
    use proptest::prelude::*;

    #[test]
    fn values_keep_every_digit() {
        for (text, plain) in [
            ("0.1", "0.1"),
            ("9007199254740993", "9007199254740993"),
            ("-9999999999999999.999999999999", "-9999999999999999.999999999999"),
            ("1e3", "1000"),
            ("12.5e-1", "1.25"),
            ("0.1000000000000000", "0.1"),
            ("-0", "0"),
            ("0e99999999999999999999", "0"),
            ("1e-12", "0.000000000001"),
        ] {
            assert_eq!(Quantity::parse_value(text).unwrap().to_string(), plain, "{text}");
        }
        let sum = Quantity::parse_value("0.1").unwrap().checked_add("0.2".parse().unwrap());
        assert_eq!(sum.unwrap().to_string(), "0.3");
    }

    proptest! {
        #[test]
        fn the_quick_reader_agrees_with_the_general_one(
            text in "-?[0-9]{0,11}(\\.[0-9]{0,11})?([eE][0-9])?",
        ) {
            if let Some(quantity) = read_short(text.as_bytes()) {
                prop_assert_eq!(Ok(quantity), read(&text, 16), "{}", text);
            }
        }
    }

    #[test]
    fn the_usual_values_are_read_quickly() {
        for (text, plain) in [
            ("0", "0"),
            ("7", "7"),
            ("999999999.999999999", "999999999.999999999"),
            ("0.05", "0.05"),
        ] {
            assert_eq!(read_short(text.as_bytes()).unwrap().to_string(), plain, "{text}");
        }
        for text in ["", "-1", "01", "1.", ".5", "1e3", "1234567890", "0.1234567891", "1 ", "1.2.3"]
        {
            assert_eq!(read_short(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn too_many_digits_are_refused_and_never_rounded() {
        for text in [
            "10000000000000000",
            "1e16",
            "0.0000000000001",
            "1e-13",
            "1.0000000000001",
            "1e999999999999999999",
            "-1e-999999999999999999",
        ] {
            assert_eq!(Quantity::parse_value(text), Err(QuantityError::TooManyDigits), "{text}");
        }
        assert_eq!(Quantity::parse_value("NaN"), Err(QuantityError::NotANumber));
        assert_eq!(Quantity::parse_value("\"1\""), Err(QuantityError::NotANumber));
    }

    #[test]
    fn totals_hold_38_digits_and_stop_there() {
        let most: Quantity = "99999999999999999999999999.999999999999".parse().unwrap();
        assert_eq!(most, Quantity::MAX);
        assert_eq!(most.checked_add(Quantity::from_scaled(1)), None);
        assert_eq!("1e26".parse::<Quantity>(), Err(QuantityError::TooManyDigits));
    }

    #[test]
    fn units_are_rounded_on_either_side_of_the_point() {
        for (text, digits, round, ceil, floor) in [
            ("2.345", 2, "2.35", "2.35", "2.34"),
            ("-2.345", 2, "-2.35", "-2.34", "-2.35"),
            ("2.5", 0, "3", "3", "2"),
            ("2", 0, "2", "2", "2"),
            ("149.99", -2, "100", "200", "100"),
            ("150", -2, "200", "200", "100"),
            ("0.000000000001", 12, "0.000000000001", "0.000000000001", "0.000000000001"),
            ("0.000000000001", 11, "0", "0.00000000001", "0"),
            ("1", -12, "0", "1000000000000", "0"),
            ("0", 0, "0", "0", "0"),
        ] {
            let quantity: Quantity = text.parse().unwrap();
            for (rounding, rounded) in [
                (Rounding::HalfAwayFromZero, round),
                (Rounding::Ceil, ceil),
                (Rounding::Floor, floor),
            ] {
                let made = quantity.round_to(digits, rounding).unwrap();
                assert_eq!(made.to_string(), rounded, "{text} at {digits} by {rounding:?}");
            }
        }
        assert_eq!(Quantity::ZERO.round_to(13, Rounding::Floor), None);
        assert_eq!(Quantity::ZERO.round_to(-13, Rounding::Floor), None);
        assert_eq!(Quantity::MAX.round_to(0, Rounding::Ceil), None, "39 digits");
    }

    proptest! {
        #[test]
        fn text_form_round_trips(scaled in -(10_i128.pow(38) - 1)..10_i128.pow(38)) {
            let quantity = Quantity::from_scaled(scaled);
            prop_assert_eq!(quantity.to_string().parse(), Ok(quantity));
        }

        #[test]
        fn no_text_panics(text in "[-+0-9.eE ]{0,40}") {
            let _ = Quantity::parse_value(&text);
        }

        #[test]
        fn sixteen_and_twelve_digits_always_fit(head in 0_u64..10_000_000_000_000_000, tail in 0_u64..1_000_000_000_000) {
            let text = format!("{head}.{tail:012}");
            let scaled = i128::from(head) * Quantity::ONE + i128::from(tail);
            prop_assert_eq!(Quantity::parse_value(&text), Ok(Quantity::from_scaled(scaled)));
        }
    }
}
