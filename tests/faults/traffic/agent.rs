//! An agent for a host: one shared lease with many instances, renewed over a stream.

use std::time::Duration;

use rand::Rng as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    content,
    renewals::{Kept, renew},
    session::Session,
};
use crate::history::{Answer, Hold, Key, Request};

/// Attempts of a call that may be repeated blindly.
const TRIES: u32 = 3;
/// How long it keeps one lease, in TTLs.
const KEEPS_TTLS: std::ops::Range<u32> = 1..6;

/// What the agent registered under its lease.
struct Host {
    lease: i64,
    ttl: Duration,
    incarnation: i64,
    keys: Vec<Key>,
}

/// Runs until it is stopped: one lease after another.
pub(super) async fn run(mut session: Session) {
    while session.goes_on() {
        if let Some(host) = settle_in(&mut session).await {
            keep(&mut session, host).await;
        }
        session.think().await;
    }
}

/// Grants a lease and registers instances with it, in one revision.
async fn settle_in(session: &mut Session) -> Option<Host> {
    let (lease, ttl_ms) = (session.lease_id(), session.ttl_ms());
    let mut grant = session.call(Request::Grant { lease, ttl_ms });
    let granted = session.settle(&mut grant, TRIES).await;
    if !matches!(granted, Answer::Done { .. }) {
        return None;
    }
    let incarnation = session.incarnation();
    let count = session.rng.random_range(session.options.lease_instances.clone());
    let mut keys: Vec<Key> = (0..count)
        .map(|id| {
            let service = content::any_service(&mut session.rng, &session.options);
            content::key(&service, &format!("a{}-{id}", session.number))
        })
        .collect();
    if session.rng.random_bool(0.5) {
        // Taken over from whoever has it.
        keys.push(content::shared_key(&mut session.rng, &session.options));
    }
    let mut batch = session.batch(keys.clone(), incarnation, Hold::Lease(lease));
    session.settle(&mut batch, TRIES).await;
    Some(Host {
        lease,
        ttl: Duration::from_millis(ttl_ms),
        incarnation,
        keys,
    })
}

/// Keeps the lease alive while its instances change; then revokes it, or forgets it.
async fn keep(session: &mut Session, mut host: Host) {
    let kept = Kept::default();
    kept.add(host.lease);
    let enough = CancellationToken::new();
    let until = Instant::now() + host.ttl * session.rng.random_range(KEEPS_TTLS);
    let renewing = renew(session.fork(), kept.clone(), host.ttl / 4, enough.clone());
    let changing = async {
        while session.goes_on() && kept.contains(host.lease) && Instant::now() < until {
            change(session, &mut host).await;
            session.think().await;
            let pause = session.rng.random_range(Duration::ZERO..host.ttl / 8);
            session.rest(pause).await;
        }
        enough.cancel();
    };
    tokio::join!(renewing, changing);
    if session.rng.random_bool(0.5) {
        let mut revoke = session.call(Request::Revoke { lease: host.lease });
        session.settle(&mut revoke, TRIES).await;
    }
}

/// Changes one instance of the lease, or some of them together.
async fn change(session: &mut Session, host: &mut Host) {
    if host.keys.is_empty() {
        return;
    }
    let at = session.rng.random_range(0..host.keys.len());
    let key = host.keys[at].clone();
    match session.rng.random_range(0..10) {
        0..4 => {
            let mut update = session.update(&key, host.incarnation, None);
            session.attempt(&mut update).await;
        }
        4..6 => {
            let mut register = session.register(&key, host.incarnation, Hold::Lease(host.lease), None);
            session.settle(&mut register, TRIES).await;
        }
        6..8 => {
            let some = session.rng.random_range(1..=host.keys.len());
            let keys = host.keys[..some].to_vec();
            let mut batch = session.batch(keys, host.incarnation, Hold::Lease(host.lease));
            session.settle(&mut batch, TRIES).await;
        }
        8 => {
            host.keys.swap_remove(at);
            let mut deregister = session.call(Request::Deregister {
                key,
                incarnation: host.incarnation,
                expected: None,
            });
            session.settle(&mut deregister, TRIES).await;
        }
        _ => {}
    }
}
