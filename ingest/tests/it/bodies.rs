//! Bodies: their three forms, their compression, and what is refused whole.

use crate::deployment::{
    ACME, BATCH, Deployment, Edge, PARTITIONS, SINGLE, embedded, event, event_with,
};
use async_compression::tokio::write::ZstdEncoder;
use flate2::{Compression, write::GzEncoder};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::{Value, json};
use sqlx::PgPool;
use std::io::Write;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use weir_events::{EVENT_BYTES_MAX, event_id, partition_of};

async fn edge(pool: PgPool) -> (TempDir, Deployment, Edge) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let edge = deployment.edge(embedded(dir.path()).await).await;
    (dir, deployment, edge)
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

async fn zstd(plain: &[u8]) -> Vec<u8> {
    let mut encoder = ZstdEncoder::new(Vec::new());
    encoder.write_all(plain).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_batch_has_three_forms_and_two_paths(pool: PgPool) {
    let (_dir, _deployment, edge) = edge(pool).await;
    let line = |id: &str| event(id).to_string();
    let bodies = [
        (BATCH, json!({ "events": [event("a"), event("b")] }).to_string()),
        (BATCH, json!([event("c"), event("d")]).to_string()),
        (BATCH, format!("{}\n\n{}\r\n", line("e"), line("f"))),
        ("/api/billing/v2/events:batchCreate", json!([event("g"), event("h")]).to_string()),
    ];
    for (path, body) in bodies {
        let answer = edge.post(path, body.clone()).await;
        assert_eq!((answer.code(), answer.words()), (200, vec!["accepted"; 2]), "{body}");
    }
    let empty = edge.post(BATCH, "[]").await;
    assert_eq!(
        empty.json,
        json!({ "accepted": 0, "duplicates": 0, "conflicts": 0, "rejected": 0, "verdicts": [] })
    );
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn in_ndjson_each_bad_line_is_a_verdict(pool: PgPool) {
    let (_dir, _deployment, edge) = edge(pool).await;
    let body = format!("{}\nnot json\n{{\"half\": \n{}\n[]\n", event("a"), event("b"));
    let expected = ["accepted", "rejected", "rejected", "accepted", "rejected"];
    let sniffed = edge.post(BATCH, body.clone()).await;
    assert_eq!(sniffed.words(), expected);
    assert_eq!(sniffed.json["verdicts"][1]["error"]["reason"], "INVALID_JSON");
    let ndjson = "application/x-ndjson";
    let said = edge
        .post_as(BATCH, CONTENT_TYPE.as_str(), ndjson, format!("nonsense\n{body}").into_bytes())
        .await;
    assert_eq!(
        said.words(),
        ["rejected", "duplicate", "rejected", "rejected", "duplicate", "rejected"]
    );
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn compressed_bodies_are_taken(pool: PgPool) {
    let (_dir, _deployment, edge) = edge(pool).await;
    let body = |id: &str| json!([event(id)]).to_string().into_bytes();
    let encoding = CONTENT_ENCODING.as_str();
    let gzipped = edge.post_as(BATCH, encoding, "gzip", gzip(&body("a"))).await;
    assert_eq!(gzipped.words(), ["accepted"]);
    let members = [gzip(b"["), gzip(event("b").to_string().as_bytes()), gzip(b"]")].concat();
    let several = edge.post_as(BATCH, encoding, "X-GZIP", members).await;
    assert_eq!(several.words(), ["accepted"], "several members are one body");
    let with_zstd = edge.post_as(BATCH, encoding, "zstd", zstd(&body("c")).await).await;
    assert_eq!(with_zstd.words(), ["accepted"]);
    let single = event("d").to_string().into_bytes();
    assert_eq!(edge.post_as(SINGLE, encoding, "zstd", zstd(&single).await).await.code(), 202);
    let plain = edge.post_as(BATCH, encoding, "identity", body("e")).await;
    assert_eq!(plain.words(), ["accepted"]);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn what_does_not_decompress_or_is_too_large_then_is_refused_whole(pool: PgPool) {
    let (_dir, _deployment, edge) = edge(pool).await;
    let encoding = CONTENT_ENCODING.as_str();
    let bomb = vec![b' '; 16 << 20];
    for (name, body) in [("gzip", gzip(&bomb)), ("zstd", zstd(&bomb).await)] {
        assert!(body.len() < 1 << 20, "{name}: {}", body.len());
        let answer = edge.post_as(BATCH, encoding, name, body.clone()).await;
        assert_eq!((answer.code(), answer.reason()), (413, "BODY_TOO_LARGE"), "{name}");
        let cut = edge.post_as(BATCH, encoding, name, body[..100].to_vec()).await;
        assert_eq!((cut.code(), cut.reason()), (400, "BODY_UNDECODABLE"), "{name}");
        let plain = edge.post_as(BATCH, encoding, name, b"[]".to_vec()).await;
        assert_eq!((plain.code(), plain.reason()), (400, "BODY_UNDECODABLE"), "{name}");
    }
    for unknown in ["br", "gzip, zstd", "deflate"] {
        let answer = edge.post_as(BATCH, encoding, unknown, b"[]".to_vec()).await;
        assert_eq!((answer.code(), answer.reason()), (415, "ENCODING_UNSUPPORTED"), "{unknown}");
        assert_eq!(answer.headers["accept-encoding"], "gzip, zstd");
    }
    let large = edge.post(BATCH, vec![b' '; (8 << 20) + 1]).await;
    assert_eq!((large.code(), large.reason()), (413, "BODY_TOO_LARGE"));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_body_that_is_no_batch_is_refused_whole(pool: PgPool) {
    let (_dir, _deployment, edge) = edge(pool).await;
    let good = event("t");
    let bodies = [
        "not json".to_owned(),
        String::new(),
        format!("[{good},"),
        format!("[{good}] more"),
        format!("{{\"events\":[{good}],\"more\":1}}"),
        "{\"evnets\":[]}".to_owned(),
        "{\"events\":{}}".to_owned(),
        "7".to_owned(),
    ];
    for body in bodies {
        let answer = edge.post(BATCH, body.clone()).await;
        assert_eq!((answer.code(), answer.reason()), (400, "BODY_INVALID"), "{body}");
        assert_eq!(answer.json["code"], 3, "{body}");
        assert!(!answer.headers.contains_key("retry-after"), "{body}");
    }
    let latin1 = edge.post(BATCH, b"[\"\xff\"]".to_vec()).await;
    assert_eq!((latin1.code(), latin1.reason()), (400, "BODY_INVALID"));
    let single = edge.post(SINGLE, "{\"transactionId\":").await;
    assert_eq!((single.code(), single.reason()), (400, "BODY_INVALID"));
    assert!(edge.logged().await.is_empty());
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn ten_thousand_events_are_taken_and_one_more_is_not(pool: PgPool) {
    let (_dir, _deployment, edge) = edge(pool).await;
    let mut events: Vec<Value> = (0..10_000).map(|n| event(&format!("t-{n}"))).collect();
    let body = Value::Array(events.clone()).to_string();
    let answer = edge.post(&format!("{BATCH}?verdicts=failed"), body).await;
    assert_eq!(answer.json["accepted"], 10_000, "{answer:?}");
    assert!(answer.words().is_empty());
    events.push(event("one more"));
    let refused = edge.post(BATCH, Value::Array(events).to_string()).await;
    assert_eq!((refused.code(), refused.reason()), (413, "TOO_MANY_EVENTS"));
    assert_eq!(edge.logged().await.len(), 10_000);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_few_events_of_one_partition_may_be_as_large_as_events_get(pool: PgPool) {
    let (_dir, _deployment, edge) = edge(pool).await;
    let in_first = |id: &String| partition_of(event_id(ACME, id), PARTITIONS) == 0;
    let ids: Vec<String> = (0..).map(|n| format!("t-{n}")).filter(in_first).take(16).collect();
    let filler = "x".repeat(EVENT_BYTES_MAX - 1_000);
    let large = |id: &String| event_with(id, "properties", json!({ "tokens": 5, "note": filler }));
    let events: Vec<Value> = ids.iter().map(large).collect();
    let answer = edge.batch(&events).await;
    assert_eq!(answer.json["accepted"], 16, "{answer:?}");
    assert_eq!(edge.logged().await.len(), 16);
}
