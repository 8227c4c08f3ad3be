//! The fold of the log: by the registry, by the naive model, and by the account of leases; and E out of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use roster::{
    model::LogIndex,
    registry::{Applied, Change, Command, Entry, Outcome, Registered, Registry, Rejection, Renewal, Settings, State},
    wire::snapshot::write_item,
};
use sha2::{Digest as _, Sha256};

use super::{
    Changed, Event, LeaseEnd, Shown, Version, What, Witness, WitnessOptions, decode, lease_model::LeaseModel,
    naive::Naive,
};
use crate::history::{Hold, Key, NodeLog, Payload, Request, asked_by};

/// The fold as far as it went.
struct Fold<'w> {
    witness: &'w mut Witness,
    registry: Registry,
    naive: Option<Naive>,
    looks_left: u64,
    leases: LeaseModel,
    /// What stands now, so that a change's two sides are one record each.
    shown: HashMap<Key, Arc<Shown>>,
}

/// One record of the log while its events are made.
struct Cursor {
    index: u64,
    term: u64,
    clock_ns: u64,
    /// The registry's revision before the next event.
    revision: i64,
    record_revision: i64,
    changes: BTreeMap<i64, Vec<Change>>,
}

/// Folds all of it, and hashes the content at the indexes `asked`.
pub(super) fn fold(log: &[&NodeLog], asked: &BTreeSet<u64>, options: WitnessOptions, witness: &mut Witness) {
    let mut fold = Fold {
        witness,
        registry: Registry::new(),
        naive: Some(Naive::new(Settings::default())),
        looks_left: options.naive_looks_max,
        leases: LeaseModel::default(),
        shown: HashMap::new(),
    };
    for record in log {
        fold.witness.log_records += 1;
        if fold.witness.terms.last().is_none_or(|(_, term)| *term < record.term) {
            fold.witness.terms.push((record.index, record.term));
        }
        if let Payload::Entry(entry) = &record.payload {
            match decode::entry(entry) {
                Ok(entry) => fold.entry(record, &entry),
                Err(problem) => {
                    let story = format!("{}'s record {} can't be read: {problem}", record.node, record.index);
                    fold.witness.flaw("I1", story);
                    return;
                }
            }
        }
        if asked.contains(&record.index) {
            let hash = content_hash(fold.registry.state());
            fold.witness.hashes.insert(record.index, hash);
        }
    }
}

