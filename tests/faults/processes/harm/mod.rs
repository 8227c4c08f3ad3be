//! What can be done to a cluster and taken back again. Scenarios name harms in order; random runs overlap them.

mod apply;
mod proof;
mod shape;

use std::{collections::BTreeSet, fmt, io, time::Duration};

use rand::seq::SliceRandom as _;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use shape::Shaped;

use super::{
    network::Pass,
    stage::{FROZEN_QUORUM, OpenFault, Stage},
};
use crate::history::At;

/// A node whose disk hung for too long ends as soon as it can.
const AFTER_THAWING: Duration = Duration::from_millis(1_500);
/// How long a node that was started again may take to say how it is. It may have a log to replay.
const BACK_MAX: Duration = Duration::from_secs(20);
/// A harm that must be done waits so long for a leader, and for nodes that it can hit.
const TARGET_MAX: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Which nodes are hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// The leader of that moment.
    Leader,
    /// One that does not lead.
    Follower,
    /// So many, the leader among them or not.
    Any(usize),
    /// So many, the leader among them.
    WithLeader(usize),
    /// So many that the others are no quorum.
    Quorum,
    /// All.
    All,
    /// This one.
    Node(usize),
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Harm {
    /// kill -9; started again in the end.
    Kill(Whom),
    /// SIGTERM; started again in the end.
    Stop(Whom),
    /// SIGSTOP, then SIGCONT.
    Pause(Whom),
    /// Nothing passes between these nodes and the others; with `clients`, nor to and from clients.
    Isolate { whom: Whom, pass: Pass, clients: bool },
    /// Nothing of what a node sends to the others arrives, or nothing of what they send to it.
    OneWay { whom: Whom, outward: bool, pass: Pass },
    /// Two groups that see nothing of each other, and one node that both see.
    Bridge,
    /// Each node sees its two neighbours only.
    Ring,
    /// A node's links to the others come and go.
    Flap(Whom),
    /// Every way between nodes takes longer.
    Delay { delay_ms: u64, jitter_ms: u64 },
    /// What leads to and from a node is narrow.
    Throttle { whom: Whom, bytes_per_s: u64 },
    /// All connections are reset, again and again.
    Resets { every_ms: u64, peers: bool },
    /// Clients send into a hole, or hear nothing, at all nodes.
    DeafClients { outward: bool },
    /// Every write and sync stands still.
    Freeze(Whom),
    /// Every sync takes longer.
    SlowSync { whom: Whom, delay_ms: u64 },
    /// Every sync fails; the node must end.
    SyncError(Whom),
    /// kill -9, and what was not synced is gone.
    PowerCut(Whom),
    /// Only so much room is left on the disk.
    Full { whom: Whom, leave_mib: u64 },
    /// The wall clock jumps by so many hours.
    Clock { whom: Whom, hours: i32 },
    /// No more files can be opened than are.
    Files(Whom),
}

impl Harm {
    /// Its kind, as histories and the summary call it.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Kill(_) => "kill",
            Self::Stop(_) => "stop",
            Self::Pause(_) => "pause",
            Self::Isolate { .. } | Self::Bridge | Self::Ring => "partition",
            Self::OneWay { .. } => "one_way",
            Self::Flap(_) => "flap",
            Self::Delay { .. } => "delay",
            Self::Throttle { .. } => "throttle",
            Self::Resets { peers: true, .. } => "resets",
            Self::Resets { peers: false, .. } => "client_resets",
            Self::DeafClients { .. } => "client_hole",
            Self::Freeze(Whom::Quorum | Whom::All) => FROZEN_QUORUM,
            Self::Freeze(_) => "disk_frozen",
            Self::SlowSync { .. } => "slow_sync",
            Self::SyncError(_) => "sync_error",
            Self::PowerCut(_) => "power_cut",
            Self::Full { .. } => "disk_full",
            Self::Clock { .. } => "clock_jump",
            Self::Files(_) => "no_files",
        }
    }

    /// Whether it has its nodes to itself: what is killed can't be paused, too.
    pub(crate) fn holds_nodes(self) -> bool {
        matches!(
            self,
            Self::Kill(_)
                | Self::Stop(_)
                | Self::Pause(_)
                | Self::Freeze(_)
                | Self::SlowSync { .. }
                | Self::SyncError(_)
                | Self::PowerCut(_)
                | Self::Full { .. }
                | Self::Clock { .. }
                | Self::Files(_)
        )
    }

    /// Whether it is made for the leader: then it counts only if it hits one.
    pub(crate) fn needs_leader(self) -> bool {
        matches!(self.whom(), Whom::Leader | Whom::WithLeader(_))
    }

    /// Whom it hits.
    pub(crate) fn whom(self) -> Whom {
        match self {
            Self::Kill(whom)
            | Self::Stop(whom)
            | Self::Pause(whom)
            | Self::Isolate { whom, .. }
            | Self::OneWay { whom, .. }
            | Self::Flap(whom)
            | Self::Throttle { whom, .. }
            | Self::Freeze(whom)
            | Self::SlowSync { whom, .. }
            | Self::SyncError(whom)
            | Self::PowerCut(whom)
            | Self::Full { whom, .. }
            | Self::Clock { whom, .. }
            | Self::Files(whom) => whom,
            Self::Bridge | Self::Ring | Self::Delay { .. } | Self::Resets { .. } | Self::DeafClients { .. } => {
                Whom::All
            }
        }
    }
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What came of an attempt to do a harm.
pub(crate) enum Begun {
    /// It holds.
    Held(Held),
    /// Nobody was there to be hit: no leader was to be seen, or other harms hold all that could be.
    NoTarget,
    /// The machine lacks what it needs; why. Nothing was done.
    Lacks(String),
}

