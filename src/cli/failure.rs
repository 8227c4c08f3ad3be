//! How a command fails: the exit code, the line for people, the object for scripts.

use std::{collections::BTreeMap, io};

use serde::Serialize;
use tonic::Code;

use super::spans;
use crate::{
    client::{Error, code_name},
    wire::error::{Reason, WriteOutcome},
};

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// The words make no sense together, which clap could not know.
    Usage(String),
    /// A call failed.
    Call(Error),
    /// Something else failed, or an answer was "no".
    Failed(String),
    /// Nobody could do it just now.
    Unavailable(String),
    /// It may have been done.
    Unknown(String),
    /// A program could not be started; the code is the shell's.
    CannotStart(String, u8),
    /// Nobody reads the output any more: the end of it, and no word about it.
    ClosedPipe,
    /// The output can't be written.
    Output(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Call(error)
    }
}

impl Failure {
    pub(super) const FAILED: u8 = 1;
    pub(super) const USAGE: u8 = 2;
    pub(super) const UNAVAILABLE: u8 = 3;
    pub(super) const UNKNOWN: u8 = 4;

    /// The exit code.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => Self::USAGE,
            Self::Failed(_) | Self::Output(_) => Self::FAILED,
            Self::Unavailable(_) => Self::UNAVAILABLE,
            Self::Unknown(_) => Self::UNKNOWN,
            Self::CannotStart(_, code) => *code,
            Self::ClosedPipe => 0,
            Self::Call(error) => {
                if error.outcome() == Some(WriteOutcome::Unknown) || error.reason() == Some(Reason::OutcomeUnknown) {
                    return Self::UNKNOWN;
                }
                match error.code() {
                    Code::Unavailable | Code::DeadlineExceeded => Self::UNAVAILABLE,
                    _ => Self::FAILED,
                }
            }
        }
    }

    /// One line that says what happened and what to do.
    pub(super) fn line(&self) -> String {
        let text = match self {
            Self::Usage(text)
            | Self::Failed(text)
            | Self::Unavailable(text)
            | Self::Unknown(text)
            | Self::CannotStart(text, _) => text.clone(),
            Self::Output(error) => format!("cannot write the output: {error}"),
            Self::ClosedPipe => String::new(),
            Self::Call(error) => called(error),
        };
        // Whatever an answer holds: one line, and nothing that a terminal would obey.
        text.replace(['\n', '\r', '\t'], " ").replace(char::is_control, "?")
    }

    /// The same as an object: `{code, reason, message, outcome, details}`.
    pub(super) fn object(&self) -> ErrorObject {
        match self {
            Self::Call(error) => ErrorObject::of_call(error),
            Self::Usage(_) => self.plain(Code::InvalidArgument, None),
            Self::Unavailable(_) => self.plain(Code::Unavailable, None),
            Self::Unknown(_) => self.plain(Code::DeadlineExceeded, Some(WriteOutcome::Unknown)),
            Self::Failed(_) | Self::CannotStart(..) => self.plain(Code::FailedPrecondition, None),
            Self::Output(_) | Self::ClosedPipe => self.plain(Code::Internal, None),
        }
    }

    fn plain(&self, code: Code, outcome: Option<WriteOutcome>) -> ErrorObject {
        ErrorObject {
            code: code_name(code),
            reason: None,
            message: self.line(),
            outcome: outcome.map(WriteOutcome::name),
            details: Details::default(),
        }
    }
}

/// A failed call in one line: what, and what to do about it.
fn called(error: &Error) -> String {
    let mut line = error.to_string();
    if let Some(detail) = error.detail() {
        for (field, problem) in &detail.violations {
            // Messages often name the first field already.
            if !line.contains(field.as_str()) || !line.contains(problem.as_str()) {
                line.push_str(&format!("; {field} {problem}"));
            }
        }
    }
    if let Some(advice) = advice(error) {
        line.push_str("; ");
        line.push_str(advice);
    }
    if error.outcome() == Some(WriteOutcome::Unknown) {
        line.push_str("; it may have been applied: look before you repeat it");
    }
    line
}

