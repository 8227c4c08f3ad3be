//! The messages between nodes at their limits and beyond, on a real peer port. A call that is not for this node of this
//! cluster is refused whatever it holds; one that is, and makes no sense, is refused too; and neither moves a term, a
//! leader or a revision.
//!
//! Whoever may call as a node of the cluster can depose its leader with a well-formed vote of a high term: Raft trusts its
//! members. So what is sent here in another node's name has a term that is past, or no term.

use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use roster::wire::{
    internal::{self, forward_request},
    v1::{GetNodeStatusRequest, ListMembersRequest, cluster_client::ClusterClient},
};
use tonic::{Code, metadata::MetadataMap, transport::Channel};

use super::{
    agree, dynamic, raw,
    variants::{Variant, variants},
};
use crate::harness::Cluster;

const INTERNAL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/roster_internal_v1.bin"));

/// Who calls whom, as every call says.
#[derive(Clone)]
struct Names {
    cluster_id: String,
    from: String,
    to: String,
}

impl Names {
    fn metadata(&self) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("roster-cluster-id", self.cluster_id.parse().expect("ASCII"));
        metadata.insert("roster-from", self.from.parse().expect("ASCII"));
        metadata.insert("roster-to", self.to.parse().expect("ASCII"));
        metadata
    }
}

/// A good message in the name of a node that led, in term 0.
fn good(method: &MethodDescriptor, names: &Names) -> DynamicMessage {
    let input = method.input();
    let from = names.from.parse().expect("a node id");
    let vote = Some(internal::Vote {
        term: 0,
        node_id: from,
        committed: true,
    });
    let log_id = Some(internal::LogId::default());
    let forward = |request| internal::ForwardRequest {
        seq: 9,
        term: 0,
        request: Some(request),
    };
    match method.name() {
        "Hello" => dynamic(&input, &internal::HelloRequest { name: "n2".into() }),
        "Found" => dynamic(
            &input,
            &internal::FoundRequest {
                cluster_id: names.cluster_id.clone(),
                members: Vec::new(),
            },
        ),
        "Vote" => dynamic(
            &input,
            &internal::VoteRequest {
                vote,
                last_log_id: log_id,
                ..internal::VoteRequest::default()
            },
        ),
        "Append" => dynamic(
            &input,
            &internal::AppendRequest {
                vote,
                prev_log_id: log_id,
                ..internal::AppendRequest::default()
            },
        ),
        "InstallSnapshot" => {
            let head = internal::SnapshotHead {
                vote,
                meta: Some(internal::SnapshotMeta {
                    last_log_id: log_id,
                    ..internal::SnapshotMeta::default()
                }),
                size_bytes: 100,
            };
            let chunk = Some(internal::snapshot_chunk::Chunk::Head(head));
            dynamic(&input, &internal::SnapshotChunk { chunk })
        }
        "TransferLeader" => dynamic(
            &input,
            &internal::TransferLeaderRequest {
                from: vote,
                to: 1,
                last_log_id: log_id,
            },
        ),
        "Forward" => {
            let renewals = internal::ForwardRenewals {
                lease_id_deltas: vec![1, 2],
                timeout_ms: 100,
            };
            dynamic(&input, &forward(forward_request::Request::Renewals(renewals)))
        }
        "PassPage" => dynamic(
            &input,
            &internal::PassPageRequest {
                method: 1,
                request: Vec::new(),
            },
        ),
        other => panic!("{other} is a new method: say here what a good message of it is"),
    }
}

/// A term between 1 and the largest that is believed would be a vote that counts.
fn would_count(variant: &Variant) -> bool {
    variant.path.ends_with("term")
        && variant.readable
        && !["U64(0)", "U64(18446744073709551615)"].contains(&variant.what.as_str())
}

