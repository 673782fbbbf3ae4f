//! `weir organizations`

use super::Target;
use anyhow::{Context, ensure};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use weir_runtime::Clock;
use weir_store::organizations::{self, Organization};

/// Make and list organizations.
#[derive(Debug, clap::Subcommand)]
pub enum OrganizationsCommand {
    /// Make an organization and print its id.
    Create {
        /// Unique in the deployment.
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// List all organizations.
    List {
        #[command(flatten)]
        target: Target,
    },
}

impl OrganizationsCommand {
    /// Runs it.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create { name, target } => create(&name, &target).await,
            Self::List { target } => list(&target).await,
        }
    }
}

async fn create(name: &str, target: &Target) -> anyhow::Result<()> {
    ensure!(!name.trim().is_empty(), "an organization needs a name");
    let pool = target.pool().await?;
    let mut conn = pool.acquire().await?;
    let clock = Clock::real();
    let organization = Organization::new(clock.new_id(), name, clock.now());
    organizations::insert(&mut conn, &organization)
        .await
        .with_context(|| format!("can't make the organization {name:?}"))?;
    println!("{}", organization.id);
    Ok(())
}

async fn list(target: &Target) -> anyhow::Result<()> {
    let pool = target.pool().await?;
    let mut conn = pool.acquire().await?;
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["id", "name", "created"]);
    for organization in organizations::list(&mut conn).await? {
        let created = organization.created_at.to_rfc3339();
        table.add_row([organization.id.to_string(), organization.name, created]);
    }
    println!("{table}");
    Ok(())
}
