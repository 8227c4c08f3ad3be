//! Whatever commands come in whatever order: the state machine keeps its invariants, agrees with a plain model of
//! itself, and is the same on every replica.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod registry_support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;
use registry_support::{
    entries::{any_entries, registry, tight},
    naive::Naive,
};
use roster::{
    model::{Incarnation, Instance, InstanceKey, LeaseId, Revision},
    registry::{
        Applied, Change, Command, Corrupt, Entry, Outcome, Registry, Rejection, RemoveReason, Renewal, Settings,
        SnapshotItem, State,
    },
};

type View = BTreeMap<InstanceKey, Arc<Instance>>;

fn view(state: &State) -> View {
    let all = roster::model::Selector {
        namespace: None,
        scope: roster::model::Scope::All,
        serving: false,
        matches: Vec::new(),
    };
    let found = state.select(&all, None);
    found.map(|record| (record.key().clone(), Arc::clone(record))).collect()
}

fn replay(view: &mut View, changes: &[Change]) {
    for change in changes {
        assert_eq!(
            view.get(change.key()),
            change.before.as_ref(),
            "before is what stood there"
        );
        match &change.after {
            Some(after) => view.insert(change.key().clone(), Arc::clone(after)),
            None => view.remove(change.key()),
        };
    }
}

fn items(state: &State) -> Vec<SnapshotItem> {
    state.items().collect()
}

fn restored(state: &State) -> State {
    let items: Vec<Result<SnapshotItem, Corrupt>> = state.items().map(Ok).collect();
    let restored = State::from_items(items.into_iter()).expect("a state is restored from its own items");
    assert_eq!(restored.check_invariants(), Ok(()));
    restored
}

/// The texts of problems are for people; the plain model has none.
fn without_texts(mut applied: Applied) -> Applied {
    for reply in &mut applied.replies {
        if let Err(Rejection::InvalidField { problem, .. }) = &mut reply.result {
            problem.clear();
        }
    }
    applied
}

fn settings(are_tight: bool) -> Settings {
    if are_tight { tight() } else { Settings::default() }
}

/// Revisions of one entry are contiguous, its changes in order, and a refusal changes nothing.
fn check_order(before: Revision, entry: &Entry, applied: &Applied) {
    let places: Vec<_> = applied
        .changes
        .iter()
        .map(|change| (change.revision, change.key()))
        .collect();
    assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "{places:?}");
    assert!(
        places
            .iter()
            .all(|(revision, _)| before < *revision && *revision <= applied.revision)
    );
    assert!(
        applied
            .changes
            .iter()
            .all(|change| change.before.is_some() || change.after.is_some())
    );
    let changed: BTreeSet<Revision> = places.into_iter().map(|(revision, _)| revision).collect();
    assert_eq!(applied.replies.len(), entry.commands.len());
    assert_eq!(applied.renewals.len(), entry.renewals.len());
    let mut last = None;
    for reply in &applied.replies {
        let moved = last.map(|last: Revision| reply.revision.0 - last.0);
        assert!(moved.is_none_or(|moved| moved <= 1), "one command, one revision");
        if reply.result.is_err() {
            assert!(moved.is_none_or(|moved| moved == 0), "a refusal moves nothing");
        }
        if moved == Some(1) {
            let makes_no_change = matches!(
                reply.result,
                Ok(Outcome::Granted(_) | Outcome::Revoked { removed: 0, .. })
            );
            assert_eq!(changed.contains(&reply.revision), !makes_no_change);
        }
        last = Some(reply.revision);
    }
    assert_eq!(last.unwrap_or(applied.revision), applied.revision);
}

/// No life of an instance comes back after its end, writes are fenced by incarnation, and lives grow (a later life may
/// speak of an earlier one); no renewal is acknowledged after its lease's end, and a lease ends once.
#[derive(Default)]
struct Lives {
    /// The last incarnation that stood at a key.
    incarnation: BTreeMap<InstanceKey, Incarnation>,
    /// Lives that ended by a Deregister.
    over: BTreeSet<(InstanceKey, Incarnation)>,
    ended_leases: BTreeMap<LeaseId, Revision>,
}

