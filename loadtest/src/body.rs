//! Prepared bodies: written once, then only the parts that differ are patched in place.

use crate::{
    event::{
        ID_CHARS, Ids, SECONDS_CHARS, TIME_CHARS, TimeWriter, Times, VALUE_DIGITS, value_of,
        write_digits, write_seconds,
    },
    format::{Fixed, Format, Sites},
};
use bytes::{Bytes, BytesMut};

const MODELS: [&str; 4] = ["gpt-4o-mini", "claude-haiku", "llama-3-70b", "mistral-sml"];
const REGIONS: [&str; 3] = ["eu-west-1", "us-east-2", "me-south1"];

/// What the events of a run have in common.
#[derive(Debug, Clone)]
pub struct Subjects {
    /// External ids are this and a number of six digits.
    pub prefix: String,
    pub count: u64,
    pub code: String,
}

impl Subjects {
    /// The external id of a subscription.
    pub fn subscription(&self, number: u64) -> String {
        format!("{}{:06}", self.prefix, number % self.count.max(1))
    }
}

/// A batch's bytes and the places to patch.
pub struct Body {
    format: Format,
    /// Taken out while a request is under way.
    bytes: BytesMut,
    sites: Vec<Sites>,
    times: TimeWriter,
}

/// Which events a batch holds.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    pub ids: Ids,
    pub times: Times,
    pub first: u64,
    pub now_us: i64,
}

impl Body {
    /// A batch of `batch` events of subscriptions in no order; another one for each `variant`.
    pub fn new(format: Format, subjects: &Subjects, batch: usize, variant: u64) -> Self {
        let (open, close) = format.envelope(batch);
        let mut bytes = Vec::from(open);
        let mut sites = Vec::with_capacity(batch);
        for index in 0..batch as u64 {
            if index > 0 {
                bytes.push(b',');
            }
            let dice = value_of((variant << 32) | index) ^ (value_of(index + variant) << 16);
            let fixed = Fixed {
                subscription: &subjects.subscription(dice),
                code: &subjects.code,
                model: MODELS[(dice % 4) as usize],
                region: REGIONS[(dice / 4 % 3) as usize],
                output_tokens: 100 + (dice / 12 % 900) as u32,
            };
            sites.push(format.write_event(&mut bytes, fixed));
        }
        bytes.extend_from_slice(close.as_bytes());
        Self { format, bytes: BytesMut::from(&bytes[..]), sites, times: TimeWriter::new() }
    }

    /// Makes it the batch of the events from `stamp.first` on.
    pub fn stamp(&mut self, stamp: Stamp) {
        for (number, sites) in (stamp.first..).zip(&self.sites) {
            if let Some(id) = part::<ID_CHARS>(&mut self.bytes, sites.id) {
                stamp.ids.write(number, id);
            }
            let at_us = stamp.times.of(number, stamp.first, stamp.now_us);
            if self.format.has_unix_seconds() {
                if let Some(time) = part::<SECONDS_CHARS>(&mut self.bytes, sites.time) {
                    write_seconds(at_us, time);
                }
            } else if let Some(time) = part::<TIME_CHARS>(&mut self.bytes, sites.time) {
                self.times.rfc3339(at_us, time);
            }
            if let Some(value) = part::<VALUE_DIGITS>(&mut self.bytes, sites.value) {
                write_digits(value_of(number), value);
            }
        }
    }

    /// The bytes, to be sent; they must be given back.
    pub fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.bytes).freeze()
    }

    /// Takes the bytes back; copies them only if the connection still holds them.
    pub fn give_back(&mut self, bytes: Bytes) {
        self.bytes = bytes.try_into_mut().unwrap_or_else(|held| BytesMut::from(&held[..]));
    }
}

fn part<const N: usize>(bytes: &mut [u8], at: usize) -> Option<&mut [u8; N]> {
    bytes.get_mut(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn subjects() -> Subjects {
        Subjects { prefix: "sub-".to_owned(), count: 50, code: "llm_request".to_owned() }
    }

    fn stamp(first: u64) -> Stamp {
        Stamp { ids: Ids::new(1), times: Times::Now, first, now_us: 1_795_237_421_000_000 }
    }

    fn sent(body: &mut Body, first: u64) -> Value {
        body.stamp(stamp(first));
        let bytes = body.take();
        let value = serde_json::from_slice(&bytes).unwrap();
        body.give_back(bytes);
        value
    }

    fn id(number: u64) -> String {
        let mut out = [0; ID_CHARS];
        Ids::new(1).write(number, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_patched_batch_holds_the_events_it_is_asked_for() {
        let mut body = Body::new(Format::Weir, &subjects(), 3, 0);
        for first in [0, 3, 1_000_000] {
            let value = sent(&mut body, first);
            for (number, event) in (first..).zip(value["events"].as_array().unwrap()) {
                assert_eq!(event["transactionId"], id(number));
                assert_eq!(event["code"], "llm_request");
                assert!(event["externalSubscriptionId"].as_str().unwrap().starts_with("sub-0000"));
                let tokens = event["properties"]["input_tokens"].as_u64();
                assert_eq!(tokens, Some(value_of(number)));
            }
            let times: Vec<_> = value["events"]
                .as_array()
                .unwrap()
                .iter()
                .map(|e| e["timestamp"].clone())
                .collect();
            assert_eq!(
                times,
                [
                    "2026-11-21T05:03:41.000000Z",
                    "2026-11-21T05:03:41.000001Z",
                    "2026-11-21T05:03:41.000002Z"
                ]
            );
        }
    }

    #[test]
    fn every_format_is_json_of_its_own_form() {
        let lago = sent(&mut Body::new(Format::Lago, &subjects(), 2, 0), 0);
        assert_eq!(lago["events"][1]["transaction_id"], id(1));
        assert_eq!(lago["events"][1]["timestamp"].to_string(), "1795237421.000001");
        let lago = sent(&mut Body::new(Format::Lago, &subjects(), 1, 0), 5);
        assert_eq!(lago["event"]["transaction_id"], id(5));
        let cloud = sent(&mut Body::new(Format::Cloudevents, &subjects(), 2, 0), 0);
        assert_eq!(
            (&cloud[0]["specversion"], &cloud[0]["type"]),
            (&"1.0".into(), &"llm_request".into())
        );
        assert_eq!(
            (&cloud[1]["id"], &cloud[1]["time"]),
            (&id(1).into(), &"2026-11-21T05:03:41.000001Z".into())
        );
        assert!(cloud[0]["data"]["input_tokens"].is_number());
        let weir = sent(&mut Body::new(Format::Weir, &subjects(), 1, 0), 9);
        assert_eq!(weir["transactionId"], id(9));
    }

    #[test]
    fn an_event_has_about_250_bytes() {
        let mut body = Body::new(Format::Weir, &subjects(), 1_000, 0);
        let bytes = body.take().len() / 1_000;
        assert!((240..=260).contains(&bytes), "{bytes}");
    }
}
