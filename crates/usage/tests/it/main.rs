//! Usage against a real engine: one for the whole binary, one database for each test.
//!
//! Tests that stop or kill an engine start their own.
#![cfg(test)]

mod chunks;
mod cluster;
mod engine;
mod events;
mod generations;
mod late;
mod measures;
mod plan;
mod raw;
mod retention;
mod superseded;
mod support;
mod totals;
mod unions;
mod unmatched;
mod upgrade;
mod weighted;
