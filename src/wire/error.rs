//! Errors as the API tells them: one reason each, one gRPC code for each reason, and the details that go with it.
//!
//! ```text
//! google.rpc.Status { code, message, details }
//!   ErrorInfo     { reason, domain: "roster", metadata: outcome, leader, revision, … }     always
//!   RetryInfo     when it is worth trying again
//!   BadRequest    INVALID_FIELD: which fields, by their paths
//!   QuotaFailure  the limit that was reached
//!   ResourceInfo  what was not found, or stands in the way
//! ```
//!
//! [`ErrorDetail::into_status`] and [`ErrorDetail::from_status`] stand side by side and read back what the other
//! writes. Nothing is ever read from the message.

use std::{collections::BTreeMap, time::Duration};

use prost::Message as _;
use tonic::Code;
use tonic_types::pb;

use super::{
    FieldErrors,
    span::{span_from_proto, span_to_proto},
};
use crate::model::Revision;

/// The domain of every reason below.
pub const DOMAIN: &str = "roster";
/// The longest message; longer ones are cut. It travels in a trailer.
const MESSAGE_MAX_BYTES: usize = 1 << 10;
const OUTCOME: &str = "outcome";
const LEADER: &str = "leader";
const REVISION: &str = "revision";
const TYPE_URL_PREFIX: &str = "type.googleapis.com/google.rpc.";

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident = $name:literal, $code:ident, $retry_ms:expr;)*) => {
        /// Why a call failed. Programs decide by this, never by the message.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $reason,)*
        }

        impl Reason {
            /// All of them, in the order of the design's table.
            pub const ALL: &'static [Self] = &[$(Self::$reason),*];

            /// Its name on the wire.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$reason => $name,)* }
            }

            /// The gRPC code that it comes under.
            #[must_use]
            pub fn code(self) -> Code {
                match self { $(Self::$reason => Code::$code,)* }
            }

            /// How long to wait before trying again, where that is worth it.
            #[must_use]
            pub fn retry_after(self) -> Option<Duration> {
                let ms: Option<u64> = match self { $(Self::$reason => $retry_ms,)* };
                ms.map(Duration::from_millis)
            }
        }
    };
}

reasons! {
    /// No leader is known.
    NoLeader = "NO_LEADER", Unavailable, Some(200);
    /// No majority of the cluster answers.
    NoQuorum = "NO_QUORUM", Unavailable, Some(500);
    /// Leadership moved while the call was under way.
    LeaderChanged = "LEADER_CHANGED", Unavailable, Some(100);
    /// The node stops; others serve.
    ShuttingDown = "SHUTTING_DOWN", Unavailable, Some(100);
    /// The node begins, and can't answer yet.
    NotReady = "NOT_READY", Unavailable, Some(500);
    /// The node's state is older than the caller takes.
    TooStale = "TOO_STALE", Unavailable, Some(500);
    /// A field of the request breaks a rule.
    InvalidField = "INVALID_FIELD", InvalidArgument, None;
    /// There is no such instance.
    InstanceNotFound = "INSTANCE_NOT_FOUND", NotFound, None;
    /// There is no such lease, or no more.
    LeaseNotFound = "LEASE_NOT_FOUND", NotFound, None;
    /// There is no such member.
    MemberNotFound = "MEMBER_NOT_FOUND", NotFound, None;
    /// The lease exists with another TTL.
    LeaseExists = "LEASE_EXISTS", AlreadyExists, None;
    /// The record's last change is another than the caller expects.
    RevisionMismatch = "REVISION_MISMATCH", Aborted, None;
    /// The revision that the page token pins is gone; the list begins anew.
    PageExpired = "PAGE_EXPIRED", Aborted, None;
    /// A later life of the instance stands, or stood, at its key.
    Fenced = "FENCED", FailedPrecondition, None;
    /// The last voter can't leave.
    LastVoter = "LAST_VOTER", FailedPrecondition, None;
    /// Another change of the membership is under way.
    MembershipInProgress = "MEMBERSHIP_IN_PROGRESS", FailedPrecondition, None;
    /// The learner's log is too far behind.
    NotCaughtUp = "NOT_CAUGHT_UP", FailedPrecondition, None;
    /// The revision asked for lies beyond the cluster's.
    RevisionInFuture = "REVISION_IN_FUTURE", OutOfRange, None;
    /// The cluster or the lease holds as many instances as it may.
    TooManyInstances = "TOO_MANY_INSTANCES", ResourceExhausted, Some(5_000);
    /// The cluster has as many leases as it may.
    TooManyLeases = "TOO_MANY_LEASES", ResourceExhausted, Some(5_000);
    /// The stream or the node has as many watches as it may.
    TooManyWatches = "TOO_MANY_WATCHES", ResourceExhausted, Some(5_000);
    /// More waits than the node takes on.
    Overloaded = "OVERLOADED", ResourceExhausted, Some(500);
    /// The node's disk is full.
    DiskFull = "DISK_FULL", ResourceExhausted, Some(5_000);
    /// The deadline passed; a write may yet take effect.
    OutcomeUnknown = "OUTCOME_UNKNOWN", DeadlineExceeded, None;
    /// The token is missing, unknown or expired.
    TokenInvalid = "TOKEN_INVALID", Unauthenticated, None;
    /// The token does not allow this.
    NotAllowed = "NOT_ALLOWED", PermissionDenied, None;
}

