//! One run: a new cluster, its traffic, what is done to it, and what is found in the end.
//!
//! ```text
//! open    lay out, start, wait until all answer, start samplers and clients
//! …       a script harms the cluster
//! settle  heal, wait until all answer, stop the clients, read everything, compare the state hashes,
//!         stop the nodes, read their committed logs
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use rand::{SeedableRng as _, rngs::StdRng};
use roster::{
    transport::Connector,
    wire::v1::{GetNodeStatusRequest, GrantLeaseRequest, cluster_client::ClusterClient, leases_client::LeasesClient},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    campaign::say,
    cluster::{Cluster, Plan},
    findings::Findings,
    harm::Shaped,
    network::{End, Flow},
    witness,
};
use crate::{
    history::{Answer, At, Call, Event, Fault, History, NodeHash, Reply, Request, Run, Sample},
    recorder::Recorder,
    traffic::{self, Kind, Target},
};

/// How long everything that must happen may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a node is asked how it is.
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
const SAMPLE_MAX: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Traffic goes on for so long after everything is whole again.
const AFTER_HEALING: Duration = Duration::from_secs(2);
/// A lease that outlives every run: while there is one, the leader stamps, and so the log's index moves.
const MOVER: i64 = (1 << 62) + 1_000_000_007;
const MOVER_TTL_MS: u64 = 24 * 3_600 * 1_000;
/// The tool's own calls, in the history.
pub(crate) const OWN_CLIENT: u32 = 1_000_000;

/// The kind of what is left of a fault when a majority is back.
pub(crate) const RECOVERY: &str = "recovery";

