//! A client with many leases, pipelined on one stream. Some hold an instance; some are forgotten, several at once, so
//! that they end together.

use std::time::Duration;

use rand::{Rng as _, seq::SliceRandom as _};
use tokio_util::sync::CancellationToken;

use super::{
    content,
    renewals::{Kept, renew},
    session::Session,
};
use crate::history::{Answer, Hold, Request};

/// Attempts of a call that may be repeated blindly.
const TRIES: u32 = 2;

/// Runs until it is stopped.
pub(super) async fn run(mut session: Session) {
    let kept = Kept::default();
    let enough = CancellationToken::new();
    let period = session.options.ttl.start / 4;
    let renewing = renew(session.fork(), kept.clone(), period, enough.clone());
    let granting = async {
        while session.goes_on() {
            turn_over(&mut session, &kept).await;
            session.think().await;
        }
        enough.cancel();
    };
    tokio::join!(renewing, granting);
}

/// Grants a lease, or lets some go.
async fn turn_over(session: &mut Session, kept: &Kept) {
    let count = kept.all().len();
    let wanted = usize::try_from(session.options.renewer_leases).unwrap_or(usize::MAX);
    if count < wanted && session.rng.random_bool(0.8) {
        grant(session, kept).await;
    } else if count > 0 && session.rng.random_bool(0.3) {
        let mut some = kept.all();
        some.shuffle(&mut session.rng);
        some.truncate(session.rng.random_range(1..=count));
        for lease in some {
            kept.abandon(lease);
        }
        // They are due in the same moment or so; meanwhile there is nothing to do.
        session.rest(Duration::from_millis(50)).await;
    }
}

async fn grant(session: &mut Session, kept: &Kept) {
    let (lease, ttl_ms) = (session.lease_id(), session.ttl_ms());
    let mut grant = session.call(Request::Grant { lease, ttl_ms });
    let answer = session.settle(&mut grant, TRIES).await;
    if !matches!(answer, Answer::Done { .. }) {
        return;
    }
    kept.add(lease);
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
