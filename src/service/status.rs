//! From the node's errors to the API's: one exhaustive table, and what goes with each row.

use tonic::{Code, Status};

use crate::{
    model::{InstanceKey, Revision},
    node::NodeError,
    registry::Rejection,
    wire::{ErrorDetail, FieldErrors, Reason, WriteOutcome},
};

/// What kind of call failed: only a write's error says what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallKind {
    /// It changes nothing.
    Read,
    /// It may have had an effect.
    Write,
}

/// How a call ends that the node refused.
pub(super) fn refused(error: NodeError, kind: CallKind) -> Status {
    detail(error, kind).into_status()
}

/// How a call ends whose request breaks rules.
pub(super) fn invalid(errors: FieldErrors, kind: CallKind) -> Status {
    let mut detail = ErrorDetail::from(errors);
    detail.outcome = (kind == CallKind::Write).then_some(WriteOutcome::NotApplied);
    detail.into_status()
}

/// How a read ends whose instance is not there at that revision.
pub(super) fn no_instance(key: InstanceKey, revision: Revision) -> Status {
    not_there(Rejection::InstanceNotFound(key), revision)
}

/// How a read ends whose lease is not there at that revision.
pub(super) fn no_lease(id: crate::model::LeaseId, revision: Revision) -> Status {
    not_there(Rejection::LeaseNotFound(id), revision)
}

/// An error has no header; that a thing is not there is an answer all the same, and its revision a part of it.
fn not_there(what: Rejection, revision: Revision) -> Status {
    let mut detail = rejected(what);
    detail.revision = Some(revision);
    detail.into_status()
}

/// How a stream ends whose messages can't be read. What the transport says of itself is passed on.
pub(super) fn unreadable(status: Status) -> Status {
    match status.code() {
        Code::OutOfRange | Code::Internal if status.details().is_empty() => unreadable_message(status.message()),
        _ => status,
    }
}

/// A request that is too long, or no protobuf: nothing of it was done.
pub(super) fn unreadable_message(problem: &str) -> Status {
    let mut detail = ErrorDetail::new(Reason::InvalidField, format!("the request can't be read: {problem}"));
    detail.violations.push(("request".into(), problem.into()));
    detail.outcome = Some(WriteOutcome::NotApplied);
    detail.into_status()
}

/// What an error of the node means to its caller.
pub(super) fn detail(error: NodeError, kind: CallKind) -> ErrorDetail {
    let message = error.to_string();
    let mut unknown = false;
    let mut detail = match error {
        NodeError::Rejected { rejection, revision } => {
            let mut detail = rejected(rejection);
            // A mismatch tells the record's revision, which is the one that its caller must know.
            detail.revision.get_or_insert(revision);
            detail
        }
        NodeError::NoLeader => ErrorDetail::new(Reason::NoLeader, message),
        NodeError::NoQuorum { leader } => {
            let mut detail = ErrorDetail::new(Reason::NoQuorum, message);
            detail.leader = leader.map(|name| name.to_string());
            detail
        }
        NodeError::LeaderChanged => {
            unknown = true;
            ErrorDetail::new(Reason::LeaderChanged, message)
        }
        NodeError::OutcomeUnknown => {
            unknown = true;
            ErrorDetail::new(Reason::OutcomeUnknown, message)
        }
        NodeError::QuorumLost => {
            unknown = true;
            ErrorDetail::new(Reason::NoQuorum, message)
        }
        NodeError::TooStale { age, max_age } => {
            let mut detail = ErrorDetail::new(Reason::TooStale, message);
            detail
                .metadata
                .extend(age.map(|age| ("age_ms".to_owned(), age.as_millis().to_string())));
            detail
                .metadata
                .insert("max_age_ms".to_owned(), max_age.as_millis().to_string());
            detail
        }
        NodeError::ShuttingDown => ErrorDetail::new(Reason::ShuttingDown, message),
        NodeError::Overloaded { what } => {
            let quota = ("node".to_owned(), format!("{what} that may wait"));
            with_quota(ErrorDetail::new(Reason::Overloaded, message), quota)
        }
        NodeError::RevisionInFuture { present, .. } => {
            let mut detail = ErrorDetail::new(Reason::RevisionInFuture, message);
            detail.revision = Some(present);
            detail
        }
        NodeError::PageExpired => ErrorDetail::new(Reason::PageExpired, message),
        NodeError::TooManyWatches { limit } => {
            let quota = ("node".to_owned(), format!("{limit} watches"));
            with_quota(ErrorDetail::new(Reason::TooManyWatches, message), quota)
        }
        NodeError::DiskFull => {
            let quota = ("leader".to_owned(), "space on its disk".to_owned());
            with_quota(ErrorDetail::new(Reason::DiskFull, message), quota)
        }
    };
    detail.outcome = match kind {
        CallKind::Read => None,
        CallKind::Write if unknown => Some(WriteOutcome::Unknown),
        CallKind::Write => Some(WriteOutcome::NotApplied),
    };
    detail
}

