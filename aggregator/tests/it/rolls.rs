//! Usage computed again from raw events, on the real parts, against a plain sum.

use crate::parts::{ORGANIZATION, PARTITIONS, PATIENCE, Parts, START_US, SUBSCRIPTION};
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;
use weir_aggregator::{
    AggregatorError, Lease,
    roll::work::{Progress, Tools, Work},
};
use weir_events::{RecordEvent, RecordHeader, encode_record, event_id, partition_of};
use weir_ids::{BillableMetricId, SubscriptionId};
use weir_log::Append;
use weir_runtime::Clock;
use weir_store::{
    StoreError, partitions,
    rolls::{self, Roll},
    voids::{self, Void},
};
use weir_usage::{Generations, LateQuestion, Measure};

const TOKENS: BillableMetricId = BillableMetricId::from_u128(0xC1);
const CALLS: BillableMetricId = BillableMetricId::from_u128(0xC2);
const LATER: SubscriptionId = SubscriptionId::from_u128(0xB2);
const LEASE: Duration = Duration::from_secs(300);

/// An event as the tests send it: `v` is its number, `w` ten times as much, `one` is 1 and `many`
/// 1000.
#[derive(Debug, Clone)]
struct Call {
    number: u64,
    external_id: &'static str,
}

impl Call {
    fn transaction_id(&self) -> String {
        format!("call-{}", self.number)
    }

    /// Five quarters of an hour have all of them.
    fn at_us(&self) -> i64 {
        START_US + (self.number % 5) as i64 * 900_000_000 + self.number as i64
    }

    fn properties(&self) -> String {
        let (number, region) = (self.number, ["eu", "us", "moon"][self.number as usize % 3]);
        let ten = number * 10;
        format!(r#"{{"v":{number},"w":{ten},"one":1,"many":1000,"region":"{region}"}}"#)
    }
}

fn calls(numbers: std::ops::Range<u64>) -> Vec<Call> {
    numbers.map(|number| Call { number, external_id: "acme" }).collect()
}

/// Events and their values' sum, by group.
type Totals = BTreeMap<String, (u64, String)>;

fn totals(groups: &[(&str, u64, u64)]) -> Totals {
    let total =
        |(group, events, sum): &(&str, u64, u64)| ((*group).to_owned(), (*events, sum.to_string()));
    groups.iter().map(total).collect()
}

/// What a sum of these values comes to in one group.
fn sum_of(values: impl Iterator<Item = u64>) -> Totals {
    let values: Vec<u64> = values.collect();
    totals(&[("", values.len() as u64, values.iter().sum())])
}

struct Deployment {
    parts: Parts,
}

impl Deployment {
    /// With the metric `tokens`, which sums `v` of calls, and the subscription `acme`.
    async fn new(pool: PgPool) -> Self {
        let deployment = Self { parts: Parts::over(pool).await };
        let organization = uuid(ORGANIZATION.as_u128());
        for statement in [
            "INSERT INTO organizations (id, name, document_number_prefix, created_at)
             VALUES ($1, 'Acme', 'ACME', now())",
            "INSERT INTO customers
                 (organization_id, id, external_id, sequential_id, created_at, updated_at)
             VALUES ($1, $1, 'acme', 1, now(), now())",
            "INSERT INTO plans (organization_id, id, code, name, created_at, updated_at)
             VALUES ($1, $1, 'plan', 'Plan', now(), now())",
        ] {
            let statement = statement.replace("$1", &format!("'{organization}'::uuid"));
            deployment.execute(&statement).await;
        }
        deployment.add_metric(TOKENS, "sum", "'v'", "[]").await;
        deployment.add_subscription(SUBSCRIPTION, "acme").await;
        deployment
    }

    async fn execute(&self, statement: &str) {
        sqlx::query(sqlx::AssertSqlSafe(statement.to_owned()))
            .execute(&self.parts.pool)
            .await
            .unwrap();
    }

