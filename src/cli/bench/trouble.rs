//! What may go wrong with a call, in words that can be counted.

use std::time::Duration;

use tonic::Status;

use super::{super::failure::Failure, measure::Trouble};
use crate::client::{Error, code_name};

impl Trouble {
    /// The end of a run that could not do this.
    pub(super) fn failure(self, what: &str) -> Failure {
        Failure::Failed(format!("cannot {what}: {}: {}", self.reason, self.message))
    }
}

/// The API's reason; where there is none, the gRPC code or how the call went wrong on its way.
impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        let error = Error::from_status(&status, "the node".into(), Duration::ZERO);
        let reason = match &error {
            Error::Refused { detail, .. } => return Self::new(detail.reason.name(), &*detail.message),
            Error::Foreign { code, message, .. } => return Self::new(code_name(*code), message),
            Error::Unreachable { .. } => "UNREACHABLE",
            Error::Broken { .. } => "BROKEN",
            Error::NoAnswer { .. } => return Self::new("NO_ANSWER", "it took longer than it may"),
            Error::Incomplete { .. } | Error::PagesExpired { .. } => code_name(error.code()),
        };
        Self::new(reason, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::error::{ErrorDetail, Reason};

    #[test]
    fn trouble_is_counted_by_the_reason_or_else_by_what_is_known() {
        let refused = ErrorDetail::new(Reason::NoQuorum, "none").into_status();
        assert_eq!(Trouble::from(refused), Trouble::new("NO_QUORUM", "none"));
        assert_eq!(
            Trouble::from(Status::internal("oops")),
            Trouble::new("INTERNAL", "oops")
        );
        let broken = Status::from_error(Box::new(std::io::Error::other("reset by peer")));
        let trouble = Trouble::from(broken);
        assert_eq!(trouble.reason, "BROKEN");
        assert!(trouble.message.contains("reset by peer"), "{}", trouble.message);
    }
}
