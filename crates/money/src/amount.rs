//! Exact decimal amounts in major units, and the one place where they are rounded.

use crate::{Currency, Money, MoneyError, Quantity, Rate, digits::Number};
use alloc::string::{String, ToString};
use core::{cmp::Ordering, fmt};
use ethnum::I256;
use rust_decimal::Decimal;

/// An exact decimal: a 256-bit whole number over a power of ten. In major units of a currency that
/// the context names. Up to 76 digits, at most 64 of them after the point.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Amount {
    // Never divisible by ten while `scale > 0`: equal values are equal structs.
    mantissa: I256,
    scale: u32,
}

/// A named rule for leaving digits out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest, and from the middle away from zero: 0.125 → 0.13, −0.125 → −0.13.
    HalfAwayFromZero,
    /// To the next greater: 0.121 → 0.13, −0.129 → −0.12.
    Ceil,
    /// To the next smaller: 0.129 → 0.12, −0.121 → −0.13.
    Floor,
}

/// A part of a whole, for proration: 21 of 28 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub part: u64,
    pub whole: u64,
}

impl Share {
    /// The whole of it.
    pub const ALL: Self = Self { part: 1, whole: 1 };
}

const SCALE_MAX: u32 = 64;

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self { mantissa: I256::ZERO, scale: 0 };
    /// Digits after the point that a quotient keeps when it does not end by itself.
    pub const QUOTIENT_DIGITS: u32 = 24;

    /// `mantissa / 10^scale`; `scale` at most 64.
    #[must_use]
    pub fn from_scaled(mantissa: i128, scale: u32) -> Self {
        Self::normal(I256::new(mantissa), scale)
    }

    /// The exact sum. `None`: beyond 76 digits.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let (left, right, scale) = aligned(self, other)?;
        Some(Self::normal(left.checked_add(right)?, scale))
    }

    /// The exact difference. `None`: beyond 76 digits.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        let (left, right, scale) = aligned(self, other)?;
        Some(Self::normal(left.checked_sub(right)?, scale))
    }

    /// The exact product. `None`: beyond 76 digits or 64 after the point.
    #[must_use]
    pub fn checked_mul(self, other: Self) -> Option<Self> {
        let scale = self.scale + other.scale;
        let product = Self::normal(self.mantissa.checked_mul(other.mantissa)?, scale);
        (product.scale <= SCALE_MAX).then_some(product)
    }

    /// `self × part ÷ whole`, multiplied before it is divided. A quotient that does not end is cut
    /// after 24 digits (or the amount's own, if it has more) towards zero, so that rounding it gives
    /// what rounding the exact quotient would. 50.00 × 21/28 = 37.5.
    /// Errors: a whole of zero; beyond 76 digits.
    pub fn share(self, share: Share) -> Result<Self, MoneyError> {
        if share.whole == 0 {
            return Err(MoneyError::EmptyWhole);
        }
        let scale = self.scale.max(Self::QUOTIENT_DIGITS);
        power_of_ten(scale - self.scale)
            .and_then(|factor| self.mantissa.checked_mul(factor))
            .and_then(|mantissa| mantissa.checked_mul(I256::from(share.part)))
            .and_then(|mantissa| mantissa.checked_div(I256::from(share.whole)))
            .map(|quotient| Self::normal(quotient, scale))
            .ok_or(MoneyError::TooManyDigits)
    }

    /// Rounds to the minor unit, half away from zero. Errors: beyond ±2^53 minor units.
    pub fn round(self, currency: Currency) -> Result<Money, MoneyError> {
        self.round_by(Rounding::HalfAwayFromZero, currency)
    }

    /// Rounds to the minor unit by a named rule. Errors: beyond ±2^53 minor units.
    pub fn round_by(self, rounding: Rounding, currency: Currency) -> Result<Money, MoneyError> {
        let digits = currency.minor_digits();
        let out_of_range = MoneyError::OutOfRange(currency);
        let minor = if self.scale <= digits {
            power_of_ten(digits - self.scale).and_then(|factor| self.mantissa.checked_mul(factor))
        } else {
            power_of_ten(self.scale - digits).map(|unit| divide(self.mantissa, unit, rounding))
        };
        let minor = minor.and_then(|minor| i64::try_from(minor).ok()).ok_or(out_of_range)?;
        Money::new(minor, currency)
    }

    /// The number of units it is, to the 12 digits after the point that units have, half away from
    /// zero. `None`: beyond 38 digits.
    #[must_use]
    pub fn to_quantity(self) -> Option<Quantity> {
        let scaled = if self.scale <= Quantity::SCALE {
            self.mantissa.checked_mul(power_of_ten(Quantity::SCALE - self.scale)?)?
        } else {
            let unit = power_of_ten(self.scale - Quantity::SCALE)?;
            divide(self.mantissa, unit, Rounding::HalfAwayFromZero)
        };
        let scaled = i128::try_from(scaled).ok()?;
        Quantity::ZERO.checked_add(Quantity::from_scaled(scaled))
    }

    /// The same value in minor units: 0.0123 USD is 1.23 cents. Errors: beyond 76 digits.
    pub fn in_minor_units(self, currency: Currency) -> Result<Self, MoneyError> {
        self.checked_mul(Self::normal(
            power_of_ten(currency.minor_digits()).unwrap_or(I256::ONE),
            0,
        ))
        .ok_or(MoneyError::TooManyDigits)
    }

    /// Whether it is below zero.
    #[must_use]
    pub fn is_negative(self) -> bool {
        self.mantissa < I256::ZERO
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.mantissa == I256::ZERO
    }

    fn normal(mut mantissa: I256, mut scale: u32) -> Self {
        let ten = I256::from(10_u8);
        if mantissa == I256::ZERO {
            return Self::ZERO;
        }
        while scale > 0 && mantissa % ten == I256::ZERO {
            mantissa /= ten;
            scale -= 1;
        }
        Self { mantissa, scale }
    }
}

