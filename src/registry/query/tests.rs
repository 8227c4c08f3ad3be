//! Selecting, paging, counting, and the difference of two versions.

use std::collections::BTreeSet;

use super::*;
use crate::{
    model::{Hold, Match, MatchField, MatchOp, Status},
    registry::fixture::{Desk, deregister, key, own, shared, spec},
};

const NAMES: [&str; 9] = [
    "a/api/1",
    "a/api-v2/1",
    "a/api.v3/1",
    "a/apis/1",
    "a/web/1",
    "a/web/2",
    "b/api/1",
    "b/web/1",
    "c/web/3",
];

fn filled() -> Desk {
    let mut desk = Desk::default();
    for name in NAMES {
        desk.register(spec(name), Hold::Permanent).unwrap();
    }
    desk
}

fn selector(namespace: Option<&str>, scope: Scope) -> Selector {
    Selector {
        namespace: namespace.map(|namespace| Namespace::parse(namespace).unwrap()),
        scope,
        serving: false,
        matches: Vec::new(),
    }
}

fn services(names: &[&str]) -> Scope {
    Scope::Services(names.iter().map(|name| ServiceName::parse(name).unwrap()).collect())
}

fn prefix(text: &str) -> Scope {
    Scope::Prefix(text.into())
}

fn found(desk: &Desk, selector: &Selector, after: Option<&str>) -> Vec<String> {
    let after = after.map(key);
    let found = desk.registry.state().select(selector, after.as_ref());
    found.map(|instance| instance.key().to_string()).collect()
}

#[test]
fn a_selector_finds_what_it_covers_in_key_order() {
    let desk = filled();
    let of = |namespace, scope| found(&desk, &selector(namespace, scope), None);
    assert_eq!(
        of(Some("a"), services(&["web", "api", "no"])),
        ["a/api/1", "a/web/1", "a/web/2"]
    );
    assert_eq!(of(Some("a"), prefix("api-")), ["a/api-v2/1"]);
    assert_eq!(of(Some("a"), prefix("api")).len(), 4);
    assert_eq!(of(Some("b"), Scope::All), ["b/api/1", "b/web/1"]);
    assert_eq!(of(Some("d"), Scope::All), [""; 0]);
    assert_eq!(of(None, Scope::All), {
        let mut all = NAMES.map(key);
        all.sort();
        all.map(|key| key.to_string())
    });
    assert_eq!(
        of(None, services(&["web"])),
        ["a/web/1", "a/web/2", "b/web/1", "c/web/3"]
    );
    assert_eq!(of(None, prefix("ap")).len(), 5);
}

#[test]
fn a_page_goes_on_after_any_key_there_or_not() {
    let desk = filled();
    let selectors = [
        selector(Some("a"), Scope::All),
        selector(Some("a"), services(&["api", "web"])),
        selector(None, prefix("ap")),
        selector(None, Scope::All),
        selector(None, services(&["web", "api.v3"])),
    ];
    let edges = NAMES
        .into_iter()
        .chain(["a/0/0", "a/web/15", "b/b/b", "zz/z/z", "A/A/A"]);
    for after in edges {
        for selector in &selectors {
            let all = found(&desk, selector, None);
            let rest: Vec<String> = all.into_iter().filter(|found| key(found) > key(after)).collect();
            assert_eq!(found(&desk, selector, Some(after)), rest, "{selector:?} after {after}");
        }
    }
}

#[test]
fn serving_and_matches_leave_out_the_rest() {
    let mut desk = filled();
    let mut down = spec("a/web/1");
    down.status = Status::Down;
    desk.register(down, Hold::Permanent).unwrap();
    let mut tagged = spec("a/web/2");
    tagged.tags.insert("blue");
    desk.register(tagged, Hold::Permanent).unwrap();
    let mut web = selector(Some("a"), services(&["web"]));
    web.serving = true;
    assert_eq!(found(&desk, &web, None), ["a/web/2"]);
    web.serving = false;
    web.matches = vec![Match {
        field: MatchField::Tag,
        op: MatchOp::NotIn(BTreeSet::from(["blue".into()])),
    }];
    assert_eq!(found(&desk, &web, None), ["a/web/1"]);
}

