//! What a change means to one selector.

use std::{collections::HashMap, sync::Arc};

use super::{
    delivery::{ChangeKind, GoneReason, WatchChange},
    record::Record,
};
use crate::{
    model::{Instance, InstanceKey, Scope, Selector},
    registry::Change,
};

/// A watch's selector, and what of it the index leaves to ask.
#[derive(Debug)]
pub(super) struct Filter {
    selector: Selector,
    /// Whether it asks for more than namespace and scope.
    narrow: bool,
}

/// What a change does to a watcher's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The instance is in it now.
    Put,
    /// The instance was in it and is not any more, because it is removed or no longer selected.
    Remove,
}

impl Filter {
    pub(super) fn new(selector: Selector) -> Self {
        Self {
            narrow: selector.serving || !selector.matches.is_empty(),
            selector,
        }
    }

    pub(super) fn selector(&self) -> &Selector {
        &self.selector
    }

    /// Whether a key that the index found for this watch is within its scope: it finds listed services exactly, and
    /// knows nothing of prefixes.
    pub(super) fn admits(&self, key: &InstanceKey) -> bool {
        match &self.selector.scope {
            Scope::Services(_) | Scope::All => true,
            Scope::Prefix(prefix) => key.service.as_str().starts_with(prefix.as_str()),
        }
    }

    /// Whether the key is within namespace and scope.
    pub(super) fn covers(&self, key: &InstanceKey) -> bool {
        self.selector.covers(key)
    }

    /// What a change does to the view; `None` = nothing. It must be covered.
    pub(super) fn effect_of(&self, record: &Record) -> Option<Effect> {
        self.effect(record.change.before.as_ref(), record.change.after.as_ref())
    }

    /// What the way from one side to the other does to the view; `None` = nothing. The key must be covered.
    fn effect(&self, before: Option<&Arc<Instance>>, after: Option<&Arc<Instance>>) -> Option<Effect> {
        // Plant: what left the selector stays in the view, as it was changed to.
        planted!("selector-forgotten" => {
            return Some(if after.is_some() { Effect::Put } else { Effect::Remove });
        });
        if self.selects(after) {
            Some(Effect::Put)
        } else if self.selects(before) {
            Some(Effect::Remove)
        } else {
            None
        }
    }

    fn selects(&self, side: Option<&Arc<Instance>>) -> bool {
        side.is_some_and(|instance| !self.narrow || self.selector.selects(instance))
    }

    /// The changes that each stand alone, as this watcher sees them.
    pub(super) fn each<'a>(&self, changes: impl IntoIterator<Item = &'a Change>) -> Vec<WatchChange> {
        changes
            .into_iter()
            .filter(|change| self.covers(change.key()))
            .filter_map(|change| {
                let effect = self.effect(change.before.as_ref(), change.after.as_ref())?;
                Some(seen(change, effect))
            })
            .collect()
    }

    /// The latest of each instance over a stretch of records, in revision order, then by key. What an instance was
    /// before the first of its changes decides whether the watcher has it; one that it neither had nor gets is no
    /// change.
    pub(super) fn coalesce<'a>(&self, records: impl Iterator<Item = &'a Arc<Record>>) -> Vec<WatchChange> {
        let mut place: HashMap<&InstanceKey, usize> = HashMap::new();
        let mut spans: Vec<(&Change, &Change)> = Vec::new();
        for record in records.filter(|record| self.covers(record.key())) {
            let at = *place.entry(record.key()).or_insert_with(|| {
                spans.push((&record.change, &record.change));
                spans.len() - 1
            });
            spans[at].1 = &record.change;
        }
        spans.sort_by_key(|(_, last)| (last.revision, last.key()));
        spans
            .into_iter()
            .filter_map(|(first, last)| {
                let effect = self.effect(first.before.as_ref(), last.after.as_ref())?;
                let mut change = seen(last, effect);
                if first.revision != last.revision
                    && let ChangeKind::Remove(_, reason) = &mut change.kind
                {
                    *reason = None;
                }
                Some(change)
            })
            .collect()
    }
}