/// What GetStateHash answers for this state, in hex.
fn content_hash(state: &State) -> String {
    let mut bytes = Vec::new();
    let mut hash = Sha256::new();
    for item in state.items() {
        bytes.clear();
        write_item(&mut bytes, &item).expect("a vector takes every byte");
        hash.update(&bytes);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Fold<'_> {
    fn entry(&mut self, record: &NodeLog, entry: &Entry) {
        let before = self.registry.state().revision().as_i64();
        let applied = self.registry.apply(entry);
        self.compare(LogIndex(record.index), entry, &applied);
        let mut changes: BTreeMap<i64, Vec<Change>> = BTreeMap::new();
        for change in &applied.changes {
            changes
                .entry(change.revision.as_i64())
                .or_default()
                .push(change.clone());
        }
        let mut cursor = Cursor {
            index: record.index,
            term: record.term,
            clock_ns: self.leases.advance(entry.stamp.0),
            revision: before,
            record_revision: applied.revision.as_i64(),
            changes,
        };
        self.renewals(&mut cursor, entry, &applied);
        for id in self.leases.due() {
            self.expire(&mut cursor, id);
        }
        for (command, reply) in entry.commands.iter().zip(&applied.replies) {
            self.command(&mut cursor, command, reply);
        }
        if cursor.revision != cursor.record_revision || !cursor.changes.is_empty() {
            let story = format!(
                "record {}: the registry goes to revision {}, the account of leases and commands to {}; changes at {:?} \
                 belong to nothing",
                record.index,
                cursor.record_revision,
                cursor.revision,
                cursor.changes.keys().collect::<Vec<_>>(),
            );
            self.witness.flaw("L4", story);
        }
    }

    /// The naive model must do the same, as long as that does not take too long.
    fn compare(&mut self, index: LogIndex, entry: &Entry, applied: &Applied) {
        let state = self.registry.state();
        let content = (state.instance_count() + state.lease_count()) as u64 + 8;
        let questions = (entry.commands.len() + entry.renewals.len() + applied.changes.len()) as u64 + 1;
        let looks = content.saturating_mul(questions);
        let Some(naive) = &mut self.naive else { return };
        if looks > self.looks_left {
            self.witness.notes.push(format!(
                "the naive model followed through record {index} only: naive_looks_max is reached"
            ));
            self.naive = None;
            return;
        }
        self.looks_left -= looks;
        let expected = naive.apply(entry);
        if expected != without_texts(applied) {
            let story = format!(
                "the registry and the naive model disagree about record {index}:\n  registry: {applied:?}\n  naive: \
                 {expected:?}"
            );
            self.witness.flaw("I1", story);
            self.naive = None;
        }
    }

    fn renewals(&mut self, cursor: &mut Cursor, entry: &Entry, applied: &Applied) {
        if entry.renewals.is_empty() {
            return;
        }
        let position = self.witness.end() + 1;
        let mut results = Vec::with_capacity(entry.renewals.len());
        for (id, renewal) in entry.renewals.iter().zip(&applied.renewals) {
            let known = self.leases.renew(id.0, None);
            match known {
                Some(ttl_ms) => self.witness.leases.renewed(id.as_i64(), position, ttl_ms),
                None => self.witness.leases.refused(id.as_i64(), position),
            }
            if known.is_some() != matches!(renewal, Renewal::Renewed { .. }) {
                let story = format!(
                    "record {}: the renewal of lease {id} comes to {renewal:?}, but by the rules it should{} live",
                    cursor.index,
                    if known.is_some() { "" } else { " not" },
                );
                self.witness.flaw("L3", story);
            }
            results.push((id.as_i64(), *renewal));
        }
        self.event(cursor, What::Renewals(results), cursor.revision);
    }

    fn expire(&mut self, cursor: &mut Cursor, id: u64) {
        let revision = cursor.revision + 1;
        let position = self.witness.end() + 1;
        let lease = i64::try_from(id).unwrap_or(i64::MAX);
        self.witness.leases.ended(lease, position, LeaseEnd::Expired);
        self.end(cursor, id, revision);
        self.event(cursor, What::Expired(lease), revision);
    }

    /// Ends a lease in the account; what goes at that revision must be exactly what it held.
    fn end(&mut self, cursor: &Cursor, id: u64, revision: i64) {
        let held = self.leases.end(id).unwrap_or_default();
        let gone: BTreeSet<Key> = cursor.changes.get(&revision).map_or_else(BTreeSet::new, |changes| {
            let removed = changes.iter().filter(|change| change.after.is_none());
            removed.map(|change| change.key().to_string()).collect()
        });
        if held != gone {
            let story = format!(
                "record {}: lease {id} ends at revision {revision} and held {held:?}, but {gone:?} go",
                cursor.index
            );
            self.witness.flaw("L4", story);
        }
    }

    fn command(&mut self, cursor: &mut Cursor, command: &Command, reply: &roster::registry::Reply) {
        let revision = reply.revision.as_i64();
        let position = self.witness.end() + 1;
        let request = decode::command_to_request(command);
        let mut moved = false;
        match &reply.result {
            Err(_) => {}
            Ok(Outcome::Registered { instance, how }) => {
                moved = *how != Registered::Unchanged;
                if let Some((id, ttl)) = instance.lease {
                    let own = matches!(
                        request,
                        Request::Register {
                            hold: Hold::Own { .. },
                            ..
                        }
                    );
                    self.hold(position, id.0, own, ttl.as_ms());
                    self.moves(position, &instance.spec.key.to_string(), Some(id.0));
                } else {
                    self.moves(position, &instance.spec.key.to_string(), None);
                }
            }
            Ok(Outcome::BatchRegistered { changed }) => {
                moved = *changed;
                if let Request::BatchRegister { keys, hold, .. } = &request {
                    let lease = if let Hold::Lease(id) = hold {
                        Some(id.unsigned_abs())
                    } else {
                        None
                    };
                    if let Some(id) = lease
                        && let Some(ttl_ms) = self.leases.renew(id, None)
                    {
                        self.witness.leases.renewed(to_i64(id), position, ttl_ms);
                    }
                    for key in keys {
                        self.moves(position, key, lease);
                    }
                }
            }
            Ok(Outcome::Updated { changed, .. }) => moved = *changed,
            Ok(Outcome::Deregistered { existed }) => {
                moved = *existed;
                if let (true, Request::Deregister { key, .. }) = (existed, &request) {
                    self.moves(position, key, None);
                }
            }
            Ok(Outcome::Granted(lease)) => {
                moved = !self.leases.is_live(lease.lease_id.0);
                self.hold(position, lease.lease_id.0, false, lease.ttl.as_ms());
            }
            Ok(Outcome::Revoked { existed, .. }) => {
                moved = *existed;
                if let (true, Request::Revoke { lease }) = (existed, &request) {
                    self.witness.leases.ended(*lease, position, LeaseEnd::Revoked);
                    self.end(cursor, lease.unsigned_abs(), revision);
                }
            }
        }
        let expected = cursor.revision + i64::from(moved);
        if revision != expected {
            let story = format!(
                "record {}: {request:?} leads to revision {revision}; by its outcome it should be {expected}",
                cursor.index
            );
            self.witness.flaw("I1", story);
        }
        let what = What::Command {
            request: Box::new(request),
            asked: asked_by(command),
            reply: Box::new(reply.clone()),
        };
        self.event(cursor, what, revision);
    }

    /// A lease is made, or renewed with this TTL.
    fn hold(&mut self, position: usize, id: u64, own: bool, ttl_ms: u64) {
        if self.leases.renew(id, Some(ttl_ms)).is_some() {
            self.witness.leases.renewed(to_i64(id), position, ttl_ms);
        } else {
            self.leases.grant(id, own, ttl_ms);
            self.witness.leases.begin(to_i64(id), own, position, ttl_ms);
        }
    }

    /// A record goes from what holds it to another holder, or to none.
    fn moves(&mut self, position: usize, key: &Key, to: Option<u64>) {
        let from = self.shown.get(key).map_or(0, |shown| shown.record.lease).unsigned_abs();
        if from != 0 && Some(from) != to && self.leases.detach(from, key) {
            self.witness.leases.ended(to_i64(from), position, LeaseEnd::Released);
        }
        if let Some(to) = to {
            if self.leases.is_own(to) && self.leases.held(to) > 0 && from != to {
                let story = format!("own lease {to} holds a second instance, {key}");
                self.witness.flaw("L5", story);
            }
            self.leases.attach(to, key);
        }
    }

    /// The next event of E, with the changes of its revision.
    fn event(&mut self, cursor: &mut Cursor, what: What, revision: i64) {
        let changes = cursor.changes.remove(&revision).unwrap_or_default();
        let changes = changes
            .into_iter()
            .map(|change| self.changed(revision, &change))
            .collect();
        cursor.revision = revision;
        self.witness.push(Event {
            index: cursor.index,
            term: cursor.term,
            clock_ns: cursor.clock_ns,
            revision,
            record_revision: cursor.record_revision,
            what,
            changes,
        });
    }

    fn changed(&mut self, revision: i64, change: &Change) -> Changed {
        let key = change.key().to_string();
        let after = change.after.as_ref().map(Shown::of);
        let before = match &after {
            Some(after) => self.shown.insert(key.clone(), Arc::clone(after)),
            None => self.shown.remove(&key),
        };
        let version = Version {
            revision,
            shown: after.clone(),
            reason: change.reason,
        };
        self.witness.records.add(&key, version);
        if let Some(after) = &after {
            let lease = after.record.lease;
            if lease != 0 && !self.leases.is_live(lease.unsigned_abs()) {
                let story = format!("at revision {revision} {key} is held by lease {lease}, which there is not");
                self.witness.flaw("L5", story);
            }
        }
        Changed {
            key,
            before,
            after,
            reason: change.reason,
        }
    }
}

/// The naive model refuses without explaining.
fn without_texts(applied: &Applied) -> Applied {
    let mut applied = applied.clone();
    for reply in &mut applied.replies {
        if let Err(Rejection::InvalidField { problem, .. }) = &mut reply.result {
            problem.clear();
        }
    }
    applied
}

fn to_i64(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}
