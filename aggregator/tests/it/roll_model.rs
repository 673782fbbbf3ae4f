//! Every interleaving of a small roll with the live chunks beside it, under a model checker.
//!
//! Two partitions are written by live chunks whose catalogs may be old, while a roll starts, is taken
//! up, computed and ended. The model says what each statement of the store and each insert does. The
//! checker tries every order of them, with a bounded number of faults: a process that dies anywhere,
//! an insert whose answer is lost, one that arrives after its sender gave up.
//!
//! In every state that can be reached:
//! - in the generation that readers take, each committed event counts once, and none twice (**no
//!   half**);
//! - without further faults everything is committed and the roll ends (**no stuck roll**).

use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;

/// Events of each partition.
const EVENTS: [u8; 2] = [2, 1];
/// Calm steps in which the roll ends from anywhere.
const CALM_STEPS: usize = 60;

/// The catalog's versions: before the roll, while it is under way, after its end.
const BEFORE: u8 = 0;
const ROLLING: u8 = 1;
const DONE: u8 = 2;

#[derive(Debug, Clone, Copy)]
struct Guards {
    /// No chunk is opened with a catalog from before the roll once the roll is taken up.
    floor: bool,
    /// A roll is not taken up while a chunk is open.
    between_chunks: bool,
    /// The first chunk that writes the new generation takes the roll up where it begins.
    opening_takes_up: bool,
    /// The bounds of a roll's chunk are recorded before its insert.
    recorded_bounds: bool,
    /// ClickHouse drops what it has.
    tokens: bool,
    /// Live chunks write the new generation before readers take it.
    both_generations: bool,
    /// A finished partition is looked at again.
    looks_again: bool,
}

const ALL_ON: Guards = Guards {
    floor: true,
    between_chunks: true,
    opening_takes_up: true,
    recorded_bounds: true,
    tokens: true,
    both_generations: true,
    looks_again: true,
};

struct Path {
    guards: Guards,
    faults_max: u8,
}

/// A live chunk: the events `from..to`, resolved with a catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Chunk {
    from: u8,
    to: u8,
    catalog: u8,
}

/// The roll in a partition, as Postgres has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Part {
    to: u8,
    done_to: u8,
    open_to: Option<u8>,
}

/// What the roll's worker is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Worker {
    TakeUp,
    Open,
    Insert {
        from: u8,
        to: u8,
    },
    Finish {
        from: u8,
        to: u8,
    },
    /// The partition was finished when it was last looked at.
    Rests,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Partition {
    committed: u8,
    floor: u8,
    /// Decided, and not opened yet.
    decided: Option<Chunk>,
    open: Option<Chunk>,
    inserted: bool,
    part: Option<Part>,
    worker: Worker,
    /// How often each event counts in the old and the new generation.
    old: Vec<u8>,
    new: Vec<u8>,
}

/// An insert: its partition and what it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Insert {
    Live(usize, Chunk),
    Roll(usize, u8, u8),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    catalog: u8,
    faults: u8,
    partitions: Vec<Partition>,
    /// What ClickHouse has, by partition, bounds and whether it is a roll's.
    tokens: BTreeSet<(usize, u8, u8, bool)>,
    /// Inserts whose sender gave up.
    late: BTreeSet<Insert>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    StartRoll,
    Decide {
        at: usize,
        to: u8,
        catalog: u8,
    },
    Open {
        at: usize,
    },
    InsertLive {
        at: usize,
    },
    Finish {
        at: usize,
    },
    /// The worker's next step; a chunk of a roll is opened up to `to`; the step that finishes a
    /// partition may not see yet that another one has.
    Roll {
        at: usize,
        to: u8,
        sees_others: bool,
    },
    LookAgain {
        at: usize,
    },
    /// The insert happens and its answer is lost.
    AnswerLost {
        at: usize,
        roll: bool,
    },
    /// Whoever is at it dies; an insert that was under way arrives later, or never.
    Die {
        at: usize,
        roll: bool,
        late: bool,
    },
    Arrive(Insert),
}

impl Path {
    fn insert(&self, state: &mut State, insert: Insert) {
        let (token, at) = match insert {
            Insert::Live(at, chunk) => ((at, chunk.from, chunk.to, false), at),
            Insert::Roll(at, from, to) => ((at, from, to, true), at),
        };
        if !state.tokens.insert(token) && self.guards.tokens {
            return;
        }
        let partition = &mut state.partitions[at];
        let (from, to, old, new) = match insert {
            Insert::Live(_, Chunk { from, to, catalog }) => {
                let new = catalog == DONE || catalog == ROLLING && self.guards.both_generations;
                (from, to, catalog != DONE, new)
            }
            Insert::Roll(_, from, to) => (from, to, false, true),
        };
        for event in usize::from(from)..usize::from(to) {
            partition.old[event] += u8::from(old);
            partition.new[event] += u8::from(new);
        }
    }

