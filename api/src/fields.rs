//! Values that several resources share: proto to domain with the field's path, domain to proto.

use crate::error::{OpError, Violation};
use chrono::{DateTime, Datelike, NaiveDate};
use chrono_tz::Tz;
use std::fmt::Display;
use weir_billing::Timestamp;
use weir_money::{Currency, Rate};
use weir_proto::{Date, Decimal, v2};

/// The longest name or code, in characters.
const TEXT_MAX: usize = 255;
/// The longest description, in characters: a list of 1000 plans stays readable.
const DESCRIPTION_MAX: usize = 2_000;

/// Collects what is wrong with a request, so that one answer tells all of it.
#[derive(Debug, Default)]
pub struct Faults(Vec<Violation>);

impl Faults {
    pub fn push(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Violation::new(field, message));
    }

    pub fn unsupported(&mut self, field: impl Into<String>) {
        self.0.push(Violation::unsupported(field));
    }

    /// The value, or `None` and its fault noted.
    pub fn take<T, E: Display>(&mut self, field: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|error| self.push(field, error.to_string())).ok()
    }

    /// A text of 1 to 255 characters.
    pub fn text(&mut self, field: &str, text: &str) -> String {
        match text.chars().count() {
            _ if text.trim().is_empty() => self.push(field, "is required"),
            0..=TEXT_MAX => {}
            _ => self.push(field, format!("must have at most {TEXT_MAX} characters")),
        }
        text.to_owned()
    }

    /// A text that may be absent; empty counts as absent.
    pub fn optional_text(&mut self, field: &str, text: Option<&str>) -> Option<String> {
        text.filter(|text| !text.is_empty()).map(|text| self.text(field, text))
    }

    /// A description, which may be long or absent; blank counts as absent.
    pub fn description(&mut self, field: &str, text: Option<&str>) -> Option<String> {
        let text = text.filter(|text| !text.trim().is_empty())?;
        if text.chars().count() > DESCRIPTION_MAX {
            self.push(field, format!("must have at most {DESCRIPTION_MAX} characters"));
        }
        Some(text.to_owned())
    }

    /// Nothing, or all that is wrong.
    pub fn check(&self) -> Result<(), OpError> {
        if self.0.is_empty() { Ok(()) } else { Err(OpError::Invalid(self.0.clone())) }
    }

    /// `value`, which is there when nothing is wrong.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, OpError> {
        self.check()?;
        value.ok_or_else(|| OpError::internal("a value is missing and nothing says why"))
    }
}

/// An id in a path or a body. Errors: `NotFound`, since no entity can have such an id; `Invalid`
/// when there is none.
pub fn id<T: std::str::FromStr<Err = weir_ids::IdError>>(
    kind: &'static str,
    text: &str,
) -> Result<T, OpError> {
    if text.is_empty() {
        return Err(OpError::invalid("id", "is required"));
    }
    text.parse().map_err(|_| OpError::not_found(kind, text))
}

/// A price in major units.
pub fn rate(decimal: &Decimal) -> Result<Rate, String> {
    Rate::parse(&decimal.value).map_err(|error| error.to_string())
}

/// A decimal that is no price: a tier's bound.
pub fn decimal(decimal: &Decimal) -> Result<rust_decimal::Decimal, String> {
    let text = decimal.value.as_str();
    let parsed = rust_decimal::Decimal::from_str_exact(text)
        .or_else(|_| rust_decimal::Decimal::from_scientific(text));
    parsed.map_err(|_| "must be a decimal of at most 28 digits".to_owned())
}

/// Anything that prints as a plain decimal.
pub fn decimal_out(value: impl Display) -> Decimal {
    Decimal { value: value.to_string() }
}

/// A currency of the enum. Errors: none given, or one that ISO 4217 no longer lists.
pub fn currency(number: i32) -> Result<Currency, String> {
    let value = v2::CurrencyEnum::try_from(number).unwrap_or_default();
    match value.as_str_name().strip_prefix("CURRENCY_ENUM_") {
        Some(code) if value != v2::CurrencyEnum::Unspecified => {
            Currency::parse(code).map_err(|error| error.to_string())
        }
        _ => Err("is required".to_owned()),
    }
}

/// The enum's value; unspecified for a currency that the enum lacks.
pub fn currency_out(currency: Currency) -> v2::CurrencyEnum {
    let name = format!("CURRENCY_ENUM_{}", currency.code());
    v2::CurrencyEnum::from_str_name(&name).unwrap_or_default()
}

/// An IANA name, or the reference's enum form of one: `TZ_ASIA_RIYADH`, `TIMEZONE_TZ_ASIA_RIYADH`.
pub fn timezone(text: &str) -> Result<Tz, &'static str> {
    if let Ok(zone) = text.parse() {
        return Ok(zone);
    }
    let name = text.strip_prefix("TIMEZONE_").unwrap_or(text).strip_prefix("TZ_");
    let name = name.ok_or("must be an IANA time zone such as Asia/Riyadh")?;
    // Of Etc/GMT+12 and Etc/GMT-12, the reference means the first.
    let shape = |zone: &Tz| match zone.name().strip_prefix("Etc/") {
        Some(offset) => format!("ETC_{}", offset.to_ascii_uppercase().replace('+', "_")),
        None => zone.name().to_ascii_uppercase().replace(['/', '-'], "_"),
    };
    let known = chrono_tz::TZ_VARIANTS.iter().find(|zone| shape(zone) == name);
    known.copied().ok_or("must be a time zone of the IANA list")
}

/// An instant of a request, cut to the microsecond.
pub fn timestamp(at: &prost_types::Timestamp) -> Result<Timestamp, &'static str> {
    let nanos = u32::try_from(at.nanos).map_err(|_| "is out of range")?;
    let exact = DateTime::from_timestamp(at.seconds, nanos).ok_or("is out of range")?;
    DateTime::from_timestamp_micros(exact.timestamp_micros()).ok_or("is out of range")
}

pub fn timestamp_out(at: Timestamp) -> prost_types::Timestamp {
    let nanos = i32::try_from(at.timestamp_subsec_nanos()).unwrap_or(0);
    prost_types::Timestamp { seconds: at.timestamp(), nanos }
}

pub fn date_out(day: NaiveDate) -> Date {
    let small = |number: u32| i32::try_from(number).unwrap_or(0);
    Date { year: day.year(), month: small(day.month()), day: small(day.day()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_read_by_their_iana_names_and_by_the_enum_of_the_reference() {
        let zones = [
            ("Asia/Riyadh", "Asia/Riyadh"),
            ("TZ_ASIA_RIYADH", "Asia/Riyadh"),
            ("TIMEZONE_TZ_ASIA_RIYADH", "Asia/Riyadh"),
            ("TZ_AMERICA_ARGENTINA_BUENOS_AIRES", "America/Argentina/Buenos_Aires"),
            ("TZ_ETC_GMT_12", "Etc/GMT+12"),
            ("TZ_UTC", "UTC"),
        ];
        for (text, name) in zones {
            assert_eq!(timezone(text).map(|zone| zone.name()), Ok(name));
        }
        assert!(timezone("Mars/Olympus").is_err() && timezone("TZ_MARS").is_err());
    }

    #[test]
    fn every_currency_of_the_enum_is_read_or_refused_and_comes_back() {
        for number in 1..=200 {
            let Ok(value) = v2::CurrencyEnum::try_from(number) else { continue };
            if let Ok(currency) = currency(number) {
                assert_eq!(currency_out(currency), value);
            }
        }
        assert!(currency(0).is_err());
    }
}
