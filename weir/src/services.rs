//! The services that the roles need when they run apart, on this machine: Kafka, ClickHouse, Postgres.

use crate::{demo::free_address, engine};
use anyhow::{Context, ensure};
use std::{
    path::{Path, PathBuf},
    process::Command,
};
use weir_runtime::postgres::{PostgresOptions, PrivatePostgres};
use weir_usage::{ClickHouseOptions, engine::Engine};

/// Started services; they end with this process, at the latest.
pub struct Services {
    kafka: PathBuf,
    kafka_environment: Vec<(String, String)>,
    brokers: String,
    postgres: PrivatePostgres,
    engine: Engine,
    clickhouse: ClickHouseOptions,
}

impl Services {
    /// Starts a broker, an engine and a Postgres in `data`.
    pub async fn start(data: &Path) -> anyhow::Result<Self> {
        let kafka =
            Path::new("deploy/dev/kafka.sh").canonicalize().context("run it in the repository")?;
        let (port, control) = (free_address()?.port(), free_address()?.port());
        let kafka_environment = vec![
            ("KAFKA_DIR".to_owned(), data.join("kafka").display().to_string()),
            ("KAFKA_PORT".to_owned(), port.to_string()),
            ("KAFKA_CTRL_PORT".to_owned(), control.to_string()),
        ];
        let status = Command::new(&kafka).arg("start").envs(kafka_environment.clone()).status()?;
        ensure!(status.success(), "Kafka did not start");
        let options = PostgresOptions { durable: true, max_connections: 100 };
        let postgres = PrivatePostgres::start(&data.join("postgres"), options)?;
        let engine = engine::start(&data.join("clickhouse")).await?;
        let clickhouse = engine::options(&engine);
        let brokers = format!("127.0.0.1:{port}");
        Ok(Self { kafka, kafka_environment, brokers, postgres, engine, clickhouse })
    }

    /// What a role's environment needs.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = self.clickhouse.environment();
        environment.push(("KAFKA_BROKERS", self.brokers.clone()));
        environment.push(("DATABASE_URL", self.postgres.url()));
        environment
    }

    /// Ends them in order.
    pub async fn stop(self) {
        let stopped = Command::new(&self.kafka).arg("stop").envs(self.kafka_environment).status();
        if !stopped.is_ok_and(|status| status.success()) {
            tracing::warn!("Kafka did not stop in order");
        }
        self.engine.stop().await;
        self.postgres.stop();
    }
}
