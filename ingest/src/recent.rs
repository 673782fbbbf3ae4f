//! The ids an edge remembers: what it has in flight, and what it knows to be in the log.
//!
//! An entry is *in flight* from the claim of a request until its append is settled; a failed append
//! takes it away and nothing of it stays, so a retry is never called a duplicate. Then it is
//! *durable*, with the hash of the first copy's content. Each partition has one table, so that an id
//! costs one look; what is to be forgotten goes in sweeps, each of them of a fair part of the table.

use crate::pack::Place;
use hashbrown::{HashTable, hash_table};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use weir_events::{EventId, Position};

/// Names the append that a claimed id waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlightId(pub u64);

/// What is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The newest ids of each partition, at least `ids` and about twice as many at most: all there
    /// is to know for an edge without the aggregator's index.
    Newest { ids: usize },
    /// Every id until the aggregator's index covers it. Beyond `ids_max` of a partition the oldest
    /// are let go: a repeat of one may then be called new, and is still billed once.
    Uncovered { ids_max: usize },
}

/// What the table knows of an id that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing: the asking request has claimed it.
    New,
    /// Its first copy is in the log.
    Durable { content_hash: u64 },
    /// Another copy is on its way; how it fares is not known yet.
    InFlight(FlightId),
}

/// The ids of all partitions.
pub struct RecentIds {
    partitions: Vec<Mutex<PartitionIds>>,
    keep: Keep,
    durable: AtomicUsize,
}

impl RecentIds {
    /// An empty table for `partitions` partitions.
    #[must_use]
    pub fn new(partitions: u32, keep: Keep) -> Self {
        let partitions = (0..partitions).map(|_| Mutex::default()).collect();
        Self { partitions, keep, durable: AtomicUsize::new(0) }
    }

    /// Asks for the ids of one partition and claims those that are new, under one lock.
    ///
    /// `tell` is called once for each id, in order. Who claims must settle or release.
    pub fn claim<T>(
        &self,
        partition: u32,
        flight: FlightId,
        asked: impl Iterator<Item = (EventId, T)>,
        mut tell: impl FnMut(T, Seen),
    ) {
        let mut ids = self.lock(partition);
        for (id, item) in asked {
            let seen = ids.claim(id, flight);
            tell(item, seen);
        }
    }

    /// Turns claims into durable ids: at `place` the log holds `events`, in order. Then forgets what the aggregator's index covers and what is beyond the bound; answers
    /// how many ids are forgotten although nothing else knows them.
    pub fn settle(
        &self,
        partition: u32,
        flight: FlightId,
        place: Place,
        events: impl Iterator<Item = (EventId, u64)>,
        covered_to: Position,
    ) -> usize {
        let mut ids = self.lock(partition);
        let mut added = 0;
        for ((id, content_hash), index) in events.zip(place.first..=u16::MAX) {
            let position = Position::new(place.offset, index);
            let entry = Entry { id: id.0, content_hash, position };
            added += usize::from(ids.settle(entry, flight));
        }
        let forgotten = ids.forget(self.keep, covered_to);
        drop(ids);
        self.count(added, forgotten)
    }

    /// Takes claims back without a trace: the append failed, or the id turned out to be known.
    pub fn release(
        &self,
        partition: u32,
        flight: FlightId,
        claimed: impl Iterator<Item = EventId>,
    ) {
        let mut ids = self.lock(partition);
        claimed.for_each(|id| ids.release(id, flight));
    }

    /// Adds what was read from the log; of two copies the first one added stays.
    pub fn load(&self, partition: u32, events: impl Iterator<Item = (EventId, u64, Position)>) {
        let mut ids = self.lock(partition);
        let mut added = 0;
        for (id, content_hash, position) in events {
            added += usize::from(ids.add(Entry { id: id.0, content_hash, position }));
        }
        let forgotten = ids.forget(self.keep, Position::ZERO);
        drop(ids);
        self.count(added, forgotten);
    }

    /// How many ids of a partition are kept, if there are so many.
    #[must_use]
    pub fn ids_max(&self) -> usize {
        match self.keep {
            Keep::Newest { ids } => ids,
            Keep::Uncovered { ids_max } => ids_max,
        }
    }

    /// Durable ids in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.durable.load(Ordering::Relaxed)
    }

    /// Claims that are not settled; for tests of "no trace".
    #[cfg(test)]
    pub fn in_flight(&self) -> usize {
        self.partitions.iter().map(|ids| ids.lock().in_flight()).sum()
    }

    fn count(&self, added: usize, forgotten: Forgotten) -> usize {
        let gone = forgotten.covered + forgotten.oldest;
        if added >= gone {
            self.durable.fetch_add(added - gone, Ordering::Relaxed);
        } else {
            self.durable.fetch_sub(gone - added, Ordering::Relaxed);
        }
        match self.keep {
            // There it is the rule.
            Keep::Newest { .. } => 0,
            Keep::Uncovered { .. } => forgotten.oldest,
        }
    }

    fn lock(&self, partition: u32) -> parking_lot::MutexGuard<'_, PartitionIds> {
        self.partitions[partition as usize].lock()
    }
}

