//! The log in a Kafka topic.

mod client;
mod reader;
mod topic;

use crate::{Append, EventLog, LogError, Stored, error::Closed, metrics};
use client::{Client, LogContext};
use parking_lot::RwLock;
use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{FutureProducer, FutureRecord, Producer},
};
use reader::Reader;
use serde::Deserialize;
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

/// Bounds of the Kafka log.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaOptions {
    /// How long an append may take, retries included. A sender waits for it: 10 s is below the
    /// usual client's 30 and above a broker's restart of its leader.
    pub delivery_timeout_ms: u32,
    /// How long metadata and offsets may take.
    pub request_timeout_ms: u32,
    /// How long a record waits for others to share a request. Records are packed already.
    pub linger_ms: u32,
    /// Records that may wait for the broker.
    pub queue_records_max: u32,
    /// KiB that may wait for the broker.
    pub queue_kib_max: u32,
    /// KiB that are fetched ahead of each partition's reader.
    pub fetch_kib_max: u32,
    /// Copies of each record if this process creates the topic; the broker's default if absent.
    pub replication: Option<u16>,
    /// Whether a topic that does not exist is made. Who only reads makes none.
    pub create_topic: bool,
    /// The consumer group whose offsets show tools how far the aggregator is. Nothing reads them.
    pub group: String,
    /// More of librdkafka's properties, for SASL and the like.
    pub client: ClientProperties,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            delivery_timeout_ms: 10_000,
            request_timeout_ms: 5_000,
            linger_ms: 1,
            queue_records_max: 20_000,
            queue_kib_max: 65_536,
            fetch_kib_max: 8_192,
            replication: None,
            create_topic: true,
            group: "weir".to_owned(),
            client: ClientProperties::default(),
        }
    }
}

/// Properties of librdkafka. Their values may be secrets: only the names are ever printed.
///
/// Read from a configuration, an underscore in a name stands for a dot, which no environment
/// variable may have: `INGEST__LOG__KAFKA__CLIENT__SASL_USERNAME` is `sasl.username`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "BTreeMap<String, PropertyValue>")]
pub struct ClientProperties(pub BTreeMap<String, String>);

/// What an environment variable was taken for: librdkafka wants it as it was written.
#[derive(Deserialize)]
#[serde(untagged)]
enum PropertyValue {
    Flag(bool),
    Number(i64),
    Text(String),
}

impl From<BTreeMap<String, PropertyValue>> for ClientProperties {
    fn from(properties: BTreeMap<String, PropertyValue>) -> Self {
        let text = |value| match value {
            PropertyValue::Flag(flag) => flag.to_string(),
            PropertyValue::Number(number) => number.to_string(),
            PropertyValue::Text(text) => text,
        };
        let named =
            properties.into_iter().map(|(name, value)| (name.replace('_', "."), text(value)));
        Self(named.collect())
    }
}

impl fmt::Debug for ClientProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A log in a topic, written by an idempotent producer with acks from all replicas in sync.
pub struct KafkaLog {
    client: Client,
    producer: RwLock<Arc<FutureProducer<LogContext>>>,
    /// For offsets, metadata and commits; reads nothing.
    consumer: Arc<BaseConsumer<LogContext>>,
    readers: Vec<Arc<tokio::sync::Mutex<Reader>>>,
}

impl KafkaLog {
    /// Connects to `brokers` (`host:port,…`) and, unless `create_topic` is off, creates the topic if
    /// it is not there: unlimited retention, `partitions` partitions. Errors: `PartitionCount` for a
    /// topic with another number, `Unavailable` when the brokers don't answer in time or the topic
    /// is not there, `Open` for wrong options.
    pub async fn connect(
        brokers: &str,
        topic: &str,
        partitions: u32,
        options: KafkaOptions,
    ) -> Result<Self, LogError> {
        metrics::describe();
        let client = Client::new(brokers, topic, partitions, options);
        let consumer: Arc<BaseConsumer<_>> = Arc::new(client.consumer()?);
        topic::ensure(&client, &consumer).await?;
        let producer = RwLock::new(Arc::new(client.producer()?));
        let readers = (0..partitions)
            .map(|partition| Arc::new(tokio::sync::Mutex::new(Reader::new(partition))))
            .collect();
        Ok(Self { client, producer, consumer, readers })
    }

    fn check(&self, partition: u32) -> Result<(), LogError> {
        let partitions = self.client.partitions;
        if partition < partitions {
            return Ok(());
        }
        Err(LogError::NoSuchPartition { partition, partitions })
    }

