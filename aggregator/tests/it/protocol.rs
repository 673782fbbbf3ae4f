//! The write protocol step by step. What it is good for as a whole is the simulation's business.

use std::time::Duration;
use weir_aggregator::protocol::{CatalogAt, Command, Counts, Event, Intent, Machine, Settings};
use weir_events::Position;

const MS: fn(u64) -> Duration = Duration::from_millis;

const SETTINGS: Settings = Settings {
    lease: Duration::from_millis(30_000),
    insert_timeout: Duration::from_millis(15_000),
    chunk_interval: Duration::from_millis(200),
    freshness: Duration::from_millis(700),
    chunk_interval_max: Duration::from_millis(2_000),
    mark_interval: Duration::from_millis(1_000),
    held_retry: Duration::from_millis(2_000),
    backoff_first: Duration::from_millis(50),
    backoff_max: Duration::from_millis(5_000),
};

fn at(offset: u64) -> Position {
    Position::new(offset, 0)
}

fn read_to(to: u64) -> Event {
    Event::Read { to: at(to), full: false }
}

fn counts(events: u64) -> Counts {
    Counts { events, duplicates: 0, conflicts: 0 }
}

fn intent(from: u64, to: u64) -> Intent {
    Intent { from: at(from), to: at(to), catalog_version: 9 }
}

struct Play {
    machine: Machine,
    now: Duration,
}

impl Play {
    /// A machine that has claimed its partition, with everything before offset 10 committed.
    fn claimed(open: Option<Intent>) -> (Self, Command) {
        let mut machine = Machine::new(3, SETTINGS);
        assert_eq!(machine.start(MS(0)), Command::Claim);
        let mut play = Self { machine, now: MS(0) };
        let committed = at(10);
        let claimed =
            Event::Claimed { epoch: 5, committed, catalog_floor: 3, open, sent_at: MS(0) };
        assert_eq!(play.on(claimed), Command::CatchUp { to: committed });
        let next = play.on(Event::CaughtUp);
        (play, next)
    }

    /// One that has probed the log's end and reads.
    fn reading() -> Self {
        let (mut play, next) = Self::claimed(None);
        assert_eq!(next, Command::Probe);
        let read = play.on(Event::Probed { at_us: 77, end: 12 });
        assert_eq!(read, Command::Read { from: at(10), to: None });
        play
    }

    fn on(&mut self, event: Event) -> Command {
        self.machine.handle(&event, self.now).unwrap()
    }

    /// Passes a wait.
    fn after(&mut self, command: &Command) -> Command {
        let Command::Wait { until } = command else { panic!("{command:?} is no wait") };
        self.now = *until;
        self.on(Event::Waited)
    }
}

#[test]
fn a_chunk_is_opened_inserted_finished_and_remembered_in_this_order() {
    let mut play = Play::reading();
    assert!(play.machine.is_between_chunks());
    let decide = play.on(read_to(12));
    assert_eq!(decide, Command::Decide { catalog: CatalogAt::AtLeast(3) });
    let open = play.on(Event::Decided { catalog_version: 9, counts: counts(4) });
    assert_eq!(open, Command::Open { epoch: 5, intent: intent(10, 12) });
    assert!(!play.machine.is_between_chunks());
    let token = format!("weir-3-{}-{}", at(10).as_u64(), at(12).as_u64());
    assert_eq!(play.on(Event::Opened), Command::Insert { token });
    let finish = play.on(Event::Inserted);
    assert_eq!(finish, Command::Finish { epoch: 5, intent: intent(10, 12), counts: counts(4) });
    assert_eq!(play.on(Event::Finished), Command::Remember { to: at(12) });
    assert_eq!(play.machine.committed(), at(12));
    // The log's end as it was probed is committed: the watermark may be written.
    assert_eq!(play.on(Event::Remembered), Command::Mark { epoch: 5, at_us: 77 });
    let pause = play.on(Event::Marked);
    assert_eq!(pause, Command::Wait { until: MS(700) }, "chunks are not begun too often");
    let read = Command::Read { from: at(12), to: None };
    // The watermark is probed on the way, as often as its interval says.
    assert_eq!(play.after(&pause), read);
}