/// A harm that holds; [`Held::relieve`] takes it back.
pub(crate) struct Held {
    harm: Harm,
    nodes: Vec<usize>,
    /// Where its ways stand in the stage's list.
    shape: u64,
    fault: OpenFault,
    hit_leader: bool,
    begun: Instant,
    from: At,
    /// What each of its nodes had logged by then, in bytes.
    logged: Vec<u64>,
    /// What keeps at it meanwhile.
    _keeps_at_it: Option<AbortOnDropHandle<()>>,
}

impl Held {
    /// The nodes that it hit.
    pub(crate) fn nodes(&self) -> &[usize] {
        &self.nodes
    }

    /// Whether another harm can't hold at the same time: what flaps can't be cut, too.
    pub(crate) fn excludes(&self, other: Harm) -> bool {
        let flaps = |harm| matches!(harm, Harm::Flap(_));
        let parts = |harm| {
            matches!(
                harm,
                Harm::Flap(_) | Harm::Isolate { .. } | Harm::OneWay { .. } | Harm::Bridge | Harm::Ring
            )
        };
        (flaps(self.harm) && parts(other)) || (parts(self.harm) && flaps(other))
    }

    /// What was done.
    pub(crate) fn harm(&self) -> Harm {
        self.harm
    }

    /// Does the harm, as soon as there is whom it is to hit; waits for a leader first.
    ///
    /// # Errors
    /// Something of the machine failed that should not.
    pub(crate) async fn begin_when_there(stage: &mut Stage, harm: Harm) -> io::Result<Begun> {
        let deadline = Instant::now() + TARGET_MAX;
        while stage.cluster.leader().await.is_none() && Instant::now() < deadline {
            stage.wait(LOOK_EVERY).await;
        }
        loop {
            let begun = Self::begin(stage, harm).await?;
            if !matches!(begun, Begun::NoTarget) || Instant::now() >= deadline {
                return Ok(begun);
            }
            stage.wait(LOOK_EVERY).await;
        }
    }

    /// Does the harm now, if it can be done.
    ///
    /// # Errors
    /// Something of the machine failed that should not.
    pub(crate) async fn begin(stage: &mut Stage, harm: Harm) -> io::Result<Begun> {
        let leader = stage.cluster.leader().await;
        let nodes = choose(stage, harm, leader);
        if nodes.is_empty() {
            return Ok(Begun::NoTarget);
        }
        let ways = shape::ways(stage, harm, &nodes);
        let logged = nodes
            .iter()
            .map(|node| stage.cluster.servers[*node].log_bytes())
            .collect();
        let (from, begun) = (stage.recorder.now(), Instant::now());
        let shape = stage.hold_ways(ways.clone());
        let done = apply::apply(stage, harm, &nodes, &ways);
        let keeps_at_it = match done {
            Ok(task) => task,
            Err(error) if apply::is_lack(&error) => {
                stage.free_ways(shape);
                apply::undo(stage, harm, &nodes)?;
                return Ok(Begun::Lacks(error.to_string()));
            }
            Err(error) => return Err(error),
        };
        let hit_leader = match harm {
            // Who stands with the smaller part is what counts.
            Harm::Isolate { .. } => {
                let minority = nodes.len() < stage.cluster.quorum();
                leader.is_some_and(|leader| nodes.contains(&leader) == minority)
            }
            Harm::Bridge | Harm::Ring | Harm::Delay { .. } | Harm::Resets { .. } | Harm::DeafClients { .. } => false,
            _ => leader.is_some_and(|leader| nodes.contains(&leader)),
        };
        let kind = match harm {
            // It may take with others that hold already.
            Harm::Freeze(_) if !stage.cluster.majority_writes() => FROZEN_QUORUM,
            _ => harm.kind(),
        };
        let holds_since = match harm {
            // To freeze disks takes a while, and until the last one stands still something may be acknowledged.
            _ if kind == FROZEN_QUORUM => stage.fault_came_about("disk_freezing", &nodes, from),
            // A node that ends in order has seconds for it, and a vote until it is gone.
            Harm::Stop(_) => stage.fault_came_about("stopping", &nodes, from),
            _ => from,
        };
        let fault = stage.fault(kind, &nodes, hit_leader, holds_since, harm.to_string());
        Ok(Begun::Held(Self {
            harm,
            nodes,
            shape,
            fault,
            hit_leader,
            begun,
            from,
            logged,
            _keeps_at_it: keeps_at_it,
        }))
    }

