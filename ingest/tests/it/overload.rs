//! The bounds on what is under way at once.

use crate::deployment::{BATCH, Deployment, KEY, SINGLE, embedded, event};
use axum::body::Body;
use flate2::{Compression, write::GzEncoder};
use http::{Request, header};
use serde_json::json;
use sqlx::PgPool;
use std::io::Write;
use weir_ingest::Config;

fn endless() -> Body {
    Body::from_stream(futures::stream::pending::<Result<Vec<u8>, String>>())
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn who_comes_too_many_is_told_to_come_again(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let mut config = Config::load().unwrap();
    config.load.requests_max = 1;
    let edge = deployment.edge_with(embedded(dir.path()).await, None, config).await;
    let holding = edge.post(SINGLE, endless());
    tokio::pin!(holding);
    assert!(futures::poll!(holding.as_mut()).is_pending());
    let refused = edge.post(SINGLE, event("t").to_string()).await;
    assert!(refused.asks_for_a_retry() && refused.reason() == "OVERLOADED", "{refused:?}");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_place_is_given_back(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let mut config = Config::load().unwrap();
    config.load.requests_max = 1;
    config.body.read_timeout_ms = 20;
    let edge = deployment.edge_with(embedded(dir.path()).await, None, config).await;
    let slow = edge.post(SINGLE, endless()).await;
    assert_eq!((slow.code(), slow.reason()), (408, "BODY_TOO_SLOW"));
    assert_eq!(edge.post(SINGLE, "broken").await.code(), 400);
    assert_eq!(edge.post(SINGLE, event("t").to_string()).await.code(), 202);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn bodies_share_a_bound_of_bytes(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let mut config = Config::load().unwrap();
    config.load.body_bytes_max = 1_000;
    let edge = deployment.edge_with(embedded(dir.path()).await, None, config).await;
    let large: Vec<_> = (0..20).map(|n| event(&format!("large-{n}"))).collect();
    let large = json!(large);
    assert!(large.to_string().len() > 1_000);
    let refused = edge.post(BATCH, large.to_string()).await;
    assert!(refused.asks_for_a_retry() && refused.reason() == "OVERLOADED", "{refused:?}");
    for n in 0..50 {
        let answer = edge.post(SINGLE, event(&format!("t-{n}")).to_string()).await;
        assert_eq!(answer.code(), 202, "bytes are given back");
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_body_that_breaks_off_is_refused(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let edge = Deployment::new(pool).await.edge(embedded(dir.path()).await).await;
    let chunks = [Ok(b"[".to_vec()), Err("gone".to_owned())];
    let request = Request::post(BATCH).header(header::AUTHORIZATION, format!("Bearer {KEY}"));
    let answer = edge.send(request, Body::from_stream(futures::stream::iter(chunks))).await;
    assert_eq!((answer.code(), answer.reason()), (400, "BODY_INCOMPLETE"));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_compressed_body_takes_the_room_it_needs_and_no_more(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let mut config = Config::load().unwrap();
    let events: Vec<_> = (0..500).map(|n| event(&format!("t-{n}"))).collect();
    let plain = json!(events).to_string();
    config.load.body_bytes_max = 3 * plain.len();
    let edge = deployment.edge_with(embedded(dir.path()).await, None, config).await;
    let gzip = |text: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    };
    let send = |body: Vec<u8>| edge.post_as(BATCH, "content-encoding", "gzip", body);
    assert_eq!(send(gzip(plain.as_bytes())).await.json["accepted"], 500);
    // A small body that would grow to eight megabytes meets the bound of all bodies.
    let bomb = gzip(&vec![b' '; 8 << 20]);
    let refused = send(bomb).await;
    assert!(refused.asks_for_a_retry() && refused.reason() == "OVERLOADED", "{refused:?}");
    assert_eq!(send(gzip(plain.as_bytes())).await.json["duplicates"], 500, "room came back");
}
