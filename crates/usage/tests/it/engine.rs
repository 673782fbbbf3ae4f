//! The engine child: its death, its restart, and who may speak to it.

use crate::support::*;
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use weir_ids::SubscriptionId;
use weir_usage::{
    Chunk, ClickHouse, EventRow, UsageRow,
    engine::{CHILD_COMMAND, Engine, EngineError, EngineOptions},
};

fn events(numbers: std::ops::Range<u64>) -> Chunk<'static> {
    Chunk { events: block(numbers.map(event)), ..Chunk::default() }
}

fn kill(pid: u32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn acknowledged_chunks_and_their_tokens_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let engine = own_engine(dir.path()).await;
        let database = engine.connect("weir");
        database.migrate().await.unwrap();
        for chunk in 0..=round {
            let numbers = chunk * 10..(chunk + 1) * 10;
            database.insert_chunk(&events(numbers), &format!("chunk-{chunk}")).await.unwrap();
        }
        assert_eq!(count_events(&database).await, (round + 1) * 10);
        kill(engine.pid());
        let status = engine.ended().await.unwrap();
        assert!(!status.success());
        let error = database.ping().await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
    }
}

#[tokio::test]
async fn a_chunk_that_a_kill_cut_short_counts_once_when_it_is_written_again() {
    const EVENTS: u64 = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let mut engine = own_engine(dir.path()).await;
    engine.connect("weir").migrate().await.unwrap();
    for round in 0..8 {
        let mut chunk = events(round * EVENTS..(round + 1) * EVENTS);
        chunk.usage.push(UsageRow { events: EVENTS, ..usage(MARCH.0, "1") });
        let token = format!("chunk-{round}");
        let database = engine.connect("weir");
        // Not a wait for something: the moment of the kill is what differs from round to round.
        let moment = Duration::from_millis(5 * round);
        let _cut_short = tokio::join!(database.insert_chunk(&chunk, &token), async {
            tokio::time::sleep(moment).await;
            kill(engine.pid());
        });
        drop(engine);
        engine = own_engine(dir.path()).await;
        let database = engine.connect("weir");
        database.insert_chunk(&chunk, &token).await.unwrap();
        let expected = (round + 1) * EVENTS;
        assert_eq!(count_events(&database).await, expected, "round {round}");
        let found = one(&database, MARCH).await;
        assert_eq!((found.events, found.total), (expected, (round + 1).into()), "round {round}");
    }
}

/// Name and nice value of each of a process' threads.
fn threads(pid: u32) -> Vec<(String, i32)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let read = tasks.flatten().filter_map(|task| {
        // Threads may end meanwhile.
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let (head, tail) = stat.rsplit_once(") ")?;
        let (_, name) = head.split_once('(')?;
        // proc(5): nice is field 19, and the state, which follows the name, field 3.
        let nice: i32 = tail.split(' ').nth(16)?.parse().ok()?;
        Some((name.to_owned(), nice))
    });
    read.collect()
}

#[tokio::test]
async fn merges_give_way_to_everything_else() {
    let dir = tempfile::tempdir().unwrap();
    let engine = own_engine(dir.path()).await;
    let database = engine.connect("weir");
    database.migrate().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(180);
    // A thread that merges becomes what it is with its first merge.
    let mut chunks = 0..;
    let others = loop {
        let chunk = chunks.next().unwrap();
        database.insert_chunk(&events(chunk..chunk + 1), &format!("chunk-{chunk}")).await.unwrap();
        let (merging, others): (Vec<_>, Vec<_>) = threads(engine.pid())
            .into_iter()
            .partition(|(name, _)| name.starts_with("MergeMutate"));
        if merging.iter().any(|(_, nice)| *nice == 10) {
            break others;
        }
        assert!(Instant::now() < deadline, "{merging:?} beside {others:?}");
    };
    assert!(!others.is_empty() && others.iter().all(|(_, nice)| *nice <= 0), "{others:?}");
}

#[tokio::test]
async fn a_token_whose_rows_were_lost_is_forgotten_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let engine = own_engine(dir.path()).await;
    let database = engine.connect("weir");
    database.migrate().await.unwrap();
    database.insert_chunk(&events(0..10), "kept").await.unwrap();
    database.insert_chunk(&events(10..20), "lost").await.unwrap();
    kill(engine.pid());
    engine.ended().await.unwrap();
    drop(engine);
    // What a kill between the token's note and the rename of its rows leaves behind.
    let part = find(dir.path(), "all_2_2_0");
    std::fs::remove_dir_all(part).unwrap();

    let engine = own_engine(dir.path()).await;
    let database = engine.connect("weir");
    assert_eq!(count_events(&database).await, 10);
    database.insert_chunk(&events(0..10), "kept").await.unwrap();
    database.insert_chunk(&events(10..20), "lost").await.unwrap();
    database.insert_chunk(&events(10..20), "lost").await.unwrap();
    assert_eq!(count_events(&database).await, 20);
}

