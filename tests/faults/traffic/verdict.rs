//! What a failed call says about itself.
//!
//! Definite is only what the API's error table makes definite: a refusal of the state machine, an `outcome` of
//! `not_applied`, a connection that never came about. All else may have taken effect.

use std::error::Error as _;

use roster::{
    client,
    wire::{ErrorDetail, Reason, WriteOutcome},
};
use tonic::{ConnectError, Status};

use crate::history::Answer;

/// A connection did not come about: nothing was sent.
pub(super) const UNREACHABLE: &str = "UNREACHABLE";
/// No answer within the deadline.
pub(super) const DEADLINE: &str = "DEADLINE";
/// The client went away before the answer came.
pub(super) const GIVEN_UP: &str = "GIVEN_UP";

/// What the client library sends, and how often, is not seen.
pub(super) const LIBRARY: &str = "LIBRARY";

/// What the state machine answers by looking at the state.
const REJECTIONS: [Reason; 8] = [
    Reason::InstanceNotFound,
    Reason::LeaseNotFound,
    Reason::LeaseExists,
    Reason::RevisionMismatch,
    Reason::Fenced,
    Reason::TooManyInstances,
    Reason::TooManyLeases,
    Reason::InvalidField,
];

/// A write that failed. The revision of a `REVISION_MISMATCH` is the record's, 0 if there is none: that is what its
/// caller must know; of every other rejection it is the registry's.
pub(super) fn of_write(status: &Status) -> Answer {
    let reason = reason(status);
    let Some(detail) = ErrorDetail::from_status(status) else {
        return if reason == UNREACHABLE {
            Answer::Failed { reason }
        } else {
            Answer::Unknown { reason }
        };
    };
    if let Some(rejected) = rejected(&detail) {
        return rejected;
    }
    match detail.outcome {
        Some(WriteOutcome::NotApplied) => Answer::Failed { reason },
        Some(WriteOutcome::Unknown) | None => Answer::Unknown { reason },
    }
}

/// A read that failed: it has no effect, whatever became of it.
pub(super) fn of_read(status: &Status) -> Answer {
    let rejected = ErrorDetail::from_status(status).and_then(|detail| rejected(&detail));
    rejected.unwrap_or_else(|| Answer::Failed { reason: reason(status) })
}

/// A call of the client library that failed after all its attempts.
pub(super) fn of_library(error: &client::Error, is_read: bool) -> Answer {
    if let Some(rejected) = error.detail().and_then(rejected) {
        return rejected;
    }
    let reason = match error.reason() {
        Some(reason) => reason.name().to_owned(),
        None => format!("{}: {error}", client::code_name(error.code())),
    };
    if is_read || error.outcome() == Some(WriteOutcome::NotApplied) {
        Answer::Failed { reason }
    } else {
        Answer::Unknown { reason }
    }
}

fn rejected(detail: &ErrorDetail) -> Option<Answer> {
    let revision = detail.revision?.as_i64();
    REJECTIONS.contains(&detail.reason).then(|| Answer::Rejected {
        revision,
        reason: detail.reason.name().to_owned(),
    })
}

/// The error table's name of what happened, or the transport's word.
pub(super) fn reason(status: &Status) -> String {
    match ErrorDetail::from_status(status) {
        Some(detail) => detail.reason.name().to_owned(),
        None if is_unreachable(status) => UNREACHABLE.to_owned(),
        None => format!("{:?}: {}", status.code(), innermost(status)),
    }
}

/// Whether the call ended before a connection was there, so that not a byte of it was sent.
fn is_unreachable(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn innermost(status: &Status) -> String {
    let Some(mut last) = status.source() else {
        return status.message().to_owned();
    };
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use roster::model::Revision;

    use super::*;

    fn status(reason: Reason, outcome: Option<WriteOutcome>, revision: Option<u64>) -> Status {
        ErrorDetail {
            outcome,
            revision: revision.map(Revision),
            ..ErrorDetail::new(reason, "as it is")
        }
        .into_status()
    }

    #[test]
    fn only_what_the_error_table_makes_definite_is_definite() {
        use WriteOutcome::{NotApplied, Unknown};
        let failed = |status| matches!(of_write(&status), Answer::Failed { .. });
        let unknown = |status| matches!(of_write(&status), Answer::Unknown { .. });
        assert!(failed(status(Reason::NoLeader, Some(NotApplied), None)));
        assert!(failed(status(Reason::InvalidField, Some(NotApplied), None)));
        assert!(unknown(status(Reason::NoQuorum, Some(Unknown), None)));
        assert!(unknown(status(Reason::LeaderChanged, None, None)));
        assert!(unknown(Status::unavailable("reset by something in between")));
        assert!(unknown(Status::invalid_argument("no word of the registry's own")));
        assert!(unknown(Status::deadline_exceeded("timeout")));
    }

    #[test]
    fn a_refusal_of_the_state_machine_is_a_read_of_the_state() {
        let fenced = status(Reason::Fenced, Some(WriteOutcome::NotApplied), Some(7));
        let rejected = Answer::Rejected {
            revision: 7,
            reason: "FENCED".into(),
        };
        assert_eq!(of_write(&fenced), rejected);
        let missing = of_read(&status(Reason::InstanceNotFound, None, Some(8)));
        assert!(matches!(missing, Answer::Rejected { revision: 8, .. }));
        let elsewhere = of_read(&status(Reason::NoQuorum, None, Some(8)));
        assert!(matches!(elsewhere, Answer::Failed { .. }));
    }

    #[tokio::test]
    async fn a_connection_that_is_refused_has_sent_nothing() {
        let address = crate::loopback::free_address();
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = roster::transport::Connector::default().channel(&endpoint);
        let mut leases = roster::wire::v1::leases_client::LeasesClient::new(channel);
        let refused = leases.revoke_lease(roster::wire::v1::RevokeLeaseRequest { lease_id: 1 });
        let answer = of_write(&refused.await.unwrap_err());
        assert_eq!(
            answer,
            Answer::Failed {
                reason: UNREACHABLE.into()
            }
        );
    }
}
