//! What makes two copies of an event the same.

use crate::{WireEvent, json::digest_of};
use xxhash_rust::xxh3::xxh3_64;

/// The digest of what an event says: its subscription, code, timestamp (only if it was given) and
/// properties. Not of its transaction id. Equal for copies that differ in the order of keys, white
/// space, escapes or the form of the timestamp; numbers count as written, so `1` and `1.0` differ.
/// Kept for ever: the definition is in `docs/log-format.md` and never changes.
#[must_use]
pub fn content_hash(event: &WireEvent<'_>) -> u64 {
    let timestamp_us = event.timestamp_us.map_or(0, i64::cast_unsigned);
    digest_of([
        xxh3_64(event.external_subscription_id.as_bytes()),
        xxh3_64(event.code.as_bytes()),
        u64::from(event.timestamp_us.is_some()),
        timestamp_us,
        event.properties_digest,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_one;

    fn hash(fields: &str) -> u64 {
        let body = format!("{{\"transactionId\":\"t\",\"externalSubscriptionId\":\"s\",{fields}}}");
        content_hash(&parse_one(body.as_bytes()).unwrap().unwrap())
    }

    #[test]
    fn hashes_are_those_of_the_first_release() {
        // Stored for ever: a change of these numbers turns every later repeat into a conflict.
        assert_eq!(hash(r#""code":"c","properties":{"n":1}"#), GOLDEN_PLAIN);
        let nested = r#""code":"c","timestamp":1,"properties":{"a":[1,"x",null],"b":{"c":true}}"#;
        assert_eq!(hash(nested), GOLDEN_NESTED);
    }
    const GOLDEN_PLAIN: u64 = 0x974087976a236081;
    const GOLDEN_NESTED: u64 = 0x3532cfcf9c2e5a3;

    #[test]
    fn form_does_not_matter_and_content_does() {
        let same = hash(r#""code":"c","timestamp":1767268800,"properties":{"a":1,"b":2}"#);
        for copy in [
            r#""properties":{"b":2,"a":1},"timestamp":"2026-01-01T12:00:00Z","code":"c""#,
            r#""code":"\u0063","timestamp":"1767268800.0","properties": { "a" : 1, "b" : 2 } "#,
        ] {
            assert_eq!(hash(copy), same, "{copy}");
        }
        for other in [
            r#""code":"d","timestamp":1767268800,"properties":{"a":1,"b":2}"#,
            r#""code":"c","timestamp":1767268801,"properties":{"a":1,"b":2}"#,
            r#""code":"c","properties":{"a":1,"b":2}"#,
            r#""code":"c","timestamp":1767268800,"properties":{"a":2,"b":1}"#,
            r#""code":"c","timestamp":1767268800"#,
        ] {
            assert_ne!(hash(other), same, "{other}");
        }
        assert_eq!(hash(r#""code":"c""#), hash(r#""code":"c","timestamp":null,"properties":{}"#));
        assert_ne!(hash(r#""code":"c""#), hash(r#""code":"c","timestamp":0"#));
    }
}
