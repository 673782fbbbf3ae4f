//! The write path under every fault we know, compared with a plain sum.
//!
//! Senders post events to real edges ([`edge`]): new ones, repeats and other contents under the
//! same id, to two edges at once, and again where they have no answer. Two aggregators with the
//! real protocol, index and rollup contend for two partitions; or, as in `weir up`, one has the
//! edge in its process and lends it its index. Log, Postgres and ClickHouse are fakes with the
//! guarantees of the real ones ([`fakes`]). From a seed: edges and aggregators are killed or
//! stopped anywhere, for longer than their lease; the log refuses records, loses its answers, or
//! takes records later and twice; commands fail before or after they happened, inserts after some
//! of their tables; what a client gave up on arrives later; the catalog changes and metrics are
//! rolled; clocks jump; indexes are lost.
//!
//! A run fails if
//! - a sender hears `accepted`, `duplicate` or `conflict` and the log does not hold what that says,
//!   or `accepted` twice for one id from one edge;
//! - in the end an event that it heard of is not counted, any is counted twice or with another
//!   content than its first copy's, or a conflict was neither told nor listed;
//! - a row is not as its chunk's catalog has it, that catalog is older than what the edge judged
//!   by, or a chunk behind a roll's end leaves the roll out;
//! - chunks leave a gap or overlap, or a watermark was ahead of what was stored;
//! - a sender has no verdict, or a partition is not at the log's end, when the faults are long
//!   over.
//!
//! Each guard, switched off, is caught by some seed ([`guards`]). Not played: what an edge forgets
//! when it has seen thousands of ids, the roll's own chunks (`roll_model` has them), races between
//! threads.

mod catalog;
mod check;
mod dice;
mod edge;
mod fakes;
mod guards;
mod owner;
mod senders;

use catalog::Catalogs;
use dice::Dice;
use edge::Edge;
use fakes::{ClickHouse, Log, Logged, OPENED_SINCE_MAX, Row, Rows};
use guards::Guards;
use owner::Process;
use senders::{Copy, Senders};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use weir_aggregator::protocol::Event;
use weir_events::{Position, decode_record};
use weir_ids::OrganizationId;
use weir_log::{Append, LogError};

const PARTITIONS: u32 = 2;
const STEPS: u64 = 2_500;
/// A calm run needs a few hundred; one that does not end is stuck.
const CALM_STEPS: u64 = 20_000;
const ORGANIZATION: OrganizationId = OrganizationId::from_u128(77);
/// 2026-03-01T00:00:00Z.
const START_US: i64 = 1_772_323_200_000_000;

/// Everything but the processes.
pub struct World {
    dir: tempfile::TempDir,
    guards: Guards,
    now: Duration,
    /// How far Postgres' clock is ahead.
    store_ahead: Duration,
    dice: Dice,
    faults: bool,
    /// The edge is part of the one aggregator's process and asks its index.
    together: bool,
    senders: Senders,
    logs: Vec<Log>,
    /// What is in the log.
    durable: BTreeSet<Copy>,
    rows: Vec<Row>,
    /// When, in truth, Postgres' clock showed what became a partition's watermark.
    probed: BTreeMap<(u32, i64), Duration>,
    clickhouse: ClickHouse,
    catalogs: Catalogs,
    /// Inserts that arrive at an instant.
    late: Vec<(Duration, String, Rows)>,
    /// Records on their way to the log, given up by who sent them.
    delayed: Vec<Append>,
}

impl World {
    fn new(seed: u64, guards: Guards, together: bool) -> Self {
        // In memory where that is: the runs' syncs cost nothing then.
        let memory = std::path::Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self {
            dir: dir.unwrap(),
            guards,
            now: Duration::from_millis(1),
            store_ahead: Duration::from_secs(1),
            dice: Dice::new(seed),
            faults: true,
            together,
            senders: Senders::default(),
            logs: (0..PARTITIONS).map(|_| Log::default()).collect(),
            durable: BTreeSet::new(),
            rows: (0..PARTITIONS).map(|_| Row::default()).collect(),
            probed: BTreeMap::new(),
            clickhouse: ClickHouse::default(),
            catalogs: Catalogs::new(),
            late: Vec::new(),
            delayed: Vec::new(),
        }
    }

    /// What Postgres' clock shows.
    fn store_now(&self) -> Duration {
        self.now + self.store_ahead
    }

    fn probe(&mut self, partition: u32) -> Event {
        let (at_us, now) = (self.store_now().as_micros() as i64, self.now);
        self.probed.insert((partition, at_us), now);
        Event::Probed { at_us, end: self.logs[partition as usize].records.len() as u64 }
    }

