//! The index against a map, closed and opened again at any point, with files damaged or left over.

use proptest::prelude::*;
use std::{collections::HashMap, fs, path::Path};
use weir_aggregator::dedup::{Covered, Entry, Index, IndexError, Rebuild};
use weir_events::{EventId, FirstCopy, Position};

/// Small, so that a few hundred ids go through sealing and several levels of merging.
const TABLE_IDS_MAX: usize = 4;

/// What is done to the index next.
#[derive(Debug, Clone)]
enum Step {
    /// A chunk of ids, some of them known.
    Remember(Vec<u8>),
    /// Drop it as a crash does, open it again, and read the tail from the log.
    Crash,
    /// The same, with the merge that was under way half done.
    CrashWhileMerging,
    Merge,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..12).prop_map(Step::Remember),
        1 => Just(Step::Crash),
        1 => Just(Step::CrashWhileMerging),
        2 => Just(Step::Merge),
    ];
    prop::collection::vec(step, 1..60)
}

/// Ids that share their upper halves in groups of four, which filters and block keys can't tell apart.
fn id(number: u8) -> EventId {
    let (group, member) = (u128::from(number / 4), u128::from(number % 4));
    EventId::from_u128((group.wrapping_mul(0x9e37_79b9_7f4a_7c15) << 64) | member)
}

/// What record `offset` with so many events covers; its time is its offset.
fn covered(offset: u64, events: u64) -> Covered {
    Covered { to: Position::new(offset + 1, 0), events, newest_us: offset as i64 }
}

struct Model {
    /// The log: its chunks' ids, a record each.
    log: Vec<Vec<u8>>,
    first: HashMap<u8, FirstCopy>,
}

impl Model {
    fn entries(&mut self, offset: u64, numbers: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (index, number) in (0..).zip(numbers) {
            let position = Position::new(offset, index);
            let first = FirstCopy { position, content_hash: u64::from(*number) + offset };
            let known = *self.first.entry(*number).or_insert(first);
            if known.position == position {
                entries.push(Entry::new(id(*number), first));
            }
        }
        entries
    }

    fn replay(&mut self, index: &mut Index) {
        let from = index.covered_to().offset();
        self.first.retain(|_, first| first.position.offset() < from);
        for (offset, numbers) in (0..).zip(self.log.clone()).skip(from as usize) {
            let entries = self.entries(offset, &numbers);
            index.remember(&entries, covered(offset, numbers.len() as u64)).unwrap();
        }
    }

    fn assert_same(&self, index: &Index) {
        let ids: Vec<EventId> = (0..=u8::MAX).map(id).collect();
        let found = index.find(&ids).unwrap();
        for (number, found) in (0..=u8::MAX).zip(found) {
            assert_eq!(found, self.first.get(&number).copied(), "id {number}");
            let suspects = index.reader().suspects(&[id(number)]);
            assert!(suspects >= usize::from(found.is_some()), "id {number}");
        }
        assert_eq!(index.reader().ids(), self.first.len() as u64);
        assert_eq!(index.covered_to(), Position::new(self.log.len() as u64, 0));
    }
}

fn merge_all(index: &mut Index) {
    while let Some(merge) = index.due_merge() {
        index.install(merge.run().unwrap()).unwrap();
    }
}

fn play(steps: &[Step]) {
    let dir = tempfile::tempdir().unwrap();
    let open = || Index::open(dir.path(), 3, TABLE_IDS_MAX).unwrap();
    let mut index = open();
    let mut model = Model { log: Vec::new(), first: HashMap::new() };
    for step in steps {
        match step {
            Step::Remember(numbers) => {
                let offset = model.log.len() as u64;
                model.log.push(numbers.clone());
                let entries = model.entries(offset, numbers);
                let covered = covered(offset, numbers.len() as u64);
                index.remember(&entries, covered).unwrap();
                // Done again, as after a crash that came before the index heard of its end.
                index.remember(&entries, covered).unwrap();
            }
            Step::Crash => {
                drop(index);
                index = open();
                model.replay(&mut index);
            }
            Step::CrashWhileMerging => {
                let merged = index.due_merge().map(|merge| merge.run().unwrap());
                drop((index, merged));
                fs::write(dir.path().join("0000009999.tmp"), b"half a run").unwrap();
                index = open();
                model.replay(&mut index);
            }
            Step::Merge => merge_all(&mut index),
        }
        model.assert_same(&index);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]

    #[test]
    fn an_index_answers_as_a_map_does_through_crashes(steps in steps()) {
        play(&steps);
    }
}

