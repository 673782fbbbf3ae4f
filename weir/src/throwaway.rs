//! `weir __with-postgres -- COMMAND`: runs the tests, with a Postgres that is gone afterwards.

use anyhow::Context;
use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, ExitCode, ExitStatus},
};
use weir_runtime::postgres::{PostgresOptions, PrivatePostgres};

/// The command's exit code, or 1 when it could not be run.
pub fn with_postgres(command: &[OsString]) -> ExitCode {
    match run(command) {
        Ok(status) => ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)),
        Err(error) => {
            eprintln!("weir: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &[OsString]) -> anyhow::Result<ExitStatus> {
    let (program, args) = command.split_first().context("which command?")?;
    // /var/tmp and not a home directory: root's Postgres runs as another user.
    let dir = tempfile::Builder::new().prefix("weir-test-").tempdir_in("/var/tmp")?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
    let options = PostgresOptions { durable: false, max_connections: 300 };
    let postgres = PrivatePostgres::start(&dir.path().join("postgres"), options)?;
    let status = Command::new(program).args(args).env("DATABASE_URL", postgres.url()).status();
    postgres.stop();
    Ok(status?)
}
