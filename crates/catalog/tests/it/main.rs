//! The catalog on a real Postgres, a database per test.

mod follow;
