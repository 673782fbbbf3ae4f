//! The real parts: embedded log, ClickHouse engine, Postgres, and an aggregator on them.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::PgPool;
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use weir_aggregator::{Aggregator, AggregatorDeps, AggregatorError, Config};
use weir_catalog::Catalog;
use weir_events::{
    EventId, KnownIds, Position, RecordEvent, RecordHeader, encode_record, event_id, partition_of,
};
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};
use weir_log::{Append, EmbeddedLog, EmbeddedOptions, EventLog};
use weir_runtime::{Clock, Shutdown};
use weir_usage::{
    ClickHouse, Generations, Measure, MetricUsage,
    engine::{Engine, EngineOptions},
};

pub const ORGANIZATION: OrganizationId = OrganizationId::from_u128(0xA1);
pub const SUBSCRIPTION: SubscriptionId = SubscriptionId::from_u128(0xB1);
/// Sums the property `tokens` of events with the code `tokens`.
pub const SUM: BillableMetricId = BillableMetricId::from_u128(0xC1);
/// Counts the distinct values of `user`.
pub const USERS: BillableMetricId = BillableMetricId::from_u128(0xC2);
pub const PARTITIONS: u32 = 3;

/// 2026-03-01T10:00:00Z.
pub const START_US: i64 = 1_772_359_200_000_000;
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The engine's program belongs to another package, which cargo does not build for this one.
/// `WEIR_ENGINE_PROGRAM` names one that is there already.
fn engine_program() -> PathBuf {
    if let Some(program) = std::env::var_os("WEIR_ENGINE_PROGRAM") {
        return program.into();
    }
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "-p", "weir-usage", "--bin", "weir-usage-engine"]);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "weir-usage-engine does not build");
    profile.join("weir-usage-engine")
}

/// Nobody drops what a test binary shares, so the next run removes the directories of ended ones.
fn shared_dir() -> PathBuf {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("weir-aggregator");
    for old in std::fs::read_dir(&all).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(old.file_name()).exists() {
            let _shared = std::fs::remove_dir_all(old.path());
        }
    }
    all.join(std::process::id().to_string())
}

/// A database of its own on the engine that all tests share; the engine ends with this process.
pub async fn clickhouse() -> ClickHouse {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let engine = tokio::task::spawn_blocking(|| {
        ENGINE.get_or_init(|| {
            Engine::start(engine_program(), &shared_dir(), &EngineOptions::default()).unwrap()
        })
    });
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let database = engine.await.unwrap().connect(&format!("aggregator_{number}"));
    database.migrate().await.unwrap();
    database
}

/// An event as a test sends it.
#[derive(Debug, Clone)]
pub struct Sent {
    pub transaction_id: String,
    pub tokens: String,
    pub user: u64,
    pub content_hash: u64,
}

impl Sent {
    /// Event `number`, with `number` tokens.
    pub fn new(number: u64) -> Self {
        Self {
            transaction_id: format!("t-{number}"),
            tokens: number.to_string(),
            user: number % 7,
            content_hash: number,
        }
    }

    pub fn id(&self) -> EventId {
        event_id(ORGANIZATION, &self.transaction_id)
    }
}

/// Everything an aggregator needs; it outlives any number of them.
pub struct Parts {
    dir: tempfile::TempDir,
    pub log: Arc<dyn EventLog>,
    pub usage: ClickHouse,
    pub pool: PgPool,
    pub catalog: Arc<Catalog>,
    shutdown: Shutdown,
}

impl Parts {
    pub async fn new(pool: PgPool) -> Self {
        write_catalog(&pool).await;
        Self::over(pool).await
    }

    /// On a catalog that is there.
    pub async fn over(pool: PgPool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log_dir = dir.path().join("log");
        let options = EmbeddedOptions::default();
        let log = EmbeddedLog::open(&log_dir, PARTITIONS, options).unwrap();
        let shutdown = Shutdown::new();
        let catalog = Catalog::start(pool.clone(), Clock::real(), shutdown.clone()).await.unwrap();
        Self { dir, log: Arc::new(log), usage: clickhouse().await, pool, catalog, shutdown }
    }

    /// Of the aggregator `one`.
    pub fn index_dir(&self) -> PathBuf {
        self.dir.path().join("index-one")
    }

    /// Starts an aggregator with small tables, so that a short test seals and merges.
    pub async fn aggregator(&self, owner: &str) -> (Aggregator, Shutdown) {
        self.try_aggregator(owner).await.unwrap()
    }

    pub async fn try_aggregator(
        &self,
        owner: &str,
    ) -> Result<(Aggregator, Shutdown), AggregatorError> {
        let shutdown = self.shutdown.child_token();
        let mut config = Config::default();
        config.index.table_ids_max = 40;
        config.chunk.events_max = 150;
        config.chunk.interval_ms = 20;
        config.chunk.fresh_ms = 20;
        config.balance.interval_ms = 50;
        config.watermark.interval_ms = 100;
        config.verify.interval_ms = 100;
        config.roll.rows_max = 70;
        config.roll.retire_interval_seconds = 1;
        let deps = AggregatorDeps {
            log: Arc::clone(&self.log),
            usage: self.usage.clone(),
            pool: self.pool.clone(),
            catalog: Arc::clone(&self.catalog),
            clock: Clock::real(),
            index_dir: self.dir.path().join(format!("index-{owner}")),
            owner: owner.to_owned(),
            config,
        };
        Ok((Aggregator::start(deps, shutdown.clone()).await?, shutdown))
    }

