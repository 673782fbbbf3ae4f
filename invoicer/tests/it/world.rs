//! A deployment to bill in: a database of Postgres and one of ClickHouse, and words to fill them.

use sqlx::PgPool;
use std::{
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;
use weir_billing::{
    Timestamp,
    charge::{Charge, ChargeModel},
    customer::{Customer, CustomerDetails},
    invoice::Invoice,
    metric::{Aggregation, BillableMetric},
    plan::{Interval, Plan, PlanVersion},
    subscription::Subscription,
};
use weir_events::Position;
use weir_ids::{BillableMetricId, CustomerId, OrganizationId, SubscriptionId};
use weir_invoicer::{Config, InvoicerDeps};
use weir_money::{Currency, Money, Quantity, Rate};
use weir_runtime::Clock;
use weir_store::{
    PageRequest, billable_metrics, clock, customers,
    invoices::{self, InvoiceFilter},
    organizations::{self, Organization},
    partitions, plans,
    subscriptions::{self, NextDue},
};
use weir_usage::{
    Chunk, ClickHouse, Latest, UsageRow, UsageValueRow, bucket_of,
    engine::{Engine, EngineOptions},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_weir-invoicer-test-engine");

pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub struct World {
    pub pool: PgPool,
    pub deps: InvoicerDeps,
    pub organization: OrganizationId,
    pub usd: Currency,
    chunks: AtomicU64,
    /// Stands in for the aggregator's watermark, until the world ends.
    aggregator: Option<JoinHandle<()>>,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(aggregator) = &self.aggregator {
            aggregator.abort();
        }
    }
}

impl World {
    /// A deployment on the real clock. Nothing is covered before [`World::set_watermark`].
    pub async fn new(pool: PgPool) -> Self {
        Self::at_clock(pool, None).await
    }

    /// A deployment on a test clock, whose aggregator has always caught up.
    pub async fn on_test_clock(pool: PgPool, now: Timestamp) -> Self {
        let mut world = Self::at_clock(pool, Some(now)).await;
        world.start_aggregator();
        world
    }

    pub fn start_aggregator(&mut self) {
        let pool = self.pool.clone();
        self.aggregator = Some(tokio::spawn(async move {
            loop {
                watermark_is_now(&pool).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }));
    }

    /// From here on the watermark stands still.
    pub async fn stop_aggregator(&mut self) {
        if let Some(aggregator) = self.aggregator.take() {
            aggregator.abort();
            let _ended = aggregator.await;
        }
    }

    pub async fn watermark_is_now(&self) {
        watermark_is_now(&self.pool).await;
    }

    async fn at_clock(pool: PgPool, test_clock: Option<Timestamp>) -> Self {
        let mut conn = pool.acquire().await.unwrap();
        partitions::ensure(&mut conn, 1).await.unwrap();
        let lease = Duration::from_secs(3_600);
        partitions::claim(&mut conn, 0, "test", lease).await.unwrap().unwrap();
        if let Some(now) = test_clock {
            clock::start_test_clock(&mut conn, now).await.unwrap();
        }
        let made_by = Clock::real();
        let id: OrganizationId = made_by.new_id();
        let organization = Organization::new(id, "Acme", at("2020-01-01T00:00:00Z"));
        organizations::insert(&mut conn, &organization).await.unwrap();
        drop(conn);
        let mut config = Config::load().unwrap();
        config.watermark.poll_ms = 5;
        config.watermark.wait_ms = 0;
        let deps = InvoicerDeps {
            pool: pool.clone(),
            usage: usage_database().await,
            clock: test_clock.map_or(made_by, Clock::test),
            config,
        };
        Self {
            pool,
            deps,
            organization: id,
            usd: Currency::parse("USD").unwrap(),
            chunks: AtomicU64::new(0),
            aggregator: None,
        }
    }

    pub async fn metric(&self, code: &str, aggregation: Aggregation) -> BillableMetricId {
        self.metric_named(code, code, aggregation).await
    }

    pub async fn metric_named(
        &self,
        code: &str,
        name: &str,
        aggregation: Aggregation,
    ) -> BillableMetricId {
        self.metric_with(code, name, aggregation, |metric| metric).await
    }

    pub async fn metric_with(
        &self,
        code: &str,
        name: &str,
        aggregation: Aggregation,
        change: impl FnOnce(BillableMetric) -> BillableMetric,
    ) -> BillableMetricId {
        let created_at = at("2020-01-01T00:00:00Z");
        let reads_field = !matches!(aggregation, Aggregation::Count | Aggregation::Custom);
        let metric = change(BillableMetric {
            id: self.deps.clock.new_id(),
            organization: self.organization,
            name: name.to_owned(),
            code: code.to_owned(),
            event_code: code.to_owned(),
            description: None,
            aggregation,
            field_name: reads_field.then(|| "n".to_owned()),
            expression: None,
            recurring: false,
            rounding: None,
            filters: Vec::new(),
            group_keys: Vec::new(),
            created_at,
            updated_at: created_at,
            deleted_at: None,
        });
        let mut conn = self.pool.acquire().await.unwrap();
        billable_metrics::insert(&mut conn, &metric).await.unwrap();
        metric.id
    }

    /// A plan with this base fee and charges, since 2020.
    pub async fn plan(
        &self,
        code: &str,
        amount: Money,
        pay_in_advance: bool,
        charges: Vec<Charge>,
    ) -> Plan {
        self.plan_named(code, code, amount, pay_in_advance, charges).await
    }

    pub async fn plan_named(
        &self,
        code: &str,
        name: &str,
        amount: Money,
        pay_in_advance: bool,
        charges: Vec<Charge>,
    ) -> Plan {
        let created_at = at("2020-01-01T00:00:00Z");
        let id = self.deps.clock.new_id();
        let plan = Plan {
            id,
            organization: self.organization,
            code: code.to_owned(),
            name: name.to_owned(),
            description: None,
            invoice_display_name: None,
            version: PlanVersion {
                id: self.deps.clock.new_id(),
                plan: id,
                number: 1,
                interval: Interval::Monthly,
                amount,
                pay_in_advance,
                charges,
                created_at,
            },
            created_at,
            updated_at: created_at,
            deleted_at: None,
        };
        let mut conn = self.pool.acquire().await.unwrap();
        plans::insert(&mut conn, &plan).await.unwrap();
        plan
    }

    /// 10.00 USD in arrears, and 0.01 for each unit of `metric`.
    pub async fn small_plan(&self, metric: BillableMetricId) -> Plan {
        let charge = self.standard(metric, "tokens", "0.01");
        self.plan("small", Money { minor: 1000, currency: self.usd }, false, vec![charge]).await
    }

    pub fn standard(&self, metric: BillableMetricId, code: &str, price: &str) -> Charge {
        Charge {
            id: self.deps.clock.new_id(),
            code: code.to_owned(),
            metric,
            invoice_display_name: None,
            model: ChargeModel::Standard { amount: Rate::parse(price).unwrap() },
            filters: Vec::new(),
            pricing_group_keys: Vec::new(),
        }
    }

    pub async fn customer(&self, external_id: &str, details: CustomerDetails) -> Customer {
        let created_at = at("2020-01-01T00:00:00Z");
        let customer = Customer {
            id: self.deps.clock.new_id(),
            organization: self.organization,
            external_id: external_id.to_owned(),
            sequential_id: 0,
            details,
            created_at,
            updated_at: created_at,
            deleted_at: None,
        };
        let mut conn = self.pool.acquire().await.unwrap();
        customers::insert(&mut conn, customer).await.unwrap()
    }

    pub async fn subscribe(
        &self,
        customer: &Customer,
        plan: &Plan,
        external_id: &str,
        started_at: Timestamp,
    ) -> Subscription {
        let subscription = self.unsaved(customer, plan, external_id, started_at);
        self.save_new(customer, plan, &subscription).await;
        subscription
    }

    pub fn unsaved(
        &self,
        customer: &Customer,
        plan: &Plan,
        external_id: &str,
        started_at: Timestamp,
    ) -> Subscription {
        Subscription {
            id: self.deps.clock.new_id(),
            organization: self.organization,
            customer: customer.id,
            plan: plan.id,
            external_id: external_id.to_owned(),
            name: None,
            started_at,
            ending_at: None,
            terminated_at: None,
            skip_final_invoice: false,
            created_at: started_at,
            updated_at: started_at,
        }
    }

    pub async fn save_new(&self, customer: &Customer, plan: &Plan, subscription: &Subscription) {
        let tz = customer.details.timezone.unwrap_or_default();
        let due = weir_billing::due::next_due_at(subscription, &plan.version, tz, None).unwrap();
        let mut conn = self.pool.acquire().await.unwrap();
        subscriptions::insert(&mut conn, subscription, due).await.unwrap();
    }

    /// Ends a subscription as the API does.
    pub async fn terminate(&self, subscription: &Subscription, end: Timestamp) {
        let ended = Subscription { terminated_at: Some(end), ..subscription.clone() };
        let mut conn = self.pool.acquire().await.unwrap();
        subscriptions::save(&mut conn, &ended).await.unwrap();
        let due = self.next_due(subscription.id).await.and_then(|due| ended.cap_due(due));
        let next = NextDue { organization: self.organization, subscription: ended.id, at: due };
        subscriptions::set_next_due(&mut conn, &[next]).await.unwrap();
    }

    pub async fn next_due(&self, subscription: SubscriptionId) -> Option<Timestamp> {
        sqlx::query_scalar(
            "SELECT next_due_at FROM subscription_dues WHERE subscription_id = $1::uuid",
        )
        .bind(uuid_text(subscription.as_u128()))
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    /// An event that came at its own time, as the aggregator counts it.
    pub async fn used(
        &self,
        subscription: SubscriptionId,
        metric: BillableMetricId,
        time: Timestamp,
        value: &str,
    ) {
        self.used_as(&Used::new(subscription, metric, time, value)).await;
    }

    /// Some events of one value at one time.
    pub async fn used_as(&self, used: &Used<'_>) {
        let value = Quantity::parse_value(used.value).unwrap();
        let bucket = bucket_of(used.time);
        let times = i128::from(used.times);
        let since_start = (used.time - bucket).num_microseconds().unwrap();
        let position = Position::from_u64(self.chunks.load(Ordering::Relaxed));
        let usage = UsageRow {
            organization: self.organization,
            subscription: used.subscription,
            metric: used.metric,
            bucket,
            generation: 0,
            group: used.group.clone(),
            events: used.times,
            total: Quantity::from_scaled(value.scaled().checked_mul(times).unwrap()),
            greatest: value,
            latest: Latest { timestamp: used.time, received_at: used.arrives, position, value },
            value_seconds: value.scaled() * i128::from(since_start) * times,
            changed_at: used.arrives,
        };
        let distinct = UsageValueRow {
            organization: self.organization,
            subscription: used.subscription,
            metric: used.metric,
            bucket,
            generation: 0,
            group: used.group.clone(),
            value: used.value.to_owned(),
            timestamp: used.time,
            received_at: used.arrives,
            position,
            added: !used.removed,
        };
        self.write(usage, vec![distinct]).await;
    }

    /// Takes all usage of a metric's group out of the 15 minutes of `used`, as a roll does after
    /// all its events were voided at `voided_at`.
    pub async fn void_cell(&self, used: &Used<'_>, voided_at: Timestamp) {
        let bucket = bucket_of(used.time);
        let generation: i64 = sqlx::query_scalar(
            "INSERT INTO usage_rolls
                 (organization_id, kind, state, catalog_version, started_at, ended_at)
             VALUES ($1::uuid, 'cells', 'done', 1, now(), now())
             RETURNING generation",
        )
        .bind(uuid_text(self.organization.as_u128()))
        .fetch_one(&self.pool)
        .await
        .unwrap();
        sqlx::query("INSERT INTO usage_roll_cells VALUES ($1, $2::uuid, $3::uuid, $4)")
            .bind(generation)
            .bind(uuid_text(self.organization.as_u128()))
            .bind(uuid_text(used.subscription.as_u128()))
            .bind(bucket)
            .execute(&self.pool)
            .await
            .unwrap();
        let position = Position::from_u64(0);
        let value = Quantity::ZERO;
        let row = UsageRow {
            organization: self.organization,
            subscription: used.subscription,
            metric: used.metric,
            bucket,
            generation: u64::try_from(generation).unwrap(),
            group: used.group.clone(),
            events: 0,
            total: Quantity::ZERO,
            greatest: Quantity::ZERO,
            latest: Latest { timestamp: bucket, received_at: bucket, position, value },
            value_seconds: 0,
            changed_at: voided_at,
        };
        self.write(row, Vec::new()).await;
    }

    async fn write(&self, usage: UsageRow, values: Vec<UsageValueRow>) {
        let number = self.chunks.fetch_add(1, Ordering::Relaxed);
        let chunk = Chunk { usage: vec![usage], values, ..Chunk::default() };
        self.deps.usage.insert_chunk(&chunk, &format!("test-{number}")).await.unwrap();
    }

    /// Everything accepted before `at` is counted.
    pub async fn set_watermark(&self, at: Timestamp) {
        let mut conn = self.pool.acquire().await.unwrap();
        assert!(partitions::set_watermark(&mut conn, 0, 1, at).await.unwrap());
    }

    /// All invoices, by due instant, then number.
    pub async fn invoices(&self) -> Vec<Invoice> {
        let mut conn = self.pool.acquire().await.unwrap();
        let request = PageRequest { limit: 1000, ..PageRequest::default() };
        let filter = InvoiceFilter::default();
        let page = invoices::list(&mut conn, self.organization, &filter, &request).await.unwrap();
        let mut all = page.items;
        all.sort_by_key(|invoice| (invoice.due_at, number(invoice), invoice.id));
        all
    }
}

/// Events of one value at one time.
#[derive(Debug, Clone)]
pub struct Used<'a> {
    pub subscription: SubscriptionId,
    pub metric: BillableMetricId,
    pub time: Timestamp,
    /// When they were accepted.
    pub arrives: Timestamp,
    pub value: &'a str,
    pub times: u64,
    /// For unique counts: takes the value away.
    pub removed: bool,
    pub group: String,
}

impl<'a> Used<'a> {
    pub fn new(
        subscription: SubscriptionId,
        metric: BillableMetricId,
        time: Timestamp,
        value: &'a str,
    ) -> Self {
        let (times, removed, group) = (1, false, String::new());
        Self { subscription, metric, time, arrives: time, value, times, removed, group }
    }
}

/// The last part of an invoice's number; empty for a draft.
pub fn number(invoice: &Invoice) -> String {
    match &invoice.status {
        weir_billing::invoice::InvoiceStatus::Draft { .. } => String::new(),
        weir_billing::invoice::InvoiceStatus::Finalized { number, .. } => {
            number.rsplit('-').next().unwrap().to_owned()
        }
    }
}

pub fn of_customer(invoices: &[Invoice], customer: CustomerId) -> Vec<&Invoice> {
    invoices.iter().filter(|invoice| invoice.customer == customer).collect()
}

pub fn uuid_text(bits: u128) -> String {
    format!("{bits:032x}")
}

async fn watermark_is_now(pool: &PgPool) {
    // The pool closes with the test.
    let Ok(mut conn) = pool.acquire().await else { return };
    if let Ok(now) = clock::database_now(&mut conn).await {
        let _held = partitions::set_watermark(&mut conn, 0, 1, now).await;
    }
}

/// A database of its own on the engine that all tests share; the engine ends with this process.
async fn usage_database() -> ClickHouse {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let engine = tokio::task::spawn_blocking(|| {
        ENGINE.get_or_init(|| {
            let options = EngineOptions { durable: false, ..EngineOptions::default() };
            Engine::start(PROGRAM, &shared_dir(), &options).unwrap()
        })
    });
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let database = engine.await.unwrap().connect(&format!("test_{number}"));
    database.migrate().await.unwrap();
    database
}

/// Nobody drops what a test binary shares, so the next run removes the directories of ended ones.
fn shared_dir() -> PathBuf {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("weir-invoicer");
    for old in std::fs::read_dir(&all).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(old.file_name()).exists() {
            let _shared = std::fs::remove_dir_all(old.path());
        }
    }
    all.join(std::process::id().to_string())
}
