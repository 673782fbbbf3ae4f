//! The catalog on a real Postgres, a database per test.
#![cfg(test)]

mod follow;
