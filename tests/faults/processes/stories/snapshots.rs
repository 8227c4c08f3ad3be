//! Followers that need snapshots, while leaders change and receivers die.
//!
//! The nodes keep little log, so a follower that was away for some seconds needs a snapshot; and the witness is read
//! from the nodes' disks meanwhile, before it is purged.

use std::{io, time::Duration};

use rand::Rng as _;
use tokio::time::Instant;

use super::{BREATH, followers, kill, restore, saw};
use crate::processes::stage::Stage;

/// A follower is away until the leader has so many records more: more than it keeps, which is more than nodes write
/// between two looks at the witness.
const AWAY_RECORDS: i64 = 1_900;
const AWAY_MAX: Duration = Duration::from_secs(40);
/// The witness is read so often.
const ARCHIVE_EVERY: Duration = Duration::from_millis(700);

/// Three followers in turn stay away; the receiver, then the sender, is killed in the middle.
pub(crate) async fn snapshots(stage: &mut Stage) -> io::Result<()> {
    for round in 0..3 {
        let (leader, away, _) = followers(stage).await;
        let fault = kill(stage, "kill", &[away]).await;
        let log = stage.cluster.servers[away].log_bytes();
        grow(stage, leader).await?;
        stage.cluster.start(away)?;
        for _ in 0..round {
            let after = Duration::from_millis(stage.chance.random_range(50..700));
            stage.wait(after).await;
            let hit = if stage.chance.random_bool(0.5) { away } else { leader };
            stage.archive_live(leader).await?;
            let second = kill(stage, "kill", &[hit]).await;
            restore(stage, &[hit], second).await?;
        }
        if let Err(why) = stage.cluster.wait_ready(&[away], Duration::from_secs(60)).await {
            stage.findings.violation("converges-by-snapshot", why);
        }
        stage.fault_over(fault);
        let said = stage.cluster.servers[away].log_since(log);
        let installed = said.lines().filter(|line| line.contains("snapshot installed")).count();
        saw(&format!("{installed} snapshots installed"));
        stage.archive_live(leader).await?;
        stage.wait(BREATH).await;
    }
    Ok(())
}

async fn grow(stage: &mut Stage, leader: usize) -> io::Result<()> {
    let log_index =
        |status: Option<roster::wire::v1::GetNodeStatusResponse>| status.map_or(0, |status| status.log_index);
    let from = log_index(stage.cluster.status(leader).await);
    let until = Instant::now() + AWAY_MAX;
    while Instant::now() < until && log_index(stage.cluster.status(leader).await) < from + AWAY_RECORDS {
        stage.archive_live(leader).await?;
        stage.wait(ARCHIVE_EVERY).await;
    }
    Ok(())
}
