//! The log in a topic of a real broker.

use crate::{
    contract::{SOON, append_one, keeps_its_promises, read_all, record, texts},
    kafka_broker::{Broker, shared, topic},
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use weir_log::{EventLog, KafkaLog, KafkaOptions, LogConfig, LogError};

const MIB: usize = 1 << 20;

async fn connect(topic: &str) -> KafkaLog {
    KafkaLog::connect(&shared().await, topic, 4, KafkaOptions::default()).await.unwrap()
}

async fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", shared().await).create().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kafka_log_keeps_its_promises() {
    keeps_its_promises(&connect(&topic("contract")).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_connection_finds_the_records_of_the_first() {
    let topic = topic("again");
    assert_eq!(append_one(&connect(&topic).await, 3, "kept").await, 0);
    let brokers = Some(shared().await);
    let config = LogConfig { brokers, topic, partitions: 4, ..LogConfig::default() };
    let log = config.open().await.unwrap();
    assert_eq!(texts(&read_all(&*log, 3, 0).await), ["kept"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_with_another_number_of_partitions_is_refused() {
    let topic = topic("count");
    drop(connect(&topic).await);
    let other = KafkaLog::connect(&shared().await, &topic, 5, KafkaOptions::default()).await;
    let refused = other.err().unwrap();
    assert!(matches!(refused, LogError::PartitionCount { found: 4, wanted: 5 }), "{refused}");
    connect(&topic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_topic_keeps_its_records_for_ever() {
    let topic = topic("retention");
    drop(connect(&topic).await);
    let described = admin()
        .await
        .describe_configs([&ResourceSpecifier::Topic(&topic)], &AdminOptions::new())
        .await
        .unwrap();
    let config = described.into_iter().next().unwrap().unwrap();
    for (name, value) in
        [("retention.ms", "-1"), ("retention.bytes", "-1"), ("cleanup.policy", "delete")]
    {
        assert_eq!(config.get(name).unwrap().value.as_deref(), Some(value), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_below_the_start_are_an_error_and_never_skipped() {
    let topic = topic("start");
    let log = connect(&topic).await;
    for n in 0..10 {
        append_one(&log, 0, format!("{n}")).await;
    }
    let mut below = TopicPartitionList::new();
    below.add_partition_offset(&topic, 0, Offset::Offset(6)).unwrap();
    admin().await.delete_records(&below, &AdminOptions::new()).await.unwrap();
    assert_eq!((log.start(0).await.unwrap(), log.end(0).await.unwrap()), (6, 10));
    let gone = log.read(0, 2, MIB, SOON).await.unwrap_err();
    assert!(
        matches!(gone, LogError::BelowStart { partition: 0, from: 2, start: 6 }),
        "{gone}: {gone:?}"
    );
    assert_eq!(texts(&read_all(&log, 0, 6).await), ["6", "7", "8", "9"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_busy_at_once() {
    let options = KafkaOptions { queue_records_max: 1, linger_ms: 500, ..KafkaOptions::default() };
    let log = KafkaLog::connect(&shared().await, &topic("busy"), 4, options).await.unwrap();
    let records = (0..50).map(|n| record(0, format!("{n}"))).collect();
    let outcomes = log.append(records).await;
    let busy = outcomes.iter().filter(|o| matches!(o, Err(LogError::Busy))).count();
    assert!(outcomes[0].is_ok() && busy > 0);
    assert_eq!(log.end(0).await.unwrap(), 50 - busy as u64);
    append_one(&log, 0, "room again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_beyond_the_limit_is_rejected_and_its_neighbours_stand() {
    let log = connect(&topic("large")).await;
    let records = vec![record(0, "a"), record(0, "x".repeat(4 * MIB)), record(0, "b")];
    let outcomes = log.append(records).await;
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
    assert!(outcomes[1].as_ref().unwrap_err().is_surely_absent());
    assert_eq!(texts(&read_all(&log, 0, 0).await), ["a", "b"]);
    // The largest record that weir-events writes.
    append_one(&log, 0, "x".repeat(900_048)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_shows_tools_how_far_we_are() {
    let topic = topic("group");
    let log = connect(&topic).await;
    append_one(&log, 1, "x").await;
    let brokers = shared().await;
    let deadline = Instant::now() + SOON;
    let mut committed = None;
    while committed != Some(Offset::Offset(1)) {
        assert!(Instant::now() < deadline, "{committed:?}");
        log.release(1, 1).await;
        let (brokers, topic) = (brokers.clone(), topic.clone());
        let asked = tokio::task::spawn_blocking(move || group_offset(&brokers, &topic, 1));
        committed = asked.await.unwrap();
    }
    assert_eq!(log.start(1).await.unwrap(), 0, "Kafka keeps the record");
}

fn group_offset(brokers: &str, topic: &str, partition: i32) -> Option<Offset> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", KafkaOptions::default().group)
        .create()
        .unwrap();
    let mut asked = TopicPartitionList::new();
    asked.add_partition(topic, partition);
    let committed = consumer.committed_offsets(asked, SOON).ok()?;
    committed.find_partition(topic, partition).map(|found| found.offset())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_broker_is_an_error_in_time() {
    let options = KafkaOptions { request_timeout_ms: 300, ..KafkaOptions::default() };
    let connecting = KafkaLog::connect("127.0.0.1:1", "weir", 4, options);
    let refused = timeout(SOON, connecting).await.unwrap().err().unwrap();
    assert!(matches!(refused, LogError::Unavailable(_)), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_broker_is_an_error_in_time_and_a_started_one_goes_on() {
    let broker = tokio::task::spawn_blocking(Broker::start).await.unwrap();
    let options = KafkaOptions {
        delivery_timeout_ms: 2_000,
        request_timeout_ms: 2_000,
        ..KafkaOptions::default()
    };
    let log = KafkaLog::connect(&broker.address(), "weir", 4, options).await.unwrap();
    let first = append_one(&log, 0, "before").await;
    assert_eq!(texts(&read_all(&log, 0, first).await), ["before"]);

    let broker = command(broker, "stop").await;
    let appended = timeout(SOON, log.append(vec![record(0, "during")])).await.unwrap().pop();
    let error = appended.unwrap().unwrap_err();
    assert!(!error.is_surely_absent(), "it may still land: {error}");
    assert!(timeout(SOON, log.ready()).await.unwrap().is_err());
    assert!(timeout(SOON, log.end(0)).await.unwrap().is_err());
    let nothing = log.read(0, first + 1, MIB, Duration::from_millis(10));
    let nothing = timeout(SOON, nothing).await.unwrap();
    assert!(matches!(nothing, Err(LogError::Unavailable(_))), "{nothing:?}");

    let broker = command(broker, "start").await;
    let deadline = Instant::now() + 2 * SOON;
    let after = loop {
        match log.append(vec![record(0, "after")]).await.pop().unwrap() {
            Ok(offset) => break offset,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
    };
    log.ready().await.unwrap();
    let stored = read_all(&log, 0, 0).await;
    assert_eq!(texts(&stored)[0], "before");
    assert_eq!(stored.iter().find(|r| r.offset == after).unwrap().bytes, "after");
    drop(log);
    command(broker, "stop").await;
}

async fn command(broker: Broker, command: &'static str) -> Broker {
    let done = tokio::task::spawn_blocking(move || {
        broker.run(command);
        broker
    });
    done.await.unwrap()
}
