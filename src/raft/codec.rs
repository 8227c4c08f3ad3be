//! openraft's types to and from `roster.internal.v1`: what lies in the log, in snapshots and on the wire is ours, so
//! that another version of the library is never a migration of data.
//!
//! Decoding is total, and refuses what openraft would only assert.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::{
    EntryPayload,
    entry::RaftEntry as _,
    raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest},
};
use prost::Message;

use super::types::{
    LogEntry, LogId, Membership, NodeAddress, Payload, Record, SnapshotMeta, StoredMembership, TypeConfig, Vote, log_id,
};
use crate::{
    model::{LogIndex, Member, NodeId, NodeName, Term},
    registry::Entry,
    wire::{DecodeError, internal, log},
};

/// Log indexes and terms beyond this are not believed: no cluster lives so long, and sums with them could overflow.
const NUMBER_MAX: u64 = 1 << 60;

/// What another node is told of the message that it sent, at the most.
const MESSAGE_MAX_CHARS: usize = 1_024;

/// Bytes of another node, or from the disk, that make no sense.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    /// The message, or something in it, can't be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It can be read and contradicts itself.
    #[error("{0}")]
    Contradiction(String),
}

impl From<prost::DecodeError> for Malformed {
    fn from(error: prost::DecodeError) -> Self {
        Self::Decode(error.into())
    }
}

impl From<Malformed> for std::io::Error {
    fn from(malformed: Malformed) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, malformed)
    }
}

impl From<Malformed> for tonic::Status {
    fn from(malformed: Malformed) -> Self {
        // It travels in a header, which the other end takes only so much of.
        Self::invalid_argument(
            malformed
                .to_string()
                .chars()
                .take(MESSAGE_MAX_CHARS)
                .collect::<String>(),
        )
    }
}

fn contradiction<T>(what: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed::Contradiction(what.into()))
}

fn number(what: &str, value: u64) -> Result<u64, Malformed> {
    if value <= NUMBER_MAX {
        Ok(value)
    } else {
        contradiction(format!("{what} {value} is beyond belief"))
    }
}

pub(super) fn log_id_to_proto(id: &LogId) -> internal::LogId {
    internal::LogId {
        term: id.committed_leader_id().term,
        // The term alone names the leadership.
        leader_id: 0,
        index: id.index(),
    }
}

pub(super) fn log_id_from_proto(id: &internal::LogId) -> Result<LogId, Malformed> {
    Ok(log_id(number("term", id.term)?, number("log index", id.index)?))
}

pub(super) fn some_log_id(id: Option<&internal::LogId>) -> Result<Option<LogId>, Malformed> {
    id.map(log_id_from_proto).transpose()
}

