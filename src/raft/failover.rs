//! A leader whose connections close has died, or so it seems: this node then does not wait for a random election
//! timeout, but asks for an election as soon as the dead leader's lease allows one.
//!
//! Voters refuse everyone until the lease that they granted has ended, counted from the last append that they took.
//! So the first try comes just after this node's own lease has ended, and is repeated for the others' sake. Nodes take
//! turns by rank, so that they don't split the vote. It is always a pre-vote: when the leader lives after all, nobody
//! is disturbed.
//!
//! Likewise where nobody leads and another node comes, as after a restart of all: those that are there need not wait for
//! a timeout.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use openraft::async_runtime::watch::WatchReceiver as _;
use rand::Rng as _;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

use super::{Core, Leadership, Timings};

/// After a node's lease has ended, the first try comes so much later.
const MARGIN: Duration = Duration::from_millis(5);
/// What each node waits for those before it: about what an election takes.
const TURN: Duration = Duration::from_millis(60);
/// How often the try is repeated, at the least and at the most.
const RETRY_MS: std::ops::RangeInclusive<u64> = 20..=35;
/// A leader that is heard after this is news: it may have been taken for gone.
const SILENT: Duration = Duration::from_millis(500);
/// Closed connections that wait to be looked into; more say nothing new.
const DEPARTURES_MAX: usize = 16;

/// A leadership, as its appends name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Leader {
    pub(super) term: u64,
    pub(super) node_id: u64,
}

/// What was heard of leaders lately.
#[derive(Debug)]
pub(super) struct Heard {
    last: Mutex<Option<(Leader, Instant)>>,
    /// A leader that was silent, or another one, was heard.
    news: Notify,
    departures: mpsc::Sender<Leader>,
}

impl Heard {
    pub(super) fn new() -> (Self, mpsc::Receiver<Leader>) {
        let (departures, departed) = mpsc::channel(DEPARTURES_MAX);
        let heard = Self {
            last: Mutex::default(),
            news: Notify::new(),
            departures,
        };
        (heard, departed)
    }

    /// An append of this leader came.
    pub(super) fn heard(&self, leader: Leader) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|(known, _)| known.term <= leader.term) {
            let before = last.replace((leader, Instant::now()));
            if before.is_none_or(|(known, at)| known != leader || at.elapsed() > SILENT) {
                self.news.notify_one();
            }
        }
    }

    /// Waits until a leader is heard that was not, or not lately. One waits at a time.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// A connection of this leader broke.
    pub(super) fn broke(&self, leader: Leader) {
        // When the queue is full, others have said so before.
        let _full = self.departures.try_send(leader);
    }

    /// Whether this leadership was heard of that recently.
    pub(super) fn within(&self, term: u64, node_id: u64, silence: Duration) -> bool {
        let leader = Leader { term, node_id };
        self.last()
            .is_some_and(|(last, at)| last == leader && at.elapsed() <= silence)
    }

    fn last(&self) -> Option<(Leader, Instant)> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks into closed connections, one after the other, until the node is gone.
pub(super) async fn watch_departures(
    core: Core,
    heard: std::sync::Arc<Heard>,
    mut departed: mpsc::Receiver<Leader>,
    timings: Timings,
) {
    while let Some(leader) = departed.recv().await {
        pursue(&core, &heard, leader, &timings).await;
        while departed.try_recv().is_ok_and(|other| other.term <= leader.term) {}
    }
}

/// Asks for an election until the leader is replaced, turns out to live, or it is time to leave it to the timers.
async fn pursue(core: &Core, heard: &Heard, leader: Leader, timings: &Timings) {
    let broke = Instant::now();
    let lease = timings.election_max;
    let give_up = broke + 3 * timings.election_max;
    let turn = match rank(core, leader) {
        Some(rank) => TURN * rank,
        None => return,
    };
    loop {
        let Some((last, at)) = heard.last() else { return };
        let lives = last != leader || at > broke + 2 * timings.heartbeat;
        let moved_on = core.metrics().borrow_watched().current_term != leader.term;
        if lives || moved_on || Instant::now() >= give_up {
            return;
        }
        let due = at + lease + MARGIN + turn;
        if Instant::now() < due {
            tokio::time::sleep_until(due).await;
            continue;
        }
        tracing::debug!(
            leader = leader.node_id,
            term = leader.term,
            "the leader's connection closed: asking for an election"
        );
        if core.trigger().elect(true).await.is_err() {
            return;
        }
        let pause = rand::rng().random_range(RETRY_MS);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

/// Asks for an election in this node's turn, if nobody leads by then and none was begun.
pub(super) async fn elect_in_turn(core: &Core, leadership: &watch::Receiver<Leadership>) {
    let (turn, term) = {
        let metrics = core.metrics();
        let metrics = metrics.borrow_watched();
        let turn = metrics.membership_config.voter_ids().position(|id| id == metrics.id);
        (turn.and_then(|turn| u32::try_from(turn).ok()), metrics.current_term)
    };
    let Some(turn) = turn else { return };
    // The first waits, too: a leader that is there may be about to be heard.
    tokio::time::sleep(TURN * (turn + 1)).await;
    let begun = core.metrics().borrow_watched().current_term != term;
    if leadership.borrow().leader.is_none() && !begun {
        tracing::debug!(term, "another node has come and nobody leads: asking for an election");
        // Whoever stops meanwhile needs no leader.
        let _stopped = core.trigger().elect(true).await;
        // What comes of it is awaited before anybody asks for another one.
        tokio::time::sleep(TURN).await;
    }
}

/// This node's turn among the voters that are left; another one with each term. `None`: it is no voter, or the leader
/// itself.
fn rank(core: &Core, leader: Leader) -> Option<u32> {
    let metrics = core.metrics();
    let metrics = metrics.borrow_watched();
    let left: Vec<u64> = metrics
        .membership_config
        .voter_ids()
        .filter(|&id| id != leader.node_id)
        .collect();
    let own = left.iter().position(|&id| id == metrics.id)? as u64;
    let turn = (own + leader.term) % left.len() as u64;
    u32::try_from(turn).ok()
}
