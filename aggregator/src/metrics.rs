//! The aggregator's metrics, declared once.

use crate::rollup::Tally;
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use std::time::Duration;

const PARTITION_OWNED: &str = "aggregator_partition_owned";
const LAG_RECORDS: &str = "aggregator_lag_records";
const LAG_EVENTS: &str = "aggregator_lag_events";
const LAG_SECONDS: &str = "aggregator_lag_seconds";
const WATERMARK_AGE_SECONDS: &str = "aggregator_watermark_age_seconds";
const EVENTS_TOTAL: &str = "aggregator_events_total";
const FIELDS_MISSING_TOTAL: &str = "aggregator_fields_missing_total";
const CHUNKS_TOTAL: &str = "aggregator_chunks_total";
const CHUNK_EVENTS: &str = "aggregator_chunk_events";
const INSERT_SECONDS: &str = "aggregator_insert_seconds";
const DECIDE_SECONDS: &str = "aggregator_decide_seconds";
const DEDUP_IDS: &str = "aggregator_dedup_ids";
const DEDUP_MEMORY_BYTES: &str = "aggregator_dedup_memory_bytes";
const DEDUP_REBUILDS_TOTAL: &str = "aggregator_dedup_rebuilds_total";
const DEDUP_CATCH_UP_SECONDS: &str = "aggregator_dedup_catch_up_seconds";
const DEDUP_FORGOTTEN_TOTAL: &str = "aggregator_dedup_forgotten_ids_total";
const LIVE_AGGREGATORS: &str = "aggregator_live_aggregators";
const PARTITIONS_WANTED: &str = "aggregator_partitions_wanted";
const PARTITION_MOVES_TOTAL: &str = "aggregator_partition_moves_total";
const VERIFIER_BEHIND_CHUNKS: &str = "aggregator_verifier_behind_chunks";
const RECORDS_DROPPED_TOTAL: &str = "aggregator_records_dropped_total";
const ERRORS_TOTAL: &str = "aggregator_errors_total";
const CHUNKS_VERIFIED_TOTAL: &str = "aggregator_chunks_verified_total";
const CHUNKS_DIFFERING_TOTAL: &str = "aggregator_chunks_differing_total";
const ROLLS_UNDER_WAY: &str = "aggregator_rolls_under_way";
const ROLLS_STARTED_TOTAL: &str = "aggregator_rolls_started_total";
const ROLL_PARTITIONS_TOTAL: &str = "aggregator_roll_partitions_total";
const ROLL_EVENTS_TOTAL: &str = "aggregator_roll_events_total";
const ROLL_CHUNK_SECONDS: &str = "aggregator_roll_chunk_seconds";

/// Why a record was passed over.
const UNREADABLE: &str = "unreadable";

/// What can fail and is tried again: the closed set of the label `operation`.
const OPERATIONS: [&str; 17] = [
    "claim",
    "renew",
    "catch_up",
    "probe",
    "mark",
    "read",
    "decide",
    "open",
    "insert",
    "finish",
    "remember",
    "merge",
    "open_index",
    "verify",
    "balance",
    "roll",
    "retire",
];