#[test]
fn services_and_namespaces_are_counted_and_paged() {
    let mut desk = filled();
    let mut draining = spec("a/web/1");
    draining.status = Status::Draining;
    desk.register(draining, Hold::Permanent).unwrap();
    let state = desk.registry.state();
    let a = Namespace::parse("a").unwrap();
    let of_a: Vec<_> = state.services(Some(&a), None).collect();
    let names: Vec<&str> = of_a.iter().map(|summary| summary.service.as_str()).collect();
    assert_eq!(names, ["api", "api-v2", "api.v3", "apis", "web"]);
    let web = &of_a[4];
    assert_eq!((web.up, web.draining, web.mod_revision), (1, 1, Revision(10)));
    let after = (a.clone(), ServiceName::parse("apis").unwrap());
    assert_eq!(state.services(Some(&a), Some(&after)).count(), 1);
    assert_eq!(state.services(None, Some(&after)).count(), 4);
    assert_eq!(state.services(None, None).count(), 8);
    let c = Namespace::parse("c").unwrap();
    assert_eq!(
        state.services(Some(&c), Some(&after)).count(),
        1,
        "a page token of elsewhere"
    );
    let namespaces: Vec<_> = state
        .namespaces(None)
        .map(|n| (n.namespace.to_string(), n.services, n.instances))
        .collect();
    assert_eq!(namespaces, [("a".into(), 5, 6), ("b".into(), 2, 2), ("c".into(), 1, 1)]);
    assert_eq!(state.namespaces(Some(&a)).count(), 2);
}

#[test]
fn the_last_change_of_a_service_is_found_after_the_newest_instance_left() {
    let mut desk = filled();
    let newest = |desk: &Desk| {
        let a = Namespace::parse("a").unwrap();
        let web = desk.registry.state().services(Some(&a), None).last().unwrap();
        (web.service.to_string(), web.mod_revision.0)
    };
    assert_eq!(newest(&desk), ("web".into(), 6));
    desk.run(crate::registry::Command::Deregister(deregister("a/web/2", 0)))
        .unwrap();
    assert_eq!(newest(&desk), ("web".into(), 5));
    desk.register(spec("a/web/4"), Hold::Permanent).unwrap();
    assert_eq!(newest(&desk), ("web".into(), 11));
}

#[test]
fn leases_are_listed_by_id_with_what_they_hold() {
    let mut desk = Desk::default();
    let lease = desk.grant(9);
    desk.register(spec("api/b"), shared(lease)).unwrap();
    desk.register(spec("api/a"), shared(lease)).unwrap();
    desk.register(spec("api/c"), own(3)).unwrap();
    desk.pass(1_000);
    let state = desk.registry.state();
    let leases: Vec<_> = state
        .leases(None)
        .map(|lease| (lease.lease_id.0, lease.own, lease.instances, lease.remaining.as_secs()))
        .collect();
    assert_eq!(leases, [(1, false, 2, 8), (2, true, 1, 2)]);
    assert_eq!(state.leases(Some(lease)).count(), 1);
    let held = |id, after: Option<&str>| {
        let after = after.map(key);
        let held = state.lease_instances(LeaseId(id), after.as_ref());
        held.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(held(1, None), ["default/api/a", "default/api/b"]);
    assert_eq!(held(1, Some("api/a")), ["default/api/b"]);
    assert_eq!(held(2, None), ["default/api/c"]);
    assert_eq!(held(2, Some("api/c")), [""; 0]);
    assert_eq!(held(3, None), [""; 0]);
}

#[test]
fn the_difference_of_two_versions_names_each_key_once() {
    let mut desk = filled();
    let older = desk.registry.state().clone();
    let mut changed = spec("a/api/1");
    changed.weight = 3;
    desk.register(changed, Hold::Permanent).unwrap();
    desk.register(spec("d/new/1"), own(1)).unwrap();
    desk.register(spec("d/brief/1"), own(1)).unwrap();
    desk.run(crate::registry::Command::Deregister(deregister("c/web/3", 0)))
        .unwrap();
    desk.run(crate::registry::Command::Deregister(deregister("d/brief/1", 0)))
        .unwrap();
    let state = desk.registry.state();
    let changes = state.changes_since(&older);
    let found: Vec<_> = changes
        .iter()
        .map(|change| {
            (
                change.key().to_string(),
                change.before.is_some(),
                change.after.is_some(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("a/api/1".into(), true, true),
            ("c/web/3".into(), true, false),
            ("d/new/1".into(), false, true)
        ]
    );
    assert!(
        changes
            .iter()
            .all(|c| c.revision == state.revision() && c.reason.is_none())
    );
    assert!(state.changes_since(state).is_empty());
}