    fn mark(&mut self, partition: u32, epoch: u64, at_us: i64) -> Event {
        let row = &mut self.rows[partition as usize];
        if !row.mark(epoch, at_us) {
            return Event::Fenced;
        }
        let instant = self.probed[&(partition, at_us)];
        let records = &self.logs[partition as usize].records;
        let before = records.iter().filter(|logged| logged.at < instant).count() as u64;
        assert!(
            row.committed >= Position::new(before, 0),
            "partition {partition}: watermark {at_us} says that {before} records are stored, \
             but {} are",
            row.committed
        );
        Event::Marked
    }

    fn next_sequence(&self) -> u64 {
        self.newest_sequence() + 1
    }

    fn newest_sequence(&self) -> u64 {
        self.rows.iter().map(|row| row.sequence).max().unwrap_or_default()
    }

    /// Whether another partition's open chunk is so old that ClickHouse could forget its token.
    fn another_lags(&self, partition: u32) -> bool {
        let others = (0..PARTITIONS).zip(&self.rows).filter(|(at, _)| *at != partition);
        let newest = self.newest_sequence();
        let mut open = others.filter_map(|(_, row)| row.open_sequence());
        open.any(|sequence| sequence + OPENED_SINCE_MAX < newest)
    }

    fn append(&mut self, record: Append) -> u64 {
        let Append { partition, bytes } = record;
        let record = decode_record(&bytes).unwrap();
        let logged = Logged { at: self.now, bytes, record };
        self.durable.extend(logged.copies());
        let records = &mut self.logs[partition as usize].records;
        records.push(logged);
        records.len() as u64 - 1
    }

    /// The log takes an edge's records; what it will answer for each.
    fn take_records(&mut self, records: Vec<Append>) -> Vec<Result<u64, LogError>> {
        let fault = if self.faults { self.dice.roll(25) } else { u64::MAX };
        let lies = !self.guards.durable_before_answer && self.dice.chance(5);
        let one = |record: Append| match fault {
            _ if lies => Ok(0),
            0 => Err(refused()),
            1 if self.dice.chance(50) => Err(refused()),
            2 => {
                self.append(record);
                Err(unknown())
            }
            3 => {
                self.delayed.push(record);
                Err(unknown())
            }
            4 => {
                self.delayed.push(record.clone());
                self.append(record);
                Err(unknown())
            }
            _ => Ok(self.append(record)),
        };
        records.into_iter().map(one).collect()
    }

    /// What is late arrives: inserts at their time, records at any.
    fn arrive(&mut self) {
        if !self.delayed.is_empty() && (!self.faults || self.dice.chance(1)) {
            let at = self.dice.pick(self.delayed.len());
            let record = self.delayed.swap_remove(at);
            self.append(record);
        }
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

    fn is_at_the_end(&self) -> bool {
        let at_end = |(log, row): (&Log, &Row)| {
            row.committed.offset() == log.records.len() as u64 && row.watermark_us.is_some()
        };
        self.late.is_empty()
            && self.delayed.is_empty()
            && self.logs.iter().zip(&self.rows).all(at_end)
    }
}

fn refused() -> LogError {
    LogError::Rejected(Arc::new(std::io::Error::other("refused")))
}

fn unknown() -> LogError {
    LogError::Unknown(Arc::new(std::io::Error::other("no answer")))
}

/// One run: the world and all that acts in it.
struct Play {
    world: World,
    dice: Dice,
    processes: Vec<Process>,
    /// None while it is down.
    edges: Vec<Option<Edge>>,
}

impl Play {
    fn new(seed: u64, guards: Guards) -> Self {
        let mut dice = Dice::new(seed ^ 0xd1ce);
        let together = dice.chance(25);
        let world = World::new(seed, guards, together);
        let count = if together { 1 } else { 2 };
        let processes = (0..count).map(|owner| Process::start(&world, owner)).collect();
        let edges = (0..count).map(|_| None).collect();
        Self { world, dice, processes, edges }
    }

    fn step(&mut self) {
        let Self { world, dice, processes, .. } = self;
        world.now += Duration::from_micros(200 + dice.roll(3_000));
        world.arrive();
        match dice.roll(1_000) {
            0..32 => self.post(),
            32..150 => self.reach_log(),
            150..156 => world.catalogs.change(dice),
            156..160 => self.kill(),
            160..162 => self.kill_edge(),
            162..166 => {
                if let Some(edge) = &mut self.edges[dice.pick(processes.len())] {
                    edge.lose_sender(world, dice);
                }
            }
            166..168 => world.store_ahead = Duration::from_millis(950 + dice.roll(100)),
            168..170 => {
                if let Some(edge) = &mut self.edges[dice.pick(processes.len())] {
                    edge.jump_clock(dice);
                }
            }
            170..172 => {
                let until = world.now + Duration::from_millis(dice.roll(600));
                processes[0].stop(until);
            }
            172..176 => world.release(processes),
            _ => self.step_process(),
        }
    }

    fn step_process(&mut self) {
        let mut at = self.dice.pick(self.processes.len());
        // One that stands still leaves the time to the other.
        if !self.processes[at].is_awake(&self.world) {
            at = self.processes.len() - 1 - at;
        }
        self.processes[at].step(&mut self.world, &mut self.dice);
    }

