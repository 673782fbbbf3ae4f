//! A ClickHouse for the tests that read usage, and what they find in it.

use crate::world::{World, at};
use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};
use weir_events::{Position, event_id};
use weir_ids::{BillableMetricId, SubscriptionId};
use weir_money::Quantity;
use weir_usage::{
    Chunk, ClickHouse, EventBlock, EventRow, Latest, NewEvent, UsageRow, bucket_of,
    engine::{Engine, EngineOptions},
};

/// A database of its own on the engine that all tests share; the engine ends with this process.
pub async fn database() -> ClickHouse {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let options = EngineOptions { durable: false, ..EngineOptions::default() };
    let start = move || ENGINE.get_or_init(|| Engine::start(program(), &dir(), &options).unwrap());
    let engine = tokio::task::spawn_blocking(start).await.unwrap();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let database = engine.connect(&format!("test_{number}"));
    database.migrate().await.unwrap();
    database
}

/// `target/debug/examples/api-test-engine`, beside the directory of this test.
fn program() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    this.ancestors().nth(2).unwrap().join("examples/api-test-engine")
}

/// Nobody drops what a test binary shares, so the next run removes the directories of ended ones.
fn dir() -> PathBuf {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("weir-api");
    for old in std::fs::read_dir(&all).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(old.file_name()).exists() {
            let _shared = std::fs::remove_dir_all(old.path());
        }
    }
    all.join(std::process::id().to_string())
}

/// One event of a subscription, as the aggregator leaves it.
pub struct Used<'a> {
    pub transaction_id: &'a str,
    pub external_id: &'a str,
    pub subscription: &'a str,
    pub metric: &'a str,
    pub code: &'a str,
    pub time: &'a str,
    pub value: &'a str,
    pub properties: &'a str,
    /// The values of its metric's dimensions, as canonical JSON.
    pub group: &'a str,
}

/// Writes events and their share of usage.
pub async fn write(world: &World, usage: &ClickHouse, all: &[Used<'_>]) {
    static TOKEN: AtomicU64 = AtomicU64::new(0);
    let token = TOKEN.fetch_add(1, Ordering::Relaxed);
    let (mut chunk, mut events) = (Chunk::default(), Vec::new());
    for (index, used) in all.iter().enumerate() {
        let timestamp = at(used.time);
        let position = Position(token * 1_000 + index as u64);
        let value: Quantity = used.value.parse().unwrap();
        let subscription: SubscriptionId = used.subscription.parse().unwrap();
        events.push(EventRow {
            organization: world.organization,
            subscription: Some(subscription),
            external_subscription_id: Cow::Borrowed(used.external_id),
            code: Cow::Borrowed(used.code),
            transaction_id: Cow::Borrowed(used.transaction_id),
            event_id: event_id(world.organization, used.transaction_id),
            timestamp,
            received_at: timestamp,
            partition: 0,
            position,
            content_hash: 0,
            properties: Cow::Borrowed(used.properties),
        });
        chunk.usage.push(UsageRow {
            organization: world.organization,
            subscription,
            metric: used.metric.parse::<BillableMetricId>().unwrap(),
            bucket: bucket_of(timestamp),
            generation: 0,
            group: used.group.to_owned(),
            events: 1,
            total: value,
            greatest: value,
            latest: Latest { timestamp, received_at: timestamp, position, value },
            value_seconds: 0,
            changed_at: timestamp,
        });
    }
    let events: Vec<_> = events.iter().map(NewEvent::from).collect();
    chunk.events = EventBlock::of(&events).unwrap();
    usage.insert_chunk(&chunk, &format!("token-{token}")).await.unwrap();
}
