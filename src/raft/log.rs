//! The log and the vote as openraft wants them, over [`LogStorage`]: bytes there, records here.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::{Stream, future::BoxFuture};
use openraft::{
    OptionalSend, RaftLogReader,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use prost::Message as _;
use tokio::sync::oneshot;

use super::{
    codec::{self, Malformed},
    tail::Tail,
    types::{LogId, Record, TypeConfig, Vote},
};
use crate::{
    blocking,
    storage::{self, Done, LogStorage, Marker, StorageError},
    wire::internal,
};

/// What one read hands out, encoded; one larger record comes alone. It is also the size of an append to a follower.
const READ_MAX_BYTES: usize = 2 << 20;

/// The log; clones are handles of the same one.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) store: Arc<dyn LogStorage>,
    tail: Arc<Mutex<Tail>>,
    /// The vote that this node has cast: set before it is stored, and so before anyone is told of it.
    cast: Arc<Mutex<Option<Vote>>>,
}

impl Log {
    pub(super) fn new(store: Arc<dyn LogStorage>) -> Self {
        Self {
            store,
            tail: Arc::default(),
            cast: Arc::default(),
        }
    }

    /// For whom this node has voted last: whoever has its vote, or will, has it from this moment on.
    pub(super) fn vote_cast(&self) -> Option<Vote> {
        *self.cast()
    }

    fn cast(&self) -> MutexGuard<'_, Option<Vote>> {
        self.cast.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this node has neither voted nor taken any record: it is new, or lost everything.
    pub(super) fn is_virgin(&self) -> bool {
        self.marker(Marker::Vote).is_none()
            && self.marker(Marker::Purged).is_none()
            && self.store.bounds() == (None, None)
    }

    /// What was stored with [`Log::store_acknowledged`].
    pub(super) fn acknowledged(&self) -> Option<Bytes> {
        self.marker(Marker::Acknowledged)
    }

    /// Stores what is known of the peers' logs, along with the next write that is synced.
    pub(super) fn store_acknowledged(&self, bytes: Bytes) {
        self.store.set_marker(Marker::Acknowledged, bytes, None);
    }

    /// Waits until everything that was handed in before is on the disk.
    pub(super) async fn sync(&self) -> io::Result<()> {
        let (done, synced) = oneshot::channel();
        self.store.append(Vec::new(), told(done));
        written(synced).await
    }

    async fn mark_durably(&self, marker: Marker, bytes: Bytes) -> io::Result<()> {
        let (done, synced) = oneshot::channel();
        self.store.set_marker(marker, bytes, Some(told(done)));
        written(synced).await
    }

    /// A marker's value; one without bytes says "none".
    fn marker(&self, marker: Marker) -> Option<Bytes> {
        self.store.marker(marker).filter(|bytes| !bytes.is_empty())
    }

    fn marked_log_id(&self, marker: Marker) -> io::Result<Option<LogId>> {
        let Some(bytes) = self.marker(marker) else {
            return Ok(None);
        };
        let id = internal::PeerLog::decode(bytes).map_err(Malformed::from)?;
        Ok(codec::some_log_id(id.log_id.as_ref())?)
    }

    fn vote(&self) -> io::Result<Option<Vote>> {
        let Some(bytes) = self.marker(Marker::Vote) else {
            return Ok(None);
        };
        let vote = internal::Vote::decode(bytes).map_err(Malformed::from)?;
        Ok(Some(codec::vote_from_proto(Some(&vote))?))
    }

    /// Records from `start` on, before `end`: as many as one read hands out.
    async fn read(&self, start: u64, end: u64) -> io::Result<Vec<Record>> {
        if let Some(records) = self.tail().read(start, end, READ_MAX_BYTES) {
            return Ok(records);
        }
        match self
            .store
            .read_recent(start..end, READ_MAX_BYTES)
            .map_err(io::Error::other)?
        {
            Some(records) => decode(start, records),
            None => self.read_aside(start, end).await,
        }
    }

    /// The same, on another thread, which begins with it at once: reading waits for the disk, and decoding takes as long
    /// as applying.
    fn read_aside(&self, start: u64, end: u64) -> BoxFuture<'static, io::Result<Vec<Record>>> {
        let store = self.store.clone();
        let reading = blocking::begin(move || {
            let records = store.read(start..end, READ_MAX_BYTES).map_err(io::Error::other)?;
            decode(start, records)
        });
        Box::pin(async move { reading.await.map_err(io::Error::other)? })
    }

    /// A range as the part of it that the log may hold.
    fn clamp(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let (Some(first), Some(last)) = self.store.bounds() else {
            return (0, 0);
        };
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => u64::MAX,
        };
        (start.max(first), end.min(last.saturating_add(1)))
    }

    pub(super) fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads stored records, which follow each other from `start` on.
