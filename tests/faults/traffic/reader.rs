//! A client that only reads: records, lists and overviews, fresh and stale, on all nodes.

use std::time::Duration;

use rand::{Rng as _, seq::IndexedRandom as _};

use super::{content, session::Session};
use crate::history::{Answer, Overview, Reply, Request, Row};

/// How many reads are overviews.
const OVERVIEWS: f64 = 0.2;
/// How many leases it remembers: some of them have ended when it asks for them.
const LEASES_KNOWN: usize = 200;

/// Runs until it is stopped.
pub(super) async fn run(mut session: Session) {
    let mut leases = Vec::new();
    while session.goes_on() {
        if session.rng.random_bool(0.5) {
            session.hop();
        }
        read(&mut session, &mut leases).await;
        session.think().await;
    }
}

/// How fresh an answer is to be.
struct Freshness {
    stale: bool,
    max_age_ns: Option<u64>,
    min_revision: i64,
}

impl Freshness {
    fn by_chance(session: &mut Session) -> Self {
        let stale = session.rng.random_bool(0.35);
        let max_age_ns = (stale && session.rng.random_bool(0.6)).then(|| {
            let age = session.rng.random_range(Duration::ZERO..Duration::from_secs(2));
            u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)
        });
        let min_revision = match session.rng.random_range(0..20) {
            // What this client has seen anywhere, here.
            0..6 => session.seen,
            // What may come while it waits, or not.
            6 => session.seen + session.rng.random_range(1..20),
            _ => 0,
        };
        Self {
            stale,
            max_age_ns,
            min_revision,
        }
    }
}

/// Reads once. `leases` are those that it was shown last.
async fn read(session: &mut Session, leases: &mut Vec<i64>) {
    let Freshness {
        stale,
        max_age_ns,
        min_revision,
    } = Freshness::by_chance(session);
    let request = if session.rng.random_bool(OVERVIEWS) {
        Request::Overview {
            of: overview(session, leases),
            stale,
            max_age_ns,
            min_revision,
        }
    } else if session.rng.random_bool(0.5) {
        Request::Get {
            key: content::shared_key(&mut session.rng, &session.options),
            stale,
            max_age_ns,
            min_revision,
        }
    } else {
        Request::List {
            selector: content::any_selector(&mut session.rng, &session.options),
            stale,
            max_age_ns,
            min_revision,
        }
    };
    let mut call = session.call(request);
    // Small pages, so that a list takes several while writes go on.
    call.page_size = session.rng.random_range(0..3) * session.rng.random_range(1..8);
    if let Answer::Done {
        reply: Reply::Read { rows, .. },
        ..
    } = session.attempt(&mut call).await
        && rows.len() > 1
    {
        let shown = rows.iter().filter_map(|row| match row {
            Row::Lease { lease, .. } => Some(*lease),
            _ => None,
        });
        leases.extend(shown);
        leases.drain(..leases.len().saturating_sub(LEASES_KNOWN));
    }
}

fn overview(session: &mut Session, leases: &[i64]) -> Overview {
    match session.rng.random_range(0..8) {
        0 => Overview::Namespaces,
        1 | 2 => Overview::Services,
        3 | 4 => Overview::Leases,
        _ => leases
            .choose(&mut session.rng)
            .map_or(Overview::Leases, |lease| Overview::Lease(*lease)),
    }
}