    /// A fatal error ends an idempotent producer for good. Its records are `Unknown` and dedup
    /// finds their copies, so a new one may go on.
    fn replace_if_dead(&self, used: &Arc<FutureProducer<LogContext>>) {
        let Some((code, reason)) = used.client().fatal_error() else { return };
        let mut current = self.producer.write();
        if !Arc::ptr_eq(&current, used) {
            return;
        }
        tracing::error!(%code, reason, "the Kafka producer failed for good; making another");
        match self.client.producer() {
            Ok(producer) => *current = Arc::new(producer),
            Err(error) => tracing::error!(%error, "no new Kafka producer"),
        }
    }

    async fn offsets(&self, partition: u32) -> Result<(u64, u64), LogError> {
        self.check(partition)?;
        let (consumer, client) = (Arc::clone(&self.consumer), self.client.clone());
        blocking(move || client.watermarks(&consumer, partition)).await
    }
}

#[async_trait::async_trait]
impl EventLog for KafkaLog {
    fn partitions(&self) -> u32 {
        self.client.partitions
    }

    async fn append(&self, records: Vec<Append>) -> Vec<Result<u64, LogError>> {
        let producer = Arc::clone(&self.producer.read());
        // All are queued before the first answer is awaited.
        let queued: Vec<_> = records
            .iter()
            .map(|record| {
                self.check(record.partition)?;
                let partition = i32::try_from(record.partition).unwrap_or(i32::MAX);
                let record = FutureRecord::<(), [u8]>::to(&self.client.topic)
                    .partition(partition)
                    .payload(&record.bytes);
                producer.send_result(record).map_err(|(error, _)| not_queued(error))
            })
            .collect();
        let mut outcomes = Vec::with_capacity(queued.len());
        for delivery in queued {
            outcomes.push(match delivery {
                Ok(delivery) => match delivery.await {
                    Ok(Ok(delivered)) => u64::try_from(delivered.offset).map_err(LogError::unknown),
                    Ok(Err((error, _))) => Err(not_delivered(error)),
                    Err(canceled) => Err(LogError::unknown(canceled)),
                },
                Err(error) => Err(error),
            });
        }
        if outcomes.iter().any(Result::is_err) {
            self.replace_if_dead(&producer);
        }
        outcomes
    }

    async fn end(&self, partition: u32) -> Result<u64, LogError> {
        self.offsets(partition).await.map(|(_, end)| end)
    }

    async fn start(&self, partition: u32) -> Result<u64, LogError> {
        self.offsets(partition).await.map(|(start, _)| start)
    }

    async fn read(
        &self,
        partition: u32,
        from: u64,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Stored>, LogError> {
        self.check(partition)?;
        let Some(reader) = self.readers.get(partition as usize) else {
            return Err(LogError::unavailable(Closed));
        };
        // Owned, so that a cancelled read keeps the reader until its thread has left it.
        let mut reader = Arc::clone(reader).lock_owned().await;
        let client = self.client.clone();
        blocking(move || reader.read(&client, from, max_bytes, wait)).await
    }

    async fn ready(&self) -> Result<(), LogError> {
        let (consumer, client) = (Arc::clone(&self.consumer), self.client.clone());
        blocking(move || {
            // Serves what the brokers reported; there is nothing to read.
            let _ = consumer.poll(Duration::ZERO);
            match topic::partitions_with_leader(&client, &consumer)? {
                Some(found) if found == client.partitions => Ok(()),
                Some(found) => Err(LogError::PartitionCount { found, wanted: client.partitions }),
                None => Err(unavailable(RDKafkaErrorCode::UnknownTopic)),
            }
        })
        .await
    }

    async fn release(&self, partition: u32, before: u64) {
        let mut offsets = TopicPartitionList::new();
        let partition = i32::try_from(partition).unwrap_or(i32::MAX);
        let before = i64::try_from(before).unwrap_or(i64::MAX);
        let committed = offsets
            .add_partition_offset(&self.client.topic, partition, rdkafka::Offset::Offset(before))
            .and_then(|()| self.consumer.commit(&offsets, CommitMode::Async));
        if let Err(error) = committed {
            tracing::debug!(partition, before, %error, "the group's offset was not committed");
        }
        // Serves the outcomes of earlier commits.
        let _ = self.consumer.poll(Duration::ZERO);
    }
}

/// A record that never came into the producer's queue.
fn not_queued(error: KafkaError) -> LogError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::QueueFull) => {
            metrics::refused_busy();
            LogError::Busy
        }
        _ => LogError::rejected(error),
    }
}

/// A record that was queued and then not confirmed. A retry may have followed an attempt whose
/// answer was lost, so only a record that no broker can ever take is surely absent.
fn not_delivered(error: KafkaError) -> LogError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => LogError::rejected(error),
        _ => LogError::unknown(error),
    }
}

fn unavailable(code: RDKafkaErrorCode) -> LogError {
    LogError::unavailable(KafkaError::Global(code))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(LogError::unavailable(e)))
}
