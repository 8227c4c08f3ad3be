//! Which ways a harm is about, and what becomes of them.

use std::time::Duration;

use rand::seq::SliceRandom as _;

use super::Harm;
use crate::processes::{
    network::{End, Flow, Pass},
    stage::Stage,
};

/// A way, and what it is to be.
pub(crate) type Shaped = ((End, End), Flow);

/// All ways that a harm changes. `nodes`: whom it hits.
pub(super) fn ways(stage: &mut Stage, harm: Harm, nodes: &[usize]) -> Vec<Shaped> {
    let size = stage.cluster.servers.len();
    let others: Vec<usize> = (0..size).filter(|node| !nodes.contains(node)).collect();
    let clients = stage.cluster.clients();
    match harm {
        Harm::Isolate { pass, clients: too, .. } => {
            let peers = between(nodes, &others).flat_map(|(a, b)| both(End::Node(a), End::Node(b), &blocked(pass)));
            let clients = to_clients(nodes, if too { clients } else { 0 });
            peers
                .chain(clients.flat_map(|(node, client)| both(node, client, &blocked(pass))))
                .collect()
        }
        Harm::OneWay { outward, pass, .. } => between(nodes, &others)
            .map(|(a, b)| if outward { (a, b) } else { (b, a) })
            .map(|(from, to)| ((End::Node(from), End::Node(to)), blocked(pass)))
            .collect(),
        Harm::Flap(_) => {
            let flapping = Flow {
                flaps: true,
                ..Flow::default()
            };
            between(nodes, &others)
                .flat_map(|(a, b)| both(End::Node(a), End::Node(b), &flapping))
                .collect()
        }
        Harm::Throttle { bytes_per_s, .. } => {
            let narrow = Flow {
                bytes_per_s: Some(bytes_per_s),
                ..Flow::default()
            };
            between(nodes, &others)
                .flat_map(|(a, b)| both(End::Node(a), End::Node(b), &narrow))
                .collect()
        }
        Harm::Bridge => bridge(stage, size),
        Harm::Ring => ring(size),
        Harm::Delay { delay_ms, jitter_ms } => {
            let flow = Flow {
                delay: Duration::from_millis(delay_ms),
                jitter: Duration::from_millis(jitter_ms),
                ..Flow::default()
            };
            pairs(size).map(|way| (way, flow.clone())).collect()
        }
        Harm::Resets { peers: true, .. } => pairs(size).map(|way| (way, Flow::default())).collect(),
        Harm::Resets { peers: false, .. } => to_clients(nodes, clients)
            .map(|(node, client)| ((client, node), Flow::default()))
            .collect(),
        Harm::DeafClients { outward } => to_clients(nodes, clients)
            .map(|(node, client)| if outward { (client, node) } else { (node, client) })
            .map(|way| (way, blocked(Pass::Swallowed)))
            .collect(),
        _ => Vec::new(),
    }
}

/// Two halves, and one node that both see.
fn bridge(stage: &mut Stage, size: usize) -> Vec<Shaped> {
    let mut order: Vec<usize> = (0..size).collect();
    order.shuffle(&mut stage.chance);
    let half = (size - 1) / 2;
    between(&order[..half], &order[half..size - 1])
        .flat_map(|(a, b)| both(End::Node(a), End::Node(b), &blocked(Pass::Held)))
        .collect()
}

fn ring(size: usize) -> Vec<Shaped> {
    let neighbours = |a: usize, b: usize| {
        // Three nodes in a ring all see each other: one link less then.
        let next = b - a == 1 || b - a == size - 1;
        next && (size != 3 || (a, b) != (0, 1))
    };
    (0..size)
        .flat_map(|a| (a + 1..size).map(move |b| (a, b)))
        .filter(|&(a, b)| !neighbours(a, b))
        .flat_map(|(a, b)| both(End::Node(a), End::Node(b), &blocked(Pass::Held)))
        .collect()
}

fn blocked(pass: Pass) -> Flow {
    Flow {
        pass,
        ..Flow::default()
    }
}

fn both(a: End, b: End, flow: &Flow) -> [Shaped; 2] {
    [((a, b), flow.clone()), ((b, a), flow.clone())]
}

fn between<'a>(some: &'a [usize], others: &'a [usize]) -> impl Iterator<Item = (usize, usize)> + 'a {
    some.iter().flat_map(move |&a| others.iter().map(move |&b| (a, b)))
}

fn to_clients(nodes: &[usize], clients: u32) -> impl Iterator<Item = (End, End)> {
    nodes
        .iter()
        .flat_map(move |&node| (0..clients).map(move |client| (End::Node(node), End::Client(client))))
}

fn pairs(size: usize) -> impl Iterator<Item = (End, End)> {
    (0..size).flat_map(move |a| {
        (0..size)
            .filter(move |b| *b != a)
            .map(move |b| (End::Node(a), End::Node(b)))
    })
}