fn find(dir: &Path, name: &str) -> std::path::PathBuf {
    let mut open = vec![dir.join("data/store")];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            // Not that of the migrations, which keeps no notes.
            if entry.file_name() == name && path.with_file_name("deduplication_logs").is_dir() {
                return path;
            }
            if entry.file_type().unwrap().is_dir() {
                open.push(path);
            }
        }
    }
    panic!("no part {name}");
}

#[tokio::test]
async fn events_are_sent_in_the_order_of_their_table() {
    let dir = tempfile::tempdir().unwrap();
    let engine = own_engine(dir.path()).await;
    let database = engine.connect("weir");
    database.migrate().await.unwrap();
    // Blocks that were written, and those among them that the engine had to sort.
    let sql = "SELECT sumIf(value, event = 'MergeTreeDataWriterBlocks') AS blocks,
                    blocks - sumIf(value, event = 'MergeTreeDataWriterBlocksAlreadySorted')
               FROM system.events";
    let blocks = async || -> (u64, u64) {
        let answer = answer(&engine, None, sql).await;
        let (all, unsorted) = answer.split_once('\t').unwrap();
        (all.parse().unwrap(), unsorted.parse().unwrap())
    };
    let before = blocks().await;
    let mixed = |number: u64| {
        let mut bits =
            u128::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        bits ^= bits >> 59;
        bits
    };
    let rows = (0..2_000).map(|number| EventRow {
        subscription: (number % 7 > 0).then(|| SubscriptionId::from_u128(mixed(number % 50))),
        code: ["tokens", "calls", "Calls", "calls-2"][number as usize % 4].into(),
        timestamp: event(mixed(number) as u64 % 500).timestamp,
        ..event(number)
    });
    let chunk = Chunk { events: block(rows), ..Chunk::default() };
    database.insert_chunk(&chunk, "a").await.unwrap();
    assert_eq!(count_events(&database).await, 2_000);
    assert_eq!(blocks().await, (before.0 + 1, before.1));
}

#[tokio::test]
async fn the_engine_stops_cleanly_and_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let engine = own_engine(dir.path()).await;
    let database = engine.connect("weir");
    database.migrate().await.unwrap();
    database.insert_chunk(&events(0..10), "a").await.unwrap();
    let status = engine.stop().await;
    assert!(status.is_some(), "it had to be killed");
    let engine = own_engine(dir.path()).await;
    let database = engine.connect("weir");
    database.insert_chunk(&events(0..10), "a").await.unwrap();
    assert_eq!(count_events(&database).await, 10);
}

#[tokio::test]
async fn a_second_engine_on_the_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = own_engine(dir.path()).await;
    let path = dir.path().to_owned();
    let second = tokio::task::spawn_blocking(move || {
        Engine::start(PROGRAM, &path, &EngineOptions::default())
    });
    let error = second.await.unwrap().unwrap_err();
    assert!(matches!(error, EngineError::InUse(_)), "{error}");
    assert!(error.to_string().starts_with("another process runs the analytics engine on "));
    first.connect("system").ping().await.unwrap();
}

#[tokio::test]
async fn only_the_password_of_this_start_opens_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = own_engine(dir.path()).await;
    let url = engine.url();
    engine.connect("system").ping().await.unwrap();
    for (user, password) in
        [("weir", "wrong"), ("weir", ""), ("default", ""), ("default", engine.password())]
    {
        let error = ClickHouse::connect(&url, user, password, "system").ping().await.unwrap_err();
        assert!(!error.is_retryable(), "{user}: {error}");
    }
    let grep =
        Command::new("grep").args(["-r", engine.password()]).arg(dir.path()).output().unwrap();
    assert!(grep.stdout.is_empty(), "the password is on disk");
    let command_line = std::fs::read(format!("/proc/{}/cmdline", engine.pid())).unwrap();
    assert!(!String::from_utf8_lossy(&command_line).contains(engine.password()));
}

#[test]
fn a_child_that_is_run_by_hand_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(PROGRAM)
        .arg(CHILD_COMMAND)
        .arg(dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.starts_with("this command is run by weir itself"), "{message}");
}

/// The variable that turns a run of this binary into the parent of an engine.
const PARENT_OF: &str = "WEIR_TEST_PARENT_OF";

/// Not a test of its own: the process that the next one kills.
#[test]
fn parent_of_an_engine() {
    let Some(dir) = std::env::var_os(PARENT_OF) else { return };
    let engine = Engine::start(PROGRAM, Path::new(&dir), &EngineOptions::default()).unwrap();
    println!("engine {}", engine.pid());
    loop {
        std::thread::park();
    }
}

#[tokio::test]
async fn the_engine_dies_with_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "engine::parent_of_an_engine", "--nocapture"])
        .env(PARENT_OF, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.contains("engine ")).unwrap();
    let pid: u32 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
    parent.kill().unwrap();
    parent.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while is_running(pid) {
        assert!(Instant::now() < deadline, "engine {pid} outlives its parent");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // And the directory is free for the next.
    own_engine(dir.path()).await.connect("system").ping().await.unwrap();
}

fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}
