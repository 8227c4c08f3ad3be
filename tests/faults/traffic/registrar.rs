//! A client with instances of its own: it registers, renews, changes, deregisters, and sometimes forgets one.

use std::time::Duration;

use rand::Rng as _;
use tokio::time::Instant;

use super::content;
use super::session::{Logical, Session, is_rejected, record_of};
use crate::history::{Answer, Hold, Key, RenewOutcome, Reply, Request};

/// Instances at a time.
const LIVES_MAX: usize = 5;
/// Attempts of a call that may be repeated blindly.
const TRIES: u32 = 3;

/// How far from the end of a forgotten life its owner may come back, before or after.
const AROUND_THE_END: Duration = Duration::from_millis(300);

/// One instance of the client's, from its first Register to its end.
struct Life {
    key: Key,
    incarnation: i64,
    /// Its last Register: the same again renews it.
    register: Logical,
    ttl: Duration,
    /// Its lease, as the last answer told; 0 = permanent, or not told.
    lease: i64,
    /// When it is to be renewed.
    due: Instant,
    /// Its owner has forgotten it.
    abandoned: bool,
}

/// Runs until it is stopped.
pub(super) async fn run(mut session: Session) {
    let mut lives: Vec<Life> = Vec::new();
    while session.goes_on() {
        let now = Instant::now();
        if let Some(at) = lives.iter().position(|life| life.abandoned && life.due <= now) {
            let life = lives.swap_remove(at);
            remember(&mut session, life).await;
        }
        if lives.iter().any(|life| !life.abandoned && life.due <= now) {
            renew(&mut session, &mut lives).await;
        } else {
            act(&mut session, &mut lives).await;
        }
        session.think().await;
    }
}

/// A life that was forgotten, at about its end: sometimes its owner comes back, by a renewal or by the same Register.
async fn remember(session: &mut Session, mut life: Life) {
    match session.rng.random_range(0..4) {
        0 => {
            let leases = vec![life.lease];
            let mut renew = session.call(Request::Renew { leases, stream: false });
            session.attempt(&mut renew).await;
        }
        1 => {
            put(session, &mut life, 1).await;
        }
        _ => {}
    }
}

/// Does one thing that comes to its mind.
async fn act(session: &mut Session, lives: &mut Vec<Life>) {
    let chance = session.rng.random_range(0..100);
    let some = (!lives.is_empty()).then(|| session.rng.random_range(0..lives.len()));
    match (chance, some) {
        (0..30, _) if lives.len() < LIVES_MAX => lives.extend(begin(session).await),
        (30..50, Some(at)) => change(session, &mut lives[at]).await,
        (50..62, Some(at)) => {
            let life = lives.swap_remove(at);
            end(session, life).await;
        }
        // Forgotten: it expires, unless somebody takes it over.
        (62..72, Some(at)) if lives[at].lease != 0 => {
            let late = session.rng.random_range(Duration::ZERO..AROUND_THE_END * 2);
            lives[at].abandoned = true;
            lives[at].due = Instant::now() + lives[at].ttl + late - AROUND_THE_END;
        }
        _ => {}
    }
}

/// A new life of an instance: of one that is its own, or of one that others want too.
async fn begin(session: &mut Session) -> Option<Life> {
    let key = if session.rng.random_bool(0.6) {
        content::shared_key(&mut session.rng, &session.options)
    } else {
        let service = content::any_service(&mut session.rng, &session.options);
        let id = format!("c{}-{}", session.number, session.rng.random_range(0..4));
        content::key(&service, &id)
    };
    let incarnation = session.incarnation();
    let ttl_ms = session.ttl_ms();
    let hold = match session.rng.random_range(0..10) {
        0 => Hold::Permanent,
        _ => Hold::Own { ttl_ms },
    };
    let expected = match session.rng.random_range(0..10) {
        0..2 => Some(0),
        2 => Some(session.seen),
        _ => None,
    };
    let mut life = Life {
        register: session.register(&key, incarnation, hold, expected),
        key,
        incarnation,
        ttl: Duration::from_millis(ttl_ms),
        lease: 0,
        due: Instant::now(),
        abandoned: false,
    };
    // With an expected revision it may not be repeated: a second attempt would meet the first one's revision.
    let tries = if expected.is_some() { 1 } else { TRIES };
    let goes_on = put(session, &mut life, tries).await;
    (goes_on && expected.is_none() || life.lease != 0).then_some(life)
}