fn scrambled(number: u64) -> EventId {
    let low = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    EventId::from_u128((u128::from(low.rotate_left(29) ^ 0x5bd1) << 64) | u128::from(low))
}

fn filled(dir: &Path, ids: u64) -> Index {
    let mut index = Index::open(dir, 0, 500).unwrap();
    for chunk in 0..ids / 100 {
        let entries: Vec<Entry> = (0..100)
            .map(|event| {
                let position = Position::new(chunk, event);
                let number = chunk * 100 + u64::from(event);
                Entry::new(scrambled(number), FirstCopy { position, content_hash: number })
            })
            .collect();
        index.remember(&entries, covered(chunk, 100)).unwrap();
        merge_all(&mut index);
    }
    index
}

#[test]
fn many_blocks_and_levels_are_found_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let index = filled(dir.path(), 60_000);
    let known: Vec<EventId> = (0..60_000).map(scrambled).collect();
    let found = index.find(&known).unwrap();
    for (number, first) in (0..).zip(found) {
        assert_eq!(first.unwrap().content_hash, number);
    }
    let unknown: Vec<EventId> = (60_000..160_000).map(scrambled).collect();
    assert!(index.find(&unknown).unwrap().iter().all(Option::is_none));
    assert_eq!(index.reader().suspects(&known), known.len());
    assert!(index.reader().suspects(&unknown) < unknown.len() / 100);
    assert!(index.reader().memory_bytes() < 60_000 * 4, "{}", index.reader().memory_bytes());
}

#[test]
fn a_damaged_byte_anywhere_is_noticed_and_never_believed() {
    let dir = tempfile::tempdir().unwrap();
    let ids: Vec<EventId> = (0..3_000).map(scrambled).collect();
    let right = {
        let index = filled(dir.path(), 3_000);
        index.find(&ids).unwrap()
    };
    let files: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() > 1);
    for file in files {
        let intact = fs::read(&file).unwrap();
        for at in (0..intact.len()).step_by(97).chain([intact.len() - 1]) {
            let mut damaged = intact.clone();
            damaged[at] ^= 0x10;
            fs::write(&file, &damaged).unwrap();
            match Index::open(dir.path(), 0, 500).and_then(|index| index.find(&ids)) {
                Ok(found) => assert_eq!(found, right, "{} byte {at}", file.display()),
                Err(IndexError::Damaged { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        fs::write(&file, &intact).unwrap();
    }
    assert_eq!(Index::open(dir.path(), 0, 500).unwrap().find(&ids).unwrap(), right);
}

#[test]
fn a_missing_or_cut_run_is_damage_and_a_new_index_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path(), 3_000));
    let run = fs::read_dir(dir.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "run"))
        .unwrap();
    let bytes = fs::read(&run).unwrap();
    fs::write(&run, &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(Index::open(dir.path(), 0, 500), Err(IndexError::Damaged { .. })));
    fs::remove_file(&run).unwrap();
    assert!(matches!(Index::open(dir.path(), 0, 500), Err(IndexError::Damaged { .. })));
    let index = Index::create(dir.path(), 0, 500).unwrap();
    assert_eq!((index.reader().ids(), index.covered_to()), (0, Position::ZERO));
    drop(index);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the manifest is left");
}

#[test]
fn the_index_of_another_partition_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path(), 1_000));
    assert!(matches!(Index::open(dir.path(), 1, 500), Err(IndexError::Damaged { .. })));
}

#[test]
fn a_rebuild_from_unsorted_entries_is_whole_or_not_there() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path(), 2_000));
    let mut rebuild = Rebuild::start(dir.path(), 0, 500).unwrap();
    let entry = |number: u64| {
        let position = Position::new(number, 0);
        Entry::new(scrambled(number), FirstCopy { position, content_hash: number })
    };
    for number in 0..100 {
        rebuild.add(entry(number)).unwrap();
    }
    drop(rebuild);
    let empty = Index::open(dir.path(), 0, 500).unwrap();
    assert_eq!((empty.reader().ids(), empty.covered_to()), (0, Position::ZERO));

    let mut rebuild = Rebuild::start(dir.path(), 0, 500).unwrap();
    for number in (0..7_000).rev() {
        rebuild.add(entry(number)).unwrap();
    }
    drop(rebuild.finish(Position::new(7_000, 0)).unwrap());
    let index = Index::open(dir.path(), 0, 500).unwrap();
    let ids: Vec<EventId> = (0..7_000).map(scrambled).collect();
    assert!(index.find(&ids).unwrap().iter().all(Option::is_some));
    assert_eq!(index.sealed_to(), Position::new(7_000, 0));
}

