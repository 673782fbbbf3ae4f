//! The log in a directory.

use crate::contract::{SOON, append_one, keeps_its_promises, read_all, record, texts};
use futures::future::join_all;
use std::{path::Path, time::Duration};
use weir_log::{EmbeddedLog, EmbeddedOptions, EventLog, LogConfig, LogError};

const MIB: usize = 1 << 20;

fn open(dir: &Path) -> EmbeddedLog {
    EmbeddedLog::open(dir, 4, EmbeddedOptions::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_log_keeps_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    keeps_its_promises(&open(dir.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_opened_again_goes_on_where_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig { dir: Some(dir.path().into()), partitions: 4, ..LogConfig::default() };
    for round in 0..3 {
        let log = config.open().await.unwrap();
        assert_eq!(log.end(0).await.unwrap(), round * 2);
        // One within the key's own file and one large enough for a file of values.
        assert_eq!(append_one(&*log, 0, "small").await, round * 2);
        assert_eq!(append_one(&*log, 0, "large".repeat(10_000)).await, round * 2 + 1);
    }
    let log = open(dir.path());
    let all = texts(&read_all(&log, 0, 0).await);
    assert_eq!(all.len(), 6);
    assert!(all.chunks(2).all(|pair| pair[0] == "small" && pair[1].len() == 50_000));
    assert_eq!(log.end(1).await.unwrap(), 0);
}

#[tokio::test]
async fn a_second_opener_is_refused_while_the_first_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let Err(refused) = EmbeddedLog::open(dir.path(), 4, EmbeddedOptions::default()) else {
        panic!("opened twice")
    };
    assert!(matches!(&refused, LogError::InUse { dir: named } if named == dir.path()), "{refused}");
    assert!(refused.to_string().ends_with("is in use by another process"));
    drop(first);
    open(dir.path());
}

#[tokio::test]
async fn another_number_of_partitions_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    for wanted in [1, 5] {
        let refused = EmbeddedLog::open(dir.path(), wanted, EmbeddedOptions::default()).err();
        let refused = refused.unwrap();
        assert!(
            matches!(refused, LogError::PartitionCount { found: 4, wanted: w } if w == wanted),
            "{refused}"
        );
    }
    open(dir.path());
}

#[tokio::test]
async fn a_log_keeps_its_partitions_and_a_new_one_has_four() {
    let dir = tempfile::tempdir().unwrap();
    let as_it_is = |name: &str| {
        let opened = EmbeddedLog::open_as_it_is(&dir.path().join(name), EmbeddedOptions::default());
        opened.unwrap().partitions()
    };
    let options = EmbeddedOptions::default();
    drop(EmbeddedLog::open(&dir.path().join("old"), 11, options).unwrap());
    assert_eq!(as_it_is("old"), 11);
    assert_eq!((as_it_is("new"), as_it_is("new")), (4, 4));
}

#[tokio::test]
async fn a_creation_that_was_cut_short_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("records.new")).unwrap();
    std::fs::write(dir.path().join("records.new/0.jnl"), "half").unwrap();
    assert_eq!(append_one(&open(dir.path()), 0, "x").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_busy_at_once_and_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for options in [
        EmbeddedOptions { queue_bytes_max: 1_000, ..EmbeddedOptions::default() },
        EmbeddedOptions { queue_requests_max: 1, ..EmbeddedOptions::default() },
    ] {
        let log = EmbeddedLog::open(dir.path(), 4, options).unwrap();
        let before = read_all(&log, 0, 0).await.len();
        let appends = (0..64).map(|_| log.append(vec![record(0, "x".repeat(MIB))]));
        let outcomes: Vec<_> = join_all(appends).await.into_iter().flatten().collect();
        assert!(outcomes[0].is_ok(), "what is alone is taken, whatever its size");
        let taken = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert!(taken < 64, "nothing was refused");
        for error in outcomes.into_iter().filter_map(Result::err) {
            assert!(matches!(error, LogError::Busy) && error.is_surely_absent(), "{error}");
        }
        assert_eq!(read_all(&log, 0, 0).await.len(), before + taken);
        append_one(&log, 1, "room again").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn released_records_are_gone_and_offsets_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let batch = (0..2_500).map(|n| record(0, format!("r{n}"))).collect();
    log.append(batch).await;
    append_one(&log, 1, "neighbour").await;

    log.release(0, 2_400).await;
    log.release(0, 100).await;
    assert_eq!((log.start(0).await.unwrap(), log.end(0).await.unwrap()), (2_400, 2_500));
    let gone = log.read(0, 2_399, MIB, SOON).await.unwrap_err();
    assert!(
        matches!(gone, LogError::BelowStart { partition: 0, from: 2_399, start: 2_400 }),
        "{gone}"
    );
    assert_eq!(read_all(&log, 0, 2_400).await.len(), 100);
    assert_eq!(texts(&read_all(&log, 1, 0).await), ["neighbour"]);
    drop(log);

    let log = open(dir.path());
    assert_eq!((log.start(0).await.unwrap(), log.end(0).await.unwrap()), (2_400, 2_500));
    // Beyond the end is as far as the end.
    log.release(0, u64::MAX).await;
    assert_eq!((log.start(0).await.unwrap(), log.end(0).await.unwrap()), (2_500, 2_500));
    assert_eq!(log.read(0, 2_500, MIB, Duration::ZERO).await.unwrap(), []);
    drop(log);

    let log = open(dir.path());
    assert_eq!(log.end(0).await.unwrap(), 2_500, "an empty log remembers its offsets");
    log.release(0, 10).await;
    assert_eq!(log.start(0).await.unwrap(), 2_500, "a start never goes back");
    assert_eq!(append_one(&log, 0, "next").await, 2_500);
    assert_eq!(texts(&read_all(&log, 0, 2_500).await), ["next"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_a_release_as_an_error_and_never_as_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.append((0..3_000).map(|n| record(0, format!("{n}"))).collect()).await;
    let release = async {
        for before in (0..=3_000).step_by(100) {
            log.release(0, before).await;
        }
    };
    let read = async {
        let mut from = 0;
        while from < 3_000 {
            match log.read(0, from, 1_000, SOON).await {
                Ok(records) => {
                    assert_eq!(records[0].offset, from);
                    from = records.last().unwrap().offset + 1;
                }
                Err(LogError::BelowStart { start, .. }) => from = start,
                Err(other) => panic!("{other}"),
            }
        }
    };
    tokio::join!(release, read);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_dropped_has_written_what_it_took() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let appends: Vec<_> = (0..50).map(|n| log.append(vec![record(0, format!("{n}"))])).collect();
    let outcomes = join_all(appends).await;
    assert!(outcomes.iter().flatten().all(Result::is_ok));
    drop(log);
    assert_eq!(open(dir.path()).end(0).await.unwrap(), 50);
}
