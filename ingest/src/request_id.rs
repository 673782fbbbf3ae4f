//! The name of a request in answers, so that a sender and the operator can speak of the same one.

use http::{HeaderMap, HeaderName, HeaderValue};
use weir_runtime::Clock;

/// Taken from the sender when it sends one.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// The longest that is taken from a sender.
const LENGTH_MAX: usize = 128;

/// The name that the sender gave, or a new one.
#[must_use]
pub fn of(headers: &HeaderMap, clock: &Clock) -> HeaderValue {
    sent(headers).unwrap_or_else(|| made(clock))
}

fn sent(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(HEADER)?;
    let text = id.to_str().ok()?;
    (1..=LENGTH_MAX).contains(&text.len()).then(|| id.clone())
}

fn made(clock: &Clock) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(clock.new_id::<u128>().to_be_bytes()) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("unnamed"))
}

/// The name as text.
#[must_use]
pub fn text(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or_default()
}
