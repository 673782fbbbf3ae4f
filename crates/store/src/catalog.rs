//! What the hot path needs of the catalog, as of any version: keys, metrics, subscriptions, and the
//! settings and generations that differ from the default.
//!
//! Triggers write the history and raise the version, so that no store function can forget to.
//! A row holds in the versions `version_from <= v < version_to`.

use crate::columns::{bigint, from_word, id, unsigned};
use crate::{StoreError, Timestamp};
use sqlx::PgConnection;
use sqlx::types::{Json, Uuid};
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

/// A property by which a metric's usage is told apart.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct DimensionRow {
    pub key: String,
    /// The values that are told apart; others count as absent. None: any value.
    pub values: Option<Vec<String>>,
}

/// A metric that is not archived. While it is rolled there are two rows of it: as it was and as it
/// will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricRow {
    pub id: BillableMetricId,
    pub organization: OrganizationId,
    pub event_code: String,
    pub aggregation: Aggregation,
    pub field: Option<String>,
    pub expression: Option<String>,
    /// By key.
    pub dimensions: Vec<DimensionRow>,
    /// What its usage is written under; 0 for one that was never rolled.
    pub generation: u64,
    /// Written, and not read yet.
    pub rolling: bool,
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

/// The settings of an organization, where one differs from the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrganizationRow {
    pub id: OrganizationId,
    /// Events without a known metric or subscription are taken too. Default: no.
    pub lenient: bool,
    /// What the edge takes each second. Default: no bound.
    pub events_per_second_max: Option<u32>,
}

/// A subscription, or a cell of it, whose usage is written under a generation of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverrideRow {
    pub generation: u64,
    pub organization: OrganizationId,
    pub subscription: SubscriptionId,
    /// The start of the cell's 15 minutes; none: the whole subscription.
    pub bucket: Option<Timestamp>,
    /// Written, and not read yet.
    pub rolling: bool,
}

/// Rows of the catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CatalogRows {
    pub keys: Vec<KeyRow>,
    pub metrics: Vec<MetricRow>,
    pub subscriptions: Vec<SubscriptionRow>,
    pub organizations: Vec<OrganizationRow>,
    pub overrides: Vec<OverrideRow>,
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

/// The event codes of metrics that are not in the catalog yet, because their roll has not started;
/// and the version in which that is so.
pub async fn awaited_codes(
    conn: &mut PgConnection,
    organization: OrganizationId,
) -> Result<(u64, Vec<String>), StoreError> {
    let row = sqlx::query!(
        r#"SELECT v.version, ARRAY(
               SELECT DISTINCT m.event_code
               FROM usage_rolls r
               JOIN billable_metrics m
                   ON m.organization_id = r.organization_id AND m.id = r.metric_id
               WHERE r.organization_id = $1 AND r.kind = 'metric' AND r.state = 'waiting'
                   AND m.deleted_at IS NULL
           ) AS "codes!"
           FROM catalog_version v"#,
        organization as _,
    )
    .fetch_one(conn)
    .await?;
    Ok((unsigned("catalog_version.version", row.version)?, row.codes))
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
    for row in organizations(conn, after, up_to).await? {
        let (opened, row) = row.read()?;
        changes.side(opened).organizations.push(row);
    }
    for row in overrides(conn, after, up_to).await? {
        let (opened, row) = row.read()?;
        changes.side(opened).overrides.push(row);
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
               aggregation AS "aggregation!", field_name, expression,
               dimensions AS "dimensions!: Json<Vec<DimensionRow>>", generation AS "generation!",
               rolling AS "rolling!", version_from > $1 AS "opened!"
           FROM catalog_metrics
           WHERE version_from > $1 AND version_from <= $2
             AND (version_to IS NULL OR version_to > $2)
           UNION ALL
           SELECT id, organization_id, event_code, aggregation, field_name, expression,
               dimensions, generation, rolling, false
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

async fn organizations(
    conn: &mut PgConnection,
    after: i64,
    up_to: i64,
) -> Result<Vec<OrganizationColumns>, StoreError> {
    Ok(sqlx::query_as!(
        OrganizationColumns,
        r#"SELECT organization_id AS "organization_id!", lenient AS "lenient!",
               events_per_second_max, version_from > $1 AS "opened!"
           FROM catalog_organizations
           WHERE version_from > $1 AND version_from <= $2
             AND (version_to IS NULL OR version_to > $2)
           UNION ALL
           SELECT organization_id, lenient, events_per_second_max, false
           FROM catalog_organizations
           WHERE version_from <= $1 AND version_to > $1 AND version_to <= $2"#,
        after,
        up_to,
    )
    .fetch_all(conn)
    .await?)
}

async fn overrides(
    conn: &mut PgConnection,
    after: i64,
    up_to: i64,
) -> Result<Vec<OverrideColumns>, StoreError> {
    Ok(sqlx::query_as!(
        OverrideColumns,
        r#"SELECT generation AS "generation!", organization_id AS "organization_id!",
               subscription_id AS "subscription_id!", bucket, rolling AS "rolling!",
               version_from > $1 AS "opened!"
           FROM catalog_overrides
           WHERE version_from > $1 AND version_from <= $2
             AND (version_to IS NULL OR version_to > $2)
           UNION ALL
           SELECT generation, organization_id, subscription_id, bucket, rolling, false
           FROM catalog_overrides
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
    expression: Option<String>,
    dimensions: Json<Vec<DimensionRow>>,
    generation: i64,
    rolling: bool,
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

struct OrganizationColumns {
    organization_id: Uuid,
    lenient: bool,
    events_per_second_max: Option<i32>,
    opened: bool,
}

struct OverrideColumns {
    generation: i64,
    organization_id: Uuid,
    subscription_id: Uuid,
    bucket: Option<Timestamp>,
    rolling: bool,
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
            expression: self.expression,
            dimensions: self.dimensions.0,
            generation: unsigned("catalog_metrics.generation", self.generation)?,
            rolling: self.rolling,
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

impl OrganizationColumns {
    fn read(self) -> Result<(bool, OrganizationRow), StoreError> {
        let row = OrganizationRow {
            id: id(self.organization_id),
            lenient: self.lenient,
            events_per_second_max: self
                .events_per_second_max
                .map(|max| unsigned("catalog_organizations.events_per_second_max", max))
                .transpose()?,
        };
        Ok((self.opened, row))
    }
}

impl OverrideColumns {
    fn read(self) -> Result<(bool, OverrideRow), StoreError> {
        let row = OverrideRow {
            generation: unsigned("catalog_overrides.generation", self.generation)?,
            organization: id(self.organization_id),
            subscription: id(self.subscription_id),
            bucket: self.bucket,
            rolling: self.rolling,
        };
        Ok((self.opened, row))
    }
}
