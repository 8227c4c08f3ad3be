//! Harm at random: bursts of faults that overlap, two or three at one time, and between them faults that are alone and
//! last: what must be so while a fault lasts shows only when it has shown its effect, and before others come.

use std::{io, time::Duration};

use rand::{Rng as _, rngs::StdRng};
use tokio::time::Instant;

use super::{
    harm::{Begun, Harm, Held, Whom},
    network::Pass,
    stage::Stage,
};

/// Snapshots come often, too; what is kept of the log is more than a round writes.
pub(crate) const FLAGS: &[&str] = &["--snapshot-after-bytes", "1000000", "--log-kept-records", "90000"];
/// Faults at one time.
const AT_ONCE_MAX: usize = 3;
/// Faults of a burst: three on average, so that of four faults one is long.
const IN_BURST: std::ops::RangeInclusive<u32> = 1..=5;
/// No burst lasts longer.
const BURST: Duration = Duration::from_secs(18);
const REST: Duration = Duration::from_secs(4);
/// How long a long fault holds, in ms.
const LONG_MS: std::ops::RangeInclusive<u64> = 9_000..=14_000;

/// One cluster's round. The calm in its end is the stage's to keep.
///
/// # Errors
/// Something of the machine failed that should not.
pub(crate) async fn round(stage: &mut Stage, span: Duration) -> io::Result<()> {
    let until = Instant::now() + span;
    let mut chance = super::campaign::chance(stage.seed());
    loop {
        burst(stage, &mut chance, until.min(Instant::now() + BURST)).await?;
        stage.wait(REST).await;
        // Too short to be long is not long.
        if Instant::now() + Duration::from_millis(*LONG_MS.start()) > until {
            return Ok(());
        }
        long(stage, &mut chance).await?;
        stage.wait(REST).await;
    }
}

async fn burst(stage: &mut Stage, chance: &mut StdRng, until: Instant) -> io::Result<()> {
    let mut held: Vec<(Instant, Held)> = Vec::new();
    let mut left = chance.random_range(IN_BURST);
    while Instant::now() < until && (left > 0 || !held.is_empty()) {
        let (over, on): (Vec<_>, Vec<_>) = held.into_iter().partition(|(end, _)| *end <= Instant::now());
        held = on;
        for (_, harm) in over {
            relieve(stage, harm).await?;
        }
        if left > 0 && held.len() < AT_ONCE_MAX && chance.random_bool(0.7) {
            let (harm, longest_ms) = choose(chance, stage.cluster.servers.len());
            let excluded = held.iter().any(|(_, held)| held.excludes(harm));
            if !excluded && let Some(begun) = begin(stage, harm).await? {
                if harm.holds_nodes() {
                    stage.busy.extend(begun.nodes());
                }
                let hold = Duration::from_millis(chance.random_range(100..=longest_ms));
                held.push((Instant::now() + hold, begun));
                left -= 1;
            }
        }
        stage.wait(Duration::from_millis(chance.random_range(100..1_500))).await;
    }
    for (_, harm) in held {
        relieve(stage, harm).await?;
    }
    Ok(())
}

/// `None`: nobody could be hit just now, which is nothing to be counted where another harm may follow at once; or the
/// machine lacks what it needs, which is.
async fn begin(stage: &mut Stage, harm: Harm) -> io::Result<Option<Held>> {
    match Held::begin(stage, harm).await? {
        Begun::Held(held) => Ok(Some(held)),
        Begun::NoTarget => Ok(None),
        Begun::Lacks(why) => {
            stage.findings.lack(harm.kind(), 1, &why);
            Ok(None)
        }
    }
}

/// One fault alone, for long.
async fn long(stage: &mut Stage, chance: &mut StdRng) -> io::Result<()> {
    let harm = choose_long(chance, stage.cluster.servers.len());
    let hold = Duration::from_millis(chance.random_range(LONG_MS));
    match Held::begin_when_there(stage, harm).await? {
        Begun::Held(held) => {
            stage.wait(hold).await;
            held.relieve(stage).await
        }
        Begun::NoTarget => {
            stage.findings.miss(harm.kind(), "nobody to be hit came into view");
            Ok(())
        }
        Begun::Lacks(why) => {
            stage.findings.lack(harm.kind(), 1, &why);
            Ok(())
        }
    }
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

/// A harm whose effect is clear while it lasts: so many, and no others, are away.
fn choose_long(chance: &mut StdRng, nodes: usize) -> Harm {
    let minority = nodes.div_ceil(2) - 1;
    let some = match chance.random_range(0..8) {
        0..3 => Whom::Leader,
        3..5 => Whom::Follower,
        5 => Whom::WithLeader(minority),
        _ => Whom::Quorum,
    };
    let pass = [Pass::Held, Pass::Swallowed, Pass::Cut][chance.random_range(0..3)];
    match chance.random_range(0..10) {
        0..3 => Harm::Kill(some),
        3..6 => Harm::Pause(some),
        _ => Harm::Isolate {
            // Two sides: the smaller one is as much without a majority as if it were all that there is.
            whom: if some == Whom::Quorum {
                Whom::Any(minority)
            } else {
                some
            },
            pass,
            clients: chance.random_bool(0.2),
        },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_four_faults_about_one_is_long() {
        let mut chance = super::super::campaign::chance(7);
        let bursts = 1_000;
        let short: u32 = (0..bursts).map(|_| chance.random_range(IN_BURST)).sum();
        assert!((2_800..3_200).contains(&short), "{short}");
    }

    #[test]
    fn a_long_fault_is_of_nodes_or_their_links() {
        let mut chance = super::super::campaign::chance(7);
        let mut kinds: Vec<_> = (0..200).map(|_| choose_long(&mut chance, 5).kind()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds, ["kill", "partition", "pause"]);
    }
}
