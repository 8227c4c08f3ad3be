//! Which instances a list or a watch is about.

use std::collections::BTreeSet;

use super::{Instance, InstanceKey, Namespace, ServiceName};

/// Which services.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// These.
    Services(BTreeSet<ServiceName>),
    /// Those whose names begin so; never empty.
    Prefix(String),
    /// All.
    All,
}

/// What a match looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MatchField {
    /// `zone`
    Zone,
    /// `region`
    Region,
    /// `version`
    Version,
    /// `status`
    Status,
    /// `tag`: any of the instance's tags
    Tag,
    /// `port`: the name of any of its ports
    Port,
    /// `metadata.KEY`
    Metadata(String),
}

/// What a match asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// Some value of the field is one of these.
    In(BTreeSet<String>),
    /// No value of the field is one of these; an absent field passes.
    NotIn(BTreeSet<String>),
    /// The field is there and not empty.
    Exists,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Match {
    /// On what.
    pub field: MatchField,
    /// What.
    pub op: MatchOp,
}

/// Which instances.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    /// In this namespace; `None` = in all.
    pub namespace: Option<Namespace>,
    /// Of these services.
    pub scope: Scope,
    /// Only those that serve ([`Instance::is_serving`]).
    pub serving: bool,
    /// All of these must hold.
    pub matches: Vec<Match>,
}

impl Selector {
    /// Whether the key lies within namespace and scope: what an index by service can decide.
    #[must_use]
    pub fn covers(&self, key: &InstanceKey) -> bool {
        self.namespace
            .as_ref()
            .is_none_or(|namespace| *namespace == key.namespace)
            && match &self.scope {
                Scope::Services(names) => names.contains(&key.service),
                Scope::Prefix(prefix) => key.service.as_str().starts_with(prefix.as_str()),
                Scope::All => true,
            }
    }

    /// Whether the instance is one of those meant.
    #[must_use]
    pub fn selects(&self, instance: &Instance) -> bool {
        self.covers(instance.key())
            && (!self.serving || instance.is_serving())
            && self.matches.iter().all(|m| m.holds(instance))
    }
}

impl Match {
    fn holds(&self, instance: &Instance) -> bool {
        match &self.op {
            MatchOp::In(values) => self.any_value(instance, |v| values.contains(v)),
            MatchOp::NotIn(values) => !self.any_value(instance, |v| values.contains(v)),
            MatchOp::Exists => self.any_value(instance, |v| !v.is_empty()),
        }
    }

