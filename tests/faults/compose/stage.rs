//! One run against a compose project: its traffic, its faults, and what is found in the end.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    cluster::Cluster,
    docker::{Project, name},
};
use crate::{
    history::{Event, Fault, History, NodeHash, Run},
    processes::{
        findings::{Findings, HARNESS},
        say, witness,
    },
    recorder::Recorder,
    traffic::{self, Kind},
};

/// How long everything that must happen may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Clients: two of most kinds.
const CLIENTS: usize = 13;
/// Traffic goes on for so long after everything is whole again, so that what must be so on a calm cluster can be looked
/// at.
const AFTER_HEALING: Duration = Duration::from_secs(12);

/// One run.
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) chance: StdRng,
    pub(super) findings: Findings,
    pub(super) folder: PathBuf,
    recorder: Recorder,
    options: traffic::Options,
    stop: CancellationToken,
    clients: JoinSet<()>,
    sampling: Vec<AbortOnDropHandle<()>>,
}

impl Stage {
    /// Starts the project and the clients.
    ///
    /// # Errors
    /// Docker failed, or the cluster never answered.
    pub(super) async fn open(cluster: Cluster, run: Run, folder: &Path) -> io::Result<Self> {
        let options = traffic::Options {
            seed: run.seed,
            ..traffic::Options::default()
        };
        cluster.docker(Project::up).await?;
        let all = cluster.all();
        all.iter().for_each(|&node| cluster.starts(node));
        cluster.wait_ready(&all, PATIENCE).await.map_err(io::Error::other)?;
        let recorder = Recorder::to_file(run, &folder.join("history.jsonl"))?;
        let mut stage = Self {
            chance: StdRng::seed_from_u64(options.seed),
            findings: Findings::default(),
            folder: folder.to_owned(),
            stop: CancellationToken::new(),
            clients: JoinSet::new(),
            sampling: all.iter().map(|&node| cluster.sample(node, recorder.clone())).collect(),
            recorder,
            options,
            cluster,
        };
        let (target, options, recorder) = (stage.cluster.target(), stage.options.clone(), stage.recorder.clone());
        if !traffic::grant_mover(target, options, recorder).await {
            return Err(io::Error::other("a cluster that nothing harmed grants no lease"));
        }
        for (number, kind) in (0..).zip(Kind::mixture(CLIENTS)) {
            let (target, options) = (stage.cluster.target(), stage.options.clone());
            let (recorder, stop) = (stage.recorder.clone(), stage.stop.clone());
            stage
                .clients
                .spawn(traffic::run_client(kind, number, target, options, recorder, stop));
        }
        Ok(stage)
    }

    /// Lets traffic go on.
    pub(super) async fn wait(&self, span: Duration) {
        sleep(span).await;
    }

    /// Notes that a fault begins now.
    pub(super) fn begins(&mut self, kind: &str, nodes: &[usize], leader: usize, details: String) -> Fault {
        *self.findings.faults.entry(kind.to_owned()).or_default() += 1;
        let fault = Fault {
            kind: kind.to_owned(),
            nodes: nodes.iter().map(|&node| name(node)).collect(),
            hit_leader: nodes.contains(&leader),
            majority_left: nodes.len() * 2 < self.cluster.all().len(),
            from: self.recorder.now(),
            until: None,
            details,
        };
        say(format!(
            "  {:7.2} s  {}{}",
            Duration::from_nanos(fault.from).as_secs_f64(),
            fault.details,
            if fault.hit_leader { " (the leader hit)" } else { "" },
        ));
        fault
    }

    /// Notes that a fault of all nodes has reached the last of them now: until [`Stage::over`] nothing is left that
    /// could answer. `begun` covers the time before and after, in which some can.
    pub(super) fn reaches_all(&self, begun: &mut Fault) -> Fault {
        let whole = Fault {
            from: self.recorder.now(),
            majority_left: false,
            ..begun.clone()
        };
        begun.majority_left = true;
        whole
    }

    /// Notes that it is over.
    pub(super) fn over(&self, fault: Fault) {
        let until = Some(self.recorder.now());
        self.recorder.record(Event::Fault(Fault { until, ..fault }));
    }

    /// Ends the traffic and gathers the evidence. All nodes run.
    ///
    /// # Errors
    /// Docker failed.
    pub(super) async fn settle(mut self) -> io::Result<(History, Findings)> {
        self.wait(AFTER_HEALING).await;
        if self.sampling.iter().any(AbortOnDropHandle::is_finished) {
            self.findings
                .violation(HARNESS, "what asks a node how it is ended too early");
        }
        self.stop.cancel();
        self.findings.clients_end(&mut self.clients, PATIENCE).await;
        let silent = traffic::final_reads(self.cluster.target(), self.options.clone(), self.recorder.clone()).await;
        if !silent.is_empty() {
            let story = format!(
                "{} answered no linearizable list within a minute, with everything whole",
                silent.join(" ")
            );
            self.findings.violation("A1", story);
        }
        self.hashes().await;
        self.witness().await?;
        self.sampling.clear();
        let history = self.recorder.clone().finish()?;
        Ok((history, self.findings))
    }

    async fn hashes(&mut self) {
        match self.cluster.state_hashes().await {
            Ok(hashes) => {
                for (node, hash) in hashes.iter().enumerate() {
                    self.recorder.record(Event::StateHash(NodeHash {
                        node: name(node),
                        applied_index: hash.applied_index.unsigned_abs(),
                        revision: hash.header.as_ref().map_or(0, |header| header.revision),
                        hash: witness::hex(&hash.hash),
                    }));
                }
            }
            Err(why) => self.findings.violation("state-hashes", why),
        }
    }

    /// Stops the nodes, copies their data directories out of their volumes and reads the logs in them.
    async fn witness(&mut self) -> io::Result<()> {
        let Some(through) = self.cluster.applied_everywhere(PATIENCE).await else {
            let story = "the nodes do not reach one applied index";
            self.findings.violation("applied-everywhere", story);
            return Ok(());
        };
        let all = self.cluster.all();
        let stopped = all.clone();
        self.cluster.docker(move |docker| docker.stop(&stopped)).await?;
        for node in all {
            let (_, code) = self.cluster.docker(move |docker| docker.restarts(node)).await?;
            if code != 0 {
                let story = format!("{} ended with {code} after SIGTERM", name(node));
                self.findings.violation("stops-in-order", story);
            }
            let folder = self.folder.join(name(node));
            let committed = self
                .cluster
                .docker(move |docker| {
                    docker.copy_out(node, &folder)?;
                    let committed = witness::committed(&name(node), &folder, 0, through)?;
                    std::fs::remove_dir_all(&folder)?;
                    Ok(committed)
                })
                .await?;
            if let Some(story) = committed.lacks(&name(node), through) {
                self.findings.violation(witness::LOG_IS_WHOLE, story);
            }
            for record in committed.records {
                self.recorder.record(Event::Log(record));
            }
        }
        Ok(())
    }
}
