//! The role's settings. Defaults, with where each number came from: `deploy/config/invoicer.toml`.

use serde::Deserialize;
use std::time::Duration;
use weir_runtime::config::ConfigError;

const DEFAULTS: &str = include_str!("../../deploy/config/invoicer.toml");

/// When the invoicer works, and how much at once.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub schedule: Schedule,
    pub batch: Batch,
    pub watermark: Watermark,
    pub retry: Retry,
    pub postgres: Postgres,
}

/// How often it looks.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    pub interval_ms: u64,
}

/// How much is billed in one transaction.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    pub customers_max: u32,
    pub in_flight_max: u32,
}

/// How long it waits for the pipeline.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watermark {
    pub poll_ms: u64,
    pub wait_ms: u64,
    pub settle_ms: u64,
}

/// When what failed is tried again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    pub failed_s: u64,
}

/// Connections to Postgres, where the role makes its own pool.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    pub connections_max: u32,
}

/// A setting that can't be worked with.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    #[error(transparent)]
    Unreadable(#[from] ConfigError),
    #[error("invoicer setting {name} is {value}, must be at least {least}")]
    TooSmall { name: &'static str, value: u64, least: u64 },
}

impl Config {
    /// The defaults with the environment's `INVOICER__…` over them, validated.
    pub fn load() -> Result<Self, InvalidConfig> {
        let config: Self = weir_runtime::config::load("invoicer", DEFAULTS)?;
        let at_least = [
            ("schedule.interval_ms", config.schedule.interval_ms, 1),
            ("batch.customers_max", config.batch.customers_max.into(), 1),
            ("batch.in_flight_max", config.batch.in_flight_max.into(), 1),
            ("watermark.poll_ms", config.watermark.poll_ms, 1),
            // One for each batch, and one for watching.
            (
                "postgres.connections_max",
                config.postgres.connections_max.into(),
                u64::from(config.batch.in_flight_max) + 1,
            ),
        ];
        match at_least.into_iter().find(|(_, value, least)| value < least) {
            Some((name, value, least)) => Err(InvalidConfig::TooSmall { name, value, least }),
            None => Ok(config),
        }
    }

    pub(crate) const fn interval(&self) -> Duration {
        Duration::from_millis(self.schedule.interval_ms)
    }

    pub(crate) const fn poll(&self) -> Duration {
        Duration::from_millis(self.watermark.poll_ms)
    }

    pub(crate) const fn retry_after(&self) -> Duration {
        Duration::from_secs(self.retry.failed_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        let config = Config::load().unwrap();
        assert!(config.batch.customers_max >= 1 && config.watermark.wait_ms >= 1_000);
    }
}
