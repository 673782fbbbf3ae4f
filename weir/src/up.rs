//! `weir up`: every role in one process, with its own log, ClickHouse engine and Postgres.

use crate::{
    admin,
    data_dir::{Connections, DataDir},
    disk, engine, operator, starting,
};
use anyhow::Context;
use axum::Router;
use chrono::{DateTime, Utc};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{sync::watch, task::JoinHandle};
use weir_aggregator::{Aggregator, AggregatorDeps};
use weir_api::ApiDeps;
use weir_catalog::Catalog;
use weir_ingest::{Ingest, IngestDeps};
use weir_invoicer::InvoicerDeps;
use weir_log::{EmbeddedLog, EmbeddedOptions, EventLog};
use weir_runtime::{
    Clock, Shutdown,
    health::{self, Check, told},
    postgres::{PostgresOptions, PrivatePostgres},
    server, telemetry,
};
use weir_store::{PgPool, organizations, organizations::Organization};
use weir_usage::{ClickHouse, engine::Engine};

/// What the private Postgres allows; the pool below takes most of them, operators the rest.
const POSTGRES_CONNECTIONS_MAX: u16 = 60;
const POOL_CONNECTIONS_MAX: u32 = 40;
/// Who owns the partitions: always us, since the directory is locked. A restart takes them at once.
const OWNER: &str = "up";

/// Options of `weir up`.
#[derive(Debug, clap::Args)]
pub struct UpArgs {
    /// The directory that holds everything; /var/lib/weir for root, else ~/.local/share/weir.
    #[arg(long, env = "WEIR_DATA")]
    data: Option<PathBuf>,
    /// Where REST, gRPC and events are served.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where Prometheus reads metrics.
    #[arg(long, env = "METRICS_LISTEN", default_value = "127.0.0.1:9464")]
    metrics_listen: SocketAddr,
    /// Partitions of the event log, fixed when the data directory is made; 4 if not given.
    #[arg(long, env = "WEIR_PARTITIONS")]
    partitions: Option<u32>,
    /// Make a new deployment run on a clock that stands still at this time until
    /// `weir clock advance` moves it.
    #[arg(long, env = "WEIR_TEST_CLOCK")]
    test_clock: Option<DateTime<Utc>>,
}

/// What runs under the roles.
struct Parts {
    postgres: PrivatePostgres,
    engine: Engine,
    pool: PgPool,
    usage: ClickHouse,
    log: Arc<dyn EventLog>,
}

/// The roles, started.
struct Roles {
    app: Router,
    checks: Vec<Check>,
    ingest: Ingest,
    aggregator: Aggregator,
    invoicer: JoinHandle<()>,
}

