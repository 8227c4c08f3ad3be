//! A client that only reads: records and lists, fresh and stale, on all nodes.

use std::time::Duration;

use rand::Rng as _;

use super::{content, session::Session};
use crate::history::Request;

/// Runs until it is stopped.
pub(super) async fn run(mut session: Session) {
    while session.goes_on() {
        if session.rng.random_bool(0.5) {
            session.hop();
        }
        read(&mut session).await;
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

async fn read(session: &mut Session) {
    let Freshness {
        stale,
        max_age_ns,
        min_revision,
    } = Freshness::by_chance(session);
    let request = if session.rng.random_bool(0.5) {
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
    session.attempt(&mut call).await;
}
