//! One entry's work on the state: the steps that the commands and the end of a lease have in common.

use std::sync::Arc;

use super::{Change, Command, Outcome, Rejection, RemoveReason, Reply, State, due::DueHeap};
use crate::model::{Incarnation, Instance, InstanceKey, LeaseId, Revision};

/// The state under the hands of one entry, and the changes that it has made so far.
///
/// A command first checks everything that can refuse it, then changes the state: there is no way back in between.
#[derive(Debug)]
pub(super) struct Work<'a> {
    pub(super) state: &'a mut State,
    pub(super) due: &'a mut DueHeap,
    /// For people only.
    pub(super) wall_ms: u64,
    pub(super) changes: Vec<Change>,
}

impl Work<'_> {
    /// Runs one command.
    pub(super) fn run(&mut self, command: &Command) -> Reply {
        let result = match command {
            Command::Register(command) => self.register(command),
            Command::BatchRegister(command) => self.batch_register(command),
            Command::Update(command) => self.update(command),
            Command::Deregister(command) => self.deregister(command),
            Command::GrantLease { lease_id, ttl } => self.grant_lease(*lease_id, *ttl).map(Outcome::Granted),
            Command::RevokeLease { lease_id } => Ok(self.revoke_lease(*lease_id)),
        };
        Reply {
            revision: self.state.revision,
            result,
        }
    }

    /// The revision that a command makes if it changes something.
    pub(super) fn next_revision(&self) -> Revision {
        self.state.revision.next()
    }

    /// Puts a record, at its mod_revision. The fence that guarded its key is its own guard now.
    pub(super) fn put(&mut self, instance: Instance) -> Arc<Instance> {
        let instance = Arc::new(instance);
        self.state.fences.remove(instance.key());
        let before = self.state.put(&instance);
        self.changes.push(Change {
            revision: instance.mod_revision,
            before,
            after: Some(Arc::clone(&instance)),
            reason: None,
        });
        instance
    }

    /// Removes a record that its lease no longer holds, and leaves a fence.
    ///
    /// After a deregistration the record's life is over: `ended_life` and all before it are refused. An owner whose
    /// lease ended may not know it yet and comes back in the same life: then only earlier ones are refused.
    pub(super) fn remove(&mut self, revision: Revision, key: &InstanceKey, removal: Removal) {
        let Some(before) = self.state.take(key) else {
            return;
        };
        let fence = match removal.ended_life {
            Some(life) => Some(life.max(before.spec.incarnation)).filter(|life| life.0 > 0),
            None => before.spec.incarnation.0.checked_sub(1).map(Incarnation),
        };
        // Plant: nothing keeps an ended life from coming back.
        planted!("ended-life-not-fenced", let fence = None);
        if let Some(incarnation) = fence {
            let (clock, limit) = (self.state.clock, self.state.settings.max_fences);
            self.state.fences.raise(key, incarnation, clock, limit);
        }
        self.changes.push(Change {
            revision,
            before: Some(before),
            after: None,
            reason: Some(removal.reason),
        });
    }

    /// Ends a lease in one revision, and all that it holds with it, in the order of the keys. How many that were;
    /// `None` = there was no such lease.
    pub(super) fn end_lease(&mut self, id: LeaseId, reason: RemoveReason) -> Option<u32> {
        let holding = self.state.leases.remove(id)?;
        let revision = self.next_revision();
        self.state.revision = revision;
        let removal = Removal {
            reason,
            ended_life: None,
        };
        let keys = holding.keys();
        // Plant: an instance outlives its lease.
        planted!("instance-outlives-its-lease", let keys = keys.into_iter().skip(1).collect());
        for key in keys {
            self.remove(self.state.revision, &key, removal);
            // Plant: the instances of a lease leave one after the other.
            planted!("lease-ends-in-parts" => { self.state.revision = self.next_revision(); });
        }
        Some(holding.len())
    }
}

/// Why a record goes, and which life of its owner ends with that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Removal {
    pub(super) reason: RemoveReason,
    /// The incarnation that asked for it, if someone did; 0 = it did not say.
    pub(super) ended_life: Option<Incarnation>,
}

impl State {
    /// Refuses an incarnation that a later life of the instance has superseded. For a writer that may come without
    /// one, ask only if it has one. `record` is the one at the key.
    pub(super) fn check_fence(
        &self,
        record: Option<&Instance>,
        key: &InstanceKey,
        incarnation: Incarnation,
    ) -> Result<(), Rejection> {
        // Plant: a zombie may touch its successor.
        planted!("zombie-not-fenced" => { return Ok(()); });
        let refusal = match record {
            Some(record) => Some(record.spec.incarnation).filter(|current| incarnation < *current),
            None => self
                .fences
                .at(key, self.clock)
                .filter(|refused| incarnation <= *refused),
        };
        refusal.map_or(Ok(()), |current| {
            Err(Rejection::Fenced {
                key: key.clone(),
                current,
            })
        })
    }
}

/// Refuses if the last change of the record at the key is another one than expected; 0 = that there is no record.
pub(super) fn check_revision(
    record: Option<&Instance>,
    key: &InstanceKey,
    expected: Option<Revision>,
) -> Result<(), Rejection> {
    let current = record.map_or(Revision(0), |record| record.mod_revision);
    match expected {
        Some(expected) if expected != current => Err(Rejection::RevisionMismatch {
            key: key.clone(),
            current,
        }),
        Some(_) | None => Ok(()),
    }
}
