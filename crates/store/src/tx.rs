//! A transaction for one organization.

use crate::StoreError;
use sqlx::{PgConnection, PgPool, Postgres};
use std::ops::{Deref, DerefMut};
use weir_ids::OrganizationId;

/// A transaction that sees and writes only one organization's rows, whatever a statement forgets:
/// it runs as the role `weir_tenant`. Dropped without [`Tx::commit`], it leaves nothing.
#[derive(Debug)]
pub struct Tx {
    inner: sqlx::Transaction<'static, Postgres>,
}

impl Tx {
    /// Starts a transaction for `organization`. Errors: `Unavailable`.
    pub async fn begin(pool: &PgPool, organization: OrganizationId) -> Result<Self, StoreError> {
        let mut inner = pool.begin().await?;
        let bits = sqlx::types::Uuid::from_u128(organization.as_u128()).to_string();
        sqlx::query!(
            "SELECT set_config('weir.organization', $1, true) AS organization, \
             set_config('role', 'weir_tenant', true) AS role",
            bits
        )
        .fetch_one(&mut *inner)
        .await?;
        Ok(Self { inner })
    }

    /// Makes everything written visible and durable. Errors: `Unavailable` (the outcome is then
    /// unknown), `Duplicate` and `Violation` of deferred constraints.
    pub async fn commit(self) -> Result<(), StoreError> {
        self.inner.commit().await?;
        Ok(())
    }

    /// Gives everything up at once, instead of when the connection is used next.
    pub async fn rollback(self) -> Result<(), StoreError> {
        self.inner.rollback().await?;
        Ok(())
    }
}

impl Deref for Tx {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.inner
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.inner
    }
}
