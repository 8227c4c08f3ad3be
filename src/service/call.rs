//! What every call shares: its deadline, the header of its answer, a stream's end.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, metadata::MetadataMap};

use super::status::{CallKind, refused};
use crate::{
    model::Revision,
    node::{Node, NodeError, Read, ReadOptions},
    registry::{Command, Outcome},
    wire::{
        ErrorDetail, Reason,
        header::Header,
        request::{self, Consistency},
    },
};

/// The longest that a call waits for a quorum, whatever its caller allows.
pub(super) const CALL_MAX: Duration = Duration::from_secs(5);
/// A client that takes nothing from a stream for so long is cut off: what is held for it must not be held for ever.
const STALLED_MAX: Duration = Duration::from_secs(300);
/// What is kept back of a caller's own deadline, so that the answer says why and arrives before the caller gives up:
/// a tenth, and at most this.
const MARGIN_MAX: Duration = Duration::from_millis(100);

/// When the node gives up: the caller's deadline, and at most [`CALL_MAX`] from now.
pub(super) fn deadline(metadata: &MetadataMap) -> Instant {
    let asked = metadata
        .get("grpc-timeout")
        .and_then(|text| text.to_str().ok())
        .and_then(timeout);
    let patience = asked.map_or(CALL_MAX, |asked| asked - (asked / 10).min(MARGIN_MAX));
    Instant::now() + patience.min(CALL_MAX)
}

/// A gRPC timeout: up to eight digits and a unit. What is none counts as not set.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// How fresh an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// It reflects everything that was acknowledged before it was asked for.
    Linearizable,
    /// It comes from the node's own state, which is at most so old; `None` = unknown.
    Stale(Option<Duration>),
}

impl Freshness {
    /// How fresh a read is.
    pub(super) fn of(read: &Read) -> Self {
        if read.stale {
            Self::Stale(read.age)
        } else {
            Self::Linearizable
        }
    }
}

/// What an answer says of itself.
pub(super) fn header(node: &Node, revision: Revision, freshness: Freshness) -> Header<'_> {
    let (stale, age) = match freshness {
        Freshness::Linearizable => (false, None),
        Freshness::Stale(age) => (true, age),
    };
    Header {
        cluster_id: node.cluster_id(),
        node: node.name(),
        term: node.term(),
        revision,
        stale,
        age,
        leader: node.leader().map(|leader| leader.name.clone()),
    }
}

/// One version of the registry, as fresh as the caller asks.
pub(super) async fn read(node: &Node, options: request::ReadOptions, deadline: Instant) -> Result<Read, Status> {
    let (stale, max_age) = match options.consistency {
        Consistency::Linearizable => (false, None),
        Consistency::Stale { max_age } => (true, max_age),
    };
    let min_revision = options.min_revision.unwrap_or_default();
    let options = ReadOptions {
        stale,
        max_age,
        min_revision,
    };
    node.read(options, deadline)
        .await
        .map_err(|error| refused(error, CallKind::Read))
}

/// Does a command: the header of its answer, and what it did.
pub(super) async fn write(node: &Node, command: Command, deadline: Instant) -> Result<(Header<'_>, Outcome), Status> {
    let written = node.write(command, deadline).await;
    let (revision, outcome) = written.map_err(|error| refused(error, CallKind::Write))?;
    Ok((header(node, revision, Freshness::Linearizable), outcome))
}

/// How a call ends for which the state machine gave the answer of another: a mistake of ours.
pub(super) fn mismatched() -> Status {
    tracing::error!("a command was answered as if it were another");
    refused(NodeError::OutcomeUnknown, CallKind::Write)
}

/// Why there will be no room for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// The client has left: there is nobody to tell.
    Left,
    /// The client reads nothing.
    Stalled,
}

/// What a client is told, should it ever read again, that took nothing for [`STALLED_MAX`].
pub(super) fn stalled(stream: &str) -> ErrorDetail {
    let seconds = STALLED_MAX.as_secs();
    let mut detail = ErrorDetail::new(
        Reason::Overloaded,
        format!("nothing was read from this {stream} for {seconds} s"),
    );
    detail.quota = Some((stream.into(), format!("{seconds} s without reading")));
    detail
}

/// The sending side of a stream of answers.
#[derive(Debug)]
pub(super) struct Outlet<T> {
    sender: mpsc::Sender<T>,
    end: Arc<Mutex<Option<Status>>>,
}

impl<T> Clone for Outlet<T> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            end: self.end.clone(),
        }
    }
}

impl<T> Outlet<T> {
    /// Waits for room; `None` when the client has left.
    pub(super) async fn room(&self) -> Option<mpsc::Permit<'_, T>> {
        self.sender.reserve().await.ok()
    }

    /// Waits for room, but for no longer than [`STALLED_MAX`].
    ///
    /// # Errors
    /// There is nobody to send to any more.
    pub(super) async fn room_in_time(&self) -> Result<mpsc::Permit<'_, T>, NoRoom> {
        match tokio::time::timeout(STALLED_MAX, self.room()).await {
            Ok(Some(room)) => Ok(room),
            Ok(None) => Err(NoRoom::Left),
            Err(_elapsed) => Err(NoRoom::Stalled),
        }
    }

    /// Waits until the client has left.
    pub(super) async fn closed(&self) {
        self.sender.closed().await;
    }

    /// How the stream ends once everything sent has been read and every outlet is dropped. The first word counts. It
    /// needs no room: whoever does not read can't hold it up.
    pub(super) fn end_with(&self, status: Status) {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(status);
    }
}