impl Reason {
    /// The reason of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }
}

/// What became of a write that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WriteOutcome {
    /// It had no effect and will have none.
    NotApplied,
    /// It may have taken effect, or may yet.
    Unknown,
}

impl WriteOutcome {
    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotApplied => "not_applied",
            Self::Unknown => "unknown",
        }
    }

    /// The outcome of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::NotApplied, Self::Unknown]
            .into_iter()
            .find(|outcome| outcome.name() == name)
    }
}

/// Everything that an error says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorDetail {
    /// Why.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// Of a write: whether it had an effect.
    pub outcome: Option<WriteOutcome>,
    /// The leader's name, where one is known and matters.
    pub leader: Option<String>,
    /// The registry's or the record's revision, where it is known and matters.
    pub revision: Option<Revision>,
    /// What else there is to know. `outcome`, `leader` and `revision` have fields of their own above.
    pub metadata: BTreeMap<String, String>,
    /// (field path, problem) of each field that breaks a rule.
    pub violations: Vec<(String, String)>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// (subject, description) of the limit that was reached.
    pub quota: Option<(String, String)>,
    /// (type, name) of what is missing or stands in the way.
    pub resource: Option<(String, String)>,
}

impl ErrorDetail {
    /// An error of that reason, with the reason's usual time to wait.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: cut(message.into()),
            outcome: None,
            leader: None,
            revision: None,
            metadata: BTreeMap::new(),
            violations: Vec::new(),
            retry_after: reason.retry_after(),
            quota: None,
            resource: None,
        }
    }

    /// The error as a call ends with it.
    #[must_use]
    pub fn into_status(self) -> tonic::Status {
        let status = self.into_proto();
        let bytes = status.encode_to_vec().into();
        tonic::Status::with_details(Code::from_i32(status.code), status.message, bytes)
    }

    /// Reads the error of a call; `None` when it is none of Roster's, or of a reason that this version does not know.
    #[must_use]
    pub fn from_status(status: &tonic::Status) -> Option<Self> {
        let mut details = pb::Status::decode(status.details()).ok()?;
        status.message().clone_into(&mut details.message);
        Self::from_proto(&details)
    }

    /// The error as a message holds it: a watch's CANCELED.
    #[must_use]
    pub fn into_proto(self) -> pb::Status {
        let mut details = Vec::new();
        let mut metadata = self.metadata;
        let mut tell = |key: &str, value: Option<String>| value.map(|value| metadata.insert(key.into(), value));
        tell(OUTCOME, self.outcome.map(|outcome| outcome.name().into()));
        tell(LEADER, self.leader);
        tell(REVISION, self.revision.map(|revision| revision.to_string()));
        pack(
            &mut details,
            &pb::ErrorInfo {
                reason: self.reason.name().into(),
                domain: DOMAIN.into(),
                metadata: metadata.into_iter().collect(),
            },
        );
        if let Some(delay) = self.retry_after {
            pack(
                &mut details,
                &pb::RetryInfo {
                    retry_delay: Some(span_to_proto(delay)),
                },
            );
        }
        if !self.violations.is_empty() {
            let field_violations =
                self.violations
                    .into_iter()
                    .map(|(field, description)| pb::bad_request::FieldViolation {
                        field,
                        description,
                        ..Default::default()
                    });
            pack(
                &mut details,
                &pb::BadRequest {
                    field_violations: field_violations.collect(),
                },
            );
        }
        if let Some((subject, description)) = self.quota {
            let violation = pb::quota_failure::Violation {
                subject,
                description,
                ..Default::default()
            };
            pack(
                &mut details,
                &pb::QuotaFailure {
                    violations: vec![violation],
                },
            );
        }
        if let Some((resource_type, resource_name)) = self.resource {
            pack(
                &mut details,
                &pb::ResourceInfo {
                    resource_type,
                    resource_name,
                    ..Default::default()
                },
            );
        }
        pb::Status {
            code: self.reason.code().into(),
            message: self.message,
            details,
        }
    }

    /// Reads the error from a message; `None` as in [`Self::from_status`].
    #[must_use]
    pub fn from_proto(status: &pb::Status) -> Option<Self> {
        let info: pb::ErrorInfo = unpack(status)?;
        if info.domain != DOMAIN {
            return None;
        }
        let mut metadata: BTreeMap<String, String> = info.metadata.into_iter().collect();
        let violations = unpack::<pb::BadRequest>(status).unwrap_or_default().field_violations;
        Some(Self {
            reason: Reason::from_name(&info.reason)?,
            message: status.message.clone(),
            outcome: metadata.remove(OUTCOME).and_then(|name| WriteOutcome::from_name(&name)),
            leader: metadata.remove(LEADER),
            revision: metadata
                .remove(REVISION)
                .and_then(|number| number.parse().ok())
                .map(Revision),
            metadata,
            violations: violations
                .into_iter()
                .map(|field| (field.field, field.description))
                .collect(),
            retry_after: unpack::<pb::RetryInfo>(status)
                .and_then(|retry| retry.retry_delay)
                .and_then(span_from_proto),
            quota: unpack::<pb::QuotaFailure>(status)
                .and_then(|quota| quota.violations.into_iter().next())
                .map(|violation| (violation.subject, violation.description)),
            resource: unpack::<pb::ResourceInfo>(status)
                .map(|resource| (resource.resource_type, resource.resource_name)),
        })
    }
}