fn rejected(rejection: Rejection) -> ErrorDetail {
    let message = rejection.to_string();
    let of_instance = |key: &InstanceKey| Some(("instance".to_owned(), key.to_string()));
    let of_lease = |id: crate::model::LeaseId| Some(("lease".to_owned(), id.to_string()));
    match rejection {
        Rejection::InstanceNotFound(key) => ErrorDetail {
            resource: of_instance(&key),
            ..ErrorDetail::new(Reason::InstanceNotFound, message)
        },
        Rejection::LeaseNotFound(id) => ErrorDetail {
            resource: of_lease(id),
            ..ErrorDetail::new(Reason::LeaseNotFound, message)
        },
        Rejection::LeaseExists { lease_id, ttl } => ErrorDetail {
            resource: of_lease(lease_id),
            metadata: [("ttl_ms".to_owned(), ttl.as_ms().to_string())].into(),
            ..ErrorDetail::new(Reason::LeaseExists, message)
        },
        Rejection::RevisionMismatch { key, current } => ErrorDetail {
            resource: of_instance(&key),
            revision: Some(current),
            ..ErrorDetail::new(Reason::RevisionMismatch, message)
        },
        Rejection::Fenced { key, current } => ErrorDetail {
            resource: of_instance(&key),
            metadata: [("incarnation".to_owned(), current.to_string())].into(),
            ..ErrorDetail::new(Reason::Fenced, message)
        },
        Rejection::TooManyInstances { subject, limit } => {
            let quota = (subject, format!("{limit} instances"));
            with_quota(ErrorDetail::new(Reason::TooManyInstances, message), quota)
        }
        Rejection::TooManyLeases { limit } => {
            let quota = ("cluster".to_owned(), format!("{limit} leases"));
            with_quota(ErrorDetail::new(Reason::TooManyLeases, message), quota)
        }
        Rejection::InvalidField { path, problem } => ErrorDetail {
            violations: vec![(path, problem)],
            ..ErrorDetail::new(Reason::InvalidField, message)
        },
    }
}

