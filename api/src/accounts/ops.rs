//! What each write of the organization does.

use crate::{context::Context, error::OpError};
use weir_store::{
    StoreError, Tx,
    organizations::{self as store, Organization, OrganizationSettings},
};

/// What errors call the entity.
const KIND: &str = "organization";

/// An organization with what it has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub organization: Organization,
    pub settings: OrganizationSettings,
}

/// The caller's organization. Errors: `NotFound`.
pub async fn load(ctx: &Context, tx: &mut Tx) -> Result<Account, OpError> {
    let organization = store::find(tx, ctx.organization).await?;
    let organization = organization.ok_or_else(|| OpError::not_found(KIND, ctx.organization))?;
    let settings = store::settings(tx, ctx.organization).await?;
    Ok(Account { organization, settings })
}

/// Changes the organization. Errors: `Duplicate` name. Of two changes at once the later one wins.
pub async fn update(
    ctx: &Context,
    change: impl FnOnce(&Account) -> Result<Account, OpError>,
) -> Result<Account, OpError> {
    let mut tx = ctx.begin().await?;
    let account = load(ctx, &mut tx).await?;
    let changed = change(&account)?;
    if changed.organization.name != account.organization.name {
        let name = &changed.organization.name;
        let renamed = store::rename(&mut tx, ctx.organization, name).await;
        renamed.map_err(|error| taken(error, name))?;
    }
    if changed.settings != account.settings {
        store::set_settings(&mut tx, ctx.organization, &changed.settings).await?;
    }
    tx.commit().await?;
    Ok(changed)
}

fn taken(error: StoreError, name: &str) -> OpError {
    if error.is_duplicate_of("organizations_name_key") {
        return OpError::Duplicate { field: "name", value: name.to_owned() };
    }
    error.into()
}
