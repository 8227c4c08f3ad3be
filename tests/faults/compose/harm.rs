//! What is done to a compose cluster, and taken back.

use std::{io, time::Duration};

use rand::Rng as _;
use tokio::time::{Instant, sleep};

use super::{
    docker::{Project, name},
    stage::Stage,
};

/// A cluster that nothing harms has a leader by then.
const LEADER_MAX: Duration = Duration::from_secs(15);
/// How long a node may take to serve after it was started.
const BACK_MAX: Duration = Duration::from_secs(60);
/// Within so long a node without its data must have been refused, twice.
const REFUSED_MAX: Duration = Duration::from_secs(40);
/// What such a node says as it ends.
const REFUSAL: &str = "Remove this member and add a new one";
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a harm holds: longer than an election and than the TTLs in use, or not.
const HOLDS: std::ops::Range<Duration> = Duration::from_millis(1_500)..Duration::from_millis(6_000);

/// Which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    Leader,
    Follower,
}

/// One harm, from its beginning to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Harm {
    /// `docker kill`, then `docker start`.
    Kill(Whom),
    /// `docker pause`, then `unpause`.
    Pause(Whom),
    /// The same to all nodes.
    PauseAll,
    /// `docker network disconnect`, then `connect`.
    Disconnect(Whom),
    /// A follower's volume is removed: the node must be refused, and the others go on. Then its data are put back.
    Wipe,
    /// `down` and `up`: the data stay.
    DownUp,
}

impl Harm {
    /// Each once.
    pub(super) const ALL: [Self; 9] = [
        Self::Kill(Whom::Leader),
        Self::Kill(Whom::Follower),
        Self::Pause(Whom::Leader),
        Self::Pause(Whom::Follower),
        Self::PauseAll,
        Self::Disconnect(Whom::Leader),
        Self::Disconnect(Whom::Follower),
        Self::Wipe,
        Self::DownUp,
    ];

    /// Does it, holds it, takes it back and waits until all nodes answer.
    ///
    /// # Errors
    /// Docker failed.
    pub(super) async fn run(self, stage: &mut Stage) -> io::Result<()> {
        // Without knowing who leads, a harm to the leader would hit anybody.
        let Some(leader) = wait_leader(stage).await else {
            let story = format!("no node says within {LEADER_MAX:?} that it leads, with everything whole: no {self:?}");
            stage.findings.violation("whole-again-after-healing", story);
            return Ok(());
        };
        let holds = stage.chance.random_range(HOLDS);
        match self {
            Self::Kill(whom) => {
                let node = choose(stage, whom, leader);
                let fault = stage.begins("kill", &[node], leader, format!("docker kill {}", name(node)));
                stage.cluster.docker(move |docker| docker.kill(node)).await?;
                sleep(holds).await;
                stage.cluster.starts(node);
                stage.cluster.docker(move |docker| docker.start(node)).await?;
                stage.over(fault);
            }
            Self::Pause(whom) => {
                let node = choose(stage, whom, leader);
                let fault = stage.begins("pause", &[node], leader, format!("docker pause {}", name(node)));
                stage.cluster.docker(move |docker| docker.pause(node, true)).await?;
                sleep(holds).await;
                stage.cluster.docker(move |docker| docker.pause(node, false)).await?;
                stage.over(fault);
            }
            Self::PauseAll => pause_all(stage, leader, holds).await?,
            Self::Disconnect(whom) => {
                let node = choose(stage, whom, leader);
                let details = format!("docker network disconnect {}", name(node));
                let fault = stage.begins("partition", &[node], leader, details);
                stage.cluster.docker(move |docker| docker.disconnect(node)).await?;
                sleep(holds).await;
                stage.cluster.docker(move |docker| docker.connect(node)).await?;
                stage.over(fault);
            }
            Self::Wipe => {
                let node = choose(stage, Whom::Follower, leader);
                wipe(stage, node, leader).await?;
            }
            Self::DownUp => {
                let all = stage.cluster.all();
                let mut fault = stage.begins("restart_all", &all, leader, "docker-compose down, up".to_owned());
                stage.cluster.docker(|docker| docker.down(false)).await?;
                let whole = stage.reaches_all(&mut fault);
                sleep(holds).await;
                stage.over(whole);
                all.iter().for_each(|&node| stage.cluster.starts(node));
                stage.cluster.docker(Project::up).await?;
                stage.over(fault);
            }
        }
        let all = stage.cluster.all();
        if let Err(why) = stage.cluster.wait_ready(&all, BACK_MAX).await {
            stage
                .findings
                .violation("whole-again-after-healing", format!("after {self:?}: {why}"));
        }
        Ok(())
    }
}

