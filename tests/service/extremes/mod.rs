//! Every message of the API with every field at its limits and beyond, against three real nodes. A request that is
//! refused has changed nothing, its refusal says why and names the field; no request breaks a connection or a node.

mod peer;
mod raw;
mod variants;

use std::{collections::BTreeMap, time::Duration};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use roster::wire::{
    DESCRIPTOR_SET, ErrorDetail, Reason, WriteOutcome,
    v1::{
        self, GetStateHashRequest, cluster_client::ClusterClient, leases_client::LeasesClient,
        registry_client::RegistryClient,
    },
};
use tokio::time::Instant;
use tonic::{Code, Status, metadata::MetadataMap, transport::Channel};

use self::variants::{Variant, variants};
use crate::{
    harness::{Cluster, Node, PATIENCE, list_all},
    support::{key, of, put, record, span},
};

/// A lease that is there throughout.
const LEASE: i64 = (1 << 62) + 7;

/// Stands in good requests for the id of the instance that is there, and is as long.
const SOME_ID: &str = "id-SOMEID";

/// The message with that id.
fn naming(mut message: Vec<u8>, id: &str) -> Vec<u8> {
    while let Some(at) = message
        .windows(SOME_ID.len())
        .position(|part| part == SOME_ID.as_bytes())
    {
        message[at..at + SOME_ID.len()].copy_from_slice(id.as_bytes());
    }
    message
}

/// What stands in the registry before each request.
struct World {
    channel: Channel,
    registry: RegistryClient<Channel>,
    leases: LeasesClient<Channel>,
    revision: i64,
    /// Which instance is there: another one each time, for a Deregister may leave a fence.
    id: u32,
}

impl World {
    async fn at(node: &Node) -> Self {
        let channel = Channel::from_shared(node.url()).expect("a URL").connect().await;
        let channel = channel.expect("the node takes connections");
        let mut world = Self {
            registry: RegistryClient::new(channel.clone()),
            leases: LeasesClient::new(channel.clone()),
            channel,
            revision: 0,
            id: 0,
        };
        world.tidy().await;
        world
    }

    /// Removes what a request put there, and puts back what it removed: one instance and one lease, for good.
    async fn tidy(&mut self) {
        for instance in self.everything().await {
            let key = instance.key.expect("a record has a key");
            let request = v1::DeregisterRequest {
                key: Some(key),
                ..v1::DeregisterRequest::default()
            };
            self.registry.deregister(request).await.expect("a deregistration");
        }
        let leases = self.leases.list_leases(v1::ListLeasesRequest::default()).await;
        for lease in leases.expect("a list").into_inner().leases {
            let request = v1::RevokeLeaseRequest {
                lease_id: lease.lease_id,
            };
            self.leases.revoke_lease(request).await.expect("a revocation");
        }
        let grant = v1::GrantLeaseRequest {
            lease_id: LEASE,
            ttl: Some(span(Duration::from_secs(86_400))),
        };
        self.leases.grant_lease(grant).await.expect("a grant");
        self.id += 1;
        let there = record("there", &self.present_id(), 10);
        put(&mut self.registry, there).await;
        self.revision = self.present().await;
    }

    fn present_id(&self) -> String {
        format!("id-{:06}", self.id)
    }

    async fn everything(&mut self) -> Vec<v1::Instance> {
        let list = self.registry.list(list_all()).await.expect("a list").into_inner();
        assert_eq!(list.next_page_token, "", "a request put more than a page");
        list.instances
    }

    /// The registry's revision, linearizable.
    async fn present(&mut self) -> i64 {
        let request = v1::ListNamespacesRequest {
            page_size: 1,
            ..v1::ListNamespacesRequest::default()
        };
        let answer = self
            .registry
            .list_namespaces(request)
            .await
            .expect("a list")
            .into_inner();
        answer.header.expect("a header").revision
    }
}

/// A message as the descriptor sees it.
fn dynamic(descriptor: &MessageDescriptor, message: &impl Message) -> DynamicMessage {
    DynamicMessage::decode(descriptor.clone(), message.encode_to_vec().as_slice()).expect("the same message")
}

/// A good request for a method: what goes together is set, so that the neighbours of a bad field are good.
fn good(method: &MethodDescriptor) -> DynamicMessage {
    let input = method.input();
    match method.name() {
        "Get" => dynamic(
            &input,
            &v1::GetRequest {
                key: Some(key("there", SOME_ID)),
                read: good_read(),
            },
        ),
        "List" => dynamic(
            &input,
            &v1::ListRequest {
                selector: Some(of("there")),
                read: good_read(),
                ..v1::ListRequest::default()
            },
        ),
        "GetLease" => dynamic(
            &input,
            &v1::GetLeaseRequest {
                lease_id: LEASE,
                read: good_read(),
                ..v1::GetLeaseRequest::default()
            },
        ),
        "Watch" => dynamic(&input, &good_watch()),
        "WatchMany" => {
            let create = v1::CreateWatch {
                watch_id: 3,
                watch: Some(good_watch()),
            };
            let request = Some(v1::watch_many_request::Request::Create(create));
            dynamic(&input, &v1::WatchManyRequest { request })
        }
        "Renew" | "KeepAlive" => dynamic(
            &input,
            &v1::RenewRequest {
                seq: 3,
                lease_ids: vec![LEASE, 5],
            },
        ),
        "ListServices" | "ListNamespaces" | "ListLeases" | "GetNodeStatus" | "ListMembers" | "GetStateHash" => {
            DynamicMessage::new(input)
        }
        _ => good_write(method),
    }
}

