//! `weir keys`

use super::{Target, output::print};
use anyhow::{Context, bail};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use std::collections::BTreeSet;
use weir_ids::{ApiKeyId, OrganizationId};
use weir_runtime::Clock;
use weir_store::{
    PgConnection,
    api_keys::{self, ApiKey, Secret},
    organizations::{self, Organization},
};

/// Make, list and revoke API keys.
#[derive(Debug, clap::Subcommand)]
pub enum KeysCommand {
    /// Make a key. Only the key is printed, and only this once.
    Create {
        /// What the key is for.
        #[arg(long)]
        name: String,
        /// Name or id of the organization; needed when there are several.
        #[arg(long)]
        organization: Option<String>,
        /// What the key may do, such as `events.write,plans.read`.
        #[arg(long, value_delimiter = ',', default_value = "*")]
        scopes: Vec<String>,
        #[command(flatten)]
        target: Target,
    },
    /// List keys, without the keys themselves.
    List {
        /// Name or id of the organization; needed when there are several.
        #[arg(long)]
        organization: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Make a key useless, everywhere within a second.
    Revoke {
        /// The key's id, as `list` shows it.
        id: ApiKeyId,
        /// Name or id of the organization; needed when there are several.
        #[arg(long)]
        organization: Option<String>,
        #[command(flatten)]
        target: Target,
    },
}

impl KeysCommand {
    /// Runs it.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create { name, organization, scopes, target } => {
                let mut conn = target.pool().await?.acquire().await?;
                let organization = resolve(&mut conn, organization.as_deref()).await?;
                let secret = create(&mut conn, organization.id, &name, scopes).await?;
                print(secret.expose())
            }
            Self::List { organization, target } => {
                let mut conn = target.pool().await?.acquire().await?;
                let organization = resolve(&mut conn, organization.as_deref()).await?;
                print_list(&api_keys::list(&mut conn, organization.id).await?)
            }
            Self::Revoke { id, organization, target } => {
                let mut conn = target.pool().await?.acquire().await?;
                let organization = resolve(&mut conn, organization.as_deref()).await?;
                let now = weir_store::clock::database_now(&mut conn).await?;
                api_keys::revoke(&mut conn, organization.id, id, now).await?;
                Ok(())
            }
        }
    }
}

/// Makes a key and answers its secret. Errors: a scope that no call asks for.
pub async fn create(
    conn: &mut PgConnection,
    organization: OrganizationId,
    name: &str,
    scopes: Vec<String>,
) -> anyhow::Result<Secret> {
    check_scopes(&scopes)?;
    let secret = Secret::generate();
    let key = ApiKey {
        id: Clock::real().new_id(),
        organization,
        name: name.to_owned(),
        scopes,
        created_at: weir_store::clock::database_now(conn).await?,
        revoked_at: None,
    };
    api_keys::insert(conn, &key, &secret.hash()).await.context("can't make the key")?;
    Ok(secret)
}

/// A key with a mistyped scope would be refused everywhere, and nobody would see why.
fn check_scopes(scopes: &[String]) -> anyhow::Result<()> {
    let calls = weir_api::descriptors::rpcs().iter();
    let known: BTreeSet<&str> = calls.filter_map(|rpc| rpc.permission.as_deref()).collect();
    let unknown = |scope: &&String| *scope != "*" && !known.contains(scope.as_str());
    if let Some(scope) = scopes.iter().find(unknown) {
        let known: Vec<&str> = known.into_iter().collect();
        bail!("no call asks for the scope {scope:?}: known are *, {}", known.join(", "));
    }
    Ok(())
}

/// The organization of that name or id; the only one there is, when none is named.
pub(super) async fn resolve(
    conn: &mut PgConnection,
    wanted: Option<&str>,
) -> anyhow::Result<Organization> {
    match wanted {
        Some(wanted) => {
            let found = match OrganizationId::parse(wanted) {
                Ok(id) => organizations::find(conn, id).await?,
                Err(_) => organizations::find_by_name(conn, wanted).await?,
            };
            found.with_context(|| {
                format!("no organization {wanted:?}: see `weir organizations list`")
            })
        }
        None => {
            let mut all = organizations::list(conn).await?;
            match (all.pop(), all.is_empty()) {
                (Some(only), true) => Ok(only),
                (Some(_), false) => {
                    bail!("there are several organizations: name one with --organization")
                }
                (None, _) => {
                    bail!("there is no organization yet: `weir organizations create NAME`")
                }
            }
        }
    }
}

fn print_list(keys: &[ApiKey]) -> anyhow::Result<()> {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_header(["id", "name", "scopes", "created", "revoked"]);
    for key in keys {
        table.add_row([
            key.id.to_string(),
            key.name.clone(),
            key.scopes.join(","),
            key.created_at.to_rfc3339(),
            key.revoked_at.map_or_else(String::new, |at| at.to_rfc3339()),
        ]);
    }
    print(table)
}
