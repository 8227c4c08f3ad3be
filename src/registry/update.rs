//! Update: changing some fields of a record. It renews nothing.

use std::sync::{Arc, OnceLock};

use super::{
    Outcome, Rejection, Update,
    work::{Work, check_revision},
};
use crate::model::{
    Instance, InstanceSpec,
    limits::{METADATA_MAX, RECORD_MAX_BYTES, TAGS_MAX},
};

impl Work<'_> {
    /// Changes some fields of a record.
    pub(super) fn update(&mut self, command: &Update) -> Result<Outcome, Rejection> {
        let key = &command.key;
        let before = self.state.instance(key).cloned();
        let before = before.ok_or_else(|| Rejection::InstanceNotFound(key.clone()))?;
        if command.incarnation.0 > 0 {
            self.state.check_fence(Some(&before), key, command.incarnation)?;
        }
        check_revision(Some(&before), key, command.expected_mod_revision)?;
        let spec = command.applied_to(&before.spec);
        if spec == before.spec {
            return Ok(Outcome::Updated {
                instance: before,
                changed: false,
            });
        }
        check_limits(&spec, command)?;
        let revision = self.next_revision();
        self.state.revision = revision;
        let instance: Arc<Instance> = self.put(Instance {
            spec,
            lease: before.lease,
            create_revision: before.create_revision,
            mod_revision: revision,
            registered_at_ms: before.registered_at_ms,
            updated_at_ms: self.wall_ms,
            encoded: OnceLock::new(),
        });
        Ok(Outcome::Updated {
            instance,
            changed: true,
        })
    }
}

impl Update {
    /// The record's fields after it: removals first, so that what is both removed and added is there.
    fn applied_to(&self, before: &InstanceSpec) -> InstanceSpec {
        let mut spec = before.clone();
        spec.status = self.status.unwrap_or(spec.status);
        spec.weight = self.weight.unwrap_or(spec.weight);
        if let Some(version) = &self.version {
            spec.version = version.as_str().into();
        }
        spec.tags.retain(|tag| !self.remove_tags.contains(tag.as_str()));
        spec.tags.extend(&self.add_tags);
        spec.metadata
            .retain(|key, _| !self.remove_metadata.contains(key.as_str()));
        spec.metadata.extend(&self.set_metadata);
        spec
    }
}

