//! What a watcher knows: the selected instances as of one position.

use std::{collections::BTreeMap, sync::Arc};

use crate::wire::v1::{self, change};

/// An instance's place: namespace, service, id.
type Key = (String, String, String);

fn key_of(key: &v1::InstanceKey) -> Key {
    (key.namespace.clone(), key.service.clone(), key.id.clone())
}

/// The instances that a selector matches, in the order of their keys. Always whole: a step is taken in entirely or
/// not at all.
#[derive(Clone, Debug, Default)]
pub struct View {
    instances: BTreeMap<Key, Arc<v1::Instance>>,
    position: Option<v1::Position>,
}

impl View {
    /// The instances, in the order of their keys.
    pub fn instances(&self) -> impl Iterator<Item = &Arc<v1::Instance>> {
        self.instances.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// The instance of that key.
    #[must_use]
    pub fn instance(&self, key: &v1::InstanceKey) -> Option<&Arc<v1::Instance>> {
        self.instances.get(&key_of(key))
    }

    /// The position through which it is complete; `None` before the first step.
    #[must_use]
    pub fn position(&self) -> Option<&v1::Position> {
        self.position.as_ref()
    }

    pub(super) fn move_on(&mut self, position: Option<v1::Position>) {
        if position.is_some() {
            self.position = position;
        }
    }

    /// Takes in one step.
    pub(super) fn take(&mut self, snapshot: bool, messages: &[v1::WatchResponse]) {
        if snapshot {
            self.instances.clear();
        }
        for change in messages.iter().flat_map(|message| &message.changes) {
            self.apply(change);
        }
        self.move_on(messages.last().and_then(|last| last.position.clone()));
    }

    fn apply(&mut self, change: &v1::Change) {
        match change.kind() {
            change::Kind::Put => {
                if let Some(instance) = &change.instance
                    && let Some(key) = &instance.key
                {
                    self.instances.insert(key_of(key), Arc::new(instance.clone()));
                }
            }
            change::Kind::Remove => {
                if let Some(key) = &change.removed {
                    self.instances.remove(&key_of(key));
                }
            }
            // A kind of a later version: what it means can't be known, and the view can't follow it.
            change::Kind::Unspecified => tracing::warn!(kind = change.kind, "a change of an unknown kind"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> v1::InstanceKey {
        v1::InstanceKey {
            namespace: "default".into(),
            service: "web".into(),
            id: id.into(),
        }
    }

    fn put(id: &str) -> v1::Change {
        v1::Change {
            kind: change::Kind::Put.into(),
            instance: Some(v1::Instance {
                key: Some(key(id)),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn remove(id: &str) -> v1::Change {
        v1::Change {
            kind: change::Kind::Remove.into(),
            removed: Some(key(id)),
            ..Default::default()
        }
    }

    fn message(changes: Vec<v1::Change>, revision: i64) -> v1::WatchResponse {
        v1::WatchResponse {
            changes,
            position: Some(v1::Position {
                cluster_id: "c".into(),
                revision,
            }),
            ..Default::default()
        }
    }

    fn ids(view: &View) -> Vec<&str> {
        view.instances()
            .filter_map(|instance| instance.key.as_ref().map(|key| key.id.as_str()))
            .collect()
    }

    #[test]
    fn changes_add_to_the_view_and_a_snapshot_replaces_it() {
        let mut view = View::default();
        view.take(true, &[message(vec![put("1"), put("2")], 5)]);
        view.take(false, &[message(vec![remove("1"), put("3")], 6)]);
        assert_eq!(ids(&view), ["2", "3"]);
        assert_eq!(view.position().map(|position| position.revision), Some(6));
        view.take(true, &[message(vec![put("9")], 90)]);
        assert_eq!(ids(&view), ["9"]);
        assert!(view.instance(&key("2")).is_none() && view.instance(&key("9")).is_some());
    }

    #[test]
    fn the_parts_of_one_step_are_taken_in_together() {
        let mut first = message(vec![put("1")], 0);
        first.position = None;
        first.more = true;
        let mut view = View::default();
        view.take(true, &[first, message(vec![put("2")], 7)]);
        assert_eq!(ids(&view), ["1", "2"]);
    }
}
