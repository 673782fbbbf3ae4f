//! Usage against a real engine: one for the whole binary, one database for each test.
//!
//! Tests that stop or kill an engine start their own.
#![cfg(test)]

mod chunks;
mod engine;
mod events;
mod support;
mod totals;
