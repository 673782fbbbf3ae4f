//! A deployment for one test: its catalog in Postgres, its log in a directory, its edge.

use axum::Router;
use axum::body::Body;
use chrono::{DateTime, TimeZone, Utc};
use http::{HeaderMap, Request, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;
use weir_catalog::Catalog;
use weir_events::{KnownIds, Record, decode_record};
use weir_ids::OrganizationId;
use weir_ingest::{Config, Ingest, IngestDeps};
use weir_log::{EmbeddedLog, EmbeddedOptions, EventLog};
use weir_runtime::{Clock, Shutdown};

pub const KEY: &str = "weir_test-key-of-acme";
pub const ACME: OrganizationId = OrganizationId::from_u128(0xacae);
pub const PARTITIONS: u32 = 4;
pub const SINGLE: &str = "/api/billing/v2/events";
pub const BATCH: &str = "/api/billing/v2/events/batch";

/// The instant at which the test's clock stands.
pub fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 3, 10, 12, 0, 0).unwrap()
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub json: Value,
}

impl Answer {
    pub fn code(&self) -> u16 {
        self.status.as_u16()
    }

    /// The words of a batch's verdicts, in order.
    pub fn words(&self) -> Vec<&str> {
        let verdicts = self.json["verdicts"].as_array().unwrap_or_else(|| panic!("{self:?}"));
        verdicts.iter().map(|verdict| verdict["status"].as_str().unwrap()).collect()
    }

    /// The reason of a refused request.
    pub fn reason(&self) -> &str {
        self.json["details"][0]["reason"].as_str().unwrap_or_else(|| panic!("{self:?}"))
    }

    pub fn asks_for_a_retry(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
            && self.headers.contains_key(header::RETRY_AFTER)
            && self.detail("RetryInfo")["retryDelay"].is_string()
    }

    /// A detail of an error by its name in `google.rpc`.
    pub fn detail(&self, name: &str) -> &Value {
        let details = self.json["details"].as_array().unwrap_or_else(|| panic!("{self:?}"));
        let kind = format!("type.googleapis.com/google.rpc.{name}");
        details
            .iter()
            .find(|detail| detail["@type"] == kind)
            .unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    /// Field and reason of a rejected event.
    pub fn fault(&self, verdict: usize) -> (&str, &str) {
        let error = &self.json["verdicts"][verdict]["error"];
        let text = |name: &str| error[name].as_str().unwrap_or_else(|| panic!("{self:?}"));
        (text("field"), text("reason"))
    }
}

/// Catalog and clock, and the edges that were started over them.
pub struct Deployment {
    pub pool: PgPool,
    pub catalog: Arc<Catalog>,
    pub clock: Clock,
    pub shutdown: Shutdown,
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Deployment {
    /// An organization with a key, a subscription `sub-1` since 1 March, `old` that ended on
    /// 5 March, and metrics over the codes `tokens` (sum), `ping` (count), `seats` (unique_count)
    /// and `both` (sum of `a` and max of `b`).
    pub async fn new(pool: PgPool) -> Self {
        let catalog = CatalogRows { pool: &pool };
        catalog.organization(ACME, "acme").await;
        catalog.key(ACME, 1, KEY, &["events.write"]).await;
        catalog.metric(ACME, 1, "tokens", "sum", Some("tokens")).await;
        catalog.metric(ACME, 2, "ping", "count", None).await;
        catalog.metric(ACME, 3, "seats", "unique_count", Some("user")).await;
        catalog.metric(ACME, 4, "both", "sum", Some("a")).await;
        catalog.metric(ACME, 5, "both", "max", Some("b")).await;
        catalog.plan_and_customer(ACME).await;
        catalog.subscription(ACME, 1, "sub-1", "2026-03-01T00:00:00Z", None).await;
        let ended = Some("2026-03-05T00:00:00Z");
        catalog.subscription(ACME, 2, "old", "2026-03-01T00:00:00Z", ended).await;
        let (clock, shutdown) = (Clock::test(now()), Shutdown::new());
        let catalog = Catalog::start(pool.clone(), clock.clone(), shutdown.clone()).await.unwrap();
        Self { pool, catalog, clock, shutdown }
    }

    pub fn rows(&self) -> CatalogRows<'_> {
        CatalogRows { pool: &self.pool }
    }

