//! The command line.

use crate::{demo::DemoArgs, floor::FloorCommand, operator, service::ServiceCommand, up::UpArgs};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Meters usage and bills it: every accepted event is counted exactly once.
#[derive(Parser)]
#[command(name = "weir", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run everything in one process, with its own log, ClickHouse engine and Postgres.
    Up(UpArgs),
    /// Bill a real trace through a crash, and check every invoice.
    Demo(DemoArgs),
    /// Run the ingest role: take events over HTTP into the log.
    Ingest(weir_ingest::RoleOptions),
    /// Run the aggregator role: stream the log into ClickHouse.
    Aggregator(weir_aggregator::RoleOptions),
    /// Run the invoicer role: bill what is due.
    Invoicer(weir_invoicer::RoleOptions),
    /// Run the api role: REST and gRPC.
    Api(weir_api::RoleOptions),
    /// Bring the Postgres and ClickHouse schemas up to date.
    Migrate(operator::MigrateArgs),
    /// Read and check the configuration of every role, and do nothing else.
    CheckConfig,
    /// Make and list organizations.
    #[command(subcommand)]
    Organizations(operator::OrganizationsCommand),
    /// Make, list and revoke API keys.
    #[command(subcommand)]
    Keys(operator::KeysCommand),
    /// Bill what is due now, or as of a time.
    Invoice(operator::InvoiceArgs),
    /// Compute an invoice's usage lines again from the events themselves, and compare.
    Audit(operator::AuditArgs),
    /// List what could not be billed, and why.
    Failures(operator::FailuresArgs),
    /// Show or move the test clock of a deployment that was started with one.
    #[command(subcommand)]
    Clock(operator::ClockCommand),
    /// Look into the event log.
    #[command(subcommand)]
    Log(operator::LogCommand),
    /// The ClickHouse engine's process.
    #[command(name = "__engine", hide = true)]
    Engine { dir: PathBuf },
    /// Run one of the services that roles apart need, for tests.
    #[command(name = "__service", hide = true, subcommand)]
    Service(ServiceCommand),
    /// Run one part of the pipeline alone, for the benchmarks.
    #[command(name = "__floor", hide = true, subcommand)]
    Floor(FloorCommand),
    /// Run a command with a throw-away Postgres in DATABASE_URL.
    #[command(name = "__with-postgres", hide = true)]
    WithPostgres {
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
}
