//! The catalog in one version. Never changed: the next version is another snapshot that shares all
//! that is the same.

use chrono::{DateTime, Utc};
use imbl::HashMap;
use std::sync::Arc;
use weir_ids::{ApiKeyId, BillableMetricId, OrganizationId, SubscriptionId};
use weir_store::catalog::{
    Aggregation, CatalogChanges, CatalogRows, KeyRow, MetricRow, SubscriptionRow,
};

/// The catalog in one version.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The catalog's version, 0 for the empty one.
    pub version: u64,
    keys: HashMap<[u8; 32], Arc<ApiKey>>,
    metrics: HashMap<OrganizationId, HashMap<Arc<str>, Arc<[Metric]>>>,
    subscriptions: HashMap<OrganizationId, HashMap<Arc<str>, Arc<[Span]>>>,
}

/// A key that is not revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub id: ApiKeyId,
    pub organization: OrganizationId,
    pub scopes: Vec<String>,
}

/// A metric that is not archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    pub id: BillableMetricId,
    pub aggregation: Aggregation,
    /// The property it reads; none for `Count`.
    pub field: Option<String>,
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
        for KeyRow { id, organization, hash, scopes } in opened.keys {
            next.keys.insert(hash, Arc::new(ApiKey { id, organization, scopes }));
        }
        for row in opened.metrics {
            next.insert_metric(row);
        }
        for row in opened.subscriptions {
            next.insert_span(row);
        }
        next
    }

    /// The key whose secret has this SHA-256.
    #[must_use]
    pub fn key(&self, hash: &[u8; 32]) -> Option<&ApiKey> {
        self.keys.get(hash).map(Arc::as_ref)
    }

    /// The metrics that count events with this code, by id; empty when there are none.
    #[must_use]
    pub fn metrics(&self, organization: OrganizationId, event_code: &str) -> &[Metric] {
        self.metrics
            .get(&organization)
            .and_then(|by_code| by_code.get(event_code))
            .map_or(&[], |metrics| metrics)
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
        let MetricRow { id, organization, event_code, aggregation, field } = row;
        let by_code = self.metrics.entry(organization).or_default();
        let mut metrics =
            by_code.get(event_code.as_str()).map_or_else(Vec::new, |old| old.to_vec());
        metrics.push(Metric { id, aggregation, field });
        metrics.sort_by_key(|metric| metric.id);
        by_code.insert(event_code.into(), metrics.into());
    }

    fn remove_metric(&mut self, row: &MetricRow) {
        let Some(by_code) = self.metrics.get_mut(&row.organization) else { return };
        let Some(old) = by_code.get(row.event_code.as_str()) else { return };
        let left: Arc<[Metric]> =
            old.iter().filter(|metric| metric.id != row.id).cloned().collect();
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
