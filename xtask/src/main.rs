//! The project's own tasks: `cargo xtask --help`. The Makefile gives them short names.

mod tidy;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

#[derive(Debug, Parser)]
#[command(name = "xtask", about = "The project's own tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what is missing: Debian packages, the ClickHouse engine, Kafka's jars.
    Setup {
        /// Also what the Kafka demo and the tests need.
        #[arg(long)]
        kafka: bool,
    },
    /// Bill a real trace through a crash; arguments go to `weir demo`.
    Demo {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run `weir up`; arguments go to it.
    Up {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Everything that must hold: format, tidy, clippy, all tests.
    Test {
        /// Only tests whose name contains this.
        filter: Option<String>,
    },
    /// Play the write path, from a request to the rollups, under faults from many seeds, and compare
    /// each with a plain sum.
    Simulate {
        /// How many seeds.
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// The first of them; a failing seed is printed, and `--first N --seeds 1` plays it again.
        #[arg(long, default_value_t = 0)]
        first: u64,
    },
    /// Format all code.
    Fmt,
    /// Format check, tidy and clippy.
    Lint,
    /// The rules that clippy doesn't know: crate arrows, sizes, no_std.
    Tidy,
    /// Write the offline data of the SQL macros to .sqlx.
    Prepare,
    /// Write docs/openapi.json.
    Openapi,
    /// Rewrite the expected numbers of scenarios and snapshots; review the diff like code.
    Bless,
}

fn main() -> anyhow::Result<()> {
    let root = root()?;
    match Cli::parse().task {
        Task::Setup { kafka } => setup(&root, kafka),
        Task::Demo { args } => {
            let kafka = args.iter().any(|arg| arg.contains("kafka"));
            setup(&root, kafka)?;
            weir(&root, "demo", &args)
        }
        Task::Up { args } => {
            setup(&root, false)?;
            weir(&root, "up", &args)
        }
        Task::Test { filter } => {
            setup(&root, true)?;
            form(&root)?;
            test(&root, filter)
        }
        Task::Simulate { seeds, first } => simulate(&root, seeds, first),
        Task::Fmt => cargo(&root, &["fmt", "--all"]),
        Task::Lint => lint(&root),
        Task::Tidy => tidy::check(&root),
        Task::Prepare => prepare(&root),
        Task::Openapi => run(
            "openapi",
            cargo_command(&root, &["test", "-p", "weir-api", "openapi"]).env("WEIR_BLESS", "1"),
        ),
        Task::Bless => {
            let mut command = cargo_command(&root, &["test", "-p", "weir-billing", "scenario"]);
            run("bless", command.env("WEIR_BLESS", "1").env("INSTA_UPDATE", "always"))
        }
    }
}

fn root() -> anyhow::Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest.parent().context("xtask lies in the workspace")?.to_owned())
}

fn setup(root: &Path, kafka: bool) -> anyhow::Result<()> {
    let mut command = Command::new(root.join("deploy/dev/setup.sh"));
    run("setup", command.arg(if kafka { "all" } else { "base" }))
}

/// Builds `weir` and runs one of its commands from the repository's root.
fn weir(root: &Path, subcommand: &str, args: &[String]) -> anyhow::Result<()> {
    step("building weir (the first time takes some minutes)");
    cargo(root, &["build", "--bin", "weir"])?;
    let mut command = Command::new(target(root).join("debug/weir"));
    run(subcommand, command.arg(subcommand).args(args).current_dir(root))
}

/// What needs no compiler.
fn form(root: &Path) -> anyhow::Result<()> {
    step("format");
    cargo(root, &["fmt", "--all", "--check"])?;
    step("tidy");
    tidy::check(root)
}

