//! Nanoseconds per event of the edge's hot path: parse, hash, pack, unpack.
//!
//! `cargo bench -p weir-events`. Compare figures of one run with each other, not with another
//! machine's.

use std::hint::black_box;
use std::time::Instant;
use weir_events::{
    Format, RecordEvent, RecordHeader, content_hash, decode_record, encode_record, event_id,
    parse_batch,
};

const EVENTS: usize = 1_000;
const ROUNDS: usize = 300;

fn main() {
    let organization = weir_ids::OrganizationId::from_u128(7);
    let header = RecordHeader { organization, received_at_us: 0, catalog_version: 1 };
    let body = body();
    println!("{} bytes an event", body.len() / EVENTS);
    let batch = |body| -> Vec<_> {
        let parsed = parse_batch(body, Format::Json).ok();
        parsed.into_iter().flat_map(|parsed| parsed.events).flatten().collect()
    };

    measure("parse", || batch(body.as_bytes()).len());
    let wire = batch(body.as_bytes());
    assert_eq!(wire.len(), EVENTS);
    measure("content hash", || wire.iter().map(|e| content_hash(e) as usize & 1).sum());
    measure("event id", || {
        wire.iter().map(|e| event_id(organization, &e.transaction_id).0 as usize & 1).sum()
    });
    let events: Vec<_> = wire
        .iter()
        .map(|event| RecordEvent {
            transaction_id: &event.transaction_id,
            external_subscription_id: &event.external_subscription_id,
            code: &event.code,
            timestamp_us: event.timestamp_us.unwrap_or_default(),
            content_hash: content_hash(event),
            properties: event.properties,
        })
        .collect();
    let record = encode_record(&header, &events);
    println!("{} bytes an event in the log", record.len() / EVENTS);
    measure("encode", || encode_record(&header, &events).len());
    measure("decode", || decode_record(&record).map_or(0, |record| record.len()));
}

fn body() -> String {
    let events = (0..EVENTS).map(|n| {
        format!(
            r#"{{"transactionId":"0192f5c8-7c1e-7abc-9def-{n:012}","externalSubscriptionId":"sub_acme_{:05}","code":"llm_tokens","timestamp":"2026-04-01T12:{:02}:{:02}.{n:06}Z","properties":{{"model":"large-4","region":"eu-west-1","tokens":{},"cached":false,"ratio":0.25}}}}"#,
            n % 97, n / 60 % 60, n % 60, n * 37
        )
    });
    format!("{{\"events\":[{}]}}", events.collect::<Vec<_>>().join(","))
}

fn measure(name: &str, mut run: impl FnMut() -> usize) {
    black_box(run());
    let start = Instant::now();
    for _ in 0..ROUNDS {
        black_box(run());
    }
    let nanos = start.elapsed().as_nanos() / (ROUNDS * EVENTS) as u128;
    println!("{name}: {nanos} ns an event");
}