fn decode(start: u64, records: Vec<storage::Record>) -> io::Result<Vec<Record>> {
    let mut decoded = Vec::with_capacity(records.len());
    for (index, stored) in (start..).zip(records) {
        let record = codec::record_from_bytes(stored.bytes)?;
        if stored.index != index || record.log_id.index() != index {
            let problem = format!(
                "record {} stands at index {} where {index} is due",
                record.log_id, stored.index
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        decoded.push(record);
    }
    Ok(decoded)
}

/// A log id as markers hold it; none is no bytes. It is wrapped, for the very first id alone would be none, too.
fn mark(id: Option<&LogId>) -> Bytes {
    let Some(id) = id else { return Bytes::new() };
    let marked = internal::PeerLog {
        node_id: 0,
        log_id: Some(codec::log_id_to_proto(id)),
    };
    marked.encode_to_vec().into()
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Record>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (mut start, end) = self.clamp(&range);
        let mut all = Vec::new();
        while start < end {
            let read = self.read(start, end).await?;
            if read.is_empty() {
                // Truncated since the range was looked at.
                break;
            }
            start += read.len() as u64;
            all.extend(read);
        }
        Ok(all)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Record>> {
        let (start, end) = self.clamp(&(start..end));
        if start < end {
            self.read(start, end).await
        } else {
            Ok(Vec::new())
        }
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Record>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // Apply asks for everything that is committed, which may be a whole log: it is read piece by piece, each while
        // the one before is applied.
        let (start, end) = self.clamp(&range);
        let ahead = Ahead {
            log: self.clone(),
            read: Vec::new().into_iter(),
            coming: None,
            next: start,
            end,
        };
        futures_util::stream::try_unfold(ahead, |mut ahead| async move {
            if ahead.read.len() == 0 && ahead.next < ahead.end {
                ahead.read = ahead.piece().await?.into_iter();
            }
            Ok(ahead.read.next().map(|record| (record, ahead)))
        })
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let stored = self.vote()?;
        let mut cast = self.cast();
        *cast = cast.or(stored);
        Ok(stored)
    }
}

struct Ahead {
    log: Log,
    read: std::vec::IntoIter<Record>,
    /// The piece from `next` on, which is being read and decoded.
    coming: Option<BoxFuture<'static, io::Result<Vec<Record>>>>,
    next: u64,
    end: u64,
}

impl Ahead {
    /// The next piece; the one after it is begun.
    async fn piece(&mut self) -> io::Result<Vec<Record>> {
        let piece = match self.coming.take() {
            Some(coming) => coming.await?,
            None => self.log.read(self.next, self.end).await?,
        };
        self.next += piece.len() as u64;
        if piece.is_empty() {
            self.end = self.next;
        } else if self.next < self.end {
            self.coming = Some(self.log.read_aside(self.next, self.end));
        }
        Ok(piece)
    }
}

/// Tells whoever waits, if anyone still does: the receiver goes only with the whole node.
fn told(done: oneshot::Sender<Result<(), StorageError>>) -> Done {
    Box::new(move |outcome| {
        let _left = done.send(outcome);
    })
}

async fn written(synced: oneshot::Receiver<Result<(), StorageError>>) -> io::Result<()> {
    match synced.await {
        Ok(outcome) => outcome.map_err(io::Error::other),
        Err(_writer_gone) => Err(io::Error::other("the log's writer has ended")),
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let last_purged_log_id = self.marked_log_id(Marker::Purged)?;
        let last_log_id = match self.store.bounds().1 {
            Some(last) => self.read(last, last + 1).await?.first().map(|record| record.log_id),
            None => None,
        };
        Ok(LogState {
            last_purged_log_id,
            last_log_id: last_log_id.or(last_purged_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        *self.cast() = Some(*vote);
        let bytes: Bytes = codec::vote_to_proto(vote).encode_to_vec().into();
        // Plant: a vote is cast before it is on the disk.
        planted!("vote-not-persisted" => {
            self.store.set_marker(Marker::Vote, bytes, None);
            return Ok(());
        });
        self.mark_durably(Marker::Vote, bytes).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        // It comes before every apply: not synced, and so never later on the disk than the records that it speaks of,
        // which were handed in before it.
        self.store.set_marker(Marker::Committed, mark(committed.as_ref()), None);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.marked_log_id(Marker::Committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Record> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut records, mut decoded) = (Vec::new(), Vec::new());
        for entry in entries {
            let bytes = codec::record_to_bytes(&entry);
            decoded.push((entry.clone(), bytes.len()));
            let index = entry.log_id.index();
            records.push(storage::Record { index, bytes });
        }
        // Plant: records are acknowledged before they are on the disk.
        planted!("append-acknowledged-before-sync" => { return self.append_rashly(records, decoded, callback); });
        let done = move |outcome: Result<(), StorageError>| callback.io_completed(outcome.map_err(io::Error::other));
        self.store.append(records, Box::new(done));
        let mut tail = self.tail();
        for (record, bytes) in decoded {
            tail.push(record, bytes);
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let from = last_log_id.map_or(0, |last| last.index() + 1);
        self.store.truncate_from(from).map_err(io::Error::other)?;
        self.tail().truncate_from(from);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        fail::fail_point!("crash-before-purge");
        self.store
            .purge_through(log_id.index(), mark(Some(&log_id)))
            .map_err(io::Error::other)?;
        self.tail().purge_through(log_id.index());
        fail::fail_point!("crash-after-purge");
        Ok(())
    }
}
