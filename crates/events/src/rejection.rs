//! Why an event, or a whole body, is refused.

use serde::Serialize;
use std::fmt;

/// Why one event of a body is refused; its neighbours are not touched by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rejection {
    /// The event's own transaction id, if it could be read: a verdict names its event.
    #[serde(skip)]
    pub transaction_id: Option<String>,
    /// Path of the field at fault (`properties.tokens`), empty for the event as a whole.
    pub field: String,
    /// The stable word for programs.
    pub reason: Reason,
    /// The sentence for people.
    pub message: String,
}

impl Rejection {
    /// A rejection whose event is named by the caller.
    #[must_use]
    pub fn new(reason: Reason, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { transaction_id: None, field: field.into(), reason, message: message.into() }
    }

    /// The same rejection, of the event with this transaction id.
    #[must_use]
    pub fn of(self, transaction_id: impl Into<String>) -> Self {
        Self { transaction_id: Some(transaction_id.into()), ..self }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => write!(f, "{}: {}", self.reason, self.message),
            field => write!(f, "{field}: {}: {}", self.reason, self.message),
        }
    }
}

macro_rules! reasons {
    ($($(#[$meta:meta])* $name:ident = $text:literal,)*) => {
        /// Why an event is refused, as a word that never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$meta])* $name,)* }

        impl Reason {
            /// Every reason, for documentation and metrics.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word as it stands in verdicts.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// A field that must be there is absent, null or empty.
    Required = "REQUIRED",
    /// A text has too many characters.
    TooLong = "TOO_LONG",
    /// The event has more than 64 KiB.
    TooLarge = "TOO_LARGE",
    /// Objects and arrays are nested too deeply.
    TooDeep = "TOO_DEEP",
    /// The event, or a line of NDJSON, is JSON but no object.
    NotAnObject = "NOT_AN_OBJECT",
    /// A line of NDJSON is no JSON.
    InvalidJson = "INVALID_JSON",
    /// A field has a value of another kind, such as a number where a text belongs.
    InvalidType = "INVALID_TYPE",
    /// A text holds half of a surrogate pair, which is no character.
    InvalidText = "INVALID_TEXT",
    /// A field stands twice in one object.
    DuplicateField = "DUPLICATE_FIELD",
    /// An event has no such field.
    UnknownField = "UNKNOWN_FIELD",
    /// Neither RFC 3339 nor Unix seconds, or out of range.
    InvalidTimestamp = "INVALID_TIMESTAMP",
    /// The metric's field is absent or is no number.
    NotANumber = "NOT_A_NUMBER",
    /// A value has more than 16 digits before or 12 after the point.
    TooManyDigits = "TOO_MANY_DIGITS",
    /// The metric's expression divides by zero for this event.
    DivisionByZero = "DIVISION_BY_ZERO",
    /// The event is dated before the window in which repeats are known.
    TooOld = "TOO_OLD",
    /// No metric counts events with this code.
    UnknownCode = "UNKNOWN_CODE",
    /// No subscription has this external id.
    UnknownSubscription = "UNKNOWN_SUBSCRIPTION",
    /// The event is dated before its subscription starts.
    BeforeSubscription = "BEFORE_SUBSCRIPTION",
    /// The event is dated after its subscription ended.
    AfterSubscription = "AFTER_SUBSCRIPTION",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

/// Why a body is refused as a whole: nothing of it is taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Bytes that are no UTF-8 text; `at` counts bytes from 0.
    #[error("the body is not UTF-8 at byte {at}")]
    NotUtf8 { at: usize },
    /// Not JSON; `at` counts bytes from 0.
    #[error("the body is not JSON: expected {expected} at byte {at}")]
    NotJson { at: usize, expected: &'static str },
    /// JSON, but neither an array nor an object with `events`.
    #[error("a batch is a JSON array of events, {{\"events\": […]}}, or NDJSON")]
    NotABatch,
    /// A field beside `events`, or `events` twice.
    #[error("a batch has one field \"events\" and no other, found {field:?}")]
    UnexpectedField { field: String },
    /// More events than one body may hold.
    #[error("a batch has at most {max} events")]
    TooManyEvents { max: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_carry_field_reason_and_message() {
        let rejection = Rejection::new(Reason::NotANumber, "properties.n", "not a number").of("t");
        assert_eq!(
            serde_json::to_string(&rejection).unwrap(),
            r#"{"field":"properties.n","reason":"NOT_A_NUMBER","message":"not a number"}"#
        );
        assert_eq!(rejection.to_string(), "properties.n: NOT_A_NUMBER: not a number");
    }

    #[test]
    fn reasons_are_distinct_words_in_screaming_snake_case() {
        let words: std::collections::HashSet<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        assert!(words.iter().all(|w| w.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')));
    }
}
