//! The write protocol of one partition, as a state machine without IO and without a clock.
//!
//! The driver carries out one [`Command`] at a time and reports its outcome as an [`Event`], with
//! the time on a monotonic clock of its own; renewing the lease goes on beside that. What the
//! machine guards, together with Postgres (fencing by epoch) and ClickHouse (tokens):
//!
//! - An intent (bounds and catalog version) is recorded before the first insert of a chunk. Whoever
//!   finds it open does exactly that chunk again: the same bounds, catalog version and tokens, so
//!   that ClickHouse drops what it already has.
//! - Nothing is decided before the index of seen ids covers all that is committed.
//! - An insert begins only while the lease lasts longer than an insert may take. A late one could
//!   come when the deduplication window has moved on.
//! - Where the outcome of a write to Postgres is unknown, Postgres is asked: the partition is
//!   claimed again.
//! - The watermark is an instant whose log end, read after the instant, is committed.
//!
//! ```text
//! claim ─▶ catch up ─▶ read ─▶ decide ─▶ open intent ─▶ insert ─▶ finish ─▶ remember ─▶ read …
//!              └─ open intent: read exactly it ─▶ decide ─▶ insert ─┘
//! ```

use std::time::Duration;
use weir_events::Position;

/// Time on a monotonic clock, since an origin the driver chose.
pub type Elapsed = Duration;

/// The times the machine works with; all are bounds from the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How long a claim or renewal holds.
    pub lease: Duration,
    /// The longest an insert may take; one begins only if the lease lasts as long.
    pub insert_timeout: Duration,
    /// The least time from the start of a chunk to that of the next, so that chunks have some size.
    pub chunk_interval: Duration,
    /// How old an event may be when its chunk is stored, while the load allows it.
    pub freshness: Duration,
    /// The most time from the start of a chunk to that of the next while there is news.
    pub chunk_interval_max: Duration,
    /// How often the watermark moves at most.
    pub mark_interval: Duration,
    /// When to ask again for a partition that another owner holds.
    pub held_retry: Duration,
    /// The wait after a first failure; it doubles with each further one.
    pub backoff_first: Duration,
    /// What the wait grows to.
    pub backoff_max: Duration,
}

impl Settings {
    /// The wait after so many failures before this one.
    fn backoff(&self, failures: u32) -> Duration {
        self.backoff_first.saturating_mul(1 << failures.min(16)).min(self.backoff_max)
    }

    /// From the start of a chunk that took so long to that of the next.
    ///
    /// A chunk costs the engine some thirty milliseconds of processor before its first event, as
    /// much as ten thousand events more, so chunks begin as rarely as freshness allows: an event
    /// waits for the next chunk and then for its end. Where there is no time left to wait, the next
    /// chunk begins at once. Chunks that take more than twice as long by themselves tell of a load
    /// under which no freshness is left to be had, rather than of a moment's hitch: then a pause,
    /// twice what is beyond that and at most as long as the chunk, makes the next one larger, and
    /// each event cheaper.
    fn interval_after(&self, took: Duration) -> Duration {
        let interval = match took.checked_sub(self.freshness) {
            None => self.freshness - took,
            Some(late) => took + took.min(late.saturating_sub(self.freshness) * 2),
        };
        interval.min(self.chunk_interval_max).max(self.chunk_interval)
    }
}

/// What a chunk is: a range of the log and the catalog it is resolved with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Intent {
    pub from: Position,
    /// Exclusive.
    pub to: Position,
    pub catalog_version: u64,
}

/// What a chunk's events came out as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Counts {
    /// New ones: rows of `events`.
    pub events: u64,
    pub duplicates: u64,
    /// Rows of `conflicts`.
    pub conflicts: u64,
}

impl Counts {
    /// Whether any table gets rows.
    #[must_use]
    pub fn has_rows(&self) -> bool {
        self.events + self.conflicts > 0
    }
}

/// Which catalog a chunk is resolved with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CatalogAt {
    /// The newest at hand, at least this version and that of the chunk's records.
    AtLeast(u64),
    /// As of this version, to the letter.
    Exactly(u64),
}