    /// An edge over `log` with the default bounds.
    pub async fn edge(&self, log: Arc<dyn EventLog>) -> Edge {
        self.edge_with(log, None, Config::load().unwrap()).await
    }

    pub async fn edge_with(
        &self,
        log: Arc<dyn EventLog>,
        known: Option<Arc<dyn KnownIds>>,
        config: Config,
    ) -> Edge {
        let deps = IngestDeps {
            log: log.clone(),
            catalog: self.catalog.clone(),
            clock: self.clock.clone(),
            known,
            config,
        };
        let ingest = Ingest::start(deps, self.shutdown.clone()).await.unwrap();
        Edge { router: ingest.router(), log }
    }
}

/// The embedded log in `dir`.
pub async fn embedded(dir: &Path) -> Arc<dyn EventLog> {
    Arc::new(EmbeddedLog::open(dir, PARTITIONS, EmbeddedOptions::default()).unwrap())
}

/// One running edge.
pub struct Edge {
    pub router: Router,
    pub log: Arc<dyn EventLog>,
}

impl Edge {
    pub async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(Request::post(path).header(header::AUTHORIZATION, format!("Bearer {KEY}")), body)
            .await
    }

    pub async fn post_as(&self, path: &str, name: &str, value: &str, body: Vec<u8>) -> Answer {
        let request = Request::post(path).header(header::AUTHORIZATION, format!("Bearer {KEY}"));
        self.send(request.header(name, value), body).await
    }

    pub async fn send(&self, request: http::request::Builder, body: impl Into<Body>) -> Answer {
        let request = request.body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status: head.status, headers: head.headers, json }
    }

    pub async fn batch(&self, events: &[Value]) -> Answer {
        self.post(BATCH, json!({ "events": events }).to_string()).await
    }

    /// Every event in the log, partition by partition, as (transaction id, properties).
    pub async fn logged(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for record in self.records().await {
            for event in record.events() {
                all.push((event.transaction_id.to_owned(), event.properties.to_owned()));
            }
        }
        all
    }

    pub async fn records(&self) -> Vec<Record> {
        let mut all = Vec::new();
        for partition in 0..self.log.partitions() {
            let end = self.log.end(partition).await.unwrap();
            let mut from = self.log.start(partition).await.unwrap();
            while from < end {
                let wait = Duration::from_secs(120);
                let stored = self.log.read(partition, from, 1 << 20, wait).await.unwrap();
                from = stored.last().expect("a record before the end").offset + 1;
                all.extend(stored.iter().map(|stored| decode_record(&stored.bytes).unwrap()));
            }
        }
        all
    }
}

/// An event that is taken.
pub fn event(transaction_id: &str) -> Value {
    json!({
        "transactionId": transaction_id,
        "externalSubscriptionId": "sub-1",
        "code": "tokens",
        "timestamp": "2026-03-10T11:00:00Z",
        "properties": { "tokens": 5 },
    })
}

/// The same with another value at `path` (`"properties"`, `"code"`…); `Null` takes it away.
pub fn event_with(transaction_id: &str, field: &str, value: Value) -> Value {
    let mut event = event(transaction_id);
    match value {
        Value::Null => drop(event.as_object_mut().unwrap().remove(field)),
        value => event[field] = value,
    }
    event
}

/// Writes the rows that the catalog's triggers follow.
pub struct CatalogRows<'p> {
    pool: &'p PgPool,
}

fn uuid(bits: u128) -> String {
    format!("{bits:032x}")
}

