//! The connection: one cheap handle over the official client, bound to one database.

use crate::{
    UsageError, cluster,
    engine::deduplication_logs,
    error::during,
    lists::{self, QUERY_BYTES_MAX},
    migrate,
};
use clickhouse::{Client, Compression, Row, query::Query, sql::Identifier};
use serde::Deserialize;
use std::{fmt, net::IpAddr, path::Path, sync::Arc};

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
    /// The name of the cluster, when there is one.
    cluster: Option<Arc<str>>,
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
        let server = Client::default()
            .with_url(url)
            .with_user(user)
            .with_password(password)
            .with_compression(compression(url));
        let client = server.clone().with_database(database);
        Self { server, client, database: database.to_owned(), local: None, cluster: None }
    }

    /// The same, for a cluster: its tables are replicated to every server of it, a write is on a
    /// majority of them when it is done, and a read sees every write that was done before.
    #[must_use]
    pub fn of_cluster(self, name: &str) -> Self {
        Self { cluster: Some(name.into()), ..self }
    }

    /// The same, for the engine whose data directory is `data`.
    pub(crate) fn of_engine(self, data: &Path) -> Self {
        Self { local: Some(data.into()), ..self }
    }

    /// The database's name.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
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
        // A statement for all servers waits for every one of them, also for one that is away: a role
        // must be able to start then, and nothing is to be done.
        if !migrate::is_done(self).await? {
            self.create_database().await?;
            migrate::run(self).await?;
        }
        if let Some(data) = &self.local {
            deduplication_logs::make_synchronous(data);
        }
        Ok(())
    }

    async fn create_database(&self) -> Result<(), UsageError> {
        let on_cluster =
            self.cluster.as_deref().map(|name| format!("ON CLUSTER {}", lists::quoted(name)));
        self.server
            .query(&format!(
                "CREATE DATABASE IF NOT EXISTS ? {} ENGINE = Atomic",
                on_cluster.unwrap_or_default()
            ))
            .bind(Identifier(&self.database))
            .execute()
            .await
            .map_err(during("create database"))
    }

    /// Whether the database has a table of this name; not where there is no database.
    pub(crate) async fn has_table(&self, table: &str) -> Result<bool, UsageError> {
        let found: One = self
            .server
            .query(
                "SELECT toUInt8(count()) AS one FROM system.tables WHERE database = ? AND name = ?",
            )
            .bind(&self.database)
            .bind(table)
            .fetch_one()
            .await
            .map_err(during("look for a table"))?;
        Ok(found.one == 1)
    }

    /// Asks the server itself to end. It does so without an answer, so an error says nothing.
    pub(crate) async fn shut_down(&self) -> Result<(), UsageError> {
        self.server.query("SYSTEM SHUTDOWN").execute().await.map_err(during("shut down"))
    }

    /// For statements that answer soon.
    pub(crate) fn reader(&self) -> Client {
        self.writer().with_setting("max_execution_time", READ_SECONDS_MAX)
    }

    /// The statement as all servers of the cluster take it, if there is one.
    pub(crate) fn on_cluster(&self, statement: &str) -> String {
        match self.cluster.as_deref() {
            Some(name) => cluster::rewritten(statement, name),
            None => statement.to_owned(),
        }
    }

    /// Before a read that must see every write that was done: in a cluster, waits until the server
    /// that answers has them.
    pub(crate) async fn catch_up(&self, tables: &[&str]) -> Result<(), UsageError> {
        match self.cluster {
            Some(_) => cluster::catch_up(&self.client, tables).await,
            None => Ok(()),
        }
    }

    /// For rows, which in a cluster are on a majority of its servers when they are written.
    pub(crate) fn inserter(&self) -> Client {
        match self.cluster {
            Some(_) => cluster::by_majority(self.writer()),
            None => self.writer(),
        }
    }

    /// A read whose text holds [lists](crate::lists).
    pub(crate) fn ask(&self, sql: &str) -> Query {
        self.reader().query_raw(sql).with_setting("max_query_size", QUERY_BYTES_MAX)
    }

    /// For statements that take as long as they need.
    pub(crate) fn writer(&self) -> Client {
        self.client.clone()
    }
}

/// None on the same machine: compressing a million events costs us 0.3 CPU-seconds, sending them as
/// they are 0.04 more, and the engine's cost is the same. Over a network a third of the bytes is worth it.
fn compression(url: &str) -> Compression {
    let address = url.split_once("://").map_or(url, |(_, rest)| rest);
    let address = address.split(['/', '?']).next().unwrap_or(address);
    let host = match address.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => address.split(':').next(),
    };
    let local = host.is_some_and(|host| {
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    });
    if local { Compression::None } else { Compression::Lz4 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leaves_the_machine_is_compressed() {
        for (url, expected) in [
            ("http://127.0.0.1:8123", Compression::None),
            ("http://localhost", Compression::None),
            ("http://[::1]:8123/", Compression::None),
            ("http://10.0.0.1:8123", Compression::Lz4),
            ("http://[2001:db8::1]:8123", Compression::Lz4),
            ("http://localhost.example.com:8123", Compression::Lz4),
            ("https://clickhouse/path", Compression::Lz4),
        ] {
            assert_eq!(compression(url), expected, "{url}");
        }
    }
}
