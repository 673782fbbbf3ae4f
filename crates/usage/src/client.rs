//! The connection: one cheap handle over the official client, bound to one database.

use crate::{UsageError, engine::deduplication_logs, error::during, migrate};
use clickhouse::{Client, Row, sql::Identifier};
use serde::Deserialize;
use std::{fmt, path::Path, sync::Arc};

/// Reads may take this long; ClickHouse ends them itself. Two thousand windows take well under one second.
const READ_SECONDS_MAX: &str = "60";

/// A database in ClickHouse. Clones share their connections.
#[derive(Clone)]
pub struct ClickHouse {
    /// Without a database, for what comes before there is one.
    server: Client,
    /// Within the database. The client remembers the columns of its tables, its clones share that.
    client: Client,
    database: String,
    /// The data directory, when the engine is ours.
    local: Option<Arc<Path>>,
}

/// Without the password.
impl fmt::Debug for ClickHouse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouse").field("database", &self.database).finish_non_exhaustive()
    }
}

#[derive(Row, Deserialize)]
struct One {
    one: u8,
}

impl ClickHouse {
    /// A handle; nothing is sent yet. `url` is `http://host:port`, without credentials.
    #[must_use]
    pub fn connect(url: &str, user: &str, password: &str, database: &str) -> Self {
        let server = Client::default().with_url(url).with_user(user).with_password(password);
        let client = server.clone().with_database(database);
        Self { server, client, database: database.to_owned(), local: None }
    }

    /// The same, for the engine whose data directory is `data`.
    pub(crate) fn of_engine(self, data: &Path) -> Self {
        Self { local: Some(data.into()), ..self }
    }

    /// Errors: not reachable, wrong user or password. The database need not exist yet.
    pub async fn ping(&self) -> Result<(), UsageError> {
        let one: One = self
            .server
            .query("SELECT toUInt8(1) AS one")
            .fetch_one()
            .await
            .map_err(during("ping"))?;
        debug_assert_eq!(one.one, 1);
        Ok(())
    }

    /// Makes the database and brings its tables up to date. May run any number of times, but not
    /// twice at once.
    pub async fn migrate(&self) -> Result<(), UsageError> {
        self.server
            .query("CREATE DATABASE IF NOT EXISTS ? ENGINE = Atomic")
            .bind(Identifier(&self.database))
            .execute()
            .await
            .map_err(during("create database"))?;
        migrate::run(&self.reader()).await?;
        if let Some(data) = &self.local {
            deduplication_logs::make_synchronous(data);
        }
        Ok(())
    }

    /// Asks the server itself to end. It does so without an answer, so an error says nothing.
    pub(crate) async fn shut_down(&self) -> Result<(), UsageError> {
        self.server.query("SYSTEM SHUTDOWN").execute().await.map_err(during("shut down"))
    }

    /// For statements that answer soon.
    pub(crate) fn reader(&self) -> Client {
        self.writer().with_setting("max_execution_time", READ_SECONDS_MAX)
    }

    /// For statements that take as long as they need.
    pub(crate) fn writer(&self) -> Client {
        self.client.clone()
    }
}
