//! A sealed run: an immutable file of entries in the order of their ids, read with `pread`.
//!
//! ```text
//! blocks    4,096 bytes each: 127 entries of 32 bytes, u32 number of entries, zeros,
//!           u64 xxh3 of the rest with the block's number as its seed
//! footer    u64 entries, u32 blocks, u32 segments,
//!           for each block the key (upper half) of its first id,
//!           for each segment u32 blocks, u32 fingerprints (0: no filter), the filter
//! trailer   u64 footer's length, u64 footer's xxh3, the eight letters WEIRRUN1
//! ```
//!
//! A segment is at most [`SEGMENT_BLOCKS`] blocks with a binary fuse filter of their own, so that
//! building a filter takes a bounded amount of memory however long the run. Keys and filters stay
//! in memory, about 2.4 bytes an entry; a filter's hit is verified in the file.

use super::{
    durable,
    entry::{ENTRY_BYTES, Entry, key_of, u32_at, u64_at},
    error::IndexError,
};
use std::{
    fs::File,
    io::{BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};
use xorf::{BinaryFuse16, Descriptor, Filter};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

pub(super) const BLOCK_BYTES: usize = 4096;
pub(super) const BLOCK_ENTRIES: usize = 127;
/// 8,192 blocks are 1,040,384 entries: a filter of them takes some 35 MB while it is built.
const SEGMENT_BLOCKS: usize = 8192;
const COUNT_AT: usize = BLOCK_ENTRIES * ENTRY_BYTES;
const CHECKSUM_AT: usize = BLOCK_BYTES - 8;
const TRAILER_BYTES: usize = 24;
const MAGIC: &[u8; 8] = b"WEIRRUN1";

/// One segment of a run: `blocks` blocks from `first_block` and their filter.
#[derive(Debug)]
struct Segment {
    first_block: usize,
    blocks: usize,
    /// Absent in the unlikely case that none could be built: then every look-up reads the file.
    filter: Option<BinaryFuse16>,
}

/// A sealed run, open for reading.
#[derive(Debug)]
pub struct Run {
    path: PathBuf,
    file: File,
    entries: u64,
    /// Key of the first id of each block.
    first_keys: Vec<u64>,
    segments: Vec<Segment>,
}

impl Run {
    /// Opens a run and checks its footer. Errors: [`IndexError::Damaged`] where it isn't one.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let file = File::open(path).map_err(IndexError::read(path))?;
        let bytes = file.metadata().map_err(IndexError::io(path))?.len();
        let footer = read_footer(&file, path, bytes)?;
        parse_footer(&footer, bytes, path).map(|(entries, first_keys, segments)| Self {
            path: path.to_owned(),
            file,
            entries,
            first_keys,
            segments,
        })
    }

    /// Number of ids.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes held in memory by keys and filters.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let filters = self.segments.iter().filter_map(|segment| segment.filter.as_ref());
        self.first_keys.len() * 8 + filters.map(|filter| filter.len() * 2).sum::<usize>()
    }

    /// Fills `found` for those of `ids` that are in this run; `ids` and `found` are parallel, and
    /// ids that are found already are passed over.
    ///
    /// All ids go through the filters first, then the hits are verified in the order of the file.
    pub fn find(&self, ids: &[u128], found: &mut [Option<Entry>]) -> Result<(), IndexError> {
        let mut hits: Vec<(u128, usize)> = ids
            .iter()
            .zip(found.iter())
            .enumerate()
            .filter(|(_, (id, known))| known.is_none() && self.may_hold(key_of(**id)))
            .map(|(at, (id, _))| (*id, at))
            .collect();
        hits.sort_unstable();
        let mut block = LoadedBlock::none();
        for (id, at) in hits {
            if let Some(slot) = found.get_mut(at) {
                *slot = self.verify(id, &mut block)?;
            }
        }
        Ok(())
    }

    fn may_hold(&self, key: u64) -> bool {
        let mut at = self.segments.partition_point(|segment| self.first_key(segment) <= key);
        while at > 0 {
            at -= 1;
            let segment = &self.segments[at];
            if segment.filter.as_ref().is_none_or(|filter| filter.contains(&key)) {
                return true;
            }
            // Ids that share a key may straddle two segments: only then ask the one before.
            if self.first_key(segment) != key {
                return false;
            }
        }
        false
    }

    fn first_key(&self, segment: &Segment) -> u64 {
        self.first_keys.get(segment.first_block).copied().unwrap_or(u64::MAX)
    }

    /// Looks the id up in the blocks that may hold it: one, or a few where ids share a key.
    fn verify(&self, id: u128, loaded: &mut LoadedBlock) -> Result<Option<Entry>, IndexError> {
        let key = key_of(id);
        let first = self.first_keys.partition_point(|first| *first < key).saturating_sub(1);
        for (number, first_key) in self.first_keys.iter().enumerate().skip(first) {
            if *first_key > key {
                break;
            }
            loaded.load(self, number)?;
            if let Ok(at) = loaded.entries.binary_search_by_key(&id, |entry| entry.id) {
                return Ok(loaded.entries.get(at).copied());
            }
        }
        Ok(None)
    }

    /// Reads the blocks from `number`, up to `blocks` of them, into `entries`.
    pub(super) fn read_blocks(
        &self,
        number: usize,
        blocks: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<(), IndexError> {
        let blocks = blocks.min(self.first_keys.len().saturating_sub(number));
        let mut bytes = vec![0; blocks * BLOCK_BYTES];
        self.file
            .read_exact_at(&mut bytes, (number * BLOCK_BYTES) as u64)
            .map_err(IndexError::read(&self.path))?;
        for (at, block) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
            read_block(block, number + at, entries)
                .ok_or_else(|| IndexError::damaged(&self.path, "a block's checksum differs"))?;
        }
        Ok(())
    }

    /// Number of blocks.
    pub(super) fn blocks(&self) -> usize {
        self.first_keys.len()
    }
}

