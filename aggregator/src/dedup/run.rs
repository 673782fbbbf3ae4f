//! A sealed run: an immutable file of entries in the order of their ids, read with `pread`.
//!
//! ```text
//! blocks    4,096 bytes each: 127 entries of 32 bytes, u32 number of entries, zeros,
//!           u64 xxh3 of the rest with the block's number as its seed
//! footer    u64 entries, the filter
//! trailer   u64 footer's length, u64 footer's xxh3, the eight letters WEIRRUN2
//! ```
//!
//! The filter stays in memory, two and a half bytes an entry; what it takes for a hit is verified in
//! the file.

use super::{
    durable,
    entry::{ENTRY_BYTES, Entry, u32_at, u64_at},
    error::IndexError,
    filter::Filter,
};
use std::{
    fs::File,
    io::{BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};
use weir_events::{EventId, FirstCopy};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

pub(super) const BLOCK_BYTES: usize = 4096;
pub(super) const BLOCK_ENTRIES: usize = 127;
/// Entries of a run, at most: the filter counts them in 32 bits.
pub(super) const RUN_ENTRIES_MAX: u64 = u32::MAX as u64;
const COUNT_AT: usize = BLOCK_ENTRIES * ENTRY_BYTES;
const CHECKSUM_AT: usize = BLOCK_BYTES - 8;
const TRAILER_BYTES: usize = 24;
const MAGIC: &[u8; 8] = b"WEIRRUN2";

/// A sealed run, open for reading.
#[derive(Debug)]
pub struct Run {
    path: PathBuf,
    file: File,
    filter: Filter,
}

/// An id that is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub key: u64,
    /// Its place among the ids and the answers.
    pub at: u32,
}

impl Run {
    /// Opens a run and checks its footer. Errors: [`IndexError::Damaged`] where it isn't one.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let file = File::open(path).map_err(IndexError::read(path))?;
        let bytes = file.metadata().map_err(IndexError::io(path))?.len();
        let footer = read_footer(&file, path, bytes)?;
        let filter = parse_footer(&footer, bytes)
            .ok_or_else(|| IndexError::damaged(path, "the footer does not fit the file"))?;
        Ok(Self { path: path.to_owned(), file, filter })
    }

    /// Number of ids.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.filter.len() as u64
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of memory that its ids take.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.filter.memory_bytes()
    }

    /// Fills `found` for those of `ids` that are in this run and not found yet; `ids` and `found` are
    /// parallel. `asked` names those to look for, in the order of the run.
    pub fn find(
        &self,
        asked: &[Asked],
        ids: &[EventId],
        found: &mut [Option<FirstCopy>],
    ) -> Result<(), IndexError> {
        let mut block = LoadedBlock::default();
        for Asked { key, at } in asked {
            for place in self.filter.candidates(*key) {
                let (Some(id), Some(slot @ None)) =
                    (ids.get(*at as usize), found.get_mut(*at as usize))
                else {
                    break;
                };
                *slot = block
                    .entry(self, place)?
                    .filter(|entry| entry.id == id.as_u128())
                    .map(|entry| entry.first());
            }
        }
        Ok(())
    }

    /// Whether it may hold an id with this key.
    pub fn may_hold(&self, key: u64) -> bool {
        self.filter.candidates(key).next().is_some()
    }

    /// Number of blocks.
    pub(super) fn blocks(&self) -> usize {
        self.filter.len().div_ceil(BLOCK_ENTRIES)
    }
}

/// Blocks as they are read, into the same memory each time.
#[derive(Default)]
pub(super) struct Blocks {
    bytes: Vec<u8>,
    pub entries: Vec<Entry>,
}

impl Blocks {
    /// Reads the blocks from `number`, `count` of them or what there is.
    pub fn read(&mut self, run: &Run, number: usize, count: usize) -> Result<(), IndexError> {
        self.entries.clear();
        let count = count.min(run.blocks().saturating_sub(number));
        self.bytes.resize(count * BLOCK_BYTES, 0);
        run.file
            .read_exact_at(&mut self.bytes, (number * BLOCK_BYTES) as u64)
            .map_err(IndexError::read(&run.path))?;
        for (at, block) in self.bytes.chunks_exact(BLOCK_BYTES).enumerate() {
            read_block(block, number + at, &mut self.entries)
                .ok_or_else(|| IndexError::damaged(&run.path, "a block's checksum differs"))?;
        }
        Ok(())
    }
}