async fn terms_and_revisions(cluster: &Cluster) -> Vec<(i64, i64)> {
    let mut seen = Vec::new();
    for node in &cluster.nodes {
        let mut client = ClusterClient::connect(node.url()).await.expect("the node lives");
        let status = client
            .get_node_status(GetNodeStatusRequest {})
            .await
            .expect("a status")
            .into_inner();
        let header = status.header.expect("a header");
        seen.push((header.term, header.revision));
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_between_nodes_at_its_limits_and_beyond() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (at, caller) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut client = ClusterClient::connect(cluster.nodes[at].url())
        .await
        .expect("the node lives");
    let members = client
        .list_members(ListMembersRequest {})
        .await
        .expect("the members")
        .into_inner();
    let id = |at: usize| {
        let name = &cluster.nodes[at].name;
        let member = members.members.iter().find(|member| member.name == *name);
        member.expect("it is a member").member_id.to_string()
    };
    let names = Names {
        cluster_id: members.header.clone().expect("a header").cluster_id,
        from: id(caller),
        to: id(at),
    };
    let before = terms_and_revisions(&cluster).await;

    let channel = Channel::from_shared(format!("http://{}", cluster.nodes[at].peer_endpoint)).expect("a URL");
    let channel = channel.connect().await.expect("the peer port takes connections");
    let pool = DescriptorPool::decode(INTERNAL).expect("the build's descriptor set");
    let peer = pool
        .get_service_by_name("roster.internal.v1.Peer")
        .expect("the peer service");
    let mut sent = 0;
    for method in peer.methods() {
        let path = format!("/{}/{}", peer.full_name(), method.name());
        for variant in variants(&good(&method, &names))
            .iter()
            .filter(|variant| !would_count(variant))
        {
            sent += 1;
            try_one(&channel, &path, variant, &names).await;
        }
    }
    println!("{sent} messages");
    assert!(sent > 200, "{sent} messages");

    for (was, is) in before.into_iter().zip(terms_and_revisions(&cluster).await) {
        // A busy machine may have elected; what was sent may not have led to terms of its own.
        assert!(
            (was.0..was.0 + 5).contains(&is.0),
            "{was:?}, then {is:?}\n{}",
            cluster.logs()
        );
        assert_eq!(is.1, was.1, "the revision moved\n{}", cluster.logs());
    }
    agree(&cluster).await;
}

async fn try_one(channel: &Channel, path: &str, variant: &Variant, names: &Names) {
    let about = format!("{path}, {} {}", variant.path, variant.what);
    // Hello and Found come before there is a cluster, from whoever asks.
    let named = !path.ends_with("/Hello") && !path.ends_with("/Found");
    if named {
        let strangers = [
            MetadataMap::new(),
            Names {
                cluster_id: "00000000deadbeef".into(),
                ..names.clone()
            }
            .metadata(),
            Names {
                to: names.from.clone(),
                ..names.clone()
            }
            .metadata(),
        ];
        for metadata in strangers {
            let answer = raw::call(channel, path, vec![variant.bytes.clone()], metadata, raw::WILLING).await;
            let status = answer.expect_err(&about);
            let wanted = if variant.readable {
                Code::FailedPrecondition
            } else {
                status.code()
            };
            assert_eq!(status.code(), wanted, "{about}: {status:?}");
            check_code(&status, &about);
        }
    }
    let answer = raw::call(
        channel,
        path,
        vec![variant.bytes.clone()],
        names.metadata(),
        raw::WILLING,
    )
    .await;
    match answer {
        Ok(answer) if variant.readable && path.ends_with("/Vote") => {
            let answer: internal::VoteResponse = prost::Message::decode(answer).expect("an answer");
            assert!(!answer.granted, "{about}: {answer:?}");
        }
        Ok(answer) if variant.readable && path.ends_with("/Forward") => {
            use internal::forward_response::Response;
            let answer: internal::ForwardResponse = prost::Message::decode(answer).expect("an answer");
            // For whom it has voted, a follower says too.
            let refused = matches!(
                answer.response,
                Some(Response::Failure(_) | Response::VouchedThrough(_)) | None
            );
            assert!(refused, "a follower did what only a leader does: {about}: {answer:?}");
        }
        // A stream whose message can't be read ends, with an answer or without.
        Ok(answer) => assert!(variant.readable || answer.is_empty(), "{about}: {answer:?}"),
        Err(status) => check_code(&status, &about),
    }
    // The next call needs the same connection.
    let hello = internal::HelloRequest { name: "n2".into() };
    let hello = prost::Message::encode_to_vec(&hello);
    let answer = raw::call(
        channel,
        "/roster.internal.v1.Peer/Hello",
        vec![hello],
        MetadataMap::new(),
        raw::WILLING,
    )
    .await;
    answer.unwrap_or_else(|status| panic!("after {about}: {status:?}"));
}

/// A node never answers as if the connection had broken.
fn check_code(status: &tonic::Status, about: &str) {
    let broke = matches!(
        status.code(),
        Code::Unknown | Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded
    );
    assert!(!broke, "{about}: {status:?}");
    assert!(
        status.message().len() < 4_096,
        "{about}: {} bytes of message",
        status.message().len()
    );
}
