//! Bodies in, verdicts out.

use proptest::prelude::*;
use weir_events::{
    BATCH_EVENTS_MAX, BodyError, EVENT_BYTES_MAX, Format, Reason, Rejection, WireEvent,
    parse_batch, parse_one, parse_single, property, value_of,
};

const GOOD: &str = r#"{"transactionId":"t","externalSubscriptionId":"s","code":"c"}"#;

type Verdict<'a> = Result<WireEvent<'a>, Rejection>;

fn json(body: &str) -> Result<Vec<Verdict<'_>>, BodyError> {
    verdicts(body.as_bytes(), Format::Json)
}

fn verdicts(body: &[u8], format: Format) -> Result<Vec<Verdict<'_>>, BodyError> {
    parse_batch(body, format).map(|parsed| parsed.events)
}

/// A batch of a good event, `event` and another good event; gives the verdict on `event`.
fn between_good_ones(event: &str) -> Rejection {
    let body = format!("[{GOOD},{event},{GOOD}]");
    let [before, verdict, after] = <[_; 3]>::try_from(json(&body).unwrap()).unwrap();
    assert!(before.is_ok() && after.is_ok(), "neighbours of {event}");
    verdict.unwrap_err()
}

/// The event with these fields beside the three names.
fn with(fields: &str) -> String {
    format!("{},{fields}}}", GOOD.trim_end_matches('}'))
}

