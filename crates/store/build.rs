//! Tells cargo that a new migration makes the embedded list stale.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations/postgres");
}
