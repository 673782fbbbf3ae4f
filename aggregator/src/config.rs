//! The aggregator's settings, their bounds and where the numbers come from.

use crate::{chunk::Limits, protocol::Settings};
use serde::Deserialize;
use std::time::Duration;

/// Defaults, overridden by `AGGREGATOR__…`: see [`DEFAULTS`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub chunk: ChunkConfig,
    pub lease: LeaseConfig,
    pub index: IndexConfig,
    pub retry: RetryConfig,
    pub verify: VerifyConfig,
    pub watermark: WatermarkConfig,
}

/// How much is written at once.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkConfig {
    pub read_bytes_max: usize,
    pub events_max: usize,
    pub bytes_max: usize,
    pub read_wait_ms: u64,
    pub interval_ms: u64,
    pub in_flight_max: usize,
}

/// Who owns a partition, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseConfig {
    pub seconds: u64,
    pub insert_timeout_seconds: u64,
    pub held_retry_ms: u64,
}

/// The index of seen ids.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexConfig {
    pub table_ids_max: usize,
}

/// What happens when something does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryConfig {
    pub first_ms: u64,
    pub max_ms: u64,
}

/// The comparison of what is stored with what was meant to be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyConfig {
    pub interval_ms: u64,
    pub chunks_max: u32,
}

/// How fresh the watermark is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatermarkConfig {
    pub interval_ms: u64,
}

/// The defaults, with the reasons for the numbers.
pub const DEFAULTS: &str = include_str!("defaults.toml");

/// Why a configuration can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigInvalid {
    #[error("aggregator setting {setting} must be at least {least}")]
    TooSmall { setting: &'static str, least: u64 },
    #[error(
        "aggregator setting lease.insert_timeout_seconds must be at most half of lease.seconds"
    )]
    InsertOutlastsLease,
}

impl Default for Config {
    #[expect(clippy::expect_used, reason = "a constant text; a test reads it")]
    fn default() -> Self {
        weir_runtime::config::load("weir_aggregator_defaults", DEFAULTS)
            .expect("the defaults are complete")
    }
}

impl Config {
    /// The defaults with the environment's `AGGREGATOR__…` laid over them, validated.
    pub fn load() -> anyhow::Result<Self> {
        let config: Self = weir_runtime::config::load("aggregator", DEFAULTS)?;
        config.validate()?;
        Ok(config)
    }

    /// Errors: the first setting that can't work.
    pub fn validate(&self) -> Result<(), ConfigInvalid> {
        let least = [
            ("chunk.read_bytes_max", self.chunk.read_bytes_max as u64, 1),
            ("chunk.events_max", self.chunk.events_max as u64, 1),
            ("chunk.bytes_max", self.chunk.bytes_max as u64, 1),
            ("chunk.read_wait_ms", self.chunk.read_wait_ms, 1),
            ("chunk.in_flight_max", self.chunk.in_flight_max as u64, 1),
            ("lease.insert_timeout_seconds", self.lease.insert_timeout_seconds, 1),
            ("lease.held_retry_ms", self.lease.held_retry_ms, 1),
            ("index.table_ids_max", self.index.table_ids_max as u64, 1),
            ("retry.first_ms", self.retry.first_ms, 1),
            ("retry.max_ms", self.retry.max_ms, self.retry.first_ms),
            ("verify.interval_ms", self.verify.interval_ms, 100),
            ("verify.chunks_max", u64::from(self.verify.chunks_max), 1),
            ("watermark.interval_ms", self.watermark.interval_ms, 50),
        ];
        for (setting, value, least) in least {
            if value < least {
                return Err(ConfigInvalid::TooSmall { setting, least });
            }
        }
        if self.lease.insert_timeout_seconds * 2 > self.lease.seconds {
            return Err(ConfigInvalid::InsertOutlastsLease);
        }
        Ok(())
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(self.lease.seconds)
    }

    pub(crate) fn insert_timeout(&self) -> Duration {
        Duration::from_secs(self.lease.insert_timeout_seconds)
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits { events_max: self.chunk.events_max, bytes_max: self.chunk.bytes_max }
    }

    /// What the protocol needs of it.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            lease: self.lease(),
            insert_timeout: self.insert_timeout(),
            chunk_interval: Duration::from_millis(self.chunk.interval_ms),
            mark_interval: Duration::from_millis(self.watermark.interval_ms),
            held_retry: Duration::from_millis(self.lease.held_retry_ms),
            backoff_first: Duration::from_millis(self.retry.first_ms),
            backoff_max: Duration::from_millis(self.retry.max_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_complete_and_valid() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn an_insert_that_outlasts_half_the_lease_is_refused() {
        let mut config = Config::default();
        config.lease.insert_timeout_seconds = config.lease.seconds;
        assert_eq!(config.validate(), Err(ConfigInvalid::InsertOutlastsLease));
    }
}
