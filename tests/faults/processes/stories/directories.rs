//! Data directories that are gone, another node's, another process's, or last minute's.

use std::{fs, io, time::Duration};

use super::{BREATH, copy, followers, kill, refuses, restore, saw, start_and_see};
use crate::processes::stage::Stage;

/// What a node says of another that shows less than it had acknowledged.
const LOST: &str = "a node lost a part of the log that it had acknowledged";

/// A node without its data, whose peers have a cluster, ends and casts no vote, even when its vote would be needed;
/// and two of them found no second cluster.
pub(crate) async fn wiped(stage: &mut Stage) -> io::Result<()> {
    let (leader, wiped, other) = followers(stage).await;
    let fault = kill(stage, "wipe", &[wiped]).await;
    let data = stage.cluster.servers[wiped].disk.data();
    let kept = data.with_extension("kept");
    fs::rename(&data, &kept)?;
    // With the leader gone, the wiped node's vote would make a quorum of three.
    let second = kill(stage, "kill", &[leader]).await;
    let words = ["remove this member", "Remove this member"];
    if let Some(line) = refuses(stage, wiped, &data, &words, "its data wiped").await? {
        saw(&line);
    }
    stage.cluster.start(leader)?;
    // From here on it votes: with the third node it is a majority.
    stage.fault_over(second);
    stage.wait(BREATH).await;

    let third = kill(stage, "wipe", &[other]).await;
    let other_data = stage.cluster.servers[other].disk.data();
    let other_kept = other_data.with_extension("kept");
    fs::rename(&other_data, &other_kept)?;
    let before = [wiped, other].map(|node| stage.cluster.servers[node].log_bytes());
    for (node, data) in [(wiped, &data), (other, &other_data)] {
        let _gone = fs::remove_dir_all(data);
        stage.cluster.start(node)?;
        stage.cluster.servers[node].may_end = true;
    }
    stage.wait(Duration::from_secs(8)).await;
    for (node, before) in [wiped, other].into_iter().zip(before) {
        let server = &mut stage.cluster.servers[node];
        let said = server.log_since(before);
        if server.ended().is_none() && said.contains("serving") {
            let story = format!("{} serves without its data: {said}", server.name);
            stage.findings.violation("no-second-cluster", story);
        }
        stage.cluster.kill(&[node]);
        stage.cluster.servers[node].may_end = false;
    }
    for (data, kept) in [(&data, &kept), (&other_data, &other_kept)] {
        let _gone = fs::remove_dir_all(data);
        fs::rename(kept, data)?;
    }
    restore(stage, &[wiped, other], third).await?;
    stage.fault_over(fault);
    stage.wait(BREATH).await;
    Ok(())
}

/// A node that is started on another node's data ends; with its own it is back.
pub(crate) async fn swapped(stage: &mut Stage) -> io::Result<()> {
    for _ in 0..2 {
        let (_, one, other) = followers(stage).await;
        let fault = kill(stage, "swap", &[one, other]).await;
        for (node, wrong) in [(one, other), (other, one)] {
            let data = stage.cluster.servers[wrong].disk.data();
            if let Some(line) = refuses(stage, node, &data, &["belongs to"], "on another node's data").await? {
                saw(&line);
            }
        }
        restore(stage, &[one, other], fault).await?;
        stage.wait(BREATH).await;
    }
    Ok(())
}

/// A second process on one data directory ends, and the first does not mind.
pub(crate) async fn shared_directory(stage: &mut Stage) -> io::Result<()> {
    for _ in 0..3 {
        let (leader, one, _) = followers(stage).await;
        let fault = kill(stage, "shared_directory", &[one]).await;
        let data = stage.cluster.servers[leader].disk.data();
        if let Some(line) = refuses(stage, one, &data, &["in use"], "on the data of a node that runs").await? {
            saw(&line);
        }
        restore(stage, &[one], fault).await?;
        stage.wait(BREATH).await;
    }
    Ok(())
}

/// A node whose disk is as it was a while ago: it acknowledged records that it no longer has. It must not count for a
/// quorum, and comes back with its true disk.
pub(crate) async fn rolled_back(stage: &mut Stage) -> io::Result<()> {
    for round in 0..2 {
        let (_, node, _) = followers(stage).await;
        let data = stage.cluster.servers[node].disk.data();
        let (old, present) = (data.with_extension("old"), data.with_extension("present"));
        stage.cluster.servers[node].pause();
        let copied = copy(&data, &old);
        stage.cluster.servers[node].resume();
        copied?;
        stage.wait(Duration::from_secs(4)).await;

        let fault = kill(stage, "roll_back", &[node]).await;
        fs::rename(&data, &present)?;
        fs::rename(&old, &data)?;
        let logs: Vec<u64> = stage
            .cluster
            .servers
            .iter()
            .map(super::super::server::Server::log_bytes)
            .collect();
        let ended = start_and_see(stage, node, &data).await?;
        // Only one that led knows what others acknowledged: it must be given the time to see it.
        stage.wait(Duration::from_secs(4)).await;
        if round == 1 {
            // The node's vote, and what it acknowledged, would now make a quorum.
            let (leader, ..) = followers(stage).await;
            let second = kill(stage, "kill", &[leader]).await;
            stage.wait(Duration::from_secs(5)).await;
            restore(stage, &[leader], second).await?;
        }
        let noticed = stage
            .cluster
            .servers
            .iter()
            .zip(&logs)
            .any(|(server, before)| server.log_since(*before).contains(LOST));
        let name = &stage.cluster.servers[node].name;
        match (ended, noticed) {
            (None, true) => saw("it is quarantined"),
            (Some(said), true) => saw(said.lines().last().unwrap_or_default()),
            // It may have ended of anything.
            (ended, false) => {
                let story = format!(
                    "{name} came back without records that it had acknowledged, and nobody said so; {}",
                    ended.map_or("it serves".to_owned(), |said| format!("it ended: {said}"))
                );
                stage.findings.violation("rolled-back-is-noticed", story);
            }
        }
        stage.cluster.kill(&[node]);
        fs::remove_dir_all(&data)?;
        fs::rename(&present, &data)?;
        stage.cluster.start(node)?;
        // A quarantine holds until the leadership changes.
        let (leader, ..) = followers(stage).await;
        stage.cluster.stop(leader);
        stage.cluster.start(leader)?;
        restore_fault(stage, node, fault).await;
        stage.wait(BREATH).await;
    }
    Ok(())
}

async fn restore_fault(stage: &mut Stage, node: usize, fault: super::OpenFault) {
    if let Err(why) = stage.cluster.wait_ready(&[node], Duration::from_secs(60)).await {
        stage
            .findings
            .violation("node-comes-back", format!("with its true disk: {why}"));
    }
    stage.fault_over(fault);
}