    /// A request goes to an edge, and some to two at once.
    fn post(&mut self) {
        let request = self.world.senders.request(&mut self.dice);
        if self.dice.chance(10) {
            self.post_to_any(request.clone());
        }
        self.post_to_any(request);
    }

    fn post_to_any(&mut self, request: Vec<Copy>) {
        let at = self.dice.pick(self.edges.len());
        match &mut self.edges[at] {
            Some(edge) => edge.post(&mut self.world, &mut self.dice, request),
            None => {
                let known = self.world.together.then(|| &self.processes[0].known);
                self.edges[at] = Edge::start(&self.world, &mut self.dice, known);
                self.world.senders.send_again(request);
            }
        }
    }

    fn reach_log(&mut self) {
        let at = self.dice.pick(self.edges.len());
        if let Some(edge) = &mut self.edges[at] {
            edge.reach_log(&mut self.world, &mut self.dice);
        }
    }

    fn kill(&mut self) {
        let until = self.world.now + Duration::from_millis(self.dice.roll(600));
        let at = self.dice.pick(self.processes.len());
        if self.processes[at].is_stopped(&self.world) {
            return;
        }
        self.processes[at].kill(until);
        if self.world.together {
            self.kill_edge();
        }
    }

    fn kill_edge(&mut self) {
        let at = self.dice.pick(self.edges.len());
        if let Some(edge) = self.edges[at].take() {
            edge.die(&mut self.world, &mut self.dice);
        }
    }

    /// Ends the faults and lets everything get to the log's end.
    fn calm_down(&mut self) {
        self.world.faults = false;
        for _ in 0..CALM_STEPS {
            self.world.now += Duration::from_millis(2);
            self.world.arrive();
            self.step_process();
            self.reach_log();
            if let Some(request) = self.world.senders.last_request() {
                self.post_to_any(request);
            } else if self.edges.iter().flatten().all(Edge::is_idle)
                && self.world.is_at_the_end()
                && self
                    .processes
                    .iter()
                    .flat_map(|process| &process.tasks)
                    .any(|task| task.is_idle(&self.world))
            {
                return;
            }
        }
        let committed: Vec<_> = self.world.rows.iter().map(|row| row.committed).collect();
        let records: Vec<_> = self.world.logs.iter().map(|log| log.records.len()).collect();
        let waiting = self.world.senders.waiting();
        panic!("stuck: {committed:?} of {records:?} records are stored, {waiting} requests wait");
    }
}

/// Plays a seed through and compares; the world as it is then. Panics where something is wrong.
fn simulate(seed: u64, guards: Guards) -> World {
    let mut play = Play::new(seed, guards);
    for _ in 0..STEPS {
        play.step();
    }
    play.calm_down();
    check::compare(&play.world);
    play.world
}

/// What went wrong with a seed, if anything.
fn failure(seed: u64, guards: Guards) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(|| simulate(seed, guards))).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
}

/// The first of the seeds that fails, and how. Played on all processors.
fn first_failure(seeds: Range<u64>, guards: Guards) -> Option<(u64, String)> {
    let (next, end) = (AtomicU64::new(seeds.start), AtomicU64::new(seeds.end));
    let play = || {
        let mut first = None;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) {
                return first;
            }
            if let Some(why) = failure(seed, guards) {
                // Only those before it can still be the first.
                end.fetch_min(seed, Ordering::Relaxed);
                first = Some((seed, why));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let players: Vec<_> = (0..threads).map(|_| scope.spawn(play)).collect();
        players.into_iter().filter_map(|player| player.join().unwrap()).min()
    })
}

/// Seeds to play: `WEIR_SIMULATION_SEEDS` of them, from `WEIR_SIMULATION_FIRST_SEED` on.
fn seeds() -> Range<u64> {
    let number = |name: &str, default| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let first = number("WEIR_SIMULATION_FIRST_SEED", 0);
    first..first + number("WEIR_SIMULATION_SEEDS", 2_000)
}

#[test]
fn every_seed_ends_with_the_plain_sum() {
    if let Some((seed, failure)) = first_failure(seeds(), Guards::all()) {
        panic!("seed {seed}: {failure}");
    }
}

#[test]
fn a_seed_plays_the_same_every_time() {
    let played = |seed| {
        let world = simulate(seed, Guards::all());
        let records = world.logs.iter().flat_map(|log| &log.records);
        let records: Vec<_> = records.map(|logged| (logged.at, logged.bytes.clone())).collect();
        let watermarks: Vec<_> = world.rows.iter().map(|row| row.watermark_us).collect();
        (records, watermarks, world.clickhouse.events.rows, world.now)
    };
    for seed in 0..10 {
        assert!(played(seed) == played(seed), "seed {seed}");
    }
}
