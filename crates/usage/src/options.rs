//! Where ClickHouse is, as command lines and connection files say it.

use crate::ClickHouse;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Address, user and database.
#[derive(Clone, Serialize, Deserialize, clap::Args)]
pub struct ClickHouseOptions {
    /// ClickHouse's HTTP address, `http://host:8123`
    #[arg(long, env = "CLICKHOUSE_URL", hide_env_values = true)]
    pub clickhouse_url: String,
    #[arg(long, env = "CLICKHOUSE_USER", default_value = "default")]
    pub clickhouse_user: String,
    /// From the environment alone: a command line is for all to see.
    #[arg(skip = std::env::var("CLICKHOUSE_PASSWORD").unwrap_or_default())]
    pub clickhouse_password: String,
    #[arg(long, env = "CLICKHOUSE_DATABASE", default_value = "weir")]
    pub clickhouse_database: String,
    /// The ClickHouse cluster whose servers all hold everything; without it there is one server
    #[arg(long, env = "CLICKHOUSE_CLUSTER")]
    #[serde(default)]
    pub clickhouse_cluster: Option<String>,
}

/// Without the password.
impl fmt::Debug for ClickHouseOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouseOptions")
            .field("url", &self.clickhouse_url)
            .field("user", &self.clickhouse_user)
            .field("database", &self.clickhouse_database)
            .field("cluster", &self.clickhouse_cluster)
            .finish_non_exhaustive()
    }
}

impl ClickHouseOptions {
    /// A handle; nothing is sent yet.
    #[must_use]
    pub fn connect(&self) -> ClickHouse {
        let database = ClickHouse::connect(
            &self.clickhouse_url,
            &self.clickhouse_user,
            &self.clickhouse_password,
            &self.clickhouse_database,
        );
        match &self.clickhouse_cluster {
            Some(name) => database.of_cluster(name),
            None => database,
        }
    }

    /// The same as variables of an environment.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = vec![
            ("CLICKHOUSE_URL", self.clickhouse_url.clone()),
            ("CLICKHOUSE_USER", self.clickhouse_user.clone()),
            ("CLICKHOUSE_PASSWORD", self.clickhouse_password.clone()),
            ("CLICKHOUSE_DATABASE", self.clickhouse_database.clone()),
        ];
        environment
            .extend(self.clickhouse_cluster.clone().map(|name| ("CLICKHOUSE_CLUSTER", name)));
        environment
    }
}
