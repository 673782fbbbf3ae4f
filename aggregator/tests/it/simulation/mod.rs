//! The write path under every fault we know, compared with a plain sum.
//!
//! Two processes with the real protocol, index and rollup contend for two partitions. Log, Postgres,
//! ClickHouse and catalog are fakes with the guarantees of the real ones ([`fakes`]). From a seed:
//! events are sent, repeated, contradicted and delayed; processes are killed or stopped anywhere,
//! for longer than their lease; commands fail before or after they happened, inserts after some of
//! their tables; what a client gave up on arrives later; the catalog changes; indexes are lost.
//!
//! A run fails if in the end an event is missing or counted twice, a conflict is not listed, a row
//! is not as its chunk's catalog has it, chunks leave a gap or overlap, a watermark was ahead of
//! what was stored, or a partition does not get to the log's end once the faults are over.
//!
//! Each guard of the protocol, switched off, is caught by some seed.

mod check;
mod dice;
mod fakes;
mod owner;

use chrono::DateTime;
use dice::Dice;
use fakes::{Catalog, ClickHouse, Log, Row, Rows};
use owner::Process;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};
use weir_aggregator::protocol::{self, Event};
use weir_catalog::Aggregation;
use weir_events::{Position, RecordEvent, RecordHeader, encode_record, event_id, partition_of};
use weir_ids::{OrganizationId, SubscriptionId};

const PARTITIONS: u32 = 2;
const PROCESSES: usize = 2;
const STEPS: u64 = 3_000;
/// A calm run needs a few hundred; one that does not end is stuck.
const CALM_STEPS: u64 = 40_000;
const ORGANIZATION: OrganizationId = OrganizationId::from_u128(77);
/// 2026-03-01T00:00:00Z.
const START_US: i64 = 1_772_323_200_000_000;

/// What keeps the promise: of the protocol, and of what it stands on.
#[derive(Debug, Clone, Copy)]
pub struct Guards {
    protocol: protocol::Guards,
    /// Postgres refuses old epochs and other bounds.
    fencing: bool,
    /// ClickHouse drops a block under a token it has.
    tokens: bool,
    /// Only earlier positions make an event a repeat.
    earlier_position: bool,
}

/// Everything but the processes.
pub struct World {
    dir: tempfile::TempDir,
    guards: Guards,
    now: Duration,
    dice: Dice,
    faults: bool,
    logs: Vec<Log>,
    rows: Vec<Row>,
    clickhouse: ClickHouse,
    catalogs: Vec<Catalog>,
    /// Inserts that arrive at an instant.
    late: Vec<(Duration, String, Rows)>,
    /// Records that a sender or network holds back.
    delayed: Vec<(u32, Vec<u8>)>,
    transactions: u64,
}

impl World {
    fn new(seed: u64, guards: Guards) -> Self {
        let mut catalog = Catalog::default();
        for (number, aggregation) in
            (1..).zip([Aggregation::Count, Aggregation::Sum, Aggregation::UniqueCount])
        {
            catalog.add_metric("a", number, aggregation);
        }
        catalog.add_metric("b", 10, Aggregation::Max);
        catalog.add_metric("b", 11, Aggregation::Latest);
        for number in 0..3 {
            let id = SubscriptionId::from_u128(500 + number);
            catalog.add_subscription(format!("s{number}"), id);
        }
        // In memory where that is: the runs' syncs cost nothing then.
        let memory = std::path::Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self {
            dir: dir.unwrap(),
            guards,
            now: Duration::from_millis(1),
            dice: Dice::new(seed),
            faults: true,
            logs: (0..PARTITIONS).map(|_| Log::default()).collect(),
            rows: (0..PARTITIONS).map(|_| Row::default()).collect(),
            clickhouse: ClickHouse::default(),
            catalogs: vec![catalog],
            late: Vec::new(),
            delayed: Vec::new(),
            transactions: 0,
        }
    }

    fn mark(&mut self, partition: u32, epoch: u64, at_us: i64) -> Event {
        let row = &mut self.rows[partition as usize];
        if !row.mark(epoch, at_us) {
            return Event::Fenced;
        }
        let accepted_before = self.logs[partition as usize]
            .records
            .iter()
            .filter(|(at, _)| (at.as_micros() as i64) < at_us)
            .count() as u64;
        assert!(
            row.committed >= Position::new(accepted_before, 0),
            "partition {partition}: watermark {at_us} says that {accepted_before} records are \
             stored, but {} are",
            row.committed
        );
        Event::Marked
    }

