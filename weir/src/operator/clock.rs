//! `weir clock`

use super::{
    Target,
    invoice::{invoicer, print_report},
    output::print,
};
use anyhow::Context;
use chrono::{DateTime, SecondsFormat, Utc};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// Show or move the test clock.
#[derive(Debug, clap::Subcommand)]
pub enum ClockCommand {
    /// Print the deployment's time, and whether it is a test clock's.
    Show {
        #[command(flatten)]
        target: Target,
    },
    /// Move the test clock, do all that falls due on the way in order of time, and return then.
    Advance {
        /// The new present, such as 2026-12-01T00:00:00Z; may be the present one.
        #[arg(long)]
        to: DateTime<Utc>,
        #[command(flatten)]
        target: Target,
    },
}

impl ClockCommand {
    /// Runs it.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Show { target } => show(&target).await,
            Self::Advance { to, target } => advance(to, &target).await,
        }
    }
}

async fn show(target: &Target) -> anyhow::Result<()> {
    let mut conn = target.pool().await?.acquire().await?;
    match weir_store::clock::test_clock(&mut conn).await? {
        Some(clock) => print(format!("{} (test clock)", text(clock.now))),
        None => {
            let now = weir_store::clock::database_now(&mut conn).await?;
            print(format!("{} (real clock)", text(now)))
        }
    }
}

async fn advance(to: DateTime<Utc>, target: &Target) -> anyhow::Result<()> {
    let deps = invoicer(target).await?;
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {msg} ({elapsed})")?);
    bar.enable_steady_tick(Duration::from_millis(100));
    let report = weir_invoicer::advance_clock(&deps, to, &mut |step| {
        bar.set_message(format!("{}: {} invoices", text(step.at), step.report.created));
    })
    .await
    .with_context(|| format!("can't advance the clock to {}", text(to)))?;
    bar.finish_and_clear();
    print_report(&report)
}

fn text(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