fn power_of_ten(power: u32) -> Option<I256> {
    I256::from(10_u8).checked_pow(power)
}

/// Both mantissas over the greater scale of the two.
fn aligned(left: Amount, right: Amount) -> Option<(I256, I256, u32)> {
    let scale = left.scale.max(right.scale);
    let widen = |amount: Amount| amount.mantissa.checked_mul(power_of_ten(scale - amount.scale)?);
    Some((widen(left)?, widen(right)?, scale))
}

fn divide(mantissa: I256, unit: I256, rounding: Rounding) -> I256 {
    let (quotient, rest) = (mantissa / unit, mantissa % unit);
    let away = if mantissa < I256::ZERO { I256::MINUS_ONE } else { I256::ONE };
    let grow = match rounding {
        // |rest| ≥ unit − |rest| says 2 × |rest| ≥ unit without overflow.
        Rounding::HalfAwayFromZero => rest.abs() >= unit - rest.abs(),
        Rounding::Ceil => rest > I256::ZERO,
        Rounding::Floor => rest < I256::ZERO,
    };
    if grow { quotient + away } else { quotient }
}

impl From<Quantity> for Amount {
    fn from(quantity: Quantity) -> Self {
        Self::from_scaled(quantity.scaled(), Quantity::SCALE)
    }
}

impl From<Decimal> for Amount {
    fn from(decimal: Decimal) -> Self {
        Self::from_scaled(decimal.mantissa(), decimal.scale())
    }
}

impl From<Rate> for Amount {
    fn from(rate: Rate) -> Self {
        Self::from(rate.decimal())
    }
}

impl From<u64> for Amount {
    fn from(whole: u64) -> Self {
        Self::from_scaled(whole.into(), 0)
    }
}

impl Ord for Amount {
    fn cmp(&self, other: &Self) -> Ordering {
        match aligned(*self, *other) {
            Some((left, right, _)) => left.cmp(&right),
            // The one with fewer digits after the point is too great to be widened.
            None if self.scale < other.scale => self.mantissa.cmp(&I256::ZERO),
            None => I256::ZERO.cmp(&other.mantissa),
        }
    }
}

impl PartialOrd for Amount {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Default for Amount {
    fn default() -> Self {
        Self::ZERO
    }
}

/// Plain, without zeros at the end: `0.0000025`, `-12.5`, `100`.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.mantissa.unsigned_abs().to_string();
        let sign = if self.is_negative() { "-" } else { "" };
        let scale = self.scale as usize;
        if scale == 0 {
            return write!(f, "{sign}{text}");
        }
        match text
            .len()
            .checked_sub(scale)
            .filter(|at| *at > 0)
            .and_then(|at| text.split_at_checked(at))
        {
            Some((head, tail)) => write!(f, "{sign}{head}.{tail}"),
            None => write!(f, "{sign}0.{text:0>scale$}"),
        }
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::str::FromStr for Amount {
    type Err = MoneyError;
    /// Reads a JSON number. Errors: not a number; beyond 76 digits or 64 after the point.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = Number::read(text)
            .ok_or_else(|| MoneyError::NotANumber(text.chars().take(64).collect()))?;
        let ten = I256::from(10_u8);
        let mut mantissa = I256::ZERO;
        if number.significant > 76 {
            return Err(MoneyError::TooManyDigits);
        }
        for digit in number.digits() {
            mantissa = mantissa * ten + I256::from(digit);
        }
        let scale =
            u32::try_from(number.fraction_digits()).ok().filter(|scale| *scale <= SCALE_MAX);
        let scale = scale.ok_or(MoneyError::TooManyDigits)?;
        let zeros = number.point - i64::try_from(number.significant).unwrap_or(i64::MAX);
        let mantissa = u32::try_from(zeros.max(0))
            .ok()
            .and_then(power_of_ten)
            .and_then(|factor| mantissa.checked_mul(factor))
            .ok_or(MoneyError::TooManyDigits)?;
        Ok(Self::normal(if number.negative { -mantissa } else { mantissa }, scale))
    }
}

impl serde::Serialize for Amount {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Amount {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
