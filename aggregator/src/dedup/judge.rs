//! Which events of a chunk are new.
//!
//! An event is new exactly if no *earlier* position holds its id. An index that already knows this
//! very copy, or later ones, because the chunk was done before and a crash came between, decides
//! the same as one that doesn't.

use super::entry::Entry;
use hashbrown::HashTable;
use weir_events::{EventId, FirstCopy, Position};

/// An event as far as telling copies apart needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub id: EventId,
    pub position: Position,
    pub content_hash: u64,
}

/// What an event is to the copies before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The first copy: it counts.
    New,
    /// A later copy with the first one's content.
    Duplicate,
    /// A later copy with other content; the first stays.
    Conflict { first: Position },
}

/// Judges a chunk. `seen` is in log order; `known` is parallel to it and says what the index holds.
#[must_use]
pub fn judge(seen: &[Seen], known: &[Option<FirstCopy>]) -> Vec<Verdict> {
    // The first copies among them, by their place: what is copied into a table costs cache.
    let mut here: HashTable<u32> = HashTable::with_capacity(seen.len());
    let id_at = |place: u32| seen.get(place as usize).map(|event| event.id);
    let hash_at = |place: &u32| id_at(*place).map_or(0, EventId::table_hash);
    let mut first_here = |event: &Seen, place: u32| {
        let hash = event.id.table_hash();
        let entry = here.entry(hash, |own| id_at(*own) == Some(event.id), hash_at);
        seen.get(*entry.or_insert(place).get() as usize).map(FirstCopy::from)
    };
    (0..)
        .zip(seen)
        .zip(known.iter().copied().chain(std::iter::repeat(None)))
        .map(|((place, event), known)| {
            let earlier = known.filter(|first| first.position < event.position);
            let first = earlier.or_else(|| first_here(event, place));
            match first.unwrap_or_else(|| event.into()) {
                first if first.position == event.position => Verdict::New,
                first if first.content_hash == event.content_hash => Verdict::Duplicate,
                first => Verdict::Conflict { first: first.position },
            }
        })
        .collect()
}

impl From<&Seen> for FirstCopy {
    fn from(event: &Seen) -> Self {
        Self { position: event.position, content_hash: event.content_hash }
    }
}

/// The index entries of a chunk's new events.
#[must_use]
pub fn new_entries(seen: &[Seen], verdicts: &[Verdict]) -> Vec<Entry> {
    seen.iter()
        .zip(verdicts)
        .filter(|(_, verdict)| **verdict == Verdict::New)
        .map(|(event, _)| {
            let (position, content_hash) = (event.position, event.content_hash);
            Entry::new(event.id, FirstCopy { position, content_hash })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(id: u128, offset: u64, content_hash: u64) -> Seen {
        let position = Position::new(offset, 0);
        Seen { id: EventId::from_u128(id), position, content_hash }
    }

    fn first(offset: u64, content_hash: u64) -> Option<FirstCopy> {
        Some(FirstCopy { position: Position::new(offset, 0), content_hash })
    }

    #[test]
    fn copies_within_a_chunk_and_behind_it_are_told_apart() {
        let chunk =
            [seen(1, 10, 7), seen(1, 11, 7), seen(1, 12, 8), seen(2, 13, 7), seen(3, 14, 7)];
        let known = [None, None, None, first(4, 7), first(5, 9)];
        let expected = [
            Verdict::New,
            Verdict::Duplicate,
            Verdict::Conflict { first: Position::new(10, 0) },
            Verdict::Duplicate,
            Verdict::Conflict { first: Position::new(5, 0) },
        ];
        assert_eq!(judge(&chunk, &known), expected);
        assert_eq!(new_entries(&chunk, &expected).len(), 1);
    }

    #[test]
    fn an_index_that_knows_the_chunk_already_decides_the_same() {
        let chunk = [seen(1, 10, 7), seen(2, 11, 7), seen(1, 12, 7), seen(2, 13, 1)];
        let fresh = judge(&chunk, &[None; 4]);
        let redone = judge(&chunk, &[first(10, 7), first(11, 7), first(10, 7), first(11, 7)]);
        let by_half = judge(&chunk, &[first(10, 7), None, None, first(11, 7)]);
        assert_eq!(fresh, redone);
        assert_eq!(fresh, by_half);
    }

    #[test]
    fn a_later_copy_in_the_index_does_not_make_an_earlier_one_old() {
        let verdicts = judge(&[seen(1, 10, 7)], &[first(20, 7)]);
        assert_eq!(verdicts, [Verdict::New]);
    }
}
