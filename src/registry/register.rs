//! Register and BatchRegister: putting records, and what holds them.
//!
//! An instance whose record is held otherwise is taken over: the new hold need not wait for the old one. An own
//! lease that loses its instance so ends in the same revision; a shared one merely no longer holds it. A greater
//! incarnation always takes a new own lease, because its predecessor may still renew the old one.

use std::sync::Arc;

use super::{
    BatchRegister, Outcome, Register, Registered, Rejection, State,
    holdings::Holding,
    work::{Work, check_revision},
};
use crate::model::{Hold, Instance, InstanceKey, InstanceSpec, LeaseId, Revision, Ttl};

/// What will hold an instance, after all was found in order.
#[derive(Clone, Copy, Debug)]
enum Holder {
    /// The own lease that holds it already; its TTL may be new.
    KeptOwn { lease_id: LeaseId, ttl: Ttl },
    /// An own lease to be made.
    NewOwn { ttl: Ttl },
    /// A shared lease.
    Shared { lease_id: LeaseId, ttl: Ttl },
    /// Nothing.
    Permanent,
}

impl Work<'_> {
    /// Puts one record.
    pub(super) fn register(&mut self, command: &Register) -> Result<Outcome, Rejection> {
        let spec = &command.instance;
        let key = self.state.summaries.intern(&spec.key);
        let before = self.state.instance(&key).cloned();
        self.state.check_fence(before.as_deref(), &key, spec.incarnation)?;
        check_revision(before.as_deref(), &key, command.expected_mod_revision)?;
        let holder = self.state.holder(before.as_deref(), spec, command.hold)?;
        self.state.check_room(&[before.as_deref()], holder)?;
        let revision = self.next_revision();
        let (instance, how) = self.seat(revision, spec, key, before.as_ref(), holder);
        if how != Registered::Unchanged {
            self.state.revision = revision;
        }
        Ok(Outcome::Registered { instance, how })
    }

    /// Puts many records in one revision, or none.
    pub(super) fn batch_register(&mut self, command: &BatchRegister) -> Result<Outcome, Rejection> {
        let holder = match command.hold {
            Hold::Own { .. } => {
                return Err(Rejection::InvalidField {
                    path: "hold".into(),
                    problem: "a batch has no lease of its own; name a shared one, or permanent".into(),
                });
            }
            Hold::Shared { lease_id } => self.state.shared(lease_id)?,
            Hold::Permanent => Holder::Permanent,
        };
        let in_order = in_key_order(&command.instances)?;
        let keys = self.state.keys_of(&in_order);
        let before: Vec<_> = keys.iter().map(|key| self.state.instance(key).cloned()).collect();
        for spec in &command.instances {
            let record = self.state.instance(&spec.key);
            self.state
                .check_fence(record.map(Arc::as_ref), &spec.key, spec.incarnation)?;
        }
        let records: Vec<_> = before.iter().map(Option::as_deref).collect();
        self.state.check_room(&records, holder)?;
        if let Holder::Shared { lease_id, ttl } = holder {
            // An empty batch renews, too.
            self.renew_with(lease_id, ttl);
        }
        let revision = self.next_revision();
        let mut changed = false;
        for ((spec, key), before) in in_order.into_iter().zip(keys).zip(&before) {
            let (_, how) = self.seat(revision, spec, key, before.as_ref(), holder);
            changed |= how != Registered::Unchanged;
        }
        if changed {
            self.state.revision = revision;
        }
        Ok(Outcome::BatchRegistered { changed })
    }

    /// Puts a record in the place of the one before under its holder, which is renewed. Nothing is refused any more. `key`
    /// is the record's, of shared texts, unless one stands there that has them.
    fn seat(
        &mut self,
        revision: Revision,
        spec: &InstanceSpec,
        key: InstanceKey,
        before: Option<&Arc<Instance>>,
        holder: Holder,
    ) -> (Arc<Instance>, Registered) {
        let key = before.map_or(key, |before| before.key().clone());
        let lease = self.hold(&key, before.map(Arc::as_ref), holder);
        let how = match before {
            None => Registered::Created,
            Some(before) if before.lease_id() != lease.map(|(id, _)| id) => Registered::TookOver,
            Some(before) if before.spec == *spec && before.lease == lease => {
                return (Arc::clone(before), Registered::Unchanged);
            }
            Some(_) => Registered::Changed,
        };
        let mut spec = spec.clone();
        spec.key = key;
        let instance = self.put(Instance {
            spec,
            lease,
            create_revision: before.map_or(revision, |before| before.create_revision),
            mod_revision: revision,
            registered_at_ms: before.map_or(self.wall_ms, |before| before.registered_at_ms),
            updated_at_ms: self.wall_ms,
            encoded: std::sync::OnceLock::new(),
        });
        (instance, how)
    }

    /// Moves an instance from what holds it to its holder, and renews that.
    fn hold(&mut self, key: &InstanceKey, before: Option<&Instance>, holder: Holder) -> Option<(LeaseId, Ttl)> {
        let held_by = before.and_then(Instance::lease_id);
        let stays_with = match holder {
            Holder::KeptOwn { lease_id, .. } | Holder::Shared { lease_id, .. } => Some(lease_id),
            Holder::NewOwn { .. } | Holder::Permanent => None,
        };
        if let Some(lease_id) = held_by.filter(|_| held_by != stays_with) {
            self.state.leases.detach(lease_id, key);
        }
        match holder {
            Holder::KeptOwn { lease_id, ttl } => {
                self.renew_with(lease_id, ttl);
                Some((lease_id, ttl))
            }
            Holder::NewOwn { ttl } => {
                let lease_id = self.state.leases.take_next_id();
                self.insert_lease(lease_id, Holding::Own(key.clone()), ttl);
                Some((lease_id, ttl))
            }
            Holder::Shared { lease_id, ttl } => {
                if held_by != Some(lease_id) {
                    self.state.leases.attach(lease_id, key.clone());
                }
                self.renew_with(lease_id, ttl);
                Some((lease_id, ttl))
            }
            Holder::Permanent => None,
        }
    }
}

