//! What waits for the proposer, and the way to it: bounded in number and in bytes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    model::{LeaseId, LogIndex, NodeId, Revision, Term},
    registry::{Command, Renewal, Reply},
};

/// Commands that wait before the caller is told to come back.
pub(super) const WRITES_MAX: usize = 16_384;
/// Their size.
const WRITES_MAX_BYTES: usize = 32 << 20;
/// Batches of renewals that wait likewise.
pub(super) const RENEWALS_MAX: usize = 4_096;

/// So many renewals are company enough: they wait for no others.
const COMPANY: usize = 256;

/// Whether the renewals of these lists are company enough for each other. Looks at no more lists than it takes.
pub(super) fn are_company<'a>(lists: impl IntoIterator<Item = &'a [LeaseId]>) -> bool {
    let mut renewals = 0;
    lists.into_iter().any(|ids| {
        renewals += ids.len();
        renewals >= COMPANY
    })
}

/// Why a write or a renewal has no result from the proposer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Not applied: this node does not lead (that term).
    NotLeader(Option<NodeId>),
    /// Not applied: no quorum within the caller's time.
    NoQuorum,
    /// Not applied: too much waits.
    Overloaded,
    /// Not applied: the node is going down.
    ShuttingDown,
    /// Not applied: the disk is full.
    DiskFull,
    /// It may yet be applied.
    Unknown,
}

/// A command and its caller.
pub(super) struct Write {
    pub(super) command: Command,
    pub(super) term: Option<Term>,
    pub(super) propose_by: Instant,
    /// The same, as the log will have it.
    pub(super) encoded: Bytes,
    pub(super) since: Instant,
    pub(super) reply: oneshot::Sender<Result<(LogIndex, Reply), Failure>>,
    _share: Share,
}

/// Renewals of one caller: ids ascending, none twice.
pub(super) struct Renewals {
    pub(super) ids: Vec<LeaseId>,
    pub(super) term: Option<Term>,
    pub(super) propose_by: Instant,
    pub(super) since: Instant,
    pub(super) reply: oneshot::Sender<Result<(Vec<Renewal>, Revision), Failure>>,
}

/// The way to the proposer.
#[derive(Clone)]
pub(super) struct ProposerHandle {
    writes: mpsc::Sender<Write>,
    renewals: mpsc::Sender<Renewals>,
    clock_running: Arc<AtomicBool>,
    disk_full: Arc<AtomicBool>,
    waiting_bytes: Arc<AtomicUsize>,
}

/// What arrives on the other side of the [`ProposerHandle`].
pub(super) struct Queues {
    pub(super) new_writes: mpsc::Receiver<Write>,
    pub(super) new_renewals: mpsc::Receiver<Renewals>,
    pub(super) clock_running: Arc<AtomicBool>,
    pub(super) disk_full: Arc<AtomicBool>,
}

/// A share of the bytes that may wait; given back when it is dropped.
struct Share(Arc<AtomicUsize>, usize);

impl Share {
    fn take(waiting: &Arc<AtomicUsize>, bytes: usize) -> Result<Self, Failure> {
        let share = Self(waiting.clone(), bytes);
        let before = waiting.fetch_add(bytes, Ordering::Relaxed);
        // One command always fits, however large.
        if before > 0 && before + bytes > WRITES_MAX_BYTES {
            Err(Failure::Overloaded)
        } else {
            Ok(share)
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl ProposerHandle {
    /// A way, and where it leads.
    pub(super) fn new() -> (Self, Queues) {
        let (writes, new_writes) = mpsc::channel(WRITES_MAX);
        let (renewals, new_renewals) = mpsc::channel(RENEWALS_MAX);
        let handle = Self {
            writes,
            renewals,
            clock_running: Arc::default(),
            disk_full: Arc::default(),
            waiting_bytes: Arc::default(),
        };
        let queues = Queues {
            new_writes,
            new_renewals,
            clock_running: Arc::clone(&handle.clock_running),
            disk_full: Arc::clone(&handle.disk_full),
        };
        (handle, queues)
    }

    /// Proposes a command if this node leads (that term) before `propose_by`, and waits until it is applied. `encoded`
    /// is the same command.
    pub(super) async fn write(
        &self,
        command: Command,
        encoded: Bytes,
        term: Option<Term>,
        propose_by: Instant,
    ) -> Result<(LogIndex, Reply), Failure> {
        let (reply, answer) = oneshot::channel();
        let share = Share::take(&self.waiting_bytes, encoded.len())?;
        let write = Write {
            command,
            term,
            propose_by,
            encoded,
            since: Instant::now(),
            reply,
            _share: share,
        };
        send(&self.writes, write)?;
        // The proposer answers all that it took, unless it is gone; what it had then proposed is unknown.
        answer.await.unwrap_or(Err(Failure::Unknown))
    }

    /// Renews leases likewise; the results are in the order of `ids`, which must ascend.
    pub(super) async fn renew(
        &self,
        ids: Vec<LeaseId>,
        term: Option<Term>,
        propose_by: Instant,
    ) -> Result<(Vec<Renewal>, Revision), Failure> {
        let (reply, answer) = oneshot::channel();
        send(
            &self.renewals,
            Renewals {
                ids,
                term,
                propose_by,
                since: Instant::now(),
                reply,
            },
        )?;
        answer.await.unwrap_or(Err(Failure::Unknown))
    }

    /// Whether this node leads and its lease clock moves.
    pub(super) fn clock_running(&self) -> bool {
        self.clock_running.load(Ordering::Relaxed)
    }

    /// Commands that may grow the state are refused while this is set; removals and renewals go on.
    pub(super) fn set_disk_full(&self, full: bool) {
        self.disk_full.store(full, Ordering::Relaxed);
    }
}

fn send<T>(queue: &mpsc::Sender<T>, item: T) -> Result<(), Failure> {
    queue.try_send(item).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => Failure::Overloaded,
        mpsc::error::TrySendError::Closed(_) => Failure::ShuttingDown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_renewals_are_company_however_they_are_spread() {
        let list = |count: u64| (1..=count).map(LeaseId).collect::<Vec<_>>();
        let (one, most, all) = (list(1), list(COMPANY as u64 - 1), list(COMPANY as u64));
        let are = |lists: &[&Vec<LeaseId>]| are_company(lists.iter().map(|ids| ids.as_slice()));
        assert!(!are(&[]));
        assert!(!are(&[&most]));
        assert!(are(&[&all]));
        assert!(are(&[&most, &one]));
        assert!(are(&vec![&one; COMPANY]));
        assert!(!are(&vec![&one; COMPANY - 1]));
    }

    #[test]
    fn what_waits_has_a_limit_in_bytes_and_one_large_command_always_fits() {
        let waiting = Arc::new(AtomicUsize::new(0));
        let large = Share::take(&waiting, WRITES_MAX_BYTES + 1).map_err(drop).unwrap();
        assert_eq!(Share::take(&waiting, 1).map(drop), Err(Failure::Overloaded));
        drop(large);
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
        assert!(Share::take(&waiting, 1).is_ok());
    }
}
