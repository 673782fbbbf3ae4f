//! The catalog in one version. Never changed: the next version is another snapshot that shares all
//! that is the same.

use crate::targets::{Overrides, Targets};
use chrono::{DateTime, Utc};
use imbl::{GenericHashMap, shared_ptr::DefaultSharedPtr};
use std::sync::Arc;
use weir_events::{Dimension, Expression};
use weir_ids::{ApiKeyId, BillableMetricId, OrganizationId, SubscriptionId};
use weir_store::catalog::{
    Aggregation, CatalogChanges, CatalogRows, DimensionRow, KeyRow, MetricRow, OrganizationRow,
    SubscriptionRow,
};

/// Every event is looked up by code and external id, so the hash is a quick one; its seeds differ from
/// process to process.
type HashMap<K, V> = GenericHashMap<K, V, hashbrown::DefaultHashBuilder, DefaultSharedPtr>;

/// The catalog in one version.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The catalog's version, 0 for the empty one.
    pub version: u64,
    keys: HashMap<[u8; 32], Arc<ApiKey>>,
    metrics: HashMap<OrganizationId, HashMap<Arc<str>, Arc<[Metric]>>>,
    subscriptions: HashMap<OrganizationId, HashMap<Arc<str>, Arc<[Span]>>>,
    /// Those that differ from the default.
    organizations: HashMap<OrganizationId, OrganizationSettings>,
    overrides: Overrides,
}

/// A key that is not revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub id: ApiKeyId,
    pub organization: OrganizationId,
    pub scopes: Vec<String>,
}

/// What an organization has decided about its events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OrganizationSettings {
    /// Events without a known metric or subscription are taken too.
    pub lenient: bool,
    /// What the edge takes each second; none: no bound.
    pub events_per_second_max: Option<u32>,
}

/// A metric that is not archived. While it is rolled there are two of the same id: as it was and as
/// it will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    pub id: BillableMetricId,
    pub aggregation: Aggregation,
    /// The property it reads; none for `Count` and `Custom`.
    pub field: Option<String>,
    /// Computes the value in place of the field.
    pub expression: Option<Arc<Expression>>,
    /// By which properties its usage is told apart, by key.
    pub dimensions: Vec<Dimension>,
    /// What its usage is written under.
    pub generation: u64,
    /// Written, and not read yet.
    pub rolling: bool,
}

/// When a subscription holds, `[started_at, ended_at)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub id: SubscriptionId,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

impl ApiKey {
    /// Whether it may do what needs `scope`; `*` may do everything.
    #[must_use]
    pub fn allows(&self, scope: &str) -> bool {
        self.scopes.iter().any(|own| own == "*" || own == scope)
    }
}

impl From<MetricRow> for Metric {
    fn from(row: MetricRow) -> Self {
        let MetricRow { id, aggregation, field, expression, generation, rolling, .. } = row;
        let expression = expression.map(|text| {
            Expression::parse(&text).map(Arc::new).inspect_err(|error| {
                tracing::error!(%id, %error, "a metric's expression can't be read");
            })
        });
        // Counting by the field instead would be counting something else.
        let field = field.filter(|_| !matches!(expression, Some(Err(_))));
        let dimension = |row: DimensionRow| Dimension { key: row.key, values: row.values };
        let dimensions = row.dimensions.into_iter().map(dimension).collect();
        let expression = expression.and_then(Result::ok);
        Self { id, aggregation, field, expression, dimensions, generation, rolling }
    }
}

impl Metric {
    /// Those of a list of [`Snapshot::metrics`] by which an event is judged: of one that is rolled,
    /// as it will be.
    pub fn newest(metrics: &[Self]) -> impl Iterator<Item = &Self> {
        let behind = metrics.iter().skip(1).map(Some).chain([None]);
        let is_newest = |(metric, next): (_, Option<&Self>)| {
            let metric: &Self = metric;
            next.is_none_or(|next| next.id != metric.id).then_some(metric)
        };
        metrics.iter().zip(behind).filter_map(is_newest)
    }
}

impl Snapshot {
    /// The catalog of `version`, which holds these rows.
    #[must_use]
    pub fn new(version: u64, rows: CatalogRows) -> Self {
        let changes = CatalogChanges { closed: CatalogRows::default(), opened: rows };
        Self::default().after(version, changes)
    }

