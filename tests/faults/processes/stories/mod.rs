//! Scenarios that no list of harms tells: data directories that are not what they should be, and very many at once.

mod damage;
mod directories;
mod snapshots;
mod storm;
mod watchers;

use std::{io, path::Path, time::Duration};

pub(crate) use damage::torn_and_flipped;
pub(crate) use directories::{rolled_back, shared_directory, swapped, wiped};
pub(crate) use snapshots::snapshots;
pub(crate) use storm::expiry_storm;
pub(crate) use watchers::slow_watchers;

use super::{
    campaign::say,
    shell,
    stage::{OpenFault, Stage},
};

/// How long a node may take to find out that it must not start.
const REFUSED_WITHIN: Duration = Duration::from_secs(25);
/// How long traffic goes on between two harms.
const BREATH: Duration = Duration::from_secs(2);

/// Kills nodes, and notes it as a fault of this kind. The checkers know by `wipe…`, `swap…`, `roll_back…` and `damage…`
/// that a node is not what it was.
async fn kill(stage: &mut Stage, kind: &str, nodes: &[usize]) -> OpenFault {
    let leader = stage.cluster.leader().await;
    let from = stage.recorder.now();
    stage.cluster.kill(nodes);
    let hit = leader.is_some_and(|leader| nodes.contains(&leader));
    stage.fault(kind, nodes, hit, from, kind.to_owned())
}

/// Starts nodes that were killed, waits until all answer, and notes that the fault is over.
async fn restore(stage: &mut Stage, nodes: &[usize], fault: OpenFault) -> io::Result<()> {
    let before = stage.recorder.now();
    for &node in nodes {
        stage.cluster.kill(&[node]);
        stage.cluster.start(node)?;
    }
    stage.look_for_majority(before);
    if let Err(why) = stage.cluster.wait_ready(nodes, Duration::from_secs(60)).await {
        stage.findings.violation("node-comes-back", why);
    }
    stage.fault_over(fault);
    Ok(())
}

/// Two followers, or one of each if nobody leads.
async fn followers(stage: &mut Stage) -> (usize, usize, usize) {
    let leader = stage.cluster.wait_leader(Duration::from_secs(20)).await.unwrap_or(0);
    let mut others = stage.cluster.all().into_iter().filter(|node| *node != leader);
    let first = others.next().unwrap_or(leader);
    (leader, first, others.next().unwrap_or(first))
}

/// Starts a node that does not run on `data`, and expects it to end with an error that holds one of the words.
/// Returns what it said.
async fn refuses(stage: &mut Stage, node: usize, data: &Path, words: &[&str], why: &str) -> io::Result<Option<String>> {
    let ended = start_and_see(stage, node, data).await?;
    let name = stage.cluster.servers[node].name.clone();
    match ended {
        Some(said) => {
            let line = said
                .lines()
                .rev()
                .find(|line| words.iter().any(|word| line.contains(word)));
            if line.is_none() {
                let story = format!("{name}, {why}, ended without naming the cause: {said}");
                stage.findings.violation("refused-with-the-cause", story);
            }
            Ok(line.map(str::to_owned))
        }
        None => {
            stage.findings.violation("refused", format!("{name} serves, {why}"));
            Ok(None)
        }
    }
}

/// Starts a node on `data` and waits until it ends with an error (what it said), or answers, or nothing comes of it.
async fn start_and_see(stage: &mut Stage, node: usize, data: &Path) -> io::Result<Option<String>> {
    let launch = stage.cluster.launch.clone();
    let server = &mut stage.cluster.servers[node];
    let before = server.log_bytes();
    let pid = server.start_on(&launch, data)?;
    server.may_end = true;
    stage.cluster.network.set_pid(node, Some(pid));
    let until = tokio::time::Instant::now() + REFUSED_WITHIN;
    while tokio::time::Instant::now() < until {
        let server = &mut stage.cluster.servers[node];
        if let Some(status) = server.ended() {
            let said = server.log_since(before);
            if status.success() || said.contains("panicked at") {
                let story = format!("{} ended with {status}: {said}", server.name);
                stage.findings.violation("refused-with-an-error", story);
            }
            stage.cluster.kill(&[node]);
            return Ok(Some(said));
        }
        if stage.cluster.status(node).await.is_some() {
            break;
        }
        stage.wait(Duration::from_millis(100)).await;
    }
    stage.cluster.servers[node].may_end = false;
    Ok(None)
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let text = |path: &Path| path.display().to_string();
    shell::run("cp", &["-a", &text(from), &text(to)]).map(|_said| ())
}

/// One line of what a story saw.
fn saw(line: &str) {
    say(format!("             {line}"));
}
