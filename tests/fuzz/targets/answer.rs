//! What a follower reads of its leader, and a client of any server: answers, errors, records. The first byte says which.

use std::time::Duration;

use prost::Message;
use roster::{
    model::{ClusterId, LogIndex, Member, NodeId, NodeName, Position, Revision, Ttl},
    registry::{Outcome, Registered, Rejection, Renewal, Reply},
    wire::{
        ErrorDetail, Path, Reason, WriteOutcome, instance,
        member::{member_from_node_info, member_to_node_info, position_from_proto, position_to_proto},
        reply, v1,
    },
};

use super::{Verdict, sample};

const READERS: &[fn(&[u8]) -> Verdict] = &[reply, renewals, record, node_info, position, status, proto_status];

pub(crate) fn run(bytes: &[u8]) -> Verdict {
    match bytes.split_first() {
        Some((&which, bytes)) => READERS[usize::from(which) % READERS.len()](bytes),
        None => Verdict::Refused,
    }
}

fn message<M: Message + Default>(bytes: &[u8], read: impl FnOnce(M) -> Verdict) -> Verdict {
    M::decode(bytes).map_or(Verdict::Refused, read)
}

fn reply(bytes: &[u8]) -> Verdict {
    message(bytes, |sent| {
        let read = reply::reply_from_proto(sent);
        if let Ok((index, answer)) = &read {
            let again = reply::reply_from_proto(reply::reply_to_proto(*index, answer)).expect("a reply reads back");
            assert_eq!(again, (*index, answer.clone()));
        }
        Verdict::of(&read)
    })
}

fn renewals(bytes: &[u8]) -> Verdict {
    message(bytes, |sent| {
        let read = reply::renewals_from_proto(&sent);
        if let Ok((renewals, revision)) = &read {
            let again = reply::renewals_to_proto(renewals, *revision);
            assert_eq!(
                reply::renewals_from_proto(&again).expect("renewals read back"),
                (renewals.clone(), *revision)
            );
        }
        Verdict::of(&read)
    })
}

fn record(bytes: &[u8]) -> Verdict {
    message(bytes, |sent: v1::Instance| {
        let read = instance::instance_from_proto(sent);
        if let Ok(record) = &read {
            let written = instance::instance_to_proto(record);
            assert_eq!(
                instance::instance_from_proto(written).expect("a record reads back"),
                *record
            );
        }
        Verdict::of(&read)
    })
}

fn node_info(bytes: &[u8]) -> Verdict {
    message(bytes, |sent| {
        let read = member_from_node_info(sent, true);
        if let Ok(member) = &read {
            let again = member_from_node_info(member_to_node_info(member), true).expect("a member reads back");
            assert_eq!(again, *member);
        }
        Verdict::of(&read)
    })
}

fn position(bytes: &[u8]) -> Verdict {
    message(bytes, |sent| {
        let read = position_from_proto(&sent, &Path::Root);
        if let Ok(position) = read {
            assert_eq!(
                position_from_proto(&position_to_proto(position), &Path::Root),
                Ok(position)
            );
        }
        Verdict::of(&read)
    })
}

fn status(bytes: &[u8]) -> Verdict {
    let status = tonic::Status::with_details(tonic::Code::Aborted, "", bytes.to_vec().into());
    told(ErrorDetail::from_status(&status))
}

fn proto_status(bytes: &[u8]) -> Verdict {
    message(bytes, |status| told(ErrorDetail::from_proto(&status)))
}

fn told(detail: Option<ErrorDetail>) -> Verdict {
    let Some(detail) = detail else {
        return Verdict::Refused;
    };
    // What another server says may be longer than what this one would: it is cut, and then reads back.
    let once = ErrorDetail::from_status(&detail.into_status()).expect("an error reads back");
    assert_eq!(ErrorDetail::from_status(&once.clone().into_status()), Some(once));
    Verdict::Taken
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let renewed = Renewal::Renewed {
        ttl: Ttl::DEFAULT,
        instances: 3,
    };
    let renewals = reply::renewals_to_proto(&[renewed, Renewal::NotFound], Revision(7)).encode_to_vec();
    let member = Member {
        node_id: NodeId(2),
        name: NodeName::parse("n2").expect("a name"),
        peer_address: "10.0.0.2:7500".into(),
        client_address: "10.0.0.2:7400".into(),
        voter: true,
    };
    let position = Position {
        cluster_id: ClusterId::new(9).expect("not 0"),
        revision: Revision(7),
    };
    let whole = vec![
        (1, renewals),
        (2, instance::encoded(&sample::record("web", "1", Some(7))).to_vec()),
        (3, member_to_node_info(&member).encode_to_vec()),
        (4, position_to_proto(position).encode_to_vec()),
        (5, detail().into_status().details().to_vec()),
        (6, detail().into_proto().encode_to_vec()),
    ];
    let replies = replies().into_iter().map(|bytes| (0, bytes));
    replies
        .chain(whole)
        .map(|(which, bytes)| [vec![which], bytes].concat())
        .collect()
}

fn detail() -> ErrorDetail {
    ErrorDetail {
        outcome: Some(WriteOutcome::Unknown),
        leader: Some("n1".into()),
        revision: Some(Revision(9)),
        metadata: [("ttl_ms".to_owned(), "5".to_owned())].into(),
        violations: vec![("instance.key".into(), "must be set".into())],
        retry_after: Some(Duration::from_millis(250)),
        quota: Some(("node".into(), "renewals".into())),
        resource: Some(("lease".into(), "7".into())),
        ..ErrorDetail::new(Reason::InvalidField, "a message")
    }
}

fn replies() -> Vec<Vec<u8>> {
    let key = || sample::key("web", "1");
    let results = vec![
        Ok(Outcome::Registered {
            instance: sample::record("web", "1", Some(7)),
            how: Registered::TookOver,
        }),
        Ok(Outcome::BatchRegistered { changed: true }),
        Ok(Outcome::Updated {
            instance: sample::record("web", "1", None),
            changed: true,
        }),
        Ok(Outcome::Deregistered { existed: true }),
        Ok(Outcome::Revoked {
            existed: true,
            removed: 3,
        }),
        Err(Rejection::InstanceNotFound(key())),
        Err(Rejection::RevisionMismatch {
            key: key(),
            current: Revision(4),
        }),
        Err(Rejection::InvalidField {
            path: "a.b".into(),
            problem: "is wrong".into(),
        }),
    ];
    results
        .into_iter()
        .map(|result| {
            let answer = Reply {
                revision: Revision(9),
                result,
            };
            reply::reply_to_proto(LogIndex(12), &answer).encode_to_vec()
        })
        .collect()
}