/// A change as the watcher sees it on whose view it has this effect.
pub(super) fn seen(change: &Change, effect: Effect) -> WatchChange {
    let kind = match (&change.after, effect) {
        (Some(instance), Effect::Put) => ChangeKind::Put(Arc::clone(instance)),
        (Some(instance), Effect::Remove) => ChangeKind::Remove(instance.key().clone(), Some(GoneReason::LeftSelector)),
        (None, _) => ChangeKind::Remove(change.key().clone(), change.reason.map(GoneReason::from)),
    };
    WatchChange {
        revision: change.revision,
        kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Revision,
        registry::RemoveReason,
        watch::sample::{self, all, in_zone, put, removed, replaced},
    };

    fn kinds(changes: &[WatchChange]) -> Vec<String> {
        changes
            .iter()
            .map(|change| match &change.kind {
                ChangeKind::Put(instance) => format!("{} put {}", change.revision, instance.key().id),
                ChangeKind::Remove(key, reason) => format!("{} remove {} {reason:?}", change.revision, key.id),
            })
            .collect()
    }

    fn coalesced(filter: &Filter, changes: Vec<Change>) -> Vec<String> {
        let records: Vec<_> = changes.into_iter().map(sample::record).collect();
        kinds(&filter.coalesce(records.iter()))
    }

    #[test]
    fn an_instance_enters_changes_within_and_leaves_the_selector() {
        let filter = Filter::new(in_zone("z1"));
        let changes = [
            put(1, "web", "a", "z2"),
            replaced(2, "web", "a", "z2", "z1"),
            replaced(3, "web", "a", "z1", "z1"),
            replaced(4, "web", "a", "z1", "z2"),
            removed(5, "web", "a", "z2", RemoveReason::Expired),
        ];
        assert_eq!(
            kinds(&filter.each(&changes)),
            ["2 put a", "3 put a", "4 remove a Some(LeftSelector)"]
        );
    }

    #[test]
    fn a_removal_names_its_reason() {
        let filter = Filter::new(all());
        for (reason, seen) in [
            (RemoveReason::Deregistered, "Deregistered"),
            (RemoveReason::Expired, "Expired"),
            (RemoveReason::Revoked, "Revoked"),
        ] {
            let changes = [removed(5, "web", "a", "z", reason)];
            assert_eq!(kinds(&filter.each(&changes)), [format!("5 remove a Some({seen})")]);
        }
    }

    #[test]
    fn coalescing_keeps_the_latest_of_each_instance() {
        let filter = Filter::new(all());
        let changes = vec![
            put(1, "web", "b", "z"),
            put(2, "web", "a", "z"),
            replaced(3, "web", "b", "z", "y"),
            put(4, "web", "c", "z"),
        ];
        assert_eq!(coalesced(&filter, changes), ["2 put a", "3 put b", "4 put c"]);
    }

    #[test]
    fn what_came_and_went_between_is_no_change() {
        let filter = Filter::new(all());
        let changes = vec![
            put(1, "web", "a", "z"),
            removed(2, "web", "a", "z", RemoveReason::Expired),
        ];
        assert!(coalesced(&filter, changes).is_empty());
    }

    #[test]
    fn what_was_and_is_outside_the_selector_is_no_change_whatever_it_was_between() {
        let filter = Filter::new(in_zone("z1"));
        let changes = vec![replaced(1, "web", "a", "z2", "z1"), replaced(2, "web", "a", "z1", "z3")];
        assert!(coalesced(&filter, changes).is_empty());
    }

    #[test]
    fn a_coalesced_removal_has_no_reason_and_a_single_one_keeps_it() {
        let filter = Filter::new(all());
        let changes = vec![
            replaced(1, "web", "a", "z", "y"),
            removed(2, "web", "a", "y", RemoveReason::Expired),
            removed(3, "web", "b", "y", RemoveReason::Revoked),
        ];
        assert_eq!(
            coalesced(&filter, changes),
            ["2 remove a None", "3 remove b Some(Revoked)"]
        );
    }

    #[test]
    fn what_went_and_came_again_is_a_put() {
        let filter = Filter::new(all());
        let changes = vec![
            removed(1, "web", "a", "z", RemoveReason::Expired),
            put(2, "web", "a", "y"),
        ];
        assert_eq!(coalesced(&filter, changes), ["2 put a"]);
    }

    #[test]
    fn other_services_are_not_covered() {
        let filter = Filter::new(sample::services(&["web"]));
        let changes = [put(1, "api", "a", "z"), put(2, "web", "a", "z")];
        let seen = filter.each(&changes);
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].revision, Revision(2));
    }
}
