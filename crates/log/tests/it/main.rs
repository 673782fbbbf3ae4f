//! The log against real disks and a real broker.
#![cfg(test)]

mod contract;
mod crash;
mod embedded;
mod full_disk;
mod kafka;
mod kafka_broker;
