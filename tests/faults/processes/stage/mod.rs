//! One run: a new cluster, its traffic, what is done to it, and what is found in the end.
//!
//! ```text
//! open    lay out, start, wait until all answer, start samplers and clients
//! …       a script harms the cluster
//! settle  heal, wait until all answer, stop the clients, read everything, compare the state hashes,
//!         stop the nodes, read their committed logs
//! ```

mod evidence;
mod faults;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rand::{SeedableRng as _, rngs::StdRng};
use roster::{
    transport::Connector,
    wire::v1::{GrantLeaseRequest, leases_client::LeasesClient},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    cluster::{Cluster, Plan},
    findings::Findings,
    harm::Shaped,
};
use crate::{
    history::{Answer, Call, Event, Fault, History, Reply, Request, Run},
    recorder::Recorder,
    traffic::{self, Kind, Target},
};

/// How long everything that must happen may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Traffic goes on for so long after everything is whole again.
const AFTER_HEALING: Duration = Duration::from_secs(2);
/// A lease that outlives every run: while there is one, the leader stamps, and so the log's index moves.
const MOVER: i64 = (1 << 62) + 1_000_000_007;
const MOVER_TTL_MS: u64 = 24 * 3_600 * 1_000;
/// The tool's own calls, in the history.
pub(crate) const OWN_CLIENT: u32 = 1_000_000;

pub(crate) use faults::{OpenFault, RECOVERY};

/// One run.
pub(crate) struct Stage {
    pub(crate) recorder: Recorder,
    pub(crate) chance: StdRng,
    pub(crate) findings: Findings,
    pub(crate) folder: PathBuf,
    /// The nodes that a harm under way holds.
    pub(crate) busy: BTreeSet<usize>,
    pub(crate) options: traffic::Options,
    /// What the harms that hold make of their ways, in the order in which they began.
    pub(crate) shapes: Vec<(u64, Vec<Shaped>)>,
    open_faults: BTreeMap<u64, Fault>,
    faults_begun: u64,
    /// The wall clock when the recorder's stood at 0.
    began: SystemTime,
    stop: CancellationToken,
    clients: JoinSet<()>,
    sampling: Vec<AbortOnDropHandle<()>>,
    /// The first index of each node's log that was not read yet.
    archived: Vec<u64>,
    pub(crate) cluster: Cluster,
}

impl Stage {
    /// Starts a cluster and its clients.
    ///
    /// # Errors
    /// Something of the machine failed, or the cluster never answered.
    pub(crate) async fn open(plan: &Plan, run: Run, options: traffic::Options, folder: &Path) -> io::Result<Self> {
        let seed = run.seed;
        let cluster = Cluster::lay_out(plan, folder).await?;
        let recorder = Recorder::to_file(run, &folder.join("history.jsonl"))?;
        let mut stage = Self {
            recorder,
            chance: StdRng::seed_from_u64(seed),
            findings: Findings::default(),
            folder: folder.to_owned(),
            busy: BTreeSet::new(),
            options,
            shapes: Vec::new(),
            open_faults: BTreeMap::new(),
            faults_begun: 0,
            began: SystemTime::now(),
            stop: CancellationToken::new(),
            clients: JoinSet::new(),
            sampling: Vec::new(),
            archived: vec![0; plan.nodes],
            cluster,
        };
        for node in stage.cluster.all() {
            stage.cluster.start(node)?;
        }
        let all = stage.cluster.all();
        stage
            .cluster
            .wait_ready(&all, PATIENCE)
            .await
            .map_err(io::Error::other)?;
        stage.sampling = all.iter().map(|&node| stage.sample(node)).collect();
        stage.grant_mover().await;
        for (number, kind) in (0..).zip(Kind::mixture(plan.clients as usize)) {
            let client = traffic::run_client(
                kind,
                number,
                stage.target(number),
                stage.options.clone(),
                stage.recorder.clone(),
                stage.stop.clone(),
            );
            stage.clients.spawn(client);
        }
        Ok(stage)
    }