fn good_read() -> Option<v1::ReadOptions> {
    Some(v1::ReadOptions {
        consistency: v1::read_options::Consistency::Stale.into(),
        max_age: Some(span(Duration::from_secs(5))),
        min_revision: 1,
    })
}

fn good_watch() -> v1::WatchRequest {
    v1::WatchRequest {
        selector: Some(of("there")),
        start: Some(v1::watch_request::Start::Snapshot(true)),
        progress_interval: Some(span(Duration::from_secs(1))),
        max_age: Some(span(Duration::from_secs(5))),
    }
}

fn good_write(method: &MethodDescriptor) -> DynamicMessage {
    let input = method.input();
    let instance = || {
        let mut instance = record("web", SOME_ID, 10);
        instance.ports = vec![v1::Port {
            name: "http".into(),
            number: 80,
            ..v1::Port::default()
        }];
        instance
    };
    match method.name() {
        "Register" => dynamic(
            &input,
            &v1::RegisterRequest {
                instance: Some(instance()),
                hold: Some(v1::register_request::Hold::LeaseId(LEASE)),
                expected_mod_revision: None,
            },
        ),
        "BatchRegister" => dynamic(
            &input,
            &v1::BatchRegisterRequest {
                instances: vec![instance()],
                hold: Some(v1::batch_register_request::Hold::LeaseId(LEASE)),
            },
        ),
        "Update" => dynamic(
            &input,
            &v1::UpdateRequest {
                key: Some(key("there", SOME_ID)),
                weight: Some(7),
                ..v1::UpdateRequest::default()
            },
        ),
        "Deregister" => dynamic(
            &input,
            &v1::DeregisterRequest {
                key: Some(key("there", SOME_ID)),
                ..v1::DeregisterRequest::default()
            },
        ),
        "GrantLease" => dynamic(
            &input,
            &v1::GrantLeaseRequest {
                lease_id: LEASE + 1,
                ttl: Some(span(Duration::from_secs(3_600))),
            },
        ),
        "RevokeLease" => dynamic(&input, &v1::RevokeLeaseRequest { lease_id: LEASE }),
        other => panic!("{other} is a new method: say here what a good request of it is"),
    }
}

/// Changes what a refusal may name though another field was changed: what is said of one depends on the other.
const TOGETHER: &[(&str, &str)] = &[
    ("namespace", "all_namespaces"),
    ("all_namespaces", "namespace"),
    ("permanent", "hold"),
    ("lease_id", "hold"),
    ("create", "request"),
    ("cancel", "request"),
];

/// Whether a refusal that names this field speaks of that change: of the field, of what it holds or is in, or of one
/// that stands beside it in the same message.
fn speaks_of(named: &str, changed: &str) -> bool {
    let beside = changed.rsplit_once('.').map_or("", |(parent, _)| parent);
    let top = |path: &str| path.split(['.', '[']).next().unwrap_or_default().to_owned();
    named == changed
        || changed.starts_with(named)
        || (!beside.is_empty() && named.starts_with(beside))
        || (beside.is_empty() && top(named) == top(changed))
        || TOGETHER.contains(&(changed, named))
}

/// What a refused request of the API looks like.
fn check_refusal(method: &str, variant: &Variant, status: &Status) {
    let about = format!("{method}, {} {}: {status:?}", variant.path, variant.what);
    let detail = ErrorDetail::from_status(status).unwrap_or_else(|| panic!("no details: {about}"));
    assert_eq!(status.code(), detail.reason.code(), "{about}");
    if !variant.readable {
        assert_eq!(detail.reason, Reason::InvalidField, "{about}");
        return;
    }
    assert_ne!(detail.reason, Reason::OutcomeUnknown, "{about}");
    if detail.reason == Reason::InvalidField {
        assert_eq!(status.code(), Code::InvalidArgument, "{about}");
        assert!(!variant.path.is_empty(), "unknown fields are no mistake: {about}");
        let named: Vec<&str> = detail.violations.iter().map(|(path, _)| path.as_str()).collect();
        assert!(
            named.iter().any(|named| speaks_of(named, &variant.path)),
            "{about}\nnames {named:?}"
        );
    }
}