    fn open(&self, state: &mut State, at: usize) {
        let partition = &mut state.partitions[at];
        let Some(chunk) = partition.decided.take() else { return };
        if self.guards.floor && chunk.catalog < partition.floor {
            return;
        }
        partition.open = Some(chunk);
        partition.inserted = false;
        let writes_new = state.catalog == ROLLING && chunk.catalog >= ROLLING;
        if self.guards.opening_takes_up && writes_new && partition.part.is_none() {
            partition.part = Some(Part { to: chunk.from, done_to: 0, open_to: None });
            partition.floor = ROLLING;
        }
    }

    fn roll(&self, state: &mut State, at: usize, to: u8, sees_others: bool) {
        let partition = &mut state.partitions[at];
        match partition.worker {
            Worker::TakeUp => {
                let may = partition.open.is_none() || !self.guards.between_chunks;
                if partition.part.is_none() && state.catalog == ROLLING && may {
                    let to = partition.committed;
                    partition.part = Some(Part { to, done_to: 0, open_to: None });
                    partition.floor = ROLLING;
                }
                let Some(part) = partition.part else { return };
                partition.worker = match part.open_to {
                    Some(to) => Worker::Insert { from: part.done_to, to },
                    None if part.done_to == part.to => Worker::Rests,
                    None => Worker::Open,
                };
                if partition.worker == Worker::Rests && sees_others {
                    end_if_complete(state);
                }
            }
            Worker::Open => {
                let Some(part) = &mut partition.part else { return };
                if self.guards.recorded_bounds {
                    part.open_to = Some(to);
                }
                partition.worker = Worker::Insert { from: part.done_to, to };
            }
            Worker::Insert { from, to } => {
                partition.worker = Worker::Finish { from, to };
                self.insert(state, Insert::Roll(at, from, to));
            }
            Worker::Finish { from, to } => {
                partition.worker = Worker::TakeUp;
                let Some(part) = &mut partition.part else { return };
                if part.done_to == from {
                    *part = Part { done_to: to, open_to: None, ..*part };
                }
                if sees_others {
                    end_if_complete(state);
                }
            }
            Worker::Rests => {}
        }
    }

    fn roll_actions(&self, state: &State, at: usize, actions: &mut Vec<Action>) {
        let partition = &state.partitions[at];
        let both = [false, true];
        match (partition.worker, partition.part) {
            (Worker::Open, Some(part)) => {
                let ends = part.done_to + 1..=part.to;
                actions.extend(ends.map(|to| Action::Roll { at, to, sees_others: true }));
            }
            (Worker::Rests, _) => {
                if state.catalog == ROLLING && self.guards.looks_again {
                    actions.push(Action::LookAgain { at });
                }
            }
            (Worker::TakeUp, None) if state.catalog != ROLLING => {}
            _ => actions.extend(both.map(|sees_others| Action::Roll { at, to: 0, sees_others })),
        }
    }

    fn fault_actions(state: &State, at: usize, actions: &mut Vec<Action>) {
        let partition = &state.partitions[at];
        let inserts_live = partition.open.is_some() && !partition.inserted;
        let inserts_roll = matches!(partition.worker, Worker::Insert { .. });
        for (roll, inserts) in [(false, inserts_live), (true, inserts_roll)] {
            actions.push(Action::Die { at, roll, late: false });
            if inserts {
                actions.push(Action::Die { at, roll, late: true });
                actions.push(Action::AnswerLost { at, roll });
            }
        }
    }

    /// Whether everything ends well when nothing goes wrong any more.
    fn ends(&self, state: &State) -> bool {
        let mut state = state.clone();
        for _ in 0..CALM_STEPS {
            let mut actions = Vec::new();
            self.actions(&State { faults: u8::MAX, ..state.clone() }, &mut actions);
            // The newest catalog; each worker sees what others have done, and looks again only
            // when nothing else is left to do.
            let mut calm: Vec<Action> = actions
                .into_iter()
                .filter(|action| match action {
                    Action::Decide { catalog, .. } => *catalog == state.catalog,
                    Action::Roll { sees_others, .. } => *sees_others,
                    _ => true,
                })
                .collect();
            calm.sort_by_key(|action| matches!(action, Action::LookAgain { .. }));
            let mut moving = calm.into_iter().filter_map(|action| self.next_state(&state, action));
            let Some(next) = moving.find(|next| *next != state) else { break };
            state = next;
        }
        let all = |partition: &Partition| partition.committed == partition.old.len() as u8;
        state.catalog == DONE && state.partitions.iter().all(all) && no_half(&state)
    }
}

fn end_if_complete(state: &mut State) {
    let complete = |partition: &Partition| {
        partition.part.is_some_and(|part| part.done_to == part.to && part.open_to.is_none())
    };
    if state.catalog == ROLLING && state.partitions.iter().all(complete) {
        state.catalog = DONE;
    }
}

