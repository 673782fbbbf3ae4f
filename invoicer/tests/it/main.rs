//! The invoicer on a real Postgres and a real ClickHouse engine.
#![cfg(test)]

mod advancing;
mod billing;
mod drafts;
mod failures;
mod late;
// The files and their reader are those of the pure suite: both must come to the same invoices.
#[path = "../../../crates/billing/tests/it/scenario.rs"]
mod scenario;
mod scenarios;
mod world;
