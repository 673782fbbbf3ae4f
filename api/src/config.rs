//! The role's settings. Defaults, with where each number came from: `deploy/config/api.toml`.

use crate::layers::Bounds;
use serde::Deserialize;
use std::time::Duration;
use weir_runtime::config::ConfigError;

const DEFAULTS: &str = include_str!("../../deploy/config/api.toml");

/// Bounds of the role.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub load: Load,
    pub usage: Usage,
    pub postgres: Postgres,
}

/// Calls under way.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    pub calls_max: usize,
    pub wait_ms: u64,
    pub call_timeout_ms: u64,
}

/// Waiting for usage to be counted.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    pub settle_ms: u64,
    pub poll_ms: u64,
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
    #[error("{name} is 0, must be at least 1")]
    Zero { name: &'static str },
}

impl Config {
    /// The defaults with the environment's `API__…` over them, validated.
    pub fn load() -> Result<Self, InvalidConfig> {
        let config: Self = weir_runtime::config::load("api", DEFAULTS)?;
        let Load { calls_max, wait_ms: _, call_timeout_ms } = config.load;
        let least_one = [
            ("load.calls_max", calls_max == 0),
            ("load.call_timeout_ms", call_timeout_ms == 0),
            ("usage.poll_ms", config.usage.poll_ms == 0),
            ("postgres.connections_max", config.postgres.connections_max == 0),
        ];
        match least_one.into_iter().find(|(_, zero)| *zero) {
            Some((name, _)) => Err(InvalidConfig::Zero { name }),
            None => Ok(config),
        }
    }

    pub(crate) fn bounds(&self) -> Bounds {
        let Load { calls_max, wait_ms, call_timeout_ms } = self.load;
        let wait = Duration::from_millis(wait_ms);
        Bounds::new(calls_max, wait, Duration::from_millis(call_timeout_ms))
    }
}