pub(super) fn vote_to_proto(vote: &Vote) -> internal::Vote {
    internal::Vote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(super) fn vote_from_proto(vote: Option<&internal::Vote>) -> Result<Vote, Malformed> {
    let Some(vote) = vote else {
        return contradiction("the vote is missing");
    };
    let term = number("term", vote.term)?;
    Ok(if vote.committed {
        Vote::new_committed(term, vote.node_id)
    } else {
        Vote::new(term, vote.node_id)
    })
}

/// A member as openraft keeps it.
pub(super) fn address_of(member: &Member) -> NodeAddress {
    NodeAddress {
        name: member.name.as_str().to_owned(),
        peer_address: member.peer_address.clone(),
        client_address: member.client_address.clone(),
    }
}

/// The members of a configuration, by id. While a change is under way, the voters of both sets are voters.
pub(super) fn members_of(membership: &Membership) -> Vec<Member> {
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let member = |(&node_id, address): (&u64, &NodeAddress)| {
        Some(Member {
            node_id: NodeId(node_id),
            // Decoding lets no other name in; the founder's were parsed.
            name: NodeName::parse(&address.name).ok()?,
            peer_address: address.peer_address.clone(),
            client_address: address.client_address.clone(),
            voter: voters.contains(&node_id),
        })
    };
    membership.nodes().filter_map(member).collect()
}

pub(super) fn membership_to_proto(membership: &Membership) -> internal::Membership {
    let voters = |set: &BTreeSet<u64>| internal::VoterSet {
        node_ids: set.iter().copied().collect(),
    };
    let node = |(&node_id, address): (&u64, &NodeAddress)| internal::NodeInfo {
        node_id,
        name: address.name.clone(),
        peer_address: address.peer_address.clone(),
        client_address: address.client_address.clone(),
    };
    internal::Membership {
        configs: membership.get_joint_config().iter().map(voters).collect(),
        nodes: membership.nodes().map(node).collect(),
    }
}

pub(super) fn membership_from_proto(membership: internal::Membership) -> Result<Membership, Malformed> {
    let mut nodes = BTreeMap::new();
    for node in membership.nodes {
        if !node.name.is_empty()
            && let Err(problem) = NodeName::parse(&node.name)
        {
            return contradiction(format!("the name of node {} {problem}", node.node_id));
        }
        let address = NodeAddress {
            name: node.name,
            peer_address: node.peer_address,
            client_address: node.client_address,
        };
        if nodes.insert(node.node_id, address).is_some() {
            return contradiction(format!("node {} is twice in the configuration", node.node_id));
        }
    }
    let configs: Vec<BTreeSet<u64>> = membership
        .configs
        .into_iter()
        .map(|set| set.node_ids.into_iter().collect())
        .collect();
    Membership::new(configs, nodes).or_else(|error| contradiction(error.to_string()))
}

/// What is stored of the configuration that a state machine has applied.
pub(super) fn meta_to_proto(meta: &SnapshotMeta, snapshot_id: &str) -> internal::SnapshotMeta {
    internal::SnapshotMeta {
        last_log_id: meta.last_log_id.as_ref().map(log_id_to_proto),
        membership_log_id: meta.last_membership.log_id().as_ref().map(log_id_to_proto),
        membership: Some(membership_to_proto(meta.last_membership.membership())),
        snapshot_id: snapshot_id.to_owned(),
    }
}

pub(super) fn meta_from_proto(meta: internal::SnapshotMeta) -> Result<SnapshotMeta, Malformed> {
    let last_log_id = some_log_id(meta.last_log_id.as_ref())?;
    let membership_log_id = some_log_id(meta.membership_log_id.as_ref())?;
    // The configuration before the first one is empty, and openraft's own constructor would refuse it.
    let empty = |membership: &internal::Membership| membership.configs.is_empty() && membership.nodes.is_empty();
    let membership = match meta.membership {
        Some(membership) if !empty(&membership) => membership_from_proto(membership)?,
        _ => Membership::default(),
    };
    if membership_log_id > last_log_id {
        return contradiction("the snapshot's configuration is newer than the snapshot");
    }
    Ok(SnapshotMeta {
        last_log_id,
        last_membership: StoredMembership::new(membership_log_id, membership),
    })
}

/// A record's bytes, as the log keeps it and as followers are sent it.
pub(super) fn record_to_bytes(record: &Record) -> Bytes {
    use internal::log_record::Payload as Sent;
    let encode = |payload: Sent| {
        let record = internal::LogRecord {
            term: record.log_id.committed_leader_id().term,
            leader_id: 0,
            index: record.log_id.index(),
            payload: Some(payload),
        };
        Bytes::from(record.encode_to_vec())
    };
    match &record.payload {
        EntryPayload::Blank => encode(Sent::Blank(internal::Blank {})),
        EntryPayload::Normal(entry) => entry.record(|entry: &Entry, commands: &[Bytes]| {
            let term = Term(record.log_id.committed_leader_id().term);
            log::entry_record(term, LogIndex(record.log_id.index()), entry, commands)
        }),
        EntryPayload::Membership(membership) => encode(Sent::Membership(membership_to_proto(membership))),
    }
}

/// Reads a record's bytes.
pub(super) fn record_from_bytes(bytes: Bytes) -> Result<Record, Malformed> {
    use internal::log_record::Payload as Sent;
    let internal::LogRecord {
        term, index, payload, ..
    } = internal::LogRecord::decode(bytes.clone())?;
    let id = log_id(number("term", term)?, number("log index", index)?);
    let payload: Payload = match payload {
        Some(Sent::Blank(internal::Blank {})) => EntryPayload::Blank,
        Some(Sent::Entry(entry)) => EntryPayload::Normal(LogEntry::recorded(log::entry_from_proto(entry)?, bytes)),
        Some(Sent::Membership(membership)) => EntryPayload::Membership(membership_from_proto(membership)?),
        None => return contradiction(format!("record {id} is of a kind that this version does not know")),
    };
    Ok(Record::new(id, payload))
}

/// Only what openraft makes itself: the vote is a leader's, and the records follow each other.
pub(super) fn append_to_proto(request: &AppendEntriesRequest<TypeConfig>) -> internal::AppendRequest {
    internal::AppendRequest {
        vote: Some(vote_to_proto(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(log_id_to_proto),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_proto),
        records: request.entries.iter().map(record_to_bytes).collect(),
    }
}

/// Reads an append and checks what openraft takes for granted: a leader's vote, records without holes, in the order of
/// their ids, none from a later term than the leader's.
pub(super) fn append_from_proto(
    request: internal::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    let vote = vote_from_proto(request.vote.as_ref())?;
    if !vote.committed {
        return contradiction("an append must come from a leader");
    }
    let prev_log_id = some_log_id(request.prev_log_id.as_ref())?;
    let entries: Vec<Record> = request
        .records
        .into_iter()
        .map(record_from_bytes)
        .collect::<Result<_, _>>()?;
    let mut last = prev_log_id;
    for entry in &entries {
        let id = entry.log_id;
        let follows = id.index() == last.map_or(0, |last| last.index() + 1) && Some(id) > last;
        if !follows {
            return contradiction(format!("record {id} does not follow {last:?}"));
        }
        last = Some(id);
    }
    if last.is_some_and(|last| last.committed_leader_id().term > vote.leader_id.term) {
        return contradiction("a record is of a later term than its leader");
    }
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id,
        leader_commit: some_log_id(request.leader_commit.as_ref())?,
        entries,
    })
}