impl CatalogRows<'_> {
    pub async fn organization(&self, id: OrganizationId, name: &str) {
        sqlx::query(
            "INSERT INTO organizations (id, name, document_number_prefix, created_at)
             VALUES ($1::uuid, $2, 'ACM-0001', now())",
        )
        .bind(uuid(id.as_u128()))
        .bind(name)
        .execute(self.pool)
        .await
        .unwrap();
    }

    pub async fn key(&self, organization: OrganizationId, id: u128, secret: &str, scopes: &[&str]) {
        let hash: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        sqlx::query(
            "INSERT INTO api_keys (organization_id, id, name, key_hash, scopes, created_at)
             VALUES ($1::uuid, $2::uuid, 'test', $3, $4, now())",
        )
        .bind(uuid(organization.as_u128()))
        .bind(uuid(id))
        .bind(hash.to_vec())
        .bind(scopes)
        .execute(self.pool)
        .await
        .unwrap();
    }

    pub async fn metric(
        &self,
        organization: OrganizationId,
        id: u128,
        event_code: &str,
        aggregation: &str,
        field: Option<&str>,
    ) {
        sqlx::query(
            "INSERT INTO billable_metrics (organization_id, id, name, code, event_code,
                 aggregation, field_name, created_at, updated_at)
             VALUES ($1::uuid, $2::uuid, 'metric', 'metric-' || $2, $3, $4, $5, now(), now())",
        )
        .bind(uuid(organization.as_u128()))
        .bind(uuid(id))
        .bind(event_code)
        .bind(aggregation)
        .bind(field)
        .execute(self.pool)
        .await
        .unwrap();
    }

    pub async fn archive_metric(&self, organization: OrganizationId, id: u128) {
        sqlx::query(
            "UPDATE billable_metrics SET deleted_at = now()
             WHERE organization_id = $1::uuid AND id = $2::uuid",
        )
        .bind(uuid(organization.as_u128()))
        .bind(uuid(id))
        .execute(self.pool)
        .await
        .unwrap();
    }

    /// A metric that computes, and whose usage is kept apart by the values of `key`: by `values`,
    /// or by all of them.
    pub async fn computed_metric(
        &self,
        organization: OrganizationId,
        id: u128,
        event_code: &str,
        expression: &str,
        (key, values): (&str, Option<&[&str]>),
    ) {
        let filters = values.map_or(json!([]), |values| json!([{ "key": key, "values": values }]));
        let group_keys: &[&str] = if values.is_some() { &[] } else { &[key] };
        sqlx::query(
            "INSERT INTO billable_metrics (organization_id, id, name, code, event_code,
                 aggregation, expression, filters, group_keys, created_at, updated_at)
             VALUES ($1::uuid, $2::uuid, 'metric', 'metric-' || $2, $3, 'custom', $4, $5::jsonb,
                 $6, now(), now())",
        )
        .bind(uuid(organization.as_u128()))
        .bind(uuid(id))
        .bind(event_code)
        .bind(expression)
        .bind(filters.to_string())
        .bind(group_keys)
        .execute(self.pool)
        .await
        .unwrap();
    }

    /// What the organization decides about its events.
    pub async fn settings(
        &self,
        organization: OrganizationId,
        lenient: bool,
        events_per_second_max: Option<i32>,
    ) {
        sqlx::query(
            "UPDATE organizations SET lenient = $2, ever_lenient = ever_lenient OR $2,
                 events_per_second_max = $3
             WHERE id = $1::uuid",
        )
        .bind(uuid(organization.as_u128()))
        .bind(lenient)
        .bind(events_per_second_max)
        .execute(self.pool)
        .await
        .unwrap();
    }

    pub async fn plan_and_customer(&self, organization: OrganizationId) {
        for statement in [
            "INSERT INTO customers (organization_id, id, external_id, sequential_id, created_at,
                 updated_at)
             VALUES ($1::uuid, $1::uuid, 'customer', 1, now(), now())",
            "INSERT INTO plans (organization_id, id, code, name, created_at, updated_at)
             VALUES ($1::uuid, $1::uuid, 'plan', 'plan', now(), now())",
        ] {
            sqlx::query(statement)
                .bind(uuid(organization.as_u128()))
                .execute(self.pool)
                .await
                .unwrap();
        }
    }

    pub async fn subscription(
        &self,
        organization: OrganizationId,
        id: u128,
        external_id: &str,
        started_at: &str,
        terminated_at: Option<&str>,
    ) {
        sqlx::query(
            "INSERT INTO subscriptions (organization_id, id, customer_id, plan_id, external_id,
                 started_at, terminated_at, created_at, updated_at)
             VALUES ($1::uuid, $2::uuid, $1::uuid, $1::uuid, $3, $4::timestamptz,
                 $5::timestamptz, now(), now())",
        )
        .bind(uuid(organization.as_u128()))
        .bind(uuid(id))
        .bind(external_id)
        .bind(started_at)
        .bind(terminated_at)
        .execute(self.pool)
        .await
        .unwrap();
    }
}
