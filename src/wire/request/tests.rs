//! Bad requests, each with the path that its answer must name.

use std::time::Duration;

use super::*;
use crate::{
    model::{Hold, InstanceId, LeaseId, Revision, Status, Ttl, limits::RECORD_MAX_BYTES},
    registry::Command,
    wire::{FieldErrors, Path, v1},
};

fn made_up() -> InstanceId {
    InstanceId::parse("made-up").unwrap()
}

fn instance() -> v1::Instance {
    v1::Instance {
        key: Some(v1::InstanceKey {
            namespace: String::new(),
            service: "web".into(),
            id: "i-1".into(),
        }),
        address: "10.0.0.7".into(),
        ports: vec![
            v1::Port {
                name: "http".into(),
                number: 8080,
                ..v1::Port::default()
            };
            3
        ],
        ..v1::Instance::default()
    }
}

fn registration(change: impl FnOnce(&mut v1::RegisterRequest)) -> v1::RegisterRequest {
    let mut request = v1::RegisterRequest {
        instance: Some(instance()),
        ..v1::RegisterRequest::default()
    };
    change(&mut request);
    request
}

fn selector() -> v1::Selector {
    v1::Selector {
        scope: Some(v1::selector::Scope::AllServices(true)),
        ..v1::Selector::default()
    }
}

fn span(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos })
}

/// The paths that an answer names.
fn paths<T: std::fmt::Debug>(answer: Result<T, FieldErrors>) -> Vec<String> {
    answer
        .unwrap_err()
        .violations()
        .iter()
        .map(|violation| violation.path.clone())
        .collect()
}

#[test]
fn a_register_with_nothing_but_a_service_and_an_address_gets_the_defaults() {
    let register = register(
        registration(|request| {
            let instance = request.instance.as_mut().unwrap();
            instance.key.as_mut().unwrap().id = String::new();
            instance.ports.clear();
            // Output fields are ignored.
            instance.lease_id = -5;
            instance.mod_revision = -1;
        }),
        made_up,
    )
    .unwrap();
    assert_eq!(register.hold, Hold::Own { ttl: Ttl::DEFAULT });
    assert_eq!(register.expected_mod_revision, None);
    let spec = register.instance;
    assert_eq!(spec.key.to_string(), "default/web/made-up");
    assert_eq!((spec.status, spec.weight, spec.incarnation.0), (Status::Up, 100, 0));
}

#[test]
fn each_bad_field_of_an_instance_is_named_by_its_path() {
    type Change = fn(&mut v1::Instance);
    let cases: &[(Change, &str)] = &[
        (|i| i.key = None, "instance.key"),
        (
            |i| i.key.as_mut().unwrap().service = String::new(),
            "instance.key.service",
        ),
        (
            |i| i.key.as_mut().unwrap().service = "x".repeat(254),
            "instance.key.service",
        ),
        (
            |i| i.key.as_mut().unwrap().service = "a b".into(),
            "instance.key.service",
        ),
        (
            |i| i.key.as_mut().unwrap().namespace = "../x".into(),
            "instance.key.namespace",
        ),
        (|i| i.key.as_mut().unwrap().id = "é".into(), "instance.key.id"),
        (|i| i.address = String::new(), "instance.address"),
        (|i| i.address = "10.0.0.256".into(), "instance.address"),
        (|i| i.address = "host:80".into(), "instance.address"),
        (|i| i.ports[2].number = 0, "instance.ports[2].number"),
        (|i| i.ports[2].number = 65_536, "instance.ports[2].number"),
        (|i| i.ports[2].number = -1, "instance.ports[2].number"),
        (|i| i.ports[1].name = "x".repeat(65), "instance.ports[1].name"),
        (|i| i.ports[1].protocol = "a\tb".into(), "instance.ports[1].protocol"),
        (|i| i.ports[0].address = "[::1]".into(), "instance.ports[0].address"),
        (|i| i.ports = vec![i.ports[0].clone(); 17], "instance.ports"),
        (|i| i.weight = Some(65_536), "instance.weight"),
        (|i| i.region = "x".repeat(254), "instance.region"),
        (|i| i.zone = "a\u{7f}".into(), "instance.zone"),
        (|i| i.version = "1\n2".into(), "instance.version"),
        (|i| i.tags = vec![String::new()], "instance.tags[0]"),
        (|i| i.tags = vec!["a".into(), "x".repeat(65)], "instance.tags[1]"),
        (|i| i.tags = (0..65).map(|n| n.to_string()).collect(), "instance.tags"),
        (
            |i| drop(i.metadata.insert(String::new(), "v".into())),
            "instance.metadata[\"\"]",
        ),
        (
            |i| drop(i.metadata.insert("k\0".into(), "v".into())),
            "instance.metadata[\"k\\0\"]",
        ),
        (
            |i| drop(i.metadata.insert("k".into(), "x".repeat(4_097))),
            "instance.metadata[\"k\"]",
        ),
        (
            |i| drop(i.metadata.insert("k".into(), "\u{1b}[31m".into())),
            "instance.metadata[\"k\"]",
        ),
        (
            |i| i.metadata = (0..65).map(|n| (n.to_string(), String::new())).collect(),
            "instance.metadata",
        ),
        (|i| i.status = 5, "instance.status"),
        (|i| i.status = -1, "instance.status"),
        (|i| i.incarnation = -1, "instance.incarnation"),
    ];
    for (change, path) in cases {
        let request = registration(|request| change(request.instance.as_mut().unwrap()));
        assert_eq!(paths(register(request, made_up)), [*path]);
    }
}

