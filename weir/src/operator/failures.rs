//! `weir failures`

use super::{Target, output::print};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use weir_store::billing_failures::{self, FailureRecord, Subject};

/// List what could not be billed, of all organizations, longest first.
#[derive(Debug, clap::Args)]
pub struct FailuresArgs {
    #[command(flatten)]
    target: Target,
}

impl FailuresArgs {
    /// Runs it.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut conn = self.target.pool().await?.acquire().await?;
        let failures = billing_failures::list(&mut conn).await?;
        if failures.is_empty() {
            return print("everything that is due is billed");
        }
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header([
            "organization",
            "what",
            "due",
            "reason",
            "message",
            "attempts",
            "since",
            "again at",
        ]);
        for failure in &failures {
            table.add_row(row(failure));
        }
        print(table)
    }
}

fn row(record: &FailureRecord) -> [String; 8] {
    let failure = &record.failure;
    let subject = match failure.subject {
        Subject::Subscription(id) => id.to_string(),
        Subject::Draft(id) => id.to_string(),
    };
    [
        failure.organization.to_string(),
        subject,
        failure.due_at.to_rfc3339(),
        failure.reason.clone(),
        failure.message.clone(),
        record.attempts.to_string(),
        record.first_at.to_rfc3339(),
        record.retry_at.to_rfc3339(),
    ]
}
