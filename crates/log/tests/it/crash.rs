//! kill -9 in the middle of appends, and what is there afterwards.

use crate::contract::{append_one, read_all, record};
use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};
use weir_log::{EmbeddedLog, EmbeddedOptions, EventLog};

const DIR: &str = "WEIR_TEST_LOG_DIR";
const ROUND: &str = "WEIR_TEST_LOG_ROUND";
const PARTITIONS: u32 = 4;

fn open(dir: &Path) -> EmbeddedLog {
    // A small memtable, so that files are written and compacted while the process is killed.
    let options = EmbeddedOptions { memtable_bytes: 1 << 20, ..EmbeddedOptions::default() };
    EmbeddedLog::open(dir, PARTITIONS, options).unwrap()
}

/// Some records are a few bytes, some need a file of values.
fn text(round: &str, writer: usize, count: usize) -> String {
    let filler = "x".repeat(if count.is_multiple_of(3) { 5 } else { count * 37 % 20_000 });
    format!("{round}-{writer}-{count}-{filler}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that acknowledged_records_survive_kill_9 kills"]
async fn child_that_appends_until_it_is_killed() {
    let (Ok(dir), Ok(round)) = (std::env::var(DIR), std::env::var(ROUND)) else { return };
    let log = Arc::new(open(Path::new(&dir)));
    let writers = (0..8).map(|writer| {
        let (log, round) = (Arc::clone(&log), round.clone());
        tokio::spawn(async move {
            for count in 0.. {
                let partition = (writer + count) as u32 % PARTITIONS;
                let records = vec![record(partition, text(&round, writer, count))];
                let offset = log.append(records).await.pop().unwrap().unwrap();
                println!("\nACK {partition} {offset} {writer} {count}");
            }
        })
    });
    futures::future::join_all(writers).await;
}

/// Runs the child until it has so many answers, kills it, and gives what it was told: the text at
/// each (partition, offset).
fn run_and_kill(dir: &Path, round: &str, answers: usize) -> HashMap<(u32, u64), String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "crash::child_that_appends_until_it_is_killed",
        ])
        .env(DIR, dir)
        .env(ROUND, round)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut told = HashMap::new();
    for line in lines {
        let line = line.unwrap();
        let Some(rest) = line.strip_prefix("ACK ") else { continue };
        let numbers: Vec<u64> = rest.split(' ').filter_map(|n| n.parse().ok()).collect();
        // The last line may be cut.
        let [partition, offset, writer, count] = numbers[..] else { continue };
        told.insert((partition as u32, offset), text(round, writer as usize, count as usize));
        if told.len() == answers {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(told.len() >= answers, "the child ended by itself after {}", told.len());
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_records_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut told = HashMap::new();
    for (round, answers) in [("a", 1), ("b", 400), ("c", 1_500)] {
        let path = dir.path().to_owned();
        let more = tokio::task::spawn_blocking(move || run_and_kill(&path, round, answers));
        for (place, text) in more.await.unwrap() {
            assert_eq!(told.insert(place, text), None, "{place:?} was given twice");
        }
        let log = open(dir.path());
        let mut found = HashMap::new();
        for partition in 0..PARTITIONS {
            let records = read_all(&log, partition, 0).await;
            assert!(records.windows(2).all(|pair| pair[0].offset < pair[1].offset));
            for record in records {
                found.insert((partition, record.offset), record.bytes);
            }
            let end = log.end(partition).await.unwrap();
            let offset = append_one(&log, partition, "between").await;
            assert_eq!(offset, end);
            told.insert((partition, offset), "between".to_owned());
            found.insert((partition, offset), "between".into());
        }
        for (place, text) in &told {
            let stored = found.get(place).map(|bytes| &bytes[..]);
            assert!(stored == Some(text.as_bytes()), "{place:?} is lost or changed");
        }
    }
}