fn with_quota(mut detail: ErrorDetail, quota: (String, String)) -> ErrorDetail {
    detail.quota = Some(quota);
    detail
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Incarnation, InstanceId, LeaseId, Namespace, NodeName, Revision, ServiceName, Ttl};

    fn key() -> InstanceKey {
        InstanceKey::new(
            Namespace::default(),
            ServiceName::parse("web").unwrap(),
            InstanceId::parse("a").unwrap(),
        )
    }

    fn of(error: NodeError) -> ErrorDetail {
        let status = refused(error, CallKind::Write);
        let detail = ErrorDetail::from_status(&status).unwrap();
        assert_eq!(status.code(), detail.reason.code());
        assert!(!status.message().is_empty());
        detail
    }

    fn rejection(rejection: Rejection) -> ErrorDetail {
        of(NodeError::Rejected {
            rejection,
            revision: Revision(9),
        })
    }

    #[test]
    fn a_failed_write_says_what_became_of_it_and_a_read_does_not() {
        let applied = |error| of(error).outcome == Some(WriteOutcome::NotApplied);
        assert!(applied(NodeError::NoLeader));
        assert!(applied(NodeError::NoQuorum { leader: None }));
        assert!(applied(NodeError::ShuttingDown));
        assert!(applied(NodeError::Overloaded { what: "writes" }));
        assert!(applied(NodeError::DiskFull));
        assert!(applied(NodeError::Rejected {
            rejection: Rejection::LeaseNotFound(LeaseId(1)),
            revision: Revision(1)
        }));
        assert_eq!(of(NodeError::LeaderChanged).outcome, Some(WriteOutcome::Unknown));
        assert_eq!(of(NodeError::OutcomeUnknown).outcome, Some(WriteOutcome::Unknown));
        assert_eq!(detail(NodeError::NoLeader, CallKind::Read).outcome, None);
    }

    #[test]
    fn a_read_that_finds_nothing_says_at_which_revision() {
        for status in [no_instance(key(), Revision(7)), no_lease(LeaseId(3), Revision(7))] {
            let detail = ErrorDetail::from_status(&status).unwrap();
            assert_eq!((detail.revision, detail.outcome), (Some(Revision(7)), None));
            assert!(detail.resource.is_some());
        }
    }

    #[test]
    fn each_row_has_the_details_that_go_with_it() {
        let leader = NodeName::parse("n2").unwrap();
        assert_eq!(
            of(NodeError::NoQuorum { leader: Some(leader) }).leader.as_deref(),
            Some("n2")
        );
        let stale = NodeError::TooStale {
            age: Some(Duration::from_secs(3)),
            max_age: Duration::from_secs(1),
        };
        assert_eq!(of(stale).metadata["age_ms"], "3000");
        let future = NodeError::RevisionInFuture {
            asked: Revision(7),
            present: Revision(5),
        };
        assert_eq!(
            (of(future.clone()).reason, of(future).revision),
            (Reason::RevisionInFuture, Some(Revision(5)))
        );
        let mismatch = rejection(Rejection::RevisionMismatch {
            key: key(),
            current: Revision(4),
        });
        assert_eq!(
            (mismatch.reason, mismatch.revision),
            (Reason::RevisionMismatch, Some(Revision(4)))
        );
        let fenced = rejection(Rejection::Fenced {
            key: key(),
            current: Incarnation(8),
        });
        assert_eq!((fenced.reason, fenced.revision), (Reason::Fenced, Some(Revision(9))));
        assert_eq!(fenced.metadata["incarnation"], "8");
        let missing = rejection(Rejection::InstanceNotFound(key()));
        assert_eq!(missing.resource, Some(("instance".into(), "default/web/a".into())));
        let exists = Rejection::LeaseExists {
            lease_id: LeaseId(3),
            ttl: Ttl::DEFAULT,
        };
        assert_eq!(rejection(exists).resource, Some(("lease".into(), "3".into())));
        let field = Rejection::InvalidField {
            path: "add_tags".into(),
            problem: "makes 65".into(),
        };
        assert_eq!(rejection(field).violations, [("add_tags".into(), "makes 65".into())]);
        for error in [
            NodeError::Overloaded { what: "reads" },
            NodeError::TooManyWatches { limit: 3 },
            NodeError::DiskFull,
            NodeError::Rejected {
                rejection: Rejection::TooManyLeases { limit: 3 },
                revision: Revision(1),
            },
            NodeError::Rejected {
                rejection: Rejection::TooManyInstances {
                    subject: "lease 3".into(),
                    limit: 3,
                },
                revision: Revision(1),
            },
        ] {
            let detail = of(error);
            assert_eq!(detail.reason.code(), Code::ResourceExhausted);
            assert!(detail.quota.is_some() && detail.retry_after.is_some());
        }
    }
}
