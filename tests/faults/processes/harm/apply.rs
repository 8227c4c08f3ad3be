//! How each harm is done.

use std::{io, time::Duration};

use rand::Rng as _;
use tokio_util::task::AbortOnDropHandle;

use super::{Harm, Shaped};
use crate::processes::{
    network::{End, Pass, Ways},
    stage::Stage,
};

/// How many files a node may open, ordinarily.
const FILES_USUAL: u64 = 1_024;
/// A link that comes and goes does so this often.
const FLAP_EVERY: Duration = Duration::from_millis(200);

/// Whether the machine can't do it, rather than failed at it.
pub(super) fn is_lack(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Unsupported | io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
    )
}

/// What keeps at a harm while it holds.
type KeepsAtIt = Option<AbortOnDropHandle<()>>;

/// Does a harm to the nodes that it hits, whose ways have their shape already.
///
/// # Errors
/// See [`is_lack`]; anything else failed that should not.
pub(super) fn apply(stage: &mut Stage, harm: Harm, nodes: &[usize], shaped: &[Shaped]) -> io::Result<KeepsAtIt> {
    let ways = stage.cluster.network.ways().clone();
    match harm {
        Harm::Flap(_) => return Ok(Some(spawn(flap(ways, shaped.to_vec())))),
        Harm::Resets { every_ms, .. } => {
            let touched = shaped.iter().map(|(way, _)| *way).collect();
            return Ok(Some(spawn(reset(ways, touched, Duration::from_millis(every_ms)))));
        }
        _ => {}
    }
    let cluster = &mut stage.cluster;
    match harm {
        Harm::Kill(_) => cluster.kill(nodes),
        Harm::PowerCut(_) => {
            if let Some(without) = nodes.iter().find(|node| !cluster.servers[**node].disk.is_image()) {
                let name = &cluster.servers[*without].name;
                let lacks = format!("{name} has no file system of its own");
                return Err(io::Error::new(io::ErrorKind::Unsupported, lacks));
            }
            cluster.kill(nodes);
            for &node in nodes {
                cluster.servers[node].disk.cut_power()?;
            }
        }
        Harm::Stop(_) => {
            for &node in nodes {
                if !cluster.stop(node) {
                    let server = &cluster.servers[node];
                    let story = format!("{} did not end in order: {}", server.name, server.last_words());
                    stage.findings.violation("stops-in-order", story);
                }
            }
        }
        _ => {
            for &node in nodes {
                apply_to_node(stage, harm, node)?;
            }
        }
    }
    Ok(None)
}

fn apply_to_node(stage: &mut Stage, harm: Harm, node: usize) -> io::Result<()> {
    let server = &mut stage.cluster.servers[node];
    match harm {
        Harm::Pause(_) => server.pause(),
        Harm::Freeze(_) => {
            server.disk.freeze()?;
            // A node whose disk hangs for 10 s ends.
            server.may_end = true;
        }
        Harm::SlowSync { delay_ms, .. } => server.trace_syncs(&format!("delay_enter={}", delay_ms * 1_000))?,
        Harm::SyncError(_) => {
            server.trace_syncs("error=EIO")?;
            server.may_end = true;
        }
        Harm::Full { leave_mib, .. } => {
            server.disk.fill(leave_mib << 20)?;
            server.may_end = true;
        }
        Harm::Clock { hours, .. } => {
            if stage.cluster.launch.fake_clock.is_none() {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "the nodes run without libfaketime",
                ));
            }
            server.set_clock(&format!("{hours:+}h"))?;
        }
        Harm::Files(_) => server.limit_files(server.open_files())?,
        _ => {}
    }
    Ok(())
}

/// Takes back what [`apply`] did to nodes, as far as it did; what was killed stays so.
///
/// # Errors
/// Something failed that should not.
pub(super) fn undo(stage: &mut Stage, harm: Harm, nodes: &[usize]) -> io::Result<()> {
    for &node in nodes {
        let server = &mut stage.cluster.servers[node];
        match harm {
            Harm::Pause(_) => server.resume(),
            Harm::Freeze(_) => server.disk.thaw()?,
            Harm::SlowSync { .. } | Harm::SyncError(_) => server.untrace(),
            Harm::Full { .. } => server.disk.empty()?,
            Harm::Clock { .. } if stage.cluster.launch.fake_clock.is_some() => server.set_clock("+0")?,
            Harm::Files(_) if server.is_running() => server.limit_files(FILES_USUAL)?,
            _ => {}
        }
    }
    Ok(())
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

async fn flap(ways: Ways, shaped: Vec<Shaped>) {
    loop {
        for (way, _) in &shaped {
            ways.change(*way, |flow| flow.pass = Pass::Held);
        }
        tokio::time::sleep(about(FLAP_EVERY)).await;
        for (way, _) in &shaped {
            ways.change(*way, |flow| flow.pass = Pass::Open);
        }
        tokio::time::sleep(about(FLAP_EVERY)).await;
    }
}

async fn reset(ways: Ways, touched: Vec<(End, End)>, every: Duration) {
    loop {
        for way in &touched {
            ways.change(*way, |flow| flow.resets += 1);
        }
        tokio::time::sleep(about(every)).await;
    }
}

/// Half as long to half as long again.
fn about(span: Duration) -> Duration {
    span.mul_f64(rand::rng().random_range(0.5..1.5))
}
