//! Whatever is changed, voided, rolled and killed, in any order: in the end every event counts once
//! for each metric of its code, under the generation that readers take.
//!
//! Postgres and the catalog are real; the log and ClickHouse are lists, and counting an event writes
//! its id. A run fails when, once all is written and rolled, an event that counts is there not
//! exactly once in the generation in effect, or one that does not count is there at all.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgPool};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use weir_catalog::{Catalog, Snapshot, Targets};
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};
use weir_runtime::{Clock, Shutdown};
use weir_store::intents::{self, ChunkCounts, Intent};
use weir_store::rolls::{self, PartitionRoll, Roll, RollChunk, RollKind, RollState};
use weir_store::voids::{self, Void};
use weir_store::{PgConnection, StoreError, partitions};

const ORGANIZATION: OrganizationId = OrganizationId::from_u128(0xAC);
const PARTITIONS: u32 = 2;
const LEASE: Duration = Duration::from_secs(600);
const CODES: [&str; 2] = ["calls", "tokens"];
const SUBSCRIPTIONS: [&str; 3] = ["first", "second", "third"];
const STEPS: u32 = 200;

#[derive(Debug, Clone)]
struct Event {
    id: String,
    code: &'static str,
    subscription: &'static str,
    /// Which quarter of an hour.
    quarter: i64,
    /// Of the catalog that let it in: whoever writes it must know at least that.
    version: u64,
}

/// Counts one event for one metric in one cell under one generation.
type Row = (BillableMetricId, SubscriptionId, i64, u64, String);

/// Numbers that look random, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.below(sides) == 0
    }
}

struct World {
    pool: PgPool,
    catalog: Arc<Catalog>,
    dice: Dice,
    lenient: bool,
    log: [Vec<Event>; PARTITIONS as usize],
    epochs: [u64; PARTITIONS as usize],
    /// What each owner knows of the catalog; it may be old.
    known: [Arc<Snapshot>; PARTITIONS as usize],
    /// Raw events in ClickHouse are those before this.
    raw_to: [u64; PARTITIONS as usize],
    rows: Vec<Row>,
    /// Tokens that ClickHouse has seen.
    tokens: BTreeSet<String>,
    metrics_made: u128,
    subscriptions_made: usize,
    voided: BTreeSet<String>,
}

fn quarter(number: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_200 + number * 900, 0).unwrap()
}

async fn run(pool: &PgPool, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap();
}

fn uuid(bits: u128) -> String {
    format!("'{bits:032x}'")
}