pub(super) fn appended_to_proto(result: &StreamAppendResult<TypeConfig>) -> internal::AppendResponse {
    use internal::append_response::Result as Sent;
    let sent = match result {
        Ok(Some(matched)) => Sent::Matched(log_id_to_proto(matched)),
        Ok(None) => Sent::Empty(true),
        Err(StreamAppendError::Conflict(at)) => Sent::Conflict(log_id_to_proto(at)),
        Err(StreamAppendError::HigherVote(vote)) => Sent::HigherVote(vote_to_proto(vote)),
    };
    internal::AppendResponse { result: Some(sent) }
}

pub(super) fn appended_from_proto(
    response: &internal::AppendResponse,
) -> Result<StreamAppendResult<TypeConfig>, Malformed> {
    use internal::append_response::Result as Sent;
    Ok(match &response.result {
        Some(Sent::Matched(matched)) => Ok(Some(log_id_from_proto(matched)?)),
        Some(Sent::Empty(_)) => Ok(None),
        Some(Sent::Conflict(at)) => Err(StreamAppendError::Conflict(log_id_from_proto(at)?)),
        Some(Sent::HigherVote(vote)) => Err(StreamAppendError::HigherVote(vote_from_proto(Some(vote))?)),
        None => return contradiction("the answer to an append is of a kind that this version does not know"),
    })
}

pub(super) fn transfer_to_proto(request: &TransferLeaderRequest<TypeConfig>) -> internal::TransferLeaderRequest {
    internal::TransferLeaderRequest {
        from: Some(vote_to_proto(request.from_leader())),
        to: *request.to_node_id(),
        last_log_id: request.last_log_id().map(log_id_to_proto),
    }
}