    /// The catalog of another version, newer or older, that differs from this one by `changes`.
    /// Costs what changed.
    #[must_use]
    pub fn after(&self, version: u64, changes: CatalogChanges) -> Self {
        let mut next = Self { version, ..self.clone() };
        let CatalogChanges { closed, opened } = changes;
        for row in &closed.keys {
            next.keys.remove(&row.hash);
        }
        for row in &closed.metrics {
            next.remove_metric(row);
        }
        for row in &closed.subscriptions {
            next.remove_span(row);
        }
        for row in &closed.organizations {
            next.organizations.remove(&row.id);
        }
        for row in &closed.overrides {
            next.overrides.remove(row);
        }
        for KeyRow { id, organization, hash, scopes } in opened.keys {
            next.keys.insert(hash, Arc::new(ApiKey { id, organization, scopes }));
        }
        for row in opened.metrics {
            next.insert_metric(row);
        }
        for row in opened.subscriptions {
            next.insert_span(row);
        }
        for OrganizationRow { id, lenient, events_per_second_max } in opened.organizations {
            next.organizations.insert(id, OrganizationSettings { lenient, events_per_second_max });
        }
        for row in &opened.overrides {
            next.overrides.insert(row);
        }
        next
    }

    /// The key whose secret has this SHA-256.
    #[must_use]
    pub fn key(&self, hash: &[u8; 32]) -> Option<&ApiKey> {
        self.keys.get(hash).map(Arc::as_ref)
    }

    /// What the organization has decided; the defaults for one that is not known.
    #[must_use]
    pub fn organization(&self, organization: OrganizationId) -> OrganizationSettings {
        self.organizations.get(&organization).copied().unwrap_or_default()
    }

    /// Under which generations `metric`, one of [`Snapshot::metrics`], is written in the 15 minutes
    /// of a subscription that begin at `bucket`.
    #[must_use]
    pub fn targets(
        &self,
        organization: OrganizationId,
        metric: &Metric,
        subscription: SubscriptionId,
        bucket: DateTime<Utc>,
    ) -> Targets {
        // What it will be is written under its own generation alone, the newest there is.
        if metric.rolling {
            return Targets::only(metric.generation);
        }
        self.overrides.targets(metric.generation, organization, subscription, bucket)
    }

    /// The metrics that count events with this code, by id; empty when there are none. One that is
    /// rolled is there as it was and, behind that, as it will be.
    #[must_use]
    pub fn metrics(&self, organization: OrganizationId, event_code: &str) -> &[Metric] {
        self.metrics
            .get(&organization)
            .and_then(|by_code| by_code.get(event_code))
            .map_or(&[], |metrics| metrics)
    }

    /// The code of the events that the metric of this generation counts. Looks at all codes of the
    /// organization. None: there is no such metric.
    #[must_use]
    pub fn event_code(
        &self,
        organization: OrganizationId,
        metric: BillableMetricId,
        generation: u64,
    ) -> Option<&str> {
        let by_code = self.metrics.get(&organization)?;
        by_code.iter().find_map(|(code, metrics)| {
            let is_it = |one: &Metric| one.id == metric && one.generation == generation;
            metrics.iter().any(is_it).then_some(code.as_ref())
        })
    }

    /// The subscriptions that have or had this external id, by start; they don't overlap.
    /// None: there never was one.
    #[must_use]
    pub fn subscription(&self, organization: OrganizationId, external_id: &str) -> Option<&[Span]> {
        self.subscriptions
            .get(&organization)
            .and_then(|by_id| by_id.get(external_id))
            .map(Arc::as_ref)
    }

    /// The subscription with this external id that holds at `at_us`, in microseconds since 1970.
    #[must_use]
    pub fn subscription_at(
        &self,
        organization: OrganizationId,
        external_id: &str,
        at_us: i64,
    ) -> Option<SubscriptionId> {
        let spans = self.subscription(organization, external_id)?;
        let started = spans.partition_point(|span| span.started_at.timestamp_micros() <= at_us);
        // They don't overlap: only the last one to start can still hold.
        let last = spans.get(started.checked_sub(1)?)?;
        let ended = last.ended_at.is_some_and(|end| end.timestamp_micros() <= at_us);
        (!ended).then_some(last.id)
    }

    fn insert_metric(&mut self, row: MetricRow) {
        let (organization, event_code) = (row.organization, row.event_code.clone());
        let by_code = self.metrics.entry(organization).or_default();
        let mut metrics =
            by_code.get(event_code.as_str()).map_or_else(Vec::new, |old| old.to_vec());
        metrics.push(row.into());
        metrics.sort_by_key(|metric| (metric.id, metric.generation));
        by_code.insert(event_code.into(), metrics.into());
    }

    fn remove_metric(&mut self, row: &MetricRow) {
        let Some(by_code) = self.metrics.get_mut(&row.organization) else { return };
        let Some(old) = by_code.get(row.event_code.as_str()) else { return };
        let same = |metric: &&Metric| metric.id == row.id && metric.generation == row.generation;
        let left: Arc<[Metric]> = old.iter().filter(|metric| !same(metric)).cloned().collect();
        if left.is_empty() {
            by_code.remove(row.event_code.as_str());
        } else {
            by_code.insert(row.event_code.as_str().into(), left);
        }
    }

