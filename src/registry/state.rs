//! One version of the registry's content.

use std::sync::Arc;

use imbl::OrdMap;

use super::{fences::Fences, leases::Leases, summary::Summaries};
use crate::model::{Instance, InstanceKey, LeaseTime, Revision, limits};

/// One version of the registry's content: immutable maps that share structure, cheap to clone and to keep.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(super) revision: Revision,
    pub(super) clock: LeaseTime,
    pub(super) settings: Settings,
    pub(super) instances: OrdMap<InstanceKey, Arc<Instance>>,
    pub(super) leases: Leases,
    pub(super) fences: Fences,
    pub(super) summaries: Summaries,
}

/// Replicated limits on the state: equal on all nodes, so that all nodes refuse alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Instances in the cluster.
    pub max_instances: u64,
    /// Leases in the cluster, own and shared.
    pub max_leases: u64,
    /// Instances that one lease holds.
    pub max_instances_per_lease: u64,
    /// Fences that outlive their records.
    pub max_fences: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_instances: limits::INSTANCES_MAX,
            max_leases: limits::LEASES_MAX,
            max_instances_per_lease: limits::INSTANCES_PER_LEASE_MAX,
            max_fences: limits::FENCES_MAX,
        }
    }
}

impl State {
    /// Its position in the registry's history.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Lease time: what deadlines are compared with.
    #[must_use]
    pub fn clock(&self) -> LeaseTime {
        self.clock
    }

    /// The replicated limits.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many instances there are.
    #[must_use]
    pub fn instance_count(&self) -> usize {
        self.instances.len()
    }

    /// How many leases there are.
    #[must_use]
    pub fn lease_count(&self) -> usize {
        self.leases.len()
    }

    /// One record.
    #[must_use]
    pub fn instance(&self, key: &InstanceKey) -> Option<&Arc<Instance>> {
        self.instances.get(key)
    }

    /// Puts a record in the place of the one that stood there, and keeps the counts. Its lease and its fence are the
    /// caller's business.
    pub(super) fn put(&mut self, instance: &Arc<Instance>) -> Option<Arc<Instance>> {
        let before = self.instances.insert(instance.key().clone(), Arc::clone(instance));
        self.summaries.change(before.as_deref(), Some(instance));
        before
    }

    /// Removes a record, and keeps the counts. Likewise.
    pub(super) fn take(&mut self, key: &InstanceKey) -> Option<Arc<Instance>> {
        let before = self.instances.remove(key)?;
        self.summaries.change(Some(&before), None);
        Some(before)
    }
}
