//! `weir organizations`

use super::{Target, keys::resolve, output::print};
use anyhow::{Context, ensure};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use weir_runtime::Clock;
use weir_store::organizations::{self, LateEvents, Organization, OrganizationSettings};
use weir_store::rolls::{self, RollProgress, RollState, RollSubject};

/// Make organizations, list them, and decide what becomes of their events.
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
    /// Show an organization and its settings.
    Show {
        /// Name or id of the organization.
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Change settings of an organization, and show them. What is not named stays.
    Set {
        /// Name or id of the organization.
        name: String,
        #[command(flatten)]
        changes: Changes,
        #[command(flatten)]
        target: Target,
    },
    /// Show how far usage is computed again, after a change of what counts.
    Rolls {
        /// Name or id of the organization.
        name: String,
        #[command(flatten)]
        target: Target,
    },
}

/// The settings to change.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub struct Changes {
    /// Whether events without a known metric or subscription are stored, and count once there is
    /// one.
    #[arg(long, value_name = "true|false")]
    lenient: Option<bool>,
    /// What becomes of usage that arrives for a period whose invoice is final: a line on the next
    /// invoice, or nothing.
    #[arg(long, value_name = "true-up|ignore", value_parser = late_events)]
    late_events: Option<LateEvents>,
    /// How many events are taken each second, or `none`.
    #[arg(long, value_name = "N|none", value_parser = events_per_second)]
    events_per_second: Option<Bound>,
}

/// A bound, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound(Option<u32>);

impl Changes {
    fn apply(&self, settings: OrganizationSettings) -> OrganizationSettings {
        OrganizationSettings {
            lenient: self.lenient.unwrap_or(settings.lenient),
            late_events: self.late_events.unwrap_or(settings.late_events),
            events_per_second_max: self
                .events_per_second
                .map_or(settings.events_per_second_max, |bound| bound.0),
        }
    }
}

fn late_events(text: &str) -> Result<LateEvents, String> {
    match text {
        "true-up" => Ok(LateEvents::TrueUp),
        "ignore" => Ok(LateEvents::Ignore),
        _ => Err("must be true-up or ignore".to_owned()),
    }
}

fn events_per_second(text: &str) -> Result<Bound, String> {
    if text == "none" {
        return Ok(Bound(None));
    }
    // What a column of Postgres holds.
    match text.parse::<i32>().ok().and_then(|number| u32::try_from(number).ok()) {
        Some(number) if number > 0 => Ok(Bound(Some(number))),
        _ => Err(format!("must be a number from 1 to {}, or none", i32::MAX)),
    }
}

impl OrganizationsCommand {
    /// Runs it.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create { name, target } => create(&name, &target).await,
            Self::List { target } => list(&target).await,
            Self::Show { name, target } => show(&name, &target).await,
            Self::Set { name, changes, target } => set(&name, &changes, &target).await,
            Self::Rolls { name, target } => show_rolls(&name, &target).await,
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
    print(organization.id)
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
    print(table)
}

async fn show(name: &str, target: &Target) -> anyhow::Result<()> {
    let mut conn = target.pool().await?.acquire().await?;
    let organization = resolve(&mut conn, Some(name)).await?;
    let settings = organizations::settings(&mut conn, organization.id).await?;
    print(shown(&organization, &settings))
}

async fn set(name: &str, changes: &Changes, target: &Target) -> anyhow::Result<()> {
    let mut conn = target.pool().await?.acquire().await?;
    let organization = resolve(&mut conn, Some(name)).await?;
    let settings = changes.apply(organizations::settings(&mut conn, organization.id).await?);
    organizations::set_settings(&mut conn, organization.id, &settings).await?;
    print(shown(&organization, &settings))
}

fn shown(organization: &Organization, settings: &OrganizationSettings) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    let late_events = match settings.late_events {
        LateEvents::TrueUp => "true-up",
        LateEvents::Ignore => "ignore",
    };
    let events_per_second =
        settings.events_per_second_max.map_or_else(|| "none".to_owned(), |max| max.to_string());
    for (name, value) in [
        ("id", organization.id.to_string()),
        ("name", organization.name.clone()),
        ("created", organization.created_at.to_rfc3339()),
        ("lenient", settings.lenient.to_string()),
        ("late-events", late_events.to_owned()),
        ("events-per-second", events_per_second),
    ] {
        table.add_row([name.to_owned(), value]);
    }
    table
}

async fn show_rolls(name: &str, target: &Target) -> anyhow::Result<()> {
    let mut conn = target.pool().await?.acquire().await?;
    let organization = resolve(&mut conn, Some(name)).await?;
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "generation",
        "of",
        "state",
        "done",
        "partitions",
        "requested",
        "ended",
    ]);
    for roll in rolls::progress(&mut conn, organization.id).await? {
        table.add_row(roll_row(&roll));
    }
    print(table)
}

fn roll_row(roll: &RollProgress) -> [String; 7] {
    let subject = match roll.subject {
        RollSubject::Metric(metric) => metric.to_string(),
        RollSubject::Subscriptions(count) => format!("subscriptions: {count}"),
        RollSubject::Cells(count) => format!("voids: {count} quarters of an hour"),
    };
    let state = match roll.state {
        RollState::Waiting => "waiting",
        RollState::Rolling => "rolling",
        RollState::Done => "done",
        RollState::Abandoned => "abandoned",
    };
    [
        roll.generation.to_string(),
        subject,
        state.to_owned(),
        format!("{} %", roll.percent()),
        format!("{} of {}", roll.partitions_done, roll.partitions),
        roll.requested_at.to_rfc3339(),
        roll.ended_at.map_or_else(String::new, |at| at.to_rfc3339()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let settings = OrganizationSettings {
            lenient: true,
            late_events: LateEvents::Ignore,
            events_per_second_max: Some(5),
        };
        let none = Changes { lenient: None, late_events: None, events_per_second: None };
        assert_eq!(none.apply(settings), settings);
        let all = Changes {
            lenient: Some(false),
            late_events: Some(LateEvents::TrueUp),
            events_per_second: Some(Bound(None)),
        };
        assert_eq!(all.apply(settings), OrganizationSettings::default());
    }

    #[test]
    fn values_that_mean_nothing_are_refused() {
        assert_eq!(events_per_second("none"), Ok(Bound(None)));
        assert_eq!(events_per_second("1"), Ok(Bound(Some(1))));
        for text in ["0", "-1", "2147483648", "", "many"] {
            assert!(events_per_second(text).is_err(), "{text}");
        }
        assert_eq!(late_events("true-up"), Ok(LateEvents::TrueUp));
        assert!(late_events("true_up").is_err());
    }
}
