//! `weir migrate` and `weir check-config`

use super::Target;
use chrono::{DateTime, Utc};

/// Bring the schemas up to date.
#[derive(Debug, clap::Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    target: Target,
    /// Make a new deployment run on a clock that stands still at this time.
    #[arg(long, env = "WEIR_TEST_CLOCK")]
    test_clock: Option<DateTime<Utc>>,
}

impl MigrateArgs {
    /// Runs it.
    pub async fn run(self) -> anyhow::Result<()> {
        let pool = self.target.pool().await?;
        weir_store::migrate(&pool).await?;
        println!("Postgres is up to date");
        self.target.usage()?.migrate().await?;
        println!("ClickHouse is up to date");
        if let Some(at) = self.test_clock {
            let clock =
                weir_store::clock::start_test_clock(&mut *pool.acquire().await?, at).await?;
            println!("the test clock stands at {}", clock.now.to_rfc3339());
        }
        Ok(())
    }
}

/// Loads the configuration of every role. Errors: the first setting that can't be used.
pub fn check_config() -> anyhow::Result<()> {
    weir_ingest::Config::load()?;
    println!("ingest: ok");
    weir_aggregator::Config::load()?;
    println!("aggregator: ok");
    weir_invoicer::Config::load()?;
    println!("invoicer: ok");
    weir_api::Config::load()?;
    println!("api: ok");
    Ok(())
}
