//! Every record at every revision: State(ρ), without a copy of it for each ρ.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use roster::{
    model::{Instance, Status, Text},
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
    /// By `namespace/service`.
    services: BTreeMap<String, Service>,
}

/// What became of the records of one service.
#[derive(Debug, Default)]
struct Service {
    /// In order: at which revision which key changed.
    changes: Vec<(i64, Key)>,
    /// All that there ever were.
    keys: Vec<Key>,
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
            mark: spec.metadata.get(MARK).map(Text::to_string).unwrap_or_default(),
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
        service.changes.push((version.revision, key.clone()));
        let versions = self.versions.entry(key.clone()).or_default();
        if versions.is_empty() {
            service.keys.push(key.clone());
        }
        versions.push(version);
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
        let mut changed = Vec::new();
        for service in self.services_of(selector) {
            let from = service.changes.partition_point(|(revision, _)| *revision <= after);
            let to = service.changes.partition_point(|(revision, _)| *revision <= through);
            let span = service.changes.get(from..to).unwrap_or_default();
            if span.len() > service.keys.len() {
                let last = |key: &'_ Key| self.version_at(key, through).map(|version| version.revision);
                let last = service.keys.iter().map(|key| (last(key).unwrap_or(0), key));
                changed.extend(last.filter(|(revision, _)| *revision > after));
            } else {
                let is_last = |revision: i64, key: &Key| {
                    let last = self.version_at(key, through);
                    last.is_some_and(|version| version.revision == revision)
                };
                let span = span.iter().filter(|(revision, key)| is_last(*revision, key));
                changed.extend(span.map(|(revision, key)| (*revision, key)));
            }
        }
        changed.sort_unstable();
        changed
    }

    /// The services that a selector is about.
    fn services_of(&self, selector: &Selector) -> Vec<&Service> {
        if !selector.services.is_empty() {
            let names: BTreeSet<String> = selector.services.iter().map(|name| format!("default/{name}")).collect();
            let services = names.iter().filter_map(|name| self.services.get(name));
            return services.filter(|service| covers(selector, &service.keys[0])).collect();
        }
        let from = format!("default/{}", selector.prefix.as_deref().unwrap_or_default());
        let range = self.services.range(from.clone()..);
        range
            .take_while(|(service, _)| service.starts_with(&from))
            .map(|(_, service)| service)
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
