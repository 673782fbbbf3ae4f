//! Who an event is, which partition it belongs to, and where its record stands in the log.

use std::fmt;
use weir_ids::OrganizationId;
use xxhash_rust::xxh3::xxh3_128;

/// The identity of an event for ever: 128 bits of (organization, transaction id). Two events with
/// one `EventId` are copies of each other, whatever their timestamp, code or subscription.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EventId(pub u128);

impl EventId {
    /// The id with these bits.
    #[must_use]
    pub const fn from_u128(bits: u128) -> Self {
        Self(bits)
    }

    /// The id's bits.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// For hash tables: an id is a hash already. Its partition was taken from some of its bits, so
    /// within a partition those are not random: the halves are mixed.
    #[must_use]
    pub const fn table_hash(self) -> u64 {
        (self.0 as u64) ^ ((self.0 >> 64) as u64)
    }
}

// Ids up to this length are hashed from the stack; 255 letters of ASCII fit.
const STACK_BYTES: usize = 272;

/// The id of an organization's event: xxh3-128 over the 16 bytes of the organization, big endian,
/// and the bytes of the transaction id. Never changes: ids are kept for ever.
#[must_use]
pub fn event_id(organization: OrganizationId, transaction_id: &str) -> EventId {
    let (head, tail) = (organization.as_u128().to_be_bytes(), transaction_id.as_bytes());
    let mut stack = [0_u8; STACK_BYTES];
    let length = head.len() + tail.len();
    match stack.get_mut(..length) {
        Some(buffer) => {
            let (front, back) = buffer.split_at_mut(head.len());
            front.copy_from_slice(&head);
            back.copy_from_slice(tail);
            EventId(xxh3_128(buffer))
        }
        None => EventId(xxh3_128(&[&head[..], tail].concat())),
    }
}

/// The partition of an event, in `0..partitions` (0 for no partitions). Taken from the middle bits,
/// so that the ids of one partition are still spread evenly over the whole range.
#[must_use]
pub fn partition_of(id: EventId, partitions: u32) -> u32 {
    let middle = (id.0 >> 32) as u64;
    // Below `partitions`, so it fits.
    (middle % u64::from(partitions.max(1))) as u32
}

/// Where an event stands in its partition of the log: the offset of its record and its place in the
/// record. Ordered as the log is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl Position {
    /// The greatest record offset that a position can hold: 2^48 - 1, a million records a second
    /// for nine years.
    pub const OFFSET_MAX: u64 = (1 << 48) - 1;
    /// Before every event.
    pub const ZERO: Self = Self(0);

    /// The event at `index` of the record at `offset`.
    /// Panics: an offset beyond `OFFSET_MAX`, because two events would get one position.
    #[must_use]
    pub const fn new(offset: u64, index: u16) -> Self {
        assert!(offset <= Self::OFFSET_MAX, "record offset beyond 2^48");
        Self((offset << 16) | index as u64)
    }

    /// The position with these bits.
    #[must_use]
    pub const fn from_u64(bits: u64) -> Self {
        Self(bits)
    }

    /// The position's bits.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The offset of the record.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0 >> 16
    }

    /// The place in the record, from 0.
    #[must_use]
    pub const fn index(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.offset(), self.index())
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACME: OrganizationId = OrganizationId::from_u128(7);

    #[test]
    fn ids_are_those_of_the_first_release() {
        // Stored for ever: a change of these numbers loses every customer's history.
        assert_eq!(event_id(ACME, "t-1").0, 0x8d34165914f6636de8542aa854c5111c);
        assert_eq!(partition_of(EventId(5 << 32), 4), 1);
    }

    #[test]
    fn organizations_do_not_share_ids() {
        assert_ne!(event_id(ACME, "t"), event_id(OrganizationId::from_u128(8), "t"));
        assert_ne!(event_id(ACME, "t"), event_id(ACME, "u"));
    }

    #[test]
    fn long_ids_hash_like_short_ones() {
        for length in [0, 1, 255, 256, 257, 1_020] {
            let text = "x".repeat(length);
            let whole = [&ACME.as_u128().to_be_bytes()[..], text.as_bytes()].concat();
            assert_eq!(event_id(ACME, &text).0, xxh3_128(&whole), "{length}");
        }
    }

    #[test]
    fn partitions_are_even_and_in_range() {
        for partitions in [1, 3, 8, 12] {
            let mut counts = vec![0_u32; partitions as usize];
            for n in 0..12_000 {
                let id = event_id(ACME, &format!("t-{n}"));
                counts[partition_of(id, partitions) as usize] += 1;
            }
            let fair = 12_000 / partitions;
            assert!(counts.iter().all(|n| n.abs_diff(fair) < fair / 5), "{partitions}: {counts:?}");
        }
        assert_eq!(partition_of(EventId(u128::MAX), 0), 0);
    }

    #[test]
    fn positions_are_ordered_by_offset_then_index() {
        let position = Position::new(Position::OFFSET_MAX, u16::MAX);
        assert_eq!((position.offset(), position.index()), (Position::OFFSET_MAX, u16::MAX));
        assert!(Position::new(1, 0) > Position::new(0, u16::MAX));
        assert!(Position::new(1, 1) > Position::new(1, 0));
        assert_eq!(Position::from_u64(Position::new(9, 2).as_u64()).to_string(), "9.2");
    }
}