    async fn add_metric(
        &self,
        id: BillableMetricId,
        aggregation: &str,
        field: &str,
        filters: &str,
    ) {
        let (organization, id) = (uuid(ORGANIZATION.as_u128()), uuid(id.as_u128()));
        self.execute(&format!(
            "INSERT INTO billable_metrics
                 (organization_id, id, name, code, event_code, aggregation, field_name, filters,
                  created_at, updated_at)
             VALUES ('{organization}', '{id}', 'Metric', '{id}', 'calls', '{aggregation}', {field},
                 '{filters}', now(), now())"
        ))
        .await;
    }

    async fn add_subscription(&self, id: SubscriptionId, external_id: &str) {
        let (organization, id) = (uuid(ORGANIZATION.as_u128()), uuid(id.as_u128()));
        self.execute(&format!(
            "INSERT INTO subscriptions
                 (organization_id, id, customer_id, plan_id, external_id, started_at, created_at,
                  updated_at)
             VALUES ('{organization}', '{id}', '{organization}', '{organization}', '{external_id}',
                 '2026-01-01T00:00:00Z', now(), now())"
        ))
        .await;
    }

    async fn redefine(&self, change: &str) {
        let id = uuid(TOKENS.as_u128());
        self.execute(&format!("UPDATE billable_metrics SET {change} WHERE id = '{id}'")).await;
    }

    async fn void(&self, call: &Call) {
        let mut connection = self.parts.pool.acquire().await.unwrap();
        let void = Void {
            organization: ORGANIZATION,
            transaction_id: call.transaction_id(),
            external_subscription_id: call.external_id.to_owned(),
            code: "calls".to_owned(),
            timestamp: DateTime::from_timestamp_micros(call.at_us()).unwrap(),
            voided_at: Clock::real().now(),
            voided_by: "a test".to_owned(),
            reason: None,
            generation: None,
        };
        assert!(voids::insert(&mut connection, &void).await.unwrap());
    }

    /// Appends events in records of up to ten.
    async fn send(&self, calls: &[Call]) {
        self.parts.catalog.refresh().await.unwrap();
        for calls in calls.chunks(10) {
            let mut by_partition: BTreeMap<u32, Vec<&Call>> = BTreeMap::new();
            for call in calls {
                let id = event_id(ORGANIZATION, &call.transaction_id());
                by_partition.entry(partition_of(id, PARTITIONS)).or_default().push(call);
            }
            let records = by_partition
                .into_iter()
                .map(|(partition, calls)| Append { partition, bytes: self.record(&calls).into() })
                .collect();
            for appended in self.parts.log.append(records).await {
                appended.unwrap();
            }
        }
    }

    fn record(&self, calls: &[&Call]) -> Vec<u8> {
        let texts: Vec<(String, String)> =
            calls.iter().map(|call| (call.transaction_id(), call.properties())).collect();
        let events: Vec<RecordEvent<'_>> = calls
            .iter()
            .zip(&texts)
            .map(|(call, (transaction_id, properties))| RecordEvent {
                transaction_id,
                external_subscription_id: call.external_id,
                code: "calls",
                timestamp_us: call.at_us(),
                content_hash: call.number,
                properties,
            })
            .collect();
        let header = RecordHeader {
            organization: ORGANIZATION,
            received_at_us: Clock::real().now().timestamp_micros(),
            catalog_version: self.parts.catalog.snapshot().version,
        };
        encode_record(&header, &events)
    }

    /// Sends events and has an aggregator of its own store them.
    async fn store(&self, calls: &[Call]) {
        let (aggregator, shutdown) = self.parts.aggregator("storing").await;
        self.send(calls).await;
        self.parts.wait_for_all().await;
        shutdown.cancel();
        aggregator.join().await;
    }

    async fn generations(&self) -> Generations {
        let mut connection = self.parts.pool.acquire().await.unwrap();
        let subscriptions = [SUBSCRIPTION, LATER];
        let rows = rolls::generations(&mut connection, ORGANIZATION, &subscriptions).await.unwrap();
        Generations { metrics: rows.metrics, subscriptions: rows.subscriptions, cells: rows.cells }
    }

    /// What readers see of a metric now.
    async fn usage(&self, subscription: SubscriptionId, metric: BillableMetricId) -> Totals {
        let generations = self.generations().await;
        self.usage_under(subscription, metric, &generations).await
    }

