//! One run: a new cluster, its traffic, what is done to it, and what is found in the end.
//!
//! ```text
//! open    lay out, start, wait until all answer, start samplers and clients
//! …       a script harms the cluster
//! settle  heal, wait until all answer, let traffic go on, stop the clients, read everything, compare the state
//!         hashes, stop the nodes, read their committed logs
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
use roster::transport::Connector;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    cluster::{Cluster, Plan},
    findings::{Findings, HARNESS},
    harm::Shaped,
};
use crate::{
    history::{Fault, History, Run},
    recorder::Recorder,
    traffic::{self, Kind, Target},
};

/// How long everything that must happen may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The tool's own calls, in the history.
pub(crate) const OWN_CLIENT: u32 = 1_000_000;

pub(crate) use faults::{FROZEN_QUORUM, OpenFault, RECOVERY};

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
        let (target, options, recorder) = (stage.target(0), stage.options.clone(), stage.recorder.clone());
        if !traffic::grant_mover(target, options, recorder).await {
            return Err(io::Error::other("a cluster that nothing harmed grants no lease"));
        }
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

    /// Makes everything whole, lets traffic go on for so long, and gathers the evidence. What fails of that is a
    /// violation: what was seen until then is worth being looked at.
    ///
    /// # Errors
    /// The history can't be written.
    pub(crate) async fn settle(mut self, traffic: Duration) -> io::Result<(History, Findings)> {
        if let Err(error) = self.cluster.heal() {
            self.findings.violation(HARNESS, format!("not all was healed: {error}"));
        }
        let all = self.cluster.all();
        let whole = self.cluster.wait_ready(&all, PATIENCE).await;
        match &whole {
            Ok(healing) => self.findings.healing = *healing,
            Err(why) => self.findings.violation("whole-again-after-healing", why.clone()),
        }
        self.wait(traffic).await;
        if self.sampling.iter().any(AbortOnDropHandle::is_finished) {
            self.findings
                .violation(HARNESS, "what asks a node how it is ended too early");
        }
        self.stop.cancel();
        self.findings.clients_end(&mut self.clients, PATIENCE).await;
        if whole.is_ok()
            && let Err(error) = self.gather().await
        {
            let story = format!("not all evidence was gathered: {error}");
            self.findings.violation(HARNESS, story);
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
