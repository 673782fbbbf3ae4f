//! One seen id as a run keeps it: 32 bytes.

use weir_events::{EventId, FirstCopy, Position};

/// Bytes of an entry on disk.
pub(super) const ENTRY_BYTES: usize = 32;

/// An id, what its first copy held, and where that copy is. Ordered by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub id: u128,
    /// Log position of the first copy, as a number.
    pub position: u64,
    /// Hash of the first copy's content.
    pub content_hash: u64,
}

impl Entry {
    /// The entry of the first copy of `id`.
    #[must_use]
    pub fn new(id: EventId, first: FirstCopy) -> Self {
        Self {
            id: id.as_u128(),
            position: first.position.as_u64(),
            content_hash: first.content_hash,
        }
    }

    /// What is known of the id's first copy.
    #[must_use]
    pub fn first(&self) -> FirstCopy {
        FirstCopy { position: Position::from_u64(self.position), content_hash: self.content_hash }
    }

    /// The filters' and the block index's key: the id's upper half, so that keys of a sorted run
    /// are sorted too and equal ones are neighbours.
    #[must_use]
    pub fn key(&self) -> u64 {
        key_of(self.id)
    }

    pub(super) fn write(&self, out: &mut [u8]) {
        out[..16].copy_from_slice(&self.id.to_be_bytes());
        out[16..24].copy_from_slice(&self.content_hash.to_le_bytes());
        out[24..32].copy_from_slice(&self.position.to_le_bytes());
    }

    pub(super) fn read(bytes: &[u8]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[..16]);
        Self {
            id: u128::from_be_bytes(id),
            content_hash: u64_at(bytes, 16),
            position: u64_at(bytes, 24),
        }
    }
}

/// The upper half of an id.
pub(super) const fn key_of(id: u128) -> u64 {
    (id >> 64) as u64
}

/// The little-endian number at `at`; the caller has checked the length.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// The little-endian number at `at`; the caller has checked the length.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The little-endian number at `at`; the caller has checked the length.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}
