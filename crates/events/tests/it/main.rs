//! The crate as its callers see it.
#![cfg(test)]

mod content;
mod record;
mod wire;
