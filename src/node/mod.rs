//! One member of the cluster: the house's API for those upstairs.
//!
//! Owns the way of every call to the leader ([`Route`](route)), the proposer that turns waiting writes into entries,
//! the renewals of its clients merged, the read barrier, the pinned versions of unfinished lists. It promises that a
//! write's error says truly whether the write may have taken effect, that a linearizable read sees everything that
//! was acknowledged before it, and that nothing waits longer than its caller's deadline.
//!
//! It never decodes a request, never speaks gRPC or openraft, and decides no registry's rule: those are the state
//! machine's.

mod barrier;
pub mod bootstrap;
mod clock;
mod error;
mod forwarded;
mod pins;
#[cfg(feature = "failpoints")]
mod plants;
mod proposer;
mod renewals;
mod route;
mod status;
mod waiting;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    barrier::{Barrier, BarrierHandle},
    pins::Pins,
    proposer::Proposer,
    renewals::{Renewals, RenewalsHandle},
    route::{Route, UNAVAILABLE_AFTER},
    waiting::ProposerHandle,
};
pub use self::{
    clock::{Clock, MachineClock},
    error::NodeError,
    status::{NodeStatus, StateHash},
};
use crate::{
    model::{ClusterId, LeaseId, Member, NodeId, NodeName, Position, Revision, Selector, Term, limits::TTL_MIN_MS},
    peer::Peers,
    raft::Raft,
    registry::{Command, Outcome, Renewal, State},
    watch::{Hub, ResetReason, Start, Watch, WatchRefused},
};

/// How long a renewal may take before its client is told that it is not confirmed.
const RENEWAL_MAX: Duration = Duration::from_secs(2);
/// Likewise for a lease that this node does not know: it may be missing, or just granted elsewhere, for as short as any.
const UNKNOWN_LEASE_RENEWAL_MAX: Duration = Duration::from_millis(TTL_MIN_MS / 4);
/// What a shutdown waits for the answers to what is in flight.
const DRAIN_MAX: Duration = Duration::from_secs(3);

/// What a node needs to run.
pub struct NodeParts {
    /// Whose cluster.
    pub cluster_id: ClusterId,
    /// Which node.
    pub node_id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its Raft.
    pub raft: Raft,
    /// Its published state.
    pub hub: Arc<Hub>,
    /// Its ways to the other nodes.
    pub peers: Arc<Peers>,
    /// Its clocks.
    pub clock: Arc<dyn Clock>,
    /// How recent a quorum's acknowledgement must be for a proposal: the election timeout.
    pub quorum_timeout: Duration,
}

/// A running node; cheap to clone.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    cluster_id: ClusterId,
    node_id: NodeId,
    name: NodeName,
    raft: Raft,
    hub: Arc<Hub>,
    peers: Arc<Peers>,
    clock: Arc<dyn Clock>,
    route: Route,
    proposer: ProposerHandle,
    renewals: RenewalsHandle,
    barrier: BarrierHandle,
    pins: Pins,
    started: Duration,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Answered from this node's own state, with its age.
    pub stale: bool,
    /// Stale only: older is refused.
    pub max_age: Option<Duration>,
    /// Wait until the node has this revision.
    pub min_revision: Revision,
}

/// One consistent version of the registry, and how fresh it is.
#[derive(Clone, Debug)]
pub struct Read {
    /// The version.
    pub state: State,
    /// Whether it is only as fresh as `age` says; else it holds everything acknowledged before the read.
    pub stale: bool,
    /// Stale only: an upper bound; `None` = unknown.
    pub age: Option<Duration>,
}

/// What became of one lease's renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The state machine's answer.
    Known(Renewal),
    /// Not confirmed in time; it may or may not have taken effect.
    Unconfirmed,
}

/// A watch and how it begins.
#[derive(Debug)]
pub struct NodeWatch {
    /// The stream of changes.
    pub watch: Watch,
    /// Why it begins with a snapshot that nobody asked for, if the position's cluster is not this one.
    pub reset: Option<ResetReason>,
}

/// Where a watch is to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchStart {
    /// With everything selected.
    Snapshot,
    /// After a position.
    After {
        /// The cluster that the position names; another than this node's resets the watch.
        cluster_id: Option<ClusterId>,
        /// The revision behind it.
        revision: Revision,
    },
    /// With the next change.
    Now,
}