/// Makes the life's Register, again or for the first time; whether the life goes on.
async fn put(session: &mut Session, life: &mut Life, tries: u32) -> bool {
    let began = Instant::now();
    let answer = session.settle(&mut life.register, tries).await;
    match &answer {
        Answer::Done { .. } => {
            life.lease = record_of(&answer).map_or(0, |record| record.lease);
            life.due = began + life.ttl / 3;
            if let Request::Register { expected, .. } = &mut life.register.request
                && expected.is_some()
            {
                // A renewal expects nothing: it is another call.
                let (key, incarnation, ttl_ms) = (life.key.clone(), life.incarnation, millis(life.ttl));
                let looks = life.register.looks.clone();
                life.register = session.register(&key, incarnation, Hold::Own { ttl_ms }, None);
                life.register.looks = looks;
            }
            true
        }
        // A later life has the key: this one is over.
        Answer::Rejected { .. } => false,
        Answer::Failed { .. } | Answer::Unknown { .. } => {
            life.due = Instant::now();
            true
        }
    }
}

/// Renews what is due: by its leases, or by the same Register again.
async fn renew(session: &mut Session, lives: &mut Vec<Life>) {
    let now = Instant::now();
    let due: Vec<usize> = (0..lives.len())
        .filter(|&at| !lives[at].abandoned && lives[at].due <= now)
        .collect();
    if session.rng.random_bool(0.5) {
        let mut over = Vec::new();
        for at in due {
            if !put(session, &mut lives[at], 1).await {
                over.push(at);
            }
        }
        for at in over.into_iter().rev() {
            lives.swap_remove(at);
        }
        return;
    }
    let leases: Vec<i64> = due.iter().map(|&at| lives[at].lease).filter(|&id| id != 0).collect();
    let mut answer = None;
    if !leases.is_empty() {
        let mut call = session.call(Request::Renew { leases, stream: false });
        answer = Some(session.attempt(&mut call).await);
    }
    for at in due {
        let life = &mut lives[at];
        match answer.as_ref().and_then(|answer| outcome(answer, life.lease)) {
            Some(RenewOutcome::Renewed) => life.due = now + life.ttl / 3,
            Some(RenewOutcome::NotFound) => life.lease = 0,
            // Permanent, or not known: the same Register tells.
            Some(RenewOutcome::Unconfirmed) | None if life.lease != 0 => {}
            Some(RenewOutcome::Unconfirmed) | None => life.due = now + life.ttl,
        }
    }
}

fn outcome(answer: &Answer, lease: i64) -> Option<RenewOutcome> {
    let Answer::Done {
        reply: Reply::Renewed(results),
        ..
    } = answer
    else {
        return None;
    };
    let result = results.iter().find(|result| result.lease == lease)?;
    // It no longer holds the instance: somebody took it over.
    if result.outcome == RenewOutcome::Renewed && result.instances == 0 {
        return Some(RenewOutcome::NotFound);
    }
    Some(result.outcome)
}

/// Registers the same life with other contents.
async fn change(session: &mut Session, life: &mut Life) {
    if life.abandoned {
        return;
    }
    let ttl_ms = millis(life.ttl);
    let hold = match life.register.request {
        Request::Register {
            hold: Hold::Permanent, ..
        } => Hold::Permanent,
        _ => Hold::Own { ttl_ms },
    };
    life.register = session.register(&life.key, life.incarnation, hold, None);
    if !put(session, life, TRIES).await {
        life.abandoned = true;
    }
}

/// Deregisters a life, and sometimes tries what must not succeed then.
async fn end(session: &mut Session, life: Life) {
    let mut deregister = session.call(Request::Deregister {
        key: life.key.clone(),
        incarnation: life.incarnation,
        expected: None,
    });
    let answer = session.settle(&mut deregister, TRIES).await;
    let over = matches!(answer, Answer::Done { .. }) || is_rejected(&answer, "FENCED");
    if over && session.rng.random_bool(0.3) {
        // The fence outlives the record.
        let ttl_ms = millis(life.ttl);
        let mut again = session.register(&life.key, life.incarnation, Hold::Own { ttl_ms }, None);
        session.settle(&mut again, TRIES).await;
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
