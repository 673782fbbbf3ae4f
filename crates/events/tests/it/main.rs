//! The crate as its callers see it.
#![cfg(test)]

mod content;
mod expression;
mod record;
mod wire;
