//! Unit prices.

use crate::{MoneyError, digits::Number};
use alloc::string::{String, ToString};
use core::fmt;
use rust_decimal::Decimal;

/// A price in major units, not negative, kept with the digits it was written with (`0.50`).
/// At most 28 digits in all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Rate(Decimal);

impl Rate {
    /// Free of charge.
    pub const ZERO: Self = Self(Decimal::ZERO);

    /// Errors: negative.
    pub fn new(price: Decimal) -> Result<Self, MoneyError> {
        if price.is_sign_negative() && !price.is_zero() {
            return Err(MoneyError::NegativeRate);
        }
        Ok(Self(price.abs()))
    }

    /// Reads a JSON number (`0.0000025`, `2.5e-6`), exactly.
    /// Errors: not a number; more digits than 28; negative.
    pub fn parse(text: &str) -> Result<Self, MoneyError> {
        let number = Number::read(text)
            .ok_or_else(|| MoneyError::NotANumber(text.chars().take(64).collect()))?;
        if let Ok(plain) = Decimal::from_str_exact(text) {
            return Self::new(plain);
        }
        let fraction = number.fraction_digits();
        let zeros = number.point + fraction - i64::try_from(number.significant).unwrap_or(i64::MAX);
        let too_many = |_| MoneyError::TooManyDigits;
        if number.significant > 28 {
            return Err(MoneyError::TooManyDigits);
        }
        let digits = number.digits().fold(0_i128, |value, digit| value * 10 + i128::from(digit));
        let power = u32::try_from(zeros.max(0)).map_err(too_many)?;
        let mantissa = 10_i128
            .checked_pow(power)
            .and_then(|factor| digits.checked_mul(factor))
            .ok_or(MoneyError::TooManyDigits)?;
        let scale = u32::try_from(fraction).map_err(too_many)?;
        let price = Decimal::try_from_i128_with_scale(mantissa, scale)
            .map_err(|_| MoneyError::TooManyDigits)?;
        if number.negative { Err(MoneyError::NegativeRate) } else { Ok(Self(price)) }
    }

    /// The price in major units.
    #[must_use]
    pub const fn decimal(self) -> Decimal {
        self.0
    }
}

/// Plain, with the digits it was written with.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl core::str::FromStr for Rate {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl serde::Serialize for Rate {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.to_string())
    }
}

impl<'de> serde::Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_keep_the_digits_they_were_written_with() {
        for text in ["0.50", "0", "20", "0.0000025", "0.0000000000000000000000000001"] {
            assert_eq!(Rate::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Rate::parse("2.5e-6").unwrap().to_string(), "0.0000025");
        assert_eq!(Rate::parse("2.5E3").unwrap().to_string(), "2500");
    }

    #[test]
    fn negative_endless_and_foreign_texts_are_refused() {
        assert_eq!(Rate::parse("-0.01"), Err(MoneyError::NegativeRate));
        assert_eq!(Rate::parse("-1e-3"), Err(MoneyError::NegativeRate));
        assert_eq!(Rate::new(Decimal::NEGATIVE_ONE), Err(MoneyError::NegativeRate));
        assert_eq!(
            Rate::parse("0.00000000000000000000000000001"),
            Err(MoneyError::TooManyDigits),
            "29 digits"
        );
        assert_eq!(Rate::parse("1e999999999"), Err(MoneyError::TooManyDigits));
        assert!(matches!(Rate::parse("1_000"), Err(MoneyError::NotANumber(_))));
        assert!(matches!(Rate::parse(""), Err(MoneyError::NotANumber(_))));
    }
}