    /// Sends a few events: new ones, repeats, and repeats with another content.
    fn send(&mut self) {
        let count = 1 + self.dice.roll(4);
        for _ in 0..count {
            let repeat = self.transactions > 0 && self.dice.chance(35);
            let number = if repeat {
                self.dice.roll(self.transactions)
            } else {
                self.transactions += 1;
                self.transactions - 1
            };
            let content = if repeat && self.dice.chance(30) { 1 + self.dice.roll(3) } else { 0 };
            let (partition, record) = self.record(number, content);
            if self.dice.chance(10) {
                self.delayed.push((partition, record));
            } else {
                self.append(partition, record);
            }
        }
        if !self.delayed.is_empty() && self.dice.chance(20) {
            let at = self.dice.pick(self.delayed.len());
            let (partition, record) = self.delayed.swap_remove(at);
            self.append(partition, record);
        }
    }

    fn append(&mut self, partition: u32, record: Vec<u8>) {
        self.logs[partition as usize].records.push((self.now, record));
    }

    /// The record of transaction `number`, whose first content is 0.
    fn record(&self, number: u64, content: u64) -> (u32, Vec<u8>) {
        let mut facts = Dice::new(number * 8 + content);
        let transaction_id = format!("t{number}");
        let header = RecordHeader {
            organization: ORGANIZATION,
            received_at_us: START_US + self.now.as_micros() as i64,
            catalog_version: self.catalogs.len() as u64 - 1,
        };
        let properties = match facts.roll(8) {
            0 => "{}".to_owned(),
            1 => r#"{"v":"not a number"}"#.to_owned(),
            2 => format!(r#"{{"v":{},"operation_type":"remove"}}"#, facts.roll(5)),
            _ => format!(r#"{{"v":{}.{:03}}}"#, facts.roll(20) as i64 - 5, facts.roll(1000)),
        };
        let event = RecordEvent {
            transaction_id: &transaction_id,
            external_subscription_id: ["s0", "s1", "s2", "nobody"][facts.pick(4)],
            code: ["a", "b", "c"][facts.pick(3)],
            timestamp_us: START_US + facts.roll(3_600_000_000) as i64,
            content_hash: content,
            properties: &properties,
        };
        let partition = partition_of(event_id(ORGANIZATION, &transaction_id), PARTITIONS);
        (partition, encode_record(&header, &[event]))
    }

    /// A new metric, or the end of a subscription.
    fn change_catalog(&mut self) {
        let mut catalog = self.catalogs[self.catalogs.len() - 1].clone();
        if self.dice.chance(50) {
            let number = 100 + self.catalogs.len() as u128;
            catalog.add_metric(["a", "b", "c"][self.dice.pick(3)], number, Aggregation::Sum);
        } else {
            let ends_at_us = START_US + self.dice.roll(3_600_000_000) as i64;
            let ended = ["s0", "s1", "s2"][self.dice.pick(3)];
            if let Some(span) = catalog.subscriptions.get_mut(ended) {
                span.ended_at = DateTime::from_timestamp_micros(ends_at_us);
            }
        }
        self.catalogs.push(catalog);
    }

    fn arrive(&mut self) {
        let now = self.now;
        let (due, later) = self.late.drain(..).partition(|(at, ..)| *at <= now);
        self.late = later;
        let due: Vec<(Duration, String, Rows)> = due;
        for (_, token, rows) in due {
            self.clickhouse.insert(&self.guards, &token, &rows, 15);
        }
    }

    /// The log drops what the owner of the partition no longer needs.
    fn release(&mut self, processes: &[Process]) {
        for (partition, (log, row)) in self.logs.iter_mut().zip(&self.rows).enumerate() {
            let tasks = processes.iter().filter_map(|process| process.tasks.get(partition));
            if let Some(sealed) = tasks.map(|task| task.sealed_to(row.committed)).max() {
                log.start = log.start.max(sealed);
            }
        }
    }
}

/// Plays a seed through and compares. Panics where something is wrong.
fn simulate(seed: u64, guards: Guards) {
    let mut world = World::new(seed, guards);
    let mut dice = Dice::new(seed ^ 0xd1ce);
    let mut processes: Vec<_> = (0..PROCESSES).map(|owner| Process::start(&world, owner)).collect();
    for _ in 0..STEPS {
        world.now += Duration::from_micros(200 + dice.roll(3_000));
        world.arrive();
        match dice.roll(1_000) {
            0..100 => world.send(),
            100..108 => world.change_catalog(),
            108..112 => {
                let until = world.now + Duration::from_millis(dice.roll(200));
                processes[dice.pick(PROCESSES)].kill(until);
            }
            // Only one of the two sleeps for long, so that there is always somebody to take over:
            // the tokens that are kept are enough for a lease, not for ever.
            112..114 => {
                let until = world.now + Duration::from_millis(dice.roll(3_000));
                processes[0].sleep(world.now, until);
            }
            114..118 => world.release(&processes),
            _ => processes[dice.pick(PROCESSES)].step(&mut world, &mut dice),
        }
    }
    calm_down(&mut world, &mut processes, &mut dice);
    check::compare(&world);
}

/// Ends the faults and lets everything get to the log's end.
fn calm_down(world: &mut World, processes: &mut [Process], dice: &mut Dice) {
    world.faults = false;
    for (partition, record) in std::mem::take(&mut world.delayed) {
        world.append(partition, record);
    }
    for _ in 0..CALM_STEPS {
        world.now += Duration::from_millis(1);
        world.arrive();
        processes[dice.pick(PROCESSES)].step(world, dice);
        let stored = world
            .logs
            .iter()
            .zip(&world.rows)
            .all(|(log, row)| row.committed.offset() == log.records.len() as u64);
        let marked = world.rows.iter().all(|row| row.watermark_us.is_some());
        let idle = processes.iter().flat_map(|process| &process.tasks);
        if stored && marked && world.late.is_empty() && idle.clone().any(|task| task.is_idle(world))
        {
            return;
        }
    }
    let committed: Vec<_> = world.rows.iter().map(|row| row.committed).collect();
    let records: Vec<_> = world.logs.iter().map(|log| log.records.len()).collect();
    panic!("stuck: {committed:?} of {records:?} records");
}

/// What went wrong with a seed, if anything.
fn failure(seed: u64, guards: Guards) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(|| simulate(seed, guards))).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
}