    /// What the run's choices come from.
    pub(crate) fn seed(&self) -> u64 {
        self.options.seed
    }

    /// What one client needs to reach the nodes.
    pub(crate) fn target(&self, client: u32) -> Target {
        Target {
            nodes: self.cluster.targets(client),
            connector: Connector::default(),
        }
    }

    /// Lets traffic go on. A node that ends meanwhile without being told to is a violation.
    pub(crate) async fn wait(&mut self, span: Duration) {
        let until = Instant::now() + span;
        loop {
            self.look_for_ended();
            if Instant::now() >= until {
                return;
            }
            sleep(LOOK_EVERY.min(until - Instant::now())).await;
        }
    }

    fn look_for_ended(&mut self) {
        for node in self.cluster.all() {
            let server = &mut self.cluster.servers[node];
            if let Some(status) = server.ended()
                && !server.may_end
            {
                let story = format!("{} ended by itself ({status}): {}", server.name, server.last_words());
                self.findings.violation("no-node-ends-by-itself", story);
                self.cluster.kill(&[node]);
            }
        }
    }

    /// Waits until a node says how it is.
    pub(crate) async fn wait_status(&mut self, node: usize, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while self.cluster.status(node).await.is_none() {
            if Instant::now() > deadline || self.cluster.servers[node].ended().is_some() {
                return false;
            }
            sleep(LOOK_EVERY).await;
        }
        true
    }

    async fn grant_mover(&mut self) {
        let mut client = LeasesClient::new(self.cluster.channel(0));
        let sent = self.recorder.now();
        let asked = GrantLeaseRequest {
            lease_id: MOVER,
            ttl: prost_types::Duration::try_from(Duration::from_millis(MOVER_TTL_MS)).ok(),
        };
        let answer = match client.grant_lease(asked).await {
            Ok(granted) => {
                let header = granted.into_inner().header.unwrap_or_default();
                Answer::Done {
                    revision: header.revision,
                    term: header.term,
                    reply: Reply::Lease {
                        lease: MOVER,
                        ttl_ms: MOVER_TTL_MS,
                    },
                }
            }
            Err(status) => Answer::Unknown {
                reason: status.message().to_owned(),
            },
        };
        self.recorder.record(Event::Call(Call {
            id: self.recorder.next_id(),
            attempt: 0,
            client: OWN_CLIENT,
            node: Some(self.cluster.servers[0].name.clone()),
            sent,
            ended: self.recorder.now(),
            request: Request::Grant {
                lease: MOVER,
                ttl_ms: MOVER_TTL_MS,
            },
            asked: 0,
            answer,
        }));
    }

    /// Makes everything whole and gathers the evidence.
    ///
    /// # Errors
    /// Something of the machine failed that should not.
    pub(crate) async fn settle(mut self) -> io::Result<(History, Findings)> {
        self.cluster.heal()?;
        let all = self.cluster.all();
        let whole = self.cluster.wait_ready(&all, PATIENCE).await;
        if let Err(why) = &whole {
            self.findings.violation("whole-again-after-healing", why.clone());
        }
        self.wait(AFTER_HEALING).await;
        self.stop.cancel();
        let ended = timeout(PATIENCE, async { while self.clients.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            self.findings.violation(
                "clients-end",
                "a client did not end within two minutes of being told to",
            );
        }
        if whole.is_ok() {
            self.gather().await?;
        }
        self.sampling.clear();
        for server in &self.cluster.servers {
            let log = server.log_since(0);
            self.note_snapshots(&server.name, &log);
            if let Some(panicked) = log.lines().find(|line| line.contains("panicked at")) {
                self.findings
                    .violation("no-panic", format!("{}: {panicked}", server.name));
            }
        }
        let history = self.recorder.clone().finish()?;
        Ok((history, self.findings))
    }
}
