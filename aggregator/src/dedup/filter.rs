//! What a run keeps of its ids in memory: 16 bits of each, by which nearly every other id is told not
//! to be there, and an id's place in the file is known without a search.
//!
//! Ids are hashes. Their first bits put them into buckets, of eight to sixteen each; the next 16 bits
//! are an id's mark. Buckets and marks are in the order of the ids: who asks for many in that order
//! reads memory front to back, where a filter that hashes waits for a cache line or three each time.
//! Of 4,000 ids that are not there one or fewer has the mark of one that is.

use super::entry::{u16_at, u32_at};

/// Ids of a bucket: at least so many on average, at most twice as many.
const BUCKET_IDS: u64 = 8;
/// With the mark they are three quarters of a key.
const BITS_MAX: u32 = 32;
/// Marks that are compared at once, without a branch: nearly every bucket is shorter.
const WINDOW: usize = 32;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// Of a key, those that choose the bucket.
    bits: u32,
    /// Where each bucket begins in `marks`, and where the last one ends.
    starts: Vec<u32>,
    marks: Vec<u16>,
}

/// Which of a run's ids may be the one that was asked for: their numbers, counted from 0.
#[derive(Debug)]
pub(super) struct Candidates<'f> {
    first: usize,
    marks: std::slice::Iter<'f, u16>,
    wanted: u16,
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let passed = self.marks.position(|mark| *mark == self.wanted)?;
        let found = self.first + passed;
        self.first = found + 1;
        Some(found)
    }
}

impl Filter {
    /// Without ids yet, for about so many.
    pub fn for_ids(ids: u64) -> Self {
        let bits = (ids / BUCKET_IDS).checked_ilog2().unwrap_or(0).min(BITS_MAX);
        let marks = Vec::with_capacity(usize::try_from(ids).unwrap_or_default());
        Self { bits, starts: Vec::with_capacity((1 << bits) + 1), marks }
    }

    /// Adds the next id's key; keys must ascend.
    pub fn push(&mut self, key: u64) {
        self.begin_buckets(self.bucket(key));
        self.marks.push(self.mark(key));
    }

    /// To be called after the last key.
    pub fn end(&mut self) {
        self.begin_buckets(1 << self.bits);
    }

    fn begin_buckets(&mut self, last: usize) {
        // A run has fewer than 2^32 ids.
        let here = u32::try_from(self.marks.len()).unwrap_or(u32::MAX);
        while self.starts.len() <= last {
            self.starts.push(here);
        }
    }

    fn bucket(&self, key: u64) -> usize {
        key.checked_shr(u64::BITS - self.bits).unwrap_or(0) as usize
    }

    fn mark(&self, key: u64) -> u16 {
        (key << self.bits >> 48) as u16
    }

    /// Which of the run's ids may have this key.
    pub fn candidates(&self, key: u64) -> Candidates<'_> {
        let bucket = self.bucket(key);
        let (first, end) = match self.starts.get(bucket..bucket + 2) {
            Some([first, end]) => (*first as usize, *end as usize),
            _ => (0, 0),
        };
        let wanted = self.mark(key);
        let bucket = self.marks.get(first..end).unwrap_or_default();
        let marks = if self.may_be_within(first, end, wanted) { bucket } else { &[] };
        Candidates { first, marks: marks.iter(), wanted }
    }

    /// False: the mark is not between these places. How far one has to look is hard to foresee for a
    /// processor, so it looks at as many marks each time, some of them of the buckets behind.
    fn may_be_within(&self, first: usize, end: usize, wanted: u16) -> bool {
        let window = self.marks.get(first..first + WINDOW);
        match window.and_then(|window| <&[u16; WINDOW]>::try_from(window).ok()) {
            Some(window) if end - first <= WINDOW => {
                window.iter().fold(false, |any, mark| any | (*mark == wanted))
            }
            _ => true,
        }
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        self.starts.capacity() * 4 + self.marks.capacity() * 2
    }

    /// How many ids there are.
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Appends it as a run's footer has it: u32 bits, u32 for each start, u16 for each mark.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.reserve(4 + self.starts.len() * 4 + self.marks.len() * 2);
        out.extend(self.bits.to_le_bytes());
        self.starts.iter().for_each(|start| out.extend(start.to_le_bytes()));
        self.marks.iter().for_each(|mark| out.extend(mark.to_le_bytes()));
    }

    /// Reads what `write` has written of so many ids. `None`: it is not that.
    pub fn read(bytes: &[u8], ids: usize) -> Option<Self> {
        let (bits, rest) = bytes.split_first_chunk::<4>()?;
        let bits = u32::from_le_bytes(*bits);
        let buckets = 1_usize.checked_shl(bits).filter(|_| bits <= BITS_MAX)?;
        let (starts, marks) = rest.split_at_checked((buckets + 1).checked_mul(4)?)?;
        let starts: Vec<u32> = starts.chunks_exact(4).map(|start| u32_at(start, 0)).collect();
        let ascend = starts.is_sorted() && starts.first() == Some(&0);
        let fits = marks.len() == ids.checked_mul(2)?
            && starts.last().is_some_and(|end| *end as usize == ids);
        let marks = marks.chunks_exact(2).map(|mark| u16_at(mark, 0)).collect();
        (ascend && fits).then_some(Self { bits, starts, marks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter_of(keys: &[u64], expected: u64) -> Filter {
        let mut filter = Filter::for_ids(expected);
        keys.iter().for_each(|key| filter.push(*key));
        filter.end();
        filter
    }

    fn spread(number: u64) -> u64 {
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn few_ids_that_are_not_there_look_as_if_they_were() {
        let mut keys: Vec<u64> = (0..100_000).map(spread).collect();
        keys.sort_unstable();
        let filter = filter_of(&keys, 100_000);
        let wrong = (100_000..200_000).filter(|n| filter.candidates(spread(*n)).next().is_some());
        assert!(wrong.count() < 50);
        assert!(filter.memory_bytes() < 100_000 * 5 / 2 + 8, "{}", filter.memory_bytes());
    }

    proptest! {
        #[test]
        fn each_key_is_a_candidate_at_its_place_also_after_it_was_written(
            mut keys in prop::collection::vec(
                prop_oneof![any::<u64>(), 0_u64..4, Just(u64::MAX)],
                0..300,
            ),
            expected in 0_u64..1_000,
        ) {
            keys.sort_unstable();
            let filter = filter_of(&keys, expected);
            for (place, key) in keys.iter().enumerate() {
                prop_assert!(filter.candidates(*key).any(|candidate| candidate == place));
            }
            let mut bytes = Vec::new();
            filter.write(&mut bytes);
            prop_assert_eq!(Filter::read(&bytes, keys.len()), Some(filter));
            prop_assert_eq!(Filter::read(&bytes, keys.len() + 1), None);
            prop_assert_eq!(Filter::read(&bytes[..bytes.len() - 1], keys.len()), None);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), ids in 0_usize..50) {
            let _ = Filter::read(&bytes, ids);
        }
    }
}