    /// Appends events in records of up to ten; returns when they are durable.
    pub async fn send(&self, events: &[Sent]) {
        let mut by_partition: Vec<Vec<&Sent>> = vec![Vec::new(); PARTITIONS as usize];
        for event in events {
            by_partition[partition_of(event.id(), PARTITIONS) as usize].push(event);
        }
        let mut records = Vec::new();
        for (partition, events) in (0..).zip(by_partition) {
            for events in events.chunks(10) {
                let bytes = self.record(events);
                records.push(Append { partition, bytes });
            }
        }
        for appended in self.log.append(records).await {
            appended.unwrap();
        }
    }

    fn record(&self, events: &[&Sent]) -> Bytes {
        let properties: Vec<String> = events
            .iter()
            .map(|event| format!(r#"{{"tokens":"{}","user":{}}}"#, event.tokens, event.user))
            .collect();
        let events: Vec<RecordEvent<'_>> = events
            .iter()
            .zip(&properties)
            .map(|(event, properties)| RecordEvent {
                transaction_id: &event.transaction_id,
                external_subscription_id: "acme",
                code: "tokens",
                timestamp_us: START_US + event.content_hash as i64 * 1_000_000,
                content_hash: event.content_hash,
                properties,
            })
            .collect();
        let header = RecordHeader {
            organization: ORGANIZATION,
            received_at_us: Clock::real().now().timestamp_micros(),
            catalog_version: self.catalog.snapshot().version,
        };
        encode_record(&header, &events).into()
    }

    /// Records of all partitions that are in ClickHouse.
    pub async fn committed(&self) -> u64 {
        let mut connection = self.pool.acquire().await.unwrap();
        let partitions = weir_store::partitions::list(&mut connection).await.unwrap();
        partitions.iter().map(|partition| partition.committed >> 16).sum()
    }

    /// Records in the log.
    pub async fn sent(&self) -> u64 {
        let mut end = 0;
        for partition in 0..PARTITIONS {
            end += self.log.end(partition).await.unwrap();
        }
        end
    }

    /// Waits until everything in the log is in ClickHouse.
    pub async fn wait_for_all(&self) {
        self.wait_for_records(self.sent().await).await;
    }

    /// Waits until so many records are in ClickHouse.
    pub async fn wait_for_records(&self, records: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.committed().await < records {
            assert!(Instant::now() < deadline, "{} of {records} records", self.committed().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the index covers the log: it hears of a chunk just after Postgres.
    pub async fn wait_for_index(&self, known: &dyn KnownIds) {
        let deadline = Instant::now() + PATIENCE;
        for partition in 0..PARTITIONS {
            let end = self.log.end(partition).await.unwrap();
            while known.covered_to(partition).offset() < end {
                assert!(Instant::now() < deadline, "the index of {partition} stays behind");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Waits until the watermark has passed an instant of the database's clock.
    pub async fn wait_for_watermark(&self, at: DateTime<Utc>) {
        let deadline = Instant::now() + PATIENCE;
        let mut connection = self.pool.acquire().await.unwrap();
        loop {
            let watermark = weir_store::partitions::min_watermark(&mut connection).await.unwrap();
            if watermark.is_some_and(|watermark| watermark >= at) {
                return;
            }
            assert!(Instant::now() < deadline, "watermark {watermark:?}, wanted {at}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How many events ClickHouse holds.
    pub async fn count_events(&self) -> u64 {
        let (all, mut count) = (Position::from_u64(u64::MAX), 0);
        for partition in 0..PARTITIONS {
            self.usage.ids_of_partition(partition, all, |_| count += 1).await.unwrap();
        }
        count
    }

    pub async fn usage_of(&self, metric: BillableMetricId) -> MetricUsage {
        let day = DateTime::from_timestamp_micros(START_US).unwrap();
        let window =
            (SUBSCRIPTION, day - chrono::TimeDelta::days(1), day + chrono::TimeDelta::days(30));
        let measures = Measure::ALL.map(|measure| (metric, measure)).into_iter().collect();
        let none = Generations::default();
        let usage = self.usage.usage(ORGANIZATION, &[window], &measures, &none).await.unwrap();
        let of_metric = usage.into_iter().map(Result::unwrap);
        of_metric.into_iter().find(|usage| usage.metric == metric).unwrap()
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// The catalog's history as its triggers write it, without the rows behind it.
async fn write_catalog(pool: &PgPool) {
    for (id, aggregation, field) in [(SUM, "sum", "tokens"), (USERS, "unique_count", "user")] {
        sqlx::query(
            "INSERT INTO catalog_metrics
             VALUES ($1::text::uuid, $2::text::uuid, 'tokens', $3, $4, 1, NULL)",
        )
        .bind(uuid(id.as_u128()))
        .bind(uuid(ORGANIZATION.as_u128()))
        .bind(aggregation)
        .bind(field)
        .execute(pool)
        .await
        .unwrap();
    }
    sqlx::query(
        "INSERT INTO catalog_subscriptions
         VALUES ($1::text::uuid, $2::text::uuid, 'acme', '2026-01-01T00:00:00Z', NULL, 1, NULL)",
    )
    .bind(uuid(SUBSCRIPTION.as_u128()))
    .bind(uuid(ORGANIZATION.as_u128()))
    .execute(pool)
    .await
    .unwrap();
    sqlx::query("UPDATE catalog_version SET version = 1").execute(pool).await.unwrap();
}

fn uuid(bits: u128) -> String {
    format!("{bits:032x}")
}
