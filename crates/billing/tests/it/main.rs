//! The pure engine from the outside: scenarios, and properties of whole invoices.
#![cfg(test)]

mod bills;
mod facts;
mod properties;
mod scenario;
mod scenarios;
