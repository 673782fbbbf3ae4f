//! The ids an edge remembers: what it has in flight, and what it knows to be in the log.
//!
//! For each partition two kinds of entry are kept apart. *In flight*: claimed by a request whose
//! append is not settled; a failed append removes the claim and nothing of it stays, so a retry is
//! never called a duplicate. *Durable*: in the log, with the hash of the first copy's content.
//! Durable ids live in generations, so that forgetting drops a whole table instead of searching.

use hashbrown::HashTable;
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
    /// The newest ids of each partition, at least `ids` and less than twice as many: all there is
    /// to know for an edge without the aggregator's index.
    Newest { ids: usize },
    /// Every id until the aggregator's index covers it; at most `ids_max` over all partitions.
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

    /// Turns the claims of one record into durable ids: the record at `offset` holds `events`.
    pub fn settle(
        &self,
        partition: u32,
        flight: FlightId,
        offset: u64,
        events: impl Iterator<Item = (EventId, u64)>,
    ) {
        let mut added = 0;
        let mut ids = self.lock(partition);
        for ((id, content_hash), index) in events.zip(0..=u16::MAX) {
            ids.release(id, flight);
            // A claimed id is in no generation, and nobody else could have added it since.
            ids.insert(Entry::new(id, content_hash, Position::new(offset, index)));
            added += 1;
        }
        let dropped = ids.rotate(self.keep);
        drop(ids);
        self.count(added, dropped);
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
        let mut added = 0;
        let mut ids = self.lock(partition);
        for (id, content_hash, position) in events {
            added += usize::from(ids.add(Entry::new(id, content_hash, position)));
        }
        let dropped = ids.rotate(self.keep);
        drop(ids);
        self.count(added, dropped);
    }

    /// Forgets whole generations that lie before `covered_to`: the index knows them now.
    pub fn forget_covered(&self, partition: u32, covered_to: Position) {
        let dropped = self.lock(partition).forget_covered(covered_to);
        self.count(0, dropped);
    }

    /// Whether `more` ids would exceed what may be kept. Only an edge with an index can be full:
    /// the aggregator is too far behind, and forgetting would break the exactness of verdicts.
    #[must_use]
    pub fn is_full_for(&self, more: usize) -> bool {
        match self.keep {
            Keep::Newest { .. } => false,
            Keep::Uncovered { ids_max } => self.len() + more > ids_max,
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
        self.partitions.iter().map(|ids| ids.lock().in_flight.len()).sum()
    }

    fn count(&self, added: usize, dropped: usize) {
        if added >= dropped {
            self.durable.fetch_add(added - dropped, Ordering::Relaxed);
        } else {
            self.durable.fetch_sub(dropped - added, Ordering::Relaxed);
        }
    }

    fn lock(&self, partition: u32) -> parking_lot::MutexGuard<'_, PartitionIds> {
        self.partitions[partition as usize].lock()
    }
}

/// Ids of one generation when the aggregator's index is there: small enough that a covered one is
/// let go soon (2 MiB of entries), large enough that a lag of seconds means few tables to search.
const GENERATION_IDS: usize = 65_536;

/// A young generation whose ids are all covered is emptied only from this size on: emptying costs
/// the table's capacity, not its content.
const WORTH_EMPTYING_IDS: usize = 4_096;

#[derive(Default)]
struct PartitionIds {
    in_flight: HashTable<Claim>,
    young: Generation,
    /// Older generations, oldest first.
    sealed: VecDeque<Generation>,
}

#[derive(Default)]
struct Generation {
    ids: HashTable<Entry>,
    newest: Option<Position>,
}

#[derive(Clone, Copy)]
struct Claim {
    id: u128,
    flight: FlightId,
}

#[derive(Clone, Copy)]
struct Entry {
    id: u128,
    content_hash: u64,
    position: Position,
}

impl Entry {
    fn new(id: EventId, content_hash: u64, position: Position) -> Self {
        Self { id: id.0, content_hash, position }
    }
}

/// An id is a hash already. Its partition was taken from some of its bits, so within a partition
/// those are not random: the halves are mixed.
fn hash(id: u128) -> u64 {
    (id as u64) ^ ((id >> 64) as u64)
}

impl PartitionIds {
    fn claim(&mut self, id: EventId, flight: FlightId) -> Seen {
        let id = id.0;
        if let Some(entry) = self.find(id) {
            return Seen::Durable { content_hash: entry.content_hash };
        }
        let claim = self.in_flight.entry(hash(id), |claim| claim.id == id, |c| hash(c.id));
        match claim {
            hashbrown::hash_table::Entry::Occupied(other) => Seen::InFlight(other.get().flight),
            hashbrown::hash_table::Entry::Vacant(free) => {
                free.insert(Claim { id, flight });
                Seen::New
            }
        }
    }

