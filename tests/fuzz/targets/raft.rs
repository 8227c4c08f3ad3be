//! What nodes say to each other, and what of it reaches openraft. The first byte says which message. openraft asserts
//! what it takes for granted, so what the codec lets through must hold it; and it is sent on as it came.

use bytes::Bytes;
use prost::Message;
use roster::{
    model::NodeId,
    wire::{deltas, internal, log::command_from_bytes, log::command_to_bytes},
};

use super::{Verdict, log_record};

/// The messages' codec. openraft is pure Rust; the store behind it is left out.
#[path = "../../../src/raft/codec.rs"]
#[allow(dead_code, reason = "mounted as it is")]
mod codec;
#[path = "../../../src/raft/tuning.rs"]
#[allow(unreachable_pub, reason = "mounted as it is")]
mod tuning;
#[path = "../../../src/raft/types.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "mounted as it is")]
mod types;

/// In the place of the file of that name, which needs the store.
mod snapshot {
    #[derive(Debug)]
    pub(super) enum SnapshotData {}
}

/// The configuration looks for it here.
#[allow(unreachable_pub, reason = "as its room has it")]
pub use tuning::*;

const READERS: &[fn(&[u8]) -> Verdict] = &[append, vote, head, transfer, appended, forward, stored_record, found];

pub(crate) fn run(bytes: &[u8]) -> Verdict {
    match bytes.split_first() {
        Some((&which, bytes)) => READERS[usize::from(which) % READERS.len()](bytes),
        None => Verdict::Refused,
    }
}

fn message<M: Message + Default>(bytes: &[u8], read: impl FnOnce(M) -> Verdict) -> Verdict {
    M::decode(bytes).map_or(Verdict::Refused, read)
}

fn append(bytes: &[u8]) -> Verdict {
    message(bytes, |sent: internal::AppendRequest| {
        let read = codec::append_from_proto(sent);
        if let Ok(request) = &read {
            assert!(request.vote.committed, "only a leader appends");
            let mut last = request.prev_log_id;
            for entry in &request.entries {
                assert_eq!(entry.log_id.index(), last.map_or(0, |last| last.index() + 1));
                assert!(Some(entry.log_id) > last);
                last = Some(entry.log_id);
            }
            assert!(last.is_none_or(|last| last.committed_leader_id().term <= request.vote.leader_id.term));
            let again = codec::append_from_proto(codec::append_to_proto(request)).expect("an append reads back");
            assert_eq!(format!("{again:?}"), format!("{request:?}"));
        }
        Verdict::of(&read)
    })
}

fn vote(bytes: &[u8]) -> Verdict {
    message(bytes, |sent: internal::VoteRequest| {
        let vote = codec::vote_from_proto(sent.vote.as_ref());
        let last = codec::some_log_id(sent.last_log_id.as_ref());
        if let Ok(vote) = &vote {
            let again = codec::vote_from_proto(Some(&codec::vote_to_proto(vote)));
            assert_eq!(again.expect("a vote reads back"), *vote);
        }
        if last.is_err() {
            Verdict::Refused
        } else {
            Verdict::of(&vote)
        }
    })
}

fn head(bytes: &[u8]) -> Verdict {
    message(bytes, |sent: internal::SnapshotHead| {
        let Some(meta) = sent.meta else {
            return Verdict::Refused;
        };
        let meta = codec::meta_from_proto(meta);
        if let Ok(meta) = &meta {
            assert!(*meta.last_membership.log_id() <= meta.last_log_id);
            let again = codec::meta_from_proto(codec::meta_to_proto(meta, "id")).expect("a meta reads back");
            assert_eq!(again, *meta);
            let members = codec::members_of(meta.last_membership.membership());
            assert!(members.iter().all(|member| !member.name.as_str().is_empty()));
        }
        Verdict::of(&meta)
    })
}

fn transfer(bytes: &[u8]) -> Verdict {
    message(bytes, |sent: internal::TransferLeaderRequest| {
        Verdict::of(&codec::transfer_from_proto(&sent))
    })
}

fn appended(bytes: &[u8]) -> Verdict {
    message(bytes, |sent: internal::AppendResponse| {
        let read = codec::appended_from_proto(&sent);
        if let Ok(result) = &read {
            let again = codec::appended_from_proto(&codec::appended_to_proto(result));
            assert_eq!(again.expect("an answer reads back"), *result);
        }
        Verdict::of(&read)
    })
}

fn forward(bytes: &[u8]) -> Verdict {
    use internal::forward_request::Request;
    message(bytes, |sent: internal::ForwardRequest| match sent.request {
        Some(Request::Command(forwarded)) => {
            let read = command_from_bytes(&forwarded.command);
            if let Ok(command) = &read {
                let again = command_from_bytes(&command_to_bytes(command)).expect("a command reads back");
                assert_eq!(again, *command);
            }
            Verdict::of(&read)
        }
        Some(Request::Renewals(forwarded)) => {
            let read = deltas::ids_from_deltas(&forwarded.lease_id_deltas);
            if let Ok(ids) = &read {
                assert!(ids.is_sorted_by(|a, b| a < b));
                assert_eq!(deltas::ids_to_deltas(ids), forwarded.lease_id_deltas);
            }
            Verdict::of(&read)
        }
        Some(Request::ReadIndex(_) | Request::Vouch(_)) => Verdict::Taken,
        None => Verdict::Refused,
    })
}

