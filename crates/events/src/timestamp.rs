//! The timestamp of an event: RFC 3339 or Unix seconds, kept to the microsecond.

use chrono::{DateTime, NaiveDate};
use weir_money::Quantity;

/// 2299-12-31T23:59:59.999999Z, the last instant that ClickHouse's DateTime64 holds.
const MICROS_MAX: i64 = 10_413_791_999_999_999;
const MICROS_PER_SECOND: i128 = 1_000_000;

/// Microseconds since 1970 of a timestamp's text. Digits beyond the microsecond are cut off, so an
/// event never moves into a later period. `None`: neither form, or not within 1970..=2299.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let micros = if text.as_bytes().get(4) == Some(&b'-') {
        match utc_micros(text.as_bytes()) {
            Some(micros) => micros,
            None => DateTime::parse_from_rfc3339(text).ok()?.timestamp_micros(),
        }
    } else {
        let seconds = Quantity::parse_value(text).ok()?.scaled();
        let unit = Quantity::from(1).scaled() / MICROS_PER_SECOND;
        i64::try_from(seconds.div_euclid(unit)).ok()?
    };
    (0..=MICROS_MAX).contains(&micros).then_some(micros)
}

/// The form that nearly every sender uses, `2026-01-01T12:00:00.123456Z`, in a quarter of the time
/// that the general reader takes. `None`: another form, or no such time.
fn utc_micros(text: &[u8]) -> Option<i64> {
    let (seconds, fraction) = text.strip_suffix(b"Z")?.split_at_checked(19)?;
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2] =
        *<&[u8; 19]>::try_from(seconds).ok()?
    else {
        return None;
    };
    let pair = |tens: u8, ones: u8| Some(digit(tens)? * 10 + digit(ones)?);
    let year = pair(y1, y2)? * 100 + pair(y3, y4)?;
    let day = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, pair(m1, m2)?, pair(d1, d2)?)?;
    // A leap second has its own reader.
    let time = day.and_hms_opt(pair(h1, h2)?, pair(n1, n2)?, pair(s1, s2)?)?;
    Some(time.and_utc().timestamp() * 1_000_000 + fraction_micros(fraction)?)
}

/// Microseconds of `.123456…`, or 0 of nothing.
fn fraction_micros(text: &[u8]) -> Option<i64> {
    let Some((point, digits)) = text.split_first() else { return Some(0) };
    if *point != b'.' || digits.is_empty() {
        return None;
    }
    let (mut micros, mut unit) = (0, 100_000);
    for letter in digits {
        micros += i64::from(digit(*letter)?) * unit;
        unit /= 10;
    }
    Some(micros)
}

fn digit(letter: u8) -> Option<u32> {
    letter.is_ascii_digit().then(|| u32::from(letter - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_767_268_800_000_000;

    #[test]
    fn both_forms_are_kept_to_the_microsecond() {
        for (text, micros) in [
            ("2026-01-01T12:00:00Z", NOON),
            ("2026-01-01T15:00:00+03:00", NOON),
            ("2026-01-01t12:00:00.123456z", NOON + 123_456),
            ("2026-01-01T12:00:00.9999999999Z", NOON + 999_999),
            ("1767268800", NOON),
            ("1767268800.5", NOON + 500_000),
            ("1767268800.123456999", NOON + 123_456),
            ("1.7672688e9", NOON),
            ("0", 0),
            ("1970-01-01T00:00:00Z", 0),
            ("2299-12-31T23:59:59.999999Z", MICROS_MAX),
        ] {
            assert_eq!(parse(text), Some(micros), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_quick_reader_agrees_with_the_general_one(
            text in "[12][09][0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,9})?Z",
        ) {
            let general = DateTime::parse_from_rfc3339(&text).map(|time| time.timestamp_micros());
            if let Some(micros) = utc_micros(text.as_bytes()) {
                proptest::prop_assert_eq!(general, Ok(micros));
            } else {
                proptest::prop_assert!(general.is_err() || text.contains(":60"));
            }
        }
    }

    #[test]
    fn a_leap_second_belongs_to_the_next_minute() {
        assert_eq!(parse("2016-12-31T23:59:60Z"), parse("2017-01-01T00:00:00Z"));
    }

    #[test]
    fn other_texts_and_times_are_none() {
        for text in [
            "",
            "yesterday",
            "2026-01-01",
            "2026-01-01T12:00:00",
            "2026-13-01T00:00:00Z",
            "-1",
            "1969-12-31T23:59:59Z",
            "2300-01-01T00:00:00Z",
            "10413792000",
            "1e300",
            "0x10",
            "NaN",
            " 1767268800",
            "2026-02-29T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
