//! The edge's bounds. Defaults, with where each number came from: `deploy/config/ingest.toml`.

use crate::recent::Keep;
use serde::Deserialize;
use std::time::Duration;
use weir_events::BATCH_EVENTS_MAX;
use weir_log::LogConfig;
use weir_runtime::config::ConfigError;

const DEFAULTS: &str = include_str!("../../deploy/config/ingest.toml");

/// All bounds of the edge.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub body: Body,
    pub load: Load,
    pub recent: Recent,
    pub catalog: Catalog,
    /// Kafka's bounds; not used where the log is given.
    #[serde(default)]
    pub log: LogConfig,
}

/// One request's body.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    pub bytes_max: usize,
    pub events_max: usize,
    pub read_timeout_ms: u64,
}

/// All requests together.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    pub requests_max: usize,
    pub body_bytes_max: usize,
    pub request_timeout_ms: u64,
    pub retry_after_s: u64,
    /// Of an organization that has no rate of its own; none: no bound.
    pub events_per_second_max: Option<u32>,
}

/// The ids that are remembered.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recent {
    pub ids_max: usize,
    pub uncovered_ids_max: usize,
    pub tail_records_max: u64,
    pub tail_bytes_max: usize,
    pub tail_timeout_ms: u64,
    /// Events dated longer ago than this are refused; none: no bound.
    pub window_days: Option<u32>,
}

/// Questions to Postgres from the hot path.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    pub refresh_interval_ms: u64,
    pub refresh_timeout_ms: u64,
}

/// A setting that can't be worked with.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    #[error(transparent)]
    Unreadable(#[from] ConfigError),
    #[error(transparent)]
    Log(#[from] weir_log::ConfigError),
    #[error("{name} is {value}, must be at least {least}")]
    TooSmall { name: &'static str, value: u64, least: u64 },
    #[error("{name} is {value}, must be at most {most}")]
    TooLarge { name: &'static str, value: u64, most: u64 },
}

impl Config {
    /// The defaults with the environment's `INGEST__…` over them, validated.
    pub fn load() -> Result<Self, InvalidConfig> {
        let config: Self = weir_runtime::config::load("ingest", DEFAULTS)?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), InvalidConfig> {
        let events_max = self.body.events_max as u64;
        let least = [
            ("body.events_max", events_max, 1),
            ("body.bytes_max", self.body.bytes_max as u64, 1),
            ("load.requests_max", self.load.requests_max as u64, 1),
            // One request must fit, or nothing is ever taken.
            (
                "load.body_bytes_max",
                self.load.body_bytes_max as u64,
                2 * self.body.bytes_max as u64,
            ),
            ("load.request_timeout_ms", self.load.request_timeout_ms, 1),
            // A repeat within one request must find its first copy.
            ("recent.ids_max", self.recent.ids_max as u64, 2 * events_max),
            ("recent.uncovered_ids_max", self.recent.uncovered_ids_max as u64, 2 * events_max),
            ("load.events_per_second_max", self.load.events_per_second_max.map_or(1, u64::from), 1),
            ("recent.window_days", self.recent.window_days.map_or(1, u64::from), 1),
        ];
        for (name, value, least) in least {
            if value < least {
                return Err(InvalidConfig::TooSmall { name, value, least });
            }
        }
        // Where the log is, the command line says; its bounds are checked here.
        LogConfig { brokers: Some(String::new()), ..self.log.clone() }.validate()?;
        // What the parser takes at most.
        let most = BATCH_EVENTS_MAX as u64;
        if events_max > most {
            return Err(InvalidConfig::TooLarge {
                name: "body.events_max",
                value: events_max,
                most,
            });
        }
        Ok(())
    }

    pub(crate) fn keep(&self, with_index: bool, partitions: u32) -> Keep {
        let share = |ids: usize| ids / (partitions.max(1) as usize);
        if with_index {
            return Keep::Uncovered { ids_max: share(self.recent.uncovered_ids_max) };
        }
        // Twice as many are kept before the older half goes.
        let newest = share(self.recent.ids_max / 2);
        Keep::Newest { ids: newest.max(self.body.events_max) }
    }

    /// How old an event may be, in microseconds.
    pub(crate) fn window_us(&self) -> Option<i64> {
        self.recent.window_days.map(|days| i64::from(days) * 86_400_000_000)
    }

    pub(crate) fn read_timeout(&self) -> Duration {
        Duration::from_millis(self.body.read_timeout_ms)
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.load.request_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_defaults_are_valid() {
        let config = Config::load().unwrap();
        assert_eq!(config.body.events_max, 10_000);
        assert_eq!(config.body.bytes_max, 8 << 20);
    }

    #[test]
    fn a_setting_that_can_not_work_is_refused_by_name() {
        let mut config = Config::load().unwrap();
        config.load.body_bytes_max = 1;
        let refused = config.validate().unwrap_err();
        assert!(refused.to_string().starts_with("load.body_bytes_max is 1"), "{refused}");
        let mut config = Config::load().unwrap();
        config.recent.window_days = Some(0);
        let refused = config.validate().unwrap_err();
        assert!(refused.to_string().starts_with("recent.window_days is 0"), "{refused}");
    }
}
