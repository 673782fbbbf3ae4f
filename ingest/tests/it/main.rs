//! The edge over HTTP, in process: real catalog, real embedded log, faults by hand.
#![cfg(test)]

mod bodies;
mod deployment;
mod faults;
mod interleavings;
mod keys;
mod lenient;
mod measures;
mod metrics;
mod overload;
mod rates;
mod repeats;
mod restarts;
mod verdicts;
