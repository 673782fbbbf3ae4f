//! Listening, serving and ending in order.

use crate::{Shutdown, unread};
use anyhow::Context;
use axum::{Router, body::Body, extract::Request};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto::Builder,
        graceful::{GracefulShutdown, Watcher},
    },
};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tower::Service;

/// How long requests under way at shutdown have to end: as long as a body may take to arrive. Who has
/// begun a request and says nothing more holds up nobody longer than that.
const DRAIN: Duration = Duration::from_secs(10);

/// Bounds on connections.
#[derive(Clone, Copy)]
struct Bounds {
    /// How long a request's head may take to arrive, and how long a connection may say nothing: load
    /// balancers keep silent ones for a minute, and must be the first to end them.
    head_timeout: Duration,
    /// Connections at once; more wait to be taken. Each holds 20 KiB at rest.
    connections_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { head_timeout: Duration::from_secs(75), connections_max: 8_192 }
    }
}

/// An HTTP/2 peer that does not answer a ping is gone.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Binds `address`; the error names it.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("can't listen on {address}"))
}

/// Serves HTTP/1.1 and cleartext HTTP/2 until shutdown, then lets running requests end, for at most
/// ten seconds. Errors: none at present.
pub async fn serve(listener: TcpListener, app: Router, shutdown: Shutdown) -> anyhow::Result<()> {
    serve_newest(listener, watch::channel(app).1, shutdown).await
}

/// The same for an app that changes: each request is answered by the one that is newest when it comes,
/// also on a connection from before.
pub async fn serve_newest(
    listener: TcpListener,
    app: watch::Receiver<Router>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    serve_within(Bounds::default(), listener, app, shutdown).await;
    Ok(())
}

async fn serve_within(
    bounds: Bounds,
    listener: TcpListener,
    app: watch::Receiver<Router>,
    shutdown: Shutdown,
) {
    let places = Arc::new(Semaphore::new(bounds.connections_max));
    let ending = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, accept(&listener).await)
        };
        let (place, stream) = tokio::select! {
            () = shutdown.cancelled() => break,
            next = next => next,
        };
        while connections.try_join_next().is_some() {}
        let connection = connection(stream, app.clone(), bounds, ending.watcher());
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, ending.shutdown()).await.is_err() {
        tracing::warn!("some requests have not ended within {DRAIN:?} and are cut off");
    }
    connections.shutdown().await;
}

/// The next connection. What fails is tried again: the peer is gone, or files run short for a while.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                tracing::error!(%error, "no connection can be taken");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset)
}

/// Serves one connection to its end.
async fn connection(
    stream: TcpStream,
    app: watch::Receiver<Router>,
    bounds: Bounds,
    watcher: Watcher,
) {
    let begun = Arc::new(AtomicBool::new(false));
    let has_begun = Arc::clone(&begun);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        has_begun.store(true, Ordering::Relaxed);
        let mut app = app.borrow().clone();
        async move {
            let answer = |request: Request| async move {
                app.call(request).await.unwrap_or_else(|never| match never {})
            };
            Ok::<_, Infallible>(unread::read_to_the_end(request.map(Body::new), answer).await)
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(bounds.head_timeout);
    let http2 = &mut builder.http2();
    http2.timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_TIMEOUT);
    let serving = watcher.watch(builder.serve_connection(TokioIo::new(stream), service));
    tokio::pin!(serving);
    // The version is told by the first bytes, for which the builder waits for ever.
    if let Ok(ended) = tokio::time::timeout(bounds.head_timeout, &mut serving).await {
        return told(ended);
    }
    if begun.load(Ordering::Relaxed) {
        told(serving.await);
    }
}

/// A connection that breaks is the peer's affair.
fn told(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::{get, post};
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct Running {
        address: SocketAddr,
        shutdown: Shutdown,
        serving: tokio::task::JoinHandle<()>,
    }

    async fn run(bounds: Bounds) -> Running {
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let echo = post(|body: String| async move { body });
        let app = Router::new().route("/", get(|| async { "here" })).route("/echo", echo);
        let shutdown = Shutdown::new();
        let app = watch::channel(app).1;
        let serving = tokio::spawn(serve_within(bounds, listener, app, shutdown.clone()));
        Running { address, shutdown, serving }
    }

    fn soon() -> Bounds {
        Bounds { head_timeout: Duration::from_millis(100), ..Bounds::default() }
    }

    /// Writes `text` and reads until the server closes.
    async fn say(address: SocketAddr, text: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        // A connection that is cut off may be reset.
        let _ = stream.read_to_end(&mut read).await;
        String::from_utf8(read).unwrap()
    }

    #[tokio::test]
    async fn who_does_not_finish_a_head_is_cut_off() {
        let running = run(soon()).await;
        for head in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nhost: x\r\n"] {
            let cut_off = tokio::time::timeout(Duration::from_secs(20), say(running.address, head));
            let answer = cut_off.await.unwrap_or_else(|_| panic!("{head:?} holds a connection"));
            assert!(!answer.contains("200 OK"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_connection_from_before_is_answered_by_the_newest_app() {
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (newest, app) = watch::channel(Router::new());
        tokio::spawn(serve_newest(listener, app, Shutdown::new()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        for status in ["404 Not Found", "200 OK"] {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut answer = [0; 512];
            let length = stream.read(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer[..length]);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
            drop(newest.send_replace(Router::new().route("/", get(|| async { "here" }))));
        }
    }

    #[tokio::test]
    async fn a_silent_connection_ends_and_one_that_goes_on_does_not() {
        let running = run(soon()).await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let started = Instant::now();
        let mut answers = 0;
        while started.elapsed() < Duration::from_millis(400) {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut answer = [0; 512];
            let length = stream.read(&mut answer).await.unwrap();
            assert!(answer[..length].starts_with(b"HTTP/1.1 200 OK"), "after {answers}");
            answers += 1;
        }
        assert!(answers > 3);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty(), "the server closed it");
    }

    #[tokio::test]
    async fn more_connections_than_there_is_room_for_wait_their_turn() {
        let running = run(Bounds { connections_max: 1, ..Bounds::default() }).await;
        let first = TcpStream::connect(running.address).await.unwrap();
        let close = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let second = say(running.address, close);
        tokio::pin!(second);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut second).await;
        assert!(early.is_err(), "there is room for one");
        drop(first);
        assert!(second.await.ends_with("here"));
    }

    #[tokio::test]
    async fn a_request_under_way_at_shutdown_is_answered() {
        let running = run(Bounds::default()).await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let head = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab";
        stream.write_all(head).await.unwrap();
        // Answered on another connection: the server has had time to see the first.
        let close = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        assert!(say(running.address, close).await.ends_with("here"));
        running.shutdown.cancel();
        stream.write_all(b"cd").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("abcd"), "{answer}");
        running.serving.await.unwrap();
        assert!(TcpStream::connect(running.address).await.is_err());
    }
}