impl World {
    async fn new(pool: PgPool, seed: u64, lenient: bool) -> Self {
        let id = uuid(ORGANIZATION.as_u128());
        run(
            &pool,
            format!(
                "INSERT INTO organizations (id, name, document_number_prefix, lenient,
                     ever_lenient, created_at)
                 VALUES ({id}, 'Acme', 'ACM-0001', {lenient}, {lenient}, now());
                 INSERT INTO customers (organization_id, id, external_id, sequential_id,
                     created_at, updated_at)
                 VALUES ({id}, {id}, 'customer', 1, now(), now());
                 INSERT INTO plans (organization_id, id, code, name, created_at, updated_at)
                 VALUES ({id}, {id}, 'plan', 'plan', now(), now())"
            ),
        )
        .await;
        let mut conn = pool.acquire().await.unwrap();
        partitions::ensure(&mut conn, PARTITIONS).await.unwrap();
        for partition in 0..PARTITIONS {
            partitions::claim(&mut conn, partition, "owner", LEASE).await.unwrap().unwrap();
        }
        drop(conn);
        let shutdown = Shutdown::new();
        let catalog = Catalog::start(pool.clone(), Clock::real(), shutdown.clone()).await.unwrap();
        // From here on it is asked by hand.
        shutdown.cancel();
        let known = [catalog.snapshot(), catalog.snapshot()];
        let mut world = Self {
            pool,
            catalog,
            dice: Dice(seed),
            lenient,
            log: [Vec::new(), Vec::new()],
            epochs: [1, 1],
            known,
            raw_to: [0, 0],
            rows: Vec::new(),
            tokens: BTreeSet::new(),
            metrics_made: 0,
            subscriptions_made: 0,
            voided: BTreeSet::new(),
        };
        world.make_subscription().await;
        world.make_metric().await;
        world.make_metric().await;
        world
    }

    async fn conn(&self) -> sqlx::pool::PoolConnection<sqlx::Postgres> {
        self.pool.acquire().await.unwrap()
    }

    async fn make_subscription(&mut self) {
        let Some(name) = SUBSCRIPTIONS.get(self.subscriptions_made) else { return };
        self.subscriptions_made += 1;
        let (organization, id) =
            (uuid(ORGANIZATION.as_u128()), uuid(self.subscriptions_made as u128));
        let sql = format!(
            "INSERT INTO subscriptions (organization_id, id, customer_id, plan_id, external_id,
                 started_at, created_at, updated_at)
             VALUES ({organization}, {id}, {organization}, {organization}, '{name}', '2026-01-01Z',
                 now(), now())"
        );
        run(&self.pool, sql).await;
    }

    async fn make_metric(&mut self) {
        if self.metrics_made == 6 {
            return;
        }
        self.metrics_made += 1;
        let code = CODES[usize::from(self.metrics_made.is_multiple_of(2))];
        let (organization, id) = (uuid(ORGANIZATION.as_u128()), uuid(self.metrics_made));
        let sql = format!(
            "INSERT INTO billable_metrics (organization_id, id, name, code, event_code,
                 aggregation, created_at, updated_at)
             VALUES ({organization}, {id}, 'm', {id}, '{code}', 'count', now(), now())"
        );
        run(&self.pool, sql).await;
    }

    async fn change_metric(&mut self) {
        let id = uuid(1 + self.dice.below(6) as u128);
        let change = match self.dice.below(8) {
            0 | 2 => format!("event_code = '{}'", CODES[self.dice.below(2)]),
            1 => "deleted_at = now()".to_owned(),
            _ => format!("group_keys = array_append(group_keys, 'key {}')", self.dice.below(100)),
        };
        let sql =
            format!("UPDATE billable_metrics SET {change} WHERE id = {id} AND deleted_at IS NULL");
        run(&self.pool, sql).await;
    }

    /// An event that the edge lets in.
    async fn send(&mut self) {
        let snapshot = self.catalog.refresh().await.unwrap();
        let code = CODES[self.dice.below(2)];
        let subscription = SUBSCRIPTIONS[self.dice.below(3)];
        let known = !snapshot.metrics(ORGANIZATION, code).is_empty()
            && snapshot.subscription(ORGANIZATION, subscription).is_some();
        if !known && !self.lenient {
            return;
        }
        let partition = self.dice.below(PARTITIONS as usize);
        let id = format!("{partition}/{}", self.log[partition].len());
        let (quarter, version) = (self.dice.below(3) as i64, snapshot.version);
        self.log[partition].push(Event { id, code, subscription, quarter, version });
    }

    /// Voids an event that can be seen in ClickHouse.
    async fn void(&mut self) {
        let partition = self.dice.below(PARTITIONS as usize);
        let raw = usize::try_from(self.raw_to[partition]).unwrap();
        if raw == 0 {
            return;
        }
        let event = self.log[partition][self.dice.below(raw)].clone();
        self.voided.insert(event.id.clone());
        let void = Void {
            organization: ORGANIZATION,
            transaction_id: event.id,
            external_subscription_id: event.subscription.to_owned(),
            code: event.code.to_owned(),
            timestamp: quarter(event.quarter),
            voided_at: quarter(100),
            voided_by: "test".to_owned(),
            reason: None,
            generation: None,
        };
        voids::insert(&mut *self.conn().await, &void).await.unwrap();
    }

    /// Writes under a token; once, however often it is said.
    fn insert(&mut self, token: String, rows: Vec<Row>) {
        if self.tokens.insert(token) {
            self.rows.extend(rows);
        }
    }

    fn events(&self, partition: u32, from: u64, to: u64) -> Vec<Event> {
        let at = |position: u64| usize::try_from(position).unwrap();
        self.log[partition as usize][at(from)..at(to)].to_vec()
    }

    /// A new owner takes the partition over and writes again what was open.
    async fn take_over(&mut self, partition: u32) {
        let mut conn = self.conn().await;
        let claim = partitions::claim(&mut conn, partition, "owner", LEASE).await;
        let claim = claim.unwrap().unwrap();
        self.epochs[partition as usize] = claim.epoch;
        self.known[partition as usize] = self.catalog.at_least(claim.catalog_floor).await.unwrap();
        if let Some(open) = intents::adopt(&mut conn, partition, claim.epoch).await.unwrap() {
            drop(conn);
            self.write(open).await;
        }
    }

    /// The next live chunk of a partition, with the catalog that its owner knows. `to_the_end`: all
    /// there is, with the newest.
    async fn live(&mut self, partition: u32, to_the_end: bool) {
        let mut conn = self.conn().await;
        let all = partitions::list(&mut conn).await.unwrap();
        let from = all[partition as usize].committed;
        let left = self.log[partition as usize].len() - usize::try_from(from).unwrap();
        if left == 0 {
            return;
        }
        let chunk = if to_the_end { left } else { 1 + self.dice.below(left) };
        let to = from + chunk as u64;
        if to_the_end || self.dice.one_in(3) {
            self.known[partition as usize] = self.catalog.refresh().await.unwrap();
        }
        let least = self.events(partition, from, to).iter().map(|event| event.version).max();
        if self.known[partition as usize].version < least.unwrap() {
            self.known[partition as usize] = self.catalog.at_least(least.unwrap()).await.unwrap();
        }
        let intent = Intent {
            partition,
            from,
            to,
            catalog_version: self.known[partition as usize].version,
            epoch: self.epochs[partition as usize],
        };
        match intents::open(&mut conn, &intent).await {
            Ok(()) => {}
            Err(StoreError::CatalogTooOld { floor, .. }) => {
                self.known[partition as usize] = self.catalog.at_least(floor).await.unwrap();
                return;
            }
            Err(StoreError::Fenced { .. }) => {
                drop(conn);
                return self.take_over(partition).await;
            }
            Err(error) => panic!("{error:?}"),
        }
        drop(conn);
        if to_the_end || !self.dice.one_in(4) {
            self.write(intent).await;
        }
    }

    /// Inserts an open chunk and finishes it, if it is not killed in between.
    async fn write(&mut self, intent: Intent) {
        let Intent { partition, from, to, catalog_version, .. } = intent;
        let snapshot = self.catalog.as_of(catalog_version).await.unwrap();
        let events = self.events(partition, from, to);
        let rows = count(&snapshot, &events, |metric, subscription, bucket| {
            let metrics = CODES.iter().flat_map(|code| snapshot.metrics(ORGANIZATION, code));
            let entry = metrics.clone().find(|entry| (entry.id, entry.generation) == metric);
            snapshot.targets(ORGANIZATION, entry.unwrap(), subscription, quarter(bucket))
        });
        self.insert(format!("{partition}-{from}-{to}"), rows);
        self.raw_to[partition as usize] = self.raw_to[partition as usize].max(to);
        if self.dice.one_in(4) {
            return;
        }
        let counts = ChunkCounts { events: to - from, duplicates: 0, conflicts: 0 };
        intents::finish(&mut *self.conn().await, &intent, &counts).await.unwrap();
    }

    /// One step of one roll in one partition.
    async fn roll(&mut self, roll: &Roll, partition: u32, to_the_end: bool) {
        let epoch = self.epochs[partition as usize];
        let mut conn = self.conn().await;
        let taken = rolls::take_up(&mut conn, roll.generation, partition, epoch).await;
        let part = match taken {
            Ok(Some(part)) if !part.finished => part,
            Ok(_) => return,
            Err(StoreError::Fenced { .. }) => {
                drop(conn);
                return self.take_over(partition).await;
            }
            Err(error) => panic!("{error:?}"),
        };
        let left = part.to - part.done_to;
        let chunk = if to_the_end { left } else { 1 + self.dice.below(left as usize) as u64 };
        let to = part.open_to.unwrap_or(part.done_to + chunk);
        let chunk =
            RollChunk { generation: roll.generation, partition, from: part.done_to, to, epoch };
        if rolls::open_chunk(&mut conn, &chunk).await.unwrap() != RollState::Rolling {
            return;
        }
        if !to_the_end && self.dice.one_in(4) {
            return;
        }
        let rows = self.rolled(&mut conn, roll, &part, &chunk).await;
        self.insert(format!("roll-{}-{partition}-{}-{to}", roll.generation, chunk.from), rows);
        if to_the_end || !self.dice.one_in(4) {
            rolls::finish_chunk(&mut conn, &chunk).await.unwrap();
        }
    }

    async fn rolled(
        &self,
        conn: &mut PgConnection,
        roll: &Roll,
        part: &PartitionRoll,
        chunk: &RollChunk,
    ) -> Vec<Row> {
        let snapshot = self.catalog.as_of(part.catalog_version).await.unwrap();
        let mut events = self.events(chunk.partition, chunk.from, chunk.to);
        let ids: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
        let voids = voids::find_many(conn, ORGANIZATION, &ids).await.unwrap();
        let counts = |id: &str| {
            let first = voids.get(id).and_then(|void| void.generation);
            first.is_none_or(|first| first > roll.generation)
        };
        events.retain(|event| counts(&event.id));
        count(&snapshot, &events, |(metric, generation), subscription, bucket| {
            let covered = match &roll.kind {
                RollKind::Metric { metric: own } => (metric, generation) == (*own, roll.generation),
                RollKind::Subscriptions { subscriptions } => {
                    subscriptions.iter().any(|own| own.id == subscription)
                }
                RollKind::Cells { cells } => cells.contains(&(subscription, quarter(bucket))),
            };
            if covered { Targets::only(roll.generation) } else { Targets::default() }
        })
    }

    async fn step(&mut self) {
        let partition = u32::try_from(self.dice.below(PARTITIONS as usize)).unwrap();
        match self.dice.below(20) {
            0..=5 => self.send().await,
            6..=9 => self.live(partition, false).await,
            10..=13 => {
                let rolling = rolls::rolling(&mut *self.conn().await).await.unwrap();
                for roll in rolling {
                    self.roll(&roll, partition, false).await;
                }
            }
            14..=15 => drop(rolls::start_due(&mut *self.conn().await).await.unwrap()),
            16 => self.change_metric().await,
            17 => match self.dice.below(4) {
                0 => self.make_subscription().await,
                _ => self.make_metric().await,
            },
            18 => self.void().await,
            _ => self.take_over(partition).await,
        }
    }

    /// Writes and rolls all that is left.
    async fn settle(&mut self) {
        loop {
            for partition in 0..PARTITIONS {
                self.take_over(partition).await;
                self.live(partition, true).await;
            }
            let mut conn = self.conn().await;
            rolls::start_due(&mut conn).await.unwrap();
            let rolling = rolls::rolling(&mut conn).await.unwrap();
            let unsettled = rolls::unsettled(&mut conn).await.unwrap();
            let behind = partitions::list(&mut conn).await.unwrap();
            let behind = behind
                .iter()
                .zip(&self.log)
                .any(|(partition, log)| usize::try_from(partition.committed).unwrap() < log.len());
            drop(conn);
            if unsettled.is_empty() && !behind {
                return;
            }
            for roll in rolling {
                for partition in 0..PARTITIONS {
                    self.roll(&roll, partition, true).await;
                }
            }
        }
    }

    /// What readers see: how often each event counts for each metric.
    async fn seen(&self) -> BTreeMap<(BillableMetricId, String), u32> {
        let ids: Vec<_> =
            (1..=SUBSCRIPTIONS.len()).map(|id| SubscriptionId::from_u128(id as u128)).collect();
        let mut conn = self.conn().await;
        let found = rolls::generations(&mut conn, ORGANIZATION, &ids).await.unwrap();
        let effective = |metric, subscription, bucket| {
            let metrics = found.metrics.iter().filter(|one| one.0 == metric).map(|one| one.1);
            let whole =
                found.subscriptions.iter().filter(|one| one.0 == subscription).map(|one| one.1);
            let cells = found.cells.iter();
            let cells = cells.filter(|one| (one.0, one.1) == (subscription, quarter(bucket)));
            metrics.chain(whole).chain(cells.map(|one| one.2)).max().unwrap_or(0)
        };
        let mut seen = BTreeMap::new();
        for (metric, subscription, bucket, generation, event) in &self.rows {
            if *generation == effective(*metric, *subscription, *bucket) {
                *seen.entry((*metric, event.clone())).or_default() += 1;
            }
        }
        seen
    }
}