impl From<FieldErrors> for ErrorDetail {
    /// Nothing has changed: the request was not even tried.
    fn from(errors: FieldErrors) -> Self {
        let mut detail = Self::new(Reason::InvalidField, errors.to_string());
        detail.violations = errors
            .violations()
            .iter()
            .map(|field| (field.path.clone(), field.problem.clone()))
            .collect();
        detail
    }
}

/// The details that a status may carry, by the end of their type URLs.
trait Detail: prost::Message + Default {
    const NAME: &'static str;
}

macro_rules! details {
    ($($message:ident)*) => {
        $(impl Detail for pb::$message {
            const NAME: &'static str = stringify!($message);
        })*
    };
}

details! { ErrorInfo RetryInfo BadRequest QuotaFailure ResourceInfo }

fn pack<D: Detail>(details: &mut Vec<prost_types::Any>, detail: &D) {
    details.push(prost_types::Any {
        type_url: format!("{TYPE_URL_PREFIX}{}", D::NAME),
        value: detail.encode_to_vec(),
    });
}

fn unpack<D: Detail>(status: &pb::Status) -> Option<D> {
    let is_it = |any: &&prost_types::Any| any.type_url.strip_prefix(TYPE_URL_PREFIX) == Some(D::NAME);
    D::decode(status.details.iter().find(is_it)?.value.as_slice()).ok()
}

