//! The store on a real Postgres, a database per test.
#![cfg(test)]

mod billing;
mod catalog;
mod clock;
mod customers;
mod fixtures;
mod idempotency;
mod invoices;
mod lists;
mod metrics;
mod organizations;
mod pipeline;
mod plans;
mod roll_locks;
mod rolls;
mod schema;
mod subscriptions;
mod tenancy;
mod voids;