/// What the driver is to do next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    /// Take the partition's lease → `Claimed`, `Held`.
    Claim,
    /// Bring the index of seen ids up to `to` → `CaughtUp`.
    CatchUp { to: Position },
    /// Read the store's clock, then the log's end, in this order → `Probed`.
    Probe,
    /// Write the watermark → `Marked`, `Fenced`.
    Mark { epoch: u64, at_us: i64 },
    /// Read whole records from `from`, up to `to` or as many as there are (waiting a while for the
    /// first) and make a chunk → `Read`.
    Read { from: Position, to: Option<Position> },
    /// Judge and roll up what was read → `Decided`.
    Decide { catalog: CatalogAt },
    /// Record the intent → `Opened`, `CatalogTooOld`, `Fenced`.
    Open { epoch: u64, intent: Intent },
    /// Insert the chunk's rows, each table's under this token → `Inserted`.
    Insert { token: String },
    /// Mark the intent done and move the committed position → `Finished`, `Fenced`.
    Finish { epoch: u64, intent: Intent, counts: Counts },
    /// Take the chunk's new ids up into the index → `Remembered`.
    Remember { to: Position },
    /// Do nothing until then → `Waited`.
    Wait { until: Elapsed },
}

/// What became of a command, or of a renewal beside it. Any command may be answered by `Failed`:
/// it may or may not have happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The lease is ours, counted from when the request left.
    Claimed {
        epoch: u64,
        committed: Position,
        /// No chunk that is opened from now on may be resolved with an older catalog.
        catalog_floor: u64,
        open: Option<Intent>,
        sent_at: Elapsed,
    },
    /// Another owner has the partition.
    Held,
    CaughtUp,
    /// Everything accepted before the instant `at_us` is in the log before offset `end`.
    Probed {
        at_us: i64,
        end: u64,
    },
    Marked,
    /// A chunk up to `to` is in hand; `to` is the chunk's beginning where there is nothing new.
    Read {
        to: Position,
        /// As large as a chunk may be, so that there may be more to read at once.
        full: bool,
    },
    Decided {
        catalog_version: u64,
        counts: Counts,
    },
    Opened,
    Inserted,
    Finished,
    Remembered,
    Waited,
    /// Of an intent that was not recorded: its catalog is older than what the partition needs by now.
    CatalogTooOld {
        catalog_floor: u64,
    },
    /// Another owner has taken the partition since.
    Fenced,
    /// The index was damaged and is gone.
    IndexLost,
    Failed,
    /// Of a renewal: granted, counted from when the request left.
    Renewed {
        sent_at: Elapsed,
    },
    /// Of a renewal: the lease is another's.
    RenewalRefused,
    /// Of a renewal: no answer.
    RenewalFailed,
}

/// The guards, for tests that show what each is for. All are on in every other place.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guards {
    pub redo_open_intent: bool,
    pub redo_with_its_catalog: bool,
    pub intent_before_insert: bool,
    pub lease_before_insert: bool,
    pub catch_up_before_reading: bool,
    pub watermark_waits_for_log_end: bool,
    pub token_outlives_epoch: bool,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            redo_open_intent: true,
            redo_with_its_catalog: true,
            intent_before_insert: true,
            lease_before_insert: true,
            catch_up_before_reading: true,
            watermark_waits_for_log_end: true,
            token_outlives_epoch: true,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Lease {
    epoch: u64,
    until: Elapsed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Probe {
    at_us: i64,
    end: u64,
}

/// When chunks begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Pace {
    began: Elapsed,
    full: bool,
    next_after: Elapsed,
}

impl Pace {
    fn begin(settings: &Settings, full: bool, now: Elapsed) -> Self {
        Self { began: now, full, next_after: now + settings.chunk_interval }
    }

    /// A full chunk was large enough: the next one is begun at once.
    fn end(&mut self, settings: &Settings, now: Elapsed) {
        if !self.full {
            let took = now.saturating_sub(self.began);
            self.next_after = self.began + settings.interval_after(took);
        }
    }
}

/// What is being waited for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Step {
    Claiming,
    CatchingUp {
        redo: Option<Intent>,
    },
    /// Between chunks: the step that is entered next depends on time and watermark.
    Between,
    Probing,
    Marking {
        at_us: i64,
    },
    Reading {
        redo: Option<Intent>,
    },
    Deciding {
        to: Position,
        redo: Option<Intent>,
    },
    Opening {
        chunk: Chunk,
    },
    Inserting {
        chunk: Chunk,
    },
    Finishing {
        chunk: Chunk,
    },
    Remembering {
        to: Position,
    },
    Waiting {
        until: Elapsed,
        then: Box<Step>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Chunk {
    intent: Intent,
    counts: Counts,
    opened: bool,
}

/// The protocol's state for one partition and one would-be owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Machine {
    partition: u32,
    settings: Settings,
    guards: Guards,
    lease: Option<Lease>,
    renew_after: Elapsed,
    committed: Position,
    catalog_floor: u64,
    step: Step,
    failures: u32,
    renewal_failures: u32,
    pace: Pace,
    probe: Option<Probe>,
    probe_after: Elapsed,
}