/// As it lies in the log: what a follower keeps are the leader's bytes.
fn stored_record(bytes: &[u8]) -> Verdict {
    let bytes = Bytes::copy_from_slice(bytes);
    let read = codec::record_from_bytes(bytes);
    if let Ok(record) = &read {
        let again = codec::record_from_bytes(codec::record_to_bytes(record)).expect("a record reads back");
        assert_eq!(format!("{again:?}"), format!("{record:?}"));
    }
    Verdict::of(&read)
}

fn found(bytes: &[u8]) -> Verdict {
    message(bytes, |sent: internal::FoundRequest| {
        let id = roster::model::ClusterId::parse(&sent.cluster_id);
        let members: Result<Vec<_>, _> = sent
            .members
            .into_iter()
            .map(|info| roster::wire::member::member_from_node_info(info, true))
            .collect();
        if id.is_some() {
            Verdict::of(&members)
        } else {
            Verdict::Refused
        }
    })
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let messages = [
        (0, append_message().encode_to_vec()),
        (0, heartbeat().encode_to_vec()),
        (1, vote_message().encode_to_vec()),
        (2, head_message().encode_to_vec()),
        (3, transfer_message().encode_to_vec()),
        (4, appended_message().encode_to_vec()),
        (5, forward_message(command()).encode_to_vec()),
        (5, forward_message(renewals()).encode_to_vec()),
        (6, record_message(6).encode_to_vec()),
        (7, found_message().encode_to_vec()),
    ];
    messages
        .into_iter()
        .map(|(which, message)| [vec![which], message].concat())
        .collect()
}

fn log_id(term: u64, index: u64) -> Option<internal::LogId> {
    Some(internal::LogId {
        term,
        leader_id: 0,
        index,
    })
}

fn leader() -> Option<internal::Vote> {
    Some(internal::Vote {
        term: 3,
        node_id: 1,
        committed: true,
    })
}

fn record_message(index: u64) -> internal::LogRecord {
    use internal::log_record::Payload;
    internal::LogRecord {
        term: 3,
        leader_id: 0,
        index,
        payload: Some(match index % 3 {
            0 => Payload::Entry(roster::wire::log::entry_to_proto(&log_record::entry())),
            1 => Payload::Blank(internal::Blank {}),
            _ => Payload::Membership(membership()),
        }),
    }
}

fn membership() -> internal::Membership {
    let node = |node_id: u64| internal::NodeInfo {
        node_id,
        name: format!("n{node_id}"),
        peer_address: format!("n{node_id}:7500"),
        client_address: format!("n{node_id}:7400"),
    };
    internal::Membership {
        configs: vec![
            internal::VoterSet { node_ids: vec![1, 2] },
            internal::VoterSet { node_ids: vec![1, 3] },
        ],
        nodes: (1..=4).map(node).collect(),
    }
}

fn append_message() -> internal::AppendRequest {
    internal::AppendRequest {
        vote: leader(),
        prev_log_id: log_id(2, 3),
        leader_commit: log_id(2, 3),
        records: (4..8)
            .map(|index| record_message(index).encode_to_vec().into())
            .collect(),
    }
}

fn heartbeat() -> internal::AppendRequest {
    internal::AppendRequest {
        vote: leader(),
        ..internal::AppendRequest::default()
    }
}

fn vote_message() -> internal::VoteRequest {
    internal::VoteRequest {
        vote: leader().map(|vote| internal::Vote {
            committed: false,
            ..vote
        }),
        last_log_id: log_id(2, 9),
        pre_vote: true,
        leader_transfer: false,
    }
}

fn head_message() -> internal::SnapshotHead {
    internal::SnapshotHead {
        vote: leader(),
        meta: Some(internal::SnapshotMeta {
            last_log_id: log_id(3, 9),
            membership_log_id: log_id(1, 0),
            membership: Some(membership()),
            snapshot_id: "term-3".into(),
        }),
        size_bytes: 9_000,
    }
}

fn transfer_message() -> internal::TransferLeaderRequest {
    internal::TransferLeaderRequest {
        from: leader(),
        to: NodeId(2).0,
        last_log_id: log_id(3, 9),
    }
}

fn appended_message() -> internal::AppendResponse {
    internal::AppendResponse {
        result: log_id(3, 9).map(internal::append_response::Result::Matched),
    }
}

fn command() -> internal::forward_request::Request {
    internal::forward_request::Request::Command(internal::ForwardCommand {
        command: log_record::entry()
            .commands
            .get(1)
            .map(command_to_bytes)
            .unwrap_or_default(),
        timeout_ms: 2_000,
    })
}

fn renewals() -> internal::forward_request::Request {
    internal::forward_request::Request::Renewals(internal::ForwardRenewals {
        lease_id_deltas: vec![1, 1, 698, 1 << 62],
        timeout_ms: 2_000,
    })
}

fn forward_message(request: internal::forward_request::Request) -> internal::ForwardRequest {
    internal::ForwardRequest {
        seq: 5,
        term: 3,
        request: Some(request),
    }
}

fn found_message() -> internal::FoundRequest {
    internal::FoundRequest {
        cluster_id: "00c0ffee00c0ffee".into(),
        members: membership().nodes,
    }
}
