//! The aggregator from outside.

mod index;
mod parts;
mod pipeline;
mod protocol;
mod rollup;
mod simulation;