/// Gives every metric its help text, and every counter its zero, so that the first increase is
/// seen as one. Call once the recorder is installed.
pub fn describe() {
    describe_gauge!(PARTITION_OWNED, "1 where this process holds the partition, else 0");
    describe_gauge!(LAG_RECORDS, "Log records of a partition not yet in ClickHouse");
    describe_gauge!(
        LAG_EVENTS,
        "Events of a partition not yet in ClickHouse: lag in records times events a record"
    );
    describe_gauge!(LAG_SECONDS, Unit::Seconds, "Age of the oldest event not yet in ClickHouse");
    describe_gauge!(
        WATERMARK_AGE_SECONDS,
        Unit::Seconds,
        "Age of a partition's watermark; before the first one, time since the partition was taken"
    );
    describe_counter!(EVENTS_TOTAL, "Events read, by what became of them");
    describe_counter!(FIELDS_MISSING_TOTAL, "Events not counted by a metric for want of its field");
    describe_counter!(CHUNKS_TOTAL, "Chunks written");
    describe_histogram!(CHUNK_EVENTS, "Events of a chunk");
    describe_histogram!(INSERT_SECONDS, Unit::Seconds, "Time to insert a chunk");
    describe_histogram!(DECIDE_SECONDS, Unit::Seconds, "Time to judge and roll up a chunk");
    describe_gauge!(DEDUP_IDS, "Ids in a partition's index");
    describe_gauge!(DEDUP_MEMORY_BYTES, Unit::Bytes, "Memory of a partition's index");
    describe_counter!(DEDUP_REBUILDS_TOTAL, "Indexes built again, by where from");
    describe_histogram!(
        DEDUP_CATCH_UP_SECONDS,
        Unit::Seconds,
        "Time to bring an index up to what is stored; its partition stands still meanwhile"
    );
    describe_counter!(DEDUP_FORGOTTEN_TOTAL, "Ids forgotten because the window has passed them");
    describe_gauge!(LIVE_AGGREGATORS, "Aggregators that share the partitions, as this one sees it");
    describe_gauge!(PARTITIONS_WANTED, "Partitions that this process holds or is to claim");
    describe_counter!(PARTITION_MOVES_TOTAL, "Partitions claimed, and released to others");
    describe_gauge!(VERIFIER_BEHIND_CHUNKS, "Chunks written and not verified yet");
    describe_counter!(RECORDS_DROPPED_TOTAL, "Log records that could not be read, by reason");
    describe_counter!(ERRORS_TOTAL, "Failures that are tried again, by what failed");
    describe_counter!(CHUNKS_VERIFIED_TOTAL, "Chunks whose stored rows were counted");
    describe_counter!(CHUNKS_DIFFERING_TOTAL, "Chunks whose stored rows differ from their intent");
    describe_gauge!(ROLLS_UNDER_WAY, "Rolls under way in the whole deployment");
    describe_counter!(ROLLS_STARTED_TOTAL, "Rolls that this process started");
    describe_counter!(
        ROLL_PARTITIONS_TOTAL,
        "Partitions of rolls that this process worked on to their end, by outcome"
    );
    describe_counter!(ROLL_EVENTS_TOTAL, "Raw events read again for rolls");
    describe_histogram!(
        ROLL_CHUNK_SECONDS,
        Unit::Seconds,
        "Time to read, roll up and insert a chunk of a roll"
    );
    start_at_zero();
}

fn start_at_zero() {
    for name in [
        CHUNKS_TOTAL,
        FIELDS_MISSING_TOTAL,
        CHUNKS_VERIFIED_TOTAL,
        CHUNKS_DIFFERING_TOTAL,
        DEDUP_FORGOTTEN_TOTAL,
        ROLLS_STARTED_TOTAL,
        ROLL_EVENTS_TOTAL,
    ] {
        counter!(name).increment(0);
    }
    for outcome in ["new", "unmatched", "duplicate", "conflict"] {
        counter!(EVENTS_TOTAL, "outcome" => outcome).increment(0);
    }
    for direction in ["claimed", "released"] {
        counter!(PARTITION_MOVES_TOTAL, "direction" => direction).increment(0);
    }
    for source in ["log", "clickhouse"] {
        counter!(DEDUP_REBUILDS_TOTAL, "from" => source).increment(0);
    }
    for outcome in ["computed", "ended"] {
        counter!(ROLL_PARTITIONS_TOTAL, "outcome" => outcome).increment(0);
    }
    gauge!(VERIFIER_BEHIND_CHUNKS).set(0.0);
    counter!(RECORDS_DROPPED_TOTAL, "reason" => UNREADABLE).increment(0);
    for operation in OPERATIONS {
        counter!(ERRORS_TOTAL, "operation" => operation).increment(0);
    }
}

/// How far ClickHouse is behind the log.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lag {
    pub records: u64,
    pub events: u64,
    /// Of the oldest.
    pub age: Duration,
}

/// The metrics of one partition.
#[derive(Debug, Clone)]
pub(crate) struct PartitionMetrics {
    partition: String,
}

impl PartitionMetrics {
    pub fn new(partition: u32) -> Self {
        Self { partition: partition.to_string() }
    }

    pub fn lag(&self, lag: Lag) {
        gauge!(PARTITION_OWNED, "partition" => self.partition.clone()).set(1.0);
        gauge!(LAG_RECORDS, "partition" => self.partition.clone()).set(lag.records as f64);
        gauge!(LAG_EVENTS, "partition" => self.partition.clone()).set(lag.events as f64);
        gauge!(LAG_SECONDS, "partition" => self.partition.clone()).set(lag.age.as_secs_f64());
    }

