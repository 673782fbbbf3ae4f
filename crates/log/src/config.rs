//! Which log a deployment has, and its bounds.

use crate::{EmbeddedLog, EmbeddedOptions, EventLog, KafkaLog, KafkaOptions, LogError};
use serde::Deserialize;
use std::{path::PathBuf, sync::Arc};

/// Partitions of a log, at most: beyond it each would be too small to pack its records well.
pub const PARTITIONS_MAX: u32 = 1_024;

/// The `[log]` section of a configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Fixed when the log is created. 8 keeps two cores busy and leaves room to spread over four
    /// times as many machines' aggregators.
    pub partitions: u32,
    /// Where the embedded log lives; not used with Kafka.
    pub dir: Option<PathBuf>,
    /// `host:port,…` of Kafka; absent means the embedded log.
    pub brokers: Option<String>,
    /// Kafka's topic.
    pub topic: String,
    /// Bounds of the embedded log.
    pub embedded: EmbeddedOptions,
    /// Bounds of Kafka.
    pub kafka: KafkaOptions,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            partitions: 8,
            dir: None,
            brokers: None,
            topic: "weir-events".to_owned(),
            embedded: EmbeddedOptions::default(),
            kafka: KafkaOptions::default(),
        }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Neither Kafka nor a directory is named.
    #[error("log.dir or log.brokers must be given")]
    NoPlace,
    /// A number that cannot work.
    #[error("log.{name} is {value}, must be from {least} to {most}")]
    OutOfRange { name: &'static str, value: u64, least: u64, most: u64 },
    /// Kafka's own rules for names.
    #[error("log.topic {0:?} is no Kafka topic name")]
    Topic(String),
}

impl LogConfig {
    /// Checks every value without touching disk or network.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const MIB: u64 = 1 << 20;
        if self.brokers.is_none() && self.dir.is_none() {
            return Err(ConfigError::NoPlace);
        }
        let name_ok = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let topic_ok = (1..=249).contains(&self.topic.len()) && self.topic.bytes().all(name_ok);
        if !topic_ok || self.topic == "." || self.topic == ".." {
            return Err(ConfigError::Topic(self.topic.clone()));
        }
        let (embedded, kafka) = (&self.embedded, &self.kafka);
        for (name, value, least, most) in [
            ("partitions", u64::from(self.partitions), 1, u64::from(PARTITIONS_MAX)),
            ("embedded.queue_requests_max", embedded.queue_requests_max as u64, 1, 1_000_000),
            ("embedded.queue_bytes_max", embedded.queue_bytes_max as u64, MIB, 4_096 * MIB),
            ("embedded.group_bytes_max", embedded.group_bytes_max as u64, 1, 256 * MIB),
            ("embedded.memtable_bytes", embedded.memtable_bytes, MIB, 1_024 * MIB),
            ("embedded.cache_bytes", embedded.cache_bytes, MIB, 16_384 * MIB),
            ("kafka.delivery_timeout_ms", u64::from(kafka.delivery_timeout_ms), 1_000, 300_000),
            ("kafka.request_timeout_ms", u64::from(kafka.request_timeout_ms), 100, 300_000),
            ("kafka.linger_ms", u64::from(kafka.linger_ms), 0, 900),
            ("kafka.queue_records_max", u64::from(kafka.queue_records_max), 1, 10_000_000),
            ("kafka.queue_kib_max", u64::from(kafka.queue_kib_max), 1_024, 2_097_151),
            ("kafka.fetch_kib_max", u64::from(kafka.fetch_kib_max), 1_024, 2_097_151),
        ] {
            if !(least..=most).contains(&value) {
                return Err(ConfigError::OutOfRange { name, value, least, most });
            }
        }
        Ok(())
    }

    /// Opens the log that is configured. Errors: as `EmbeddedLog::open` and `KafkaLog::connect`;
    /// `Open` for a configuration that `validate` refuses.
    pub async fn open(&self) -> Result<Arc<dyn EventLog>, LogError> {
        self.validate().map_err(LogError::open("its configuration"))?;
        if let Some(brokers) = &self.brokers {
            let options = self.kafka.clone();
            let log = KafkaLog::connect(brokers, &self.topic, self.partitions, options).await?;
            return Ok(Arc::new(log));
        }
        let dir = self.dir.clone().unwrap_or_default();
        let (partitions, options) = (self.partitions, self.embedded.clone());
        let opened =
            tokio::task::spawn_blocking(move || EmbeddedLog::open(&dir, partitions, options)).await;
        Ok(Arc::new(opened.map_err(LogError::open("its thread"))??))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_must_have_a_place_a_name_and_bounds_that_work() {
        let good = LogConfig { dir: Some("data".into()), ..LogConfig::default() };
        assert_eq!(good.validate(), Ok(()));
        assert_eq!(LogConfig::default().validate(), Err(ConfigError::NoPlace));
        for topic in ["", ".", "..", "a b", "é", &"x".repeat(250)] {
            let config = LogConfig { topic: topic.into(), ..good.clone() };
            assert_eq!(config.validate(), Err(ConfigError::Topic(topic.into())));
        }
        for partitions in [0, PARTITIONS_MAX + 1] {
            let config = LogConfig { partitions, ..good.clone() };
            let refused = config.validate();
            assert!(matches!(refused, Err(ConfigError::OutOfRange { name: "partitions", .. })));
        }
    }

    #[test]
    fn kafka_properties_may_be_named_and_written_as_a_variable_can() {
        let text = r#"
            [client]
            sasl_username = "weir"
            "socket.keepalive.enable" = true
            message_max_bytes = 2000000"#;
        let options: KafkaOptions = weir_runtime::config::load("log_properties", text).unwrap();
        let expected = [
            ("message.max.bytes", "2000000"),
            ("sasl.username", "weir"),
            ("socket.keepalive.enable", "true"),
        ];
        let found: Vec<(&str, &str)> =
            options.client.0.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(found, expected);
    }
}