#[test]
fn the_three_forms_of_a_batch_give_the_same_events() {
    let second = with(r#""timestamp":"2026-01-01T00:00:00Z","properties":{"n":1}"#);
    let array = format!(" [ {GOOD} , {second} ] ");
    let wrapped = format!("{{\"events\":{array}}}");
    let lines = format!("{GOOD}\r\n\n  \n{second}");
    let events = json(&array).unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(events, json(&wrapped).unwrap());
    assert_eq!(events, verdicts(lines.as_bytes(), Format::Ndjson).unwrap());

    let event = events[1].as_ref().unwrap();
    assert_eq!(event.transaction_id, "t");
    assert_eq!(event.external_subscription_id, "s");
    assert_eq!(event.code, "c");
    assert_eq!(event.timestamp_us, Some(1_767_225_600_000_000));
    assert_eq!(event.properties, r#"{"n":1}"#);
    assert_eq!(events[0].as_ref().unwrap().timestamp_us, None);
    assert_eq!(events[0].as_ref().unwrap().properties, "{}");
}

#[test]
fn each_event_has_its_own_properties() {
    let fields = [
        r#""properties":{"n":{"deep":1},"\u006d":"x"}"#,
        r#""code2":1,"properties":{"n":7}"#,
        r#""properties":null"#,
        r#""properties":{ "n" : 2 }"#,
    ];
    let events = fields.map(with).join(",");
    let lines = fields.map(with).join("\n");
    for (body, format) in [(format!("[{events}]"), Format::Json), (lines, Format::Ndjson)] {
        let parsed = parse_batch(body.as_bytes(), format).unwrap();
        let found =
            |place: usize, key| parsed.properties(parsed.events[place].as_ref().unwrap()).get(key);
        assert_eq!((found(0, "n"), found(0, "m")), (Some(r#"{"deep":1}"#), Some("\"x\"")));
        assert_eq!(found(0, "deep"), None);
        assert!(parsed.events[1].is_err());
        assert_eq!(found(2, "n"), None);
        assert_eq!((found(3, "n"), found(3, "m")), (Some("2"), None));
    }
    let single = with(fields[0]);
    let single = parse_single(single.as_bytes()).unwrap();
    let event = single.events[0].as_ref().unwrap();
    assert_eq!(single.properties(event).get("m"), Some("\"x\""));
}

#[test]
fn texts_without_escapes_are_borrowed_from_the_body() {
    let body = with(r#""properties":{"n":1}"#);
    let event = parse_one(body.as_bytes()).unwrap().unwrap();
    assert!(matches!(event.transaction_id, std::borrow::Cow::Borrowed(_)));
    assert!(body.as_bytes().as_ptr_range().contains(&event.properties.as_ptr()));
    let escaped = GOOD.replace("\"t\"", r#""\u00e9\"\ud83d\ude00""#);
    assert_eq!(parse_one(escaped.as_bytes()).unwrap().unwrap().transaction_id, "é\"😀");
    let escaped_key = GOOD.replace("code", "\\u0063ode");
    assert!(parse_one(escaped_key.as_bytes()).unwrap().is_ok());
}

#[test]
fn numbers_keep_each_digit() {
    let body = with(
        r#""properties":{"big":9007199254740993,"tenth":0.1,"exp":1e3,"text":"0.30","long":123456789012345678901234567890}"#,
    );
    let event = parse_one(body.as_bytes()).unwrap().unwrap();
    let raw = |key| property(event.properties, key).unwrap();
    assert_eq!(raw("big"), "9007199254740993");
    assert_eq!(raw("long"), "123456789012345678901234567890");
    for (key, plain) in
        [("big", "9007199254740993"), ("tenth", "0.1"), ("exp", "1000"), ("text", "0.3")]
    {
        assert_eq!(value_of(raw(key)).unwrap().to_string(), plain);
    }
}

#[test]
fn one_bad_event_is_refused_by_field_and_its_neighbours_stand() {
    let long = "é".repeat(256);
    for (event, field, reason) in [
        ("1".into(), "", Reason::NotAnObject),
        ("1e999".into(), "", Reason::NotAnObject),
        ("null".into(), "", Reason::NotAnObject),
        ("[{}]".into(), "", Reason::NotAnObject),
        ("\"\\ud800\"".into(), "", Reason::NotAnObject),
        ("{}".into(), "transactionId", Reason::Required),
        (GOOD.replace("\"t\"", "\"\""), "transactionId", Reason::Required),
        (GOOD.replace("\"t\"", "null"), "transactionId", Reason::Required),
        (GOOD.replace("\"t\"", "5"), "transactionId", Reason::InvalidType),
        (GOOD.replace("\"t\"", "{\"a\":[]}"), "transactionId", Reason::InvalidType),
        (GOOD.replace("\"t\"", "\"\\udc00\""), "transactionId", Reason::InvalidText),
        (GOOD.replace("\"t\"", &format!("\"{long}\"")), "transactionId", Reason::TooLong),
        (GOOD.replace("\"s\"", "[]"), "externalSubscriptionId", Reason::InvalidType),
        (GOOD.replace("\"c\"", "true"), "code", Reason::InvalidType),
        (GOOD.replace("\"code\":\"c\"", "\"code\":null"), "code", Reason::Required),
        (with("\"timestamp\":\"soon\""), "timestamp", Reason::InvalidTimestamp),
        (with("\"timestamp\":true"), "timestamp", Reason::InvalidTimestamp),
        (with("\"timestamp\":{}"), "timestamp", Reason::InvalidTimestamp),
        (with("\"timestamp\":1e999"), "timestamp", Reason::InvalidTimestamp),
        (with("\"properties\":[]"), "properties", Reason::InvalidType),
        (with("\"properties\":\"{}\""), "properties", Reason::InvalidType),
        (with("\"properties\":{\"a\":1,\"a\":1}"), "properties.a", Reason::DuplicateField),
        (with("\"properties\":{\"x\":\"\\ud800\"}"), "properties", Reason::InvalidText),
        (with("\"code\":\"c\""), "code", Reason::DuplicateField),
        (with("\"\\u0063ode\":\"c\""), "code", Reason::DuplicateField),
        (with("\"cod\":1"), "cod", Reason::UnknownField),
    ] {
        let rejection = between_good_ones(&event);
        assert_eq!((rejection.field.as_str(), rejection.reason), (field, reason), "{event}");
    }
}

#[test]
fn an_unsupported_field_is_refused_by_name() {
    let rejection = between_good_ones(&with("\"preciseTotalAmountCents\":\"1\""));
    assert_eq!(rejection.field, "preciseTotalAmountCents");
    assert_eq!(rejection.reason, Reason::UnknownField);
    assert_eq!(rejection.message, "not supported yet");
}

#[test]
fn a_rejection_names_its_event_where_the_event_has_a_name() {
    assert_eq!(between_good_ones(&with("\"x\":1")).transaction_id.as_deref(), Some("t"));
    let late_name = r#"{"x":1,"transactionId":"later"}"#;
    assert_eq!(between_good_ones(late_name).transaction_id.as_deref(), Some("later"));
    assert_eq!(between_good_ones("{\"transactionId\":5}").transaction_id, None);
    assert_eq!(between_good_ones("7").transaction_id, None);
}

#[test]
fn names_are_counted_in_characters() {
    let longest = "é".repeat(255);
    let event = GOOD.replace("\"t\"", &format!("\"{longest}\""));
    assert_eq!(parse_one(event.as_bytes()).unwrap().unwrap().transaction_id, longest.as_str());
}

#[test]
fn an_event_of_64_kib_is_taken_and_a_byte_more_is_not() {
    let frame = with("\"properties\":{\"p\":\"\"}").len();
    let of_bytes =
        |bytes: usize| with(&format!("\"properties\":{{\"p\":\"{}\"}}", "x".repeat(bytes - frame)));
    assert!(parse_one(of_bytes(EVENT_BYTES_MAX).as_bytes()).unwrap().is_ok());
    let rejection = between_good_ones(&of_bytes(EVENT_BYTES_MAX + 1));
    assert_eq!(rejection.reason, Reason::TooLarge);
    assert_eq!(rejection.transaction_id.as_deref(), Some("t"));
}

#[test]
fn properties_nest_32_levels_and_no_more() {
    let nested = |levels: usize| {
        let (open, close) = ("{\"a\":".repeat(levels - 1), "}".repeat(levels - 1));
        with(&format!("\"properties\":{open}{{}}{close}"))
    };
    assert!(parse_one(nested(32).as_bytes()).unwrap().is_ok());
    assert_eq!(between_good_ones(&nested(33)).reason, Reason::TooDeep);
    let deep = with(&format!("\"code2\":{}{}", "[".repeat(20_000), "]".repeat(20_000)));
    assert_eq!(between_good_ones(&deep).reason, Reason::UnknownField);
}

#[test]
fn broken_json_refuses_a_json_body_whole() {
    for body in [
        "",
        "{",
        "[",
        "[}",
        "nope",
        "[{\"a\":1}",
        "[{\"a\"}]",
        "[{}]]",
        "[{},]",
        "[{\"a\":\"\\x\"}]",
        "[{\"a\":01}]",
        "{\"events\":[]",
        "[{\"a\":\"\u{1}\"}]",
    ] {
        assert!(matches!(json(body), Err(BodyError::NotJson { .. })), "{body:?}: {:?}", json(body));
    }
    let deep = "[".repeat(4_000_000);
    assert!(matches!(json(&deep), Err(BodyError::NotJson { .. })));
}

#[test]
fn json_that_is_no_batch_is_refused_whole() {
    for body in ["1", "null", "\"x\"", "true", "{}", "{\"events\":{}}", "{\"events\":null}"] {
        assert_eq!(json(body), Err(BodyError::NotABatch), "{body}");
    }
    for (body, field) in [
        (GOOD, "transactionId"),
        ("{\"events\":[],\"more\":1}", "more"),
        ("{\"events\":[],\"events\":[]}", "events"),
    ] {
        assert_eq!(json(body), Err(BodyError::UnexpectedField { field: field.into() }), "{body}");
    }
    assert_eq!(json("[]"), Ok(vec![]));
    assert_eq!(verdicts(b"\n \n", Format::Ndjson), Ok(vec![]));
}

#[test]
fn invalid_utf8_refuses_a_json_body_and_one_line_of_ndjson() {
    let body = [b"[", GOOD.as_bytes(), b",{\"\xff\":1}]"].concat();
    assert_eq!(verdicts(&body, Format::Json), Err(BodyError::NotUtf8 { at: 1 + GOOD.len() + 3 }));
    let lines = [GOOD.as_bytes(), b"\n{\"\xff\":1}\n", GOOD.as_bytes()].concat();
    let verdicts = verdicts(&lines, Format::Ndjson).unwrap();
    assert!(verdicts[0].is_ok() && verdicts[2].is_ok());
    assert_eq!(verdicts[1].as_ref().unwrap_err().reason, Reason::InvalidJson);
    assert_eq!(parse_one(b"\xff"), Err(BodyError::NotUtf8 { at: 0 }));
}

#[test]
fn a_bad_line_of_ndjson_is_a_verdict() {
    let lines = format!("{GOOD}\n{{\n{GOOD} {GOOD}\n[]\n{GOOD}");
    let verdicts = verdicts(lines.as_bytes(), Format::Ndjson).unwrap();
    let reasons: Vec<_> =
        verdicts.iter().map(|verdict| verdict.as_ref().err().map(|e| e.reason)).collect();
    let broken = Some(Reason::InvalidJson);
    assert_eq!(reasons, [None, broken, broken, Some(Reason::NotAnObject), None]);
}

#[test]
fn too_many_events_refuse_the_body() {
    let body = format!("[{}0]", "0,".repeat(BATCH_EVENTS_MAX));
    assert_eq!(json(&body), Err(BodyError::TooManyEvents { max: BATCH_EVENTS_MAX }));
    let lines = "0\n".repeat(BATCH_EVENTS_MAX + 1);
    let refused = verdicts(lines.as_bytes(), Format::Ndjson);
    assert_eq!(refused, Err(BodyError::TooManyEvents { max: BATCH_EVENTS_MAX }));
}

#[test]
fn a_single_body_is_one_event_and_nothing_after_it() {
    assert!(parse_one(GOOD.as_bytes()).unwrap().is_ok());
    let two = format!("{GOOD}{GOOD}");
    assert!(matches!(parse_one(two.as_bytes()), Err(BodyError::NotJson { .. })));
    assert_eq!(parse_one(b"[]").unwrap().unwrap_err().reason, Reason::NotAnObject);
    assert!(parse_one(b"").is_err());
}

proptest! {
    #[test]
    fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_one(&body);
        let _ = parse_batch(&body, Format::Json);
        let _ = parse_batch(&body, Format::Ndjson);
    }

    #[test]
    fn a_changed_byte_is_a_verdict_or_an_error(at in 0_usize..200, byte in any::<u8>()) {
        let second = with(r#""timestamp":"1.5","properties":{"a":[1,{"b":"\u00e9\ud83d\ude00"}],"n":0.1}"#);
        let mut body = format!("[{GOOD},{second}]").into_bytes();
        let at = at % body.len();
        body[at] = byte;
        if let Ok(verdicts) = verdicts(&body, Format::Json) {
            for event in verdicts.into_iter().flatten() {
                let parsed: serde_json::Value = serde_json::from_str(event.properties).unwrap();
                prop_assert!(parsed.is_object());
                prop_assert!(!event.code.is_empty());
            }
        }
    }

    #[test]
    fn what_serde_json_writes_is_read_back(
        id in "\\PC{1,60}",
        subscription in "\\PC{1,60}",
        micros in 0_i64..10_000_000_000_000_000,
    ) {
        let seconds = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
        let body = serde_json::json!({
            "transactionId": id, "externalSubscriptionId": subscription, "code": "c", "timestamp": seconds,
        }).to_string();
        let event = parse_one(body.as_bytes()).unwrap().unwrap();
        prop_assert_eq!(event.transaction_id.as_ref(), id.as_str());
        prop_assert_eq!(event.external_subscription_id.as_ref(), subscription.as_str());
        prop_assert_eq!(event.timestamp_us, Some(micros));
    }
}
