//! What the hot path needs of the catalog, as of any version: keys, metrics and subscriptions.
//!
//! Triggers write the history and raise the version, so that no store function can forget to.
//! A row holds in the versions `version_from <= v < version_to`.

use crate::columns::{bigint, from_word, id, unsigned};
use crate::{StoreError, Timestamp};
use sqlx::PgConnection;
use sqlx::types::Uuid;
pub use weir_billing::metric::Aggregation;
use weir_ids::{ApiKeyId, BillableMetricId, OrganizationId, SubscriptionId};

/// A key that is not revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    pub id: ApiKeyId,
    pub organization: OrganizationId,
    pub hash: [u8; 32],
    pub scopes: Vec<String>,
}

/// A metric that is not archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricRow {
    pub id: BillableMetricId,
    pub organization: OrganizationId,
    pub event_code: String,
    pub aggregation: Aggregation,
    pub field: Option<String>,
}

/// A subscription, also one that has ended: events may still arrive for its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionRow {
    pub id: SubscriptionId,
    pub organization: OrganizationId,
    pub external_id: String,
    pub started_at: Timestamp,
    /// Exclusive: terminated, or set to end by itself.
    pub ended_at: Option<Timestamp>,
}

/// Rows of the catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CatalogRows {
    pub keys: Vec<KeyRow>,
    pub metrics: Vec<MetricRow>,
    pub subscriptions: Vec<SubscriptionRow>,
}

/// How the catalog went from one version to another: what held before and no longer does, then
/// what holds now and did not before. A changed row is in both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CatalogChanges {
    pub closed: CatalogRows,
    pub opened: CatalogRows,
}

/// The newest version. Everything of it and of all before it is visible to later statements.
pub async fn version(conn: &mut PgConnection) -> Result<u64, StoreError> {
    let version =
        sqlx::query_scalar!("SELECT version FROM catalog_version").fetch_one(conn).await?;
    unsigned("catalog_version.version", version)
}

/// Everything that holds in version `as_of`, which must not be newer than [`version`].
pub async fn load(conn: &mut PgConnection, as_of: u64) -> Result<CatalogRows, StoreError> {
    // The difference to the empty catalog.
    Ok(changes_between(conn, -1, bigint("catalog_version", as_of)?).await?.opened)
}

/// What changed from version `after` to version `up_to`.
pub async fn changes(
    conn: &mut PgConnection,
    after: u64,
    up_to: u64,
) -> Result<CatalogChanges, StoreError> {
    let after = bigint("catalog_version", after)?;
    changes_between(conn, after, bigint("catalog_version", up_to)?).await
}

async fn changes_between(
    conn: &mut PgConnection,
    after: i64,
    up_to: i64,
) -> Result<CatalogChanges, StoreError> {
    let mut changes = CatalogChanges::default();
    for row in keys(conn, after, up_to).await? {
        let (opened, row) = row.read()?;
        changes.side(opened).keys.push(row);
    }
    for row in metrics(conn, after, up_to).await? {
        let (opened, row) = row.read()?;
        changes.side(opened).metrics.push(row);
    }
    for row in subscriptions(conn, after, up_to).await? {
        let (opened, row) = row.read();
        changes.side(opened).subscriptions.push(row);
    }
    Ok(changes)
}

impl CatalogChanges {
    fn side(&mut self, opened: bool) -> &mut CatalogRows {
        if opened { &mut self.opened } else { &mut self.closed }
    }
}

async fn keys(
    conn: &mut PgConnection,
    after: i64,
    up_to: i64,
) -> Result<Vec<KeyColumns>, StoreError> {
    Ok(sqlx::query_as!(
        KeyColumns,
        r#"SELECT id AS "id!", organization_id AS "organization_id!", key_hash AS "key_hash!",
               scopes AS "scopes!", version_from > $1 AS "opened!"
           FROM catalog_keys
           WHERE version_from > $1 AND version_from <= $2
             AND (version_to IS NULL OR version_to > $2)
           UNION ALL
           SELECT id, organization_id, key_hash, scopes, false
           FROM catalog_keys
           WHERE version_from <= $1 AND version_to > $1 AND version_to <= $2"#,
        after,
        up_to,
    )
    .fetch_all(conn)
    .await?)
}