    fn any_value(&self, instance: &Instance, test: impl Fn(&str) -> bool) -> bool {
        let spec = &instance.spec;
        match &self.field {
            MatchField::Zone => test(&spec.zone),
            MatchField::Region => test(&spec.region),
            MatchField::Version => test(&spec.version),
            MatchField::Status => test(spec.status.name()),
            MatchField::Tag => spec.tags.iter().any(|tag| test(tag)),
            MatchField::Port => spec.ports.iter().any(|port| test(&port.name)),
            MatchField::Metadata(key) => spec.metadata.get(key).is_some_and(|value| test(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::model::{Incarnation, InstanceId, InstanceSpec, Port, Revision, Status};

    fn instance() -> Instance {
        let port = |name: &str| Port {
            name: name.into(),
            number: 8080,
            protocol: Default::default(),
            address: Default::default(),
        };
        Instance {
            spec: InstanceSpec {
                key: InstanceKey::new(
                    Namespace::default(),
                    ServiceName::parse("api-v2").unwrap(),
                    InstanceId::parse("1").unwrap(),
                ),
                address: "10.0.0.7".into(),
                ports: [port("http"), port("grpc"), port("")].into(),
                weight: 100,
                region: "eu".into(),
                zone: "a".into(),
                version: Default::default(),
                tags: ["blue", "canary"].into(),
                metadata: [("team", "x"), ("empty", "")].into(),
                status: Status::Up,
                incarnation: Incarnation(0),
            },
            lease: None,
            create_revision: Revision(1),
            mod_revision: Revision(1),
            registered_at_ms: 0,
            updated_at_ms: 0,
            encoded: OnceLock::new(),
        }
    }

    fn all() -> Selector {
        Selector {
            namespace: None,
            scope: Scope::All,
            serving: false,
            matches: Vec::new(),
        }
    }

    fn of(values: &[&str]) -> BTreeSet<String> {
        values.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn namespace_and_scope_are_decided_by_the_key() {
        let instance = instance();
        let names = |names: &[&str]| {
            let names = names.iter().map(|name| ServiceName::parse(name).unwrap());
            Scope::Services(names.collect())
        };
        let cases = [
            (None, Scope::All, true),
            (Some("default"), Scope::All, true),
            (Some("other"), Scope::All, false),
            (None, names(&["web", "api-v2"]), true),
            (None, names(&["api"]), false),
            (None, Scope::Prefix("api-".into()), true),
            (None, Scope::Prefix("api.".into()), false),
            (Some("other"), Scope::Prefix("api-".into()), false),
        ];
        for (namespace, scope, covered) in cases {
            let selector = Selector {
                namespace: namespace.map(|name| Namespace::parse(name).unwrap()),
                scope,
                ..all()
            };
            assert_eq!(selector.covers(instance.key()), covered, "{selector:?}");
            assert_eq!(selector.selects(&instance), covered, "{selector:?}");
        }
    }

    #[test]
    fn serving_is_up_with_a_weight() {
        let selector = Selector { serving: true, ..all() };
        let mut instance = instance();
        assert!(selector.selects(&instance));
        instance.spec.weight = 0;
        assert!(!selector.selects(&instance));
        instance.spec.weight = 1;
        for status in [Status::Starting, Status::Draining, Status::Down] {
            instance.spec.status = status;
            assert!(!selector.selects(&instance), "{status:?}");
            assert!(all().selects(&instance), "{status:?}");
        }
    }

    #[test]
    fn each_field_is_matched_by_its_values() {
        use MatchField::{Metadata, Port, Region, Status, Tag, Version, Zone};
        use MatchOp::{Exists, In, NotIn};
        let team = || Metadata("team".into());
        let cases = [
            (Zone, In(of(&["b", "a"])), true),
            (Zone, In(of(&["b"])), false),
            (Zone, NotIn(of(&["b"])), true),
            (Region, In(of(&["eu"])), true),
            (Region, NotIn(of(&["eu", "us"])), false),
            (Version, Exists, false),
            (Version, NotIn(of(&["1"])), true),
            (Version, In(of(&[""])), true),
            (Status, In(of(&["UP"])), true),
            (Status, In(of(&["DOWN", "DRAINING"])), false),
            (Tag, In(of(&["blue"])), true),
            (Tag, In(of(&["red", "canary"])), true),
            (Tag, NotIn(of(&["red"])), true),
            (Tag, NotIn(of(&["red", "blue"])), false),
            (Tag, Exists, true),
            (Port, In(of(&["grpc"])), true),
            (Port, NotIn(of(&["grpc"])), false),
            (Port, In(of(&["admin"])), false),
            (Port, Exists, true),
            (team(), In(of(&["x"])), true),
            (team(), NotIn(of(&["x"])), false),
            (team(), Exists, true),
            (Metadata("empty".into()), Exists, false),
            (Metadata("empty".into()), In(of(&[""])), true),
            (Metadata("none".into()), Exists, false),
            (Metadata("none".into()), In(of(&[""])), false),
            (Metadata("none".into()), NotIn(of(&["x"])), true),
        ];
        for (field, op, selected) in cases {
            let selector = Selector {
                matches: vec![Match { field, op }],
                ..all()
            };
            assert_eq!(selector.selects(&instance()), selected, "{selector:?}");
        }
    }

    #[test]
    fn all_matches_must_hold() {
        let zone = Match {
            field: MatchField::Zone,
            op: MatchOp::In(of(&["a"])),
        };
        let tag = Match {
            field: MatchField::Tag,
            op: MatchOp::In(of(&["red"])),
        };
        let both = |matches| Selector { matches, ..all() };
        assert!(both(vec![zone.clone()]).selects(&instance()));
        assert!(!both(vec![zone, tag]).selects(&instance()));
    }
}
