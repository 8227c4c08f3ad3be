//! What the clients register, and what they select.

use std::collections::BTreeMap;

use rand::{Rng, rngs::StdRng, seq::IndexedRandom as _};
use roster::wire::{
    instance::instance_from_proto,
    v1::{self, instance::Status, r#match::Op, selector::Scope},
};

use super::Options;
use crate::history::{Key, MARK, Part, Record, Selector, digest};

/// The services' names begin with one of these.
const PREFIXES: [&str; 2] = ["web", "db"];
/// An instance has some of these.
const TAGS: [&str; 3] = ["canary", "blue", "green"];
/// The digest of a record that can't be read: no record has it.
const UNREADABLE: u64 = 1;
/// A caller's own lease ids begin here.
const FIRST_LEASE: i64 = 1 << 62;

/// A service, by its number.
pub(super) fn service(number: u32) -> String {
    let prefix = PREFIXES[usize::from(!number.is_multiple_of(2))];
    format!("{prefix}-{number}")
}

/// A service, by chance.
pub(super) fn any_service(rng: &mut StdRng, options: &Options) -> String {
    service(rng.random_range(0..options.services.max(1)))
}

/// A key in namespace `default`.
pub(super) fn key(service: &str, id: &str) -> Key {
    format!("default/{service}/{id}")
}

/// A key that many clients contend for.
pub(super) fn shared_key(rng: &mut StdRng, options: &Options) -> Key {
    let service = any_service(rng, options);
    key(
        &service,
        &format!("i{}", rng.random_range(0..options.shared_ids.max(1))),
    )
}

/// A lease's id of a caller's own.
pub(super) fn lease_id(unique: u64) -> i64 {
    FIRST_LEASE + i64::try_from(unique).expect("the run ends long before")
}

/// What an instance has besides its key, its life and its mark.
#[derive(Clone, Debug)]
pub(super) struct Looks {
    status: Status,
    weight: u32,
    tags: Vec<String>,
    zone: &'static str,
}

impl Looks {
    /// Mostly serving, sometimes not, with some of the tags: so that instances enter and leave what is selected.
    pub(super) fn by_chance(rng: &mut StdRng) -> Self {
        let status = *[
            Status::Up,
            Status::Up,
            Status::Up,
            Status::Starting,
            Status::Draining,
            Status::Down,
        ]
        .choose(rng)
        .unwrap_or(&Status::Up);
        Self {
            status,
            weight: *[0, 1, 100, 100, 65_535].choose(rng).unwrap_or(&100),
            tags: TAGS
                .iter()
                .filter(|_| rng.random_bool(0.4))
                .map(|&tag| tag.to_owned())
                .collect(),
            zone: if rng.random_bool(0.5) { "a" } else { "b" },
        }
    }

    /// The instance.
    pub(super) fn instance(&self, key: &str, incarnation: i64, mark: &str) -> v1::Instance {
        v1::Instance {
            key: Some(key_to_wire(key)),
            address: "10.0.0.1".to_owned(),
            weight: Some(self.weight),
            zone: self.zone.to_owned(),
            tags: self.tags.clone(),
            metadata: marked(mark),
            status: self.status.into(),
            incarnation,
            ..v1::Instance::default()
        }
    }

    /// An update that makes an instance look so.
    pub(super) fn update(&self, key: &str, incarnation: i64, mark: &str) -> v1::UpdateRequest {
        let others = TAGS.iter().filter(|tag| !self.tags.iter().any(|own| own == *tag));
        v1::UpdateRequest {
            key: Some(key_to_wire(key)),
            status: self.status.into(),
            weight: Some(self.weight),
            add_tags: self.tags.clone(),
            remove_tags: others.map(|&tag| tag.to_owned()).collect(),
            set_metadata: marked(mark),
            incarnation,
            ..v1::UpdateRequest::default()
        }
    }
}

/// What a Register asks for, of what goes over the wire.
pub(super) fn parts_of_instance(instance: &v1::Instance) -> Vec<Part> {
    let mut parts = vec![
        ("key", instance.key.as_ref().map(key_from_wire).unwrap_or_default()),
        ("address", instance.address.clone()),
        ("weight", instance.weight.unwrap_or(100).to_string()),
        ("region", instance.region.clone()),
        ("zone", instance.zone.clone()),
        ("version", instance.version.clone()),
        ("status", instance.status().as_str_name().to_owned()),
        ("incarnation", instance.incarnation.to_string()),
    ];
    parts.extend(instance.tags.iter().map(|tag| ("tag", tag.clone())));
    parts.extend(metadata(&instance.metadata));
    parts
}

/// What an Update asks for.
pub(super) fn parts_of_update(update: &v1::UpdateRequest) -> Vec<Part> {
    let mut parts = vec![
        ("key", update.key.as_ref().map(key_from_wire).unwrap_or_default()),
        ("incarnation", update.incarnation.to_string()),
    ];
    if update.status() != Status::Unspecified {
        parts.push(("status", update.status().as_str_name().to_owned()));
    }
    parts.extend(update.weight.map(|weight| ("weight", weight.to_string())));
    parts.extend(update.version.clone().map(|version| ("version", version)));
    parts.extend(update.add_tags.iter().map(|tag| ("add tag", tag.clone())));
    parts.extend(update.remove_tags.iter().map(|tag| ("remove tag", tag.clone())));
    parts.extend(metadata(&update.set_metadata));
    parts.extend(
        update
            .remove_metadata
            .iter()
            .map(|name| ("remove metadata", name.clone())),
    );
    parts
}

fn metadata(metadata: &BTreeMap<String, String>) -> impl Iterator<Item = Part> {
    metadata
        .iter()
        .map(|(name, value)| ("metadata", format!("{name}={value}")))
}

fn marked(mark: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(MARK.to_owned(), mark.to_owned())])
}