/// Counts events by the catalog, where `targets` says, for metrics named by id and generation.
fn count(
    snapshot: &Snapshot,
    events: &[Event],
    targets: impl Fn((BillableMetricId, u64), SubscriptionId, i64) -> Targets,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for event in events {
        let at_us = quarter(event.quarter).timestamp_micros();
        let found = snapshot.subscription_at(ORGANIZATION, event.subscription, at_us);
        let Some(subscription) = found else { continue };
        for metric in snapshot.metrics(ORGANIZATION, event.code) {
            let to = targets((metric.id, metric.generation), subscription, event.quarter);
            rows.extend(to.iter().map(|generation| {
                (metric.id, subscription, event.quarter, generation, event.id.clone())
            }));
        }
    }
    rows
}

async fn every_event_counts_once(pool: PgPool, seed: u64, lenient: bool) {
    // For looking further than a test run does.
    let more = std::env::var("WEIR_GENERATIONS_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed ^ more.unwrap_or(0);
    let mut world = World::new(pool, seed, lenient).await;
    for _ in 0..STEPS {
        world.step().await;
    }
    world.settle().await;
    let snapshot = world.catalog.refresh().await.unwrap();
    let all: Vec<Event> = world.log.iter().flatten().cloned().collect();
    let counted = count(&snapshot, &all, |(_, generation), _, _| Targets::only(generation));
    let counted = counted.into_iter().filter(|row| !world.voided.contains(&row.4));
    let expected: BTreeMap<_, _> = counted.map(|row| ((row.0, row.4), 1)).collect();
    let mut seen = world.seen().await;
    // Of a deleted metric nothing more is billed.
    let live: BTreeSet<_> = CODES
        .iter()
        .flat_map(|code| snapshot.metrics(ORGANIZATION, code))
        .map(|metric| metric.id)
        .collect();
    seen.retain(|(metric, _), _| live.contains(metric));
    let rolled = rolls::progress(&mut *world.conn().await, ORGANIZATION).await.unwrap();
    let rolled = rolled.iter().filter(|roll| roll.state == RollState::Done).count();
    assert!(
        more.is_some() || all.len() > 20 && !expected.is_empty() && rolled > 1,
        "seed {seed}: nothing happened"
    );
    assert_eq!(seen, expected, "seed {seed}, lenient {lenient}");
}

macro_rules! seeds {
    ($($name:ident: $seed:literal, $lenient:literal;)+) => {$(
        #[sqlx::test(migrations = "../../migrations/postgres")]
        async fn $name(pool: PgPool) {
            every_event_counts_once(pool, $seed, $lenient).await;
        }
    )+};
}

seeds! {
    strict_1: 0x9E37_79B9_7F4A_7C15, false;
    strict_2: 0xD1B5_4A32_D192_ED03, false;
    strict_3: 0x2545_F491_4F6C_DD1D, false;
    lenient_1: 0x9E37_79B9_7F4A_7C15, true;
    lenient_2: 0xD1B5_4A32_D192_ED03, true;
    lenient_3: 0x2545_F491_4F6C_DD1D, true;
}