    async fn usage_under(
        &self,
        subscription: SubscriptionId,
        metric: BillableMetricId,
        generations: &Generations,
    ) -> Totals {
        let start = DateTime::from_timestamp_micros(START_US).unwrap();
        let window = (subscription, start, start + TimeDelta::days(1));
        let measures = [(metric, Measure::Total)].into_iter().collect();
        let windows = [window];
        let usage = self.parts.usage.usage(ORGANIZATION, &windows, &measures, generations);
        let usage = usage.await.unwrap();
        usage
            .into_iter()
            .map(Result::unwrap)
            .filter(|usage| usage.metric == metric)
            .map(|usage| (usage.group, (usage.events, usage.total.to_string())))
            .collect()
    }

    /// Waits until no roll waits or is under way.
    async fn settle(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut connection = self.parts.pool.acquire().await.unwrap();
        while !rolls::unsettled(&mut connection).await.unwrap().is_empty() {
            let progress = rolls::progress(&mut connection, ORGANIZATION).await.unwrap();
            assert!(Instant::now() < deadline, "rolls stay behind: {progress:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn tools(&self) -> Tools {
        Tools {
            usage: self.parts.usage.clone(),
            pool: self.parts.pool.clone(),
            catalog: Arc::clone(&self.parts.catalog),
            rows_max: 25,
            insert_timeout: Duration::from_secs(15),
        }
    }

    /// The one roll that is under way, started if it waits.
    async fn start_roll(&self) -> Arc<Roll> {
        let mut connection = self.parts.pool.acquire().await.unwrap();
        rolls::start_due(&mut connection).await.unwrap();
        let mut rolling = rolls::rolling(&mut connection).await.unwrap();
        assert_eq!(rolling.len(), 1);
        Arc::new(rolling.remove(0))
    }

    /// Takes a partition as the owner of before would after a restart.
    async fn claim(&self, partition: u32) -> Lease {
        let until = Instant::now() + LEASE;
        let mut connection = self.parts.pool.acquire().await.unwrap();
        let claim = partitions::claim(&mut connection, partition, "by hand", LEASE).await.unwrap();
        let claim = claim.expect("nobody else has it");
        assert_eq!(claim.open, None);
        Lease { epoch: claim.epoch, until }
    }

    /// Takes every partition of the roll to its end.
    async fn finish_roll(&self, roll: &Arc<Roll>) {
        for partition in 0..PARTITIONS {
            let lease = self.claim(partition).await;
            let mut work = Work::new(self.tools(), Arc::clone(roll), partition);
            while !is_end(work.advance(lease).await.unwrap()) {}
        }
    }
}

fn is_end(progress: Progress) -> bool {
    match progress {
        Progress::Working | Progress::ChunkDone { .. } => false,
        Progress::PartitionDone | Progress::Ended => true,
    }
}

fn uuid(bits: u128) -> String {
    format!("{bits:032x}")
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_new_metric_counts_what_was_there_before_it_by_filters_and_groups(pool: PgPool) {
    let deployment = Deployment::new(pool).await;
    let (_aggregator, _) = deployment.parts.aggregator("one").await;
    deployment.send(&calls(0..300)).await;
    deployment.parts.wait_for_all().await;
    assert_eq!(deployment.usage(SUBSCRIPTION, TOKENS).await, sum_of(0..300));

    let filters = r#"[{"key": "region", "values": ["eu", "us"]}]"#;
    deployment.add_metric(CALLS, "sum", "'w'", filters).await;
    deployment.settle().await;
    let of = |count: u64| {
        let region = |rest: u64| {
            let values = || (0..count).filter(move |number| number % 3 == rest);
            (values().count() as u64, values().sum::<u64>() * 10)
        };
        // The moon is no value of the filter.
        let [(eu, eu_sum), (us, us_sum), (rest, rest_sum)] = [0, 1, 2].map(region);
        totals(&[
            (r#"{"region":"eu"}"#, eu, eu_sum),
            (r#"{"region":"us"}"#, us, us_sum),
            ("", rest, rest_sum),
        ])
    };
    assert_eq!(deployment.usage(SUBSCRIPTION, CALLS).await, of(300));
    deployment.send(&calls(300..400)).await;
    deployment.parts.wait_for_all().await;
    assert_eq!(deployment.usage(SUBSCRIPTION, CALLS).await, of(400));
    assert_eq!(deployment.usage(SUBSCRIPTION, TOKENS).await, sum_of(0..400));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn readers_see_a_changed_metric_as_it_was_or_as_it_is_and_never_half(pool: PgPool) {
    let deployment = Arc::new(Deployment::new(pool).await);
    deployment.redefine("field_name = 'one'").await;
    let (_aggregator, _) = deployment.parts.aggregator("one").await;
    deployment.send(&calls(0..400)).await;
    deployment.parts.wait_for_all().await;
    let sending = tokio::spawn({
        let deployment = Arc::clone(&deployment);
        async move {
            for first in (400..2_000).step_by(20) {
                deployment.send(&calls(first..first + 20)).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    let mut events_before = 400;
    for (field, each, each_before) in [("many", 1_000, 1), ("one", 1, 1_000), ("many", 1_000, 1)] {
        deployment.redefine(&format!("field_name = '{field}'")).await;
        let deadline = Instant::now() + PATIENCE;
        let mut switched = false;
        let mut looks_before = 0;
        while !switched {
            let usage = deployment.usage(SUBSCRIPTION, TOKENS).await;
            let (events, total) = usage.get("").cloned().unwrap();
            assert!(events >= events_before, "{events} events after {events_before}");
            events_before = events;
            switched = total == (events * each).to_string();
            if !switched {
                looks_before += 1;
                assert_eq!(total, (events * each_before).to_string(), "of {events} events");
            }
            assert!(Instant::now() < deadline, "the roll does not end");
        }
        assert!(looks_before > 0, "readers saw the old totals until the switch");
    }
    sending.await.unwrap();
    deployment.parts.wait_for_all().await;
    let all = totals(&[("", 2_000, 2_000_000)]);
    assert_eq!(deployment.usage(SUBSCRIPTION, TOKENS).await, all);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn whoever_dies_at_any_step_of_a_roll_another_ends_it_with_the_same_totals(pool: PgPool) {
    let deployment = Deployment::new(pool).await;
    deployment.store(&calls(0..100)).await;
    let mut rolled_by_the_first = 0;
    // Two chunks of six steps, and a look that finds nothing left.
    for steps in 0..14 {
        // Every time another field: the totals of the generation before would show.
        let (field, factor) = if steps % 2 == 0 { ("w", 10) } else { ("v", 1) };
        deployment.redefine(&format!("field_name = '{field}'")).await;
        let roll = deployment.start_roll().await;
        let partition = steps % PARTITIONS;
        let lease = deployment.claim(partition).await;
        let mut first = Work::new(deployment.tools(), Arc::clone(&roll), partition);
        for _ in 0..steps {
            if let Progress::ChunkDone { events } = first.advance(lease).await.unwrap() {
                rolled_by_the_first += events;
            }
        }
        let before = deployment.usage(SUBSCRIPTION, TOKENS).await;
        let old = if factor == 10 { 1 } else { 10 };
        assert_eq!(before, sum_of((0..100).map(|number| number * old)), "{steps} steps: not yet");
        deployment.finish_roll(&roll).await;
        let after = deployment.usage(SUBSCRIPTION, TOKENS).await;
        assert_eq!(after, sum_of((0..100).map(|number| number * factor)), "{steps} steps");
        // The first was only paused, and goes on: it can't do harm any more.
        loop {
            match first.advance(lease).await {
                Ok(Progress::Working) => {}
                Err(AggregatorError::Store(StoreError::Fenced { .. })) => break,
                other => panic!("{steps} steps: {other:?}"),
            }
        }
        assert_eq!(deployment.usage(SUBSCRIPTION, TOKENS).await, after, "{steps} steps, revived");
    }
    assert!(rolled_by_the_first > 100, "the first owner got into the middle of a roll");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_insert_of_a_roll_waits_for_a_lease_that_outlasts_it(pool: PgPool) {
    let deployment = Deployment::new(pool).await;
    deployment.store(&calls(0..30)).await;
    deployment.redefine("field_name = 'w'").await;
    let roll = deployment.start_roll().await;
    let lease = deployment.claim(0).await;
    let short = Lease { until: Instant::now() + Duration::from_secs(14), ..lease };
    let mut work = Work::new(deployment.tools(), roll, 0);
    let refused = loop {
        match work.advance(short).await {
            Ok(Progress::Working) => {}
            other => break other,
        }
    };
    assert!(matches!(refused, Err(AggregatorError::LeaseShort { partition: 0 })), "{refused:?}");
    // Renewed, it is taken up again.
    while !is_end(work.advance(lease).await.unwrap()) {}
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_voided_event_leaves_every_total_and_its_cell_shows_that_it_changed(pool: PgPool) {
    let deployment = Deployment::new(pool).await;
    deployment.add_metric(CALLS, "unique_count", "'v'", "[]").await;
    let (_aggregator, _) = deployment.parts.aggregator("one").await;
    let all = calls(0..100);
    deployment.send(&all).await;
    deployment.parts.wait_for_all().await;
    deployment.settle().await;
    let before = Clock::real().now();
    // One of the second quarter, and all of the fourth.
    let voided: Vec<&Call> =
        all.iter().filter(|call| call.number == 51 || call.number % 5 == 3).collect();
    for call in &voided {
        deployment.void(call).await;
    }
    deployment.settle().await;
    let left = || (0..100_u64).filter(|number| *number != 51 && number % 5 != 3);
    assert_eq!(deployment.usage(SUBSCRIPTION, TOKENS).await, sum_of(left()));
    let distinct = totals(&[("", left().count() as u64, 0)]);
    assert_eq!(deployment.usage(SUBSCRIPTION, CALLS).await, distinct);

    assert_eq!(late_buckets(&deployment, before).await, changed_quarters(&[1, 3]));
    // What comes later into a cell that was computed again counts there.
    deployment.send(&calls(100..110)).await;
    deployment.parts.wait_for_all().await;
    let left = || left().chain(100..110);
    assert_eq!(deployment.usage(SUBSCRIPTION, TOKENS).await, sum_of(left()));
}

fn changed_quarters(quarters: &[i64]) -> Vec<(BillableMetricId, i64)> {
    let metrics = [TOKENS, CALLS];
    metrics.iter().flat_map(|metric| quarters.iter().map(|quarter| (*metric, *quarter))).collect()
}

/// Metric and quarter of an hour of what changed.
async fn late_buckets(
    deployment: &Deployment,
    changed_after: DateTime<Utc>,
) -> Vec<(BillableMetricId, i64)> {
    let before = DateTime::from_timestamp_micros(START_US).unwrap() + TimeDelta::days(1);
    let question = LateQuestion { subscription: SUBSCRIPTION, before, changed_after };
    let generations = deployment.generations().await;
    let questions = [question];
    let late = deployment.parts.usage.late_buckets(ORGANIZATION, &questions, &generations);
    let quarter = |bucket: DateTime<Utc>| (bucket.timestamp_micros() - START_US) / 900_000_000;
    late.await.unwrap().iter().map(|late| (late.metric, quarter(late.bucket))).collect()
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn events_voided_during_a_roll_are_out_after_the_next_one(pool: PgPool) {
    let deployment = Deployment::new(pool).await;
    let all = calls(0..120);
    deployment.store(&all).await;
    deployment.redefine("field_name = 'w'").await;
    let roll = deployment.start_roll().await;
    let lease = deployment.claim(1).await;
    let mut work = Work::new(deployment.tools(), Arc::clone(&roll), 1);
    for _ in 0..7 {
        work.advance(lease).await.unwrap();
    }
    for call in all.iter().filter(|call| call.number < 20) {
        deployment.void(call).await;
    }
    // A void is taken in while the roll is under way, and waits for its end.
    assert_eq!(deployment.start_roll().await.generation, roll.generation);
    deployment.finish_roll(&roll).await;
    let ten = |number: u64| number * 10;
    assert_eq!(deployment.usage(SUBSCRIPTION, TOKENS).await, sum_of((0..120).map(ten)));
    let next = deployment.start_roll().await;
    assert!(next.generation > roll.generation);
    deployment.finish_roll(&next).await;
    assert_eq!(deployment.usage(SUBSCRIPTION, TOKENS).await, sum_of((20..120).map(ten)));
    // Whatever is rolled later leaves them out too.
    deployment.redefine("field_name = 'v'").await;
    let last = deployment.start_roll().await;
    deployment.finish_roll(&last).await;
    assert_eq!(deployment.usage(SUBSCRIPTION, TOKENS).await, sum_of(20..120));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_new_subscription_of_a_lenient_organization_gets_the_events_that_named_it(pool: PgPool) {
    let deployment = Deployment::new(pool).await;
    deployment.execute("UPDATE organizations SET lenient = true, ever_lenient = true").await;
    let (_aggregator, _) = deployment.parts.aggregator("one").await;
    let named = |numbers: std::ops::Range<u64>| {
        let call = |number| Call { number, external_id: "later" };
        numbers.map(call).collect::<Vec<_>>()
    };
    deployment.send(&calls(0..50)).await;
    deployment.send(&named(50..150)).await;
    deployment.parts.wait_for_all().await;
    assert_eq!(deployment.usage(LATER, TOKENS).await, Totals::new());
    deployment.add_subscription(LATER, "later").await;
    deployment.settle().await;
    assert_eq!(deployment.usage(LATER, TOKENS).await, sum_of(50..150));
    deployment.send(&named(150..200)).await;
    deployment.parts.wait_for_all().await;
    assert_eq!(deployment.usage(LATER, TOKENS).await, sum_of(50..200));
    assert_eq!(deployment.usage(SUBSCRIPTION, TOKENS).await, sum_of(0..50));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn what_a_roll_replaced_is_deleted_after_an_hour(pool: PgPool) {
    let deployment = Deployment::new(pool).await;
    let (_aggregator, _) = deployment.parts.aggregator("one").await;
    deployment.send(&calls(0..100)).await;
    deployment.parts.wait_for_all().await;
    deployment.redefine("field_name = 'w'").await;
    deployment.settle().await;
    let old = Generations::default();
    assert_eq!(deployment.usage_under(SUBSCRIPTION, TOKENS, &old).await, sum_of(0..100));
    // An hour goes by.
    deployment
        .execute(
            "UPDATE usage_rolls
             SET started_at = started_at - interval '61 minutes',
                 ended_at = ended_at - interval '61 minutes'",
        )
        .await;
    let deadline = Instant::now() + PATIENCE;
    while !deployment.usage_under(SUBSCRIPTION, TOKENS, &old).await.is_empty() {
        assert!(Instant::now() < deadline, "the old rows stay");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let new = sum_of((0..100).map(|number| number * 10));
    assert_eq!(deployment.usage(SUBSCRIPTION, TOKENS).await, new);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn the_roll_of_an_archived_metric_is_given_up(pool: PgPool) {
    let deployment = Deployment::new(pool).await;
    deployment.store(&calls(0..60)).await;
    deployment.redefine("field_name = 'w'").await;
    let roll = deployment.start_roll().await;
    let lease = deployment.claim(2).await;
    let mut work = Work::new(deployment.tools(), Arc::clone(&roll), 2);
    // To the end of its insert.
    for _ in 0..5 {
        assert_eq!(work.advance(lease).await.unwrap(), Progress::Working);
    }
    deployment.redefine("deleted_at = now()").await;
    let left = loop {
        match work.advance(lease).await.unwrap() {
            Progress::Working | Progress::ChunkDone { .. } => {}
            end => break end,
        }
    };
    assert_eq!(left, Progress::Ended);
    deployment.settle().await;
    // Readers never turn to it.
    assert_eq!(deployment.usage(SUBSCRIPTION, TOKENS).await, sum_of(0..60));
}
