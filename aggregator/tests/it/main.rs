//! The aggregator from outside.
#![cfg(test)]

mod balance;
mod balancing;
mod index;
mod model;
mod parts;
mod pipeline;
mod protocol;
mod roll_model;
mod rolls;
mod rollup;
mod simulation;