fn cut(mut message: String) -> String {
    if message.len() > MESSAGE_MAX_BYTES {
        let end = (0..=MESSAGE_MAX_BYTES)
            .rev()
            .find(|&at| message.is_char_boundary(at))
            .unwrap_or(0);
        message.truncate(end);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error table of the API, row by row.
    const TABLE: &[(Code, &[&str])] = &[
        (
            Code::Unavailable,
            &[
                "NO_LEADER",
                "NO_QUORUM",
                "LEADER_CHANGED",
                "SHUTTING_DOWN",
                "NOT_READY",
                "TOO_STALE",
            ],
        ),
        (Code::InvalidArgument, &["INVALID_FIELD"]),
        (
            Code::NotFound,
            &["INSTANCE_NOT_FOUND", "LEASE_NOT_FOUND", "MEMBER_NOT_FOUND"],
        ),
        (Code::AlreadyExists, &["LEASE_EXISTS"]),
        (Code::Aborted, &["REVISION_MISMATCH", "PAGE_EXPIRED"]),
        (
            Code::FailedPrecondition,
            &["FENCED", "LAST_VOTER", "MEMBERSHIP_IN_PROGRESS", "NOT_CAUGHT_UP"],
        ),
        (Code::OutOfRange, &["REVISION_IN_FUTURE"]),
        (
            Code::ResourceExhausted,
            &[
                "TOO_MANY_INSTANCES",
                "TOO_MANY_LEASES",
                "TOO_MANY_WATCHES",
                "OVERLOADED",
                "DISK_FULL",
            ],
        ),
        (Code::DeadlineExceeded, &["OUTCOME_UNKNOWN"]),
        (Code::Unauthenticated, &["TOKEN_INVALID"]),
        (Code::PermissionDenied, &["NOT_ALLOWED"]),
    ];

    #[test]
    fn each_reason_has_the_code_that_the_design_gives_it() {
        let told: Vec<_> = TABLE
            .iter()
            .flat_map(|(code, names)| names.iter().map(|name| (*name, *code)))
            .collect();
        let known: Vec<_> = Reason::ALL
            .iter()
            .map(|reason| (reason.name(), reason.code()))
            .collect();
        assert_eq!(known, told);
        for reason in Reason::ALL {
            assert_eq!(Reason::from_name(reason.name()), Some(*reason));
            let retried = matches!(reason.code(), Code::Unavailable | Code::ResourceExhausted);
            assert_eq!(reason.retry_after().is_some(), retried, "{}", reason.name());
        }
    }

    #[test]
    fn an_error_of_someone_else_is_none_of_ours() {
        assert_eq!(
            ErrorDetail::from_status(&tonic::Status::unavailable("tcp connect error")),
            None
        );
        assert_eq!(
            ErrorDetail::from_status(&tonic::Status::with_details(Code::Aborted, "", vec![0xff; 9].into())),
            None
        );
        let mut foreign = ErrorDetail::new(Reason::Fenced, "").into_proto();
        for any in &mut foreign.details {
            let info = pb::ErrorInfo {
                reason: "FENCED".into(),
                domain: "elsewhere".into(),
                ..Default::default()
            };
            any.value = info.encode_to_vec();
        }
        assert_eq!(ErrorDetail::from_proto(&foreign), None);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let detail = ErrorDetail::new(Reason::Fenced, "ä".repeat(10_000));
        assert_eq!(detail.message.len(), MESSAGE_MAX_BYTES);
    }
}
