//! Whole minor units of a currency: what is written on a line and what is owed.

use crate::{Amount, Currency, MoneyError};
use core::fmt;

/// An amount in whole minor units: 12.34 USD is `minor: 1234`. Within ±2^53 wherever a function here
/// made it, so that it survives any JSON reader.
#[derive(Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Money {
    pub minor: i64,
    pub currency: Currency,
}

impl Money {
    /// The greatest number of minor units, 2^53; the least is its negative.
    pub const MINOR_MAX: i64 = 1 << 53;

    /// `minor` units of `currency`. Errors: beyond ±2^53.
    pub const fn new(minor: i64, currency: Currency) -> Result<Self, MoneyError> {
        if minor < -Self::MINOR_MAX || minor > Self::MINOR_MAX {
            return Err(MoneyError::OutOfRange(currency));
        }
        Ok(Self { minor, currency })
    }

    /// Nothing, in a currency.
    #[must_use]
    pub const fn zero(currency: Currency) -> Self {
        Self { minor: 0, currency }
    }

    /// Errors: another currency; beyond ±2^53.
    pub fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        self.same_currency(other)?;
        let minor = self.minor.checked_add(other.minor);
        Self::new(minor.ok_or(MoneyError::OutOfRange(self.currency))?, self.currency)
    }

    /// Errors: another currency; beyond ±2^53.
    pub fn checked_sub(self, other: Self) -> Result<Self, MoneyError> {
        self.same_currency(other)?;
        let minor = self.minor.checked_sub(other.minor);
        Self::new(minor.ok_or(MoneyError::OutOfRange(self.currency))?, self.currency)
    }

    /// The sum of `parts`, 0 of `currency` without any. Errors: as [`Money::checked_add`].
    pub fn sum(
        currency: Currency,
        parts: impl IntoIterator<Item = Self>,
    ) -> Result<Self, MoneyError> {
        parts.into_iter().try_fold(Self::zero(currency), Self::checked_add)
    }

    /// The same value in major units.
    #[must_use]
    pub fn amount(self) -> Amount {
        Amount::from_scaled(self.minor.into(), self.currency.minor_digits())
    }

    fn same_currency(self, other: Self) -> Result<(), MoneyError> {
        if self.currency == other.currency {
            Ok(())
        } else {
            Err(MoneyError::CurrencyMismatch { left: self.currency, right: other.currency })
        }
    }
}

/// `12.30 USD`, `-5 JPY`, `0.005 KWD`: always all digits of the minor unit.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.currency.minor_digits();
        let unit = 10_u64.pow(digits);
        let sign = if self.minor < 0 { "-" } else { "" };
        let (major, rest) = (self.minor.unsigned_abs() / unit, self.minor.unsigned_abs() % unit);
        if digits == 0 {
            write!(f, "{sign}{major} {}", self.currency)
        } else {
            let width = digits as usize;
            write!(f, "{sign}{major}.{rest:0width$} {}", self.currency)
        }
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn money(minor: i64, code: &str) -> Money {
        Money::new(minor, Currency::parse(code).unwrap()).unwrap()
    }

    #[test]
    fn two_currencies_are_never_added() {
        assert!(matches!(
            money(1, "USD").checked_add(money(1, "EUR")),
            Err(MoneyError::CurrencyMismatch { .. })
        ));
    }

    #[test]
    fn sums_stop_at_two_to_the_53() {
        let most = money(Money::MINOR_MAX, "USD");
        assert!(most.checked_add(money(1, "USD")).is_err());
        assert_eq!(most.checked_sub(money(1, "USD")).unwrap().minor, Money::MINOR_MAX - 1);
        assert!(Money::new(i64::MIN, most.currency).is_err());
    }

    #[test]
    fn text_has_all_digits_of_the_minor_unit() {
        assert_eq!(money(1230, "USD").to_string(), "12.30 USD");
        assert_eq!(money(-5, "JPY").to_string(), "-5 JPY");
        assert_eq!(money(5, "KWD").to_string(), "0.005 KWD");
        assert_eq!(money(-1, "USD").to_string(), "-0.01 USD");
    }
}
