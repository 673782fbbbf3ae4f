//! The catalog: on a real Postgres, a database per test, and on rows of any kind.
#![cfg(test)]

mod follow;
mod generations;
mod there_and_back;
