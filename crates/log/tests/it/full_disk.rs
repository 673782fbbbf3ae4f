//! A disk that is full for a while: a small file system in memory, which only root may mount.

use crate::contract::{read_all, record};
use bytes::Bytes;
use futures::future::join_all;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Write},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use weir_log::{EmbeddedLog, EmbeddedOptions, EventLog, LogError};

const PARTITIONS: u32 = 2;
const PATIENCE: Duration = Duration::from_secs(120);
const FILLER: &str = "filler";

struct Disk(TempDir);

impl Disk {
    /// None where we may not mount one.
    fn mount() -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=160m,mode=0700", "weir-test"]).arg(place.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Self(place))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves so many bytes.
    fn fill_but(&self, left: u64) {
        let mut file = File::create(self.path().join(FILLER)).unwrap();
        let mut block = vec![1; 1 << 20];
        while !block.is_empty() {
            match file.write(&block) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    block.truncate(block.len() / 2);
                }
                Err(error) => panic!("{error}"),
            }
        }
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(left)).unwrap();
    }

    fn empty(&self) {
        fs::remove_file(self.path().join(FILLER)).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

/// What was acknowledged, by partition and offset.
type Told = BTreeMap<(u32, u64), Bytes>;

fn open(disk: &Disk) -> EmbeddedLog {
    let options = EmbeddedOptions { memtable_bytes: 1 << 20, ..EmbeddedOptions::default() };
    EmbeddedLog::open(&disk.path().join("log"), PARTITIONS, options).unwrap()
}

/// Appends some records at once; the errors of those that were not acknowledged.
async fn append(log: &EmbeddedLog, told: &mut Told, round: &str) -> Vec<LogError> {
    let records: Vec<_> = (0..16_u32)
        .map(|number| {
            let filler = "x".repeat(number as usize * 1_500);
            record(number % PARTITIONS, format!("{round} {number} {filler}"))
        })
        .collect();
    let outcomes = join_all(records.iter().map(|record| log.append(vec![record.clone()]))).await;
    let mut errors = Vec::new();
    for (record, outcome) in records.into_iter().zip(outcomes.into_iter().flatten()) {
        match outcome {
            Ok(offset) => {
                let before = told.insert((record.partition, offset), record.bytes);
                assert_eq!(before, None, "offset {offset} was given twice");
            }
            Err(error) => errors.push(error),
        }
    }
    errors
}

async fn holds_exactly(log: &EmbeddedLog, told: &Told, when: &str) {
    let mut found = Told::new();
    for partition in 0..PARTITIONS {
        for stored in read_all(log, partition, 0).await {
            found.insert((partition, stored.offset), stored.bytes);
        }
    }
    let places = |told: &Told| told.keys().copied().collect::<Vec<_>>();
    assert_eq!(places(&found), places(told), "{when}");
    assert!(found == *told, "{when}: something is changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_full_disk_the_log_goes_on_with_exactly_what_it_acknowledged() {
    let Some(disk) = Disk::mount() else {
        return println!("skipped: a small disk can't be mounted (root can)");
    };
    let (mut log, mut told) = (open(&disk), Told::new());
    // With some bytes left the journal still finds room, and the engine's own files do not.
    for (round, left) in [0, 1 << 20, 3 << 20, 0, 6 << 20].into_iter().enumerate() {
        for part in 0..12 {
            let errors = append(&log, &mut told, &format!("{round} before {part}")).await;
            assert!(errors.is_empty(), "{errors:?}");
        }
        disk.fill_but(left);
        let deadline = Instant::now() + PATIENCE;
        while append(&log, &mut told, &format!("{round} full")).await.is_empty() {
            assert!(Instant::now() < deadline, "the disk does not become full");
        }
        let trouble = log.ready().await.unwrap_err();
        let cause = std::error::Error::source(&trouble).unwrap().to_string();
        assert!(cause.starts_with("the log cannot write and tries again by itself"), "{cause}");
        let errors = append(&log, &mut told, &format!("{round} refused")).await;
        assert_eq!(errors.len(), 16, "nothing is taken");
        assert!(errors.iter().all(LogError::is_surely_absent), "{errors:?}");
        // What is there can be read meanwhile.
        holds_exactly(&log, &told, &format!("{left} bytes are left in round {round}")).await;
        disk.empty();
        while log.ready().await.is_err() {
            assert!(Instant::now() < deadline, "the log does not find itself again");
            tokio::task::yield_now().await;
        }
        holds_exactly(&log, &told, &format!("after {left} bytes in round {round}")).await;
        let errors = append(&log, &mut told, &format!("{round} after")).await;
        assert!(errors.is_empty(), "{errors:?}");
        if round % 2 == 0 {
            drop(log);
            log = open(&disk);
            holds_exactly(&log, &told, &format!("opened after round {round}")).await;
        }
    }
    log.release(0, 20).await;
    assert_eq!(log.start(0).await.unwrap(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_stays_where_it_was_moved_when_the_log_is_opened_again() {
    let Some(disk) = Disk::mount() else {
        return println!("skipped: a small disk can't be mounted (root can)");
    };
    let (log, mut told) = (open(&disk), Told::new());
    append(&log, &mut told, "first").await;
    disk.fill_but(0);
    while append(&log, &mut told, "full").await.is_empty() {}
    // Not on a disk that takes nothing.
    log.release(0, 5).await;
    assert_eq!(log.start(0).await.unwrap(), 0);
    disk.empty();
    let deadline = Instant::now() + PATIENCE;
    while log.ready().await.is_err() {
        assert!(Instant::now() < deadline, "the log does not find itself again");
        tokio::task::yield_now().await;
    }
    log.release(0, 5).await;
    assert_eq!(log.start(0).await.unwrap(), 5);
    drop(log);
    assert_eq!(open(&disk).start(0).await.unwrap(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_can_be_closed_while_its_disk_is_full() {
    let Some(disk) = Disk::mount() else {
        return println!("skipped: a small disk can't be mounted (root can)");
    };
    let (log, mut told) = (open(&disk), Told::new());
    disk.fill_but(0);
    while append(&log, &mut told, "full").await.is_empty() {}
    drop(log);
    disk.empty();
    let log = open(&disk);
    for (partition, offset) in told.keys() {
        assert!(log.end(*partition).await.unwrap() > *offset);
    }
    assert!(append(&log, &mut told, "after").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_new_log_takes_the_place_of_one_whose_records_are_gone() {
    let Some(disk) = Disk::mount() else {
        return println!("skipped: a small disk can't be mounted (root can)");
    };
    let (log, mut told) = (open(&disk), Told::new());
    append(&log, &mut told, "before").await;
    disk.fill_but(0);
    while append(&log, &mut told, "full").await.is_empty() {}
    let (records, away) = (disk.path().join("log/records"), disk.path().join("away"));
    fs::rename(&records, &away).unwrap();
    disk.empty();
    // What is asked of the disk when there is room is closed: reads tell that it was tried.
    let deadline = Instant::now() + PATIENCE;
    while log.read(0, 0, 1, Duration::ZERO).await.is_ok() {
        assert!(Instant::now() < deadline, "the log is not opened again");
    }
    assert!(log.ready().await.is_err() && !records.exists());
    fs::rename(&away, &records).unwrap();
    while log.ready().await.is_err() {
        assert!(Instant::now() < deadline, "the log does not find itself again");
        tokio::task::yield_now().await;
    }
    holds_exactly(&log, &told, "when its records are there again").await;
}
