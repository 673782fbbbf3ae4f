//! What both logs promise, told by the trait alone.

use bytes::Bytes;
use std::{collections::BTreeSet, time::Duration};
use weir_log::{Append, EventLog, LogError, Stored};

pub const SOON: Duration = Duration::from_secs(120);
const MIB: usize = 1 << 20;

pub fn record(partition: u32, text: impl Into<String>) -> Append {
    Append { partition, bytes: Bytes::from(text.into()) }
}

/// Appends one record and gives its offset.
pub async fn append_one(log: &dyn EventLog, partition: u32, text: impl Into<String>) -> u64 {
    let mut outcomes = log.append(vec![record(partition, text)]).await;
    outcomes.pop().unwrap().unwrap()
}

/// Everything in a partition from `from` to its end.
pub async fn read_all(log: &dyn EventLog, partition: u32, mut from: u64) -> Vec<Stored> {
    let end = log.end(partition).await.unwrap();
    let mut all = Vec::new();
    while from < end {
        let records = log.read(partition, from, MIB, SOON).await.unwrap();
        assert!(!records.is_empty(), "partition {partition} ends at {from} instead of {end}");
        from = records.last().unwrap().offset + 1;
        all.extend(records);
    }
    all
}

pub fn texts(records: &[Stored]) -> Vec<String> {
    records.iter().map(|r| String::from_utf8(r.bytes.to_vec()).unwrap()).collect()
}

/// Four partitions, empty.
pub async fn keeps_its_promises(log: &dyn EventLog) {
    assert_eq!(log.partitions(), 4);
    log.ready().await.unwrap();
    order_is_kept_by_partition(log).await;
    reads_are_bounded_by_bytes(log).await;
    a_reader_waits_for_news(log).await;
    a_cancelled_read_loses_nothing(log).await;
    what_is_not_there_is_named(log).await;
    concurrent_appends_all_count(log).await;
}

async fn order_is_kept_by_partition(log: &dyn EventLog) {
    assert_eq!((log.start(0).await.unwrap(), log.end(0).await.unwrap()), (0, 0));
    assert_eq!(log.read(0, 0, MIB, Duration::ZERO).await.unwrap(), []);
    assert!(log.append(vec![]).await.is_empty());
    let batch = vec![record(0, "a"), record(1, "b"), record(0, "c"), record(1, ""), record(0, "d")];
    let offsets: Vec<u64> = log.append(batch).await.into_iter().map(Result::unwrap).collect();
    assert!(offsets[0] < offsets[2] && offsets[2] < offsets[4] && offsets[1] < offsets[3]);
    let zero = read_all(log, 0, 0).await;
    assert_eq!(texts(&zero), ["a", "c", "d"]);
    assert_eq!(
        zero.iter().map(|r| r.offset).collect::<Vec<_>>(),
        [offsets[0], offsets[2], offsets[4]]
    );
    assert_eq!(texts(&read_all(log, 1, 0).await), ["b", ""]);
    assert_eq!(texts(&read_all(log, 0, offsets[2]).await), ["c", "d"]);
    assert!(log.end(0).await.unwrap() > offsets[4]);
    assert_eq!(log.end(2).await.unwrap(), 0);
}

async fn reads_are_bounded_by_bytes(log: &dyn EventLog) {
    let from = log.end(1).await.unwrap();
    for n in 0..10 {
        append_one(log, 1, format!("{n}").repeat(1_000)).await;
    }
    let two = log.read(1, from, 1_500, SOON).await.unwrap();
    assert!((1..=2).contains(&two.len()), "{}", two.len());
    let one = log.read(1, from, 0, SOON).await.unwrap();
    assert_eq!(one.len(), 1, "one at least");
    assert_eq!(read_all(log, 1, from).await.len(), 10);
}

async fn a_reader_waits_for_news(log: &dyn EventLog) {
    let from = log.end(2).await.unwrap();
    assert_eq!(log.read(2, from, MIB, Duration::from_millis(20)).await.unwrap(), []);
    let (news, _) = tokio::join!(log.read(2, from, MIB, SOON), async {
        tokio::task::yield_now().await;
        append_one(log, 2, "news").await
    });
    assert_eq!(texts(&news.unwrap()), ["news"]);
}

async fn a_cancelled_read_loses_nothing(log: &dyn EventLog) {
    let from = log.end(2).await.unwrap();
    let short = Duration::from_millis(5);
    let long_read = log.read(2, from, MIB, Duration::from_millis(300));
    assert!(tokio::time::timeout(short, long_read).await.is_err());
    append_one(log, 2, "after the cancel").await;
    let records = log.read(2, from, MIB, SOON).await.unwrap();
    assert_eq!(texts(&records), ["after the cancel"]);
}

async fn what_is_not_there_is_named(log: &dyn EventLog) {
    let end = log.end(0).await.unwrap();
    let beyond = log.read(0, end + 7, MIB, SOON).await.unwrap_err();
    assert!(
        matches!(beyond, LogError::BeyondEnd { partition: 0, from, end: e } if from == end + 7 && e == end),
        "{beyond}"
    );
    for error in [
        log.read(4, 0, MIB, SOON).await.unwrap_err(),
        log.end(4).await.unwrap_err(),
        log.start(4).await.unwrap_err(),
        log.append(vec![record(4, "x")]).await.pop().unwrap().unwrap_err(),
    ] {
        assert!(matches!(error, LogError::NoSuchPartition { partition: 4, partitions: 4 }));
        assert!(error.is_surely_absent());
    }
    assert_eq!(log.end(0).await.unwrap(), end);
}

async fn concurrent_appends_all_count(log: &dyn EventLog) {
    let from = log.end(3).await.unwrap();
    let appends =
        (0..200).map(|n| log.append(vec![record(3, format!("{n}a")), record(3, format!("{n}b"))]));
    let outcomes = futures::future::join_all(appends).await;
    let offsets: Vec<u64> = outcomes.into_iter().flatten().map(Result::unwrap).collect();
    assert!(offsets.chunks(2).all(|pair| pair[0] < pair[1]));
    let stored = read_all(log, 3, from).await;
    assert!(stored.windows(2).all(|pair| pair[0].offset < pair[1].offset));
    let answered: BTreeSet<u64> = offsets.iter().copied().collect();
    assert_eq!(answered, stored.iter().map(|r| r.offset).collect());
    for (place, offset) in offsets.iter().enumerate() {
        let text = format!("{}{}", place / 2, if place % 2 == 0 { "a" } else { "b" });
        let found = stored.iter().find(|r| r.offset == *offset).unwrap();
        assert_eq!(texts(std::slice::from_ref(found)), [text]);
    }
}
