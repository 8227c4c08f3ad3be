//! What a run leaves: samples, final reads, state hashes, committed logs.

use std::{io, sync::atomic::Ordering, time::Duration};

use roster::wire::v1::{GetNodeStatusRequest, cluster_client::ClusterClient};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{LOOK_EVERY, PATIENCE, Stage};
use crate::{
    history::{Event, Fault, NodeHash},
    processes::{shell, witness},
    traffic,
};

/// How often a node is asked how it is.
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
const SAMPLE_MAX: Duration = Duration::from_secs(1);

impl Stage {
    /// Writes down how a node is, again and again.
    pub(super) fn sample(&self, node: usize) -> AbortOnDropHandle<()> {
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
                    let sample = traffic::node_sample(&name, (sent, recorder.now()), status, life.saturating_sub(1));
                    recorder.record(Event::Sample(sample));
                }
                sleep(SAMPLE_EVERY).await;
            }
        }))
    }

    /// Notes the snapshots that a node says it installed.
    pub(super) fn note_snapshots(&self, node: &str, log: &str) {
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
    pub(super) async fn gather(&mut self) -> io::Result<()> {
        let reading = traffic::final_reads(self.target(0), self.options.clone(), self.recorder.clone());
        // A minute for each node at the most; what is asked meanwhile has deadlines of its own.
        let limit = PATIENCE * u32::try_from(self.cluster.servers.len()).unwrap_or(1);
        match timeout(limit, reading).await {
            Ok(silent) if silent.is_empty() => {}
            Ok(silent) => {
                let story = format!(
                    "{} answered no linearizable list within a minute, with everything whole",
                    silent.join(" ")
                );
                self.findings.violation("A1", story);
            }
            Err(_elapsed) => {
                let story = format!("the final reads did not end within {limit:?}");
                self.findings.violation("A1", story);
            }
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
                Ok(committed) => {
                    if let Some(story) = committed.lacks(&server.name, through) {
                        self.findings.violation(witness::LOG_IS_WHOLE, story);
                    }
                    for record in committed.records {
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
        let copied = shell::run("cp", &["-a", &data.display().to_string(), &text]);
        server.resume();
        copied?;
        let through = status.applied_index.cast_unsigned();
        let committed = witness::committed(&server.name, &copy, self.archived[node], through)?;
        for record in committed.records {
            self.recorder.record(Event::Log(record));
        }
        // Its disk may have less than it has applied: a quorum of the others has that.
        self.archived[node] = self.archived[node].max(committed.until);
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