impl Machine {
    /// A machine that owns nothing yet. Its first command is [`Machine::start`].
    #[must_use]
    pub fn new(partition: u32, settings: Settings) -> Self {
        Self::with_guards(partition, settings, Guards::default())
    }

    #[doc(hidden)]
    #[must_use]
    pub fn with_guards(partition: u32, settings: Settings, guards: Guards) -> Self {
        Self {
            partition,
            settings,
            guards,
            lease: None,
            renew_after: Elapsed::ZERO,
            committed: Position::new(0, 0),
            catalog_floor: 0,
            step: Step::Claiming,
            failures: 0,
            renewal_failures: 0,
            pace: Pace::default(),
            probe: None,
            probe_after: Elapsed::ZERO,
        }
    }

    /// The first command.
    pub fn start(&mut self, now: Elapsed) -> Command {
        self.enter(Step::Claiming, now)
    }

    /// The epoch of the lease, where there is one.
    #[must_use]
    pub fn epoch(&self) -> Option<u64> {
        self.lease.map(|lease| lease.epoch)
    }

    /// The epoch of the lease and until when it lasts, where there is one.
    #[must_use]
    pub fn lease(&self) -> Option<(u64, Elapsed)> {
        self.lease.map(|lease| (lease.epoch, lease.until))
    }

    /// All before this is in ClickHouse, as far as this owner knows.
    #[must_use]
    pub fn committed(&self) -> Position {
        self.committed
    }

    /// Whether no intent of ours is open, so that stopping here leaves nothing to be redone.
    #[must_use]
    pub fn is_between_chunks(&self) -> bool {
        match &self.step {
            Step::Opening { .. } | Step::Inserting { .. } | Step::Finishing { .. } => false,
            Step::Reading { redo } | Step::Deciding { redo, .. } => redo.is_none(),
            Step::Waiting { then, .. } => {
                !matches!(**then, Step::Inserting { .. } | Step::Remembering { .. })
            }
            Step::Remembering { .. } => false,
            Step::Claiming
            | Step::CatchingUp { .. }
            | Step::Between
            | Step::Probing
            | Step::Marking { .. } => true,
        }
    }

    /// When to renew the lease, if there is one: after a third of it, so that two renewals may fail.
    #[must_use]
    pub fn renewal_at(&self) -> Option<Elapsed> {
        let lease = self.lease?;
        Some(lease.until.saturating_sub(self.settings.lease * 2 / 3).max(self.renew_after))
    }

    /// Gives the lease up: what follows is to claim the partition again. Only between chunks, and
    /// between commands.
    pub fn let_go(&mut self, now: Elapsed) -> Command {
        self.lease = None;
        self.enter(Step::Claiming, now)
    }

    /// Takes an outcome in; the next command, or none where a command is still under way (after
    /// the outcome of a renewal).
    pub fn handle(&mut self, event: &Event, now: Elapsed) -> Option<Command> {
        match event {
            Event::Renewed { sent_at } => {
                let until = *sent_at + self.settings.lease;
                self.lease =
                    self.lease.map(|lease| Lease { until: lease.until.max(until), ..lease });
                self.renewal_failures = 0;
                None
            }
            Event::RenewalRefused => {
                self.lease = None;
                None
            }
            Event::RenewalFailed => {
                // Waits grow, but by no more than leaves some tries before the lease has run out.
                let most = self.settings.lease / 6;
                self.renew_after = now + self.settings.backoff(self.renewal_failures).min(most);
                self.renewal_failures = self.renewal_failures.saturating_add(1);
                None
            }
            Event::Failed => Some(self.failed(now)),
            Event::Fenced => {
                self.lease = None;
                Some(self.wait(self.settings.held_retry, Step::Claiming, now))
            }
            Event::IndexLost => {
                let redo = match &self.step {
                    Step::Reading { redo }
                    | Step::Deciding { redo, .. }
                    | Step::CatchingUp { redo } => *redo,
                    _ => None,
                };
                Some(self.enter(Step::CatchingUp { redo }, now))
            }
            _ => Some(self.proceed(event, now)),
        }
    }