pub(super) fn transfer_from_proto(
    request: &internal::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<TypeConfig>, Malformed> {
    let vote = vote_from_proto(request.from.as_ref())?;
    Ok(TransferLeaderRequest::new(
        vote,
        request.to,
        some_log_id(request.last_log_id.as_ref())?,
    ))
}

#[cfg(test)]
mod tests {
    use crate::model::{LeaseId, LeaseTime};

    use super::*;

    fn address(name: &str) -> NodeAddress {
        NodeAddress {
            name: name.into(),
            peer_address: format!("{name}:7500"),
            client_address: format!("{name}:7400"),
        }
    }

    fn joint() -> Membership {
        let nodes = [
            (1, address("n1")),
            (2, address("n2")),
            (3, address("n3")),
            (4, address("n4")),
        ];
        Membership::new(vec![[1, 2, 3].into(), [1, 2, 4].into()], BTreeMap::from(nodes)).unwrap()
    }

    fn records() -> Vec<Record> {
        let entry = Entry {
            stamp: LeaseTime(7),
            wall_ms: 8,
            renewals: vec![LeaseId(1), LeaseId(5)],
            commands: vec![],
        };
        vec![
            Record::new(log_id(1, 3), EntryPayload::Blank),
            Record::new(log_id(1, 4), EntryPayload::Membership(joint())),
            Record::new(log_id(2, 5), EntryPayload::Normal(LogEntry::new(entry.into()))),
        ]
    }

    fn append() -> AppendEntriesRequest<TypeConfig> {
        AppendEntriesRequest {
            vote: Vote::new_committed(2, 1),
            prev_log_id: Some(log_id(1, 2)),
            leader_commit: Some(log_id(1, 1)),
            entries: records(),
        }
    }

    #[test]
    fn records_read_back_as_written() {
        for record in records() {
            let bytes = record_to_bytes(&record);
            let read = record_from_bytes(bytes.clone()).unwrap();
            assert_eq!(read.log_id, record.log_id);
            assert_eq!(format!("{read:?}"), format!("{record:?}"));
            assert_eq!(record_to_bytes(&read), bytes, "a follower keeps the leader's bytes");
        }
    }

    #[test]
    fn an_append_reads_back_as_sent() {
        let read = append_from_proto(append_to_proto(&append())).unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", append()));
    }

    #[test]
    fn an_append_that_openraft_would_choke_on_is_refused() {
        let broken = |change: fn(&mut AppendEntriesRequest<TypeConfig>)| {
            let mut request = append();
            change(&mut request);
            append_from_proto(append_to_proto(&request)).unwrap_err();
        };
        broken(|request| request.vote = Vote::new(2, 1));
        broken(|request| request.vote = Vote::new_committed(1, 1));
        broken(|request| drop(request.entries.remove(1)));
        broken(|request| request.prev_log_id = None);
        broken(|request| request.prev_log_id = Some(log_id(2, 2)));
        broken(|request| request.leader_commit = Some(log_id(1, u64::MAX)));
        broken(|request| request.entries[2].log_id = log_id(u64::MAX, 5));
        let mut unset = append_to_proto(&append());
        unset.vote = None;
        append_from_proto(unset).unwrap_err();
    }

    #[test]
    fn answers_to_appends_read_back_as_sent() {
        let answers = [
            Ok(None),
            Ok(Some(log_id(3, 9))),
            Err(StreamAppendError::Conflict(log_id(1, 2))),
            Err(StreamAppendError::HigherVote(Vote::new(4, 2))),
        ];
        for answer in answers {
            assert_eq!(appended_from_proto(&appended_to_proto(&answer)).unwrap(), answer);
        }
        appended_from_proto(&internal::AppendResponse { result: None }).unwrap_err();
    }

    #[test]
    fn a_snapshots_meta_reads_back_as_written() {
        for (last, membership) in [
            (None, StoredMembership::default()),
            (Some(log_id(2, 9)), StoredMembership::new(Some(log_id(1, 4)), joint())),
        ] {
            let meta = SnapshotMeta {
                last_log_id: last,
                last_membership: membership,
            };
            assert_eq!(meta_from_proto(meta_to_proto(&meta, "id")).unwrap(), meta);
        }
    }

    #[test]
    fn configurations_that_contradict_themselves_are_refused() {
        let mut twice = membership_to_proto(&joint());
        twice.nodes.push(twice.nodes[0].clone());
        membership_from_proto(twice).unwrap_err();
        let mut missing = membership_to_proto(&joint());
        missing.nodes.pop();
        membership_from_proto(missing).unwrap_err();
        let mut empty = membership_to_proto(&joint());
        empty.configs[1].node_ids.clear();
        membership_from_proto(empty).unwrap_err();
        let mut nameless = membership_to_proto(&joint());
        nameless.nodes[0].name = "not a name".into();
        membership_from_proto(nameless).unwrap_err();
    }
}