/// The block that was read last: hits in the order of the file often share one.
#[derive(Default)]
struct LoadedBlock {
    number: Option<usize>,
    blocks: Blocks,
}

impl LoadedBlock {
    fn entry(&mut self, run: &Run, place: usize) -> Result<Option<&Entry>, IndexError> {
        let number = place / BLOCK_ENTRIES;
        if self.number != Some(number) {
            self.number = None;
            self.blocks.read(run, number, 1)?;
            self.number = Some(number);
        }
        Ok(self.blocks.entries.get(place % BLOCK_ENTRIES))
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

fn parse_footer(footer: &[u8], bytes: u64) -> Option<Filter> {
    let (entries, filter) = footer.split_first_chunk::<8>()?;
    let entries = usize::try_from(u64::from_le_bytes(*entries)).ok()?;
    let blocks = entries.div_ceil(BLOCK_ENTRIES).checked_mul(BLOCK_BYTES)?;
    let fits = blocks.checked_add(footer.len() + TRAILER_BYTES)? as u64 == bytes;
    fits.then(|| Filter::read(filter, entries))?
}

/// Writes a run front to back; nothing of it has a name before [`RunWriter::finish`].
pub struct RunWriter {
    path: PathBuf,
    out: BufWriter<File>,
    block: Box<[u8; BLOCK_BYTES]>,
    in_block: usize,
    /// Blocks that are written.
    blocks: u64,
    filter: Filter,
}

impl RunWriter {
    /// Starts the run that will be called `path`, for about so many entries.
    pub fn create(path: &Path, entries: u64) -> Result<Self, IndexError> {
        let half = durable::temporary(path);
        let file = File::create(&half).map_err(IndexError::io(&half))?;
        Ok(Self {
            path: path.to_owned(),
            out: BufWriter::with_capacity(64 * BLOCK_BYTES, file),
            block: Box::new([0; BLOCK_BYTES]),
            in_block: 0,
            blocks: 0,
            filter: Filter::for_ids(entries),
        })
    }

    /// Adds the next entry; ids must ascend.
    pub fn push(&mut self, entry: &Entry) -> Result<(), IndexError> {
        let at = self.in_block * ENTRY_BYTES;
        entry.write(&mut self.block[at..at + ENTRY_BYTES]);
        self.in_block += 1;
        self.filter.push(entry.key());
        if self.in_block == BLOCK_ENTRIES { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> Result<(), IndexError> {
        let count = u32::try_from(self.in_block).unwrap_or(0).to_le_bytes();
        self.block[self.in_block * ENTRY_BYTES..COUNT_AT].fill(0);
        self.block[COUNT_AT..COUNT_AT + 4].copy_from_slice(&count);
        let checksum = xxh3_64_with_seed(&self.block[..CHECKSUM_AT], self.blocks).to_le_bytes();
        self.block[CHECKSUM_AT..].copy_from_slice(&checksum);
        self.out.write_all(self.block.as_slice()).map_err(IndexError::io(&self.path))?;
        self.blocks += 1;
        self.in_block = 0;
        Ok(())
    }

    /// Completes the file, gives it its name, and opens it. It survives a power cut from here on.
    pub fn finish(mut self) -> Result<Run, IndexError> {
        if self.in_block > 0 {
            self.end_block()?;
        }
        self.filter.end();
        let mut footer = Vec::new();
        footer.extend((self.filter.len() as u64).to_le_bytes());
        self.filter.write(&mut footer);
        let mut trailer = Vec::with_capacity(TRAILER_BYTES);
        trailer.extend((footer.len() as u64).to_le_bytes());
        trailer.extend(xxh3_64(&footer).to_le_bytes());
        trailer.extend(MAGIC);
        let Self { path, mut out, filter, .. } = self;
        out.write_all(&footer).map_err(IndexError::io(&path))?;
        out.write_all(&trailer).map_err(IndexError::io(&path))?;
        let file = out.into_inner().map_err(|error| IndexError::io(&path)(error.into_error()))?;
        durable::publish(&file, &path)?;
        // The writer's handle can't read.
        let file = File::open(&path).map_err(IndexError::io(&path))?;
        Ok(Run { path, file, filter })
    }
}