/// The block that was read last: sorted hits often share one.
struct LoadedBlock {
    number: Option<usize>,
    entries: Vec<Entry>,
}

impl LoadedBlock {
    fn none() -> Self {
        Self { number: None, entries: Vec::with_capacity(BLOCK_ENTRIES) }
    }

    fn load(&mut self, run: &Run, number: usize) -> Result<(), IndexError> {
        if self.number != Some(number) {
            self.number = None;
            self.entries.clear();
            run.read_blocks(number, 1, &mut self.entries)?;
            self.number = Some(number);
        }
        Ok(())
    }
}

fn read_block(block: &[u8], number: usize, entries: &mut Vec<Entry>) -> Option<()> {
    let (content, checksum) = block.split_at(CHECKSUM_AT);
    if xxh3_64_with_seed(content, number as u64) != u64_at(checksum, 0) {
        return None;
    }
    let count = u32_at(content, COUNT_AT) as usize;
    let held = content.get(..count.checked_mul(ENTRY_BYTES)?)?;
    entries.extend(held.chunks_exact(ENTRY_BYTES).map(Entry::read));
    Some(())
}

fn read_footer(file: &File, path: &Path, bytes: u64) -> Result<Vec<u8>, IndexError> {
    let damaged = |what| IndexError::damaged(path, what);
    let trailer_at =
        bytes.checked_sub(TRAILER_BYTES as u64).ok_or_else(|| damaged("it is too short"))?;
    let mut trailer = [0; TRAILER_BYTES];
    file.read_exact_at(&mut trailer, trailer_at).map_err(IndexError::read(path))?;
    if &trailer[16..] != MAGIC {
        return Err(damaged("it does not end as a run does"));
    }
    let length = u64_at(&trailer, 0);
    let footer_at = trailer_at.checked_sub(length).ok_or_else(|| damaged("a wrong length"))?;
    let length = usize::try_from(length).map_err(|_| damaged("a wrong length"))?;
    let mut footer = vec![0; length];
    file.read_exact_at(&mut footer, footer_at).map_err(IndexError::read(path))?;
    if xxh3_64(&footer) != u64_at(&trailer, 8) {
        return Err(damaged("the footer's checksum differs"));
    }
    Ok(footer)
}