    fn release(&mut self, id: EventId, flight: FlightId) {
        let own = |claim: &Claim| claim.id == id.0 && claim.flight == flight;
        if let Ok(claim) = self.in_flight.find_entry(hash(id.0), own) {
            claim.remove();
        }
    }

    fn find(&self, id: u128) -> Option<&Entry> {
        std::iter::once(&self.young)
            .chain(self.sealed.iter().rev())
            .find_map(|generation| generation.ids.find(hash(id), |entry| entry.id == id))
    }

    fn add(&mut self, entry: Entry) -> bool {
        let new = self.find(entry.id).is_none();
        if new {
            self.insert(entry);
        }
        new
    }

    fn insert(&mut self, entry: Entry) {
        self.young.newest = self.young.newest.max(Some(entry.position));
        self.young.ids.insert_unique(hash(entry.id), entry, |other| hash(other.id));
    }

    /// Seals a full young generation; answers how many ids were forgotten by that.
    fn rotate(&mut self, keep: Keep) -> usize {
        let (generation_ids, sealed_max) = match keep {
            Keep::Newest { ids } => (ids, 1),
            Keep::Uncovered { .. } => (GENERATION_IDS, usize::MAX),
        };
        if self.young.ids.len() < generation_ids {
            return 0;
        }
        // The next one will grow as large: growing step by step costs as much as filling.
        let ids = HashTable::with_capacity(self.young.ids.len());
        self.sealed.push_back(std::mem::replace(&mut self.young, Generation { ids, newest: None }));
        let mut dropped = 0;
        while self.sealed.len() > sealed_max {
            dropped += self.sealed.pop_front().map_or(0, |generation| generation.ids.len());
        }
        dropped
    }

    fn forget_covered(&mut self, covered_to: Position) -> usize {
        let covered =
            |generation: &Generation| generation.newest.is_none_or(|newest| newest < covered_to);
        let mut dropped = 0;
        while self.sealed.front().is_some_and(covered) {
            dropped += self.sealed.pop_front().map_or(0, |generation| generation.ids.len());
        }
        if self.young.ids.len() >= WORTH_EMPTYING_IDS && covered(&self.young) {
            dropped += self.young.ids.len();
            self.young.ids.clear();
            self.young.newest = None;
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLIGHT: FlightId = FlightId(1);

    fn id(bits: u128) -> EventId {
        EventId(bits)
    }

    fn ask(table: &RecentIds, bits: u128, flight: FlightId) -> Seen {
        let mut seen = None;
        table.claim(0, flight, std::iter::once((id(bits), ())), |(), told| seen = Some(told));
        seen.unwrap()
    }

    fn settle(table: &RecentIds, offset: u64, bits: impl Iterator<Item = u128>) {
        table.settle(0, FLIGHT, offset, bits.map(|bits| (id(bits), 7)));
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
        assert_eq!((table.in_flight(), table.len()), (0, 1));
    }

    #[test]
    fn the_newest_ids_are_kept_and_memory_is_bounded() {
        let table = RecentIds::new(1, Keep::Newest { ids: 100 });
        for first in (0..1_000).step_by(10) {
            settle(&table, first, u128::from(first)..u128::from(first) + 10);
            assert!(table.len() < 210, "{}", table.len());
        }
        for newest in 900..1_000 {
            assert!(matches!(ask(&table, newest, FLIGHT), Seen::Durable { .. }), "{newest}");
        }
        assert_eq!(ask(&table, 5, FLIGHT), Seen::New);
    }

    #[test]
    fn with_an_index_ids_stay_until_they_are_covered() {
        let table = RecentIds::new(1, Keep::Uncovered { ids_max: 200_000 });
        for offset in 0..14 {
            settle(&table, offset, u128::from(offset) * 10_000..u128::from(offset + 1) * 10_000);
        }
        assert_eq!(table.len(), 140_000);
        assert!(table.is_full_for(60_001) && !table.is_full_for(60_000));
        table.forget_covered(0, Position::new(6, 9_999));
        assert_eq!(table.len(), 140_000, "the last of the first generation is not covered yet");
        table.forget_covered(0, Position::new(7, 0));
        assert_eq!(table.len(), 70_000);
        assert_eq!(ask(&table, 69_999, FLIGHT), Seen::New);
        assert!(matches!(ask(&table, 70_000, FLIGHT), Seen::Durable { .. }));
        table.forget_covered(0, Position::new(14, 0));
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn few_young_ids_are_not_worth_emptying() {
        let table = RecentIds::new(1, Keep::Uncovered { ids_max: 1_000 });
        settle(&table, 1, 0..10);
        table.forget_covered(0, Position::new(2, 0));
        assert!(matches!(ask(&table, 3, FLIGHT), Seen::Durable { .. }));
    }
}
