//! Every interleaving of a small write path: dedup, intents and fencing under a model checker.
//!
//! Two owners with the real protocol machine contend for one partition whose log holds an
//! event, its repeat and a conflict. The checker tries every order of their steps, of time, and of a bounded
//! number of faults: a command that does not happen, one whose answer is lost, an insert that
//! arrives after its sender gave up, a process that dies with or without its index.
//!
//! In every state that can be reached:
//! - no event is stored twice, and none but first copies (**no double**);
//! - what is committed is stored, under the catalog its chunk recorded (**no loss**);
//! - without further faults the partition gets to the log's end (**no stuck partition**).
//!
//! The simulation goes deeper on some paths, this one over all the short ones.

use stateright::{Checker, HasDiscoveries, Model, Property};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use weir_aggregator::{
    dedup::{Seen, Verdict, judge},
    protocol::{CatalogAt, Command, Counts, Event, Guards, Intent, Machine, Settings},
};
use weir_events::{EventId, FirstCopy, Position};

/// Id and content of the log's events, one in a record: the second repeats the first, the third
/// contradicts it.
const LOG: [(u128, u64); 3] = [(1, 0), (1, 0), (1, 9)];
/// Calm steps in which a partition gets to the log's end from anywhere.
const CALM_STEPS: usize = 200;

const fn ticks(count: u64) -> Duration {
    Duration::from_secs(count)
}

const SETTINGS: Settings = Settings {
    lease: ticks(2),
    insert_timeout: ticks(1),
    chunk_interval: Duration::ZERO,
    freshness: Duration::ZERO,
    chunk_interval_max: Duration::ZERO,
    mark_interval: ticks(1_000),
    held_retry: ticks(1),
    backoff_first: ticks(1),
    backoff_max: ticks(1),
};