fn is_write(method: &str) -> bool {
    [
        "Register",
        "BatchRegister",
        "Update",
        "Deregister",
        "GrantLease",
        "RevokeLease",
    ]
    .contains(&method)
}

/// One of them was refused, one taken: else they are no test of limits.
#[derive(Debug, Default)]
struct Count {
    taken: usize,
    refused: usize,
    reasons: BTreeMap<String, usize>,
}

async fn try_all(world: &mut World, method: &MethodDescriptor) -> Count {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let writes = is_write(method.name());
    let mut count = Count::default();
    for variant in variants(&good(method)) {
        let message = naming(variant.bytes.clone(), &world.present_id());
        let ask = async |willing| {
            raw::call(
                &world.channel,
                &path,
                vec![message.clone()],
                MetadataMap::new(),
                willing,
            )
            .await
        };
        let mut answer = ask(if writes { raw::WILLING } else { raw::HARDLY_WILLING }).await;
        // A read may be asked again, if this machine was only busy.
        if !writes && answer.as_ref().is_err_and(|status| status.details().is_empty()) {
            answer = ask(raw::WILLING).await;
        }
        match answer {
            Ok(_) => {
                assert!(variant.readable, "{path} took {} {}", variant.path, variant.what);
                count.taken += 1;
                if writes {
                    world.tidy().await;
                }
            }
            Err(status) => {
                check_refusal(method.name(), &variant, &status);
                count.refused += 1;
                let reason = ErrorDetail::from_status(&status).map(|detail| detail.reason.name().to_owned());
                *count.reasons.entry(reason.unwrap_or_default()).or_default() += 1;
                if writes {
                    let told = ErrorDetail::from_status(&status).and_then(|detail| detail.outcome);
                    assert_eq!(
                        told,
                        Some(WriteOutcome::NotApplied),
                        "{path} {} {}",
                        variant.path,
                        variant.what
                    );
                    let present = world.present().await;
                    assert_eq!(
                        present, world.revision,
                        "{path} {} {} changed something",
                        variant.path, variant.what
                    );
                }
            }
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_the_api_at_its_limits_and_beyond() {
    let cluster = Cluster::start(3).await;
    // One that is no leader, so that writes take the way between the nodes, too.
    let follower = (cluster.leader().await + 1) % 3;
    let mut world = World::at(&cluster.nodes[follower]).await;
    let pool = DescriptorPool::decode(DESCRIPTOR_SET).expect("the build's descriptor set");
    let mut counts = BTreeMap::new();
    for service in pool.services().filter(|service| service.package_name() == "roster.v1") {
        for method in service.methods() {
            let count = try_all(&mut world, &method).await;
            counts.insert(method.name().to_owned(), count);
        }
    }
    println!("{counts:?}");
    assert_eq!(counts.len(), 19, "methods");
    assert!(
        counts.values().all(|count| count.taken > 0 && count.refused > 0),
        "{counts:?}"
    );
    // A request that meets what an earlier one left behind tests nothing of its own.
    let met = |count: &Count| count.reasons.get("FENCED").copied().unwrap_or_default();
    assert!(counts.values().map(met).sum::<usize>() < 5, "{counts:?}");
    agree(&cluster).await;
}

/// The nodes live, and agree on their state.
async fn agree(cluster: &Cluster) {
    let mut clients = Vec::new();
    for node in &cluster.nodes {
        clients.push(ClusterClient::connect(node.url()).await.expect("the node lives"));
    }
    let mut leases = cluster.nodes[0].leases().await;
    let until = Instant::now() + PATIENCE;
    let seen = loop {
        let now = clients[0]
            .get_state_hash(GetStateHashRequest { at_index: 0 })
            .await
            .expect("a hash");
        let at_index = now.into_inner().applied_index + 20;
        let asked = clients.iter().cloned().map(|mut client| {
            tokio::spawn(async move { client.get_state_hash(GetStateHashRequest { at_index }).await })
        });
        let mut asked = futures_util::future::join_all(asked);
        // Lease time moves on by itself only while it has something to do.
        let answers = loop {
            tokio::select! {
                answers = &mut asked => break answers,
                granted = leases.grant_lease(v1::GrantLeaseRequest {
                    lease_id: 0,
                    ttl: Some(span(Duration::from_secs(1))),
                }) => drop(granted.expect("a grant")),
            }
        };
        let hashes: Result<Vec<_>, Status> = answers
            .into_iter()
            .map(|answer| answer.expect("no panic").map(|hash| hash.into_inner().hash))
            .collect();
        match hashes {
            Ok(hashes) => break hashes,
            // A node had passed the index before it was asked.
            Err(status) => assert!(Instant::now() < until, "{status:?}"),
        }
    };
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    assert!(!cluster.logs().contains("panicked at"), "{}", cluster.logs());
}