    /// Another process has the partition, or none: what this one knew of it counts no more.
    pub fn not_owned(&self) {
        self.lag(Lag::default());
        self.watermark_age(Duration::ZERO);
        self.index(0, 0);
        gauge!(PARTITION_OWNED, "partition" => self.partition.clone()).set(0.0);
    }

    pub fn watermark_age(&self, age: Duration) {
        gauge!(WATERMARK_AGE_SECONDS, "partition" => self.partition.clone()).set(age.as_secs_f64());
    }

    pub fn index(&self, ids: u64, memory_bytes: usize) {
        gauge!(DEDUP_IDS, "partition" => self.partition.clone()).set(ids as f64);
        gauge!(DEDUP_MEMORY_BYTES, "partition" => self.partition.clone()).set(memory_bytes as f64);
    }
}

pub(crate) fn chunk_done(events: u64, tally: &Tally) {
    counter!(CHUNKS_TOTAL).increment(1);
    histogram!(CHUNK_EVENTS).record(events as f64);
    let outcomes = [
        ("new", tally.new - tally.unmatched),
        ("unmatched", tally.unmatched),
        ("duplicate", tally.duplicates),
        ("conflict", tally.conflicts),
    ];
    for (outcome, count) in outcomes {
        counter!(EVENTS_TOTAL, "outcome" => outcome).increment(count);
    }
    counter!(FIELDS_MISSING_TOTAL).increment(tally.fields_missing);
}

pub(crate) fn inserted(elapsed: Duration) {
    histogram!(INSERT_SECONDS).record(elapsed.as_secs_f64());
}

pub(crate) fn decided(elapsed: Duration) {
    histogram!(DECIDE_SECONDS).record(elapsed.as_secs_f64());
}

pub(crate) fn index_rebuilt(source: &'static str) {
    counter!(DEDUP_REBUILDS_TOTAL, "from" => source).increment(1);
}

/// How long a partition stood still for its index.
pub(crate) fn index_caught_up(elapsed: Duration) {
    histogram!(DEDUP_CATCH_UP_SECONDS).record(elapsed.as_secs_f64());
}

pub(crate) fn ids_forgotten(ids: u64) {
    counter!(DEDUP_FORGOTTEN_TOTAL).increment(ids);
}

pub(crate) fn partition_claimed() {
    counter!(PARTITION_MOVES_TOTAL, "direction" => "claimed").increment(1);
}

pub(crate) fn partition_released() {
    counter!(PARTITION_MOVES_TOTAL, "direction" => "released").increment(1);
}

pub(crate) fn balance(aggregators: usize, wanted: usize) {
    gauge!(LIVE_AGGREGATORS).set(aggregators as f64);
    gauge!(PARTITIONS_WANTED).set(wanted as f64);
}

pub(crate) fn verifier_behind(chunks: u64) {
    gauge!(VERIFIER_BEHIND_CHUNKS).set(chunks as f64);
}

pub(crate) fn record_unreadable() {
    counter!(RECORDS_DROPPED_TOTAL, "reason" => UNREADABLE).increment(1);
}

pub(crate) fn failed(operation: &'static str) {
    counter!(ERRORS_TOTAL, "operation" => operation).increment(1);
}

pub(crate) fn verified(chunks: u64, differing: u64) {
    counter!(CHUNKS_VERIFIED_TOTAL).increment(chunks);
    counter!(CHUNKS_DIFFERING_TOTAL).increment(differing);
}

pub(crate) fn rolls_under_way(rolls: usize) {
    gauge!(ROLLS_UNDER_WAY).set(rolls as f64);
}

pub(crate) fn rolls_started(rolls: u64) {
    counter!(ROLLS_STARTED_TOTAL).increment(rolls);
}

pub(crate) fn roll_chunk_done(events: u64, elapsed: Duration) {
    counter!(ROLL_EVENTS_TOTAL).increment(events);
    histogram!(ROLL_CHUNK_SECONDS).record(elapsed.as_secs_f64());
}

/// `outcome`: `computed`, or `ended` where the roll had ended before.
pub(crate) fn roll_partition(outcome: &'static str) {
    counter!(ROLL_PARTITIONS_TOTAL, "outcome" => outcome).increment(1);
}
