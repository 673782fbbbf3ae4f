//! The private Postgres and traces, for real.
#![cfg(test)]

mod traces;

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};
use weir_runtime::postgres::{PostgresOptions, PrivatePostgres};

/// /var/tmp, because root's server runs as another user, who must be able to reach it.
fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(format!("/var/tmp/weir-test-{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn query(server: &PrivatePostgres, sql: &str) -> String {
    let output = Command::new("psql").args(["-At", "-c", sql]).arg(server.url()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_private_postgres_starts_keeps_its_data_and_stops() {
    let dir = scratch("postgres");
    let data = dir.join("postgres");
    let options = PostgresOptions { durable: true, max_connections: 10 };
    let server = PrivatePostgres::start(&data, options).unwrap();
    query(&server, "CREATE TABLE kept AS SELECT 42 AS n");
    server.stop();
    let server = PrivatePostgres::start(&data, options).unwrap();
    assert_eq!(query(&server, "SELECT n FROM kept"), "42");
    assert_eq!(query(&server, "SHOW listen_addresses"), "", "on a socket only");
    server.stop();
    fs::remove_dir_all(&dir).unwrap();
}