#[test]
fn repeats_alone_move_the_manifest_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = filled(dir.path(), 100);
    assert_eq!(index.sealed_to(), Position::ZERO);
    for offset in 1..100 {
        index.remember(&[], covered(offset, 100)).unwrap();
    }
    assert!(index.sealed_to() > Position::new(10, 0), "{}", index.sealed_to());
}

/// The numbers of the scrambled ids that an index knows.
fn known(index: &Index, numbers: std::ops::Range<u64>) -> Vec<u64> {
    let ids: Vec<EventId> = numbers.clone().map(scrambled).collect();
    let found = index.find(&ids).unwrap();
    numbers.zip(found).filter(|(_, first)| first.is_some()).map(|(number, _)| number).collect()
}

#[test]
fn runs_are_forgotten_when_their_newest_event_is_old_and_stay_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    // Twelve runs of 500 ids: ten of them merged. Record 49 has the newest event of those.
    let mut index = filled(dir.path(), 6_000);
    assert_eq!(index.forget_before(49).unwrap(), 0);
    assert_eq!(known(&index, 0..6_000).len(), 6_000);
    assert_eq!(index.forget_before(50).unwrap(), 5_000);
    assert_eq!(known(&index, 0..6_000), (5_000..6_000).collect::<Vec<_>>());
    drop(index);
    let mut index = Index::open(dir.path(), 0, 500).unwrap();
    assert_eq!(known(&index, 0..6_000), (5_000..6_000).collect::<Vec<_>>());
    assert_eq!(index.covered_to(), Position::new(60, 0), "it need not be read again");
    assert_eq!(index.forget_before(55).unwrap(), 500, "times are kept over a restart");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "a run and the manifest");
}

#[test]
fn an_index_that_forgets_holds_little_more_than_its_window() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = Index::open(dir.path(), 0, 50).unwrap();
    let window = 400;
    let mut most = 0;
    for chunk in 0..3_000_u64 {
        let entries: Vec<Entry> = (0..10)
            .map(|event| {
                let first = FirstCopy { position: Position::new(chunk, event), content_hash: 0 };
                Entry::new(scrambled(chunk * 10 + u64::from(event)), first)
            })
            .collect();
        index.remember(&entries, covered(chunk, 10)).unwrap();
        index.forget_before(chunk as i64 - window).unwrap();
        merge_all(&mut index);
        let needed = (chunk.saturating_sub(400) * 10)..((chunk + 1) * 10);
        if chunk % 100 == 99 {
            let count = needed.end - needed.start;
            assert_eq!(known(&index, needed).len() as u64, count, "after chunk {chunk}");
        }
        most = most.max(index.reader().ids());
    }
    assert!(most < 4_000 * 3 / 2, "{most} ids for a window of 4,000");
    let files = fs::read_dir(dir.path()).unwrap().count();
    assert!(files < 60, "{files} files");
}

#[test]
fn a_merge_of_runs_that_are_forgotten_meanwhile_brings_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = Index::open(dir.path(), 0, 10).unwrap();
    for chunk in 0..10 {
        let first = |event| FirstCopy { position: Position::new(chunk, event), content_hash: 0 };
        let entries: Vec<Entry> = (0..10)
            .map(|event| Entry::new(scrambled(chunk * 10 + u64::from(event)), first(event)))
            .collect();
        index.remember(&entries, covered(chunk, 10)).unwrap();
    }
    let merge = index.due_merge().unwrap();
    assert_eq!(index.forget_before(3).unwrap(), 30);
    index.install(merge.run().unwrap()).unwrap();
    assert_eq!(known(&index, 0..100), (30..100).collect::<Vec<_>>());
    drop(index);
    assert_eq!(known(&Index::open(dir.path(), 0, 10).unwrap(), 0..100).len(), 70);
}
