//! The catalog of one organization in all its versions, as the edges and the aggregators load it.

use super::{ORGANIZATION, START_US, dice::Dice};
use chrono::DateTime;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use weir_catalog::{Aggregation, Snapshot};
use weir_ids::{ApiKeyId, BillableMetricId, SubscriptionId};
use weir_store::catalog::{
    CatalogChanges, CatalogRows, KeyRow, MetricRow, OrganizationRow, SubscriptionRow,
};

/// The key of every sender.
pub const KEY: &str = "weir_simulated";
pub const CODES: [&str; 3] = ["a", "b", "c"];

/// The versions, each its own number, and the rows of the newest that may change.
pub struct Catalogs {
    versions: Vec<Arc<Snapshot>>,
    metrics: Vec<MetricRow>,
    subscriptions: Vec<SubscriptionRow>,
    /// The versions from which chunks write a roll's generation too.
    rolls: Vec<u64>,
}

impl Catalogs {
    pub fn new() -> Self {
        let metrics = [
            ("a", Aggregation::Count),
            ("a", Aggregation::Sum),
            ("a", Aggregation::UniqueCount),
            ("b", Aggregation::Max),
            ("b", Aggregation::Latest),
        ];
        let metrics: Vec<MetricRow> =
            (1..).zip(metrics).map(|(number, (code, how))| metric(code, number, how)).collect();
        let subscriptions: Vec<SubscriptionRow> = (0..3)
            .map(|number| SubscriptionRow {
                id: SubscriptionId::from_u128(500 + number),
                organization: ORGANIZATION,
                external_id: format!("s{number}"),
                started_at: DateTime::UNIX_EPOCH,
                ended_at: None,
            })
            .collect();
        let key = KeyRow {
            id: ApiKeyId::from_u128(1),
            organization: ORGANIZATION,
            hash: Sha256::digest(KEY.as_bytes()).into(),
            scopes: vec!["events.write".to_owned()],
        };
        // Lenient: what no metric counts and no subscription holds is stored too.
        let organization =
            OrganizationRow { id: ORGANIZATION, lenient: true, events_per_second_max: None };
        let rows = CatalogRows {
            keys: vec![key],
            metrics: metrics.clone(),
            subscriptions: subscriptions.clone(),
            organizations: vec![organization],
            overrides: Vec::new(),
        };
        let versions = vec![Arc::new(Snapshot::new(0, rows))];
        Self { versions, metrics, subscriptions, rolls: Vec::new() }
    }

    pub fn newest(&self) -> u64 {
        self.versions.len() as u64 - 1
    }

    pub fn at(&self, version: u64) -> &Arc<Snapshot> {
        &self.versions[version as usize]
    }

    pub fn rolls(&self) -> &[u64] {
        &self.rolls
    }

    /// A new metric, the end of a subscription, or a roll of a metric.
    pub fn change(&mut self, dice: &mut Dice) {
        let version = self.newest() + 1;
        let mut changes = CatalogChanges::default();
        match dice.roll(10) {
            0..3 => {
                let row = metric(CODES[dice.pick(3)], 100 + u128::from(version), Aggregation::Sum);
                self.metrics.push(row.clone());
                changes.opened.metrics.push(row);
            }
            3..5 => {
                let row = &mut self.subscriptions[dice.pick(3)];
                changes.closed.subscriptions.push(row.clone());
                let ends_at_us = START_US + dice.roll(3_600_000_000) as i64;
                row.ended_at = DateTime::from_timestamp_micros(ends_at_us);
                changes.opened.subscriptions.push(row.clone());
            }
            _ if self.metrics.is_empty() => {}
            _ => {
                let row = self.metrics.swap_remove(dice.pick(self.metrics.len()));
                let rolled = MetricRow { generation: version, rolling: true, ..row };
                changes.opened.metrics.push(rolled);
                self.rolls.push(version);
            }
        }
        self.versions.push(Arc::new(self.at(version - 1).after(version, changes)));
    }
}

fn metric(event_code: &str, number: u128, aggregation: Aggregation) -> MetricRow {
    MetricRow {
        id: BillableMetricId::from_u128(number),
        organization: ORGANIZATION,
        event_code: event_code.to_owned(),
        aggregation,
        field: (aggregation != Aggregation::Count).then(|| "v".to_owned()),
        expression: None,
        dimensions: Vec::new(),
        generation: 0,
        rolling: false,
    }
}