/// A fault that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenFault(u64);

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

    /// Makes of some ways what a harm wants, along with what others that hold want; returns under which number.
    pub(crate) fn hold_ways(&mut self, shaped: Vec<Shaped>) -> u64 {
        let number = self.shapes.last().map_or(0, |(number, _)| number + 1);
        let ways: Vec<_> = shaped.iter().map(|(way, _)| *way).collect();
        self.shapes.push((number, shaped));
        self.shape_ways(&ways);
        number
    }

    /// A harm no longer wants anything of its ways.
    pub(crate) fn free_ways(&mut self, number: u64) {
        if let Some(at) = self.shapes.iter().position(|(held, _)| *held == number) {
            let (_, shaped) = self.shapes.remove(at);
            let ways: Vec<_> = shaped.into_iter().map(|(way, _)| way).collect();
            self.shape_ways(&ways);
        }
    }

    fn shape_ways(&self, ways: &[(End, End)]) {
        for way in ways {
            let held = self.shapes.iter().flat_map(|(_, shaped)| shaped);
            let wanted = held.filter(|(shaped, _)| shaped == way).map(|(_, flow)| flow);
            let wanted = wanted.fold(Flow::default(), Flow::and);
            self.cluster
                .network
                .ways()
                .change(*way, |present| present.become_like(&wanted));
        }
    }

    /// Notes that a fault has begun, after it was done.
    pub(crate) fn fault(
        &mut self,
        kind: &str,
        nodes: &[usize],
        hit_leader: bool,
        from: At,
        details: String,
    ) -> OpenFault {
        *self.findings.faults.entry(kind.to_owned()).or_default() += 1;
        let fault = Fault {
            kind: kind.to_owned(),
            nodes: nodes
                .iter()
                .map(|node| self.cluster.servers[*node].name.clone())
                .collect(),
            hit_leader,
            majority_left: self.cluster.majority_left(),
            from,
            until: None,
            details,
        };
        say(format!(
            "  {:7.2} s  {} {}{}{}",
            Duration::from_nanos(from).as_secs_f64(),
            fault.details,
            fault.nodes.join(" "),
            if hit_leader { " (the leader hit)" } else { "" },
            if fault.majority_left { "" } else { " (no majority left)" },
        ));
        self.faults_begun += 1;
        self.open_faults.insert(self.faults_begun, fault);
        OpenFault(self.faults_begun)
    }

    /// Notes that it is over.
    pub(crate) fn fault_over(&mut self, fault: OpenFault) {
        if let Some(fault) = self.open_faults.remove(&fault.0) {
            let until = Some(self.recorder.now());
            self.recorder.record(Event::Fault(Fault { until, ..fault }));
        }
        self.look_for_majority();
    }

    /// Notes when a majority is back while faults go on: from then on they are a recovery.
    pub(crate) fn look_for_majority(&mut self) {
        if !self.cluster.majority_left() {
            return;
        }
        let now = self.recorder.now();
        for fault in self.open_faults.values_mut().filter(|fault| !fault.majority_left) {
            let recovery = Fault {
                kind: RECOVERY.to_owned(),
                majority_left: true,
                from: now,
                ..fault.clone()
            };
            let lost = std::mem::replace(fault, recovery);
            self.recorder.record(Event::Fault(Fault {
                until: Some(now),
                ..lost
            }));
        }
    }

    fn sample(&self, node: usize) -> AbortOnDropHandle<()> {
        let (recorder, channel) = (self.recorder.clone(), self.cluster.channel(node));
        let server = &self.cluster.servers[node];
        let (name, starts) = (server.name.clone(), server.starts.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut client = ClusterClient::new(channel);
            loop {
                let (sent, life) = (recorder.now(), starts.load(Ordering::Relaxed));
                let answer = timeout(SAMPLE_MAX, client.get_node_status(GetNodeStatusRequest {})).await;
                // An answer that spans a restart is of either life.
                if let Ok(Ok(answer)) = answer
                    && starts.load(Ordering::Relaxed) == life
                {
                    let status = answer.into_inner();
                    let header = status.header.unwrap_or_default();
                    recorder.record(Event::Sample(Sample {
                        node: name.clone(),
                        sent,
                        ended: recorder.now(),
                        term: header.term,
                        leader: status.leader,
                        revision: header.revision,
                        log_index: status.log_index,
                        applied_index: status.applied_index,
                        life: life.saturating_sub(1),
                    }));
                }
                sleep(SAMPLE_EVERY).await;
            }
        }))
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
            self.findings
                .violation("clients-end", "a client did not end within a minute of being told to");
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

    /// Notes the snapshots that a node says it installed.
    fn note_snapshots(&self, node: &str, log: &str) {
        for line in log.lines().filter(|line| line.contains("snapshot installed")) {
            let at = line
                .split_whitespace()
                .next()
                .and_then(|at| humantime::parse_rfc3339(at).ok());
            let since = at.and_then(|at| at.duration_since(self.began).ok()).unwrap_or_default();
            let at = u64::try_from(since.as_nanos())
                .unwrap_or(u64::MAX)
                .min(self.recorder.now());
            self.recorder.record(Event::Fault(Fault {
                kind: "snapshot_installed".to_owned(),
                nodes: vec![node.to_owned()],
                hit_leader: false,
                majority_left: true,
                from: at,
                until: Some(at),
                details: String::new(),
            }));
        }
    }

    /// Final reads, hashes and logs.
    async fn gather(&mut self) -> io::Result<()> {
        let reading = traffic::final_reads(self.target(0), self.options.clone(), self.recorder.clone());
        if timeout(PATIENCE, reading).await.is_err() {
            self.findings
                .violation("final-reads", "they did not end within a minute");
        }
        match self.cluster.state_hashes().await {
            Ok(hashes) => {
                for (server, hash) in self.cluster.servers.iter().zip(&hashes) {
                    self.recorder.record(Event::StateHash(NodeHash {
                        node: server.name.clone(),
                        applied_index: hash.applied_index.cast_unsigned(),
                        revision: hash.header.as_ref().map_or(0, |header| header.revision),
                        hash: witness::hex(&hash.hash),
                    }));
                }
            }
            Err(why) => self.findings.violation("state-hashes", why),
        }
        self.archive().await?;
        Ok(())
    }

    /// Stops all nodes and reads what was committed since the last time. The cluster must be whole.
    async fn archive(&mut self) -> io::Result<()> {
        let Some(through) = self.applied_everywhere().await else {
            self.findings
                .violation("applied-everywhere", "the nodes do not reach one applied index");
            return Ok(());
        };
        for node in self.cluster.all() {
            if !self.cluster.stop(node) {
                let server = &self.cluster.servers[node];
                let story = format!("{} did not end in order: {}", server.name, server.last_words());
                self.findings.violation("stops-in-order", story);
            }
        }
        for (server, archived) in self.cluster.servers.iter().zip(&mut self.archived) {
            match witness::committed(&server.name, &server.disk.data(), *archived, through) {
                Ok(records) => {
                    for record in records {
                        self.recorder.record(Event::Log(record));
                    }
                    *archived = through + 1;
                }
                Err(error) => {
                    let story = format!("{}: its log can't be read: {error}", server.name);
                    self.findings.violation("logs-are-readable", story);
                }
            }
        }
        Ok(())
    }

    /// Reads what a node that runs has committed since the last time, for its log to be purged later: a copy of its data,
    /// taken while it stands still for a moment, is what a kill would have left.
    ///
    /// # Errors
    /// The data can't be copied, or the copy not be read.
    pub(crate) async fn archive_live(&mut self, node: usize) -> io::Result<()> {
        let Some(status) = self.cluster.status(node).await else {
            return Ok(());
        };
        let server = &mut self.cluster.servers[node];
        let copy = self.folder.join(format!("{}-copy", server.name));
        let (data, text) = (server.disk.data(), copy.display().to_string());
        server.pause();
        let copied = super::shell::run("cp", &["-a", &data.display().to_string(), &text]);
        server.resume();
        copied?;
        let through = status.applied_index.cast_unsigned();
        let records = witness::committed(&server.name, &copy, self.archived[node], through)?;
        for record in records {
            self.recorder.record(Event::Log(record));
        }
        self.archived[node] = through + 1;
        std::fs::remove_dir_all(&copy)
    }

    /// An index that was committed, and that every node has applied.
    async fn applied_everywhere(&self) -> Option<u64> {
        let newest = self
            .cluster
            .statuses()
            .await
            .iter()
            .flatten()
            .map(|status| status.applied_index)
            .max()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let statuses = self.cluster.statuses().await;
            if statuses
                .iter()
                .all(|status| status.as_ref().is_some_and(|status| status.applied_index >= newest))
            {
                return u64::try_from(newest).ok();
            }
            if Instant::now() > deadline {
                return None;
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
