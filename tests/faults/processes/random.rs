//! Harm at random: two or three faults over each other, in bursts, with a rest after each.

use std::{io, time::Duration};

use rand::{Rng as _, rngs::StdRng};
use tokio::time::Instant;

use super::{
    harm::{Harm, Held, Whom},
    network::Pass,
    stage::Stage,
};

/// Snapshots come often, too; what is kept of the log is more than a round writes.
pub(crate) const FLAGS: &[&str] = &["--snapshot-after-bytes", "1000000", "--log-kept-records", "90000"];
/// Faults at one time.
const AT_ONCE_MAX: usize = 3;
const BURST: Duration = Duration::from_secs(18);
const REST: Duration = Duration::from_secs(4);

/// One cluster's round.
///
/// # Errors
/// Something of the machine failed that should not.
pub(crate) async fn round(stage: &mut Stage, span: Duration) -> io::Result<()> {
    let until = Instant::now() + span;
    let mut chance = super::campaign::chance(stage.seed());
    while Instant::now() < until {
        burst(stage, &mut chance, until.min(Instant::now() + BURST)).await?;
        stage.wait(REST).await;
    }
    Ok(())
}

async fn burst(stage: &mut Stage, chance: &mut StdRng, until: Instant) -> io::Result<()> {
    let mut held: Vec<(Instant, Held)> = Vec::new();
    while Instant::now() < until {
        let (over, on): (Vec<_>, Vec<_>) = held.into_iter().partition(|(end, _)| *end <= Instant::now());
        held = on;
        for (_, harm) in over {
            relieve(stage, harm).await?;
        }
        if held.len() < AT_ONCE_MAX && chance.random_bool(0.7) {
            let (harm, longest_ms) = choose(chance, stage.cluster.servers.len());
            let excluded = held.iter().any(|(_, held)| held.excludes(harm));
            if !excluded && let Some(begun) = Held::begin(stage, harm).await? {
                if harm.holds_nodes() {
                    stage.busy.extend(begun.nodes());
                }
                let hold = Duration::from_millis(chance.random_range(100..=longest_ms));
                held.push((Instant::now() + hold, begun));
            }
        }
        stage.wait(Duration::from_millis(chance.random_range(100..1_500))).await;
    }
    for (_, harm) in held {
        relieve(stage, harm).await?;
    }
    Ok(())
}

async fn relieve(stage: &mut Stage, harm: Held) -> io::Result<()> {
    let nodes = harm.nodes().to_vec();
    let held_nodes = harm.harm().holds_nodes();
    harm.relieve(stage).await?;
    if held_nodes {
        stage.busy.retain(|node| !nodes.contains(node));
    }
    Ok(())
}

/// A harm, and how long it may hold, in ms.
#[rustfmt::skip] // a table: of every hundred, so many of each
fn choose(chance: &mut StdRng, nodes: usize) -> (Harm, u64) {
    let whom = choose_whom(chance, nodes);
    let one = if chance.random_bool(0.5) { Whom::Leader } else { Whom::Follower };
    let pass = [Pass::Held, Pass::Swallowed, Pass::Cut][chance.random_range(0..3)];
    let either = chance.random_bool(0.5);
    let often_ms = chance.random_range(100..800);
    match chance.random_range(0..100) {
        0..14 => (Harm::Kill(whom), 3_000),
        14..18 => (Harm::Kill(Whom::All), 1_000),
        18..21 => (Harm::Stop(one), 1_500),
        21..31 => (Harm::Pause(whom), 6_000),
        31..33 => (Harm::Pause(Whom::All), 6_000),
        33..47 => (Harm::Isolate { whom, pass, clients: chance.random_bool(0.3) }, 7_000),
        47..55 => (Harm::OneWay { whom: one, outward: either, pass }, 7_000),
        55..59 => (Harm::Bridge, 7_000),
        59..62 => (Harm::Ring, 7_000),
        62..66 => (Harm::Flap(one), 6_000),
        66..70 => (Harm::Delay { delay_ms: chance.random_range(1..80), jitter_ms: chance.random_range(0..100) }, 8_000),
        70..73 => (Harm::Throttle { whom: one, bytes_per_s: chance.random_range(10_000..200_000) }, 6_000),
        73..77 => (Harm::Resets { every_ms: often_ms, peers: true }, 6_000),
        77..81 => (Harm::Resets { every_ms: often_ms, peers: false }, 6_000),
        81..83 => (Harm::DeafClients { outward: either }, 3_000),
        83..87 => (Harm::Freeze(one), 5_000),
        87..89 => (Harm::SlowSync { whom: one, delay_ms: chance.random_range(50..600) }, 5_000),
        89..91 => (Harm::SyncError(one), 2_000),
        91..95 => (Harm::PowerCut(whom), 1_500),
        95..97 => (Harm::PowerCut(Whom::All), 500),
        97 => (Harm::Full { whom: one, leave_mib: if either { 0 } else { 64 } }, 4_000),
        98 => (Harm::Files(one), 4_000),
        _ => (Harm::Clock { whom, hours: if either { 24 } else { -24 } }, 4_000),
    }
}

fn choose_whom(chance: &mut StdRng, nodes: usize) -> Whom {
    let minority = nodes.div_ceil(2) - 1;
    match chance.random_range(0..10) {
        0..4 => Whom::Leader,
        4..6 => Whom::Follower,
        6..8 => Whom::Any(chance.random_range(1..=minority)),
        8 => Whom::WithLeader(minority),
        _ => Whom::Any(chance.random_range(1..=nodes)),
    }
}