/// A stream of answers; owns the task that makes them, which ends with it.
#[derive(Debug)]
pub(super) struct Answers<T> {
    receiver: mpsc::Receiver<T>,
    end: Arc<Mutex<Option<Status>>>,
    _task: AbortOnDropHandle<()>,
}

impl<T: Send + 'static> Answers<T> {
    /// A stream of the answers that `task` sends; at most `waiting_max` wait for the transport.
    pub(super) fn spawn<F>(waiting_max: usize, task: impl FnOnce(Outlet<T>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(waiting_max);
        let end = Arc::<Mutex<Option<Status>>>::default();
        let task: JoinHandle<()> = tokio::spawn(task(Outlet {
            sender,
            end: end.clone(),
        }));
        Self {
            receiver,
            end,
            _task: AbortOnDropHandle::new(task),
        }
    }
}

impl<T> Stream for Answers<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match ready!(self.receiver.poll_recv(cx)) {
            Some(answer) => Some(Ok(answer)),
            None => self.end.lock().unwrap_or_else(PoisonError::into_inner).take().map(Err),
        })
    }
}

/// A stream of answers that come in batches: what is ready together takes one turn on its way to the transport, which
/// puts it into one frame.
#[derive(Debug)]
pub(super) struct Batches<T> {
    batches: Answers<Vec<T>>,
    ready: std::vec::IntoIter<T>,
}

impl<T> From<Answers<Vec<T>>> for Batches<T> {
    fn from(batches: Answers<Vec<T>>) -> Self {
        let ready = Vec::new().into_iter();
        Self { batches, ready }
    }
}

impl<T: Unpin> Stream for Batches<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(answer) = self.ready.next() {
                return Poll::Ready(Some(Ok(answer)));
            }
            match ready!(Pin::new(&mut self.batches).poll_next(cx)) {
                Some(Ok(batch)) => self.ready = batch.into_iter(),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[test]
    fn a_grpc_timeout_is_up_to_eight_digits_and_a_unit() {
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("2S"), Some(Duration::from_secs(2)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        assert_eq!(timeout("7u"), Some(Duration::from_micros(7)));
        for text in ["", "m", "5", "5x", "-5m", "+5m", "123456789m", "5 m", "é"] {
            assert_eq!(timeout(text), None, "{text:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_the_callers_less_a_margin_and_at_most_five_seconds() {
        let left = |timeout: Option<&'static str>| {
            let mut metadata = MetadataMap::new();
            if let Some(text) = timeout {
                metadata.insert("grpc-timeout", text.parse().unwrap());
            }
            deadline(&metadata) - Instant::now()
        };
        assert_eq!(left(None), CALL_MAX);
        assert_eq!(left(Some("60S")), CALL_MAX);
        assert_eq!(left(Some("2S")), Duration::from_millis(1_900));
        assert_eq!(left(Some("100m")), Duration::from_millis(90));
        assert_eq!(left(Some("0m")), Duration::ZERO);
        assert_eq!(left(Some("nonsense")), CALL_MAX);
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_status_after_everything_that_was_sent() {
        let answers = Answers::spawn(2, |outlet| async move {
            for number in 0..5 {
                outlet.room().await.unwrap().send(number);
            }
            outlet.end_with(Status::aborted("first"));
            outlet.end_with(Status::aborted("second"));
        });
        let got: Vec<_> = answers
            .map(|answer| answer.map_err(|status| status.message().to_owned()))
            .collect()
            .await;
        assert_eq!(got, [Ok(0), Ok(1), Ok(2), Ok(3), Ok(4), Err("first".to_owned())]);
    }

    #[tokio::test]
    async fn batches_are_streamed_one_by_one_and_an_empty_one_is_none() {
        let batches = Answers::spawn(2, |outlet| async move {
            for batch in [vec![0, 1], vec![], vec![2]] {
                outlet.room().await.unwrap().send(batch);
            }
            outlet.end_with(Status::aborted("the end"));
        });
        let got: Vec<_> = Batches::from(batches)
            .map(|answer| answer.map_err(|status| status.message().to_owned()))
            .collect()
            .await;
        assert_eq!(got, [Ok(0), Ok(1), Ok(2), Err("the end".to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_nothing_is_cut_off_and_told_if_it_ever_reads_again() {
        let (ended, mut when) = mpsc::channel::<NoRoom>(1);
        let began = Instant::now();
        let answers = Answers::spawn(2, |outlet| async move {
            loop {
                match outlet.room_in_time().await {
                    Ok(room) => room.send(7),
                    Err(no_room) => {
                        outlet.end_with(stalled("test").into_status());
                        ended.send(no_room).await.unwrap();
                        return;
                    }
                }
            }
        });
        assert_eq!(when.recv().await, Some(NoRoom::Stalled));
        assert_eq!(began.elapsed(), STALLED_MAX);
        let got: Vec<_> = answers.collect().await;
        assert_eq!(got.len(), 3);
        let status = got[2].as_ref().unwrap_err();
        assert_eq!(ErrorDetail::from_status(status).unwrap().reason, Reason::Overloaded);
    }

    #[tokio::test]
    async fn a_task_ends_with_its_stream() {
        let (alive, mut dropped) = mpsc::channel::<()>(1);
        let answers = Answers::<()>::spawn(1, |_outlet| async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        drop(answers);
        assert_eq!(dropped.recv().await, None);
    }
}