/// Runs until Ctrl-C or SIGTERM. From the start on its port says how far it is.
/// Errors: a part that doesn't start, or ends by itself.
pub async fn run(args: UpArgs) -> anyhow::Result<()> {
    let data = DataDir::resolve(args.data.clone())?;
    data.create()?;
    let _lock = data.lock()?;
    let shutdown = Shutdown::new();
    server::cancel_on_signals(shutdown.clone())?;
    let metrics = telemetry::init_metrics()?;
    describe_metrics();
    // Ports first: a busy one is the commonest reason not to start, and costs nothing to find.
    let listener = server::bind(args.listen).await?;
    let metrics_listener = server::bind(args.metrics_listen).await?;
    let (listen, metrics_listen) = (listener.local_addr()?, metrics_listener.local_addr()?);
    let (app, newest) = watch::channel(starting::parts());
    let mut serving = tokio::spawn(server::serve_newest(listener, newest, shutdown.clone()));
    let metrics = telemetry::metrics_router(metrics);
    let watching = tokio::spawn(server::serve(metrics_listener, metrics, shutdown.clone()));

    let parts = start_parts(&data, args.partitions).await?;
    let clock = start_clock(&parts.pool, args.test_clock).await?;
    let settled = Shutdown::new();
    let roles = tokio::select! {
        roles = start_roles(&parts, &data, &clock, [&shutdown, &settled], &app) => roles,
        died = child_died(&parts) => return Err(died),
    };
    let roles = match roles {
        Ok(roles) => roles,
        Err(error) if shutdown.is_cancelled() => {
            tracing::info!(%error, "ended before it was up");
            settled.cancel();
            parts.stop().await;
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    admin::serve(&data, parts.log.clone(), shutdown.clone())?;
    tokio::spawn(disk::watch(data.path().to_owned(), shutdown.clone()));
    data.write_connections(&Connections {
        database_url: parts.postgres.url(),
        clickhouse: engine::options(&parts.engine),
        listen: listen.to_string(),
        metrics_listen: metrics_listen.to_string(),
    })?;
    announce(&parts.pool, &clock, [listen, metrics_listen], data.path()).await?;

    drop(app.send_replace(roles.app.clone().merge(health::router(roles.checks.clone()))));
    let ended = tokio::select! {
        ended = &mut serving => ended?,
        died = child_died(&parts) => {
            // Nothing can be settled without it: a restart goes on as after a crash.
            data.forget_connections();
            return Err(died);
        }
        () = shutdown.cancelled() => Ok(()),
    };
    shutdown.cancel();
    if !serving.is_finished() {
        serving.await??;
    }
    watching.await??;
    stop(data, roles, parts, &settled).await;
    ended
}

async fn child_died(parts: &Parts) -> anyhow::Error {
    let (name, status) = tokio::select! {
        status = parts.engine.ended() => ("the ClickHouse engine", status),
        status = parts.postgres.ended() => ("Postgres", status),
    };
    let status = status.map_or_else(|| "nobody knows how".to_owned(), |status| status.to_string());
    anyhow::anyhow!("{name} ended by itself ({status})")
}

/// In the order of the stream: nothing new comes in, then what is in is settled, then the rest.
async fn stop(data: DataDir, roles: Roles, parts: Parts, settled: &Shutdown) {
    data.forget_connections();
    roles.ingest.drain().await;
    settled.cancel();
    roles.aggregator.join().await;
    if let Err(error) = roles.invoicer.await {
        tracing::error!(%error, "the invoicer did not end in order");
    }
    parts.stop().await;
}

impl Parts {
    async fn stop(self) {
        self.pool.close().await;
        self.engine.stop().await;
        self.postgres.stop();
    }
}

fn describe_metrics() {
    weir_aggregator::describe_metrics();
    weir_invoicer::describe_metrics();
    weir_api::metrics::describe();
    disk::describe_metrics();
}

async fn start_parts(data: &DataDir, partitions: Option<u32>) -> anyhow::Result<Parts> {
    let postgres_dir = data.part("postgres");
    let options = PostgresOptions { durable: true, max_connections: POSTGRES_CONNECTIONS_MAX };
    let postgres =
        tokio::task::spawn_blocking(move || PrivatePostgres::start(&postgres_dir, options));
    let clickhouse_dir = data.part("clickhouse");
    let (postgres, engine) = tokio::join!(postgres, engine::start(&clickhouse_dir));
    let (postgres, engine) = (postgres?.context("starting Postgres")?, engine?);
    let pool = weir_store::connect(&postgres.url(), POOL_CONNECTIONS_MAX).await?;
    let usage = engine.connect(engine::DATABASE);
    let (postgres_ready, clickhouse_ready) =
        tokio::join!(weir_store::migrate(&pool), usage.migrate());
    postgres_ready.context("migrating Postgres")?;
    clickhouse_ready.context("migrating ClickHouse")?;
    let log_dir = data.part("log");
    let log = tokio::task::spawn_blocking(move || {
        let options = EmbeddedOptions::default();
        match partitions {
            Some(partitions) => EmbeddedLog::open(&log_dir, partitions, options),
            None => EmbeddedLog::open_as_it_is(&log_dir, options),
        }
    });
    let log: Arc<dyn EventLog> = Arc::new(log.await?.context("opening the event log")?);
    Ok(Parts { postgres, engine, pool, usage, log })
}

/// The deployment's clock. Errors: a test clock is wanted for a deployment on the real one.
async fn start_clock(pool: &PgPool, wanted: Option<DateTime<Utc>>) -> anyhow::Result<Clock> {
    let mut conn = pool.acquire().await?;
    let test = match wanted {
        Some(at) => Some(weir_store::clock::start_test_clock(&mut conn, at).await?),
        None => weir_store::clock::test_clock(&mut conn).await?,
    };
    Ok(test.map_or_else(Clock::real, |test| Clock::test(test.now)))
}

/// The edge ends at `shutdown`; what settles its requests ends at `settled`. `app` says meanwhile what
/// is waited for: an index that must be built again may take minutes, and longer where ClickHouse does
/// not answer.
async fn start_roles(
    parts: &Parts,
    data: &DataDir,
    clock: &Clock,
    [shutdown, settled]: [&Shutdown; 2],
    app: &watch::Sender<Router>,
) -> anyhow::Result<Roles> {
    let (pool, usage) = (parts.pool.clone(), parts.usage.clone());
    let catalog = Catalog::start(pool.clone(), clock.clone(), settled.clone()).await?;
    let aggregator_config = weir_aggregator::Config::load()?;
    let mut ingest_config = weir_ingest::Config::load()?;
    // One setting for both: what the edge takes, the index must know the repeats of.
    let windows = [ingest_config.recent.window_days, aggregator_config.dedup.window_days];
    ingest_config.recent.window_days = windows.into_iter().flatten().min();
    let aggregator = Aggregator::start(
        AggregatorDeps {
            log: parts.log.clone(),
            usage: usage.clone(),
            pool: pool.clone(),
            catalog: catalog.clone(),
            clock: clock.clone(),
            index_dir: data.part("index"),
            owner: OWNER.to_owned(),
            config: aggregator_config,
        },
        settled.clone(),
    )
    .await?;
    let databases = database_checks(&pool, &usage);
    drop(app.send_replace(starting::roles(aggregator.known(), parts.log.partitions(), &databases)));
    let ingest = Ingest::start(
        IngestDeps {
            log: parts.log.clone(),
            catalog,
            clock: clock.clone(),
            known: Some(aggregator.known()),
            config: ingest_config,
        },
        shutdown.clone(),
    )
    .await?;
    let invoicer = InvoicerDeps {
        pool: pool.clone(),
        usage: usage.clone(),
        clock: clock.clone(),
        config: weir_invoicer::Config::load()?,
    };
    let invoicer = tokio::spawn(weir_invoicer::run(invoicer, shutdown.clone()));
    let mut checks = ingest.checks();
    checks.extend(databases);
    let app = weir_api::router(ApiDeps {
        pool,
        usage,
        clock: clock.clone(),
        events: Some(ingest.router()),
        config: weir_api::Config::load()?,
    });
    Ok(Roles { app, checks, ingest, aggregator, invoicer })
}

fn database_checks(pool: &PgPool, usage: &ClickHouse) -> [Check; 2] {
    let (pool, usage) = (pool.clone(), usage.clone());
    let postgres = Check::new("postgres", move || {
        let pool = pool.clone();
        async move { weir_store::ping(&pool).await.map_err(|error| told(&error)) }
    });
    let clickhouse = Check::new("clickhouse", move || {
        let usage = usage.clone();
        async move { usage.ping().await.map_err(|error| told(&error)) }
    });
    [postgres, clickhouse]
}

/// Prints where everything is and, the first time, makes an organization with a key.
async fn announce(
    pool: &PgPool,
    clock: &Clock,
    [listen, metrics_listen]: [SocketAddr; 2],
    data: &Path,
) -> anyhow::Result<()> {
    println!("weir is up");
    println!("  REST, gRPC, events  http://{listen}/api/billing/v2");
    println!("  health              http://{listen}/readyz");
    println!("  metrics             http://{metrics_listen}/metrics");
    println!("  data                {}", data.display());
    if clock.is_test() {
        println!("  test clock          {}", clock.now().to_rfc3339());
    }
    let mut conn = pool.acquire().await?;
    if organizations::list(&mut conn).await?.is_empty() {
        let now = weir_store::clock::database_now(&mut conn).await?;
        let first = Organization::new(clock.new_id(), "Default", now);
        organizations::insert(&mut conn, &first).await?;
        let secret =
            operator::create_key(&mut conn, first.id, "first", vec!["*".to_owned()]).await?;
        println!("  API key             {}", secret.expose());
        println!("                      (shown only now; `weir keys create` makes others)");
    }
    Ok(())
}