#[test]
fn each_bad_way_of_holding_is_named_by_its_path() {
    use v1::register_request::Hold as Sent;
    let own = |ttl| Some(Sent::OwnLease(v1::OwnLease { ttl }));
    for (hold, path) in [
        (own(span(0, 999_000_000)), "own_lease.ttl"),
        (own(span(86_400, 1_000_000)), "own_lease.ttl"),
        (own(span(5, 1)), "own_lease.ttl"),
        (own(span(-5, 0)), "own_lease.ttl"),
        (Some(Sent::LeaseId(0)), "lease_id"),
        (Some(Sent::LeaseId(-1)), "lease_id"),
        (Some(Sent::Permanent(false)), "permanent"),
    ] {
        assert_eq!(
            paths(register(registration(|request| request.hold = hold), made_up)),
            [path]
        );
    }
    assert_eq!(paths(register(v1::RegisterRequest::default(), made_up)), ["instance"]);
    let expected = registration(|request| request.expected_mod_revision = Some(-1));
    assert_eq!(paths(register(expected, made_up)), ["expected_mod_revision"]);
}

#[test]
fn a_record_may_be_64_kib_long_and_not_a_byte_more() {
    use prost::Message as _;
    let of_size = |size: usize| {
        let mut instance = instance();
        for n in 0..15 {
            instance.metadata.insert(format!("k{n:02}"), "x".repeat(4_096));
        }
        instance.metadata.insert("rest".into(), String::new());
        // The last value makes up what is missing; an empty one is left out, with its tag and the two bytes of its length.
        let missing = size - instance.encoded_len() - 4;
        instance.metadata.insert("rest".into(), "x".repeat(missing));
        assert_eq!(instance.encoded_len(), size);
        registration(|request| request.instance = Some(instance))
    };
    assert!(register(of_size(RECORD_MAX_BYTES), made_up).is_ok());
    assert_eq!(paths(register(of_size(RECORD_MAX_BYTES + 1), made_up)), ["instance"]);
    // A made-up id counts, and what is ignored does not.
    let mut nameless = of_size(RECORD_MAX_BYTES);
    nameless.instance.as_mut().unwrap().key.as_mut().unwrap().id = String::new();
    assert!(register(nameless.clone(), || InstanceId::parse("i-1").unwrap()).is_ok());
    assert_eq!(
        paths(register(nameless, || InstanceId::parse("i-12").unwrap())),
        ["instance"]
    );
    let mut stamped = of_size(RECORD_MAX_BYTES);
    stamped.instance.as_mut().unwrap().mod_revision = i64::MAX;
    assert!(register(stamped, made_up).is_ok());
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let request = registration(|request| {
        let instance = request.instance.as_mut().unwrap();
        instance.address = "?".into();
        instance.ports[0].number = 0;
        instance.ports[2].number = 70_000;
        instance.status = 9;
        request.hold = Some(v1::register_request::Hold::LeaseId(-3));
    });
    let expected = [
        "instance.address",
        "instance.ports[0].number",
        "instance.ports[2].number",
        "instance.status",
        "lease_id",
    ];
    assert_eq!(paths(register(request, made_up)), expected);
}

