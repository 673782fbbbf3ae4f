//! Listening, serving and ending in order.

use crate::{Shutdown, unread};
use anyhow::Context;
use axum::{Router, middleware::from_fn};
use std::{future::IntoFuture, net::SocketAddr, time::Duration};
use tokio::{net::TcpListener, signal::unix::SignalKind, signal::unix::signal};

/// How long requests under way at shutdown have to end: as long as a body may take to arrive. Who has
/// begun a request and says nothing more holds up nobody longer than that.
const DRAIN: Duration = Duration::from_secs(10);

/// Binds `address`; the error names it.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("can't listen on {address}"))
}

/// Serves HTTP/1.1 and cleartext HTTP/2 until shutdown, then lets running requests end, for at most
/// ten seconds.
pub async fn serve(listener: TcpListener, app: Router, shutdown: Shutdown) -> anyhow::Result<()> {
    let app = app.layer(from_fn(unread::read_to_the_end));
    let serving = axum::serve(listener, app)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned())
        .into_future();
    tokio::select! {
        served = serving => served.context("serving HTTP"),
        () = overdue(shutdown) => {
            tracing::warn!("some requests have not ended within {DRAIN:?} and are cut off");
            Ok(())
        }
    }
}

async fn overdue(shutdown: Shutdown) {
    shutdown.cancelled().await;
    tokio::time::sleep(DRAIN).await;
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
