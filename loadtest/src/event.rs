//! What is sent: the numbers of an event, from which its id, time and values are made.
//!
//! Event `n` of a run always has the same id and values, so a batch that is sent again is a repeat.

use chrono::DateTime;

/// Characters of a transaction id: those of a UUID.
pub const ID_CHARS: usize = 36;
/// Characters of an instant: `2026-11-21T05:03:41.123456Z`.
pub const TIME_CHARS: usize = 27;
/// Characters of an instant in Unix seconds: `1795237421.123456`.
pub const SECONDS_CHARS: usize = 17;
/// Digits of a value, the first of which is not zero.
pub const VALUE_DIGITS: usize = 4;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The ids of a run: as random as a UUID's, so that they compress and spread like a sender's.
#[derive(Debug, Clone, Copy)]
pub struct Ids {
    run: u64,
}

impl Ids {
    /// Other ids than those of any other `run`.
    pub fn new(run: u64) -> Self {
        Self { run: mix(run) }
    }

    /// Writes the id of event `number`.
    pub fn write(self, number: u64, out: &mut [u8; ID_CHARS]) {
        let high = mix(number.wrapping_add(self.run));
        let low = mix(high ^ self.run);
        let bits = (u128::from(high) << 64) | u128::from(low);
        let mut at = 0;
        for (index, byte) in bits.to_be_bytes().into_iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                out[at] = b'-';
                at += 1;
            }
            out[at] = HEX[usize::from(byte >> 4)];
            out[at + 1] = HEX[usize::from(byte & 15)];
            at += 2;
        }
    }
}

/// The value of event `number`: four digits.
pub fn value_of(number: u64) -> u64 {
    1_000 + mix(number) % 9_000
}

/// splitmix64: one to one, so no two numbers share an id.
pub(crate) fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// When the events of a run happened, in Unix microseconds.
#[derive(Debug, Clone, Copy)]
pub enum Times {
    /// When they are sent.
    Now,
    /// In order and evenly over a span, as if its whole traffic were sent again.
    Spread { from_us: i64, to_us: i64, events: u64 },
}

impl Times {
    /// The time of event `number`, where the first of its batch has number `first` and is sent at
    /// `now_us`.
    pub fn of(self, number: u64, first: u64, now_us: i64) -> i64 {
        match self {
            Self::Now => now_us + (number - first) as i64,
            Self::Spread { from_us, to_us, events } => {
                let span = i128::from(to_us - from_us);
                let share = span * i128::from(number % events.max(1)) / i128::from(events.max(1));
                from_us + share as i64
            }
        }
    }
}

/// Writes instants; those of one second share all but the last digits.
pub struct TimeWriter {
    second: i64,
    text: [u8; TIME_CHARS],
}

impl TimeWriter {
    pub fn new() -> Self {
        Self { second: i64::MIN, text: [b'0'; TIME_CHARS] }
    }

    /// `2026-11-21T05:03:41.123456Z`
    pub fn rfc3339(&mut self, at_us: i64, out: &mut [u8; TIME_CHARS]) {
        let second = at_us.div_euclid(1_000_000);
        if second != self.second {
            let time = DateTime::from_timestamp(second, 0).unwrap_or_default();
            let text = time.format("%Y-%m-%dT%H:%M:%S.000000Z").to_string();
            if let Ok(text) = text.into_bytes().try_into() {
                self.text = text;
            }
            self.second = second;
        }
        *out = self.text;
        write_digits(at_us.rem_euclid(1_000_000).unsigned_abs(), &mut out[20..26]);
    }
}

/// `1795237421.123456`
pub fn write_seconds(at_us: i64, out: &mut [u8; SECONDS_CHARS]) {
    write_digits(at_us.div_euclid(1_000_000).unsigned_abs(), &mut out[..10]);
    out[10] = b'.';
    write_digits(at_us.rem_euclid(1_000_000).unsigned_abs(), &mut out[11..]);
}

/// Fills `out` with the last digits of `number`.
pub fn write_digits(mut number: u64, out: &mut [u8]) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn id(run: u64, number: u64) -> String {
        let mut out = [0; ID_CHARS];
        Ids::new(run).write(number, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn ids_have_the_form_of_a_uuid_and_none_comes_twice() {
        let ids: HashSet<_> = (0..10_000).map(|number| id(1, number)).collect();
        assert_eq!(ids.len(), 10_000);
        assert_eq!(id(1, 7), id(1, 7));
        assert_ne!(id(1, 7), id(2, 7));
        let dashes: Vec<_> = id(3, 0).match_indices('-').map(|(at, _)| at).collect();
        assert_eq!(dashes, [8, 13, 18, 23]);
    }

    #[test]
    fn times_are_written_in_both_forms() {
        let mut writer = TimeWriter::new();
        let mut text = [0; TIME_CHARS];
        for (at_us, expected) in [
            (1_795_237_421_123_456, "2026-11-21T05:03:41.123456Z"),
            (1_795_237_421_000_001, "2026-11-21T05:03:41.000001Z"),
            (1_795_237_422_000_000, "2026-11-21T05:03:42.000000Z"),
            (0, "1970-01-01T00:00:00.000000Z"),
        ] {
            writer.rfc3339(at_us, &mut text);
            assert_eq!(std::str::from_utf8(&text), Ok(expected));
        }
        let mut seconds = [0; SECONDS_CHARS];
        write_seconds(1_795_237_421_000_123, &mut seconds);
        assert_eq!(&seconds, b"1795237421.000123");
    }

    #[test]
    fn a_spread_covers_its_span_in_order() {
        let times = Times::Spread { from_us: 100, to_us: 200, events: 10 };
        let all: Vec<_> = (0..10).map(|number| times.of(number, 0, 5_000)).collect();
        assert_eq!(all, [100, 110, 120, 130, 140, 150, 160, 170, 180, 190]);
        assert_eq!(Times::Now.of(7, 5, 5_000), 5_002);
    }

    #[test]
    fn values_have_four_digits() {
        assert!((0..10_000).all(|number| (1_000..10_000).contains(&value_of(number))));
    }
}
