//! A client with many leases, pipelined on one stream. Some hold an instance; some are forgotten, several at once, so
//! that they end together; some are remembered when they are due, so that renewals meet the end.

use std::{collections::BTreeMap, time::Duration};

use rand::{
    Rng as _,
    seq::{IndexedRandom as _, SliceRandom as _},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    content,
    renewals::{Kept, renew},
    session::Session,
};
use crate::history::{Answer, Hold, Request};

/// Attempts of a call that may be repeated blindly.
const TRIES: u32 = 2;

/// How far from the end of a lease its late renewal comes, before or after.
const AROUND_THE_END: Duration = Duration::from_millis(300);

/// The TTL of each lease that was granted and not seen to end, and when one that was forgotten is remembered.
#[derive(Default)]
struct Leases {
    ttl: BTreeMap<i64, Duration>,
    remembered: BTreeMap<i64, Instant>,
}

/// Runs until it is stopped.
pub(super) async fn run(mut session: Session) {
    let kept = Kept::default();
    let mut leases = Leases::default();
    let enough = CancellationToken::new();
    let period = session.options.ttl.start / 4;
    let renewing = renew(session.fork(), kept.clone(), period, enough.clone());
    let granting = async {
        while session.goes_on() {
            turn_over(&mut session, &kept, &mut leases).await;
            session.think().await;
        }
        enough.cancel();
    };
    tokio::join!(renewing, granting);
}

/// Grants a lease, revokes one, remembers those that are due, or lets some go.
async fn turn_over(session: &mut Session, kept: &Kept, leases: &mut Leases) {
    let now = Instant::now();
    while let Some(lease) = first_due(&leases.remembered, now) {
        leases.remembered.remove(&lease);
        kept.add(lease);
    }
    let all = kept.all();
    leases
        .ttl
        .retain(|lease, _| all.contains(lease) || leases.remembered.contains_key(lease));
    let wanted = usize::try_from(session.options.renewer_leases).unwrap_or(usize::MAX);
    if all.len() < wanted && session.rng.random_bool(0.8) {
        grant(session, kept, leases).await;
    } else if let Some(&lease) = all.choose(&mut session.rng) {
        if session.rng.random_bool(0.3) {
            // The stream goes on renewing it, until it is told.
            let mut revoke = session.call(Request::Revoke { lease });
            session.settle(&mut revoke, TRIES).await;
        } else if session.rng.random_bool(0.3) {
            forget(session, kept, leases, all);
        }
    }
}

fn first_due(remembered: &BTreeMap<i64, Instant>, now: Instant) -> Option<i64> {
    let mut due = remembered.iter().filter(|(_, at)| **at <= now);
    due.next().map(|(&lease, _)| lease)
}

/// Lets some go at once; half of them it remembers about when they end.
fn forget(session: &mut Session, kept: &Kept, leases: &mut Leases, mut all: Vec<i64>) {
    all.shuffle(&mut session.rng);
    all.truncate(session.rng.random_range(1..=all.len()));
    for lease in all {
        kept.abandon(lease);
        if let Some(ttl) = leases.ttl.get(&lease)
            && session.rng.random_bool(0.5)
        {
            let late = session.rng.random_range(Duration::ZERO..AROUND_THE_END * 2);
            let at = Instant::now() + *ttl + late;
            leases.remembered.insert(lease, at - AROUND_THE_END);
        }
    }
}

async fn grant(session: &mut Session, kept: &Kept, leases: &mut Leases) {
    let (lease, ttl_ms) = (session.lease_id(), session.ttl_ms());
    let mut grant = session.call(Request::Grant { lease, ttl_ms });
    let answer = session.settle(&mut grant, TRIES).await;
    if !matches!(answer, Answer::Done { .. }) {
        return;
    }
    kept.add(lease);
    leases.ttl.insert(lease, Duration::from_millis(ttl_ms));
    if session.rng.random_bool(0.5) {
        let service = content::any_service(&mut session.rng, &session.options);
        let key = content::key(
            &service,
            &format!("r{}-{}", session.number, session.rng.random_range(0..20)),
        );
        let incarnation = session.incarnation();
        let mut register = session.register(&key, incarnation, Hold::Lease(lease), None);
        session.settle(&mut register, TRIES).await;
    }
}