#[test]
fn a_batch_holds_1_to_1000_instances_with_different_keys() {
    let batch = |count: usize| v1::BatchRegisterRequest {
        instances: (0..count)
            .map(|n| {
                let mut instance = instance();
                instance.key.as_mut().unwrap().id = format!("i-{n}");
                instance
            })
            .collect(),
        hold: Some(v1::batch_register_request::Hold::Permanent(true)),
    };
    let read = batch_register(batch(1_000), made_up).unwrap();
    assert_eq!((read.ids.len(), read.ids[999].as_str()), (1_000, "i-999"));
    assert_eq!(paths(batch_register(batch(1_001), made_up)), ["instances"]);
    assert_eq!(paths(batch_register(batch(0), made_up)), ["instances"]);
    let mut twice = batch(3);
    twice.instances[2] = twice.instances[0].clone();
    assert_eq!(paths(batch_register(twice, made_up)), ["instances[2].key"]);
    let unheld = v1::BatchRegisterRequest { hold: None, ..batch(1) };
    assert_eq!(paths(batch_register(unheld, made_up)), ["hold"]);
    let mut bad = batch(2);
    bad.instances[1].ports[2].number = 0;
    assert_eq!(paths(batch_register(bad, made_up)), ["instances[1].ports[2].number"]);
}

#[test]
fn an_update_leaves_what_is_unset() {
    let key = instance().key;
    let read = update(v1::UpdateRequest {
        key: key.clone(),
        ..v1::UpdateRequest::default()
    })
    .unwrap();
    assert_eq!((read.status, read.weight, read.version), (None, None, None));
    let bad = v1::UpdateRequest {
        key,
        status: 77,
        weight: Some(70_000),
        version: Some("\0".into()),
        add_tags: vec![String::new()],
        remove_tags: vec!["ok".into(), "x".repeat(65)],
        set_metadata: [("k".to_owned(), "x".repeat(5_000))].into(),
        remove_metadata: vec!["x".repeat(65)],
        expected_mod_revision: Some(-4),
        incarnation: -1,
    };
    let long = format!("remove_metadata[\"{}…\"]", "x".repeat(64));
    assert_eq!(
        paths(update(bad)),
        [
            "status",
            "weight",
            "version",
            "add_tags[0]",
            "remove_tags[1]",
            "set_metadata[\"k\"]",
            &long,
            "expected_mod_revision",
            "incarnation",
        ]
    );
}

#[test]
fn a_selector_that_is_not_understood_is_refused() {
    use v1::selector::Scope;
    type Change = fn(&mut v1::Selector);
    fn one(field: &str, op: i32, values: &[&str]) -> Vec<v1::Match> {
        vec![v1::Match {
            field: field.into(),
            op,
            values: values.iter().map(|&value| value.into()).collect(),
        }]
    }
    let cases: &[(Change, &str)] = &[
        (|s| s.scope = None, "selector.scope"),
        (|s| s.scope = Some(Scope::AllServices(false)), "selector.all_services"),
        (
            |s| s.scope = Some(Scope::ServicePrefix(String::new())),
            "selector.service_prefix",
        ),
        (
            |s| s.scope = Some(Scope::ServicePrefix("a/".into())),
            "selector.service_prefix",
        ),
        (
            |s| s.scope = Some(Scope::Services(v1::Services { names: vec![] })),
            "selector.services.names",
        ),
        (
            |s| {
                s.scope = Some(Scope::Services(v1::Services {
                    names: vec!["a".into(), "?".into()],
                }));
            },
            "selector.services.names[1]",
        ),
        (
            |s| {
                s.scope = Some(Scope::Services(v1::Services {
                    names: vec!["a".into(); 1_001],
                }));
            },
            "selector.services.names",
        ),
        (
            |s| (s.namespace, s.all_namespaces) = ("a".into(), true),
            "selector.all_namespaces",
        ),
        (|s| s.namespace = "-".into(), "selector.namespace"),
        (|s| s.matches = one("colour", 1, &["red"]), "selector.matches[0].field"),
        (
            |s| s.matches = one("metadata.", 1, &["red"]),
            "selector.matches[0].field",
        ),
        (|s| s.matches = one("zone", 0, &["a"]), "selector.matches[0].op"),
        (|s| s.matches = one("zone", 4, &["a"]), "selector.matches[0].op"),
        (|s| s.matches = one("zone", 1, &[]), "selector.matches[0].values"),
        (|s| s.matches = one("zone", 2, &[]), "selector.matches[0].values"),
        (|s| s.matches = one("zone", 3, &["a"]), "selector.matches[0].values"),
        (
            |s| s.matches = one("zone", 1, &["a"; 257]),
            "selector.matches[0].values",
        ),
        (
            |s| s.matches = one("status", 1, &["UP", "sideways"]),
            "selector.matches[0].values[1]",
        ),
        (
            |s| s.matches = (0..33).flat_map(|_| one("zone", 3, &[])).collect(),
            "selector.matches",
        ),
    ];
    for (change, path) in cases {
        let mut selector = selector();
        change(&mut selector);
        let request = v1::ListRequest {
            selector: Some(selector),
            ..v1::ListRequest::default()
        };
        assert_eq!(paths(list(request)), [*path]);
    }
    assert_eq!(paths(list(v1::ListRequest::default())), ["selector"]);
}

