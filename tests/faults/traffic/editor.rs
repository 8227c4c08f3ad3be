//! A client that reads records and changes them: with the revision that it read, without one, or with an old one.

use rand::{Rng as _, seq::IndexedRandom as _};

use super::{
    content,
    session::{Session, record_of},
};
use crate::history::{Answer, Key, Record, Reply, Request, Selector};

/// Runs until it is stopped.
pub(super) async fn run(mut session: Session) {
    let mut known: Vec<Key> = Vec::new();
    while session.goes_on() {
        if known.is_empty() || session.rng.random_bool(0.05) {
            known = keys(&mut session).await;
        }
        let shared = content::shared_key(&mut session.rng, &session.options);
        let key = match known.choose(&mut session.rng) {
            Some(key) if session.rng.random_bool(0.6) => key.clone(),
            _ => shared,
        };
        if session.rng.random_bool(0.1) {
            // Unread, and perhaps not there.
            let mut update = session.update(&key, 0, None);
            session.attempt(&mut update).await;
        } else {
            edit(&mut session, key).await;
        }
        session.think().await;
    }
}

/// The keys of one service.
async fn keys(session: &mut Session) -> Vec<Key> {
    let services = vec![content::any_service(&mut session.rng, &session.options)];
    let mut list = session.call(Request::List {
        selector: Selector {
            services,
            ..Selector::default()
        },
        stale: false,
        max_age_ns: None,
        min_revision: 0,
    });
    match session.settle(&mut list, 2).await {
        Answer::Done {
            reply: Reply::Read { records, .. },
            ..
        } => records.into_iter().map(|record| record.key).collect(),
        _ => Vec::new(),
    }
}

async fn edit(session: &mut Session, key: Key) {
    let mut get = session.call(Request::Get {
        key: key.clone(),
        stale: false,
        max_age_ns: None,
        min_revision: 0,
    });
    let answer = session.attempt(&mut get).await;
    let Some(record) = record_of(&answer).cloned() else {
        return;
    };
    // In between, others may change it.
    if session.rng.random_bool(0.3) {
        session.think().await;
    }
    let changed = write(session, &record).await;
    if changed && session.rng.random_bool(0.3) {
        // Expects what was before its own change.
        let mut late = session.update(&key, record.incarnation, Some(record.mod_revision));
        session.attempt(&mut late).await;
    }
}

/// One change of the record that was read, never repeated; whether it was done.
async fn write(session: &mut Session, record: &Record) -> bool {
    let (incarnation, expected) = match session.rng.random_range(0..10) {
        0..5 => (record.incarnation, Some(record.mod_revision)),
        5..7 => (record.incarnation, None),
        // Not fenced.
        7 => (0, None),
        // A life that is over, as far as this record knows.
        8 => ((record.incarnation - 1).max(0), None),
        _ => (record.incarnation, Some(record.create_revision)),
    };
    let mut update = session.update(&record.key, incarnation, expected);
    matches!(session.attempt(&mut update).await, Answer::Done { .. })
}