type Footer = (u64, Vec<u64>, Vec<Segment>);

fn parse_footer(footer: &[u8], bytes: u64, path: &Path) -> Result<Footer, IndexError> {
    let damaged = || IndexError::damaged(path, "the footer does not fit the file");
    let mut rest = Cursor(footer);
    let entries = rest.u64().ok_or_else(damaged)?;
    let blocks = rest.u32().ok_or_else(damaged)? as usize;
    let count = rest.u32().ok_or_else(damaged)? as usize;
    if (blocks * BLOCK_BYTES + footer.len() + TRAILER_BYTES) as u64 != bytes {
        return Err(damaged());
    }
    let keys = rest.take(blocks * 8).ok_or_else(damaged)?;
    let first_keys: Vec<u64> = keys.chunks_exact(8).map(|key| u64_at(key, 0)).collect();
    let mut segments = Vec::with_capacity(count);
    let mut first_block = 0;
    for _ in 0..count {
        let segment = rest.segment(first_block).ok_or_else(damaged)?;
        first_block += segment.blocks;
        segments.push(segment);
    }
    if first_block == blocks { Ok((entries, first_keys, segments)) } else { Err(damaged()) }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| u32_at(bytes, 0))
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|bytes| u64_at(bytes, 0))
    }

    fn segment(&mut self, first_block: usize) -> Option<Segment> {
        let blocks = self.u32()? as usize;
        let fingerprints = self.u32()? as usize;
        if fingerprints == 0 {
            return Some(Segment { first_block, blocks, filter: None });
        }
        let descriptor = Descriptor {
            seed: self.u64()?,
            segment_length: self.u32()?,
            segment_length_mask: self.u32()?,
            segment_count_length: self.u32()?,
        };
        let bytes = self.take(fingerprints * 2)?;
        let fingerprints =
            bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        Some(Segment {
            first_block,
            blocks,
            filter: Some(BinaryFuse16 { descriptor, fingerprints }),
        })
    }
}

/// Writes a run front to back; nothing of it has a name before [`RunWriter::finish`].
pub struct RunWriter {
    path: PathBuf,
    out: BufWriter<File>,
    block: Box<[u8; BLOCK_BYTES]>,
    in_block: usize,
    entries: u64,
    first_keys: Vec<u64>,
    segments: Vec<Segment>,
    /// Keys of the segment being written, without neighbours that are equal.
    segment_keys: Vec<u64>,
    segment_first_block: usize,
}

impl RunWriter {
    /// Starts the run that will be called `path`.
    pub fn create(path: &Path) -> Result<Self, IndexError> {
        let half = durable::temporary(path);
        let file = File::create(&half).map_err(IndexError::io(&half))?;
        Ok(Self {
            path: path.to_owned(),
            out: BufWriter::with_capacity(64 * BLOCK_BYTES, file),
            block: Box::new([0; BLOCK_BYTES]),
            in_block: 0,
            entries: 0,
            first_keys: Vec::new(),
            segments: Vec::new(),
            segment_keys: Vec::new(),
            segment_first_block: 0,
        })
    }

