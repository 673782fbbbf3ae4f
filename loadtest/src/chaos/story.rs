//! What is sent: event `n` of a seed is always the same, and so is the copy of it that lies.

use crate::event::{TIME_CHARS, TimeWriter, mix};
use std::fmt::Write;

/// The code of all events.
pub const EVENT_CODE: &str = "used";

/// An event's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    pub subscription: u64,
    /// Unix microseconds.
    pub at_us: i64,
    /// `properties.n` in hundredths.
    pub hundredths: u64,
    /// `properties.who` is `w` and this.
    pub who: u64,
}

/// All events of a seed.
#[derive(Debug, Clone, Copy)]
pub struct Story {
    pub seed: u64,
    pub subscriptions: u64,
    /// When they happened, in Unix microseconds.
    pub from_us: i64,
    pub to_us: i64,
}

impl Story {
    /// Event `number` as it is meant.
    pub fn event(&self, number: u64) -> Event {
        let dice = mix(mix(self.seed) ^ number);
        let span = (self.to_us - self.from_us).max(1).unsigned_abs();
        Event {
            id: format!("chaos-{number}"),
            subscription: dice % self.subscriptions.max(1),
            at_us: self.from_us + (mix(dice) % span) as i64,
            hundredths: 1 + mix(dice ^ 1) % 9_999,
            who: mix(dice ^ 2) % 300,
        }
    }

    /// A copy of event `number` with other content: other units, another subscription, or another
    /// instant.
    pub fn other(&self, number: u64, variant: u64) -> Event {
        let event = self.event(number);
        match variant % 3 {
            0 => Event { hundredths: event.hundredths + 1, ..event },
            1 if self.subscriptions > 1 => {
                Event { subscription: (event.subscription + 1) % self.subscriptions, ..event }
            }
            _ => Event { at_us: event.at_us + 1, ..event },
        }
    }
}

/// The external id of a subscription, which is also its customer's.
pub fn external_id(subscription: u64) -> String {
    format!("sub-{subscription:03}")
}

impl Event {
    /// Appends the event in Weir's format.
    pub fn write(&self, times: &mut TimeWriter, out: &mut String) {
        let mut at = [0; TIME_CHARS];
        times.rfc3339(self.at_us, &mut at);
        // Writing to a String can't fail.
        let _ = write!(
            out,
            "{{\"transactionId\":\"{}\",\"externalSubscriptionId\":\"{}\",\"code\":\"{EVENT_CODE}\",\
             \"timestamp\":\"{}\",\"properties\":{{\"n\":{}.{:02},\"who\":\"w{}\"}}}}",
            self.id,
            external_id(self.subscription),
            String::from_utf8_lossy(&at),
            self.hundredths / 100,
            self.hundredths % 100,
            self.who,
        );
    }
}

/// Reads a number with at most two digits after the point, in hundredths.
pub fn hundredths(text: &str) -> Option<i128> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let part = part.trim_end_matches('0');
    if part.len() > 2 {
        return None;
    }
    let part: i128 = format!("{part:0<2}").parse().ok()?;
    whole.parse::<i128>().ok()?.checked_mul(100)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_lies_has_the_same_id_and_other_content() {
        let story = Story { seed: 1, subscriptions: 5, from_us: 0, to_us: 1_000_000 };
        for number in 0..100 {
            for variant in 0..3 {
                let (event, other) = (story.event(number), story.other(number, variant));
                assert_eq!(event.id, other.id);
                assert_ne!(event, other);
            }
        }
    }

    #[test]
    fn an_event_is_json_of_which_every_digit_is_known() {
        let story = Story { seed: 1, subscriptions: 5, from_us: 0, to_us: 1_000_000 };
        for number in 0..1_000 {
            let event = story.event(number);
            let mut text = String::new();
            event.write(&mut TimeWriter::new(), &mut text);
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            let n = json["properties"]["n"].to_string();
            assert_eq!(hundredths(&n), Some(i128::from(event.hundredths)));
        }
    }

    #[test]
    fn hundredths_are_exact_or_nothing() {
        for (text, read) in [
            ("12.34", Some(1_234)),
            ("12.3", Some(1_230)),
            ("12", Some(1_200)),
            ("0.5000", Some(50)),
            ("1.001", None),
            ("x", None),
        ] {
            assert_eq!(hundredths(text), read, "{text}");
        }
    }
}