fn advice(error: &Error) -> Option<&'static str> {
    match error {
        Error::Unreachable { .. } => {
            Some("is the cluster running there? say where with --endpoints or ROSTER_ENDPOINTS")
        }
        Error::Foreign { .. } => Some("is this a Roster node's client port?"),
        Error::NoAnswer { .. } => Some("try again, or allow more with --timeout"),
        Error::Broken { .. } | Error::PagesExpired { .. } => Some("try again"),
        Error::Incomplete { .. } => Some("client and server are of different versions"),
        Error::Refused { detail, .. } => match detail.reason {
            Reason::NoLeader | Reason::NoQuorum => {
                Some("see who is missing with `roster cluster status`; `--stale` reads what this node has")
            }
            Reason::LeaderChanged | Reason::ShuttingDown | Reason::NotReady | Reason::Overloaded => Some("try again"),
            Reason::TooStale => Some("allow more with --max-age, or read without --stale"),
            Reason::InstanceNotFound => Some("`roster list` shows what there is"),
            Reason::LeaseNotFound => Some("`roster lease list` shows what there is; register again"),
            Reason::LeaseExists => Some("take another id, or the TTL that it has"),
            Reason::RevisionMismatch => Some("read it again and decide anew"),
            Reason::Fenced => Some(
                "a later life of the instance stands there, or did within a day; `--incarnation $(date +%s%N)` begins a \
                 new one",
            ),
            Reason::RevisionInFuture => Some("is this the cluster that the position came from?"),
            Reason::DiskFull => Some("free space on the nodes' disks"),
            Reason::TokenInvalid | Reason::NotAllowed => Some("ask whoever runs the cluster"),
            Reason::MemberNotFound => Some("`roster cluster members` shows who there is"),
            Reason::InvalidField
            | Reason::PageExpired
            | Reason::LastVoter
            | Reason::MembershipInProgress
            | Reason::NotCaughtUp
            | Reason::TooManyInstances
            | Reason::TooManyLeases
            | Reason::TooManyWatches
            | Reason::OutcomeUnknown => None,
        },
    }
}

/// A failure for scripts. Every field is there, `null` where there is nothing to say.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ErrorObject {
    code: &'static str,
    reason: Option<&'static str>,
    message: String,
    outcome: Option<&'static str>,
    details: Details,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    endpoint: Option<String>,
    leader: Option<String>,
    /// A 64-bit number, so a string, as in the API's JSON.
    revision: Option<String>,
    metadata: BTreeMap<String, String>,
    field_violations: Vec<FieldViolation>,
    retry_after: Option<String>,
    quota: Option<Quota>,
    resource: Option<Resource>,
}

#[derive(Debug, Serialize)]
struct FieldViolation {
    field: String,
    description: String,
}

#[derive(Debug, Serialize)]
struct Quota {
    subject: String,
    description: String,
}

#[derive(Debug, Serialize)]
struct Resource {
    r#type: String,
    name: String,
}

