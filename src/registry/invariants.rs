//! What is true of every state: checked by tests after each entry.

use std::collections::{BTreeMap, BTreeSet};

use super::{ServiceSummary, State, holdings::Holding};
use crate::model::{InstanceKey, LeaseId, Namespace, ServiceName, Status};

impl State {
    /// Whether the parts agree with each other: each instance's lease exists and holds it, each lease holds only
    /// instances that say so, an own lease holds exactly one, all counts are what counting gives, no revision lies
    /// ahead, and no fence stands where a record does. Costs as much as reading everything.
    ///
    /// # Errors
    /// The first disagreement, in words.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.leases.check()?;
        self.fences.check()?;
        self.check_holdings()?;
        self.check_records()?;
        self.check_summaries()?;
        let within = u64::try_from(self.fences.len()).is_ok_and(|len| len <= self.settings.max_fences);
        if !within {
            return Err(format!("{} fences are too many", self.fences.len()));
        }
        self.fences.iter().try_for_each(|(key, _)| {
            let free = !self.instances.contains_key(key);
            free.then_some(()).ok_or(format!("{key} has both a record and a fence"))
        })
    }

    fn check_holdings(&self) -> Result<(), String> {
        let mut held: BTreeMap<LeaseId, BTreeSet<&InstanceKey>> = BTreeMap::new();
        for (key, instance) in &self.instances {
            if let Some((lease_id, ttl)) = instance.lease {
                let row = self.leases.row(lease_id);
                if row.map(|row| row.ttl) != Some(ttl) {
                    return Err(format!(
                        "{key} is held by lease {lease_id} with {ttl:?}, which is {row:?}"
                    ));
                }
                held.entry(lease_id).or_default().insert(key);
            }
        }
        for (id, holding, row) in self.leases.after(None) {
            let keys = held.remove(&id).unwrap_or_default();
            if holding.keys().iter().collect::<BTreeSet<_>>() != keys {
                return Err(format!(
                    "lease {id} holds {:?}, the records say {keys:?}",
                    holding.keys()
                ));
            }
            if matches!(holding, Holding::Own(_)) && row.instances != 1 {
                return Err(format!("the own lease {id} holds {}", row.instances));
            }
            if row.deadline > self.clock.after(row.ttl.as_duration()) {
                return Err(format!("lease {id} ends later than a renewal now would make it"));
            }
        }
        Ok(())
    }

    fn check_records(&self) -> Result<(), String> {
        for (key, instance) in &self.instances {
            let (created, changed) = (instance.create_revision, instance.mod_revision);
            if instance.key() != key || created > changed || changed > self.revision || created.0 == 0 {
                return Err(format!("{key} is {instance:?} at revision {}", self.revision));
            }
        }
        Ok(())
    }

    fn check_summaries(&self) -> Result<(), String> {
        let mut services: BTreeMap<(Namespace, ServiceName), ServiceSummary> = BTreeMap::new();
        let mut namespaces: BTreeMap<Namespace, (u32, u32)> = BTreeMap::new();
        for (key, instance) in &self.instances {
            let place = (key.namespace.clone(), key.service.clone());
            let count = namespaces.entry(key.namespace.clone()).or_default();
            count.0 += u32::from(!services.contains_key(&place));
            count.1 += 1;
            let summary = services.entry(place).or_insert_with(|| ServiceSummary {
                namespace: key.namespace.clone(),
                service: key.service.clone(),
                starting: 0,
                up: 0,
                draining: 0,
                down: 0,
                mod_revision: instance.mod_revision,
            });
            match instance.spec.status {
                Status::Starting => summary.starting += 1,
                Status::Up => summary.up += 1,
                Status::Draining => summary.draining += 1,
                Status::Down => summary.down += 1,
            }
            summary.mod_revision = summary.mod_revision.max(instance.mod_revision);
        }
        let kept: Vec<_> = self.services(None, None).collect();
        let counted: Vec<_> = services.into_values().collect();
        if kept != counted {
            return Err(format!("services are kept as {kept:?}, counted as {counted:?}"));
        }
        let kept: Vec<_> = self
            .namespaces(None)
            .map(|n| (n.namespace, (n.services, n.instances)))
            .collect();
        let counted: Vec<_> = namespaces.into_iter().collect();
        if kept != counted {
            return Err(format!("namespaces are kept as {kept:?}, counted as {counted:?}"));
        }
        Ok(())
    }
}
