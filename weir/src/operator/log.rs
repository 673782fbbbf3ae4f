//! `weir log`

use crate::{admin, data_dir::DataDir};
use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use serde_json::{json, value::RawValue};
use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use weir_events::{Position, decode_record};
use weir_log::{
    EmbeddedLog, EmbeddedOptions, EventLog, KafkaLog, KafkaOptions, LogConfig, LogError, Stored,
};

/// Bytes of records that are read at once.
const READ_BYTES_MAX: usize = 1 << 20;

/// Look into the event log.
#[derive(Debug, clap::Subcommand)]
pub enum LogCommand {
    /// Print the events of the log, one line of JSON each, partition by partition.
    Cat(CatArgs),
}

/// Which log, and what of it.
#[derive(Debug, clap::Args)]
pub struct CatArgs {
    /// Only this partition.
    #[arg(long)]
    partition: Option<u32>,
    /// The first offset of each partition.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// End after so many events.
    #[arg(long)]
    limit: Option<usize>,
    /// The data directory of `weir up`, running or not; WEIR_DATA when nothing else is given.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Kafka's `host:port,…`
    #[arg(long, env = "KAFKA_BROKERS")]
    kafka_brokers: Option<String>,
    #[arg(long, env = "KAFKA_TOPIC", default_value = "weir-events")]
    kafka_topic: String,
}

impl LogCommand {
    /// Runs it.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self::Cat(args) = self;
        let mut out = std::io::stdout().lock();
        match cat(&args, &mut out).await {
            // `weir log cat | head`: the reader has seen enough.
            Err(error) if is_broken_pipe(&error) => Ok(()),
            result => result,
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

async fn cat(args: &CatArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let source = Source::open(args).await?;
    let mut left = args.limit.unwrap_or(usize::MAX);
    for partition in args.partition.unwrap_or(0).. {
        let mut from = args.from;
        while left > 0 {
            let Some(records) = source.read(partition, from).await? else {
                ensure!(args.partition.is_none(), "the log has no partition {partition}");
                return Ok(());
            };
            let Some(last) = records.last() else { break };
            from = last.offset + 1;
            for record in &records {
                for line in lines(partition, record)?.into_iter().take(left) {
                    left -= 1;
                    writeln!(out, "{line}")?;
                }
            }
        }
        if left == 0 || args.partition.is_some() {
            break;
        }
    }
    Ok(())
}

/// Where the records come from: a log that we open, or a running `weir up` that holds it open.
enum Source {
    Log {
        log: Arc<dyn EventLog>,
        /// Keeps `weir up` off the directory meanwhile.
        _lock: Option<File>,
    },
    Running(admin::Client),
}

impl Source {
    async fn open(args: &CatArgs) -> anyhow::Result<Self> {
        // A named directory goes before what the environment says of another deployment.
        if let (Some(brokers), None) = (&args.kafka_brokers, &args.data) {
            let topic = &args.kafka_topic;
            let opened = open_kafka(brokers, topic).await;
            let log = opened.with_context(|| format!("can't read topic {topic} at {brokers}"))?;
            return Ok(Self::Log { log: Arc::new(log), _lock: None });
        }
        let data = DataDir::resolve(args.data.clone())?;
        if data.answers() {
            return Ok(Self::Running(admin::Client::new(&data)?));
        }
        let dir = data.part("log");
        ensure!(dir.exists(), "there is no log in {}", data.path().display());
        let lock = data.lock()?;
        let log = open_embedded(&dir)?;
        Ok(Self::Log { log: Arc::new(log), _lock: Some(lock) })
    }

    /// None: no such partition.
    async fn read(&self, partition: u32, from: u64) -> anyhow::Result<Option<Vec<Stored>>> {
        match self {
            Self::Log { log, .. } if partition >= log.partitions() => Ok(None),
            Self::Log { log, .. } => read(log.as_ref(), partition, from).await.map(Some),
            Self::Running(client) => client.read(partition, from).await,
        }
    }
}

/// A log knows how many partitions it has; who only reads it need not.
async fn open_kafka(brokers: &str, topic: &str) -> Result<KafkaLog, LogError> {
    let options = KafkaOptions { create_topic: false, ..KafkaOptions::default() };
    let connect = |partitions| KafkaLog::connect(brokers, topic, partitions, options.clone());
    match connect(LogConfig::default().partitions).await {
        Err(LogError::PartitionCount { found, .. }) => connect(found).await,
        opened => opened,
    }
}

fn open_embedded(dir: &Path) -> Result<EmbeddedLog, LogError> {
    let open = |partitions| EmbeddedLog::open(dir, partitions, EmbeddedOptions::default());
    match open(LogConfig::default().partitions) {
        Err(LogError::PartitionCount { found, .. }) => open(found),
        opened => opened,
    }
}

/// The records from `from` on, or from the log's start where that is later; empty at the end.
pub async fn read(log: &dyn EventLog, partition: u32, from: u64) -> anyhow::Result<Vec<Stored>> {
    let from = from.max(log.start(partition).await?);
    if from >= log.end(partition).await? {
        return Ok(Vec::new());
    }
    Ok(log.read(partition, from, READ_BYTES_MAX, Duration::from_millis(500)).await?)
}

/// The events of one record as JSON, properties to the letter.
fn lines(partition: u32, stored: &Stored) -> anyhow::Result<Vec<String>> {
    let record = decode_record(&stored.bytes)
        .with_context(|| format!("record {partition}/{}", stored.offset))?;
    let received = instant(record.header.received_at_us);
    let mut lines = Vec::new();
    for (index, event) in record.events().enumerate() {
        let properties = RawValue::from_string(event.properties.to_owned())?;
        let line = json!({
            "partition": partition,
            "offset": stored.offset,
            "position": Position::new(stored.offset, u16::try_from(index)?).0,
            "organization": record.header.organization.to_string(),
            "receivedAt": received,
            "catalogVersion": record.header.catalog_version,
            "transactionId": event.transaction_id,
            "externalSubscriptionId": event.external_subscription_id,
            "code": event.code,
            "timestamp": instant(event.timestamp_us),
            "properties": properties,
        });
        lines.push(line.to_string());
    }
    Ok(lines)
}

fn instant(us: i64) -> String {
    DateTime::<Utc>::from_timestamp_micros(us).map_or_else(|| us.to_string(), |at| at.to_rfc3339())
}