#[test]
fn how_to_read_is_checked() {
    let read = |consistency, max_age, min_revision| {
        let read = Some(v1::ReadOptions {
            consistency,
            max_age,
            min_revision,
        });
        get(v1::GetRequest {
            key: instance().key,
            read,
        })
        .map(|get| get.read)
    };
    assert_eq!(read(0, None, 0), Ok(ReadOptions::default()));
    let stale = Consistency::Stale {
        max_age: Some(Duration::from_millis(1_500)),
    };
    let wanted = ReadOptions {
        consistency: stale,
        min_revision: Some(Revision(7)),
    };
    assert_eq!(read(2, span(1, 500_000_000), 7), Ok(wanted));
    assert_eq!(paths(read(3, None, 0)), ["read.consistency"]);
    assert_eq!(paths(read(1, span(1, 0), 0)), ["read.max_age"]);
    assert_eq!(paths(read(2, span(-1, 0), 0)), ["read.max_age"]);
    assert_eq!(paths(read(2, None, -1)), ["read.min_revision"]);
}

#[test]
fn pages_are_at_most_5000_long_and_tokens_fit_their_request_alone() {
    use crate::wire::page_token::{After, PageToken};
    let request = |page_size, page_token: &str, serving| v1::ListRequest {
        selector: Some(v1::Selector { serving, ..selector() }),
        page_size,
        page_token: page_token.into(),
        ..v1::ListRequest::default()
    };
    assert_eq!(list(request(0, "", false)).unwrap().page.size, 500);
    assert_eq!(list(request(5_000, "", false)).unwrap().page.size, 5_000);
    for size in [-1, 5_001, i32::MIN, i32::MAX] {
        assert_eq!(paths(list(request(size, "", false))), ["page_size"]);
    }
    let first = list(request(0, "", false)).unwrap();
    let key = super::writes::register(registration(|_| ()), made_up)
        .unwrap()
        .instance
        .key;
    let token = |after, request| {
        PageToken {
            cluster_id: crate::model::ClusterId::new(1).unwrap(),
            node_id: crate::model::NodeId(2),
            pin_id: 9,
            revision: Revision(4),
            request,
            after,
        }
        .encode()
    };
    let good = token(After::Instance(key.clone()), first.page.request);
    assert_eq!(list(request(7, &good, false)).unwrap().page.token.unwrap().pin_id, 9);
    assert_eq!(paths(list(request(7, &good, true))), ["page_token"], "another selector");
    let other = token(After::Held(key), first.page.request);
    assert_eq!(
        paths(list(request(7, &other, false))),
        ["page_token"],
        "another kind of list"
    );
    assert_eq!(paths(list(request(7, "garbage", false))), ["page_token"]);
}