impl ErrorObject {
    /// A failed call as an object.
    pub(super) fn of_call(error: &Error) -> Self {
        let mut details = Details {
            endpoint: error.endpoint().map(str::to_owned),
            ..Details::default()
        };
        let mut message = error.to_string();
        if let Some(detail) = error.detail() {
            detail.message.clone_into(&mut message);
            details.leader.clone_from(&detail.leader);
            details.revision = detail.revision.map(|revision| revision.to_string());
            details.metadata.clone_from(&detail.metadata);
            details.field_violations = detail
                .violations
                .iter()
                .map(|(field, description)| FieldViolation {
                    field: field.clone(),
                    description: description.clone(),
                })
                .collect();
            details.retry_after = detail.retry_after.map(spans::json);
            details.quota = detail
                .quota
                .clone()
                .map(|(subject, description)| Quota { subject, description });
            details.resource = detail.resource.clone().map(|(r#type, name)| Resource { r#type, name });
        }
        Self {
            code: code_name(error.code()),
            reason: error.reason().map(Reason::name),
            message,
            outcome: error.outcome().map(WriteOutcome::name),
            details,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wire::error::ErrorDetail;

    fn refused(reason: Reason, outcome: Option<WriteOutcome>) -> Failure {
        Failure::Call(Error::Refused {
            endpoint: "n1:7400".into(),
            detail: Box::new(ErrorDetail {
                outcome,
                ..ErrorDetail::new(reason, "as it is")
            }),
        })
    }

    #[test]
    fn each_failure_has_its_exit_code() {
        use WriteOutcome::{NotApplied, Unknown};
        let no_answer = |outcome| {
            Failure::Call(Error::NoAnswer {
                endpoint: "n1:7400".into(),
                waited: Duration::from_secs(1),
                outcome,
            })
        };
        for (failure, code) in [
            (refused(Reason::InvalidField, Some(NotApplied)), 1),
            (refused(Reason::InstanceNotFound, None), 1),
            (refused(Reason::Fenced, Some(NotApplied)), 1),
            (Failure::Failed("no".into()), 1),
            (Failure::Usage("what?".into()), 2),
            (refused(Reason::NoLeader, None), 3),
            (refused(Reason::NoQuorum, Some(NotApplied)), 3),
            (no_answer(None), 3),
            (refused(Reason::LeaderChanged, Some(Unknown)), 4),
            (refused(Reason::OutcomeUnknown, None), 4),
            (no_answer(Some(Unknown)), 4),
            (Failure::ClosedPipe, 0),
        ] {
            assert_eq!(failure.exit_code(), code, "{failure:?}");
        }
    }

    #[test]
    fn a_failure_is_one_line_whatever_an_answer_holds() {
        let failure = Failure::Call(Error::Foreign {
            endpoint: "n1:7400".into(),
            code: Code::Internal,
            message: "two\nlines\x1b[31m".into(),
            outcome: None,
        });
        let line = failure.line();
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.contains("n1:7400 answered INTERNAL: two lines"), "{line}");
    }

    #[test]
    fn the_object_names_code_reason_outcome_and_details() {
        let failure = Failure::Call(Error::Refused {
            endpoint: "n1:7400".into(),
            detail: Box::new(ErrorDetail {
                outcome: Some(WriteOutcome::NotApplied),
                violations: vec![("instance.address".into(), "must not be empty".into())],
                retry_after: None,
                ..ErrorDetail::new(Reason::InvalidField, "1 field is invalid")
            }),
        });
        let json = serde_json::to_value(failure.object()).expect("plain data");
        assert_eq!(json["code"], "INVALID_ARGUMENT");
        assert_eq!(json["reason"], "INVALID_FIELD");
        assert_eq!(json["message"], "1 field is invalid");
        assert_eq!(json["outcome"], "not_applied");
        assert_eq!(json["details"]["fieldViolations"][0]["field"], "instance.address");
        assert_eq!(json["details"]["leader"], serde_json::Value::Null);
    }

    #[test]
    fn the_line_names_the_fields_and_says_what_to_do() {
        let failure = Failure::Call(Error::Refused {
            endpoint: "n1:7400".into(),
            detail: Box::new(ErrorDetail {
                violations: vec![("instance.address".into(), "must not be empty".into())],
                ..ErrorDetail::new(Reason::InvalidField, "1 field is invalid")
            }),
        });
        assert_eq!(
            failure.line(),
            "INVALID_FIELD: 1 field is invalid; instance.address must not be empty"
        );
        assert!(refused(Reason::NoQuorum, None).line().contains("roster cluster status"));
    }
}
