//! The whole state as a sequence of items, and a state from such a sequence.
//!
//! The order is canonical: the state, leases by id, instances by key, fences by key. Equal states give equal
//! sequences, so nodes compare the hash of theirs. What is counted or found from the items (summaries, who holds
//! what, which lease is due) is no item. A sequence is believed only if a state machine can have written it: it is
//! read from disk and from other nodes.

use std::{iter, sync::Arc};

use super::{
    Settings, State,
    deadlines::Row,
    fences::{self, Fence},
    holdings::Holding,
    leases::Leases,
};
use crate::model::{Incarnation, Instance, InstanceKey, LeaseId, LeaseTime, Revision, Ttl};

/// A snapshot whose items contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot contradicts itself: {0}")]
pub struct Corrupt(pub String);

/// A longer history is not believed: at a million revisions a second it would have taken 100,000 years, and a next
/// revision must exist, here and in the API's signed numbers.
const REVISION_MAX: Revision = Revision(1 << 62);

/// One item of a snapshot, in the canonical order: state, leases by id, instances by key, fences by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotItem {
    /// First.
    State {
        /// The registry's revision.
        revision: Revision,
        /// Lease time.
        clock: LeaseTime,
        /// The id that the next lease in sequence gets.
        next_lease_id: LeaseId,
        /// The replicated limits.
        settings: Settings,
    },
    /// A lease.
    Lease {
        /// Which.
        lease_id: LeaseId,
        /// What a renewal gives it.
        ttl: Ttl,
        /// Whether it lives and ends with one instance.
        own: bool,
        /// It may end after this instant.
        deadline: LeaseTime,
    },
    /// A record.
    Instance(Arc<Instance>),
    /// A fence that outlives its record.
    Fence {
        /// Where.
        key: InstanceKey,
        /// Every incarnation through this one is refused.
        incarnation: Incarnation,
        /// It holds through this instant.
        until: LeaseTime,
    },
}

impl State {
    /// Everything, in the canonical order of snapshots.
    #[must_use]
    pub fn items(&self) -> Box<dyn Iterator<Item = SnapshotItem> + Send + '_> {
        let state = SnapshotItem::State {
            revision: self.revision,
            clock: self.clock,
            next_lease_id: self.leases.next_id(),
            settings: self.settings.clone(),
        };
        let lease = |(lease_id, holding, row): (LeaseId, &Holding, &Row)| SnapshotItem::Lease {
            lease_id,
            ttl: row.ttl,
            own: matches!(holding, Holding::Own(_)),
            deadline: row.deadline,
        };
        let fence = |(key, fence): (&InstanceKey, &Fence)| SnapshotItem::Fence {
            key: key.clone(),
            incarnation: fence.incarnation,
            until: fence.until,
        };
        Box::new(
            iter::once(state)
                .chain(self.leases.after(None).map(lease))
                .chain(self.instances.values().cloned().map(SnapshotItem::Instance))
                .chain(self.fences.iter().map(fence)),
        )
    }

    /// Builds a state from items in canonical order.
    ///
    /// # Errors
    /// The first error of the items, or [`Corrupt`] if no state has these items.
    pub fn from_items<E>(items: impl Iterator<Item = Result<SnapshotItem, E>>) -> Result<Self, E>
    where
        E: From<Corrupt>,
    {
        let mut items = items;
        let mut restore = match items.next().transpose()? {
            Some(SnapshotItem::State {
                revision,
                clock,
                next_lease_id,
                settings,
            }) => Restore::begin(revision, clock, next_lease_id, settings)?,
            Some(_) => return Err(Corrupt("it does not begin with the state".into()).into()),
            None => return Err(Corrupt("it is empty".into()).into()),
        };
        for item in items {
            restore.take(item?)?;
        }
        Ok(restore.finish()?)
    }
}

/// A lease whose instances are still being read.
struct Staged {
    ttl: Ttl,
    own: bool,
    deadline: LeaseTime,
    keys: Vec<InstanceKey>,
}

/// A state under construction.
struct Restore {
    state: State,
    /// `lease_ids[i]` is the id of `leases[i]`; apart, because each instance's lease is searched for among them.
    lease_ids: Vec<LeaseId>,
    leases: Vec<Staged>,
    last_instance: Option<InstanceKey>,
    last_fence: Option<InstanceKey>,
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Corrupt> {
    if holds { Ok(()) } else { Err(Corrupt(otherwise())) }
}

impl Restore {
    fn begin(
        revision: Revision,
        clock: LeaseTime,
        next_lease_id: LeaseId,
        settings: Settings,
    ) -> Result<Self, Corrupt> {
        let in_sequence = next_lease_id >= LeaseId(1) && next_lease_id <= LeaseId::FIRST_OF_CALLERS;
        ensure(in_sequence, || format!("{next_lease_id} cannot be the next lease"))?;
        ensure(revision <= REVISION_MAX, || {
            format!("no history is as long as {revision} revisions")
        })?;
        let state = State {
            revision,
            clock,
            settings,
            leases: Leases::beginning_with(next_lease_id),
            ..State::default()
        };
        Ok(Self {
            state,
            lease_ids: Vec::new(),
            leases: Vec::new(),
            last_instance: None,
            last_fence: None,
        })
    }

