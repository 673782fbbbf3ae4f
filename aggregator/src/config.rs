//! The aggregator's settings, their bounds and where the numbers come from.

use crate::{balance::Patience, chunk::Limits, protocol::Settings};
use serde::Deserialize;
use std::time::Duration;
use weir_log::LogConfig;

/// Defaults, overridden by `AGGREGATOR__…`: see [`DEFAULTS`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub chunk: ChunkConfig,
    pub lease: LeaseConfig,
    pub balance: BalanceConfig,
    pub index: IndexConfig,
    #[serde(default)]
    pub dedup: DedupConfig,
    #[serde(default)]
    pub retention: RetentionConfig,
    pub retry: RetryConfig,
    pub verify: VerifyConfig,
    pub watermark: WatermarkConfig,
    pub roll: RollConfig,
    /// Kafka's bounds and client properties; not used where the log is given.
    #[serde(default)]
    pub log: LogConfig,
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
    pub fresh_ms: u64,
    pub interval_max_ms: u64,
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

/// How partitions are shared with other aggregators.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalanceConfig {
    pub interval_ms: u64,
    pub moves_max: usize,
    pub orphan_seconds: u64,
    pub adopted_seconds: u64,
}

/// The index of seen ids.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexConfig {
    pub table_ids_max: usize,
    pub rebuilds_max: usize,
}

/// How long ids are remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DedupConfig {
    /// Absent: for ever.
    pub window_days: Option<u32>,
}

/// How long raw events are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionConfig {
    /// Absent: for ever.
    pub raw_days: Option<u32>,
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

/// Computing usage again from raw events.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollConfig {
    pub rows_max: u64,
    pub retire_interval_seconds: u64,
}

/// The defaults, with the reasons for the numbers.
pub const DEFAULTS: &str = include_str!("defaults.toml");

/// Why a configuration can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigInvalid {
    /// Who lives must not be taken for dead when one sign of life comes late.
    #[error("aggregator setting balance.interval_ms must be at most a fifth of lease.seconds")]
    SignsTooRare,
    /// A lost index is built from raw events, so they must be kept as long as it remembers.
    #[error(
        "aggregator setting dedup.window_days must be given and at most retention.raw_days, which \
         is {raw_days}"
    )]
    WindowOutlastsRetention { raw_days: u32 },
    #[error("aggregator setting {0}")]
    Log(#[from] weir_log::ConfigError),
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
        for (setting, value, least) in self.lower_bounds() {
            if value < least {
                return Err(ConfigInvalid::TooSmall { setting, least });
            }
        }
        if self.lease.insert_timeout_seconds * 2 > self.lease.seconds {
            return Err(ConfigInvalid::InsertOutlastsLease);
        }
        if self.balance.interval_ms * 5 > self.lease.seconds * 1_000 {
            return Err(ConfigInvalid::SignsTooRare);
        }
        if let Some(raw_days) = self.retention.raw_days
            && self.dedup.window_days.is_none_or(|window_days| window_days > raw_days)
        {
            return Err(ConfigInvalid::WindowOutlastsRetention { raw_days });
        }
        // Where the log is, the command line says; its bounds are checked here.
        LogConfig { brokers: Some(String::new()), ..self.log.clone() }.validate()?;
        Ok(())
    }

    /// Setting, value, least value.
    fn lower_bounds(&self) -> [(&'static str, u64, u64); 22] {
        let days = |days: Option<u32>| days.map_or(u64::MAX, u64::from);
        [
            ("chunk.read_bytes_max", self.chunk.read_bytes_max as u64, 1),
            ("chunk.events_max", self.chunk.events_max as u64, 1),
            ("chunk.bytes_max", self.chunk.bytes_max as u64, 1),
            ("chunk.read_wait_ms", self.chunk.read_wait_ms, 1),
            ("chunk.interval_max_ms", self.chunk.interval_max_ms, self.chunk.interval_ms),
            ("chunk.in_flight_max", self.chunk.in_flight_max as u64, 1),
            ("lease.insert_timeout_seconds", self.lease.insert_timeout_seconds, 1),
            ("lease.held_retry_ms", self.lease.held_retry_ms, 1),
            ("balance.interval_ms", self.balance.interval_ms, 10),
            ("balance.moves_max", self.balance.moves_max as u64, 1),
            ("balance.orphan_seconds", self.balance.orphan_seconds, 1),
            ("index.table_ids_max", self.index.table_ids_max as u64, 1),
            ("index.rebuilds_max", self.index.rebuilds_max as u64, 1),
            ("dedup.window_days", days(self.dedup.window_days), 1),
            ("retention.raw_days", days(self.retention.raw_days), 1),
            ("retry.first_ms", self.retry.first_ms, 1),
            ("retry.max_ms", self.retry.max_ms, self.retry.first_ms),
            ("verify.interval_ms", self.verify.interval_ms, 100),
            ("verify.chunks_max", u64::from(self.verify.chunks_max), 1),
            ("watermark.interval_ms", self.watermark.interval_ms, 50),
            ("roll.rows_max", self.roll.rows_max, 1),
            ("roll.retire_interval_seconds", self.roll.retire_interval_seconds, 1),
        ]
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(self.lease.seconds)
    }

    pub(crate) fn insert_timeout(&self) -> Duration {
        Duration::from_secs(self.lease.insert_timeout_seconds)
    }

    /// Who has not shown for so long that he lives holds no share: a little less than it takes the
    /// leases of a dead one to run out.
    pub(crate) fn silent_after(&self) -> Duration {
        self.lease() * 2 / 3
    }

    pub(crate) fn patience(&self) -> Patience {
        Patience {
            orphan_after: Duration::from_secs(self.balance.orphan_seconds),
            adopted_for: Duration::from_secs(self.balance.adopted_seconds),
            moves_max: self.balance.moves_max,
        }
    }

    /// How long ids are remembered, in microseconds; `None`: for ever.
    pub(crate) fn window_us(&self) -> Option<i64> {
        self.dedup.window_days.map(|days| i64::from(days) * 86_400 * 1_000_000)
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
            freshness: Duration::from_millis(self.chunk.fresh_ms),
            chunk_interval_max: Duration::from_millis(self.chunk.interval_max_ms),
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
    fn raw_events_are_kept_as_long_as_ids_are_remembered() {
        let refused = Err(ConfigInvalid::WindowOutlastsRetention { raw_days: 90 });
        for (raw_days, window_days, expected) in [
            (None, None, Ok(())),
            (None, Some(30), Ok(())),
            (Some(90), None, refused.clone()),
            (Some(90), Some(91), refused),
            (Some(90), Some(90), Ok(())),
        ] {
            let mut config = Config::default();
            config.retention.raw_days = raw_days;
            config.dedup.window_days = window_days;
            assert_eq!(config.validate(), expected, "{raw_days:?} {window_days:?}");
        }
    }

    #[test]
    fn an_insert_that_outlasts_half_the_lease_is_refused() {
        let mut config = Config::default();
        config.lease.insert_timeout_seconds = config.lease.seconds;
        assert_eq!(config.validate(), Err(ConfigInvalid::InsertOutlastsLease));
    }
}
