//! The witness: what the committed log says that happened, whatever anyone was told.
//!
//! The nodes' logs are joined to one ([`join`]), each record is read ([`decode`]) and folded by the registry itself, by
//! the naive model, and by a third account of leases alone ([`fold`]); all must agree. What comes out is E: a list of
//! [`Event`]s, each at its [`Position`] with its revision and changes, the history of every record ([`Records`]) and of
//! every lease ([`Leases`]). Calls are matched with commands by their contents ([`matching`]).

mod decode;
mod fold;
mod join;
mod lease_model;
mod leases;
mod matching;
#[path = "../../registry_support/naive.rs"]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    dead_code,
    unreachable_pub,
    reason = "the model of the tests: it stops at the first surprise"
)]
mod naive;
mod records;

use std::{collections::BTreeMap, sync::Arc};

use roster::registry::{Rejection, RemoveReason, Renewal, Reply};

use crate::history::{History, Key, NodeHash, Request};

pub use decode::{command_to_request, entry as decode_entry};
pub use leases::{Lease, LeaseEnd, Leases};
pub use matching::{Attempt, Contents, Group, Matches};
#[cfg(test)]
pub(crate) use naive::Naive;
pub use records::{Records, Shown, Version, matches, same, service_of};

/// A place in E: 0 = before everything, n = just after the n-th event. The total order of all that was done.
pub type Position = usize;

/// One thing that the log did.
#[derive(Clone, Debug)]
pub struct Event {
    /// The log's record.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Lease time after the record's stamp, in nanoseconds.
    pub clock_ns: u64,
    /// The registry's revision after this event.
    pub revision: i64,
    /// The registry's revision after the whole record: what the answer to a renewal says.
    pub record_revision: i64,
    /// What it was.
    pub what: What,
    /// What it did to records; all at `revision`.
    pub changes: Vec<Changed>,
}

/// What an event was.
#[derive(Clone, Debug)]
pub enum What {
    /// The renewals of one record of the log.
    Renewals(Vec<(i64, Renewal)>),
    /// A lease came to its end.
    Expired(i64),
    /// A command.
    Command {
        /// What a client asked that became it.
        request: Box<Request>,
        /// What it asks for besides (see [`crate::history::asked`]).
        asked: u64,
        /// What its caller is to be answered.
        reply: Box<Reply>,
    },
}

/// What became of one record.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Which.
    pub key: Key,
    /// As it was.
    pub before: Option<Arc<Shown>>,
    /// As it is.
    pub after: Option<Arc<Shown>>,
    /// Why it is gone.
    pub reason: Option<RemoveReason>,
}

/// Something about the witness itself that can't be.
#[derive(Clone, Debug)]
pub struct Flaw {
    /// The name of the invariant.
    pub checker: &'static str,
    /// What, and where.
    pub story: String,
}

/// What the log says.
#[derive(Debug, Default)]
pub struct Witness {
    /// E, in order.
    pub events: Vec<Event>,
    /// Every record at every revision.
    pub records: Records,
    /// Every lease.
    pub leases: Leases,
    /// The registry's content hash, in hex, at every index that some node was asked about.
    pub hashes: BTreeMap<u64, String>,
    /// Whether no record is missing between the first and the last.
    pub is_whole: bool,
    /// How many records of the log there are.
    pub log_records: usize,
    /// Where each term begins: (index, term), ascending.
    pub terms: Vec<(u64, u64)>,
    /// `first[r]` = the first position at which the revision is `r` or more.
    first: Vec<Position>,
    /// What could not be checked to the end, and why.
    pub notes: Vec<String>,
    /// What is wrong with the log itself.
    pub flaws: Vec<Flaw>,
}

/// What bounds the second fold.
#[derive(Clone, Copy, Debug)]
pub struct WitnessOptions {
    /// The naive model looks at every record for every command. It stops, and says so, after so many looks.
    pub naive_looks_max: u64,
}

impl Default for WitnessOptions {
    fn default() -> Self {
        Self {
            naive_looks_max: 200_000_000,
        }
    }
}

impl Witness {
    /// Joins and folds the logs of a history.
    #[must_use]
    pub fn of(history: &History, options: WitnessOptions) -> Self {
        let mut witness = Self::default();
        let (log, is_whole) = join::join(&history.logs, &mut witness.flaws);
        witness.is_whole = is_whole;
        let asked = history
            .hashes
            .iter()
            .map(|hash: &NodeHash| hash.applied_index)
            .collect();
        fold::fold(&log, &asked, options, &mut witness);
        witness
    }

    /// The last revision.
    #[must_use]
    pub fn last_revision(&self) -> i64 {
        self.events.last().map_or(0, |event| event.revision)
    }

    /// The last position.
    #[must_use]
    pub fn end(&self) -> Position {
        self.events.len()
    }

    /// The first position at which the registry has reached a revision; `None` if it never did, or if no registry
    /// could.
    #[must_use]
    pub fn first_at(&self, revision: i64) -> Option<Position> {
        let at = usize::try_from(revision).ok()?;
        self.first.get(at).copied()
    }

    /// The last position at which the registry has not gone beyond a revision.
    #[must_use]
    pub fn last_at(&self, revision: i64) -> Position {
        let next = self.first_at(revision.saturating_add(1).max(0));
        next.map_or(self.end(), |next| next.saturating_sub(1))
    }

    /// The revision at a position.
    #[must_use]
    pub fn revision_at(&self, position: Position) -> i64 {
        let before = position.checked_sub(1).and_then(|at| self.events.get(at));
        before.map_or(0, |event| event.revision)
    }

    /// The event that leads to a position.
    ///
    /// # Panics
    /// At position 0, to which none leads.
    #[must_use]
    pub fn event(&self, position: Position) -> &Event {
        &self.events[position - 1]
    }

    /// The event that made a revision, and its position.
    #[must_use]
    pub fn event_of(&self, revision: i64) -> Option<(Position, &Event)> {
        let position = self.first_at(revision)?;
        (position > 0 && self.event(position).revision == revision).then(|| (position, self.event(position)))
    }

    fn push(&mut self, event: Event) {
        if self.first.is_empty() {
            self.first.push(0);
        }
        self.events.push(event);
        let (position, revision) = (self.end(), self.last_revision());
        while i64::try_from(self.first.len()).is_ok_and(|next| next <= revision) {
            self.first.push(position);
        }
    }

    fn flaw(&mut self, checker: &'static str, story: String) {
        self.flaws.push(Flaw { checker, story });
    }
}

/// The name of a rejection in the API's error table.
#[must_use]
pub fn rejection_name(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::InstanceNotFound(_) => "INSTANCE_NOT_FOUND",
        Rejection::LeaseNotFound(_) => "LEASE_NOT_FOUND",
        Rejection::LeaseExists { .. } => "LEASE_EXISTS",
        Rejection::RevisionMismatch { .. } => "REVISION_MISMATCH",
        Rejection::Fenced { .. } => "FENCED",
        Rejection::TooManyInstances { .. } => "TOO_MANY_INSTANCES",
        Rejection::TooManyLeases { .. } => "TOO_MANY_LEASES",
        Rejection::InvalidField { .. } => "INVALID_FIELD",
    }
}

/// The name of a removal's reason in the API.
#[must_use]
pub fn reason_name(reason: RemoveReason) -> &'static str {
    match reason {
        RemoveReason::Deregistered => "DEREGISTERED",
        RemoveReason::Expired => "EXPIRED",
        RemoveReason::Revoked => "REVOKED",
    }
}