impl Lives {
    fn check(&mut self, entry: &Entry, applied: &Applied) {
        let renewed: BTreeSet<LeaseId> = entry
            .renewals
            .iter()
            .zip(&applied.renewals)
            .filter(|(_, renewal)| matches!(renewal, Renewal::Renewed { .. }))
            .map(|(id, _)| *id)
            .collect();
        for change in &applied.changes {
            let key = change.key().clone();
            if let Some(after) = &change.after {
                let life = after.spec.incarnation;
                let last = self.incarnation.insert(key.clone(), life).unwrap_or_default();
                assert!(life >= last, "{key} went from life {last} back to {life}");
                assert!(
                    life.0 == 0 || !self.over.contains(&(key.clone(), life)),
                    "{key} came back in the life {life} that had ended"
                );
                let lease = after.lease_id().filter(|id| *id < LeaseId::FIRST_OF_CALLERS);
                assert!(lease.is_none_or(|id| !self.ended_leases.contains_key(&id)));
            }
            let (Some(before), Some(reason)) = (&change.before, change.reason) else {
                continue;
            };
            if reason == RemoveReason::Deregistered {
                self.over.insert((key, before.spec.incarnation));
                continue;
            }
            let lease = before.lease_id().expect("only a lease's end removes it so");
            if reason == RemoveReason::Expired {
                assert!(!renewed.contains(&lease), "renewed and ended in one entry");
            }
            let ended = *self.ended_leases.entry(lease).or_insert(change.revision);
            let is_callers = lease >= LeaseId::FIRST_OF_CALLERS;
            assert!(ended == change.revision || is_callers, "lease {lease} ended twice");
        }
        for (command, reply) in entry.commands.iter().zip(&applied.replies) {
            let claims = match command {
                Command::Update(update) => Some(update.incarnation),
                Command::Deregister(deregister) => Some(deregister.incarnation),
                _ => None,
            };
            let acted = matches!(
                reply.result,
                Ok(Outcome::Updated { changed: true, .. } | Outcome::Deregistered { existed: true })
            );
            let Some(claims) = claims.filter(|claims| acted && claims.0 > 0) else {
                continue;
            };
            let change = applied
                .changes
                .iter()
                .find(|change| change.revision == reply.revision)
                .unwrap();
            let stood = change.before.as_ref().unwrap().spec.incarnation;
            assert!(stood <= claims, "a zombie of life {claims} touched life {stood}");
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_commands_keep_the_invariants_and_agree_with_the_plain_model(
        entries in any_entries(40),
        is_tight in any::<bool>(),
    ) {
        let mut registry = registry(settings(is_tight));
        let mut naive = Naive::new(settings(is_tight));
        let mut watched = View::new();
        for entry in &entries {
            let before = registry.state().revision();
            let applied = registry.apply(entry);
            prop_assert_eq!(registry.state().check_invariants(), Ok(()));
            check_order(before, entry, &applied);
            replay(&mut watched, &applied.changes);
            prop_assert_eq!(&without_texts(applied), &naive.apply(entry));
            prop_assert_eq!(&watched, &view(registry.state()));
            prop_assert_eq!(watched.values().cloned().collect::<Vec<_>>(), naive.records());
        }
    }

    #[test]
    fn replicas_are_equal_also_one_that_began_from_a_snapshot_in_the_middle(
        entries in any_entries(30),
        is_tight in any::<bool>(),
        at in any::<prop::sample::Index>(),
    ) {
        let mut first = registry(settings(is_tight));
        let mut second = registry(settings(is_tight));
        let at = at.index(entries.len());
        for (n, entry) in entries.iter().enumerate() {
            if n == at {
                second = Registry::from_state(restored(second.state()));
            }
            prop_assert_eq!(first.apply(entry), second.apply(entry));
            prop_assert_eq!(items(first.state()), items(second.state()));
            prop_assert_eq!(first.next_deadline(), second.next_deadline());
            prop_assert!(first.state().services(None, None).eq(second.state().services(None, None)));
            prop_assert!(first.state().namespaces(None).eq(second.state().namespaces(None)));
            prop_assert!(first.state().leases(None).eq(second.state().leases(None)));
        }
    }

    #[test]
    fn a_version_that_someone_holds_never_changes(
        entries in any_entries(25),
        at in any::<prop::sample::Index>(),
    ) {
        let mut registry = registry(Settings::default());
        let at = at.index(entries.len());
        let mut held = None;
        for (n, entry) in entries.iter().enumerate() {
            registry.apply(entry);
            if n == at {
                held = Some((registry.state().clone(), items(registry.state())));
            }
        }
        let (older, its_items) = held.expect("the index lies within the entries");
        prop_assert_eq!(items(&older), its_items);
        prop_assert_eq!(older.check_invariants(), Ok(()));
        let changes = registry.state().changes_since(&older);
        let mut caught_up = view(&older);
        replay(&mut caught_up, &changes);
        prop_assert_eq!(caught_up, view(registry.state()));
        // Two versions that share nothing differ as those that do.
        let apart = restored(registry.state()).changes_since(&restored(&older));
        prop_assert_eq!(apart, changes);
    }

    #[test]
    fn lives_follow_each_other_and_a_lease_ends_once(entries in any_entries(40)) {
        // A day passes only between entries that leap, after which fences are gone and lives may begin anew.
        let mut registry = registry(Settings::default());
        let mut lives = Lives::default();
        for entry in &entries {
            let before = registry.state().clock();
            let applied = registry.apply(entry);
            if registry.state().clock().since(before).as_secs() > 60 * 60 {
                lives = Lives::default();
                let standing = view(registry.state());
                let standing = standing.into_iter().map(|(key, record)| (key, record.spec.incarnation));
                lives.incarnation = standing.collect();
                continue;
            }
            lives.check(entry, &applied);
        }
    }

    #[test]
    fn a_snapshot_with_an_item_missing_or_twice_is_refused_or_whole(
        entries in any_entries(25),
        place in any::<prop::sample::Index>(),
        twice in any::<bool>(),
    ) {
        let mut registry = registry(Settings::default());
        for entry in &entries {
            registry.apply(entry);
        }
        let mut items = items(registry.state());
        let place = place.index(items.len());
        if twice {
            items.insert(place, items[place].clone());
        } else {
            items.remove(place);
        }
        let read = State::from_items(items.into_iter().map(Ok::<_, Corrupt>));
        prop_assert!(!twice || read.is_err());
        if let Ok(state) = read {
            prop_assert_eq!(state.check_invariants(), Ok(()));
        }
    }
}
