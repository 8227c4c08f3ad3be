//! Which command of the log is which call's, by unique contents.

use std::collections::BTreeMap;

use roster::registry::{Outcome, Rejection, Reply};

use super::{Position, Shown, What, Witness, rejection_name, same};
use crate::history::{self, Answer, Call, History, Request};

/// What makes a command recognisable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contents {
    /// Register, BatchRegister, Update.
    Mark(String),
    /// Deregister of this life.
    Deregister(String, i64),
    /// Grant of this lease.
    Grant(i64),
    /// Revoke of this lease.
    Revoke(i64),
}

/// One attempt of a write.
#[derive(Clone, Debug)]
pub struct Attempt<'h> {
    /// As it was recorded.
    pub call: &'h Call,
    /// Its number in the history's calls.
    pub at: usize,
    /// The commands that it was answered from, as far as answers tell: the same revision and the same reply.
    pub answered_by: Vec<Position>,
}

/// All writes with the same contents, and the commands with them.
#[derive(Clone, Debug, Default)]
pub struct Group<'h> {
    /// In the order in which they were sent.
    pub attempts: Vec<Attempt<'h>>,
    /// In the log's order.
    pub commands: Vec<Position>,
}

/// All writes and all commands.
#[derive(Debug, Default)]
pub struct Matches<'h> {
    /// By contents.
    pub groups: BTreeMap<Contents, Group<'h>>,
}

impl Contents {
    /// Of a write; `None` = it is none.
    #[must_use]
    pub fn of(request: &Request) -> Option<Self> {
        Some(match request {
            Request::Register { mark, .. } | Request::BatchRegister { mark, .. } | Request::Update { mark, .. } => {
                Self::Mark(mark.clone())
            }
            Request::Deregister { key, incarnation, .. } => Self::Deregister(key.clone(), *incarnation),
            Request::Grant { lease, .. } => Self::Grant(*lease),
            Request::Revoke { lease } => Self::Revoke(*lease),
            Request::Renew { .. } | Request::Get { .. } | Request::List { .. } | Request::Overview { .. } => {
                return None;
            }
        })
    }
}

impl Group<'_> {
    /// Whether some attempts were made by a client that tries again by itself, so that one attempt may be many
    /// commands: it knows no node.
    #[must_use]
    pub fn may_repeat_unseen(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.call.node.is_none())
    }
}

impl<'h> Matches<'h> {
    /// Matches the calls of a history with the commands of its log.
    #[must_use]
    pub fn of(history: &'h History, witness: &Witness) -> Self {
        let mut groups: BTreeMap<Contents, Group<'h>> = BTreeMap::new();
        for (at, event) in witness.events.iter().enumerate() {
            if let What::Command { request, .. } = &event.what
                && let Some(contents) = Contents::of(request)
            {
                groups.entry(contents).or_default().commands.push(at + 1);
            }
        }
        for (at, call) in history.calls.iter().enumerate() {
            if let Some(contents) = Contents::of(&call.request) {
                let group = groups.entry(contents).or_default();
                let answers = |position: &&Position| is_answer(call, witness, **position);
                let answered_by = group.commands.iter().filter(answers).copied().collect();
                group.attempts.push(Attempt { call, at, answered_by });
            }
        }
        for group in groups.values_mut() {
            group.attempts.sort_by_key(|attempt| attempt.call.sent);
        }
        Self { groups }
    }
}

/// Whether the call's answer is that of the command at a position.
fn is_answer(call: &Call, witness: &Witness, position: Position) -> bool {
    let What::Command { reply, .. } = &witness.event(position).what else {
        return false;
    };
    match &call.answer {
        Answer::Done {
            revision, reply: told, ..
        } => *revision == reply.revision.as_i64() && is_told(told, reply),
        Answer::Rejected { revision, reason } => is_refused(*revision, reason, reply),
        Answer::Failed { .. } | Answer::Unknown { .. } => false,
    }
}

fn is_told(told: &history::Reply, reply: &Reply) -> bool {
    use history::Reply as Told;
    match (told, &reply.result) {
        (Told::Record(record), Ok(Outcome::Registered { instance, .. } | Outcome::Updated { instance, .. })) => {
            same(record, &Shown::of(instance))
        }
        (Told::Batch { changed: told }, Ok(Outcome::BatchRegistered { changed })) => told == changed,
        (Told::Gone { existed: told }, Ok(Outcome::Deregistered { existed } | Outcome::Revoked { existed, .. })) => {
            told == existed
        }
        (Told::Lease { lease, ttl_ms }, Ok(Outcome::Granted(granted))) => {
            *lease == granted.lease_id.as_i64() && *ttl_ms == granted.ttl.as_ms()
        }
        _ => false,
    }
}

/// A `REVISION_MISMATCH` names the record's revision, all others that of the registry.
fn is_refused(revision: i64, reason: &str, reply: &Reply) -> bool {
    match &reply.result {
        Err(Rejection::RevisionMismatch { current, .. }) => {
            reason == "REVISION_MISMATCH" && revision == current.as_i64()
        }
        Err(rejection) => reason == rejection_name(rejection) && revision == reply.revision.as_i64(),
        Ok(_) => false,
    }
}