impl Node {
    /// Starts the node's tasks.
    #[must_use]
    pub fn start(parts: NodeParts) -> Self {
        let NodeParts {
            cluster_id,
            node_id,
            name,
            raft,
            hub,
            peers,
            clock,
            quorum_timeout,
        } = parts;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (proposer_task, proposer) = Proposer::new(raft.clone(), clock.clone(), quorum_timeout);
        let route = Route::new(node_id, raft.clone(), peers.clone(), proposer.clone());
        let (renewals_task, renewals) = Renewals::new(route.clone());
        let (barrier_task, barrier) = Barrier::new(route.clone(), hub.clone(), clock.clone());
        tasks.spawn(proposer_task.run(stop.clone()));
        tasks.spawn(renewals_task.run(stop.clone()));
        tasks.spawn(barrier_task.run(stop.clone()));
        let (pins, started) = (Pins::default(), clock.now());
        Self(Arc::new(Inner {
            cluster_id,
            node_id,
            name,
            raft,
            hub,
            peers,
            clock,
            route,
            proposer,
            renewals,
            barrier,
            pins,
            started,
            stop,
            tasks,
        }))
    }

    /// Proposes a command and waits until it is applied: the registry's revision after it, and what it did.
    ///
    /// # Errors
    /// Every variant of [`NodeError`] that a write can meet; each says whether the write may have taken effect.
    pub async fn write(&self, command: Command, deadline: Instant) -> Result<(Revision, Outcome), NodeError> {
        if self.0.stop.is_cancelled() {
            return Err(NodeError::ShuttingDown);
        }
        let (_, reply) = self.0.route.write(command, deadline).await?;
        let revision = reply.revision;
        reply
            .result
            .map(|outcome| (revision, outcome))
            .map_err(|rejection| NodeError::Rejected { rejection, revision })
    }

    /// Renews leases; results in the order asked, and the revision at which they were renewed. All are confirmed
    /// within min(2 s, TTL / 4) of the shortest, or answered as unconfirmed.
    ///
    /// # Errors
    /// `Overloaded`, `ShuttingDown`.
    pub async fn renew(&self, ids: Vec<LeaseId>) -> Result<(Revision, Vec<Renewed>), NodeError> {
        let until = Instant::now() + self.renewal_patience(&ids);
        let count = ids.len();
        // Plant: whoever takes itself for the leader confirms renewals before they are committed.
        planted!("renewal-acknowledged-before-commit" => {
            if self.takes_itself_for_leader() {
                return Ok(self.renewed_rashly(ids, until));
            }
        });
        Ok(match self.0.renewals.renew(ids, until).await? {
            Some((results, revision)) => (revision, results.into_iter().map(Renewed::Known).collect()),
            None => (self.revision(), vec![Renewed::Unconfirmed; count]),
        })
    }

    fn renewal_patience(&self, ids: &[LeaseId]) -> Duration {
        let view = self.0.hub.view();
        let patience = |id: &LeaseId| {
            view.state
                .lease(*id)
                .map_or(UNKNOWN_LEASE_RENEWAL_MAX, |lease| lease.ttl.as_duration() / 4)
        };
        ids.iter().map(patience).min().unwrap_or(RENEWAL_MAX).min(RENEWAL_MAX)
    }

    /// One consistent version of the registry, as fresh as asked.
    ///
    /// # Errors
    /// `NoLeader`, `NoQuorum`, `TooStale`, `RevisionInFuture`, `Overloaded`, `ShuttingDown`.
    pub async fn read(&self, options: ReadOptions, deadline: Instant) -> Result<Read, NodeError> {
        let give_up = give_up(deadline);
        if !options.stale {
            self.0.barrier.pass(give_up).await?;
            let state = self.state();
            check_present(options.min_revision, &state)?;
            return Ok(Read {
                state,
                stale: false,
                age: None,
            });
        }
        self.freshen(options, give_up).await?;
        // The age is taken before the state: what is applied in between can only make it too large.
        let age = self.0.barrier.age();
        Ok(Read {
            state: self.state(),
            stale: true,
            age,
        })
    }

    /// For a stale read that this node's state does not satisfy yet: asks the leader.
    async fn freshen(&self, options: ReadOptions, give_up: Instant) -> Result<(), NodeError> {
        if options.min_revision > self.revision() {
            self.0.barrier.pass(give_up).await?;
            check_present(options.min_revision, &self.state())?;
        }
        let Some(max_age) = options.max_age else { return Ok(()) };
        let fresh = |age: Option<Duration>| age.is_some_and(|age| age <= max_age);
        if !fresh(self.0.barrier.age()) {
            // Whether the leader answered shows in the age.
            let _refused = self.0.barrier.pass(give_up).await;
            let age = self.0.barrier.age();
            if !fresh(age) {
                return Err(NodeError::TooStale { age, max_age });
            }
        }
        Ok(())
    }

