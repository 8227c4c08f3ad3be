//! What can go wrong with a call, and what is known about its effect.

use std::{error::Error as _, time::Duration};

use tonic::{Code, ConnectError, Status, TimeoutExpired};

use crate::wire::error::{ErrorDetail, Reason, WriteOutcome};

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A node refused, or could not do it, and said why.
    #[error("{}: {}", detail.reason.name(), detail.message)]
    Refused {
        /// Which node, `host:port`.
        endpoint: String,
        /// What it said.
        detail: Box<ErrorDetail>,
    },
    /// Something answered that is no Roster node, or a node in a way that this client does not know.
    #[error("{endpoint} answered {}: {message}", code_name(*code))]
    Foreign {
        /// Who, `host:port`.
        endpoint: String,
        /// The code of its answer.
        code: Code,
        /// The text of its answer.
        message: String,
        /// For a write: whether it may have been applied.
        outcome: Option<WriteOutcome>,
    },
    /// No connection came about, so nothing was sent.
    #[error("cannot connect to {endpoint}: {problem}")]
    Unreachable {
        /// To where, `host:port`.
        endpoint: String,
        /// What the operating system said.
        problem: String,
        /// For a write: whether an attempt before this one may have been applied.
        outcome: Option<WriteOutcome>,
    },
    /// The connection broke while an answer was awaited, or a stream on it did.
    #[error("the connection to {endpoint} broke: {problem}")]
    Broken {
        /// To where, `host:port`.
        endpoint: String,
        /// What broke it.
        problem: String,
        /// For a write: whether it may have been applied.
        outcome: Option<WriteOutcome>,
    },
    /// No answer came in time.
    #[error("{endpoint} did not answer within {}", humantime::format_duration(rounded(*waited)))]
    NoAnswer {
        /// Who was asked last, `host:port`.
        endpoint: String,
        /// How long was waited.
        waited: Duration,
        /// For a write: whether it may have been applied.
        outcome: Option<WriteOutcome>,
    },
    /// An answer without something that the API promises.
    #[error("{endpoint} sent an answer without {missing}")]
    Incomplete {
        /// Who, `host:port`.
        endpoint: String,
        /// What is missing.
        missing: &'static str,
    },
    /// A page token ran out again and again while a list was read.
    #[error("the list changed hands {attempts} times before it was read to its end")]
    PagesExpired {
        /// How often it was begun.
        attempts: u32,
    },
}

