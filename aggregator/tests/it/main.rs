//! The aggregator from outside.
#![cfg(test)]

mod index;
mod parts;
mod pipeline;
mod protocol;
mod rollup;
mod simulation;