impl State {
    /// The keys of records that are in the order of their keys, each sharing its texts with those of its service.
    fn keys_of(&self, in_order: &[&InstanceSpec]) -> Vec<InstanceKey> {
        let mut keys: Vec<InstanceKey> = Vec::with_capacity(in_order.len());
        for spec in in_order {
            let (namespace, service) = (&spec.key.namespace, &spec.key.service);
            let neighbour = keys
                .last()
                .filter(|last| last.service == *service && last.namespace == *namespace);
            keys.push(match neighbour {
                Some(last) => InstanceKey::new(last.namespace.clone(), last.service.clone(), spec.key.id.clone()),
                None => self.summaries.intern(&spec.key),
            });
        }
        keys
    }

    /// What would hold this instance.
    fn holder(&self, before: Option<&Instance>, spec: &InstanceSpec, hold: Hold) -> Result<Holder, Rejection> {
        match hold {
            Hold::Permanent => Ok(Holder::Permanent),
            Hold::Shared { lease_id } => self.shared(lease_id),
            Hold::Own { ttl } => {
                let own = before.and_then(|before| {
                    let same_life = before.spec.incarnation == spec.incarnation;
                    before.lease_id().filter(|id| same_life && self.is_own(*id))
                });
                Ok(own.map_or(Holder::NewOwn { ttl }, |lease_id| Holder::KeptOwn { lease_id, ttl }))
            }
        }
    }

    fn shared(&self, lease_id: LeaseId) -> Result<Holder, Rejection> {
        let row = self.leases.row(lease_id).ok_or(Rejection::LeaseNotFound(lease_id))?;
        if self.is_own(lease_id) {
            return Err(Rejection::InvalidField {
                path: "lease_id".into(),
                problem: format!("lease {lease_id} is one instance's own and holds no other; grant one to share"),
            });
        }
        Ok(Holder::Shared { lease_id, ttl: row.ttl })
    }

    fn is_own(&self, lease_id: LeaseId) -> bool {
        matches!(self.leases.holding(lease_id), Some(Holding::Own(_)))
    }

    /// Whether the limits leave room for instances, whose keys differ, under that holder. `records` are those that stand
    /// there now.
    fn check_room(&self, records: &[Option<&Instance>], holder: Holder) -> Result<(), Rejection> {
        let records = || records.iter().copied();
        let new = records().filter(Option::is_none).count();
        let limit = self.settings.max_instances;
        if new > 0 && exceeds(self.instance_count() + new, limit) {
            let subject = "cluster".to_owned();
            return Err(Rejection::TooManyInstances { subject, limit });
        }
        match holder {
            Holder::KeptOwn { .. } | Holder::Permanent => Ok(()),
            Holder::NewOwn { .. } => {
                // A lease that ends with the take-over makes room for the new one.
                let mut held_by = records().flatten().filter_map(Instance::lease_id);
                let makes_room = held_by.any(|id| self.is_own(id));
                let limit = self.settings.max_leases;
                if !makes_room && exceeds(self.lease_count() + 1, limit) {
                    return Err(Rejection::TooManyLeases { limit });
                }
                Ok(())
            }
            Holder::Shared { lease_id, .. } => {
                let held = self.leases.holding(lease_id).map_or(0, Holding::len) as usize;
                let joins = records().filter(|record| record.and_then(Instance::lease_id) != Some(lease_id));
                let joining = joins.count();
                let limit = self.settings.max_instances_per_lease;
                if joining > 0 && exceeds(held + joining, limit) {
                    let subject = format!("lease {lease_id}");
                    return Err(Rejection::TooManyInstances { subject, limit });
                }
                Ok(())
            }
        }
    }
}

/// Whether a count is above its limit.
pub(super) fn exceeds(count: usize, limit: u64) -> bool {
    u64::try_from(count).map_or(true, |count| count > limit)
}

/// The instances in the order of their keys, which must differ.
fn in_key_order(instances: &[InstanceSpec]) -> Result<Vec<&InstanceSpec>, Rejection> {
    let mut in_order: Vec<(&InstanceSpec, usize)> = instances.iter().zip(0..).collect();
    in_order.sort_by(|(a, m), (b, n)| (&a.key, m).cmp(&(&b.key, n)));
    let twice = in_order
        .windows(2)
        .filter(|pair| pair[0].0.key == pair[1].0.key)
        .map(|pair| pair[1].1)
        .min();
    if let Some(index) = twice {
        return Err(Rejection::InvalidField {
            path: format!("instances[{index}].key"),
            problem: format!("{} is in the batch already", instances[index].key),
        });
    }
    Ok(in_order.into_iter().map(|(spec, _)| spec).collect())
}

#[cfg(test)]
mod tests;
