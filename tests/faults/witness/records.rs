//! Every record at every revision: State(ρ), without a copy of it for each ρ.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use roster::{
    model::{Instance, Status},
    registry::RemoveReason,
};

use crate::history::{Key, MARK, Record, Selector, digest};

/// A record: as the registry holds it, and as a client should see it.
#[derive(Debug)]
pub struct Shown {
    /// As a client should see it.
    pub record: Record,
    /// All of it.
    pub instance: Arc<Instance>,
}

/// What a record was from a revision on.
#[derive(Clone, Debug)]
pub struct Version {
    /// From here on.
    pub revision: i64,
    /// The record; `None` = it is not there.
    pub shown: Option<Arc<Shown>>,
    /// Why it is not there.
    pub reason: Option<RemoveReason>,
}

/// Every record at every revision.
#[derive(Debug, Default)]
pub struct Records {
    versions: HashMap<Key, Vec<Version>>,
    /// Of each service (`namespace/service`), in order: at which revision which key changed.
    services: BTreeMap<String, Vec<(i64, Key)>>,
}

impl Shown {
    /// A record of the registry.
    #[must_use]
    pub fn of(instance: &Arc<Instance>) -> Arc<Self> {
        let spec = &instance.spec;
        let record = Record {
            key: spec.key.to_string(),
            incarnation: spec.incarnation.as_i64(),
            lease: instance.lease_id().map_or(0, roster::model::LeaseId::as_i64),
            mark: spec.metadata.get(MARK).cloned().unwrap_or_default(),
            create_revision: instance.create_revision.as_i64(),
            mod_revision: instance.mod_revision.as_i64(),
            digest: digest(instance),
        };
        Arc::new(Self {
            record,
            instance: Arc::clone(instance),
        })
    }
}

impl Records {
    pub(super) fn add(&mut self, key: &Key, version: Version) {
        let service = self.services.entry(service_of(key).to_owned()).or_default();
        service.push((version.revision, key.clone()));
        self.versions.entry(key.clone()).or_default().push(version);
    }

    /// All that a record ever was, in order; before the first it was not there.
    #[must_use]
    pub fn versions(&self, key: &str) -> &[Version] {
        self.versions.get(key).map_or(&[], Vec::as_slice)
    }

    /// What a record was at a revision.
    #[must_use]
    pub fn version_at(&self, key: &str, revision: i64) -> Option<&Version> {
        let versions = self.versions(key);
        let after = versions.partition_point(|version| version.revision <= revision);
        after.checked_sub(1).map(|at| &versions[at])
    }

    /// A record at a revision.
    #[must_use]
    pub fn at(&self, key: &str, revision: i64) -> Option<&Arc<Shown>> {
        self.version_at(key, revision)?.shown.as_ref()
    }

    /// The change of a record at exactly this revision.
    #[must_use]
    pub fn changed_at(&self, key: &str, revision: i64) -> Option<&Version> {
        self.version_at(key, revision)
            .filter(|version| version.revision == revision)
    }

    /// What changed within the services of a selector after one revision and through another, each key with the last
    /// revision of its changes; in order of revision, then key. Whether the records are selected was not looked at.
    #[must_use]
    pub fn changed_between(&self, selector: &Selector, after: i64, through: i64) -> Vec<(i64, &Key)> {
        let mut last: HashMap<&Key, i64> = HashMap::new();
        let mut order = Vec::new();
        for changes in self.services_of(selector) {
            let from = changes.partition_point(|(revision, _)| *revision <= after);
            let to = changes.partition_point(|(revision, _)| *revision <= through);
            for (revision, key) in changes.get(from..to).unwrap_or_default() {
                last.insert(key, *revision);
                order.push((*revision, key));
            }
        }
        order.retain(|(revision, key)| last.get(key) == Some(revision));
        order.sort_unstable();
        order
    }

    /// The changes of each service that a selector is about.
    fn services_of(&self, selector: &Selector) -> Vec<&Vec<(i64, Key)>> {
        if !selector.services.is_empty() {
            let names: BTreeSet<String> = selector.services.iter().map(|name| format!("default/{name}")).collect();
            let lists = names.iter().filter_map(|name| self.services.get(name));
            return lists.filter(|list| covers(selector, &list[0].1)).collect();
        }
        let from = format!("default/{}", selector.prefix.as_deref().unwrap_or_default());
        let range = self.services.range(from.clone()..);
        range
            .take_while(|(service, _)| service.starts_with(&from))
            .map(|(_, list)| list)
            .collect()
    }
}

/// `namespace/service` of a key.
#[must_use]
pub fn service_of(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |(service, _)| service)
}

/// Whether the key lies within what the selector is about.
fn covers(selector: &Selector, key: &str) -> bool {
    let Some(service) = service_of(key).strip_prefix("default/") else {
        return false;
    };
    let named = selector.services.is_empty() || selector.services.iter().any(|name| name == service);
    named
        && selector
            .prefix
            .as_ref()
            .is_none_or(|prefix| service.starts_with(prefix))
}

/// Whether a selector selects a record.
#[must_use]
pub fn matches(selector: &Selector, shown: &Shown) -> bool {
    let spec = &shown.instance.spec;
    covers(selector, &shown.record.key)
        && (!selector.serving || (spec.status == Status::Up && spec.weight > 0))
        && selector.tag.as_ref().is_none_or(|tag| spec.tags.contains(tag))
}

/// Whether a client saw this record. A digest of 0 says nothing.
#[must_use]
pub fn same(seen: &Record, shown: &Shown) -> bool {
    let record = &shown.record;
    (seen.digest == 0 || seen.digest == record.digest)
        && seen.key == record.key
        && seen.incarnation == record.incarnation
        && seen.lease == record.lease
        && seen.mark == record.mark
        && seen.create_revision == record.create_revision
        && seen.mod_revision == record.mod_revision
}