/// Seeds to play: `WEIR_SIMULATION_SEEDS` of them, from `WEIR_SIMULATION_FIRST_SEED` on.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str, default| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let first = number("WEIR_SIMULATION_FIRST_SEED", 0);
    first..first + number("WEIR_SIMULATION_SEEDS", 300)
}

#[test]
fn every_seed_ends_with_the_plain_sum() {
    for seed in seeds() {
        if let Some(failure) = failure(seed, Guards::all()) {
            panic!("seed {seed}: {failure}");
        }
    }
}

#[test]
fn each_guard_switched_off_is_caught() {
    type Switch = fn(&mut Guards);
    let off: [(&str, Switch); 10] = [
        ("redo_open_intent", |guards| guards.protocol.redo_open_intent = false),
        ("redo_with_its_catalog", |guards| guards.protocol.redo_with_its_catalog = false),
        ("intent_before_insert", |guards| guards.protocol.intent_before_insert = false),
        ("lease_before_insert", |guards| guards.protocol.lease_before_insert = false),
        ("catch_up_before_reading", |guards| guards.protocol.catch_up_before_reading = false),
        ("watermark_waits", |guards| guards.protocol.watermark_waits_for_log_end = false),
        ("token_outlives_epoch", |guards| guards.protocol.token_outlives_epoch = false),
        ("fencing", |guards| guards.fencing = false),
        ("tokens", |guards| guards.tokens = false),
        ("earlier_position", |guards| guards.earlier_position = false),
    ];
    // The failures that are wanted need not be printed.
    for (name, switch) in off {
        let mut guards = Guards::all();
        switch(&mut guards);
        let caught = (0..3_000).find_map(|seed| failure(seed, guards).map(|why| (seed, why)));
        let (seed, why) = caught.unwrap_or_else(|| panic!("{name} off: no seed notices"));
        println!("{name} off: seed {seed}: {}", why.lines().next().unwrap_or_default());
    }
}