/// Ids are forgotten in whole runs of about this many, 128 KiB of entries: few enough that a table
/// stays small while the aggregator keeps up.
const RUN_IDS_MAX: usize = 4_096;
/// A sweep looks at the whole table, so it must be worth it: at least this part of it goes.
const SWEPT_PART: usize = 4;
/// A table with room for more than this, and for that many times its ids, gives memory back.
const ROOMY_IDS: usize = 65_536;
const ROOMY_TIMES: usize = 8;

#[derive(Default)]
struct PartitionIds {
    table: HashTable<Entry>,
    /// Durable entries of the table.
    durable: usize,
    /// The durable entries as they came, oldest first, in runs.
    runs: VecDeque<Run>,
    /// Entries of runs that the index covers and no sweep has taken out yet, and the end of those.
    covered: usize,
    covered_to: Position,
}

/// Neighbours in time.
struct Run {
    ids: usize,
    newest: Position,
}

/// How many ids a sweep has taken out.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Forgotten {
    /// Because the aggregator's index has them.
    covered: usize,
    /// Because there were too many.
    oldest: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    id: u128,
    /// Of the first copy; while it is in flight, the number of its flight.
    content_hash: u64,
    /// Where the first copy stands; `IN_FLIGHT` while that is not known.
    position: Position,
}

/// Behind every event.
const IN_FLIGHT: Position = Position::from_u64(u64::MAX);

fn hash(id: u128) -> u64 {
    EventId(id).table_hash()
}

impl PartitionIds {
    fn entry(&mut self, id: u128) -> hash_table::Entry<'_, Entry> {
        self.table.entry(hash(id), |entry| entry.id == id, |entry| hash(entry.id))
    }

    fn claim(&mut self, id: EventId, flight: FlightId) -> Seen {
        match self.entry(id.0) {
            hash_table::Entry::Occupied(known) => {
                let Entry { content_hash, position, .. } = *known.get();
                match position {
                    IN_FLIGHT => Seen::InFlight(FlightId(content_hash)),
                    _ => Seen::Durable { content_hash },
                }
            }
            hash_table::Entry::Vacant(free) => {
                free.insert(Entry { id: id.0, content_hash: flight.0, position: IN_FLIGHT });
                Seen::New
            }
        }
    }

    fn release(&mut self, id: EventId, flight: FlightId) {
        let own = |entry: &Entry| {
            entry.id == id.0 && entry.position == IN_FLIGHT && entry.content_hash == flight.0
        };
        if let Ok(claim) = self.table.find_entry(hash(id.0), own) {
            claim.remove();
        }
    }

    /// Makes the flight's claim durable. Another entry of the id stays: it is the first copy.
    fn settle(&mut self, entry: Entry, flight: FlightId) -> bool {
        match self.entry(entry.id) {
            hash_table::Entry::Occupied(mut claim) => {
                let Entry { content_hash, position, .. } = *claim.get();
                if position != IN_FLIGHT || content_hash != flight.0 {
                    return false;
                }
                *claim.get_mut() = entry;
            }
            hash_table::Entry::Vacant(free) => {
                free.insert(entry);
            }
        }
        self.note(entry.position);
        true
    }

    fn add(&mut self, entry: Entry) -> bool {
        let hash_table::Entry::Vacant(free) = self.entry(entry.id) else { return false };
        free.insert(entry);
        self.note(entry.position);
        true
    }

    fn note(&mut self, position: Position) {
        self.durable += 1;
        match self.runs.back_mut() {
            Some(run) if run.ids < RUN_IDS_MAX => {
                run.ids += 1;
                run.newest = run.newest.max(position);
            }
            _ => self.runs.push_back(Run { ids: 1, newest: position }),
        }
    }

    fn forget(&mut self, keep: Keep, covered_to: Position) -> Forgotten {
        let mut forgotten = Forgotten::default();
        let (ids_max, kept) = match keep {
            Keep::Newest { ids } => (2 * ids, ids),
            Keep::Uncovered { ids_max } => (ids_max, ids_max - ids_max / SWEPT_PART),
        };
        self.pass_covered(covered_to);
        if self.covered >= RUN_IDS_MAX.max(self.durable / SWEPT_PART) {
            forgotten.covered = self.sweep(self.covered_to);
        }
        if self.durable > ids_max
            && let Some(end) = self.pass_oldest(kept)
        {
            forgotten.oldest = self.sweep(end);
        }
        forgotten
    }

    /// Takes the runs off the list that lie before `covered_to` as a whole.
    fn pass_covered(&mut self, covered_to: Position) {
        while let Some(run) = self.runs.front().filter(|run| run.newest < covered_to) {
            self.covered += run.ids;
            self.covered_to = self.covered_to.max(after(run.newest));
            self.runs.pop_front();
        }
    }

    /// Takes runs off the list until `kept` ids or fewer are on it; answers where those taken off
    /// end. The last run is never taken: its ids are the newest.
    fn pass_oldest(&mut self, kept: usize) -> Option<Position> {
        let mut end = None;
        let mut left: usize = self.runs.iter().map(|run| run.ids).sum();
        while left > kept && self.runs.len() > 1 {
            let run = self.runs.pop_front()?;
            left -= run.ids;
            end = end.max(Some(after(run.newest)));
        }
        end
    }

    /// Takes out what stands before `end`; answers how many that were.
    fn sweep(&mut self, end: Position) -> usize {
        let before = self.table.len();
        self.table.retain(|entry| entry.position >= end);
        let gone = before - self.table.len();
        self.durable -= gone;
        self.covered = 0;
        let room = self.table.capacity();
        if room > ROOMY_IDS && room > ROOMY_TIMES * self.table.len() {
            self.table.shrink_to(2 * self.table.len(), |entry| hash(entry.id));
        }
        gone
    }

    #[cfg(test)]
    fn in_flight(&self) -> usize {
        self.table.len() - self.durable
    }
}