    fn insert_span(&mut self, row: SubscriptionRow) {
        let SubscriptionRow { id, organization, external_id, started_at, ended_at } = row;
        let by_id = self.subscriptions.entry(organization).or_default();
        let mut spans = by_id.get(external_id.as_str()).map_or_else(Vec::new, |old| old.to_vec());
        spans.push(Span { id, started_at, ended_at });
        spans.sort_by_key(|span| span.started_at);
        by_id.insert(external_id.into(), spans.into());
    }

    fn remove_span(&mut self, row: &SubscriptionRow) {
        let Some(by_id) = self.subscriptions.get_mut(&row.organization) else { return };
        let Some(old) = by_id.get(row.external_id.as_str()) else { return };
        let left: Arc<[Span]> = old.iter().filter(|span| span.id != row.id).cloned().collect();
        if left.is_empty() {
            by_id.remove(row.external_id.as_str());
        } else {
            by_id.insert(row.external_id.as_str().into(), left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORGANIZATION: OrganizationId = OrganizationId::from_u128(1);

    fn at(us: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(us).unwrap()
    }

    fn span(id: u128, started: i64, ended: Option<i64>) -> SubscriptionRow {
        SubscriptionRow {
            id: SubscriptionId::from_u128(id),
            organization: ORGANIZATION,
            external_id: "acme".to_owned(),
            started_at: at(started),
            ended_at: ended.map(at),
        }
    }

    fn metric(id: u128, code: &str) -> MetricRow {
        MetricRow {
            id: BillableMetricId::from_u128(id),
            organization: ORGANIZATION,
            event_code: code.to_owned(),
            aggregation: Aggregation::Count,
            field: None,
            expression: None,
            dimensions: Vec::new(),
            generation: 0,
            rolling: false,
        }
    }

    #[test]
    fn spans_are_half_open() {
        let subscriptions =
            vec![span(2, 200, None), span(1, 100, Some(200)), span(3, 10, Some(50))];
        let snapshot = Snapshot::new(7, CatalogRows { subscriptions, ..CatalogRows::default() });
        let found = |us| snapshot.subscription_at(ORGANIZATION, "acme", us).map(|id| id.as_u128());
        let cases = [
            (9, None),
            (10, Some(3)),
            (49, Some(3)),
            (50, None),
            (99, None),
            (100, Some(1)),
            (199, Some(1)),
            (200, Some(2)),
            (i64::MAX, Some(2)),
        ];
        for (us, expected) in cases {
            assert_eq!(found(us), expected, "{us}");
        }
        assert_eq!(snapshot.subscription_at(OrganizationId::from_u128(2), "acme", 100), None);
        assert!(snapshot.subscription(ORGANIZATION, "other").is_none());
    }

    #[test]
    fn a_change_and_its_inverse_give_the_first_snapshot_again() {
        let first = CatalogRows {
            metrics: vec![metric(1, "calls"), metric(2, "calls")],
            subscriptions: vec![span(1, 100, None)],
            ..CatalogRows::default()
        };
        let snapshot = Snapshot::new(3, first);
        let closed = CatalogRows {
            metrics: vec![metric(1, "calls"), metric(2, "calls")],
            subscriptions: vec![span(1, 100, None)],
            ..CatalogRows::default()
        };
        let opened = CatalogRows {
            metrics: vec![metric(2, "tokens")],
            subscriptions: vec![span(1, 100, Some(300))],
            ..CatalogRows::default()
        };
        let changes = CatalogChanges { closed: closed.clone(), opened: opened.clone() };
        let next = snapshot.after(4, changes);
        assert!(next.metrics(ORGANIZATION, "calls").is_empty());
        assert_eq!(next.metrics(ORGANIZATION, "tokens").len(), 1);
        assert_eq!(next.subscription_at(ORGANIZATION, "acme", 300), None);
        assert_eq!(snapshot.metrics(ORGANIZATION, "calls").len(), 2, "the old one stays");

        let back = next.after(3, CatalogChanges { closed: opened, opened: closed });
        assert_eq!(back.metrics(ORGANIZATION, "calls"), snapshot.metrics(ORGANIZATION, "calls"));
        assert!(back.metrics(ORGANIZATION, "tokens").is_empty());
        assert!(back.subscription_at(ORGANIZATION, "acme", 300).is_some());
    }

    #[test]
    fn a_key_allows_its_scopes_or_everything() {
        let key = |scopes: &[&str]| ApiKey {
            id: ApiKeyId::from_u128(1),
            organization: ORGANIZATION,
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        };
        assert!(key(&["events.write"]).allows("events.write"));
        assert!(!key(&["events.write"]).allows("events.read"));
        assert!(!key(&["events"]).allows("events.write"));
        assert!(key(&["*"]).allows("events.write"));
    }
}
