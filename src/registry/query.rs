//! Reading one version: what lists, watches and lease queries ask. Every walk starts where its answer starts; none
//! looks at what the question excludes by key.

use std::{
    iter,
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use imbl::ordmap::DiffItem;

use super::{
    Change, NamespaceSummary, ServiceSummary, State, deadlines::Row, holdings::Holding, place::Place, summary::Tally,
};
use crate::model::{Instance, InstanceKey, LeaseId, LeaseInfo, Namespace, Revision, Scope, Selector, ServiceName};

type Instances<'a> = Box<dyn Iterator<Item = &'a Arc<Instance>> + Send + 'a>;

impl State {
    /// Selected records in key order, after a key.
    #[must_use]
    pub fn select<'a>(
        &'a self,
        selector: &'a Selector,
        after: Option<&InstanceKey>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Instance>> + Send + 'a> {
        let after = after.cloned();
        let covered: Instances<'a> = if let Some(namespace) = &selector.namespace {
            self.covered(namespace, &selector.scope, after)
        } else {
            let from = after.as_ref().map(|key| &key.namespace);
            let namespaces = self.summaries.namespace_names(from);
            Box::new(namespaces.flat_map(move |namespace| self.covered(namespace, &selector.scope, after.clone())))
        };
        Box::new(covered.filter(|instance| selector.selects(instance)))
    }

    /// Records of one namespace within a scope, after a key.
    fn covered<'a>(&'a self, namespace: &'a Namespace, scope: &'a Scope, after: Option<InstanceKey>) -> Instances<'a> {
        match scope {
            Scope::Services(names) => Box::new(names.iter().flat_map(move |name| {
                let walk = self.walk((namespace.as_str(), name.as_str(), ""), after.as_ref());
                walk.take_while(move |(key, _)| key.service == *name && key.namespace == *namespace)
                    .map(|(_, instance)| instance)
            })),
            Scope::Prefix(prefix) => self.beginning_with(namespace, prefix, after.as_ref()),
            Scope::All => self.beginning_with(namespace, "", after.as_ref()),
        }
    }

    fn beginning_with<'a>(
        &'a self,
        namespace: &'a Namespace,
        prefix: &'a str,
        after: Option<&InstanceKey>,
    ) -> Instances<'a> {
        let walk = self.walk((namespace.as_str(), prefix, ""), after);
        Box::new(
            walk.take_while(move |(key, _)| key.service.as_str().starts_with(prefix) && key.namespace == *namespace)
                .map(|(_, instance)| instance),
        )
    }

    /// Records in order, from a place on, and after a key if that is further on.
    fn walk<'a>(
        &'a self,
        from: (&str, &str, &str),
        after: Option<&InstanceKey>,
    ) -> impl Iterator<Item = (&'a InstanceKey, &'a Arc<Instance>)> + Send + use<'a> {
        let from: &dyn Place = &from;
        let after = after.map(|key| key as &dyn Place).filter(|after| *after >= from);
        let lower = after.map_or(Included(from), Excluded);
        self.instances.range::<_, dyn Place + '_>((lower, Unbounded))
    }

    /// Services in (namespace, service) order, after one; of one namespace or of all.
    #[must_use]
    pub fn services<'a>(
        &'a self,
        namespace: Option<&'a Namespace>,
        after: Option<&(Namespace, ServiceName)>,
    ) -> Box<dyn Iterator<Item = ServiceSummary> + Send + 'a> {
        Box::new(
            self.summaries
                .services(namespace, after)
                .map(|(namespace, service, tally)| {
                    tally.summary(namespace, service, self.newest(namespace, service, tally))
                }),
        )
    }

    /// The greatest mod_revision of a service's instances.
    fn newest(&self, namespace: &Namespace, service: &ServiceName, tally: &Tally) -> Revision {
        tally.newest().unwrap_or_else(|| {
            self.walk((namespace.as_str(), service.as_str(), ""), None)
                .take_while(|(key, _)| key.service == *service && key.namespace == *namespace)
                .map(|(_, instance)| instance.mod_revision)
                .max()
                .unwrap_or_default()
        })
    }

    /// Namespaces in order, after one.
    #[must_use]
    pub fn namespaces<'a>(
        &'a self,
        after: Option<&Namespace>,
    ) -> Box<dyn Iterator<Item = NamespaceSummary> + Send + 'a> {
        Box::new(self.summaries.namespaces(after))
    }

    /// One lease.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<LeaseInfo> {
        let holding = self.leases.holding(id)?;
        Some(self.lease_info(id, holding, self.leases.row(id)?))
    }

    /// Leases by id, after one.
    #[must_use]
    pub fn leases<'a>(&'a self, after: Option<LeaseId>) -> Box<dyn Iterator<Item = LeaseInfo> + Send + 'a> {
        let leases = self.leases.after(after);
        Box::new(leases.map(|(id, holding, row)| self.lease_info(id, holding, row)))
    }

    fn lease_info(&self, lease_id: LeaseId, holding: &Holding, row: &Row) -> LeaseInfo {
        LeaseInfo {
            lease_id,
            ttl: row.ttl,
            remaining: row.deadline.since(self.clock),
            instances: row.instances,
            own: matches!(holding, Holding::Own(_)),
        }
    }

    /// Keys that a lease holds, in order, after one.
    #[must_use]
    pub fn lease_instances<'a>(
        &'a self,
        id: LeaseId,
        after: Option<&InstanceKey>,
    ) -> Box<dyn Iterator<Item = &'a InstanceKey> + Send + 'a> {
        match self.leases.holding(id) {
            None => Box::new(iter::empty()),
            Some(Holding::Own(key)) => {
                let is_after = after.is_none_or(|after| key > after);
                Box::new(iter::once(key).filter(move |_| is_after))
            }
            Some(Holding::Shared(keys)) => {
                let lower = after.map_or(Unbounded, Excluded);
                Box::new(keys.range::<_, InstanceKey>((lower, Unbounded)))
            }
        }
    }

    /// What leads from `older` to this version, by key, as changes at this version's revision without reasons.
    ///
    /// Parts that the two versions share are not looked at, so that the cost is that of the difference when one grew
    /// out of the other.
    #[must_use]
    pub fn changes_since(&self, older: &State) -> Vec<Change> {
        let change = |before: Option<&Arc<Instance>>, after: Option<&Arc<Instance>>| Change {
            revision: self.revision,
            before: before.cloned(),
            after: after.cloned(),
            reason: None,
        };
        older
            .instances
            .diff(&self.instances)
            .map(|difference| match difference {
                DiffItem::Add(_, after) => change(None, Some(after)),
                DiffItem::Update { old, new } => change(Some(old.1), Some(new.1)),
                DiffItem::Remove(_, before) => change(Some(before), None),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