async fn wait_leader(stage: &Stage) -> Option<usize> {
    let deadline = Instant::now() + LEADER_MAX;
    loop {
        let leader = stage.cluster.leader().await;
        if leader.is_some() || Instant::now() >= deadline {
            return leader;
        }
        sleep(LOOK_EVERY).await;
    }
}

fn choose(stage: &mut Stage, whom: Whom, leader: usize) -> usize {
    let nodes = stage.cluster.all();
    let any = stage.chance.random_range(0..nodes.len());
    match whom {
        Whom::Leader => leader,
        Whom::Follower if any == leader => (any + 1) % nodes.len(),
        Whom::Follower => any,
    }
}

async fn pause_all(stage: &mut Stage, leader: usize, holds: Duration) -> io::Result<()> {
    let all = stage.cluster.all();
    let mut fault = stage.begins("pause", &all, leader, "docker pause of all".to_owned());
    for &node in &all {
        stage.cluster.docker(move |docker| docker.pause(node, true)).await?;
    }
    let whole = stage.reaches_all(&mut fault);
    sleep(holds).await;
    stage.over(whole);
    for &node in &all {
        stage.cluster.docker(move |docker| docker.pause(node, false)).await?;
    }
    stage.over(fault);
    Ok(())
}

/// The node loses its volume. It must end each time that it is started, and say why; the other two serve. What was
/// copied from the volume before is the node's own disk, put back as it was: then it is welcome.
async fn wipe(stage: &mut Stage, node: usize, leader: usize) -> io::Result<()> {
    let fault = stage.begins(
        "wiped",
        &[node],
        leader,
        format!("the volume of {} removed", name(node)),
    );
    stage
        .cluster
        .docker(move |docker| {
            docker.stop(&[node])?;
            docker.save(node)?;
            docker.wipe(node)?;
            docker.create(node)?;
            docker.start(node)
        })
        .await?;
    stage.cluster.starts(node);
    refused(stage, node).await?;
    let others: Vec<usize> = stage.cluster.all().into_iter().filter(|&other| other != node).collect();
    if let Err(why) = stage.cluster.wait_ready(&others, BACK_MAX).await {
        stage.findings.violation("two-go-on-without-the-wiped", why);
    }
    stage.cluster.starts(node);
    stage
        .cluster
        .docker(move |docker| {
            docker.wipe(node)?;
            docker.create(node)?;
            docker.restore(node)?;
            docker.start(node)
        })
        .await?;
    stage.over(fault);
    Ok(())
}

/// Waits until the node was refused twice, once by itself and once as its supervisor started it again.
async fn refused(stage: &mut Stage, node: usize) -> io::Result<()> {
    let deadline = Instant::now() + REFUSED_MAX;
    loop {
        let (restarts, code) = stage.cluster.docker(move |docker| docker.restarts(node)).await?;
        let said = stage.cluster.docker(move |docker| docker.log(node, 50)).await?;
        if restarts >= 2 && said.contains(REFUSAL) {
            if stage.cluster.is_ready(node).await.is_ok() {
                stage
                    .findings
                    .violation("a-wiped-node-is-refused", format!("{} answers", name(node)));
            }
            return Ok(());
        }
        if Instant::now() >= deadline {
            let last = said.lines().last().unwrap_or("nothing");
            let story = format!(
                "{}: {restarts} restarts, exit code {code}, said last: {last}",
                name(node)
            );
            stage.findings.violation("a-wiped-node-is-refused", story);
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
}
