//! The accept loop: connections in, within limits.
//!
//! It serves gRPC and plain HTTP on one port. Nobody holds a connection without using it: whoever does not send the
//! beginning of a request in time is cut off, dead peers are found by HTTP/2 pings, and when the process is out of
//! file descriptors the loop waits instead of spinning.

use std::{io, sync::Arc, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{files, switch::Switch};

/// What one port allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct PortLimits {
    /// Connections at once.
    pub(super) connections: usize,
    /// HTTP/2 streams on one connection.
    pub(super) streams: u32,
    /// HTTP/2 flow control: bytes that one stream, and one connection, may have under way.
    pub(super) window_bytes: u32,
}

impl PortLimits {
    /// For clients.
    pub(super) fn of_clients() -> Self {
        Self {
            connections: files::clients(CLIENTS_MAX),
            streams: 1_024,
            window_bytes: 1 << 20,
        }
    }
}

/// Connections of clients, if so many files may be open.
const CLIENTS_MAX: usize = 20_000;

/// How long a new connection may take to send the beginning of its first request.
const FIRST_BYTES_WITHIN: Duration = Duration::from_secs(10);
/// How soon the beginning is looked at again.
const PEEK_EVERY: Duration = Duration::from_millis(20);
/// What an HTTP/2 client sends first (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The wait after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often such a failure is logged.
const ACCEPT_LOG_EVERY: Duration = Duration::from_secs(5);
/// HTTP/2 pings: how often, and how long for an answer.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_WITHIN: Duration = Duration::from_secs(5);
/// Request headers.
const HEADERS_MAX_BYTES: u32 = 16 << 10;
/// Streams that a client opened and reset before they were accepted (rapid reset).
const PENDING_RESETS_MAX: usize = 20;
/// What open connections have to end in once the node is shutting down.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Serves `app` on `listener` until `stop`; returns when all connections have ended.
pub(super) async fn serve(listener: TcpListener, app: Switch, limits: PortLimits, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    let mut logged: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // The process ends, and this task with it.
            Err(error) if tokio::runtime::is_rt_shutdown_err(&error) => std::future::pending().await,
            Err(error) => {
                if logged.is_none_or(|at| at.elapsed() > ACCEPT_LOG_EVERY) {
                    logged = Some(Instant::now());
                    tracing::warn!(%error, "could not accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Beyond the limit the connection is closed at once: a client tries the next node.
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        let (app, stop) = (app.clone(), stop.clone());
        connections.spawn(async move {
            if let Err(error) = serve_connection(stream, app, limits, stop).await {
                tracing::debug!(%error, "a connection ended with an error");
            }
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection(
    stream: TcpStream,
    app: Switch,
    limits: PortLimits,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        begun = tokio::time::timeout(FIRST_BYTES_WITHIN, first_bytes(&stream)) => begun??,
    }
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(FIRST_BYTES_WITHIN)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(limits.window_bytes)
        .initial_connection_window_size(limits.window_bytes.saturating_mul(2))
        .max_header_list_size(HEADERS_MAX_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WITHIN);
    let service = TowerToHyperService::new(app);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    // Whoever does not take the end of its streams in time is cut off.
    tokio::time::timeout(CLOSE_WITHIN, connection).await.unwrap_or(Ok(()))
}

/// Returns when the client has sent either all of HTTP/2's preface or something else.
async fn first_bytes(stream: &TcpStream) -> io::Result<()> {
    let mut bytes = [0_u8; HTTP2_PREFACE.len()];
    loop {
        let count = stream.peek(&mut bytes).await?;
        if count == 0 || count == bytes.len() || !HTTP2_PREFACE.starts_with(&bytes[..count]) {
            return Ok(());
        }
        tokio::time::sleep(PEEK_EVERY).await;
    }
}