    /// Adds the next entry; ids must ascend.
    pub fn push(&mut self, entry: &Entry) -> Result<(), IndexError> {
        if self.in_block == 0 {
            self.first_keys.push(entry.key());
        }
        let at = self.in_block * ENTRY_BYTES;
        entry.write(&mut self.block[at..at + ENTRY_BYTES]);
        self.in_block += 1;
        self.entries += 1;
        if self.segment_keys.last() != Some(&entry.key()) {
            self.segment_keys.push(entry.key());
        }
        if self.in_block == BLOCK_ENTRIES {
            self.end_block()?;
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), IndexError> {
        let count = u32::try_from(self.in_block).unwrap_or(0).to_le_bytes();
        self.block[self.in_block * ENTRY_BYTES..COUNT_AT].fill(0);
        self.block[COUNT_AT..COUNT_AT + 4].copy_from_slice(&count);
        let number = self.first_keys.len() as u64 - 1;
        let checksum = xxh3_64_with_seed(&self.block[..CHECKSUM_AT], number).to_le_bytes();
        self.block[CHECKSUM_AT..].copy_from_slice(&checksum);
        self.out.write_all(self.block.as_slice()).map_err(IndexError::io(&self.path))?;
        self.in_block = 0;
        if self.first_keys.len() - self.segment_first_block == SEGMENT_BLOCKS {
            self.end_segment();
        }
        Ok(())
    }

    fn end_segment(&mut self) {
        let filter = BinaryFuse16::try_from(&self.segment_keys).ok();
        self.segments.push(Segment {
            first_block: self.segment_first_block,
            blocks: self.first_keys.len() - self.segment_first_block,
            filter,
        });
        self.segment_first_block = self.first_keys.len();
        self.segment_keys.clear();
    }

    /// Completes the file, gives it its name, and opens it. It survives a power cut from here on.
    pub fn finish(mut self) -> Result<Run, IndexError> {
        if self.in_block > 0 {
            self.end_block()?;
        }
        if self.first_keys.len() > self.segment_first_block {
            self.end_segment();
        }
        let footer = self.footer();
        let mut trailer = Vec::with_capacity(TRAILER_BYTES);
        trailer.extend((footer.len() as u64).to_le_bytes());
        trailer.extend(xxh3_64(&footer).to_le_bytes());
        trailer.extend(MAGIC);
        let io = |source| IndexError::Io { path: self.path.clone(), source };
        self.out.write_all(&footer).map_err(io)?;
        self.out.write_all(&trailer).map_err(io)?;
        let file = self.out.into_inner().map_err(|error| io(error.into_error()))?;
        durable::publish(&file, &self.path)?;
        // The writer's handle can't read.
        let file = File::open(&self.path).map_err(IndexError::io(&self.path))?;
        let Self { path, entries, first_keys, segments, .. } = self;
        Ok(Run { path, file, entries, first_keys, segments })
    }

    fn footer(&self) -> Vec<u8> {
        let filters = self.segments.iter().filter_map(|segment| segment.filter.as_ref());
        let size = 16
            + self.first_keys.len() * 8
            + self.segments.len() * 28
            + filters.map(|filter| filter.fingerprints.len() * 2).sum::<usize>();
        let mut footer = Vec::with_capacity(size);
        footer.extend(self.entries.to_le_bytes());
        footer.extend(number_u32(self.first_keys.len()));
        footer.extend(number_u32(self.segments.len()));
        for key in &self.first_keys {
            footer.extend(key.to_le_bytes());
        }
        for segment in &self.segments {
            footer.extend(number_u32(segment.blocks));
            let Some(filter) = &segment.filter else {
                footer.extend(number_u32(0));
                continue;
            };
            footer.extend(number_u32(filter.fingerprints.len()));
            footer.extend(filter.descriptor.seed.to_le_bytes());
            footer.extend(filter.descriptor.segment_length.to_le_bytes());
            footer.extend(filter.descriptor.segment_length_mask.to_le_bytes());
            footer.extend(filter.descriptor.segment_count_length.to_le_bytes());
            for fingerprint in &filter.fingerprints {
                footer.extend(fingerprint.to_le_bytes());
            }
        }
        footer
    }
}

/// A count as the footer writes it; a run of 2^32 blocks would be 16 TiB long.
fn number_u32(count: usize) -> [u8; 4] {
    u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes()
}