struct Path {
    guards: Guards,
    fencing: bool,
    tokens: bool,
    faults_max: u8,
    ticks_max: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Owner {
    machine: Machine,
    /// What it is doing, and since when.
    under: (Command, Duration),
    /// First copies of the ids at positions before `covered`.
    known: BTreeMap<u128, (u64, u64)>,
    covered: u64,
    /// The end of the chunk in hand, and the catalog it is decided with.
    chunk: Option<(u64, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Row {
    owner: Option<usize>,
    epoch: u64,
    lease_until: Duration,
    committed: u64,
    open: Option<(Intent, u64)>,
    done: Vec<Intent>,
}

/// Rows of one chunk: position and catalog version of each event, positions of conflicts.
type Rows = (Vec<(u64, u64)>, Vec<u64>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    now: Duration,
    faults: u8,
    catalog_version: u64,
    row: Row,
    owners: Vec<Owner>,
    stored: Vec<(u64, u64)>,
    conflicts: Vec<u64>,
    tokens: BTreeSet<String>,
    /// Inserts whose sender gave up, with the last instant at which they may arrive.
    late: BTreeSet<(Duration, String, Rows)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    /// The owner's next step goes well; `records` are read at most.
    Step {
        owner: usize,
        records: u64,
    },
    /// Its command does not happen.
    Lost {
        owner: usize,
    },
    /// It happens, and the answer is lost.
    AnswerLost {
        owner: usize,
    },
    /// Its insert arrives later.
    Late {
        owner: usize,
    },
    Arrive(usize),
    Renew {
        owner: usize,
    },
    Die {
        owner: usize,
        keeps_index: bool,
    },
    CatalogChanges,
    Tick,
}

/// Position and content of each id's first copy, and up to where the log is covered.
type Index = (BTreeMap<u128, (u64, u64)>, u64);

fn start(mut machine: Machine, now: Duration, index: Option<Index>) -> Owner {
    let command = machine.start(now);
    let (known, covered) = index.unwrap_or_default();
    Owner { machine, under: (command, now), known, covered, chunk: None }
}

impl Path {
    fn machine(&self) -> Machine {
        Machine::with_guards(0, SETTINGS, self.guards)
    }

    /// The rows of the chunk `from..to`, as an owner with this index decides it.
    fn rows(&self, owner: &Owner, from: u64, to: u64, catalog_version: u64) -> Rows {
        let seen: Vec<Seen> = (from..to)
            .map(|at| {
                let (id, content_hash) = LOG[at as usize];
                Seen { id: EventId::from_u128(id), position: Position::new(at, 0), content_hash }
            })
            .collect();
        let known: Vec<Option<FirstCopy>> = seen
            .iter()
            .map(|event| {
                let (position, content_hash) = *owner.known.get(&event.id.as_u128())?;
                let first = Position::new(position, 0);
                Some(FirstCopy { position: first, content_hash })
            })
            .collect();
        let (mut events, mut conflicts) = (Vec::new(), Vec::new());
        for (event, verdict) in seen.iter().zip(judge(&seen, &known)) {
            match verdict {
                Verdict::New => events.push((event.position.offset(), catalog_version)),
                Verdict::Duplicate => {}
                Verdict::Conflict { .. } => conflicts.push(event.position.offset()),
            }
        }
        (events, conflicts)
    }

    fn insert(&self, state: &mut State, token: &str, rows: &Rows) {
        if self.tokens && !state.tokens.insert(token.to_owned()) {
            return;
        }
        state.stored.extend(&rows.0);
        state.conflicts.extend(&rows.1);
        state.stored.sort_unstable();
        state.conflicts.sort_unstable();
    }

    /// Carries the owner's command out; the outcome it would report.
    fn carry_out(&self, state: &mut State, at: usize, records: u64, late: bool) -> Event {
        let (command, issued) = state.owners[at].under.clone();
        let (now, row) = (state.now, &mut state.row);
        match command {
            Command::Claim => claim(row, at, now),
            Command::CatchUp { to } => catch_up(&mut state.owners[at], to.offset()),
            Command::Probe => Event::Probed { at_us: 0, end: LOG.len() as u64 },
            Command::Mark { .. } => Event::Marked,
            Command::Read { from, to } => {
                let end =
                    to.map_or((from.offset() + records).min(LOG.len() as u64), |to| to.offset());
                state.owners[at].chunk = Some((end, 0));
                Event::Read { to: Position::new(end, 0), full: true }
            }
            Command::Decide { catalog } => {
                let version = match catalog {
                    CatalogAt::AtLeast(_) => state.catalog_version,
                    CatalogAt::Exactly(version) => version,
                };
                let owner = &mut state.owners[at];
                let Some((end, _)) = owner.chunk else { return Event::Failed };
                owner.chunk = Some((end, version));
                let from = owner.machine.committed().offset();
                let (events, conflicts) = self.rows(owner, from, end, version);
                let (events, conflicts) = (events.len() as u64, conflicts.len() as u64);
                // Without fencing an owner may be behind what another has committed.
                let duplicates = end.saturating_sub(from + events + conflicts);
                let counts = Counts { events, duplicates, conflicts };
                Event::Decided { catalog_version: version, counts }
            }
            Command::Open { epoch, intent } => self.open(row, epoch, intent, now),
            Command::Insert { token } => {
                let owner = &state.owners[at];
                let Some((end, version)) = owner.chunk else { return Event::Failed };
                let rows = self.rows(owner, owner.machine.committed().offset(), end, version);
                if late {
                    state.late.insert((issued + SETTINGS.insert_timeout, token, rows));
                } else if now <= issued + SETTINGS.insert_timeout {
                    self.insert(state, &token, &rows);
                } else {
                    return Event::Failed;
                }
                Event::Inserted
            }
            Command::Finish { epoch, intent, .. } => self.finish(row, epoch, intent),
            Command::Remember { to } => {
                remember(&mut state.owners[at], to.offset());
                Event::Remembered
            }
            Command::Wait { .. } => Event::Waited,
        }
    }

    fn open(&self, row: &mut Row, epoch: u64, intent: Intent, now: Duration) -> Event {
        let held = row.epoch == epoch && row.lease_until > now;
        let free = row.open.is_none_or(|open| open == (intent, epoch));
        if self.fencing && !(held && free && row.committed == intent.from.offset()) {
            return Event::Fenced;
        }
        row.open = Some((intent, epoch));
        Event::Opened
    }

    fn finish(&self, row: &mut Row, epoch: u64, intent: Intent) -> Event {
        let again = row.epoch == epoch && row.done.last() == Some(&intent);
        if self.fencing && again {
            return Event::Finished;
        }
        if self.fencing && (row.epoch != epoch || row.open != Some((intent, epoch))) {
            return Event::Fenced;
        }
        row.open = None;
        row.done.push(intent);
        row.committed = intent.to.offset();
        Event::Finished
    }

    /// The owner's command is carried out, its outcome goes in, and so on up to the next command
    /// that others can see: the order of what happens within an owner makes no difference.
    fn step(&self, state: &mut State, at: usize, records: u64) {
        let event = self.carry_out(state, at, records, false);
        self.take_in(state, at, records, &event);
    }

    fn take_in(&self, state: &mut State, at: usize, records: u64, event: &Event) {
        let now = state.now;
        let Some(mut command) = state.owners[at].machine.handle(event, now) else { return };
        while is_local(&command) {
            state.owners[at].under = (command.clone(), now);
            let event = self.carry_out(state, at, records, false);
            match state.owners[at].machine.handle(&event, now) {
                Some(next) => command = next,
                None => break,
            }
        }
        state.owners[at].under = (command, now);
    }

    /// Whether the partition gets to the log's end from here when nothing fails any more.
    fn gets_to_the_end(&self, state: &State) -> bool {
        let mut state = state.clone();
        for calm in 0..CALM_STEPS {
            if state.row.committed == LOG.len() as u64 {
                return true;
            }
            let at = calm % state.owners.len();
            if waits(&state, at) {
                state.now += ticks(1);
            } else {
                renew(&mut state, at);
                self.step(&mut state, at, LOG.len() as u64);
            }
        }
        false
    }
}

/// What no other owner sees, or what no order with others can change.
fn is_local(command: &Command) -> bool {
    match command {
        // There is nothing more to read.
        Command::Read { from, to: None } if from.offset() == LOG.len() as u64 => false,
        Command::CatchUp { .. }
        | Command::Probe
        | Command::Mark { .. }
        | Command::Decide { .. }
        | Command::Read { .. }
        | Command::Remember { .. } => true,
        Command::Claim
        | Command::Open { .. }
        | Command::Insert { .. }
        | Command::Finish { .. }
        | Command::Wait { .. } => false,
    }
}

fn claim(row: &mut Row, at: usize, now: Duration) -> Event {
    if row.owner.is_some_and(|held_by| held_by != at) && row.lease_until >= now {
        return Event::Held;
    }
    row.owner = Some(at);
    row.epoch += 1;
    row.lease_until = now + SETTINGS.lease;
    let epoch = row.epoch;
    row.open = row.open.map(|(intent, _)| (intent, epoch));
    let open = row.open.map(|(intent, _)| intent);
    let committed = Position::new(row.committed, 0);
    Event::Claimed { epoch, committed, catalog_floor: 0, open, sent_at: now }
}

fn remember(owner: &mut Owner, to: u64) {
    for at in owner.covered..to {
        let (id, content) = LOG[at as usize];
        owner.known.entry(id).or_insert((at, content));
    }
    owner.covered = owner.covered.max(to);
}

fn catch_up(owner: &mut Owner, to: u64) -> Event {
    remember(owner, to);
    Event::CaughtUp
}

fn waits(state: &State, at: usize) -> bool {
    match &state.owners[at].under.0 {
        Command::Wait { until } => *until > state.now,
        Command::Read { .. } => true,
        _ => false,
    }
}

fn renewal_is_due(state: &State, at: usize) -> bool {
    state.owners[at].machine.renewal_at().is_some_and(|due| due <= state.now)
}

fn renew(state: &mut State, at: usize) {
    let (now, owner) = (state.now, &mut state.owners[at]);
    let Some(epoch) = owner.machine.epoch() else { return };
    let event = if state.row.epoch == epoch {
        state.row.lease_until = now + SETTINGS.lease;
        Event::Renewed { sent_at: now }
    } else {
        Event::RenewalRefused
    };
    owner.machine.handle(&event, now);
}

impl Model for Path {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let now = ticks(1);
        vec![State {
            now,
            faults: 0,
            catalog_version: 1,
            row: Row::default(),
            owners: (0..2).map(|_| start(self.machine(), now, None)).collect(),
            stored: Vec::new(),
            conflicts: Vec::new(),
            tokens: BTreeSet::new(),
            late: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for at in 0..state.owners.len() {
            if waits(state, at) {
                continue;
            }
            for records in [1, LOG.len() as u64] {
                actions.push(Action::Step { owner: at, records });
            }
            if renewal_is_due(state, at) {
                actions.push(Action::Renew { owner: at });
            }
            if state.faults >= self.faults_max {
                continue;
            }
            match &state.owners[at].under.0 {
                Command::Insert { .. } => {
                    actions.push(Action::AnswerLost { owner: at });
                    actions.push(Action::Late { owner: at });
                }
                Command::Open { .. } | Command::Finish { .. } => {
                    actions.push(Action::Lost { owner: at });
                    actions.push(Action::AnswerLost { owner: at });
                }
                _ => {}
            }
            for keeps_index in [false, true] {
                actions.push(Action::Die { owner: at, keeps_index });
            }
        }
        actions.extend((0..state.late.len()).map(Action::Arrive));
        if state.faults < self.faults_max && state.catalog_version == 1 {
            actions.push(Action::CatalogChanges);
        }
        if state.now < ticks(self.ticks_max) {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Step { owner, records } => self.step(&mut state, owner, records),
            Action::Renew { owner } => renew(&mut state, owner),
            Action::Tick => {
                state.now += ticks(1);
                let now = state.now;
                // What has not arrived by its time never does.
                state.late.retain(|(until, ..)| *until >= now);
            }
            Action::Arrive(at) => {
                let insert = state.late.iter().nth(at).cloned()?;
                state.late.remove(&insert);
                self.insert(&mut state, &insert.1, &insert.2);
            }
            Action::CatalogChanges => {
                state.faults += 1;
                state.catalog_version += 1;
            }
            Action::Lost { owner } => {
                state.faults += 1;
                self.take_in(&mut state, owner, 1, &Event::Failed);
            }
            Action::AnswerLost { owner } | Action::Late { owner } => {
                state.faults += 1;
                let late = matches!(action, Action::Late { .. });
                self.carry_out(&mut state, owner, 1, late);
                self.take_in(&mut state, owner, 1, &Event::Failed);
            }
            Action::Die { owner, keeps_index } => {
                state.faults += 1;
                let dead = &state.owners[owner];
                let index = keeps_index.then(|| (dead.known.clone(), dead.covered));
                state.owners[owner] = start(self.machine(), state.now, index);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no double", |_, state: &State| {
                let first_copies = state.stored.iter().all(|(at, _)| *at == 0);
                let once = state.stored.windows(2).all(|pair| pair[0].0 != pair[1].0);
                let conflicts = state.conflicts.iter().all(|at| *at == 2);
                first_copies && once && conflicts && state.conflicts.len() <= 1
            }),
            Property::always("no loss", |_, state: &State| {
                let version = |at: u64| {
                    let holds = |one: &&Intent| one.from.offset() <= at && at < one.to.offset();
                    state.row.done.iter().find(holds).map(|one| one.catalog_version)
                };
                let stored = (0..state.row.committed.min(1))
                    .all(|at| version(at).is_some_and(|it| state.stored.contains(&(at, it))));
                stored && (state.row.committed < 3 || state.conflicts == [2])
            }),
            Property::always("no stuck partition", |path: &Self, state: &State| {
                path.gets_to_the_end(state)
            }),
            Property::sometimes("the end is reached", |_, state: &State| {
                state.row.committed == LOG.len() as u64
            }),
        ]
    }
}

fn all_on(faults_max: u8, ticks_max: u64) -> Path {
    Path { guards: Guards::default(), fencing: true, tokens: true, faults_max, ticks_max }
}

/// Many faults within a lease, and fewer over its end: what a debug build goes through in seconds.
#[test]
fn no_interleaving_loses_doubles_or_stops() {
    for (faults_max, ticks_max) in [(2, 3), (1, 4)] {
        let checker = all_on(faults_max, ticks_max).checker().threads(2).spawn_bfs().join();
        println!("{faults_max} faults, {ticks_max} ticks: {} states", checker.unique_state_count());
        checker.assert_properties();
    }
}

#[test]
fn each_guard_switched_off_breaks_the_model() {
    type Switch = fn(&mut Path);
    let off: [(&str, Switch); 6] = [
        ("redo_open_intent", |path| path.guards.redo_open_intent = false),
        ("redo_with_its_catalog", |path| path.guards.redo_with_its_catalog = false),
        ("catch_up_before_reading", |path| path.guards.catch_up_before_reading = false),
        ("token_outlives_epoch", |path| path.guards.token_outlives_epoch = false),
        ("fencing", |path| path.fencing = false),
        ("tokens", |path| path.tokens = false),
    ];
    for (name, switch) in off {
        let mut path = all_on(2, 4);
        switch(&mut path);
        let checker =
            path.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let broken: Vec<&str> = ["no double", "no loss", "no stuck partition"]
            .into_iter()
            .filter(|property| checker.discovery(property).is_some())
            .collect();
        assert!(!broken.is_empty(), "{name} off: no interleaving notices");
        println!("{name} off: {}", broken.join(", "));
    }
}
