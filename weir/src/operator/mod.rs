//! What an operator does to a running deployment.

mod audit;
mod clock;
mod failures;
mod invoice;
mod keys;
mod log;
mod migrate;
mod organizations;
mod output;

pub use audit::{AuditArgs, NotAudited};
pub use clock::ClockCommand;
pub use failures::FailuresArgs;
pub use invoice::InvoiceArgs;
pub use keys::{KeysCommand, create as create_key};
pub use log::{LogCommand, read as read_log};
pub use migrate::{MigrateArgs, check_config};
pub use organizations::OrganizationsCommand;

use crate::data_dir::DataDir;
use anyhow::Context;
use std::path::PathBuf;
use weir_store::PgPool;
use weir_usage::{ClickHouse, ClickHouseOptions};

/// Connections that one command needs at once.
const CONNECTIONS_MAX: u32 = 8;

/// Which deployment is meant: a data directory of `weir up`, or addresses.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// The data directory of a running `weir up`; WEIR_DATA when nothing else is given. Goes before
    /// every address, so that what the environment says of another deployment does no harm.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// The Postgres of roles that run apart.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// The ClickHouse of roles that run apart; the password comes from CLICKHOUSE_PASSWORD.
    #[arg(long, env = "CLICKHOUSE_URL", hide_env_values = true)]
    pub clickhouse_url: Option<String>,
    #[arg(long, env = "CLICKHOUSE_USER", default_value = "default")]
    pub clickhouse_user: String,
    #[arg(long, env = "CLICKHOUSE_DATABASE", default_value = "weir")]
    pub clickhouse_database: String,
    #[arg(long, env = "CLICKHOUSE_CLUSTER")]
    pub clickhouse_cluster: Option<String>,
}

impl Target {
    /// The Postgres of roles that run apart, if those are meant.
    fn apart(&self) -> Option<&str> {
        self.database_url.as_deref().filter(|_| self.data.is_none())
    }

    /// A pool on the deployment's Postgres.
    pub async fn pool(&self) -> anyhow::Result<PgPool> {
        let url = match self.apart() {
            Some(url) => url.to_owned(),
            None => DataDir::resolve(self.data.clone())?.connections()?.database_url,
        };
        weir_store::connect(&url, CONNECTIONS_MAX).await.context("connecting to Postgres")
    }

    /// The deployment's ClickHouse.
    pub fn usage(&self) -> anyhow::Result<ClickHouse> {
        match (self.apart(), &self.clickhouse_url) {
            (Some(_), Some(url)) => {
                let options = ClickHouseOptions {
                    clickhouse_url: url.clone(),
                    clickhouse_user: self.clickhouse_user.clone(),
                    clickhouse_password: std::env::var("CLICKHOUSE_PASSWORD").unwrap_or_default(),
                    clickhouse_database: self.clickhouse_database.clone(),
                    clickhouse_cluster: self.clickhouse_cluster.clone(),
                };
                Ok(options.connect())
            }
            (Some(_), None) => anyhow::bail!("set CLICKHOUSE_URL too"),
            (None, _) => {
                Ok(DataDir::resolve(self.data.clone())?.connections()?.clickhouse.connect())
            }
        }
    }
}