fn after(position: Position) -> Position {
    Position::from_u64(position.as_u64().saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const FLIGHT: FlightId = FlightId(1);

    fn id(bits: u128) -> EventId {
        EventId(bits)
    }

    fn ask(table: &RecentIds, bits: u128, flight: FlightId) -> Seen {
        let mut seen = None;
        table.claim(0, flight, std::iter::once((id(bits), ())), |(), told| seen = Some(told));
        seen.unwrap()
    }

    /// Looks without claiming.
    fn is_durable(table: &RecentIds, bits: u128) -> bool {
        let asking = FlightId(u64::MAX);
        let seen = ask(table, bits, asking);
        table.release(0, asking, std::iter::once(id(bits)));
        matches!(seen, Seen::Durable { .. })
    }

    fn settle(table: &RecentIds, offset: u64, bits: impl Iterator<Item = u128>) -> usize {
        settle_covered(table, offset, bits, Position::ZERO)
    }

    fn settle_covered(
        table: &RecentIds,
        offset: u64,
        bits: impl Iterator<Item = u128>,
        covered_to: Position,
    ) -> usize {
        let place = Place { offset, first: 0 };
        table.settle(0, FLIGHT, place, bits.map(|bits| (id(bits), 7)), covered_to)
    }

    #[test]
    fn a_claim_that_is_released_leaves_no_trace() {
        let table = RecentIds::new(1, Keep::Newest { ids: 10 });
        assert_eq!(ask(&table, 1, FLIGHT), Seen::New);
        assert_eq!(ask(&table, 1, FlightId(2)), Seen::InFlight(FLIGHT));
        table.release(0, FlightId(2), std::iter::once(id(1)));
        assert_eq!(table.in_flight(), 1, "only the flight that claimed can release");
        table.release(0, FLIGHT, std::iter::once(id(1)));
        assert_eq!((table.in_flight(), table.len()), (0, 0));
        assert_eq!(ask(&table, 1, FlightId(2)), Seen::New);
    }

    #[test]
    fn a_settled_claim_is_durable_with_the_first_content() {
        let table = RecentIds::new(1, Keep::Newest { ids: 10 });
        ask(&table, 1, FLIGHT);
        settle(&table, 5, std::iter::once(1));
        assert_eq!(ask(&table, 1, FLIGHT), Seen::Durable { content_hash: 7 });
        table.load(0, std::iter::once((id(1), 8, Position::new(9, 0))));
        assert_eq!(ask(&table, 1, FLIGHT), Seen::Durable { content_hash: 7 });
        table.release(0, FLIGHT, std::iter::once(id(1)));
        assert_eq!((table.in_flight(), table.len()), (0, 1), "durable is no claim any more");
    }

    #[test]
    fn the_newest_ids_are_kept_and_memory_is_bounded() {
        let table = RecentIds::new(1, Keep::Newest { ids: 10_000 });
        for first in (0..200_000).step_by(1_000) {
            let forgotten = settle(&table, first, u128::from(first)..u128::from(first) + 1_000);
            assert!(table.len() <= 20_000 + RUN_IDS_MAX, "{}", table.len());
            assert_eq!(forgotten, 0, "that is the rule and no event");
        }
        for newest in 194_000..200_000 {
            assert!(is_durable(&table, newest), "{newest}");
        }
        assert!(!is_durable(&table, 5));
    }

    #[test]
    fn with_an_index_ids_stay_until_they_are_covered() {
        let table = RecentIds::new(1, Keep::Uncovered { ids_max: 200_000 });
        for offset in 0..14 {
            settle(&table, offset, u128::from(offset) * 10_000..u128::from(offset + 1) * 10_000);
        }
        assert_eq!(table.len(), 140_000);
        let next = |offset: u64, covered_to: u64| {
            let bits = u128::from(offset) * 10_000;
            settle_covered(&table, offset, bits..bits + 1, Position::new(covered_to, 0))
        };
        assert_eq!(next(100, 2), 0);
        assert_eq!(table.len(), 140_001, "a seventh is not worth a sweep");
        assert_eq!(next(101, 7), 0);
        assert!((70_002..=70_002 + 2 * RUN_IDS_MAX).contains(&table.len()), "{}", table.len());
        assert!(!is_durable(&table, 0));
        assert!(is_durable(&table, 70_000));
        next(102, 100);
        assert!(table.len() <= 2 * RUN_IDS_MAX, "{}", table.len());
    }

    #[test]
    fn beyond_the_bound_the_oldest_ids_go_and_are_counted() {
        let table = RecentIds::new(1, Keep::Uncovered { ids_max: 40_000 });
        let (mut forgotten, mut most) = (0, 0);
        for offset in 0..100 {
            let first = u128::from(offset) * 1_000;
            forgotten += settle(&table, offset, first..first + 1_000);
            most = most.max(table.len());
            assert_eq!(table.len() + forgotten, (offset as usize + 1) * 1_000);
        }
        assert!(most <= 40_000 && forgotten >= 60_000, "{most}, {forgotten}");
        assert!(is_durable(&table, 99_999) && is_durable(&table, 75_000));
        assert!(!is_durable(&table, 0));
    }

    #[test]
    fn claims_outlive_every_sweep() {
        let table = RecentIds::new(1, Keep::Newest { ids: 10 });
        assert_eq!(ask(&table, 1 << 100, FlightId(9)), Seen::New);
        for offset in 0..100 {
            settle(&table, offset, u128::from(offset) * 1_000..u128::from(offset + 1) * 1_000);
        }
        assert_eq!(ask(&table, 1 << 100, FLIGHT), Seen::InFlight(FlightId(9)));
        assert_eq!(table.in_flight(), 1);
    }

    #[test]
    fn few_covered_ids_are_not_worth_a_sweep() {
        let table = RecentIds::new(1, Keep::Uncovered { ids_max: 1_000 });
        settle(&table, 1, 0..10);
        settle_covered(&table, 2, 10..11, Position::new(3, 0));
        assert!(is_durable(&table, 3));
    }

    #[test]
    fn memory_comes_back_after_a_lag() {
        let table = RecentIds::new(1, Keep::Uncovered { ids_max: 1_000_000 });
        settle(&table, 0, 0..1);
        for offset in 1..=10 {
            let first = u128::from(offset) * 60_000;
            settle(&table, offset, first..first + 60_000);
        }
        assert!(table.partitions[0].lock().table.capacity() >= 600_000);
        settle_covered(&table, 11, 1..2, Position::new(11, 0));
        let capacity = table.partitions[0].lock().table.capacity();
        assert!(capacity < ROOMY_IDS, "{capacity}");
    }

    proptest! {
        #[test]
        fn within_its_bound_the_table_knows_what_a_plain_map_knows(
            steps in prop::collection::vec((0_u8..4, 0_u128..40, 1_u64..4), 1..200),
        ) {
            let table = RecentIds::new(1, Keep::Uncovered { ids_max: 1_000 });
            let mut model: HashMap<u128, Seen> = HashMap::new();
            for (offset, (step, bits, flight)) in (0_u64..).zip(steps) {
                let own = Seen::InFlight(FlightId(flight));
                match step {
                    0 | 1 => {
                        let expected = model.get(&bits).copied().unwrap_or(Seen::New);
                        prop_assert_eq!(ask(&table, bits, FlightId(flight)), expected);
                        model.entry(bits).or_insert(own);
                    }
                    2 => {
                        table.release(0, FlightId(flight), std::iter::once(id(bits)));
                        if model.get(&bits) == Some(&own) {
                            model.remove(&bits);
                        }
                    }
                    _ => {
                        if model.get(&bits) == Some(&own) {
                            let events = std::iter::once((id(bits), offset));
                            let place = Place { offset, first: 0 };
                            table.settle(0, FlightId(flight), place, events, Position::ZERO);
                            model.insert(bits, Seen::Durable { content_hash: offset });
                        }
                    }
                }
            }
            let durable =
                model.values().filter(|seen| matches!(seen, Seen::Durable { .. })).count();
            prop_assert_eq!(table.len(), durable);
            prop_assert_eq!(table.in_flight(), model.len() - durable);
        }
    }
}
