//! Currencies of ISO 4217 and their minor units.

use crate::MoneyError;
use core::fmt;

/// A currency that amounts can be billed in: one with a minor unit (gold has none).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency {
    code: [u8; 3],
    minor_digits: u8,
}

impl Currency {
    /// Reads a code of three upper-case letters.
    /// Errors: no such currency, or one without a minor unit (`XAU`, `XXX`).
    pub fn parse(code: &str) -> Result<Self, MoneyError> {
        let unknown = || MoneyError::UnknownCurrency(code.chars().take(16).collect());
        let known = iso_currency::Currency::from_code(code).ok_or_else(unknown)?;
        let minor_digits =
            known.exponent().and_then(|digits| u8::try_from(digits).ok()).ok_or_else(unknown)?;
        let code = code.as_bytes().try_into().map_err(|_| unknown())?;
        Ok(Self { code, minor_digits })
    }

    /// The code, `USD`.
    #[must_use]
    pub fn code(&self) -> &str {
        core::str::from_utf8(&self.code).unwrap_or_default()
    }

    /// Digits of the minor unit: 2 for USD, 0 for JPY, 3 for KWD.
    #[must_use]
    pub const fn minor_digits(self) -> u32 {
        self.minor_digits as u32
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl core::str::FromStr for Currency {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl serde::Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.code())
    }
}

impl<'de> serde::Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = alloc::string::String::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minor_units_are_those_of_iso_4217() {
        for (code, digits) in
            [("USD", 2), ("EUR", 2), ("SAR", 2), ("KWD", 3), ("BHD", 3), ("JPY", 0)]
        {
            let currency = Currency::parse(code).unwrap();
            assert_eq!((currency.code(), currency.minor_digits()), (code, digits));
        }
    }

    #[test]
    fn unknown_codes_and_metals_are_refused() {
        for code in ["usd", "ABC", "", "US", "XAU", "XXX", "DOLLARS"] {
            assert!(Currency::parse(code).is_err(), "{code}");
        }
    }
}