fn no_half(state: &State) -> bool {
    state.partitions.iter().all(|partition| {
        let read = if state.catalog == DONE { &partition.new } else { &partition.old };
        let (committed, rest) = read.split_at(usize::from(partition.committed));
        committed.iter().all(|count| *count == 1) && rest.iter().all(|count| *count <= 1)
    })
}

impl Model for Path {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let partition = |events: u8| Partition {
            committed: 0,
            floor: BEFORE,
            decided: None,
            open: None,
            inserted: false,
            part: None,
            worker: Worker::TakeUp,
            old: vec![0; usize::from(events)],
            new: vec![0; usize::from(events)],
        };
        vec![State {
            catalog: BEFORE,
            faults: 0,
            partitions: EVENTS.map(partition).to_vec(),
            tokens: BTreeSet::new(),
            late: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.catalog == BEFORE {
            actions.push(Action::StartRoll);
        }
        for (at, partition) in state.partitions.iter().enumerate() {
            self.roll_actions(state, at, actions);
            match (partition.open, partition.decided) {
                (Some(_), _) if partition.inserted => actions.push(Action::Finish { at }),
                (Some(_), _) => actions.push(Action::InsertLive { at }),
                (None, Some(_)) => actions.push(Action::Open { at }),
                (None, None) => {
                    for to in partition.committed + 1..=partition.old.len() as u8 {
                        let of = |catalog| Action::Decide { at, to, catalog };
                        actions.extend((BEFORE..=state.catalog).map(of));
                    }
                }
            }
            if state.faults < self.faults_max {
                Self::fault_actions(state, at, actions);
            }
        }
        actions.extend(state.late.iter().map(|insert| Action::Arrive(*insert)));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::StartRoll => state.catalog = ROLLING,
            Action::Decide { at, to, catalog } => {
                let from = state.partitions[at].committed;
                state.partitions[at].decided = Some(Chunk { from, to, catalog });
            }
            Action::Open { at } => self.open(&mut state, at),
            Action::InsertLive { at } => {
                let chunk = state.partitions[at].open?;
                state.partitions[at].inserted = true;
                self.insert(&mut state, Insert::Live(at, chunk));
            }
            Action::Finish { at } => {
                let partition = &mut state.partitions[at];
                partition.committed = partition.open.take()?.to;
            }
            Action::Roll { at, to, sees_others } => self.roll(&mut state, at, to, sees_others),
            Action::LookAgain { at } => state.partitions[at].worker = Worker::TakeUp,
            Action::AnswerLost { at, roll } => {
                state.faults += 1;
                let insert = under_way(&state.partitions[at], at, roll)?;
                self.insert(&mut state, insert);
                if roll {
                    state.partitions[at].worker = Worker::TakeUp;
                }
            }
            Action::Die { at, roll, late } => {
                state.faults += 1;
                if late {
                    let insert = under_way(&state.partitions[at], at, roll)?;
                    state.late.insert(insert);
                }
                let partition = &mut state.partitions[at];
                if roll {
                    partition.worker = Worker::TakeUp;
                } else {
                    partition.decided = None;
                    partition.inserted = false;
                }
            }
            Action::Arrive(insert) => {
                state.late.remove(&insert);
                self.insert(&mut state, insert);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no half", |_, state: &State| no_half(state)),
            Property::always("no stuck roll", |path: &Self, state: &State| path.ends(state)),
            Property::sometimes("readers turn to it", |_, state: &State| state.catalog == DONE),
        ]
    }
}

/// The insert that a partition's owner, or the worker of the roll, is at.
fn under_way(partition: &Partition, at: usize, roll: bool) -> Option<Insert> {
    if !roll {
        return partition.open.map(|chunk| Insert::Live(at, chunk));
    }
    match partition.worker {
        Worker::Insert { from, to } => Some(Insert::Roll(at, from, to)),
        _ => None,
    }
}

#[test]
fn no_interleaving_shows_half_a_roll_or_stops_it() {
    let path = Path { guards: ALL_ON, faults_max: 1 };
    let checker = path.checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn each_guard_of_a_roll_switched_off_breaks_the_model() {
    let off: [(&str, Guards); 7] = [
        ("floor", Guards { floor: false, ..ALL_ON }),
        ("between_chunks", Guards { between_chunks: false, ..ALL_ON }),
        ("opening_takes_up", Guards { opening_takes_up: false, ..ALL_ON }),
        ("recorded_bounds", Guards { recorded_bounds: false, ..ALL_ON }),
        ("tokens", Guards { tokens: false, ..ALL_ON }),
        ("both_generations", Guards { both_generations: false, ..ALL_ON }),
        ("looks_again", Guards { looks_again: false, ..ALL_ON }),
    ];
    for (name, guards) in off {
        let path = Path { guards, faults_max: 1 };
        let checker =
            path.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let broken: Vec<&str> = ["no half", "no stuck roll"]
            .into_iter()
            .filter(|property| checker.discovery(property).is_some())
            .collect();
        assert!(!broken.is_empty(), "{name} off: no interleaving notices");
        println!("{name} off: {}", broken.join(", "));
    }
}
