//! One node's Raft on a directory, by itself: what the directed tests ask and kill.

use std::{
    error::Error,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use roster::{
    model::{
        ClusterId, Hold, Incarnation, InstanceId, InstanceKey, InstanceSpec, LeaseTime, Member, Namespace, NodeId,
        NodeName, ServiceName, Status, Term,
    },
    node::{MachineClock, Node, NodeParts},
    peer::{Peers, PeersConfig},
    raft::{Committed, Raft, RaftOptions},
    registry::{Command, Entry, Register},
    storage::{DataDir, Identity, LogStore, SnapshotStore},
    watch::{Hub, HubLimits},
};
use tokio::runtime::Handle;

/// Longer than anything here takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);
/// Records that stay behind a snapshot: few, so that there is something to purge.
const KEPT: u64 = 10;

/// What can go wrong before anything is known.
pub(super) type Failure = Box<dyn Error + Send + Sync>;

/// Node 1, and what it rests on.
pub(super) struct Lone {
    pub(super) raft: Raft,
    pub(super) hub: Arc<Hub>,
    pub(super) peers: Arc<Peers>,
    pub(super) log: LogStore,
}

/// Who it is.
pub(super) fn identity() -> Result<Identity, Failure> {
    Ok(Identity {
        cluster_id: ClusterId::new(0xc0ffee).ok_or("no cluster id")?,
        node_id: NodeId(1),
        name: NodeName::parse("n1")?,
    })
}

impl Lone {
    /// Starts on a directory, with what is there.
    pub(super) async fn start(directory: &Path) -> Result<Self, Failure> {
        let identity = identity()?;
        let data_dir = DataDir::open(directory)?;
        data_dir.save_identity(&identity)?;
        let log = LogStore::open(&data_dir, |error| panic!("the log failed: {error}"))?;
        let snapshots = SnapshotStore::open(&data_dir)?;
        roster::storage::verify_whole(&log, &snapshots)?;
        let hub = Hub::new(HubLimits::default());
        let peers = Peers::new(PeersConfig {
            name: identity.name.clone(),
            runtime: Handle::current(),
            connector: Default::default(),
        });
        let mut options = RaftOptions::new(identity, Handle::current());
        options.kept_behind_snapshot = KEPT;
        let raft = Raft::start(options, log.clone(), snapshots, Arc::clone(&hub), Arc::clone(&peers)).await?;
        Ok(Self { raft, hub, peers, log })
    }

    /// Founds a cluster of this node alone, unless it has one, and waits until it leads.
    pub(super) async fn lead(&self) -> Result<Term, Failure> {
        let member = Member {
            node_id: NodeId(1),
            name: NodeName::parse("n1")?,
            peer_address: "127.0.0.1:1".to_owned(),
            client_address: String::new(),
            voter: true,
        };
        match self.raft.initialize(&[member]).await {
            Ok(()) | Err(roster::raft::InitializeError::Begun) => {}
            Err(error) => return Err(error.into()),
        }
        let mut leadership = self.raft.leadership();
        let leads = tokio::time::timeout(PATIENCE, leadership.wait_for(|now| now.lead.is_some())).await;
        let lead = leads.map_err(|_elapsed| "it never led")??.lead;
        Ok(lead.ok_or("it leads")?.term)
    }

    /// The node on top of it, which is to be shut down before it is stopped.
    pub(super) fn node(&self) -> Result<Node, Failure> {
        let identity = identity()?;
        Ok(Node::start(NodeParts {
            cluster_id: identity.cluster_id,
            node_id: identity.node_id,
            name: identity.name,
            raft: self.raft.clone(),
            hub: Arc::clone(&self.hub),
            peers: Arc::clone(&self.peers),
            clock: Arc::new(MachineClock),
            quorum_timeout: Duration::from_millis(450),
        }))
    }

    /// Registers one permanent instance.
    pub(super) async fn register(&self, term: Term, number: u64) -> Result<Committed, Failure> {
        let proposal = self.raft.propose(term, registering(number)?);
        Ok(tokio::time::timeout(PATIENCE, proposal)
            .await
            .map_err(|_elapsed| "no answer")??)
    }

    /// Writes a snapshot and waits until the log behind it is purged.
    pub(super) async fn snapshot(&self) -> Result<(), Failure> {
        let before = self.raft.status().snapshot_index;
        self.raft.trigger_snapshot().await?;
        let begun = Instant::now();
        loop {
            let status = self.raft.status();
            if status.snapshot_index > before
                && status.purged_index.map(|purged| purged.0 + KEPT) >= status.snapshot_index.map(|index| index.0)
            {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("no snapshot was written, or nothing purged: {status:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Stops and lets go of the directory.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        self.raft.shutdown().await;
        let log = self.log.clone();
        drop(self);
        log.flush_and_close()?;
        Ok(())
    }
}

/// An entry that registers instance `number` for good.
pub(super) fn registering(number: u64) -> Result<Entry, Failure> {
    let instance = InstanceSpec {
        key: InstanceKey::new(
            Namespace::default(),
            ServiceName::parse("web")?,
            InstanceId::parse(&format!("i{number:06}"))?,
        ),
        address: "10.0.0.1".into(),
        ports: Box::default(),
        weight: 100,
        region: Default::default(),
        zone: Default::default(),
        version: Default::default(),
        tags: Default::default(),
        metadata: [("filler".to_owned(), "x".repeat(200))].into(),
        status: Status::Up,
        incarnation: Incarnation(0),
    };
    let register = Register {
        instance,
        hold: Hold::Permanent,
        expected_mod_revision: None,
    };
    Ok(Entry {
        stamp: LeaseTime(number),
        wall_ms: number,
        renewals: vec![],
        commands: vec![Command::Register(register)],
    })
}

/// What a disk would hold if the power went now, of what was ever handed to it.
pub(super) fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
