//! The index against a map, closed and opened again at any point, with files damaged or left over.

use proptest::prelude::*;
use std::{collections::HashMap, fs, path::Path};
use weir_aggregator::dedup::{Entry, Index, IndexError, Rebuild};
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
            let to = Position::new(offset + 1, 0);
            index.remember(&entries, to, numbers.len() as u64).unwrap();
        }
    }

    fn assert_same(&self, index: &Index) {
        let ids: Vec<EventId> = (0..=u8::MAX).map(id).collect();
        let found = index.find(&ids).unwrap();
        for (number, found) in (0..=u8::MAX).zip(found) {
            assert_eq!(found, self.first.get(&number).copied(), "id {number}");
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
                let to = Position::new(offset + 1, 0);
                index.remember(&entries, to, numbers.len() as u64).unwrap();
                // Done again, as after a crash that came before the index heard of its end.
                index.remember(&entries, to, numbers.len() as u64).unwrap();
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
        index.remember(&entries, Position::new(chunk + 1, 0), 100).unwrap();
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
        index.remember(&[], Position::new(offset + 1, 0), 100).unwrap();
    }
    assert!(index.sealed_to() > Position::new(10, 0), "{}", index.sealed_to());
}