/// A key as the wire has it.
pub(super) fn key_to_wire(key: &str) -> v1::InstanceKey {
    let mut parts = key.splitn(3, '/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    v1::InstanceKey {
        namespace: next(),
        service: next(),
        id: next(),
    }
}

/// A key as the history has it.
pub(super) fn key_from_wire(key: &v1::InstanceKey) -> Key {
    format!("{}/{}/{}", key.namespace, key.service, key.id)
}

/// An instance as the history has it.
pub(super) fn record(instance: v1::Instance) -> Record {
    Record {
        key: instance.key.as_ref().map(key_from_wire).unwrap_or_default(),
        incarnation: instance.incarnation,
        lease: instance.lease_id,
        mark: instance.metadata.get(MARK).cloned().unwrap_or_default(),
        create_revision: instance.create_revision,
        mod_revision: instance.mod_revision,
        digest: instance_from_proto(instance).map_or(UNREADABLE, |instance| digest(&instance)),
    }
}

/// One of the selectors that readers and watchers use.
pub(super) fn any_selector(rng: &mut StdRng, options: &Options) -> Selector {
    let mut selector = Selector::default();
    match rng.random_range(0..6) {
        0 => {}
        1 => selector.prefix = PREFIXES.choose(rng).map(|&prefix| prefix.to_owned()),
        2 => selector.services = vec![any_service(rng, options), "web-none".to_owned()],
        _ => selector.services = vec![any_service(rng, options)],
    }
    match rng.random_range(0..6) {
        0 | 1 => selector.serving = true,
        2 => selector.tag = TAGS.choose(rng).map(|&tag| tag.to_owned()),
        _ => {}
    }
    selector
}

/// A selector as the wire has it.
pub(super) fn selector_to_wire(selector: &Selector) -> v1::Selector {
    let scope = match &selector.prefix {
        Some(prefix) => Scope::ServicePrefix(prefix.clone()),
        None if selector.services.is_empty() => Scope::AllServices(true),
        None => Scope::Services(v1::Services {
            names: selector.services.clone(),
        }),
    };
    let tag = selector.tag.iter().map(|tag| v1::Match {
        field: "tag".to_owned(),
        op: Op::In.into(),
        values: vec![tag.clone()],
    });
    v1::Selector {
        scope: Some(scope),
        serving: selector.serving,
        matches: tag.collect(),
        ..v1::Selector::default()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn a_key_goes_to_the_wire_and_back() {
        let there = key("web-1", "10.0.0.1:80");
        assert_eq!(key_from_wire(&key_to_wire(&there)), there);
    }

    #[test]
    fn a_record_tells_its_mark_and_a_digest_of_everything_else() {
        let mut rng = StdRng::seed_from_u64(1);
        let looks = Looks::by_chance(&mut rng);
        let mut instance = looks.instance("default/web-0/i1", 7, "3-4");
        (instance.create_revision, instance.mod_revision) = (5, 6);
        let first = record(instance.clone());
        assert_eq!(
            (first.mark.as_str(), first.incarnation, first.mod_revision),
            ("3-4", 7, 6)
        );
        assert!(first.digest > UNREADABLE);
        instance.weight = Some(3);
        assert_ne!(record(instance).digest, first.digest);
    }
}
