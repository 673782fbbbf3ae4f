//! Deleting usage that a finished roll has replaced.

use crate::{ClickHouse, UsageError, error::during, lists, rows};
use chrono::{DateTime, Utc};
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};

/// Rows that no reader looks at any more: those of a metric, a subscription or a cell whose
/// generation is below that of a finished roll of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superseded {
    pub scope: SupersededScope,
    /// The generation of the roll; its own rows stay, and those above.
    pub below: u64,
}

/// What a roll computed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SupersededScope {
    Metric(BillableMetricId),
    Subscription(SubscriptionId),
    /// A subscription's bucket, of all metrics.
    Cell(SubscriptionId, DateTime<Utc>),
}

/// The most scopes of one statement.
const SCOPES_MAX: usize = 500;

impl ClickHouse {
    /// Deletes superseded rows. A read that began before the roll's switch may still look at them, so
    /// wait for a while after it. May be repeated.
    ///
    /// Errors: `OutOfRange` for a bucket outside 1970 to 2106; `Unavailable`, `Refused`: some may be
    /// deleted.
    pub async fn delete_superseded(
        &self,
        organization: OrganizationId,
        superseded: &[Superseded],
    ) -> Result<(), UsageError> {
        for scopes in superseded.chunks(SCOPES_MAX) {
            let conditions: Result<Vec<_>, _> = scopes.iter().map(condition).collect();
            let any = conditions?.join("\nOR ");
            self.delete(organization, &any, "delete superseded usage").await?;
        }
        Ok(())
    }

    /// Deletes all rows of the generation of a roll that was abandoned. May be repeated.
    ///
    /// Errors: `Unavailable`, `Refused`: some may be deleted.
    pub async fn delete_generation(
        &self,
        organization: OrganizationId,
        generation: u64,
    ) -> Result<(), UsageError> {
        let condition = format!("generation = {generation}");
        self.delete(organization, &condition, "delete an abandoned roll").await
    }

    async fn delete(
        &self,
        organization: OrganizationId,
        condition: &str,
        operation: &'static str,
    ) -> Result<(), UsageError> {
        let organization = lists::uuid(organization.as_u128());
        for table in ["usage", "usage_values"] {
            let sql = format!(
                "DELETE FROM {table} WHERE organization_id = {organization} AND ({condition})"
            );
            // A replica that is away deletes when it is back.
            let delete =
                self.writer().query_raw(&sql).with_setting("lightweight_deletes_sync", "1");
            delete.execute().await.map_err(during(operation))?;
        }
        Ok(())
    }
}

fn condition(superseded: &Superseded) -> Result<String, UsageError> {
    let scope = match superseded.scope {
        SupersededScope::Metric(metric) => {
            format!("metric_id = {}", lists::uuid(metric.as_u128()))
        }
        SupersededScope::Subscription(subscription) => {
            format!("subscription_id = {}", lists::uuid(subscription.as_u128()))
        }
        SupersededScope::Cell(subscription, bucket) => format!(
            "subscription_id = {} AND bucket = toDateTime({}, 'UTC')",
            lists::uuid(subscription.as_u128()),
            rows::seconds("bucket", bucket)?
        ),
    };
    Ok(format!("({scope} AND generation < {})", superseded.below))
}
