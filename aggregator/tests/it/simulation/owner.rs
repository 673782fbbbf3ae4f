//! An aggregator in the simulation: for each partition the real machine, index and rollup.

use super::{
    Guards, PARTITIONS, World,
    dice::Dice,
    fakes::{Rows, StoredConflict, StoredEvent},
};
use std::{path::PathBuf, time::Duration};
use weir_aggregator::{
    chunk::{Decoded, Limits},
    dedup::{Covered, Entry, Index, Rebuild, judge, new_entries},
    protocol::{CatalogAt, Command, Counts, Event, Machine, Settings},
    rollup::{Decision, conflict_rows, event_rows, roll_up},
};
use weir_events::{FirstCopy, Position};

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
    index: Option<Index>,
    chunk: Option<Decoded>,
    decision: Option<Decision>,
    under: Under,
    /// Not run before this instant, as if the process were stopped.
    asleep_until: Duration,
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
    pub fn start(world: &World, owner: usize, partition: u32) -> Self {
        let mut machine = Machine::with_guards(partition, SETTINGS, world.guards.protocol);
        let command = machine.start(world.now);
        Self {
            owner,
            partition,
            dir: world.dir.path().join(format!("{owner}-{partition}")),
            machine,
            index: None,
            chunk: None,
            decision: None,
            under: Under::Way(command, world.now),
            asleep_until: Duration::ZERO,
        }
    }

    /// Takes one step: renews the lease, carries a command out, or takes its outcome in.
    pub fn step(&mut self, world: &mut World) {
        if world.now < self.asleep_until {
            return;
        }
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
        let (now, row) = (world.now, &mut world.rows[self.partition as usize]);
        let event = if world.faults && world.dice.chance(20) {
            Event::RenewalFailed
        } else if row.renew(epoch, now, SETTINGS.lease) {
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
            Command::Probe => {
                let end = world.logs[self.partition as usize].records.len() as u64;
                Event::Probed { at_us: world.now.as_micros() as i64, end }
            }
            Command::Mark { epoch, at_us } => world.mark(self.partition, *epoch, *at_us),
            Command::Read { from, to } => self.read(world, *from, *to),
            Command::Decide { catalog } => self.decide(world, *catalog),
            Command::Open { epoch, intent } => {
                let row = &mut world.rows[self.partition as usize];
                fenced(row.open(&world.guards, *epoch, *intent, world.now), Event::Opened)
            }
            Command::Insert { token } => self.insert(world, token, fault == Fault::After),
            Command::Finish { epoch, intent, counts } => {
                let row = &mut world.rows[self.partition as usize];
                fenced(row.finish(&world.guards, *epoch, *intent, *counts), Event::Finished)
            }
            Command::Remember { to } => {
                self.remember(*to);
                Event::Remembered
            }
            Command::Wait { .. } => Event::Waited,
        };
        if fault == Fault::After { Event::Failed } else { event }
    }

    fn claim(&mut self, world: &mut World) -> Event {
        let (now, row) = (world.now, &mut world.rows[self.partition as usize]);
        match row.claim(self.owner, now, SETTINGS.lease) {
            Some((epoch, committed, open)) => {
                Event::Claimed { epoch, committed, catalog_floor: 0, open, sent_at: now }
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
            self.index = None;
            self.index = Some(self.rebuild(world, to));
            return Event::CaughtUp;
        }
        let stored = (0..).zip(&log.records).skip(covered.offset() as usize);
        let stored = stored.take((to.offset() - covered.offset()) as usize);
        let stored = stored.map(|(offset, (_, bytes))| (offset, bytes.as_slice()));
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
        let stored = stored.map(|(offset, (_, bytes))| (offset, bytes.as_slice()));
        let chunk = Decoded::decode(from, stored, Limits::NONE);
        let to = chunk.to();
        (self.chunk, self.decision) = (Some(chunk), None);
        Event::Read { to, full: false }
    }

    fn decide(&mut self, world: &mut World, catalog: CatalogAt) -> Event {
        let newest = world.catalogs.len() as u64 - 1;
        let chunk = self.chunk.as_ref().unwrap();
        let catalog_version = match catalog {
            // A snapshot may be behind, but not behind the records.
            CatalogAt::AtLeast(floor) => {
                let least = chunk.catalog_version().max(floor);
                least + world.dice.roll(newest - least + 1)
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
        let decision = roll_up(chunk, verdicts, &world.catalogs[catalog_version as usize]);
        let tally = decision.tally;
        let counts =
            Counts { events: tally.new, duplicates: tally.duplicates, conflicts: tally.conflicts };
        let to = chunk.to();
        self.decision = Some(decision);
        // Positions decide, so the index may hear of a chunk before it is finished.
        if world.dice.chance(20) {
            self.remember(to);
        }
        Event::Decided { catalog_version, counts }
    }

    fn insert(&mut self, world: &mut World, token: &str, partly: bool) -> Event {
        let (chunk, decision) = (self.chunk.as_ref().unwrap(), self.decision.as_ref().unwrap());
        let partition = self.partition;
        let rows = Rows {
            events: event_rows(chunk, decision, partition)
                .iter()
                .map(|row| StoredEvent {
                    partition,
                    position: row.position,
                    id: row.event_id,
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

    /// All is read and nothing is under way.
    pub fn is_idle(&self, world: &World) -> bool {
        let end = world.logs[self.partition as usize].records.len() as u64;
        self.machine.is_between_chunks() && self.machine.committed().offset() == end
    }
}

fn fenced(outcome: Result<(), super::fakes::Fenced>, event: Event) -> Event {
    if outcome.is_ok() { event } else { Event::Fenced }
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
    pub tasks: Vec<Task>,
    /// Down until this instant.
    down_until: Option<Duration>,
}

impl Process {
    pub fn start(world: &World, owner: usize) -> Self {
        let tasks = (0..PARTITIONS).map(|partition| Task::start(world, owner, partition)).collect();
        Self { owner, tasks, down_until: None }
    }

    /// Kills it; its directories stay.
    pub fn kill(&mut self, until: Duration) {
        self.tasks.clear();
        self.down_until = Some(until);
    }

    /// Stops it for a while, as a machine that swaps or is migrated does.
    pub fn sleep(&mut self, now: Duration, until: Duration) {
        for task in self.tasks.iter_mut().filter(|task| task.asleep_until <= now) {
            task.asleep_until = until;
        }
    }

    pub fn step(&mut self, world: &mut World, dice: &mut Dice) {
        match self.down_until {
            Some(until) if world.now < until => {}
            Some(_) => *self = Self::start(world, self.owner),
            None => {
                let task = dice.pick(self.tasks.len());
                self.tasks[task].step(world);
            }
        }
    }
}

impl Guards {
    /// Everything on.
    pub fn all() -> Self {
        let protocol = weir_aggregator::protocol::Guards::default();
        Self { protocol, fencing: true, tokens: true, earlier_position: true }
    }
}
