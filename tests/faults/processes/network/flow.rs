//! What becomes of the bytes that go one way.
//!
//! A pump reads from one side and hands chunks, each with the time at which it is due, to a writer. Both look at the
//! way's [`Flow`] again whenever it changes. A queue of a few chunks lies between them, so that whoever sends into a
//! way that stands still is soon held up, as TCP's windows do it.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use rand::Rng as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    sync::{mpsc, watch},
    time::Instant,
};

const CHUNK_BYTES: usize = 16 << 10;
/// Chunks under way; with a delay of 100 ms they let some 10 MB/s pass.
const CHUNKS_MAX: usize = 64;

/// Whether bytes pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pass {
    /// They do.
    #[default]
    Open,
    /// They stand still, connections stay open, and all goes on when it is healed: a pulled cable.
    Held,
    /// They are swallowed; a connection that lost some is reset when it is healed: a box in between that lost its memory.
    Swallowed,
    /// Connections are reset and new ones refused.
    Cut,
}

/// The state of one way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Whether bytes pass.
    pub(crate) pass: Pass,
    /// How long they take …
    pub(crate) delay: Duration,
    /// … and up to how much longer, by chance.
    pub(crate) jitter: Duration,
    /// How many pass in a second; `None` = as many as come.
    pub(crate) bytes_per_s: Option<u64>,
    /// Whether `pass` comes and goes: then nobody can say that nothing passes.
    pub(crate) flaps: bool,
    /// Counts the times that all present connections were reset.
    pub(crate) resets: u64,
}

impl Flow {
    /// Takes another flow's state, but for the count of resets.
    pub(crate) fn become_like(&mut self, other: &Self) {
        *self = Self {
            resets: self.resets,
            ..other.clone()
        };
    }

    /// Both at once: the worse of each.
    pub(crate) fn and(self, other: &Self) -> Self {
        Self {
            pass: self.pass.max(other.pass),
            delay: self.delay.max(other.delay),
            jitter: self.jitter.max(other.jitter),
            bytes_per_s: self.bytes_per_s.into_iter().chain(other.bytes_per_s).min(),
            flaps: self.flaps || other.flaps,
            resets: self.resets,
        }
    }

    /// Open and quick. Connections that stand stay as they are.
    pub(crate) fn heal(&mut self) {
        self.become_like(&Self::default());
    }
}

/// How a pump ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The sender closed its side, and the receiver was told so.
    Closed,
    /// The whole connection is to be reset.
    Reset,
}

/// Carries bytes one way until the sender closes, something breaks, or the way is cut or reset.
pub(super) async fn pump(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, flow: watch::Receiver<Flow>) -> Ending {
    let (chunks, due) = mpsc::channel(CHUNKS_MAX);
    let resets = flow.borrow().resets;
    tokio::select! {
        () = cut_or_reset(flow.clone(), resets) => Ending::Reset,
        // The sender may be silent when the receiver's side has ended: only that counts.
        ending = write(to, due, flow.clone()) => ending,
        ending = async { read(from, chunks, flow.clone()).await; std::future::pending().await } => ending,
    }
}

async fn cut_or_reset(mut flow: watch::Receiver<Flow>, resets: u64) {
    let changed = flow.wait_for(|flow| flow.pass == Pass::Cut || flow.resets != resets);
    if changed.await.is_err() {
        // The network is gone, and with it whoever could harm this way.
        std::future::pending::<()>().await;
    }
}

/// Ends by dropping the sender of chunks, when the other side closed or broke.
async fn read(from: &mut OwnedReadHalf, chunks: mpsc::Sender<(Instant, Bytes)>, flow: watch::Receiver<Flow>) {
    let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
    let mut last = Instant::now();
    loop {
        buffer.reserve(CHUNK_BYTES);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        // Bytes of one connection never overtake each other.
        last = last.max(Instant::now() + delay(&flow.borrow()));
        if chunks.send((last, buffer.split().freeze())).await.is_err() {
            return;
        }
    }
}

fn delay(flow: &Flow) -> Duration {
    if flow.jitter.is_zero() {
        return flow.delay;
    }
    flow.delay + flow.jitter.mul_f64(rand::rng().random::<f64>())
}

async fn write(
    to: &mut OwnedWriteHalf,
    mut due: mpsc::Receiver<(Instant, Bytes)>,
    mut flow: watch::Receiver<Flow>,
) -> Ending {
    let mut lost = false;
    loop {
        let next = tokio::select! {
            next = due.recv() => next,
            // A stream can't lose a part of itself and go on.
            () = open_again(flow.clone()), if lost => return Ending::Reset,
        };
        if let Some((at, _)) = &next {
            tokio::time::sleep_until(*at).await;
        }
        if flow.wait_for(|flow| flow.pass != Pass::Held).await.is_err() {
            return Ending::Reset;
        }
        if lost || flow.borrow().pass == Pass::Swallowed {
            lost = true;
            if next.is_none() {
                open_again(flow.clone()).await;
                return Ending::Reset;
            }
            continue;
        }
        let Some((_, bytes)) = next else {
            return match to.shutdown().await {
                Ok(()) => Ending::Closed,
                Err(_) => Ending::Reset,
            };
        };
        if send(to, &bytes, &flow).await.is_err() {
            return Ending::Reset;
        }
    }
}

async fn open_again(mut flow: watch::Receiver<Flow>) {
    // An error says that the network is gone: nothing more to wait for.
    let _open = flow.wait_for(|flow| flow.pass == Pass::Open).await;
}

async fn send(to: &mut OwnedWriteHalf, bytes: &Bytes, flow: &watch::Receiver<Flow>) -> io::Result<()> {
    let rate = flow.borrow().bytes_per_s;
    let Some(rate) = rate else {
        return to.write_all(bytes).await;
    };
    // Twenty pieces a second are smooth enough.
    let piece = usize::try_from((rate / 20).max(1)).unwrap_or(CHUNK_BYTES);
    for part in bytes.chunks(piece) {
        to.write_all(part).await?;
        tokio::time::sleep(Duration::from_secs(1).mul_f64(part.len() as f64 / rate as f64)).await;
    }
    Ok(())
}
