//! What Roster does for a call between its sockets and its disk, in instructions, which are the same on a busy machine.
//!
//! Each path begins and ends with bytes, as on the wire. Not counted: gRPC, Raft, the disk and the kernel, which
//! `scripts/bench-etcd` measures with everything else.

use std::{hint::black_box, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use gungraun::{library_benchmark, library_benchmark_group, main};
use prost::Message as _;
use roster::{
    cli::bench::sample,
    model::{LeaseId, LeaseTime, LogIndex, NodeId, Selector, Term},
    registry::{Applied, Command, Entry, Registry},
    watch::{Hub, HubLimits, Start, Watch},
    wire::{
        deltas,
        instance::encoded,
        log::{LogPayload, LogRecord, decode_record, encode_record},
        raw, request,
        span::span_to_proto,
        v1::{self, register_request::Hold},
    },
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Instances of each service.
const PER_SERVICE: usize = 100;
/// Watchers of one service.
const WATCHERS: usize = 1_000;
/// Renewals in one message.
const RENEWALS: usize = 100;

fn instance(number: usize) -> v1::Instance {
    sample(v1::InstanceKey {
        namespace: String::new(),
        service: format!("service-{}", number / PER_SERVICE),
        id: format!("instance-{number}"),
    })
}

/// As a client sends it: with a lease of its own.
fn register_bytes(number: usize) -> Vec<u8> {
    v1::RegisterRequest {
        instance: Some(instance(number)),
        hold: Some(Hold::OwnLease(v1::OwnLease {
            ttl: Some(span_to_proto(Duration::from_secs(60))),
        })),
        ..Default::default()
    }
    .encode_to_vec()
}

fn command(bytes: &[u8]) -> Command {
    let request = v1::RegisterRequest::decode(bytes).expect("it was encoded");
    let register = request::register(request, || unreachable!("it has an id"));
    Command::Register(register.expect("it is well-formed"))
}

fn entry(renewals: Vec<LeaseId>, commands: Vec<Command>) -> Entry {
    Entry {
        stamp: LeaseTime::default(),
        wall_ms: 1_700_000_000_000,
        renewals,
        commands,
    }
}

/// A registry with so many instances, each with a lease of its own.
fn filled(instances: usize) -> Registry {
    let mut registry = Registry::new();
    let numbers: Vec<usize> = (0..instances).collect();
    for chunk in numbers.chunks(1_000) {
        let commands = chunk.iter().map(|&number| command(&register_bytes(number))).collect();
        registry.apply(&entry(Vec::new(), commands));
    }
    registry
}

/// An entry's way through the log: encoded by the leader, decoded by a follower, applied.
fn through_the_log(registry: &mut Registry, entry: Entry) -> Applied {
    let record = LogRecord {
        term: Term(1),
        leader_id: NodeId(1),
        index: LogIndex(1),
        payload: LogPayload::Entry(entry),
    };
    let bytes = encode_record(&record);
    match decode_record(&bytes).map(|record| record.payload) {
        Ok(LogPayload::Entry(entry)) => registry.apply(&entry),
        other => unreachable!("an entry was encoded: {other:?}"),
    }
}

fn to_register(instances: usize) -> (Registry, Vec<u8>) {
    (filled(instances), register_bytes(instances))
}

// One Register: its request decoded, its entry encoded, decoded and applied, its record encoded for readers.
#[library_benchmark]
#[bench::at_10_thousand(args = (10_000), setup = to_register)]
#[bench::at_100_thousand(args = (100_000), setup = to_register)]
fn register((mut registry, request): (Registry, Vec<u8>)) -> (Registry, Bytes) {
    let applied = through_the_log(&mut registry, entry(Vec::new(), vec![command(&request)]));
    let after = applied.changes.iter().find_map(|change| change.after.as_ref());
    let bytes = encoded(after.expect("it was registered"));
    (registry, black_box(bytes))
}

fn to_renew(instances: usize) -> (Registry, Vec<LeaseId>) {
    let registry = filled(instances);
    let every = instances / RENEWALS;
    let all = registry.state().leases(None).map(|lease| lease.lease_id);
    let ids: Vec<LeaseId> = all.step_by(every).take(RENEWALS).collect();
    assert_eq!(ids.len(), RENEWALS);
    (registry, ids)
}

// 100 renewals in one entry, from the deltas of a forwarded message on.
#[library_benchmark]
#[bench::at_10_thousand(args = (10_000), setup = to_renew)]
#[bench::at_100_thousand(args = (100_000), setup = to_renew)]
fn renew_100((mut registry, ids): (Registry, Vec<LeaseId>)) -> (Registry, Applied) {
    let sent = deltas::ids_to_deltas(&ids);
    let ids = deltas::ids_from_deltas(&sent).expect("they ascend");
    let applied = through_the_log(&mut registry, entry(ids, Vec::new()));
    (registry, black_box(applied))
}

fn selector(scope: v1::selector::Scope) -> Selector {
    let request = v1::ListRequest {
        selector: Some(v1::Selector {
            scope: Some(scope),
            ..Default::default()
        }),
        ..Default::default()
    };
    request::list(request).expect("it is well-formed").selector
}

fn service(number: usize) -> Selector {
    selector(v1::selector::Scope::Services(v1::Services {
        names: vec![format!("service-{number}")],
    }))
}

fn to_list(instances: usize) -> (Registry, Selector) {
    let registry = filled(instances);
    // As at apply: readers share the bytes.
    for record in registry
        .state()
        .select(&selector(v1::selector::Scope::AllServices(true)), None)
    {
        let _bytes = encoded(record);
    }
    (registry, service(7))
}

// A list of 100: selected and encoded.
#[library_benchmark]
#[bench::at_10_thousand(args = (10_000), setup = to_list)]
#[bench::at_100_thousand(args = (100_000), setup = to_list)]
fn list_100((registry, selector): (Registry, Selector)) -> (Registry, Vec<u8>) {
    let answer = raw::ListResponse {
        instances: registry
            .state()
            .select(&selector, None)
            .map(|record| encoded(record))
            .collect(),
        ..Default::default()
    };
    assert_eq!(answer.instances.len(), PER_SERVICE);
    (registry, black_box(answer.encode_to_vec()))
}

struct Watched {
    registry: Registry,
    hub: Arc<Hub>,
    watches: Vec<Watch>,
    applied: Applied,
}

fn to_deliver(watchers: usize) -> Watched {
    let mut registry = filled(10_000);
    let hub = Hub::new(HubLimits::default());
    hub.replace(registry.state().clone(), LogIndex(10));
    let mut watches: Vec<Watch> = (0..watchers)
        .map(|_| hub.watch(service(7), Start::Now).expect("there is room"))
        .collect();
    for watch in &mut watches {
        assert!(watch.next().now_or_never().is_none(), "nothing has happened yet");
    }
    let mut changed = instance(7 * PER_SERVICE);
    changed.version = "1.2.4".into();
    let request = v1::RegisterRequest {
        instance: Some(changed),
        ..Default::default()
    };
    let applied = registry.apply(&entry(Vec::new(), vec![command(&request.encode_to_vec())]));
    assert_eq!(applied.changes.len(), 1);
    Watched {
        registry,
        hub,
        watches,
        applied,
    }
}

// One change published, and taken by each of 1,000 watchers.
#[library_benchmark]
#[bench::of_one_service(args = (WATCHERS), setup = to_deliver)]
fn deliver_to_1000(mut watched: Watched) -> Watched {
    let changes = std::mem::take(&mut watched.applied.changes);
    watched
        .hub
        .publish(watched.registry.state().clone(), LogIndex(11), changes);
    for watch in &mut watched.watches {
        let delivery = watch.next().now_or_never();
        assert!(black_box(delivery).is_some());
    }
    watched
}

library_benchmark_group!(
    name = hot_paths,
    benchmarks = [register, renew_100, list_100, deliver_to_1000]
);
main!(library_benchmark_groups = hot_paths);
