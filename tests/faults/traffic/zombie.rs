//! A client whose former lives go on talking: late Registers, Updates and Deregisters, which must not touch what came
//! after them.

use rand::Rng as _;

use super::{content, session::Session};
use crate::history::{Answer, Hold, Key, Request};

/// Attempts of a call that may be repeated blindly.
const TRIES: u32 = 3;

/// Runs until it is stopped.
pub(super) async fn run(mut session: Session) {
    while session.goes_on() {
        let key = if session.rng.random_bool(0.3) {
            content::shared_key(&mut session.rng, &session.options)
        } else {
            let service = content::any_service(&mut session.rng, &session.options);
            content::key(&service, &format!("z{}", session.number))
        };
        haunt(&mut session, key).await;
        session.think().await;
    }
}

/// Two lives of one instance, of which the first does not know that it is over.
async fn haunt(session: &mut Session, key: Key) {
    let first = session.incarnation();
    register(session, &key, first).await;
    session.think().await;
    let second = session.incarnation();
    register(session, &key, second).await;
    for _ in 0..session.rng.random_range(1..4) {
        session.hop();
        match session.rng.random_range(0..2) {
            0 => {
                let mut late = session.update(&key, first, None);
                session.attempt(&mut late).await;
            }
            _ => register(session, &key, first).await,
        }
        session.think().await;
    }
    // Each life is deregistered by one call: first the late one, or first the living one.
    let order = if session.rng.random_bool(0.5) {
        [first, second]
    } else {
        [second, first]
    };
    for incarnation in order {
        if session.rng.random_bool(0.8) {
            deregister(session, &key, incarnation).await;
        }
        if session.rng.random_bool(0.3) {
            // After the end, too.
            register(session, &key, incarnation).await;
        }
    }
}

async fn register(session: &mut Session, key: &str, incarnation: i64) {
    let ttl_ms = session.ttl_ms();
    let mut register = session.register(key, incarnation, Hold::Own { ttl_ms }, None);
    session.settle(&mut register, TRIES).await;
}

async fn deregister(session: &mut Session, key: &str, incarnation: i64) {
    let mut deregister = session.call(Request::Deregister {
        key: key.to_owned(),
        incarnation,
        expected: None,
    });
    let answer = session.attempt(&mut deregister).await;
    if matches!(answer, Answer::Unknown { .. }) && session.rng.random_bool(0.5) {
        // The shutdown hook, once more.
        session.attempt(&mut deregister).await;
    }
}