    /// The next command after something went as it should.
    fn proceed(&mut self, event: &Event, now: Elapsed) -> Command {
        let step = std::mem::replace(&mut self.step, Step::Claiming);
        let next = match (step, event) {
            (Step::Claiming, Event::Claimed { epoch, committed, catalog_floor, open, sent_at }) => {
                self.lease = Some(Lease { epoch: *epoch, until: *sent_at + self.settings.lease });
                self.catalog_floor = *catalog_floor;
                self.renewal_failures = 0;
                self.claimed(*committed, *open)
            }
            (Step::Claiming, Event::Held) => {
                return self.wait(self.settings.held_retry, Step::Claiming, now);
            }
            (Step::CatchingUp { redo: Some(redo) }, Event::CaughtUp) => {
                Step::Reading { redo: Some(redo) }
            }
            (Step::CatchingUp { redo: None }, Event::CaughtUp) => Step::Between,
            (Step::Probing, Event::Probed { at_us, end }) => {
                self.probe = Some(Probe { at_us: *at_us, end: *end });
                Step::Between
            }
            (Step::Marking { .. }, Event::Marked) => {
                self.probe = None;
                Step::Between
            }
            (Step::Reading { redo }, Event::Read { to, full }) => {
                return self.read(redo, *to, *full, now);
            }
            (Step::Deciding { to, redo }, Event::Decided { catalog_version, counts }) => {
                let catalog_version = *catalog_version;
                let intent = Intent { from: self.committed, to, catalog_version };
                let opened = redo.is_some();
                self.decided(Chunk { intent, counts: *counts, opened })
            }
            (Step::Opening { chunk }, Event::Opened) => {
                let chunk = Chunk { opened: true, ..chunk };
                if self.guards.intent_before_insert {
                    Self::insert_of(chunk)
                } else {
                    Step::Finishing { chunk }
                }
            }
            // The same chunk, by the catalog that counts.
            (Step::Opening { chunk }, Event::CatalogTooOld { catalog_floor }) => {
                self.catalog_floor = self.catalog_floor.max(*catalog_floor);
                Step::Deciding { to: chunk.intent.to, redo: None }
            }
            (Step::Inserting { chunk }, Event::Inserted) => Self::after_insert(chunk),
            (Step::Finishing { chunk }, Event::Finished) => {
                self.committed = chunk.intent.to;
                self.failures = 0;
                self.pace.end(&self.settings, now);
                Step::Remembering { to: chunk.intent.to }
            }
            (Step::Remembering { .. }, Event::Remembered) => Step::Between,
            (Step::Waiting { then, .. }, Event::Waited) => *then,
            // An answer to another question: the driver and we disagree, so ask Postgres.
            _ => Step::Claiming,
        };
        self.enter(next, now)
    }

    fn read(&mut self, redo: Option<Intent>, to: Position, full: bool, now: Elapsed) -> Command {
        match redo {
            Some(intent) if to == intent.to => self.enter(Step::Deciding { to, redo }, now),
            // Part of an open intent would be another chunk than the one that was recorded.
            Some(_) => {
                self.step = Step::Reading { redo };
                self.failed(now)
            }
            None if to <= self.committed => {
                self.failures = 0;
                self.enter(Step::Between, now)
            }
            None => {
                self.pace = Pace::begin(&self.settings, full, now);
                self.enter(Step::Deciding { to, redo: None }, now)
            }
        }
    }

    fn claimed(&mut self, committed: Position, open: Option<Intent>) -> Step {
        self.committed = committed;
        self.probe = None;
        let redo = open.filter(|_| self.guards.redo_open_intent);
        match (self.guards.catch_up_before_reading, redo) {
            (true, redo) => Step::CatchingUp { redo },
            (false, Some(redo)) => Step::Reading { redo: Some(redo) },
            (false, None) => Step::Between,
        }
    }

    fn decided(&self, chunk: Chunk) -> Step {
        if chunk.opened || !self.guards.intent_before_insert {
            Self::insert_of(chunk)
        } else {
            Step::Opening { chunk }
        }
    }

    /// A chunk of nothing but repeats has nothing to insert.
    fn insert_of(chunk: Chunk) -> Step {
        if chunk.counts.has_rows() { Step::Inserting { chunk } } else { Self::after_insert(chunk) }
    }