#[test]
fn chunks_begin_as_rarely_as_freshness_allows_and_seldom_under_load() {
    // A chunk that took so long, whether it was full, and when the next begins after its start.
    for (took_ms, full, next_ms) in [
        (0, false, 700),
        (100, false, 600),
        (300, false, 400),
        // There is no time left to wait.
        (400, false, 400),
        (699, false, 699),
        (700, false, 700),
        (1_400, false, 1_400),
        // Under load it is made longer, little by little.
        (1_500, false, 1_700),
        (1_600, false, 2_000),
        (1_700, false, 2_000),
        // A full one leaves something behind it.
        (100, true, 200),
        (900, true, 900),
    ] {
        let mut play = Play::reading();
        play.now = MS(5_000);
        play.on(Event::Read { to: at(12), full });
        play.on(Event::Decided { catalog_version: 9, counts: counts(4) });
        play.on(Event::Opened);
        play.now += MS(took_ms);
        play.on(Event::Inserted);
        play.on(Event::Finished);
        play.on(Event::Remembered);
        let mut next = play.on(Event::Marked);
        if next == Command::Probe {
            next = play.on(Event::Probed { at_us: 78, end: 50 });
        }
        let until = match next {
            Command::Wait { until } => until,
            Command::Read { .. } => play.now,
            other => panic!("{other:?}"),
        };
        assert_eq!(until, MS(5_000 + next_ms), "{took_ms} ms, full: {full}");
    }
}

#[test]
fn a_partition_that_is_let_go_is_claimed_before_anything_else_is_done() {
    let mut play = Play::reading();
    assert!(play.machine.is_between_chunks());
    assert_eq!(play.machine.let_go(play.now), Command::Claim);
    assert_eq!((play.machine.epoch(), play.machine.renewal_at()), (None, None));
    let open = Some(intent(20, 25));
    let sent_at = play.now;
    let claimed = Event::Claimed { epoch: 9, committed: at(20), catalog_floor: 4, open, sent_at };
    assert_eq!(play.on(claimed), Command::CatchUp { to: at(20) });
}

#[test]
fn a_chunk_by_a_catalog_that_has_grown_old_is_decided_again() {
    let mut play = Play::reading();
    play.on(read_to(12));
    play.on(Event::Decided { catalog_version: 8, counts: counts(4) });
    let decide = play.on(Event::CatalogTooOld { catalog_floor: 9 });
    assert_eq!(decide, Command::Decide { catalog: CatalogAt::AtLeast(9) });
    let open = play.on(Event::Decided { catalog_version: 9, counts: counts(4) });
    assert_eq!(open, Command::Open { epoch: 5, intent: intent(10, 12) });
}

#[test]
fn a_chunk_of_repeats_inserts_nothing_and_moves_on_all_the_same() {
    let mut play = Play::reading();
    play.on(read_to(12));
    let counts = Counts { events: 0, duplicates: 6, conflicts: 0 };
    play.on(Event::Decided { catalog_version: 9, counts });
    let finish = play.on(Event::Opened);
    assert_eq!(finish, Command::Finish { epoch: 5, intent: intent(10, 12), counts });
}

#[test]
fn an_open_intent_is_redone_to_the_letter() {
    let open = Intent { catalog_version: 4, ..intent(10, 17) };
    let (mut play, next) = Play::claimed(Some(open));
    assert_eq!(next, Command::Read { from: at(10), to: Some(at(17)) });
    let decide = play.on(read_to(17));
    assert_eq!(decide, Command::Decide { catalog: CatalogAt::Exactly(4) });
    let insert = play.on(Event::Decided { catalog_version: 4, counts: counts(1) });
    let token = format!("weir-3-{}-{}", at(10).as_u64(), at(17).as_u64());
    assert_eq!(insert, Command::Insert { token }, "it is open already");
    let finish = play.on(Event::Inserted);
    assert_eq!(finish, Command::Finish { epoch: 5, intent: open, counts: counts(1) });
}

#[test]
fn part_of_an_open_intent_is_read_again_rather_than_done() {
    let (mut play, _) = Play::claimed(Some(intent(10, 17)));
    let wait = play.on(read_to(15));
    assert_eq!(play.after(&wait), Command::Read { from: at(10), to: Some(at(17)) });
}

#[test]
fn what_may_have_reached_postgres_is_asked_for() {
    for finishing in [false, true] {
        let mut play = Play::reading();
        play.on(read_to(12));
        play.on(Event::Decided { catalog_version: 9, counts: counts(4) });
        if finishing {
            play.on(Event::Opened);
            play.on(Event::Inserted);
        }
        let wait = play.on(Event::Failed);
        assert_eq!(play.after(&wait), Command::Claim);
    }
}

