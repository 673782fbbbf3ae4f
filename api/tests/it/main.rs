//! The API as its callers see it, against a real Postgres.
#![cfg(test)]

mod world;

mod accounts;
mod backfill;
mod billable_metrics;
mod customers;
mod documents;
mod engine;
mod errors;
mod events;
mod grpc;
mod invoices;
mod plans;
mod rest;
mod rpcs;
mod subscriptions;
mod usage;
mod usage_rolls;
mod voids;
