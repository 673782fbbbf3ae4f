//! Which of the three forms of a batch a body has.

use http::{HeaderMap, header};
use weir_events::{Format, parse_one};

/// The format of a batch's body: what the content type says where it says NDJSON, else by its
/// first line. A first line that is an object of its own, and no `{"events": …`, is NDJSON; a lone
/// such line must look like an event, so that a misspelt `events` is refused as a body.
#[must_use]
pub fn of(headers: &HeaderMap, body: &[u8]) -> Format {
    if says_ndjson(headers) {
        return Format::Ndjson;
    }
    let text = body.trim_ascii_start();
    if !text.starts_with(b"{") || first_key_is_events(text) {
        return Format::Json;
    }
    let (line, rest) = match text.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&text[..end], text[end..].trim_ascii_start()),
        None => (text, &b""[..]),
    };
    let is_ndjson = match parse_one(line) {
        Err(_) => false,
        Ok(Ok(_)) => true,
        Ok(Err(rejection)) => !rest.is_empty() || rejection.transaction_id.is_some(),
    };
    if is_ndjson { Format::Ndjson } else { Format::Json }
}

fn says_ndjson(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = value.and_then(|value| value.split(';').next()).unwrap_or_default();
    ["application/x-ndjson", "application/ndjson", "application/jsonl"]
        .iter()
        .any(|known| media_type.trim().eq_ignore_ascii_case(known))
}

fn first_key_is_events(object: &[u8]) -> bool {
    object.strip_prefix(b"{").is_some_and(|rest| rest.trim_ascii_start().starts_with(b"\"events\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_sniffed_by_its_first_line() {
        let event = r#"{"transactionId":"a","externalSubscriptionId":"s","code":"c"}"#;
        let ndjson = [
            format!("{event}\n{event}\n"),
            event.to_owned(),
            format!("\n {event}"),
            "{\"transactionId\":\"a\"}".to_owned(),
            "{}\n{}".to_owned(),
        ];
        for body in ndjson {
            assert_eq!(of(&HeaderMap::new(), body.as_bytes()), Format::Ndjson, "{body}");
        }
        let json = [
            "[]",
            "{\"events\":[]}",
            " { \"events\" : [\n]}",
            "{\n\"transactionId\":\"a\"}",
            "{\"evnets\":[]}",
            "{}",
            "{broken",
            "nothing",
            "",
        ];
        for body in json {
            assert_eq!(of(&HeaderMap::new(), body.as_bytes()), Format::Json, "{body}");
        }
    }

    #[test]
    fn the_content_type_decides_where_it_says_ndjson() {
        for (content_type, format) in [
            ("application/x-ndjson", Format::Ndjson),
            ("Application/X-NDJSON; charset=utf-8", Format::Ndjson),
            ("application/json", Format::Json),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
            assert_eq!(of(&headers, b"broken"), format, "{content_type}");
        }
    }
}