/// Whole milliseconds: no one reads the nanoseconds of a time-out.
fn rounded(span: Duration) -> Duration {
    Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

/// The name of a gRPC code, as its documentation writes it.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

impl Error {
    pub(super) fn unreachable(endpoint: String, problem: String) -> Self {
        Self::Unreachable {
            endpoint,
            problem,
            outcome: None,
        }
    }

    /// A stream that a node ended without a word.
    pub(super) fn ended(endpoint: String) -> Self {
        Self::Broken {
            endpoint,
            problem: "the node ended the stream".into(),
            outcome: None,
        }
    }

    /// What a status from `endpoint` means, after so long a wait.
    pub(crate) fn from_status(status: &Status, endpoint: String, waited: Duration) -> Self {
        if let Some(detail) = ErrorDetail::from_status(status) {
            return Self::Refused {
                endpoint,
                detail: Box::new(detail),
            };
        }
        if in_chain::<TimeoutExpired>(status).is_some() {
            return Self::NoAnswer {
                endpoint,
                waited,
                outcome: None,
            };
        }
        if let Some(connect) = in_chain::<ConnectError>(status) {
            return Self::unreachable(endpoint, innermost(connect));
        }
        // Only what went wrong on this side has a source; an answer of the other side has none.
        match status.source() {
            Some(source) => Self::Broken {
                endpoint,
                problem: innermost(source),
                outcome: None,
            },
            None if status.code() == Code::DeadlineExceeded => Self::NoAnswer {
                endpoint,
                waited,
                outcome: None,
            },
            None => Self::Foreign {
                endpoint,
                code: status.code(),
                message: status.message().into(),
                outcome: None,
            },
        }
    }

    /// What the status inside a message means: a watch's CANCELED.
    pub(super) fn from_message(status: &tonic_types::Status, endpoint: String) -> Self {
        match ErrorDetail::from_proto(status) {
            Some(detail) => Self::Refused {
                endpoint,
                detail: Box::new(detail),
            },
            None => Self::Foreign {
                endpoint,
                code: Code::from(status.code),
                message: status.message.clone(),
                outcome: None,
            },
        }
    }

    /// The gRPC code that belongs to it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Refused { detail, .. } => detail.reason.code(),
            Self::Foreign { code, .. } => *code,
            Self::Unreachable { .. } | Self::Broken { .. } => Code::Unavailable,
            Self::NoAnswer { .. } => Code::DeadlineExceeded,
            Self::Incomplete { .. } => Code::Internal,
            Self::PagesExpired { .. } => Code::Aborted,
        }
    }

    /// The reason that a node named.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.detail().map(|detail| detail.reason)
    }

    /// All that a node said.
    #[must_use]
    pub fn detail(&self) -> Option<&ErrorDetail> {
        match self {
            Self::Refused { detail, .. } => Some(detail),
            _ => None,
        }
    }

    /// For a failed write: whether it was not applied, or may have been. `None` for anything else.
    #[must_use]
    pub fn outcome(&self) -> Option<WriteOutcome> {
        match self {
            Self::Refused { detail, .. } => detail.outcome,
            Self::Foreign { outcome, .. }
            | Self::Unreachable { outcome, .. }
            | Self::Broken { outcome, .. }
            | Self::NoAnswer { outcome, .. } => *outcome,
            Self::Incomplete { .. } | Self::PagesExpired { .. } => None,
        }
    }

    /// Which node it came from, `host:port`.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        match self {
            Self::Refused { endpoint, .. }
            | Self::Foreign { endpoint, .. }
            | Self::Unreachable { endpoint, .. }
            | Self::Broken { endpoint, .. }
            | Self::NoAnswer { endpoint, .. }
            | Self::Incomplete { endpoint, .. } => Some(endpoint),
            Self::PagesExpired { .. } => None,
        }
    }

    /// Whether nobody could do it just now: no connection, no leader, no quorum. The same call may succeed later.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        self.code() == Code::Unavailable
    }

    /// Whether another node may do what this one could not.
    pub(super) fn may_go_elsewhere(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } | Self::NoAnswer { .. } => true,
            Self::Refused { detail, .. } => {
                detail.reason.code() == Code::Unavailable
                    || matches!(
                        detail.reason,
                        Reason::Overloaded | Reason::TooManyWatches | Reason::OutcomeUnknown
                    )
            }
            Self::Foreign { code, .. } => *code == Code::Unavailable,
            Self::Incomplete { .. } | Self::PagesExpired { .. } => false,
        }
    }

    /// Whether a write that failed so has certainly not been applied by *this* attempt.
    pub(super) fn is_not_applied(&self) -> bool {
        match self {
            // Nothing was sent.
            Self::Unreachable { .. } => true,
            Self::Refused { detail, .. } => match detail.outcome {
                Some(WriteOutcome::NotApplied) => true,
                Some(WriteOutcome::Unknown) => false,
                // A refusal that names no outcome is one of the request itself.
                None => !matches!(detail.reason.code(), Code::Unavailable | Code::DeadlineExceeded),
            },
            Self::Foreign { code, .. } => matches!(
                code,
                Code::Unimplemented | Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied
            ),
            Self::Broken { .. } | Self::NoAnswer { .. } | Self::Incomplete { .. } | Self::PagesExpired { .. } => false,
        }
    }

    /// The same error of a write of which this is known.
    pub(super) fn of_write(mut self, known: WriteOutcome) -> Self {
        match &mut self {
            Self::Refused { detail, .. } => detail.outcome = Some(known),
            Self::Foreign { outcome, .. }
            | Self::Unreachable { outcome, .. }
            | Self::Broken { outcome, .. }
            | Self::NoAnswer { outcome, .. } => *outcome = Some(known),
            Self::Incomplete { .. } | Self::PagesExpired { .. } => {}
        }
        self
    }
}

/// The first error of this type among the sources of a status.
fn in_chain<E: std::error::Error + 'static>(status: &Status) -> Option<&E> {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        source = error.source();
    }
    None
}

/// The words of the last error in the chain: the one that knows what happened.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(reason: Reason, outcome: Option<WriteOutcome>) -> Error {
        Error::Refused {
            endpoint: "n1:7400".into(),
            detail: Box::new(ErrorDetail {
                outcome,
                ..ErrorDetail::new(reason, "as it is")
            }),
        }
    }

    #[test]
    fn a_refusal_survives_the_way_through_a_status() {
        let status = ErrorDetail {
            outcome: Some(WriteOutcome::NotApplied),
            leader: Some("n2".into()),
            ..ErrorDetail::new(Reason::NoQuorum, "no quorum for 2 s")
        }
        .into_status();
        let error = Error::from_status(&status, "n1:7400".into(), Duration::ZERO);
        assert_eq!(error.reason(), Some(Reason::NoQuorum));
        assert_eq!(error.outcome(), Some(WriteOutcome::NotApplied));
        assert!(error.is_unavailable() && error.may_go_elsewhere() && error.is_not_applied());
        assert_eq!(error.to_string(), "NO_QUORUM: no quorum for 2 s");
    }

    #[test]
    fn a_status_of_something_else_is_foreign_and_unknown() {
        let error = Error::from_status(&Status::internal("oops"), "n1:7400".into(), Duration::ZERO);
        assert!(matches!(
            error,
            Error::Foreign {
                code: Code::Internal,
                ..
            }
        ));
        assert!(!error.may_go_elsewhere() && !error.is_not_applied());
    }

    #[test]
    fn a_refusal_of_the_request_stays_where_it_is() {
        for reason in [Reason::InvalidField, Reason::Fenced, Reason::InstanceNotFound] {
            let error = detail(reason, None);
            assert!(!error.may_go_elsewhere(), "{error}");
            assert!(error.is_not_applied(), "{error}");
        }
    }

    #[test]
    fn an_unavailable_node_that_names_no_outcome_may_have_applied_the_write() {
        assert!(!detail(Reason::LeaderChanged, None).is_not_applied());
        assert!(detail(Reason::LeaderChanged, Some(WriteOutcome::NotApplied)).is_not_applied());
    }
}