#[test]
fn leases_have_ids_and_ttls() {
    let grant = |lease_id, ttl| grant_lease(v1::GrantLeaseRequest { lease_id, ttl });
    let ttl = Ttl::from_ms(5_000).unwrap();
    assert_eq!(grant(0, span(5, 0)), Ok(Command::GrantLease { lease_id: None, ttl }));
    let own = LeaseId::FIRST_OF_CALLERS;
    assert_eq!(
        grant(own.as_i64(), span(5, 0)),
        Ok(Command::GrantLease {
            lease_id: Some(own),
            ttl
        })
    );
    assert_eq!(paths(grant(1, None)), ["lease_id", "ttl"]);
    assert_eq!(paths(grant(own.as_i64() - 1, span(0, 0))), ["lease_id", "ttl"]);
    assert_eq!(paths(grant(-1, span(86_401, 0))), ["lease_id", "ttl"]);
    assert_eq!(
        paths(revoke_lease(&v1::RevokeLeaseRequest { lease_id: 0 })),
        ["lease_id"]
    );
    assert_eq!(
        paths(get_lease(&v1::GetLeaseRequest {
            lease_id: -1,
            ..Default::default()
        })),
        ["lease_id"]
    );
}

#[test]
fn one_bad_id_is_not_the_other_leases_trouble() {
    let read = renew(v1::RenewRequest {
        seq: -7,
        lease_ids: vec![3, -1, 0, 3],
    })
    .unwrap();
    assert_eq!(read.seq, -7);
    assert_eq!(read.lease_ids, [Some(LeaseId(3)), None, None, Some(LeaseId(3))]);
    assert_eq!(read.asked, [3, -1, 0, 3]);
    assert!(
        renew(v1::RenewRequest {
            seq: 0,
            lease_ids: vec![1; 10_000]
        })
        .is_ok()
    );
    assert_eq!(
        paths(renew(v1::RenewRequest {
            seq: 0,
            lease_ids: vec![1; 10_001]
        })),
        ["lease_ids"]
    );
}

#[test]
fn a_watch_gets_the_defaults_and_each_bad_field_is_named() {
    use v1::watch_request::Start;
    let request = || v1::WatchRequest {
        selector: Some(selector()),
        ..v1::WatchRequest::default()
    };
    let read = watch(request(), &Path::Root).unwrap();
    assert_eq!(read.start, WatchStart::Snapshot);
    assert_eq!(
        (read.progress_interval, read.max_age),
        (PROGRESS_DEFAULT, Some(MAX_AGE_DEFAULT))
    );
    let for_ever = v1::WatchRequest {
        max_age: span(0, 0),
        ..request()
    };
    assert_eq!(watch(for_ever, &Path::Root).unwrap().max_age, None);
    let position = |cluster_id: &str, revision| {
        Some(Start::After(v1::Position {
            cluster_id: cluster_id.into(),
            revision,
        }))
    };
    for (start, path) in [
        (Some(Start::Snapshot(false)), "snapshot"),
        (Some(Start::Now(false)), "now"),
        (position("", 1), "after.cluster_id"),
        (position("0000000000000000", 1), "after.cluster_id"),
        (position("00000000000000ab", -1), "after.revision"),
    ] {
        assert_eq!(
            paths(watch(v1::WatchRequest { start, ..request() }, &Path::Root)),
            [path]
        );
    }
    for (progress_interval, max_age, path) in [
        (span(0, 99_000_000), None, "progress_interval"),
        (span(3_601, 0), None, "progress_interval"),
        (span(-1, 0), None, "progress_interval"),
        (None, span(0, 999_999_999), "max_age"),
        (None, span(0, -1), "max_age"),
    ] {
        assert_eq!(
            paths(watch(
                v1::WatchRequest {
                    progress_interval,
                    max_age,
                    ..request()
                },
                &Path::Root
            )),
            [path]
        );
    }
}

#[test]
fn one_bad_watch_of_many_is_refused_by_its_number() {
    use v1::watch_many_request::Request;
    let many = |request| watch_many(v1::WatchManyRequest { request });
    assert_eq!(paths(many(None)), ["request"]);
    let create = |watch_id, watch| many(Some(Request::Create(v1::CreateWatch { watch_id, watch }))).unwrap();
    let WatchMany::Create { watch_id: 4, watch } = create(4, Some(v1::WatchRequest::default())) else {
        panic!()
    };
    assert_eq!(paths(watch), ["create.watch.selector"]);
    let WatchMany::Create { watch_id: 0, watch } = create(0, Some(v1::WatchRequest::default())) else {
        panic!()
    };
    assert_eq!(paths(watch), ["create.watch_id"]);
    let WatchMany::Create { watch_id: 5, watch } = create(5, None) else {
        panic!()
    };
    assert_eq!(paths(watch), ["create.watch"]);
}
