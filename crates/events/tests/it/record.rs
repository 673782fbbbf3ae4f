//! Log records, whole and damaged.

use proptest::prelude::*;
use weir_events::{
    RECORD_BODY_BYTES_MAX, RECORD_EVENTS_MAX, RecordBody, RecordError, RecordEvent, RecordHeader,
    cut_into_records, decode_record, encode_record, events_in_record,
};

const HEADER: RecordHeader = RecordHeader {
    organization: weir_ids::OrganizationId::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
    received_at_us: 1_767_225_600_000_000,
    catalog_version: 42,
};

fn event(properties: &str) -> RecordEvent<'_> {
    RecordEvent {
        transaction_id: "t-1",
        external_subscription_id: "sub",
        code: "tokens",
        timestamp_us: 1_767_225_600_000_001,
        content_hash: 0x1122_3344_5566_7788,
        properties,
    }
}

#[test]
fn a_record_is_what_the_first_release_wrote() {
    // The log outlives releases: these bytes must be readable for ever (docs/log-format.md).
    let bytes = [
        b"WEIR\x01\x00\x01\x00".as_slice(),
        &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
        &1_767_225_600_000_000_i64.to_le_bytes(),
        &42_u64.to_le_bytes(),
        &40_u32.to_le_bytes(),
        &[0; 4],
        &1_767_225_600_000_001_i64.to_le_bytes(),
        &0x1122_3344_5566_7788_u64.to_le_bytes(),
        &[3, 0, 3, 0, 6, 0, 2, 0, 0, 0],
        b"t-1subtokens{}",
    ]
    .concat();
    let checksum = crc32c(&bytes[..44], &bytes[48..]);
    let bytes = [&bytes[..44], &checksum.to_le_bytes(), &bytes[48..]].concat();
    assert_eq!(encode_record(&HEADER, &[event("{}")]), bytes);
    let record = decode_record(&bytes).unwrap();
    assert_eq!(record.header, HEADER);
    assert_eq!(record.events().collect::<Vec<_>>(), [event("{}")]);
}

#[test]
fn a_record_put_together_of_parts_is_the_record_of_all_their_events() {
    let texts: Vec<String> = (0..30).map(|n| format!("{{\"n\":{n},\"é\":true}}")).collect();
    let events: Vec<_> = texts.iter().map(|text| event(text)).collect();
    let mut whole = RecordBody::default();
    assert!(whole.is_empty());
    for part in events.chunks(7) {
        let mut body = RecordBody::default();
        part.iter().for_each(|event| body.push(event));
        assert!(whole.has_room_for(&body));
        whole.append(&body);
    }
    assert_eq!(whole.len(), 30);
    let bytes = whole.encode(&HEADER);
    assert_eq!(bytes, encode_record(&HEADER, &events));
    assert_eq!((events_in_record(&bytes), events_in_record(b"WEIR")), (30, 0));
}

#[test]
fn a_body_has_room_for_as_much_as_a_record_holds() {
    let large = "x".repeat(RECORD_BODY_BYTES_MAX / 2 - 40);
    let mut half = RecordBody::default();
    half.push(&event(&large));
    let mut whole = half.clone();
    assert!(whole.has_room_for(&half));
    whole.append(&half);
    let mut little = RecordBody::default();
    little.push(&event("{}"));
    assert!(!whole.has_room_for(&little));
    assert_eq!(decode_record(&whole.encode(&HEADER)).unwrap().len(), 2);

    let mut many = RecordBody::default();
    (0..RECORD_EVENTS_MAX).for_each(|_| {
        let mut empty = event("");
        empty.transaction_id = "";
        empty.external_subscription_id = "";
        empty.code = "";
        // A body of 26 bytes an event is beyond the bound of bytes long before that of events.
        if many.has_room_for(&little) {
            many.push(&empty);
        }
    });
    assert!(many.len() > 30_000 && many.len() < RECORD_EVENTS_MAX);
}

/// CRC-32C bit by bit, apart from the crate that the code uses.
fn crc32c(head: &[u8], body: &[u8]) -> u32 {
    !head.iter().chain(body).fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    })
}

#[test]
fn a_thousand_like_events_take_few_bytes_and_come_back_in_order() {
    let ids: Vec<String> = (0..1_000).map(|n| format!("transaction-{n:06}")).collect();
    let properties = r#"{"model":"large","region":"eu-1","tokens":1250,"cached":false}"#;
    let events: Vec<_> =
        ids.iter().map(|id| RecordEvent { transaction_id: id, ..event(properties) }).collect();
    let bytes = encode_record(&HEADER, &events);
    assert!(bytes.len() < 40 * events.len(), "{} bytes", bytes.len());
    let record = decode_record(&bytes).unwrap();
    assert_eq!((record.len(), record.events().len()), (1_000, 1_000));
    assert_eq!(record.events().collect::<Vec<_>>(), events);
    assert_eq!(record.event(999), Some(events[999]));
    assert_eq!(record.event(1_000), None);
}

#[test]
fn an_empty_record_is_a_record() {
    let record = decode_record(&encode_record(&HEADER, &[])).unwrap();
    assert!(record.is_empty());
    assert_eq!(record.header, HEADER);
}

#[test]
fn other_bytes_are_named_for_what_they_are() {
    let good = encode_record(&HEADER, &[event("{}")]);
    let change = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        decode_record(&bytes).unwrap_err()
    };
    assert_eq!(decode_record(b""), Err(RecordError::NotARecord));
    assert_eq!(decode_record(&good[..47]), Err(RecordError::NotARecord));
    assert_eq!(change(0, b'w'), RecordError::NotARecord);
    assert_eq!(change(4, 2), RecordError::UnknownVersion { found: 2 });
    assert!(matches!(change(5, 1), RecordError::Checksum { .. }));
    assert!(matches!(change(40, 255), RecordError::Checksum { .. }));
    assert!(matches!(change(60, 1), RecordError::Checksum { .. }));
}

