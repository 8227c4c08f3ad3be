//! The connections of the peer port, taken within limits.
//!
//! Other nodes open a handful of connections and use them at once. So there is room for few; whoever does not begin to
//! speak HTTP/2 in time loses its place, and at once when another comes that needs it. One that fell silent later is
//! found by pings. When the process is out of file descriptors the port waits, instead of spinning.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, Stream, future::BoxFuture, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Connections at once. Each other node has one for each lane, and a moment's more while it connects anew.
pub(super) const CONNECTIONS_MAX: usize = 128;
/// How long a new connection may take to send HTTP/2's preface, which a node sends at once.
const PREFACE_WITHIN: Duration = Duration::from_secs(5);
/// The length of that preface (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;
/// How long a connection beyond the limit waits for the place of a silent one.
const PLACE_WITHIN: Duration = Duration::from_millis(200);
/// The wait after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often such a failure is logged.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Connections as they come; never ends.
pub(super) fn connections(listener: TcpListener) -> impl Stream<Item = io::Result<Accepted>> + Send {
    let door = Door {
        listener,
        places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        silent: VecDeque::new(),
        logged: None,
    };
    stream::unfold(door, |mut door| async move {
        let accepted = door.next().await;
        Some((Ok(accepted), door))
    })
}

struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
    /// Those that had not begun to speak when they were last looked at, oldest first; to tell them that they lose their
    /// place.
    silent: VecDeque<Weak<Notify>>,
    logged: Option<Instant>,
}

impl Door {
    async fn next(&mut self) -> Accepted {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                // The process ends, and this task with it.
                Err(error) if tokio::runtime::is_rt_shutdown_err(&error) => std::future::pending().await,
                Err(error) => {
                    if self.logged.is_none_or(|at| at.elapsed() > LOG_EVERY) {
                        self.logged = Some(Instant::now());
                        tracing::warn!(%error, "could not accept a connection of another node");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Beyond the limit the connection is closed: a node tries again, and places become free.
            let Some(place) = self.place().await else {
                continue;
            };
            // A connection that is gone already shows it when it is read.
            let _gone = stream.set_nodelay(true);
            return Accepted {
                stream,
                silent: Some(self.silent()),
                _place: place,
            };
        }
    }

    /// A place, at the cost of the oldest connection that has not begun to speak if there is no free one.
    async fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        let places = Arc::clone(&self.places);
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            return Some(place);
        }
        let oldest = std::iter::from_fn(|| self.silent.pop_front()).find_map(|silent| silent.upgrade())?;
        oldest.notify_one();
        let freed = tokio::time::timeout(PLACE_WITHIN, places.acquire_owned()).await;
        freed.ok().and_then(Result::ok)
    }

    fn silent(&mut self) -> Silent {
        let leave = Arc::new(Notify::new());
        if self.silent.len() >= CONNECTIONS_MAX {
            self.silent.retain(|silent| silent.strong_count() > 0);
        }
        self.silent.push_back(Arc::downgrade(&leave));
        let late = tokio::time::sleep(PREFACE_WITHIN);
        let over = async move {
            tokio::select! {
                () = late => {}
                () = leave.notified() => {}
            }
        };
        Silent {
            over: over.boxed(),
            missing: PREFACE_BYTES,
        }
    }
}

/// What is still to come of the preface, and when its time is over.
struct Silent {
    over: BoxFuture<'static, ()>,
    missing: usize,
}

/// A connection of the peer port; keeps its place while it is open.
pub(super) struct Accepted {
    stream: TcpStream,
    silent: Option<Silent>,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // Asked first: bytes that trickle in must not put the end off.
        if let Some(silent) = &mut this.silent
            && silent.over.poll_unpin(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = into.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, into);
        if let (Poll::Ready(Ok(())), Some(silent)) = (&read, &mut this.silent) {
            silent.missing = silent.missing.saturating_sub(into.filled().len() - before);
            if silent.missing == 0 {
                this.silent = None;
            }
        }
        read
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Accepted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const PREFACE: &[u8; PREFACE_BYTES] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    async fn port() -> (std::net::SocketAddr, impl Stream<Item = io::Result<Accepted>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (listener.local_addr().unwrap(), connections(listener))
    }

    #[tokio::test]
    async fn a_connection_beyond_the_limit_is_closed_and_a_free_place_is_given_again() {
        let (address, accepted) = port().await;
        let mut accepted = pin!(accepted);
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut client = TcpStream::connect(address).await.unwrap();
            let mut node = accepted.next().await.unwrap().unwrap();
            client.write_all(PREFACE).await.unwrap();
            node.read_exact(&mut [0; PREFACE_BYTES]).await.unwrap();
            open.push((client, node));
        }
        let mut one_more = TcpStream::connect(address).await.unwrap();
        let mut bytes = [0];
        let closed = tokio::select! {
            _ = accepted.next() => panic!("there is no place"),
            closed = one_more.read(&mut bytes) => closed,
        };
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
        open.pop();
        let _client = TcpStream::connect(address).await.unwrap();
        assert!(accepted.next().await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_silent_connection_gives_its_place_to_one_that_comes() {
        let (address, accepted) = port().await;
        let mut accepted = pin!(accepted);
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let client = TcpStream::connect(address).await.unwrap();
            let mut node = accepted.next().await.unwrap().unwrap();
            // As the server does: a connection whose reading fails is dropped.
            let reading = tokio::spawn(async move { node.read(&mut [0; 64]).await.map_err(|error| error.kind()) });
            open.push((client, reading));
        }
        let _one_more = TcpStream::connect(address).await.unwrap();
        assert!(accepted.next().await.unwrap().is_ok());
        let (_client, oldest) = open.swap_remove(0);
        assert_eq!(oldest.await.unwrap(), Err(io::ErrorKind::TimedOut));
        assert!(open.iter().all(|(_, reading)| !reading.is_finished()));
    }

    #[tokio::test]
    async fn who_sends_no_preface_in_time_is_cut_off_though_bytes_trickle_in() {
        let (address, accepted) = port().await;
        let mut accepted = pin!(accepted);
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut slow = accepted.next().await.unwrap().unwrap();
        client.write_all(&PREFACE[..1]).await.unwrap();
        let mut bytes = [0; 64];
        assert_eq!(slow.read(&mut bytes).await.unwrap(), 1);
        tokio::time::pause();
        client.write_all(&PREFACE[1..2]).await.unwrap();
        tokio::time::advance(PREFACE_WITHIN * 2).await;
        let error = slow.read(&mut bytes).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn after_the_preface_silence_is_for_others_to_judge() {
        let (address, accepted) = port().await;
        let mut accepted = pin!(accepted);
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut node = accepted.next().await.unwrap().unwrap();
        client.write_all(PREFACE).await.unwrap();
        let mut bytes = [0; PREFACE_BYTES];
        node.read_exact(&mut bytes).await.unwrap();
        tokio::time::pause();
        tokio::time::advance(PREFACE_WITHIN * 2).await;
        assert!(node.read(&mut bytes).now_or_never().is_none());
    }
}
