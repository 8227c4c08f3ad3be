//! The nodes of a compose project as clients see them, and the samples that are taken of them.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use roster::wire::v1::{self, GetStateHashRequest, cluster_client::ClusterClient, selector::Scope};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Channel, Endpoint};

use super::docker::{Project, name};
use crate::{
    history::Event,
    recorder::Recorder,
    traffic::{Target, node_sample, node_status, tcp},
};

/// How often a node is asked how it is.
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
/// How long it may take to answer.
const STATUS_MAX: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How far ahead of the newest index a state hash is asked for: near enough that it comes soon.
const HASH_AHEAD: i64 = 5;
const HASH_MAX: Duration = Duration::from_secs(5);
const HASH_TRIES: u32 = 10;

/// The nodes.
pub(super) struct Cluster {
    pub(super) project: Project,
    nodes: usize,
    /// How often each was started.
    lives: Vec<Arc<AtomicU32>>,
}

impl Cluster {
    pub(super) fn new(project: Project, nodes: usize) -> Self {
        Self {
            project,
            nodes,
            lives: (0..nodes).map(|_| Arc::default()).collect(),
        }
    }

    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.nodes).collect()
    }

    /// A node's process begins another life, or will in a moment.
    pub(super) fn starts(&self, node: usize) {
        self.lives[node].fetch_add(1, Ordering::SeqCst);
    }

    /// Does something with the project, without holding up the clients.
    pub(super) async fn docker<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Project) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let project = self.project.clone();
        tokio::task::spawn_blocking(move || work(&project))
            .await
            .map_err(io::Error::other)?
    }

    /// Where clients reach the nodes.
    pub(super) fn target(&self) -> Target {
        let uri = |node: usize| {
            let uri = format!("http://127.0.0.1:{}", self.project.port(node));
            uri.parse().expect("an address and a port")
        };
        Target {
            nodes: self.all().into_iter().map(|node| (name(node), uri(node))).collect(),
            connector: tcp(),
        }
    }

    /// What all nodes say of themselves.
    pub(super) async fn statuses(&self) -> Vec<Option<v1::GetNodeStatusResponse>> {
        let target = self.target();
        let asked = self
            .all()
            .into_iter()
            .map(|node| node_status(&target, node, STATUS_MAX));
        join_all(asked).await.into_iter().map(Result::ok).collect()
    }

    /// The node that leads in the highest term, as it says itself.
    pub(super) async fn leader(&self) -> Option<usize> {
        let statuses = self.statuses().await;
        let leaders = statuses.iter().enumerate().filter_map(|(node, status)| {
            let status = status.as_ref().filter(|status| status.role == "leader")?;
            Some((status.header.as_ref().map_or(0, |header| header.term), node))
        });
        leaders.max().map(|(_, node)| node)
    }

    /// Waits until each of these answers a linearizable list.
    ///
    /// # Errors
    /// Which does not, and what it said last.
    pub(super) async fn wait_ready(&self, nodes: &[usize], within: Duration) -> Result<(), String> {
        let deadline = Instant::now() + within;
        for &node in nodes {
            while let Err(why) = self.is_ready(node).await {
                if Instant::now() >= deadline {
                    return Err(format!("{} does not answer within {within:?}: {why}", name(node)));
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// # Errors
    /// Why not.
    pub(super) async fn is_ready(&self, node: usize) -> Result<(), String> {
        let selector = v1::Selector {
            scope: Some(Scope::AllServices(true)),
            ..v1::Selector::default()
        };
        let mut request = tonic::Request::new(v1::ListRequest {
            selector: Some(selector),
            page_size: 1,
            ..v1::ListRequest::default()
        });
        request.set_timeout(STATUS_MAX * 2);
        let mut registry = v1::registry_client::RegistryClient::new(self.channel(node));
        match timeout(STATUS_MAX * 2, registry.list(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_elapsed) => Err("no answer".to_owned()),
        }
    }

    /// Every node's state hash at one log index.
    ///
    /// # Errors
    /// Why there are none.
    pub(super) async fn state_hashes(&self) -> Result<Vec<v1::GetStateHashResponse>, String> {
        let mut last = "no node says how it is".to_owned();
        for _ in 0..HASH_TRIES {
            let newest = self.newest().await;
            let Some(at_index) = newest.map(|newest| newest + HASH_AHEAD) else {
                sleep(LOOK_EVERY).await;
                continue;
            };
            let asked = self.all().into_iter().map(|node| {
                let mut client = ClusterClient::new(self.channel(node));
                async move { timeout(HASH_MAX, client.get_state_hash(GetStateHashRequest { at_index })).await }
            });
            let mut hashes = Vec::new();
            for answer in join_all(asked).await {
                match answer {
                    Ok(Ok(answer)) => hashes.push(answer.into_inner()),
                    Ok(Err(status)) => last = status.message().to_owned(),
                    Err(_elapsed) => last = format!("index {at_index} did not come within {HASH_MAX:?}"),
                }
            }
            if hashes.len() == self.nodes {
                return Ok(hashes);
            }
        }
        Err(last)
    }

    /// An index that every node has applied, so that it was committed; the newest of now.
    pub(super) async fn applied_everywhere(&self, within: Duration) -> Option<u64> {
        let deadline = Instant::now() + within;
        let newest = self.newest().await?;
        loop {
            let statuses = self.statuses().await;
            let has_it = |status: &Option<v1::GetNodeStatusResponse>| {
                status.as_ref().is_some_and(|status| status.applied_index >= newest)
            };
            if statuses.iter().all(has_it) {
                return u64::try_from(newest).ok();
            }
            if Instant::now() >= deadline {
                return None;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn newest(&self) -> Option<i64> {
        let statuses = self.statuses().await;
        statuses.iter().flatten().map(|status| status.applied_index).max()
    }

    /// Asks a node how it is, again and again, until this is dropped.
    pub(super) fn sample(&self, node: usize, recorder: Recorder) -> AbortOnDropHandle<()> {
        let (target, lives) = (self.target(), Arc::clone(&self.lives[node]));
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let (sent, life) = (recorder.now(), lives.load(Ordering::SeqCst));
                let answer = node_status(&target, node, STATUS_MAX).await;
                // An answer that spans a start is of either life.
                if let Ok(status) = answer
                    && lives.load(Ordering::SeqCst) == life
                {
                    let sample = node_sample(&name(node), (sent, recorder.now()), status, life.saturating_sub(1));
                    recorder.record(Event::Sample(sample));
                }
                sleep(SAMPLE_EVERY).await;
            }
        }))
    }

    fn channel(&self, node: usize) -> Channel {
        let uri = format!("http://127.0.0.1:{}", self.project.port(node));
        let endpoint = Endpoint::from_shared(uri).expect("an address and a port");
        endpoint.connect_timeout(STATUS_MAX).connect_lazy()
    }
}
