//! The wire formats: how an event and a batch are written, where they go, what an answer says.

use crate::event::{ID_CHARS, SECONDS_CHARS, TIME_CHARS, VALUE_DIGITS};
use anyhow::{bail, ensure};
use http::StatusCode;

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Weir's `{"events": […]}`.
    Weir,
    /// `CloudEvents` in JSON, as `OpenMeter` takes them.
    Cloudevents,
    /// Lago's `{"events": […]}`.
    Lago,
}

/// Where in an event's bytes the parts are that differ from event to event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sites {
    pub id: usize,
    pub time: usize,
    pub value: usize,
}

/// What all copies of a prepared event have in common.
#[derive(Debug, Clone, Copy)]
pub struct Fixed<'a> {
    pub subscription: &'a str,
    pub code: &'a str,
    pub model: &'a str,
    pub region: &'a str,
    pub output_tokens: u32,
}

impl Format {
    /// Where it is posted, unless told otherwise.
    pub fn path(self, batch: usize) -> &'static str {
        match (self, batch) {
            (Self::Weir, 1) => "/api/billing/v2/events",
            (Self::Weir, _) => "/api/billing/v2/events/batch",
            (Self::Cloudevents, _) | (Self::Lago, 1) => "/api/v1/events",
            (Self::Lago, _) => "/api/v1/events/batch",
        }
    }

    pub fn content_type(self, batch: usize) -> &'static str {
        match (self, batch) {
            (Self::Weir | Self::Lago, _) => "application/json",
            (Self::Cloudevents, 1) => "application/cloudevents+json",
            (Self::Cloudevents, _) => "application/cloudevents-batch+json",
        }
    }

    /// What stands before the first and behind the last event.
    pub fn envelope(self, batch: usize) -> (&'static str, &'static str) {
        match (self, batch) {
            (Self::Weir | Self::Cloudevents, 1) => ("", ""),
            (Self::Weir | Self::Lago, _) if batch > 1 => ("{\"events\":[", "]}"),
            (Self::Lago, _) => ("{\"event\":", "}"),
            (Self::Weir | Self::Cloudevents, _) => ("[", "]"),
        }
    }

    /// Whether times are Unix seconds and not RFC 3339.
    pub fn has_unix_seconds(self) -> bool {
        matches!(self, Self::Lago)
    }

    /// Appends an event with zeros where it differs; about 250 bytes.
    pub fn write_event(self, out: &mut Vec<u8>, fixed: Fixed<'_>) -> Sites {
        let Fixed { subscription, code, model, region, output_tokens } = fixed;
        let mut put = |text: &str| {
            out.extend_from_slice(text.as_bytes());
            out.len()
        };
        let zeros = |count: usize| "0".repeat(count);
        let (names, time_quote) = match self {
            Self::Weir => (
                ["{\"transactionId\":\"", "\",\"externalSubscriptionId\":\"", "\",\"code\":\""],
                "\"",
            ),
            Self::Lago => (
                ["{\"transaction_id\":\"", "\",\"external_subscription_id\":\"", "\",\"code\":\""],
                "",
            ),
            Self::Cloudevents => (
                [
                    "{\"specversion\":\"1.0\",\"source\":\"loadtest\",\"id\":\"",
                    "\",\"subject\":\"",
                    "\",\"type\":\"",
                ],
                "\"",
            ),
        };
        let (time, data, chars) = match self {
            Self::Weir => ("timestamp", "properties", TIME_CHARS),
            Self::Lago => ("timestamp", "properties", SECONDS_CHARS),
            Self::Cloudevents => ("time", "data", TIME_CHARS),
        };
        let id = put(names[0]);
        put(&zeros(ID_CHARS));
        put(names[1]);
        put(subscription);
        put(names[2]);
        put(code);
        let time = put(&format!("\",\"{time}\":{time_quote}"));
        put(&zeros(chars));
        put(time_quote);
        put(&format!(",\"{data}\":{{\"model\":\"{model}\",\"region\":\"{region}\""));
        let value = put(",\"input_tokens\":");
        put(&zeros(VALUE_DIGITS));
        put(&format!(",\"output_tokens\":{output_tokens}}}}}"));
        Sites { id, time, value }
    }

    /// Checks that all events of a request were taken. Errors: what else the answer says.
    pub fn check(self, batch: usize, status: StatusCode, answer: &[u8]) -> anyhow::Result<()> {
        let text = || String::from_utf8_lossy(&answer[..answer.len().min(600)]).into_owned();
        if !status.is_success() {
            bail!("answered {status}: {}", text());
        }
        if self == Self::Weir && batch > 1 {
            let counted = |name| count(answer, name).unwrap_or(0);
            let taken = counted("\"accepted\":") + counted("\"duplicates\":");
            ensure!(taken == batch, "took {taken} of {batch} events: {}", text());
        }
        Ok(())
    }
}

/// The number behind the first occurrence of `name`, which stands at the answer's front.
fn count(answer: &[u8], name: &str) -> Option<usize> {
    let head = std::str::from_utf8(&answer[..answer.len().min(100)]).ok()?;
    let (_, rest) = head.split_once(name)?;
    let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_lacks_events_is_an_error() {
        let ok = StatusCode::OK;
        let answer = |accepted, duplicates| {
            format!(
                "{{\"accepted\":{accepted},\"duplicates\":{duplicates},\"conflicts\":0,\"rejected\":0"
            )
        };
        let check = |text: &str| Format::Weir.check(1_000, ok, text.as_bytes()).is_ok();
        assert!(check(&answer(1_000, 0)) && check(&answer(990, 10)));
        assert!(!check(&answer(999, 0)) && !check("{}") && !check(""));
        assert!(Format::Weir.check(1, StatusCode::ACCEPTED, b"{}").is_ok());
        assert!(Format::Lago.check(100, StatusCode::BAD_REQUEST, b"no").is_err());
        assert!(Format::Cloudevents.check(100, StatusCode::NO_CONTENT, b"").is_ok());
    }
}