    /// Opens a watch. A position ahead of this node's state waits for it behind the read barrier.
    ///
    /// # Errors
    /// `RevisionInFuture`, `TooManyWatches`, and those of the barrier.
    pub async fn watch(
        &self,
        selector: Selector,
        start: WatchStart,
        deadline: Instant,
    ) -> Result<NodeWatch, NodeError> {
        if self.0.stop.is_cancelled() {
            return Err(NodeError::ShuttingDown);
        }
        let (start, reset) = match start {
            WatchStart::Snapshot => (Start::Snapshot, None),
            WatchStart::Now => (Start::Now, None),
            WatchStart::After { cluster_id, .. } if cluster_id != Some(self.0.cluster_id) => {
                (Start::Snapshot, Some(ResetReason::OtherCluster))
            }
            WatchStart::After { revision, .. } => {
                if revision > self.revision() {
                    self.0.barrier.pass(give_up(deadline)).await?;
                }
                (Start::After(revision), None)
            }
        };
        match self.0.hub.watch(selector, start) {
            Ok(watch) => Ok(NodeWatch { watch, reset }),
            Err(WatchRefused::TooMany { limit }) => Err(NodeError::TooManyWatches { limit }),
            Err(WatchRefused::RevisionInFuture { asked, present }) => {
                Err(NodeError::RevisionInFuture { asked, present })
            }
        }
    }

    /// Tries to learn from the leader how fresh this node is; the result shows in [`Node::age`].
    pub async fn try_freshen(&self, deadline: Instant) {
        // A refusal is the answer: the age stays what it was.
        let _refused = self.0.barrier.pass(give_up(deadline)).await;
    }

    /// For how long this node has been running.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.0.clock.now().saturating_sub(self.0.started)
    }

    /// An upper bound of how old this node's state is; `None` = it has heard of no quorum since it started.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.0.barrier.age()
    }

    /// The node's own state, however old.
    #[must_use]
    pub fn state(&self) -> State {
        self.0.hub.view().state.clone()
    }

    /// The revision of the node's own state.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.0.hub.view().state.revision()
    }

    /// Holds a version for the later pages of a list; its number goes into the page token.
    #[must_use]
    pub fn pin(&self, state: State) -> u64 {
        self.0.pins.pin(state)
    }

    /// The version that a page token names.
    ///
    /// # Errors
    /// `PageExpired` when it is no longer held.
    pub fn pinned(&self, number: u64) -> Result<State, NodeError> {
        // Plant: later pages show another revision than the first.
        planted!("page-of-another-revision" => { return Ok(self.state()); });
        self.0.pins.pinned(number).ok_or(NodeError::PageExpired)
    }

    /// Lets a version go when its list is finished.
    pub fn unpin(&self, number: u64) {
        self.0.pins.unpin(number);
    }

    /// Whose cluster.
    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        self.0.cluster_id
    }

    /// Which node.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.0.node_id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.0.name
    }

    /// The term that it believes in.
    #[must_use]
    pub fn term(&self) -> Term {
        self.0.route.term()
    }

    /// The leader that it believes in.
    #[must_use]
    pub fn leader(&self) -> Option<Arc<Member>> {
        self.0.route.leading()
    }

    /// A position in this cluster's history.
    #[must_use]
    pub fn position(&self, revision: Revision) -> Position {
        Position {
            cluster_id: self.0.cluster_id,
            revision,
        }
    }

    /// The members of the cluster, by this node's own state.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.0.raft.members()
    }

    /// Its Raft, for the peer port.
    #[must_use]
    pub fn raft(&self) -> &Raft {
        &self.0.raft
    }

    /// Its ways to the other nodes, for pages that another node pins.
    #[must_use]
    pub fn peers(&self) -> &Arc<Peers> {
        &self.0.peers
    }

    /// Its published state, for metrics.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.0.hub
    }

    /// Ends when the node begins to shut down: streams end then.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// While set, commands that may grow the state are refused with `DiskFull`.
    pub fn set_disk_full(&self, full: bool) {
        self.0.proposer.set_disk_full(full);
    }

    /// Hands leadership over, if this node leads and another one can.
    pub async fn hand_over(&self) {
        self.0.raft.transfer_leadership(DRAIN_MAX).await;
    }

    /// Takes nothing new, ends the streams, answers what is in flight.
    pub async fn shut_down(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        if tokio::time::timeout(DRAIN_MAX, self.0.tasks.wait()).await.is_err() {
            tracing::warn!("gave up waiting for calls in flight");
        }
    }
}

fn check_present(asked: Revision, state: &State) -> Result<(), NodeError> {
    let present = state.revision();
    if asked > present {
        Err(NodeError::RevisionInFuture { asked, present })
    } else {
        Ok(())
    }
}

/// Until when a call waits for a leader and a quorum to appear.
fn give_up(deadline: Instant) -> Instant {
    deadline.min(Instant::now() + UNAVAILABLE_AFTER)
}