    /// Takes it back, and waits until the nodes that it ended are back.
    ///
    /// # Errors
    /// Something of the machine failed that should not.
    pub(crate) async fn relieve(mut self, stage: &mut Stage) -> io::Result<()> {
        drop(self._keeps_at_it.take());
        self.look_at_full_disk(stage).await;
        let before = stage.recorder.now();
        stage.free_ways(self.shape);
        let held: &[usize] = if self.harm.holds_nodes() { &self.nodes } else { &[] };
        for &node in held {
            match self.harm {
                Harm::SlowSync { .. } => self.see_slow_sync(stage, node),
                Harm::SyncError(_) => self.see_failed_sync(stage, node),
                _ => {}
            }
        }
        // All at once, as far as can be: from the first one on they may be a majority.
        apply::undo(stage, self.harm, held)?;
        stage.look_for_majority(before);
        let mut started = Vec::new();
        for &node in held {
            if self.start_again(stage, node)? {
                started.push(node);
            }
        }
        stage.look_for_majority(before);
        for node in started {
            if !stage.wait_status(node, BACK_MAX).await {
                let server = &stage.cluster.servers[node];
                let story = format!(
                    "{} does not answer after {}: {}",
                    server.name,
                    self.harm,
                    server.last_words()
                );
                stage.findings.violation("node-comes-back", story);
            }
        }
        stage.fault_over(self.fault);
        Ok(())
    }

    /// Returns whether the node had ended, and was started again.
    fn start_again(&self, stage: &mut Stage, node: usize) -> io::Result<bool> {
        let server = &mut stage.cluster.servers[node];
        if matches!(self.harm, Harm::Freeze(_)) {
            // One that has decided to end could not, while its writes stood still.
            server.wait_ended(AFTER_THAWING);
        }
        server.may_end = false;
        if server.is_running() {
            return Ok(false);
        }
        stage.cluster.kill(&[node]);
        stage.cluster.start(node)?;
        Ok(true)
    }
}

fn choose(stage: &mut Stage, harm: Harm, leader: Option<usize>) -> Vec<usize> {
    let busy = if harm.holds_nodes() {
        stage.busy.clone()
    } else {
        BTreeSet::new()
    };
    let mut all = stage.cluster.all();
    let size = all.len();
    all.shuffle(&mut stage.chance);
    // What another harm holds is not harmed twice.
    all.retain(|node| !busy.contains(node));
    let others = |all: &[usize]| -> Vec<usize> { all.iter().copied().filter(|node| Some(*node) != leader).collect() };
    match harm.whom() {
        Whom::All => (0..size).filter(|node| !busy.contains(node)).collect(),
        Whom::Quorum => all.into_iter().take(size - stage.cluster.quorum() + 1).collect(),
        Whom::Node(node) => vec![node],
        // Who leads must be known: anybody else is no substitute.
        Whom::Leader | Whom::Follower | Whom::WithLeader(_) if leader.is_none() => Vec::new(),
        Whom::Leader => leader.into_iter().filter(|leader| all.contains(leader)).collect(),
        Whom::Follower => others(&all).into_iter().take(1).collect(),
        Whom::Any(count) => all.into_iter().take(count).collect(),
        Whom::WithLeader(count) => match leader.filter(|leader| all.contains(leader)) {
            Some(leader) => [leader].into_iter().chain(others(&all)).take(count).collect(),
            None => Vec::new(),
        },
    }
}
