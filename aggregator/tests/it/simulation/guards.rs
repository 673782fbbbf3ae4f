//! The guards of the write path, and that the simulation misses each.

use super::first_failure;
use weir_aggregator::protocol;

/// What keeps the promise: of the edge, of the protocol, and of what they stand on.
#[derive(Debug, Clone, Copy)]
pub struct Guards {
    pub edge: weir_ingest::Guards,
    pub protocol: protocol::Guards,
    /// The log confirms what it has, and nothing else.
    pub durable_before_answer: bool,
    /// An edge that starts reads the log's tail.
    pub tail_is_read: bool,
    /// An edge beside the aggregator's index asks it.
    pub index_is_asked: bool,
    /// Postgres refuses old epochs and other bounds.
    pub fencing: bool,
    /// No chunk behind a roll's end has a catalog from before the roll.
    pub catalog_floor: bool,
    /// ClickHouse drops a block under a token it has.
    pub tokens: bool,
    /// Only earlier positions make an event a repeat.
    pub earlier_position: bool,
}

impl Guards {
    /// Everything on.
    pub fn all() -> Self {
        Self {
            edge: weir_ingest::Guards::default(),
            protocol: protocol::Guards::default(),
            durable_before_answer: true,
            tail_is_read: true,
            index_is_asked: true,
            fencing: true,
            catalog_floor: true,
            tokens: true,
            earlier_position: true,
        }
    }
}

/// Seeds within which a guard that is off is noticed.
const SEEDS: u64 = 100;

#[test]
fn each_guard_switched_off_is_caught() {
    type Switch = fn(&mut Guards);
    let off: [(&str, Switch); 16] = [
        ("copies_wait", |guards| guards.edge.copies_wait = false),
        ("failed_claims_go", |guards| guards.edge.failed_claims_go = false),
        ("durable_before_answer", |guards| guards.durable_before_answer = false),
        ("tail_is_read", |guards| guards.tail_is_read = false),
        ("index_is_asked", |guards| guards.index_is_asked = false),
        ("redo_open_intent", |guards| guards.protocol.redo_open_intent = false),
        ("redo_with_its_catalog", |guards| guards.protocol.redo_with_its_catalog = false),
        ("intent_before_insert", |guards| guards.protocol.intent_before_insert = false),
        ("lease_before_insert", |guards| guards.protocol.lease_before_insert = false),
        ("catch_up_before_reading", |guards| guards.protocol.catch_up_before_reading = false),
        ("watermark_waits", |guards| guards.protocol.watermark_waits_for_log_end = false),
        ("token_outlives_epoch", |guards| guards.protocol.token_outlives_epoch = false),
        ("fencing", |guards| guards.fencing = false),
        ("catalog_floor", |guards| guards.catalog_floor = false),
        ("tokens", |guards| guards.tokens = false),
        ("earlier_position", |guards| guards.earlier_position = false),
    ];
    for (name, switch) in off {
        let mut guards = Guards::all();
        switch(&mut guards);
        let caught = first_failure(0..SEEDS, guards);
        let (seed, why) = caught.unwrap_or_else(|| panic!("{name} off: no seed notices"));
        println!("{name} off: seed {seed}: {}", why.lines().next().unwrap_or_default());
    }
}
