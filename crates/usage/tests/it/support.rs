//! The shared engine and rows with defaults.

use chrono::{DateTime, TimeDelta, Utc};
use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};
use weir_events::{Position, event_id};
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};
use weir_money::Quantity;
use weir_usage::{
    Chunk, ClickHouse, EventBlock, EventRow, Generations, Latest, Measure, Measures, MetricUsage,
    NewEvent, UsageRow, UsageValueRow, Window, bucket_of,
    engine::{Engine, EngineOptions},
};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_weir-usage-engine");
pub const ORGANIZATION: OrganizationId = OrganizationId::from_u128(0xA1);
pub const SUBSCRIPTION: SubscriptionId = SubscriptionId::from_u128(0xB1);
pub const METRIC: BillableMetricId = BillableMetricId::from_u128(0xC1);

static ENGINE: OnceLock<Engine> = OnceLock::new();

/// A database of its own on the engine that all tests share; the engine ends with this process.
pub async fn database() -> ClickHouse {
    let database = nameless().await;
    database.migrate().await.unwrap();
    database
}

/// The same before it is made.
pub async fn nameless() -> ClickHouse {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let engine = tokio::task::spawn_blocking(|| {
        ENGINE.get_or_init(|| {
            Engine::start(PROGRAM, &shared_dir(), &EngineOptions::default()).unwrap()
        })
    });
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    engine.await.unwrap().connect(&format!("test_{number}"))
}

/// What the shared engine answers to a statement in the database, as text; also an error.
pub async fn run(database: &ClickHouse, sql: &str) -> String {
    answer(ENGINE.get().unwrap(), Some(database.database()), sql).await
}

/// The same outside a database.
pub async fn run_outside(sql: &str) -> String {
    answer(ENGINE.get().unwrap(), None, sql).await
}

/// What an engine answers, as text; also an error.
pub async fn answer(engine: &Engine, database: Option<&str>, sql: &str) -> String {
    let mut client = clickhouse::Client::default()
        .with_url(engine.url())
        .with_user(engine.user())
        .with_password(engine.password());
    if let Some(database) = database {
        client = client.with_database(database);
    }
    match client.query_raw(sql).fetch_bytes("TSVRaw").unwrap().collect().await {
        Ok(answer) => String::from_utf8(answer.to_vec()).unwrap().trim_end().to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Nobody drops what a test binary shares, so the next run removes the directories of ended ones.
fn shared_dir() -> PathBuf {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("weir-usage");
    for old in std::fs::read_dir(&all).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(old.file_name()).exists() {
            let _shared = std::fs::remove_dir_all(old.path());
        }
    }
    all.join(std::process::id().to_string())
}

pub async fn own_engine(dir: &Path) -> Engine {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || {
        Engine::start(PROGRAM, &dir, &EngineOptions::default()).unwrap()
    })
    .await
    .unwrap()
}

/// How many events there are in the partition of [`event`]s.
pub async fn count_events(database: &ClickHouse) -> u64 {
    let (all, mut count) = (Position::from_u64(u64::MAX), 0);
    database.ids_of_partition(3, all, |_| count += 1).await.unwrap();
    count
}

pub fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

pub fn quantity(text: &str) -> Quantity {
    text.parse().unwrap()
}

pub fn event(number: u64) -> EventRow<'static> {
    let transaction_id = format!("transaction-{number}");
    EventRow {
        organization: ORGANIZATION,
        subscription: Some(SUBSCRIPTION),
        external_subscription_id: Cow::Borrowed("acme"),
        code: Cow::Borrowed("tokens"),
        event_id: event_id(ORGANIZATION, &transaction_id),
        transaction_id: Cow::Owned(transaction_id),
        timestamp: at("2026-03-01T10:00:00.000001Z") + TimeDelta::seconds(number.cast_signed()),
        received_at: at("2026-03-01T12:00:00.654321Z"),
        partition: 3,
        position: Position::from_u64(number),
        content_hash: number ^ u64::MAX,
        properties: Cow::Borrowed(r#"{"tokens": 9007199254740993, "region": "eu"}"#),
    }
}

/// The events as a chunk holds them.
pub fn block(rows: impl IntoIterator<Item = EventRow<'static>>) -> EventBlock {
    let rows: Vec<_> = rows.into_iter().collect();
    EventBlock::of(&rows.iter().map(NewEvent::from).collect::<Vec<_>>()).unwrap()
}

/// One event of this value at this time.
pub fn usage(time: &str, value: &str) -> UsageRow {
    let (at, value) = (at(time), quantity(value));
    let latest = Latest { timestamp: at, received_at: at, position: Position::ZERO, value };
    let since = i128::from((at - bucket_of(at)).num_microseconds().unwrap());
    UsageRow {
        organization: ORGANIZATION,
        subscription: SUBSCRIPTION,
        metric: METRIC,
        bucket: bucket_of(at),
        generation: 0,
        group: String::new(),
        events: 1,
        total: value,
        greatest: value,
        latest,
        value_seconds: value.scaled() * since,
        changed_at: at,
    }
}

pub fn value(time: &str, value: &str, added: bool) -> UsageValueRow {
    let at = at(time);
    UsageValueRow {
        organization: ORGANIZATION,
        subscription: SUBSCRIPTION,
        metric: METRIC,
        bucket: bucket_of(at),
        generation: 0,
        group: String::new(),
        value: value.to_owned(),
        timestamp: at,
        received_at: at,
        position: Position::ZERO,
        added,
    }
}

pub fn window(start: &str, end: &str) -> Window {
    (SUBSCRIPTION, at(start), at(end))
}

pub const MARCH: (&str, &str) = ("2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z");

/// The only group of the only metric of the only window, without rolls.
pub async fn one(database: &ClickHouse, span: (&str, &str)) -> MetricUsage {
    let mut all = used(database, span, &Generations::default()).await;
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// The subscription's usage under these generations.
pub async fn used(
    database: &ClickHouse,
    (start, end): (&str, &str),
    generations: &Generations,
) -> Vec<MetricUsage> {
    let windows = [window(start, end)];
    let all = database.usage(ORGANIZATION, &windows, &everything(), generations).await.unwrap();
    all.into_iter().map(Result::unwrap).collect()
}

/// All that can be read of the metrics that these tests use.
pub fn everything() -> Measures {
    let metrics = (1..=4).chain(0xC1..=0xC9).map(BillableMetricId::from_u128);
    metrics.flat_map(|metric| Measure::ALL.map(|measure| (metric, measure))).collect()
}

/// Each row in a chunk of its own, so that nothing is merged before it is written.
pub async fn insert_usage(database: &ClickHouse, rows: impl IntoIterator<Item = UsageRow>) {
    for row in rows {
        insert_some(database, Chunk { usage: vec![row], ..Chunk::default() }).await;
    }
}

/// The same for distinct values.
pub async fn insert_values(database: &ClickHouse, rows: impl IntoIterator<Item = UsageValueRow>) {
    for row in rows {
        insert_some(database, Chunk { values: vec![row], ..Chunk::default() }).await;
    }
}

/// Under a token that no other chunk has.
pub async fn insert_some(database: &ClickHouse, chunk: Chunk<'_>) {
    static TOKEN: AtomicU32 = AtomicU32::new(0);
    let token = TOKEN.fetch_add(1, Ordering::Relaxed);
    database.insert_chunk(&chunk, &format!("some-{token}")).await.unwrap();
}