/// What the request alone could not tell: whether the record, with what it had before, keeps its limits.
fn check_limits(spec: &InstanceSpec, command: &Update) -> Result<(), Rejection> {
    let invalid = |path: &str, problem: String| {
        let path = path.to_owned();
        Err(Rejection::InvalidField { path, problem })
    };
    let tags = spec.tags.len();
    if tags > TAGS_MAX {
        let problem = format!("the instance would have {tags} tags; at most {TAGS_MAX} are allowed");
        return invalid("add_tags", problem);
    }
    let entries = spec.metadata.len();
    if entries > METADATA_MAX {
        let problem = format!("the instance would have {entries} metadata entries; at most {METADATA_MAX} are allowed");
        return invalid("set_metadata", problem);
    }
    let bytes = spec.encoded_bytes();
    if bytes > RECORD_MAX_BYTES {
        let problem = format!("the record would be {bytes} bytes long; at most {RECORD_MAX_BYTES} are allowed");
        let grown = if !command.set_metadata.is_empty() {
            "set_metadata"
        } else if !command.add_tags.is_empty() {
            "add_tags"
        } else {
            "version"
        };
        return invalid(grown, problem);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        model::{Incarnation, Revision, Status, limits::METADATA_VALUE_MAX_BYTES},
        registry::{
            Command,
            fixture::{Desk, key, life, own, update},
        },
    };

    fn run(desk: &mut Desk, command: Update) -> Result<bool, Rejection> {
        match desk.run(Command::Update(command))? {
            Outcome::Updated { changed, .. } => Ok(changed),
            other => panic!("an Update answered {other:?}"),
        }
    }

    fn desk() -> Desk {
        let mut desk = Desk::default();
        desk.register(life("api/a", 7), own(5)).unwrap();
        desk
    }

    #[test]
    fn fields_change_and_the_lease_stays_as_it_is() {
        let mut desk = desk();
        desk.now_ms = 4_000;
        let command = Update {
            status: Some(Status::Draining),
            weight: Some(0),
            version: Some("2".into()),
            ..update("api/a")
        };
        assert_eq!(run(&mut desk, command.clone()), Ok(true));
        assert_eq!(desk.revision(), Revision(2));
        let instance = desk.instance("api/a").unwrap();
        assert_eq!((instance.spec.weight, instance.spec.version.as_str()), (0, "2"));
        assert_eq!(instance.updated_at_ms, instance.registered_at_ms + 4_000);
        assert_eq!(run(&mut desk, command), Ok(false));
        assert_eq!(desk.revision(), Revision(2));
        assert_eq!(desk.pass(5_001), [key("api/a")], "an Update renews nothing");
    }

    #[test]
    fn what_is_removed_and_added_is_there() {
        let mut desk = desk();
        let add = |tags: &[&str]| tags.iter().map(ToString::to_string).collect();
        let command = Update {
            add_tags: add(&["blue", "green"]),
            set_metadata: BTreeMap::from([("k".into(), "1".into()), ("l".into(), "1".into())]),
            ..update("api/a")
        };
        assert_eq!(run(&mut desk, command), Ok(true));
        let command = Update {
            add_tags: add(&["blue"]),
            remove_tags: add(&["blue", "green", "red"]),
            set_metadata: BTreeMap::from([("k".into(), "2".into())]),
            remove_metadata: add(&["k", "l"]),
            ..update("api/a")
        };
        assert_eq!(run(&mut desk, command), Ok(true));
        let spec = &desk.instance("api/a").unwrap().spec;
        assert_eq!(spec.tags, add(&["blue"]).into());
        assert_eq!(spec.metadata, [("k", "2")].into());
    }

    #[test]
    fn a_missing_or_superseded_or_changed_record_is_refused() {
        let mut desk = desk();
        assert_eq!(
            run(&mut desk, update("api/b")),
            Err(Rejection::InstanceNotFound(key("api/b")))
        );
        let with = |incarnation, expected: Option<u64>| Update {
            incarnation: Incarnation(incarnation),
            expected_mod_revision: expected.map(Revision),
            weight: Some(7),
            ..update("api/a")
        };
        assert!(matches!(run(&mut desk, with(6, None)), Err(Rejection::Fenced { .. })));
        assert!(matches!(
            run(&mut desk, with(7, Some(9))),
            Err(Rejection::RevisionMismatch {
                current: Revision(1),
                ..
            })
        ));
        assert_eq!(desk.revision(), Revision(1));
        assert_eq!(run(&mut desk, with(0, Some(1))), Ok(true), "0 = not fenced");
    }

    #[test]
    fn the_result_must_keep_the_limits_of_a_record() {
        let mut desk = desk();
        let tags = |range: std::ops::Range<usize>| Update {
            add_tags: range.map(|n| format!("t{n}")).collect(),
            ..update("api/a")
        };
        assert_eq!(run(&mut desk, tags(0..TAGS_MAX)), Ok(true));
        let one_more = run(&mut desk, tags(TAGS_MAX..TAGS_MAX + 1));
        assert!(matches!(one_more, Err(Rejection::InvalidField { path, .. }) if path == "add_tags"));
        let entries = |range: std::ops::Range<usize>, bytes: usize| Update {
            set_metadata: range.map(|n| (format!("k{n}"), "v".repeat(bytes))).collect(),
            ..update("api/a")
        };
        assert_eq!(run(&mut desk, entries(0..METADATA_MAX, 1)), Ok(true));
        let one_more = run(&mut desk, entries(64..65, 1));
        assert!(matches!(one_more, Err(Rejection::InvalidField { path, .. }) if path == "set_metadata"));
        assert_eq!(run(&mut desk, entries(0..15, METADATA_VALUE_MAX_BYTES)), Ok(true));
        let too_long = run(&mut desk, entries(15..17, METADATA_VALUE_MAX_BYTES));
        assert!(matches!(too_long, Err(Rejection::InvalidField { path, .. }) if path == "set_metadata"));
    }
}
