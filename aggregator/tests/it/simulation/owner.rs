//! An aggregator in the simulation: for each partition the real machine, index and rollup.

use super::{
    PARTITIONS, World,
    dice::Dice,
    fakes::{Claim, Refused, Rows, StoredConflict, StoredEvent, TOKENS_KEPT},
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use weir_aggregator::{
    Known,
    chunk::{Decoded, Limits},
    dedup::{Covered, Entry, Index, Rebuild, judge, new_entries},
    protocol::{CatalogAt, Command, Counts, Event, Machine, Settings},
    rollup::{Decision, conflict_rows, new_events, roll_up},
};
use weir_events::{FirstCopy, Position, event_id};

/// Small, so that a short run seals and merges.
const TABLE_IDS_MAX: usize = 12;

pub const SETTINGS: Settings = Settings {
    lease: Duration::from_millis(300),
    insert_timeout: Duration::from_millis(60),
    chunk_interval: Duration::from_millis(5),
    freshness: Duration::ZERO,
    chunk_interval_max: Duration::from_millis(5),
    mark_interval: Duration::from_millis(40),
    held_retry: Duration::from_millis(30),
    backoff_first: Duration::from_millis(2),
    backoff_max: Duration::from_millis(50),
};

/// A command that was issued, or its outcome on the way back.
enum Under {
    Way(Command, Duration),
    Return(Event),
}

/// One partition's task.
pub struct Task {
    owner: usize,
    partition: u32,
    dir: PathBuf,
    machine: Machine,
    /// Where an edge of this process asks.
    known: Arc<Known>,
    /// The version of the catalog that this process has seen.
    catalog_version: u64,
    index: Option<Index>,
    chunk: Option<Decoded>,
    decision: Option<Decision>,
    under: Under,
}

/// What goes wrong with one command.
#[derive(PartialEq, Eq)]
enum Fault {
    None,
    /// It does not happen, and that is said.
    Before,
    /// It happens, and the answer is lost.
    After,
}

impl Task {
    pub fn start(world: &World, owner: usize, partition: u32, known: &Arc<Known>) -> Self {
        let mut machine = Machine::with_guards(partition, SETTINGS, world.guards.protocol);
        let command = machine.start(world.now);
        Self {
            owner,
            partition,
            dir: world.dir.path().join(format!("{owner}-{partition}")),
            machine,
            known: Arc::clone(known),
            catalog_version: world.catalogs.newest(),
            index: None,
            chunk: None,
            decision: None,
            under: Under::Way(command, world.now),
        }
    }

    /// Takes one step: renews the lease, carries a command out, or takes its outcome in.
    pub fn step(&mut self, world: &mut World) {
        // Whichever comes first, as it is when a process goes on after a stop.
        if world.dice.chance(50) {
            self.renew(world);
        }
        let under = std::mem::replace(&mut self.under, Under::Return(Event::Failed));
        self.under = match under {
            Under::Way(Command::Wait { until }, issued) if world.now < until => {
                Under::Way(Command::Wait { until }, issued)
            }
            Under::Way(command, issued) => Under::Return(self.carry_out(world, &command, issued)),
            Under::Return(event) => match self.machine.handle(&event, world.now) {
                Some(command) => Under::Way(command, world.now),
                None => panic!("{event:?} left the machine without a command"),
            },
        };
    }

    fn renew(&mut self, world: &mut World) {
        let due = self.machine.renewal_at().is_some_and(|at| at <= world.now);
        let (true, Some(epoch)) = (due, self.machine.epoch()) else { return };
        let (now, stored_now) = (world.now, world.store_now());
        let row = &mut world.rows[self.partition as usize];
        let event = if world.faults && world.dice.chance(20) {
            Event::RenewalFailed
        } else if row.renew(epoch, stored_now, SETTINGS.lease) {
            Event::Renewed { sent_at: now }
        } else {
            Event::RenewalRefused
        };
        assert_eq!(self.machine.handle(&event, now), None);
    }

    fn carry_out(&mut self, world: &mut World, command: &Command, issued: Duration) -> Event {
        let fault = match world.faults.then(|| world.dice.roll(20)) {
            Some(0) => Fault::Before,
            Some(1) => Fault::After,
            _ => Fault::None,
        };
        // The client gives up; what is on the way may still arrive, but none begins after that.
        let late = world.now > issued + SETTINGS.insert_timeout;
        if fault == Fault::Before || matches!(command, Command::Insert { .. }) && late {
            return Event::Failed;
        }
        let event = match command {
            Command::Claim => self.claim(world),
            Command::CatchUp { to } => self.catch_up(world, *to),
            Command::Probe => world.probe(self.partition),
            Command::Mark { epoch, at_us } => world.mark(self.partition, *epoch, *at_us),
            Command::Read { from, to } => self.read(world, *from, *to),
            Command::Decide { catalog } => self.decide(world, *catalog),
            Command::Open { .. } if world.another_lags(self.partition) => Event::Failed,
            Command::Open { epoch, intent } => {
                let (now, next) = (world.store_now(), world.next_sequence());
                let row = &mut world.rows[self.partition as usize];
                let rolls = world.catalogs.rolls();
                let opened = row.open(&world.guards, (*epoch, next), *intent, now, rolls);
                unless_refused(opened, Event::Opened)
            }
            Command::Insert { token } => self.insert(world, token, fault == Fault::After),
            Command::Finish { epoch, intent, counts } => {
                let row = &mut world.rows[self.partition as usize];
                let finished = row.finish(&world.guards, *epoch, *intent, *counts);
                unless_refused(finished, Event::Finished)
            }
            Command::Remember { to } => {
                self.remember(*to);
                Event::Remembered
            }
            Command::Wait { .. } => Event::Waited,
        };
        match &event {
            // Also where the answer is lost: the index is there.
            Event::CaughtUp => {
                let reader = self.index().reader();
                self.known.set(self.partition, Some(reader));
            }
            Event::Held | Event::Fenced => self.known.set(self.partition, None),
            _ => {}
        }
        if fault == Fault::After { Event::Failed } else { event }
    }

    fn claim(&mut self, world: &mut World) -> Event {
        let now = world.store_now();
        let row = &mut world.rows[self.partition as usize];
        match row.claim(self.owner, now, SETTINGS.lease) {
            Some(Claim { epoch, committed, catalog_floor, open }) => {
                Event::Claimed { epoch, committed, catalog_floor, open, sent_at: world.now }
            }
            None => Event::Held,
        }
    }

    fn index(&mut self) -> &mut Index {
        let (dir, partition) = (&self.dir, self.partition);
        self.index.get_or_insert_with(|| Index::open(dir, partition, TABLE_IDS_MAX).unwrap())
    }

    fn catch_up(&mut self, world: &mut World, to: Position) -> Event {
        let log = &world.logs[self.partition as usize];
        let covered = self.index().covered_to();
        if covered >= to {
            return Event::CaughtUp;
        }
        if covered.offset() < log.start || world.dice.chance(15) {
            self.known.set(self.partition, None);
            self.index = None;
            self.index = Some(self.rebuild(world, to));
            return Event::CaughtUp;
        }
        let stored = (0..).zip(&log.records).skip(covered.offset() as usize);
        let stored = stored.take((to.offset() - covered.offset()) as usize);
        let stored = stored.map(|(offset, logged)| (offset, logged.bytes.as_ref()));
        let chunk = Decoded::decode(covered, stored, Limits::NONE);
        let verdicts = judge(&chunk.seen(), &self.index().find(chunk.ids()).unwrap());
        let entries = new_entries(&chunk.seen(), &verdicts);
        let covered = Covered { to, events: chunk.len() as u64, newest_us: 0 };
        self.index().remember(&entries, covered).unwrap();
        Event::CaughtUp
    }

    fn rebuild(&self, world: &World, to: Position) -> Index {
        let mut rebuild = Rebuild::start(&self.dir, self.partition, TABLE_IDS_MAX).unwrap();
        for row in &world.clickhouse.events.rows {
            if row.partition == self.partition && row.position < to {
                let (position, content_hash) = (row.position, row.content_hash);
                rebuild.add(Entry::new(row.id, FirstCopy { position, content_hash })).unwrap();
            }
        }
        rebuild.finish(to).unwrap()
    }

    fn read(&mut self, world: &mut World, from: Position, to: Option<Position>) -> Event {
        let log = &world.logs[self.partition as usize];
        if from.offset() < log.start {
            let committed = world.rows[self.partition as usize].committed;
            assert!(from < committed, "records that are not committed were released");
            // Of one who slept while another went on.
            return Event::Failed;
        }
        let most = match to {
            Some(to) => to.offset().saturating_sub(from.offset()),
            None => 1 + world.dice.roll(6),
        };
        let stored = (0..).zip(&log.records).skip(from.offset() as usize).take(most as usize);
        let stored = stored.map(|(offset, logged)| (offset, logged.bytes.as_ref()));
        let chunk = Decoded::decode(from, stored, Limits::NONE);
        let to = chunk.to();
        (self.chunk, self.decision) = (Some(chunk), None);
        Event::Read { to, full: false }
    }

    fn decide(&mut self, world: &mut World, catalog: CatalogAt) -> Event {
        let newest = world.catalogs.newest();
        let chunk = self.chunk.as_ref().unwrap();
        let catalog_version = match catalog {
            // What a process has seen may be behind, but not behind the records, and never goes
            // back.
            CatalogAt::AtLeast(floor) => {
                let least = self.catalog_version.max(chunk.catalog_version()).max(floor);
                // The first process hears of changes late.
                let looks = world.dice.chance(if self.owner == 0 { 3 } else { 50 });
                self.catalog_version =
                    least + if looks { world.dice.roll(newest - least + 1) } else { 0 };
                self.catalog_version
            }
            CatalogAt::Exactly(version) => version,
        };
        let (seen, ids) = (chunk.seen(), chunk.ids().to_vec());
        let known = self.index().find(&ids).unwrap();
        let chunk = self.chunk.as_ref().unwrap();
        let verdicts = if world.guards.earlier_position {
            judge(&seen, &known)
        } else {
            believe(&judge(&seen, &known), &known)
        };
        let decision = roll_up(chunk, verdicts, &**world.catalogs.at(catalog_version));
        let tally = decision.tally;
        let counts =
            Counts { events: tally.new, duplicates: tally.duplicates, conflicts: tally.conflicts };
        let to = chunk.to();
        self.decision = Some(decision);
        // Positions decide, so the index may hear of a chunk before it is finished; an edge that
        // asks it would hear of one that is lost again.
        if !world.together && world.dice.chance(20) {
            self.remember(to);
        }
        Event::Decided { catalog_version, counts }
    }

    fn insert(&mut self, world: &mut World, token: &str, partly: bool) -> Event {
        let (chunk, decision) = (self.chunk.as_ref().unwrap(), self.decision.as_ref().unwrap());
        let partition = self.partition;
        let rows = Rows {
            events: new_events(chunk, decision, partition)
                .into_iter()
                .map(|row| StoredEvent {
                    partition,
                    position: row.position,
                    id: event_id(row.organization, row.transaction_id),
                    content_hash: row.content_hash,
                    subscription: row.subscription,
                })
                .collect(),
            usage: decision.usage.clone(),
            values: decision.values.clone(),
            conflicts: conflict_rows(chunk, decision, partition)
                .iter()
                .map(|row| StoredConflict {
                    partition,
                    position: row.position,
                    first_position: row.first_position,
                })
                .collect(),
        };
        let tables = if partly { world.dice.roll(16) } else { 15 };
        world.clickhouse.insert(&world.guards, token, &rows, tables);
        if partly && world.dice.chance(50) {
            // What the client gave up on arrives a little later.
            let at = world.now + Duration::from_millis(world.dice.roll(60));
            world.late.push((at, token.to_owned(), rows));
        }
        Event::Inserted
    }

    fn remember(&mut self, to: Position) {
        let (chunk, decision) = (self.chunk.as_ref().unwrap(), self.decision.as_ref().unwrap());
        let entries = new_entries(&chunk.seen(), &decision.verdicts);
        let events = chunk.len() as u64;
        let index = self.index();
        index.remember(&entries, Covered { to, events, newest_us: 0 }).unwrap();
        if let Some(merge) = index.due_merge() {
            index.install(merge.run().unwrap()).unwrap();
        }
    }

    /// What the log may drop, as far as this task goes.
    pub fn sealed_to(&self, committed: Position) -> u64 {
        self.index.as_ref().map_or(0, |index| index.sealed_to().min(committed).offset())
    }

    /// It does not wait for its time.
    fn is_ready(&self, now: Duration) -> bool {
        !matches!(self.under, Under::Way(Command::Wait { until }, _) if now < until)
    }

    /// All is read and nothing is under way.
    pub fn is_idle(&self, world: &World) -> bool {
        let end = world.logs[self.partition as usize].records.len() as u64;
        self.machine.is_between_chunks() && self.machine.committed().offset() == end
    }
}

fn unless_refused(outcome: Result<(), Refused>, event: Event) -> Event {
    match outcome {
        Ok(()) => event,
        Err(Refused::CatalogTooOld { floor }) => Event::CatalogTooOld { catalog_floor: floor },
        Err(Refused::Fenced) => Event::Fenced,
    }
}

/// What a judge would say who takes every id of the index for an earlier copy.
fn believe(
    verdicts: &[weir_aggregator::dedup::Verdict],
    known: &[Option<FirstCopy>],
) -> Vec<weir_aggregator::dedup::Verdict> {
    use weir_aggregator::dedup::Verdict;
    let both = verdicts.iter().zip(known);
    both.map(|(verdict, known)| if known.is_some() { Verdict::Duplicate } else { *verdict })
        .collect()
}

/// A process with a task for each partition; it dies as a whole.
pub struct Process {
    owner: usize,
    pub known: Arc<Known>,
    pub tasks: Vec<Task>,
    /// Down until this instant.
    down_until: Option<Duration>,
    /// Without the processor until this instant, and until ClickHouse has so many blocks of events.
    stopped_until: Duration,
    stopped_for_blocks: u64,
}

impl Process {
    pub fn start(world: &World, owner: usize) -> Self {
        let known = Arc::new(Known::new(PARTITIONS));
        let task = |partition| Task::start(world, owner, partition, &known);
        let tasks = (0..PARTITIONS).map(task).collect();
        Self {
            owner,
            known,
            tasks,
            down_until: None,
            stopped_until: Duration::ZERO,
            stopped_for_blocks: 0,
        }
    }

    /// Kills it; its directories stay.
    pub fn kill(&mut self, until: Duration) {
        self.tasks.clear();
        self.known = Arc::new(Known::new(PARTITIONS));
        self.down_until = Some(until);
    }

    /// Stops it for a while, as a machine that swaps or is migrated does.
    pub fn stop(&mut self, until: Duration) {
        self.stopped_until = self.stopped_until.max(until);
    }

    /// Whether anything would happen if it had the processor now.
    pub fn is_awake(&self, world: &World) -> bool {
        if let Some(until) = self.down_until {
            return world.now >= until;
        }
        !self.is_stopped(world) && self.tasks.iter().any(|task| task.is_ready(world.now))
    }

    /// Killed meanwhile, it would not show what it does when it goes on.
    pub fn is_stopped(&self, world: &World) -> bool {
        world.now < self.stopped_until
            || world.faults && world.clickhouse.events.blocks < self.stopped_for_blocks
    }

    pub fn step(&mut self, world: &mut World, dice: &mut Dice) {
        match self.down_until {
            _ if !self.is_awake(world) => {}
            Some(_) => *self = Self::start(world, self.owner),
            None => {
                let mut at = dice.pick(self.tasks.len());
                if !self.tasks[at].is_ready(world.now) {
                    at = self.tasks.len() - 1 - at;
                }
                self.tasks[at].step(world);
                // Only the first process stops for long, so that there is somebody to take over.
                if self.owner == 0 {
                    self.stop_where_it_harms(at, world, dice);
                }
            }
        }
    }

    /// Stops where a command was in time when it was given and is not when it is carried out.
    fn stop_where_it_harms(&mut self, task: usize, world: &World, dice: &mut Dice) {
        match &self.tasks[task].under {
            // Until ClickHouse remembers no more of the chunk.
            Under::Return(Event::Opened) if dice.chance(8) => {
                let others = TOKENS_KEPT as u64 + dice.roll(6);
                self.stopped_for_blocks = world.clickhouse.events.blocks + others;
            }
            // Until another has the partition.
            Under::Way(Command::Open { .. } | Command::Finish { .. }, _) if dice.chance(4) => {
                self.stop(world.now + SETTINGS.lease + Duration::from_millis(dice.roll(300)));
            }
            _ => {}
        }
    }
}
