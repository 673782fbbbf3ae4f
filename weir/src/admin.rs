//! What a running `weir up` shows its operator on a Unix socket in the data directory: the log,
//! which no second process may open.

use crate::{data_dir::DataDir, operator};
use anyhow::Context;
use axum::{
    Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::StatusCode,
    routing::get,
};
use serde::Deserialize;
use std::{fs, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};
use tokio::net::UnixListener;
use weir_log::{EventLog, Stored};
use weir_runtime::Shutdown;

/// Serves until shutdown. The socket is its owner's alone.
pub fn serve(data: &DataDir, log: Arc<dyn EventLog>, shutdown: Shutdown) -> anyhow::Result<()> {
    let path = data.socket();
    // A socket that a killed process left; the directory's lock says that it is ours.
    let _absent = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| format!("{}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    let app = Router::new().route("/log/{partition}", get(read)).with_state(log);
    tokio::spawn(async move {
        let stop = async move { shutdown.cancelled().await };
        if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stop).await {
            tracing::error!(%error, "the operator's socket has failed");
        }
    });
    Ok(())
}

#[derive(Deserialize)]
struct From {
    from: u64,
}

/// Records as offset and length (8 bytes each, little endian) and the bytes.
async fn read(
    State(log): State<Arc<dyn EventLog>>,
    Path(partition): Path<u32>,
    Query(query): Query<From>,
) -> Result<Vec<u8>, (StatusCode, String)> {
    if partition >= log.partitions() {
        return Err((StatusCode::NOT_FOUND, "no such partition".to_owned()));
    }
    let records = operator::read_log(log.as_ref(), partition, query.from)
        .await
        .map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    let mut body = Vec::new();
    for record in records {
        body.extend_from_slice(&record.offset.to_le_bytes());
        body.extend_from_slice(&(record.bytes.len() as u64).to_le_bytes());
        body.extend_from_slice(&record.bytes);
    }
    Ok(body)
}

/// The other end of the socket.
pub struct Client {
    http: reqwest::Client,
}

impl Client {
    /// Of the `weir up` that runs on this directory.
    pub fn new(data: &DataDir) -> anyhow::Result<Self> {
        let builder = reqwest::Client::builder().timeout(Duration::from_secs(30));
        Ok(Self { http: builder.unix_socket(data.socket()).build()? })
    }

    /// The records of a partition from an offset on; empty at the end. None: no such partition.
    pub async fn read(&self, partition: u32, from: u64) -> anyhow::Result<Option<Vec<Stored>>> {
        let url = format!("http://weir/log/{partition}?from={from}");
        let answer = self.http.get(url).send().await.context("the operator's socket")?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let body = answer.error_for_status()?.bytes().await?;
        unpack(body).context("the operator's socket answered something cut off").map(Some)
    }
}

fn unpack(mut body: Bytes) -> Option<Vec<Stored>> {
    let mut records = Vec::new();
    while !body.is_empty() {
        let mut head = body.split_to_checked(16)?;
        let offset = u64::from_le_bytes(head.split_to(8).as_ref().try_into().ok()?);
        let length = u64::from_le_bytes(head.as_ref().try_into().ok()?);
        let bytes = body.split_to_checked(usize::try_from(length).ok()?)?;
        records.push(Stored { offset, bytes });
    }
    Some(records)
}

trait SplitChecked: Sized {
    fn split_to_checked(&mut self, at: usize) -> Option<Self>;
}

impl SplitChecked for Bytes {
    fn split_to_checked(&mut self, at: usize) -> Option<Self> {
        (at <= self.len()).then(|| self.split_to(at))
    }
}
