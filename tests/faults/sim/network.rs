//! Streams between simulated hosts that can be broken from outside, and which links are cut, held or slow.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use roster::transport::Connector;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use turmoil::net::{TcpListener, TcpStream};

use super::{overlap::Overlap, world::LATENCY_MAX};

/// Which streams break together: those that one host opened to another.
type Link = (String, String);

/// How long a machine takes to refuse a connection that nobody there takes.
const REFUSED_AFTER: Duration = Duration::from_millis(2);

/// The streams that are open, by link, and the hosts that refuse more.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams(Arc<Mutex<Links>>);

#[derive(Debug, Default)]
struct Links {
    open: BTreeMap<Link, CancellationToken>,
    /// Hosts that are there, but nothing runs on them.
    refusing: BTreeSet<String>,
    /// Ways on which nothing gets through.
    cut: BTreeSet<Link>,
}

impl Streams {
    /// Opens streams for one host.
    pub(super) fn connector(&self, from: &str) -> Connector {
        let (streams, from) = (self.clone(), from.to_owned());
        Connector::new(move |uri: http::Uri| {
            let (streams, from) = (streams.clone(), from.clone());
            async move {
                let to = uri.host().unwrap_or_default().to_owned();
                let port = uri.port_u16().unwrap_or_default();
                if streams.lock().refusing.contains(&to) {
                    tokio::time::sleep(REFUSED_AFTER).await;
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                // turmoil's answer to an opening stream takes no way: a host that hears nothing could open streams.
                if streams.lock().cut.contains(&link(&to, &from)) {
                    return std::future::pending().await;
                }
                let broken = streams.token(&from, &to);
                let began = turmoil::sim_elapsed();
                match TcpStream::connect((to.as_str(), port)).await {
                    Ok(stream) => Ok(Breakable {
                        stream,
                        broken: Box::pin(broken.cancelled_owned()),
                    }),
                    // turmoil says so at once when the way is cut. A network says nothing then.
                    Err(_lost) if turmoil::sim_elapsed() == began => std::future::pending().await,
                    Err(refused) => Err(refused),
                }
            }
        })
    }

    /// Breaks every stream that one host opened to another.
    pub(super) fn break_all(&self, from: &str, to: &str) {
        let link = (from.to_owned(), to.to_owned());
        let broken = self.lock().open.remove(&link);
        if let Some(broken) = broken {
            broken.cancel();
        }
    }

    /// Whether a host refuses connections, as a machine does on which nothing runs; else, while its node is down,
    /// connections to it hang.
    pub(super) fn set_refusing(&self, host: &str, refusing: bool) {
        let mut links = self.lock();
        if refusing {
            links.refusing.insert(host.to_owned());
        } else {
            links.refusing.remove(host);
        }
    }

    fn set_cut(&self, from: &str, to: &str, cut: bool) {
        let mut links = self.lock();
        if cut {
            links.cut.insert(link(from, to));
        } else {
            links.cut.remove(&link(from, to));
        }
    }

    fn token(&self, from: &str, to: &str) -> CancellationToken {
        self.lock()
            .open
            .entry((from.to_owned(), to.to_owned()))
            .or_default()
            .clone()
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that fails as soon as it is broken.
struct Breakable {
    stream: TcpStream,
    broken: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Breakable {
    /// Fails once it is broken; else whoever polls is woken when it is.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.broken.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Breakable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Breakable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A connection that was accepted; nothing is told of it but what comes over it.
pub(super) struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The connections to a port of the host that calls.
///
/// # Errors
/// The port is taken.
pub(super) async fn listen(port: u16) -> io::Result<impl Stream<Item = io::Result<Accepted>> + Send> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    Ok(stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| Accepted(stream));
        Some((accepted, listener))
    }))
}

/// Which ways between hosts are cut, held or slow. Faults overlap: a way is open again when the last one ends.
#[derive(Debug)]
pub(super) struct Ways {
    streams: Streams,
    cuts: BTreeMap<Link, u32>,
    holds: BTreeMap<Link, u32>,
    delays: BTreeMap<Link, Overlap<Duration>>,
}

/// What lets a delay between two hosts end.
pub(super) type Delayed = (String, String, u64);

impl Ways {
    /// All open.
    pub(super) fn new(streams: Streams) -> Self {
        Self {
            streams,
            cuts: BTreeMap::new(),
            holds: BTreeMap::new(),
            delays: BTreeMap::new(),
        }
    }

    /// Cuts a way, from one host to another; messages on it are lost from now on.
    pub(super) fn cut(&mut self, sim: &turmoil::Sim<'_>, from: &str, to: &str) {
        let count = self.cuts.entry(link(from, to)).or_default();
        *count += 1;
        if *count == 1 {
            // A link can't be held in one direction and cut in the other: cutting comes first.
            if self.is_held(from, to) {
                sim.release(from, to);
            }
            sim.partition_oneway(from, to);
            self.streams.set_cut(from, to, true);
        }
    }

    /// Ends one cut.
    pub(super) fn mend(&mut self, sim: &turmoil::Sim<'_>, from: &str, to: &str) {
        let count = self.cuts.entry(link(from, to)).or_default();
        *count = count.saturating_sub(1);
        if *count == 0 {
            sim.repair_oneway(from, to);
            self.streams.set_cut(from, to, false);
            if self.is_held(from, to) && !self.is_cut(to, from) {
                sim.hold(from, to);
            }
        }
    }

    /// Holds everything between two hosts back.
    pub(super) fn hold(&mut self, sim: &turmoil::Sim<'_>, a: &str, b: &str) {
        let count = self.holds.entry(pair(a, b)).or_default();
        *count += 1;
        if *count == 1 && !self.is_cut(a, b) && !self.is_cut(b, a) {
            sim.hold(a, b);
        }
    }

    /// Ends one hold; what was held arrives.
    pub(super) fn release(&mut self, sim: &turmoil::Sim<'_>, a: &str, b: &str) {
        let count = self.holds.entry(pair(a, b)).or_default();
        *count = count.saturating_sub(1);
        if *count == 0 && !self.is_cut(a, b) && !self.is_cut(b, a) {
            sim.release(a, b);
        }
    }

    /// Messages between two hosts take as long as this from now on, at the most.
    pub(super) fn delay(&mut self, sim: &turmoil::Sim<'_>, a: &str, b: &str, late: Duration) -> Delayed {
        let number = self.delays.entry(pair(a, b)).or_default().begin(late);
        sim.set_link_max_message_latency(a, b, late);
        (a.to_owned(), b.to_owned(), number)
    }

    /// Ends one delay.
    pub(super) fn hasten(&mut self, sim: &turmoil::Sim<'_>, (a, b, number): &Delayed) {
        let delays = self.delays.entry(pair(a, b)).or_default();
        delays.end(*number);
        let late = delays.now().copied().unwrap_or(LATENCY_MAX);
        sim.set_link_max_message_latency(a.as_str(), b.as_str(), late);
    }

    /// Whether messages get through in this direction.
    pub(super) fn is_open(&self, from: &str, to: &str) -> bool {
        !self.is_cut(from, to) && !self.is_held(from, to)
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        self.cuts.get(&link(from, to)).is_some_and(|count| *count > 0)
    }

    fn is_held(&self, a: &str, b: &str) -> bool {
        self.holds.get(&pair(a, b)).is_some_and(|count| *count > 0)
    }
}

fn link(from: &str, to: &str) -> Link {
    (from.to_owned(), to.to_owned())
}

fn pair(a: &str, b: &str) -> Link {
    if a < b { link(a, b) } else { link(b, a) }
}
