//! How librdkafka is set up, the same for every handle.

use super::KafkaOptions;
use crate::LogError;
use rdkafka::{
    ClientConfig, ClientContext,
    admin::AdminClient,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    producer::FutureProducer,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How often a partition without a leader is asked again.
const ELECTION_PAUSE: Duration = Duration::from_millis(50);

/// One topic of one cluster.
#[derive(Clone)]
pub(super) struct Client {
    pub topic: Arc<str>,
    pub partitions: u32,
    pub options: Arc<KafkaOptions>,
    brokers: Arc<str>,
}

impl Client {
    pub fn new(brokers: &str, topic: &str, partitions: u32, options: KafkaOptions) -> Self {
        let options = Arc::new(options);
        Self { topic: topic.into(), partitions, options, brokers: brokers.into() }
    }

    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.options.request_timeout_ms.into())
    }

    pub fn producer(&self) -> Result<FutureProducer<LogContext>, LogError> {
        let options = &self.options;
        self.make(&[
            ("acks", "all".into()),
            ("enable.idempotence", "true".into()),
            ("compression.codec", "none".into()),
            ("delivery.timeout.ms", options.delivery_timeout_ms.to_string()),
            ("linger.ms", options.linger_ms.to_string()),
            ("queue.buffering.max.messages", options.queue_records_max.to_string()),
            ("queue.buffering.max.kbytes", options.queue_kib_max.to_string()),
        ])
    }

    pub fn consumer(&self) -> Result<BaseConsumer<LogContext>, LogError> {
        self.make(&[
            ("group.id", self.options.group.clone()),
            ("enable.auto.commit", "false".into()),
            ("enable.auto.offset.store", "false".into()),
            // An offset that is gone is an error, and never another offset.
            ("auto.offset.reset", "error".into()),
            ("allow.auto.create.topics", "false".into()),
            ("enable.partition.eof", "false".into()),
            ("queued.max.messages.kbytes", self.options.fetch_kib_max.to_string()),
        ])
    }

    pub fn admin(&self) -> Result<AdminClient<LogContext>, LogError> {
        self.make(&[])
    }

    /// Ours come last: nobody turns idempotence or acks off.
    fn make<T: FromClientConfigAndContext<LogContext>>(
        &self,
        properties: &[(&str, String)],
    ) -> Result<T, LogError> {
        let mut config = ClientConfig::new();
        config.set("reconnect.backoff.max.ms", "1000");
        for (name, value) in &self.options.client.0 {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &*self.brokers);
        for (name, value) in properties {
            config.set(*name, value);
        }
        config.set_log_level(RDKafkaLogLevel::Warning);
        config.create_with_context(LogContext).map_err(LogError::open("a Kafka client"))
    }

    /// The offsets where a partition starts and ends. Blocks.
    pub fn watermarks(
        &self,
        consumer: &BaseConsumer<LogContext>,
        partition: u32,
    ) -> Result<(u64, u64), LogError> {
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let deadline = Instant::now() + self.request_timeout();
        let (start, end) = loop {
            match consumer.fetch_watermarks(&self.topic, number, self.request_timeout()) {
                Ok(bounds) => break bounds,
                Err(error) if is_electing(&error) && Instant::now() < deadline => {
                    std::thread::sleep(ELECTION_PAUSE);
                }
                Err(error) => return Err(LogError::unavailable(error)),
            }
        };
        let offset = |offset: i64| u64::try_from(offset).map_err(LogError::unavailable);
        Ok((offset(start)?, offset(end)?))
    }
}

/// A partition that is new or changes its leader, of which not every broker has heard.
fn is_electing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::UnknownTopicOrPartition
        )
    )
}

/// Carries librdkafka's own words into our traces. They are warnings at most: what matters comes
/// as the outcome of an operation.
#[derive(Clone)]
pub(super) struct LogContext;

impl ClientContext for LogContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(facility, "librdkafka: {message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(facility, "librdkafka: {message}");
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for LogContext {}
