//! By which names the events of cells call their subscriptions.

use crate::StoreError;
use sqlx::PgConnection;
use weir_ids::{OrganizationId, SubscriptionId};

/// The external ids of these subscriptions, each once, in order.
pub async fn external_ids(
    conn: &mut PgConnection,
    organization: OrganizationId,
    subscriptions: &[SubscriptionId],
) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT DISTINCT external_id AS "external_id!"
           FROM catalog_subscriptions
           WHERE organization_id = $1 AND id = ANY($2::uuid[])
           ORDER BY 1"#,
        organization as _,
        subscriptions as _,
    )
    .fetch_all(conn)
    .await?)
}