    fn after_insert(chunk: Chunk) -> Step {
        if chunk.opened { Step::Finishing { chunk } } else { Step::Opening { chunk } }
    }

    /// The next command after a failure: the same again after a while, or Postgres' word for it.
    fn failed(&mut self, now: Elapsed) -> Command {
        let step = std::mem::replace(&mut self.step, Step::Claiming);
        let again = match step {
            // It may have happened. Only Postgres knows.
            Step::Opening { .. } | Step::Finishing { .. } => Step::Claiming,
            // The watermark is tried again in its time; usage does not wait for it.
            Step::Probing | Step::Marking { .. } => {
                self.probe = None;
                self.probe_after = now + self.settings.mark_interval;
                Step::Between
            }
            Step::Deciding { redo, .. } => Step::Reading { redo },
            Step::Waiting { then, .. } => *then,
            other => other,
        };
        let wait = self.settings.backoff(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.wait(wait, again, now)
    }

    fn wait(&mut self, wait: Duration, then: Step, now: Elapsed) -> Command {
        let until = now + wait;
        self.step = Step::Waiting { until, then: Box::new(then) };
        Command::Wait { until }
    }

    /// Goes to a step; without a sufficient lease, to the one before all.
    fn enter(&mut self, step: Step, now: Elapsed) -> Command {
        let step = if step == Step::Between { self.between(now) } else { step };
        let Some(lease) = self.lease.filter(|lease| self.suffices(*lease, &step, now)) else {
            self.step = Step::Claiming;
            return Command::Claim;
        };
        let command = self.command(&step, lease.epoch);
        self.step = step;
        command
    }

    /// Whether the lease lasts for what the step does. One that has run out is good for nothing:
    /// another owner may be further.
    fn suffices(&self, lease: Lease, step: &Step, now: Elapsed) -> bool {
        let lasts = match step {
            Step::Inserting { .. } => self.settings.insert_timeout,
            _ => Duration::ZERO,
        };
        lease.until >= now + lasts || !self.guards.lease_before_insert
    }

    fn between(&mut self, now: Elapsed) -> Step {
        match self.probe {
            Some(Probe { at_us, end })
                if self.committed.offset() >= end || !self.guards.watermark_waits_for_log_end =>
            {
                Step::Marking { at_us }
            }
            None if now >= self.probe_after => {
                self.probe_after = now + self.settings.mark_interval;
                Step::Probing
            }
            _ if now < self.pace.next_after => {
                Step::Waiting { until: self.pace.next_after, then: Box::new(Step::Between) }
            }
            _ => Step::Reading { redo: None },
        }
    }

    fn command(&self, step: &Step, epoch: u64) -> Command {
        match step {
            Step::Claiming | Step::Between => Command::Claim,
            Step::CatchingUp { .. } => Command::CatchUp { to: self.committed },
            Step::Probing => Command::Probe,
            Step::Marking { at_us } => Command::Mark { epoch, at_us: *at_us },
            Step::Reading { redo } => {
                Command::Read { from: self.committed, to: redo.map(|intent| intent.to) }
            }
            Step::Deciding { redo, .. } => Command::Decide {
                catalog: redo
                    .filter(|_| self.guards.redo_with_its_catalog)
                    .map_or(CatalogAt::AtLeast(self.catalog_floor), |intent| {
                        CatalogAt::Exactly(intent.catalog_version)
                    }),
            },
            Step::Opening { chunk } => Command::Open { epoch, intent: chunk.intent },
            Step::Inserting { chunk } => {
                Command::Insert { token: self.token(&chunk.intent, epoch) }
            }
            Step::Finishing { chunk } => {
                Command::Finish { epoch, intent: chunk.intent, counts: chunk.counts }
            }
            Step::Remembering { to } => Command::Remember { to: *to },
            Step::Waiting { until, .. } => Command::Wait { until: *until },
        }
    }

    /// Names partition and bounds, not the owner: a chunk that is adopted has the token it had.
    fn token(&self, intent: &Intent, epoch: u64) -> String {
        let (from, to) = (intent.from.as_u64(), intent.to.as_u64());
        let token = format!("weir-{}-{from}-{to}", self.partition);
        if self.guards.token_outlives_epoch { token } else { format!("{token}-{epoch}") }
    }
}
