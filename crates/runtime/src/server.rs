//! Listening, serving and ending in order.

use crate::Shutdown;
use anyhow::Context;
use axum::Router;
use std::net::SocketAddr;
use tokio::{net::TcpListener, signal::unix::SignalKind, signal::unix::signal};

/// Binds `address`; the error names it.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("can't listen on {address}"))
}

/// Serves HTTP/1.1 and cleartext HTTP/2 until shutdown, then lets running requests end.
pub async fn serve(listener: TcpListener, app: Router, shutdown: Shutdown) -> anyhow::Result<()> {
    axum::serve(listener, app)
        .with_graceful_shutdown(async move { shutdown.cancelled().await })
        .await
        .context("serving HTTP")
}

/// Cancels `shutdown` on Ctrl-C, SIGTERM or SIGHUP.
///
/// Errors: the signal handlers can't be installed.
pub fn cancel_on_signals(shutdown: Shutdown) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => tracing::info!("interrupted, ending in order"),
            _ = terminate.recv() => tracing::info!("told to end, ending in order"),
            _ = hangup.recv() => tracing::info!("terminal gone, ending in order"),
        }
        shutdown.cancel();
    });
    Ok(())
}