#[test]
fn an_insert_is_repeated_under_its_token_with_growing_waits() {
    let mut play = Play::reading();
    play.on(read_to(12));
    play.on(Event::Decided { catalog_version: 9, counts: counts(4) });
    let insert = play.on(Event::Opened);
    let mut waits = Vec::new();
    for _ in 0..9 {
        // Renewals go on meanwhile.
        let renewed = Event::Renewed { sent_at: play.now };
        assert_eq!(play.machine.handle(&renewed, play.now), None);
        let before = play.now;
        let wait = play.on(Event::Failed);
        assert_eq!(play.after(&wait), insert);
        waits.push((play.now - before).as_millis());
    }
    assert_eq!(waits, [50, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
}

#[test]
fn no_insert_begins_on_a_lease_that_it_might_outlast() {
    let mut play = Play::reading();
    play.on(read_to(12));
    play.on(Event::Decided { catalog_version: 9, counts: counts(4) });
    play.now = MS(15_001);
    assert_eq!(play.on(Event::Opened), Command::Claim);
}

#[test]
fn a_lost_lease_ends_the_work_at_the_next_step() {
    let mut play = Play::reading();
    assert_eq!(play.machine.handle(&Event::RenewalRefused, play.now), None);
    assert_eq!(play.on(read_to(12)), Command::Claim);
    assert_eq!(play.machine.renewal_at(), None);
}

#[test]
fn a_lease_is_renewed_after_a_third_and_a_failed_renewal_soon_again() {
    let mut play = Play::reading();
    assert_eq!(play.machine.renewal_at(), Some(MS(10_000)));
    play.now = MS(10_000);
    assert_eq!(play.machine.handle(&Event::RenewalFailed, play.now), None);
    assert_eq!(play.machine.renewal_at(), Some(MS(10_050)));
    play.machine.handle(&Event::Renewed { sent_at: MS(10_050) }, MS(10_060));
    assert_eq!(play.machine.renewal_at(), Some(MS(20_050)));
}

#[test]
fn renewals_that_fail_are_tried_ever_more_rarely_until_one_works() {
    let mut play = Play::reading();
    let mut waits = Vec::new();
    for _ in 0..10 {
        play.now = play.machine.renewal_at().unwrap();
        play.machine.handle(&Event::RenewalFailed, play.now);
        waits.push((play.machine.renewal_at().unwrap() - play.now).as_millis());
    }
    assert_eq!(waits, [50, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000]);
    let sent_at = play.now;
    play.machine.handle(&Event::Renewed { sent_at }, play.now);
    play.machine.handle(&Event::RenewalFailed, play.now + MS(10_000));
    assert_eq!(play.machine.renewal_at(), Some(play.now + MS(10_050)));
}

#[test]
fn a_partition_of_another_owner_is_asked_for_again() {
    let mut machine = Machine::new(0, SETTINGS);
    machine.start(MS(0));
    assert_eq!(machine.handle(&Event::Held, MS(0)), Some(Command::Wait { until: MS(2_000) }));
    assert_eq!(machine.handle(&Event::Waited, MS(2_000)), Some(Command::Claim));
}

#[test]
fn an_idle_partition_moves_its_watermark_and_goes_on_reading() {
    let (mut play, next) = Play::claimed(None);
    assert_eq!(next, Command::Probe);
    let mark = play.on(Event::Probed { at_us: 5, end: 10 });
    assert_eq!(mark, Command::Mark { epoch: 5, at_us: 5 });
    let read = Command::Read { from: at(10), to: None };
    assert_eq!(play.on(Event::Marked), read);
    play.now = MS(999);
    assert_eq!(play.on(read_to(10)), read);
    play.now = MS(1_000);
    assert_eq!(play.on(read_to(10)), Command::Probe);
    // The watermark's trouble is not that of usage.
    let wait = play.on(Event::Failed);
    assert_eq!(play.after(&wait), read);
}

#[test]
fn a_lost_index_is_caught_up_before_anything_is_decided() {
    let open = intent(10, 17);
    let (mut play, _) = Play::claimed(Some(open));
    play.on(read_to(17));
    assert_eq!(play.on(Event::IndexLost), Command::CatchUp { to: at(10) });
    let read = play.on(Event::CaughtUp);
    assert_eq!(read, Command::Read { from: at(10), to: Some(at(17)) }, "the intent is still open");
}