/// The bytes with a right checksum, as a fault of our own or an attacker would write them.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32c(&bytes[..44], &bytes[48..]);
    bytes[44..48].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn lying_lengths_are_errors_and_no_memory() {
    let good = encode_record(&HEADER, &[event("{}")]);
    for (at, bytes) in [
        (6, &[255_u8, 255][..]),
        (6, &[0, 0]),
        (5, &[9]),
        (5, &[1]),
        (40, &[255, 255, 255, 255]),
        (40, &[41, 0, 0, 0]),
        (64, &[255, 255]),
        (70, &[255, 255, 255, 255]),
        (70, &[3, 0, 0, 0]),
        (48 + 26, &[0xff]),
    ] {
        let mut record = good.clone();
        record[at..at + bytes.len()].copy_from_slice(bytes);
        let refused = decode_record(&resealed(record)).unwrap_err();
        let expected = matches!(
            refused,
            RecordError::Malformed { .. } | RecordError::UnknownEncoding { found: 9 }
        );
        assert!(expected, "{at}: {refused}");
    }
    let mut bomb = encode_record(&HEADER, &vec![event("{}"); 1_000]);
    bomb[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(decode_record(&resealed(bomb)), Err(RecordError::Malformed { what: "too large" }));
}

#[test]
fn events_are_cut_into_as_few_records_as_hold_them() {
    let filler = format!("{{\"p\":\"{}\"}}", "x".repeat(60_000));
    let events = vec![event(&filler); 40];
    let runs: Vec<_> = cut_into_records(&events).collect();
    assert_eq!(runs.concat(), events);
    assert_eq!(runs.iter().map(|run| run.len()).collect::<Vec<_>>(), [14, 14, 12]);
    for run in runs {
        let bytes = run.iter().map(RecordEvent::encoded_bytes).sum::<usize>();
        assert!(bytes <= RECORD_BODY_BYTES_MAX);
        assert_eq!(decode_record(&encode_record(&HEADER, run)).unwrap().len(), run.len());
    }
    assert_eq!(cut_into_records(&[]).count(), 0);
    let tiny = RecordEvent {
        transaction_id: "",
        external_subscription_id: "",
        code: "",
        properties: "",
        ..event("")
    };
    let many = vec![tiny; RECORD_EVENTS_MAX + 1];
    assert!(cut_into_records(&many).all(|run| run.len() <= RECORD_EVENTS_MAX));
    assert_eq!(cut_into_records(&many).map(<[_]>::len).sum::<usize>(), many.len());
}

#[test]
fn incompressible_events_are_kept_plain_and_within_the_bound() {
    // A linear congruential generator is random enough for lz4.
    let mut state = 1_u32;
    let noise: String = (0..60_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'!' + (state >> 24) as u8 % 90)
        })
        .collect();
    let bytes = encode_record(&HEADER, &[event(&noise)]);
    assert!(bytes.len() <= event(&noise).encoded_bytes() + 48);
    assert_eq!(decode_record(&bytes).unwrap().event(0), Some(event(&noise)));
}

prop_compose! {
    fn any_event()(
        names in ("\\PC{0,30}", "\\PC{0,30}", "\\PC{0,30}", "\\PC{0,200}"),
        timestamp_us in any::<i64>(),
        content_hash in any::<u64>(),
    ) -> ((String, String, String, String), i64, u64) {
        (names, timestamp_us, content_hash)
    }
}

proptest! {
    #[test]
    fn records_round_trip(
        parts in prop::collection::vec(any_event(), 0..40),
        organization in any::<u128>(),
        received_at_us in any::<i64>(),
        catalog_version in any::<u64>(),
    ) {
        let header = RecordHeader { organization: organization.into(), received_at_us, catalog_version };
        let events: Vec<_> = parts.iter().map(|((id, subscription, code, properties), timestamp_us, content_hash)| {
            RecordEvent {
                transaction_id: id,
                external_subscription_id: subscription,
                code,
                timestamp_us: *timestamp_us,
                content_hash: *content_hash,
                properties,
            }
        }).collect();
        let record = decode_record(&encode_record(&header, &events)).unwrap();
        prop_assert_eq!(record.header, header);
        prop_assert_eq!(record.events().collect::<Vec<_>>(), events);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode_record(&bytes).is_err());
    }

    #[test]
    fn a_damaged_record_is_an_error(cut in 0_usize..2_000, bit in 0_usize..16_000) {
        let good = encode_record(&HEADER, &vec![event("{\"n\":1}"); 100]);
        prop_assert!(decode_record(&good[..cut % good.len()]).is_err());
        let mut flipped = good.clone();
        let bit = bit % (good.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode_record(&flipped).is_err());
    }

    #[test]
    fn damage_under_a_right_checksum_does_not_panic(
        changes in prop::collection::vec((0_usize..2_000, any::<u8>()), 1..6),
    ) {
        for events in [1, 100] {
            let mut bytes = encode_record(&HEADER, &vec![event("{\"n\":1}"); events]);
            for (at, byte) in &changes {
                let at = at % bytes.len();
                bytes[at] = *byte;
            }
            if let Ok(record) = decode_record(&resealed(bytes)) {
                prop_assert_eq!(record.events().count(), record.len());
            }
        }
    }
}