async fn metrics(
    conn: &mut PgConnection,
    after: i64,
    up_to: i64,
) -> Result<Vec<MetricColumns>, StoreError> {
    Ok(sqlx::query_as!(
        MetricColumns,
        r#"SELECT id AS "id!", organization_id AS "organization_id!", event_code AS "event_code!",
               aggregation AS "aggregation!", field_name, version_from > $1 AS "opened!"
           FROM catalog_metrics
           WHERE version_from > $1 AND version_from <= $2
             AND (version_to IS NULL OR version_to > $2)
           UNION ALL
           SELECT id, organization_id, event_code, aggregation, field_name, false
           FROM catalog_metrics
           WHERE version_from <= $1 AND version_to > $1 AND version_to <= $2"#,
        after,
        up_to,
    )
    .fetch_all(conn)
    .await?)
}

async fn subscriptions(
    conn: &mut PgConnection,
    after: i64,
    up_to: i64,
) -> Result<Vec<SubscriptionColumns>, StoreError> {
    Ok(sqlx::query_as!(
        SubscriptionColumns,
        r#"SELECT id AS "id!", organization_id AS "organization_id!",
               external_id AS "external_id!", started_at AS "started_at!", ended_at,
               version_from > $1 AS "opened!"
           FROM catalog_subscriptions
           WHERE version_from > $1 AND version_from <= $2
             AND (version_to IS NULL OR version_to > $2)
           UNION ALL
           SELECT id, organization_id, external_id, started_at, ended_at, false
           FROM catalog_subscriptions
           WHERE version_from <= $1 AND version_to > $1 AND version_to <= $2"#,
        after,
        up_to,
    )
    .fetch_all(conn)
    .await?)
}

struct KeyColumns {
    id: Uuid,
    organization_id: Uuid,
    key_hash: Vec<u8>,
    scopes: Vec<String>,
    opened: bool,
}

struct MetricColumns {
    id: Uuid,
    organization_id: Uuid,
    event_code: String,
    aggregation: String,
    field_name: Option<String>,
    opened: bool,
}

struct SubscriptionColumns {
    id: Uuid,
    organization_id: Uuid,
    external_id: String,
    started_at: Timestamp,
    ended_at: Option<Timestamp>,
    opened: bool,
}

impl KeyColumns {
    fn read(self) -> Result<(bool, KeyRow), StoreError> {
        let hash =
            <[u8; 32]>::try_from(self.key_hash.as_slice()).map_err(|_| StoreError::Corrupt {
                column: "catalog_keys.key_hash",
                value: format!("{} bytes", self.key_hash.len()),
            })?;
        let row = KeyRow {
            id: id(self.id),
            organization: id(self.organization_id),
            hash,
            scopes: self.scopes,
        };
        Ok((self.opened, row))
    }
}

impl MetricColumns {
    fn read(self) -> Result<(bool, MetricRow), StoreError> {
        let row = MetricRow {
            id: id(self.id),
            organization: id(self.organization_id),
            event_code: self.event_code,
            aggregation: from_word("catalog_metrics.aggregation", &self.aggregation)?,
            field: self.field_name,
        };
        Ok((self.opened, row))
    }
}

impl SubscriptionColumns {
    fn read(self) -> (bool, SubscriptionRow) {
        let row = SubscriptionRow {
            id: id(self.id),
            organization: id(self.organization_id),
            external_id: self.external_id,
            started_at: self.started_at,
            ended_at: self.ended_at,
        };
        (self.opened, row)
    }
}