    fn take(&mut self, item: SnapshotItem) -> Result<(), Corrupt> {
        match item {
            SnapshotItem::State { .. } => Err(Corrupt("it has two states".into())),
            SnapshotItem::Lease {
                lease_id,
                ttl,
                own,
                deadline,
            } => self.take_lease(lease_id, ttl, own, deadline),
            SnapshotItem::Instance(instance) => self.take_instance(instance),
            SnapshotItem::Fence {
                key,
                incarnation,
                until,
            } => self.take_fence(key, incarnation, until),
        }
    }

    fn take_lease(&mut self, lease_id: LeaseId, ttl: Ttl, own: bool, deadline: LeaseTime) -> Result<(), Corrupt> {
        let in_place = self.last_instance.is_none()
            && self.last_fence.is_none()
            && self.lease_ids.last().is_none_or(|last| *last < lease_id);
        ensure(in_place, || format!("lease {lease_id} is out of order"))?;
        let given = lease_id >= LeaseId(1) && lease_id < self.state.leases.next_id();
        ensure(given || (!own && is_callers_own(lease_id)), || {
            format!("lease {lease_id} was never given")
        })?;
        let latest = self.state.clock.after(ttl.as_duration());
        ensure(deadline <= latest, || {
            format!("lease {lease_id} ends later than a renewal now would make it")
        })?;
        self.lease_ids.push(lease_id);
        self.leases.push(Staged {
            ttl,
            own,
            deadline,
            keys: Vec::new(),
        });
        Ok(())
    }

    fn take_instance(&mut self, mut instance: Arc<Instance>) -> Result<(), Corrupt> {
        let key = instance.key();
        let in_place = self.last_fence.is_none() && self.last_instance.as_ref().is_none_or(|last| last < key);
        ensure(in_place, || format!("instance {key} is out of order"))?;
        let (created, changed) = (instance.create_revision, instance.mod_revision);
        let in_history = Revision(1) <= created && created <= changed && changed <= self.state.revision;
        ensure(in_history, || {
            format!(
                "instance {key} was made by {created} and changed by {changed} in a history of {}",
                self.state.revision
            )
        })?;
        let key = self.state.summaries.intern(key);
        if let Some((lease_id, ttl)) = instance.lease {
            let found = self.lease_ids.binary_search(&lease_id);
            let Some(staged) = found.ok().map(|place| &mut self.leases[place]) else {
                return Err(Corrupt(format!(
                    "instance {key} is held by lease {lease_id}, which is not there"
                )));
            };
            ensure(staged.ttl == ttl, || {
                format!("instance {key} and its lease {lease_id} differ in their TTL")
            })?;
            ensure(!staged.own || staged.keys.is_empty(), || {
                format!("the own lease {lease_id} holds two instances")
            })?;
            staged.keys.push(key.clone());
        }
        self.last_instance = Some(key.clone());
        // A record that was just decoded is ours alone. One that a living state shares keeps its own texts.
        if let Some(instance) = Arc::get_mut(&mut instance) {
            instance.spec.key = key;
        }
        self.state.put(&instance);
        Ok(())
    }

    fn take_fence(&mut self, key: InstanceKey, incarnation: Incarnation, until: LeaseTime) -> Result<(), Corrupt> {
        let in_place = self.last_fence.as_ref().is_none_or(|last| *last < key);
        ensure(in_place, || format!("the fence at {key} is out of order"))?;
        ensure(self.state.instance(&key).is_none(), || {
            format!("{key} has both a record and a fence")
        })?;
        ensure(until <= self.state.clock.after(fences::KEPT), || {
            format!("the fence at {key} holds longer than one that was made now")
        })?;
        self.state.fences.insert(key.clone(), Fence { incarnation, until });
        let within = u64::try_from(self.state.fences.len()).is_ok_and(|len| len <= self.state.settings.max_fences);
        ensure(within, || {
            format!("it has more than {} fences", self.state.settings.max_fences)
        })?;
        self.last_fence = Some(key);
        Ok(())
    }

    /// The revision of the last change that a record shows.
    #[cfg(feature = "failpoints")]
    fn newest_record(&self) -> Revision {
        let revisions = self.state.instances.values().map(|record| record.mod_revision);
        revisions.max().unwrap_or_default()
    }

    fn finish(mut self) -> Result<State, Corrupt> {
        // Plant: the revision is made up from the records that are there, whatever was removed after them.
        planted!("revision-from-the-records" => { self.state.revision = self.newest_record(); });
        for (lease_id, staged) in self.lease_ids.into_iter().zip(self.leases) {
            let holding = if staged.own {
                let key = staged.keys.into_iter().next();
                let empty = || Corrupt(format!("the own lease {lease_id} holds no instance"));
                Holding::Own(key.ok_or_else(empty)?)
            } else {
                Holding::Shared(Arc::new(staged.keys.into_iter().collect()))
            };
            self.state.leases.insert(lease_id, holding, staged.ttl, staged.deadline);
        }
        Ok(self.state)
    }
}

/// Whether a caller may choose this id for a lease of its own: the API has no numbers beyond 2^63 - 1.
pub(super) fn is_callers_own(id: LeaseId) -> bool {
    id >= LeaseId::FIRST_OF_CALLERS && i64::try_from(id.0).is_ok()
}

#[cfg(test)]
mod tests;