fn lint(root: &Path) -> anyhow::Result<()> {
    form(root)?;
    step("clippy");
    let mut command =
        cargo_command(root, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    run("clippy", command.env("SQLX_OFFLINE", "true"))
}

/// Builds all under clippy's eyes, then runs all tests with a throw-away Postgres in DATABASE_URL.
fn test(root: &Path, filter: Option<String>) -> anyhow::Result<()> {
    step("clippy and building the tests");
    let build = ["test", "--workspace", "--all-targets", "--no-run"];
    run("build", with_clippy(&mut cargo_command(root, &build)))?;
    step("tests");
    let mut command = Command::new(target(root).join("debug/weir"));
    command.args(["__with-postgres", "--"]).arg(cargo_program()).args(["test", "--workspace"]);
    run("tests", with_clippy(command.args(filter).current_dir(root)))
}

/// Has clippy's driver compile the workspace's crates: it lints them on the way. `cargo clippy` would
/// first check every dependency, which the build then compiles: a quarter of a first build. Building
/// and running must have the same, or cargo builds all again.
fn with_clippy(command: &mut Command) -> &mut Command {
    // The form in which `cargo clippy` hands lints on.
    let lints = "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__";
    command.env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver").env("CLIPPY_ARGS", lints);
    command.env("SQLX_OFFLINE", "true")
}

/// In release, where a seed takes a tenth of the time.
fn simulate(root: &Path, seeds: u64, first: u64) -> anyhow::Result<()> {
    let mut command = cargo_command(
        root,
        &["test", "--release", "-p", "weir-aggregator", "--test", "it", "--", "--nocapture"],
    );
    command.arg("every_seed_ends_with_the_plain_sum").env("SQLX_OFFLINE", "true");
    command.env("WEIR_SIMULATION_SEEDS", seeds.to_string());
    run("simulate", command.env("WEIR_SIMULATION_FIRST_SEED", first.to_string()))
}

/// Asks a live, migrated Postgres about every query, and keeps the answers in .sqlx.
/// Without DATABASE_URL it runs itself again under a throw-away Postgres with all migrations.
fn prepare(root: &Path) -> anyhow::Result<()> {
    let Some(url) = std::env::var_os("DATABASE_URL") else {
        let mut again = Command::new(target(root).join("debug/weir"));
        again.args(["__with-postgres", "--"]).arg(std::env::current_exe()?).arg("prepare");
        return run("prepare", again.current_dir(root));
    };
    for migration in sorted(&root.join("migrations/postgres"))? {
        let mut psql = Command::new("psql");
        psql.args(["-q", "-1", "-v", "ON_ERROR_STOP=1", "-f"]).arg(migration).arg("-d").arg(&url);
        run("migration", &mut psql)?;
    }
    let fresh = root.join(".sqlx.new");
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh)?;
    }
    std::fs::create_dir(&fresh)?;
    // The macros run only when the crate is compiled, so make it look changed.
    let touched = root.join("crates/store/src/lib.rs");
    std::fs::File::options()
        .append(true)
        .open(&touched)?
        .set_modified(std::time::SystemTime::now())?;
    let mut command = cargo_command(root, &["test", "-p", "weir-store", "--no-run"]);
    command.env("DATABASE_URL", url).env("SQLX_OFFLINE", "false").env("SQLX_OFFLINE_DIR", &fresh);
    run("prepare", &mut command)?;
    ensure!(fresh.read_dir()?.next().is_some(), "no query was compiled");
    let kept = root.join(".sqlx");
    if kept.exists() {
        std::fs::remove_dir_all(&kept)?;
    }
    std::fs::rename(fresh, kept)?;
    Ok(())
}

fn sorted(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = dir.read_dir().with_context(|| format!("{}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

fn cargo_program() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn cargo_command(root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(cargo_program());
    command.args(args).current_dir(root);
    command
}

fn cargo(root: &Path, args: &[&str]) -> anyhow::Result<()> {
    let mut command = cargo_command(root, args);
    run(args.first().copied().unwrap_or("cargo"), command.env("SQLX_OFFLINE", "true"))
}

fn step(what: &str) {
    println!("── {what}");
}

fn run(what: &str, command: &mut Command) -> anyhow::Result<()> {
    let begun = Instant::now();
    let status = command.status().with_context(|| format!("can't run {command:?}"))?;
    ensure!(status.success(), "{what} failed ({status})");
    println!("── {what} done in {:.1} s", begun.elapsed().as_secs_f32());
    Ok(())
}
