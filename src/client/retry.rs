//! When a call that failed is tried again, and when it is given up: decided from what happened, without I/O and with
//! the time as an argument.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use super::error::Error;
use crate::wire::error::{Reason, WriteOutcome};

/// The pause after the first round through all nodes.
const PAUSE_MIN: Duration = Duration::from_millis(25);
/// The longest pause between rounds. Short: an election takes well under a second.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// How much longer a node that is overloaded may ask for.
const ASKED_MAX: Duration = Duration::from_secs(2);
/// How long one attempt may take when others may follow: a node that neither answers nor refuses (stopped, behind a
/// silent firewall) must not eat the whole deadline.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// The same for a write that can't be repeated: longer, for cutting it short leaves its outcome unknown; less than the
/// 5 s after which a node gives up, so that the node's word comes in time for the next one.
const ONCE_MAX: Duration = Duration::from_secs(4);
/// What is left for an attempt at the least, so that the last one before giving up has a chance.
const ATTEMPT_MIN: Duration = Duration::from_millis(100);
/// Attempts of one call; the deadline ends it long before.
const ATTEMPTS_MAX: u32 = 1_000;

/// What may be done with a call whose fate is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Safety {
    /// It changes nothing: it may be repeated.
    Read,
    /// A write that may be repeated blindly: twice is as good as once.
    Repeatable,
    /// A write that may be repeated only when it was certainly not applied.
    Once,
}

/// How long a call is tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// All of it.
    pub(super) timeout: Duration,
    /// How long while every node says that it can't.
    pub(super) unavailable: Duration,
    /// How long while no node can be connected to at all.
    pub(super) unreachable: Duration,
    /// What its pauses are jittered by; `None` = chance.
    pub(super) jitter_seed: Option<u64>,
}

/// What to do after a failed attempt.
#[derive(Debug)]
pub(super) enum Next {
    /// Ask the next node, after this pause.
    Again(Duration),
    /// Say so.
    GiveUp(Error),
}

/// A backoff between rounds: jittered, growing to a limit, without end.
pub(super) fn pauses(longest: Duration, jitter_seed: Option<u64>) -> ExponentialBackoff {
    let pauses = ExponentialBuilder::new()
        .with_jitter()
        .with_min_delay(PAUSE_MIN.min(longest))
        .with_max_delay(longest)
        .without_max_times();
    match jitter_seed {
        Some(seed) => pauses.with_jitter_seed(seed).build(),
        None => pauses.build(),
    }
}

/// The attempts of one call.
#[derive(Debug)]
pub(super) struct Attempts {
    safety: Safety,
    patience: Patience,
    started: Instant,
    nodes: usize,
    failed: u32,
    /// All failures so far were connections that did not come about.
    only_unreachable: bool,
    /// The last failure was one of a cluster that can't, rather than of a node that is slow.
    last_unavailable: bool,
    /// An attempt may have been applied.
    unknown: bool,
    /// What a node said last: worth more than that another one is not there.
    said: Option<Error>,
    pauses: ExponentialBackoff,
}

impl Attempts {
    pub(super) fn new(safety: Safety, patience: Patience, nodes: usize, now: Instant) -> Self {
        Self {
            safety,
            patience,
            started: now,
            nodes: nodes.max(1),
            failed: 0,
            only_unreachable: true,
            last_unavailable: false,
            unknown: false,
            said: None,
            pauses: pauses(PAUSE_MAX, patience.jitter_seed),
        }
    }

    /// How long the attempt that begins now may take.
    pub(super) fn limit(&self, now: Instant) -> Duration {
        let left = self.left(self.patience.timeout, now);
        if self.safety == Safety::Once {
            return left.min(ONCE_MAX);
        }
        let mut limit = left.min(ATTEMPT_MAX);
        if self.last_unavailable {
            limit = limit.min(self.left(self.patience.unavailable, now).max(ATTEMPT_MIN));
        }
        limit
    }

    fn left(&self, of: Duration, now: Instant) -> Duration {
        of.saturating_sub(now.saturating_duration_since(self.started))
    }

    /// Takes note of a failure and decides.
    pub(super) fn after(&mut self, error: Error, now: Instant) -> Next {
        self.failed += 1;
        let not_applied = error.is_not_applied();
        self.unknown |= !not_applied;
        self.only_unreachable &= matches!(error, Error::Unreachable { .. });
        self.last_unavailable = error.is_unavailable();

        let may_repeat = match self.safety {
            Safety::Read | Safety::Repeatable => true,
            Safety::Once => not_applied,
        };
        if !may_repeat || !error.may_go_elsewhere() || self.failed >= ATTEMPTS_MAX {
            return Next::GiveUp(self.judged(error));
        }
        let patience = if self.only_unreachable {
            self.patience.unreachable
        } else if self.last_unavailable {
            self.patience.unavailable
        } else {
            self.patience.timeout
        };
        let left = self.left(patience.min(self.patience.timeout), now);
        let pause = self.pause(&error);
        // An attempt that has no time would only make a write's outcome unknown.
        if pause + ATTEMPT_MIN > left {
            let absent = match &error {
                Error::Unreachable { .. } => true,
                Error::NoAnswer { .. } => self.safety != Safety::Once,
                _ => false,
            };
            let said = self.said.take().filter(|_| absent);
            return Next::GiveUp(self.judged(said.unwrap_or(error)));
        }
        if matches!(error, Error::Refused { .. }) {
            self.said = Some(error);
        }
        Next::Again(pause)
    }

    /// None within a round: another node may well do it. After a round, a growing one.
    fn pause(&mut self, error: &Error) -> Duration {
        let round_is_over = usize::try_from(self.failed)
            .unwrap_or(usize::MAX)
            .is_multiple_of(self.nodes);
        if !round_is_over {
            return Duration::ZERO;
        }
        let own = self.pauses.next().unwrap_or(PAUSE_MAX);
        match error.detail() {
            // Coming back sooner would make it worse. For a leader, sooner is better: it is there when it is there.
            Some(detail) if detail.reason == Reason::Overloaded => {
                own.max(detail.retry_after.unwrap_or_default().min(ASKED_MAX))
            }
            _ => own,
        }
    }

    /// The error with what all attempts together say about the outcome of a write: one that may have been applied
    /// makes the whole unknown, whatever the last one said.
    fn judged(&self, error: Error) -> Error {
        match self.safety {
            Safety::Read => error,
            Safety::Repeatable | Safety::Once if self.unknown => error.of_write(WriteOutcome::Unknown),
            Safety::Repeatable | Safety::Once => error.of_write(WriteOutcome::NotApplied),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::error::ErrorDetail;

    const PATIENCE: Patience = Patience {
        timeout: Duration::from_secs(10),
        unavailable: Duration::from_secs(5),
        unreachable: Duration::from_secs(2),
        jitter_seed: None,
    };

    fn refused(reason: Reason, outcome: Option<WriteOutcome>) -> Error {
        Error::Refused {
            endpoint: "n1:7400".into(),
            detail: Box::new(ErrorDetail {
                outcome,
                ..ErrorDetail::new(reason, "as it is")
            }),
        }
    }

    fn broken() -> Error {
        Error::Broken {
            endpoint: "n1:7400".into(),
            problem: "reset".into(),
            outcome: None,
        }
    }

    fn given_up(next: Next) -> Error {
        match next {
            Next::GiveUp(error) => error,
            Next::Again(pause) => panic!("goes on after {pause:?}"),
        }
    }

    fn attempts(safety: Safety) -> (Attempts, Instant) {
        let now = Instant::now();
        (Attempts::new(safety, PATIENCE, 3, now), now)
    }

    #[test]
    fn the_nodes_of_one_round_are_asked_without_a_pause() {
        let (mut attempts, now) = attempts(Safety::Read);
        for failure in 1..=6 {
            let Next::Again(pause) = attempts.after(refused(Reason::NoLeader, None), now) else {
                panic!("given up after {failure}");
            };
            assert_eq!(pause > Duration::ZERO, failure % 3 == 0, "failure {failure}: {pause:?}");
        }
    }

    #[test]
    fn a_write_of_unknown_outcome_is_not_sent_again_unless_it_is_repeatable() {
        let (mut once, now) = attempts(Safety::Once);
        let error = given_up(once.after(broken(), now));
        assert_eq!(error.outcome(), Some(WriteOutcome::Unknown));

        let (mut repeatable, now) = attempts(Safety::Repeatable);
        assert!(matches!(repeatable.after(broken(), now), Next::Again(_)));
    }

    #[test]
    fn a_write_that_was_not_applied_is_sent_again() {
        let (mut once, now) = attempts(Safety::Once);
        let not_applied = refused(Reason::NoLeader, Some(WriteOutcome::NotApplied));
        assert!(matches!(once.after(not_applied, now), Next::Again(_)));
        let no_connection = Error::unreachable("n2:7400".into(), "refused".into());
        assert!(matches!(once.after(no_connection, now), Next::Again(_)));
    }

    #[test]
    fn one_unknown_attempt_makes_the_whole_write_unknown() {
        let (mut attempts, now) = attempts(Safety::Repeatable);
        assert!(matches!(attempts.after(broken(), now), Next::Again(_)));
        let late = now + PATIENCE.unavailable;
        let error = given_up(attempts.after(refused(Reason::NoLeader, Some(WriteOutcome::NotApplied)), late));
        assert_eq!(error.outcome(), Some(WriteOutcome::Unknown));
        assert_eq!(error.reason(), Some(Reason::NoLeader));
    }

    #[test]
    fn a_refused_request_is_given_up_at_once() {
        let (mut attempts, now) = attempts(Safety::Repeatable);
        let error = given_up(attempts.after(refused(Reason::InvalidField, None), now));
        assert_eq!(error.outcome(), Some(WriteOutcome::NotApplied));
    }

    #[test]
    fn patience_is_shorter_without_a_quorum_and_shortest_without_a_connection() {
        let (mut attempts, now) = self::attempts(Safety::Read);
        let no_connection = || Error::unreachable("n1:7400".into(), "refused".into());
        let soon = now + Duration::from_secs(1);
        assert!(matches!(attempts.after(no_connection(), soon), Next::Again(_)));
        assert!(matches!(
            attempts.after(no_connection(), now + PATIENCE.unreachable),
            Next::GiveUp(_)
        ));

        let (mut attempts, now) = self::attempts(Safety::Read);
        let no_quorum = || refused(Reason::NoQuorum, None);
        let soon = now + Duration::from_secs(4);
        assert!(matches!(attempts.after(no_quorum(), soon), Next::Again(_)));
        assert!(matches!(
            attempts.after(no_quorum(), now + PATIENCE.unavailable),
            Next::GiveUp(_)
        ));
    }

    #[test]
    fn what_a_node_said_is_told_rather_than_that_others_are_not_there() {
        let (mut attempts, now) = attempts(Safety::Repeatable);
        let no_quorum = refused(Reason::NoQuorum, Some(WriteOutcome::NotApplied));
        assert!(matches!(attempts.after(no_quorum, now), Next::Again(_)));
        let no_connection = Error::unreachable("n2:7400".into(), "refused".into());
        let error = given_up(attempts.after(no_connection, now + PATIENCE.unavailable));
        assert_eq!(error.reason(), Some(Reason::NoQuorum));
        assert_eq!(error.outcome(), Some(WriteOutcome::NotApplied));
    }

    #[test]
    fn an_attempt_never_takes_the_whole_deadline_when_others_may_follow() {
        let (attempts, now) = attempts(Safety::Repeatable);
        assert_eq!(attempts.limit(now), ATTEMPT_MAX);
        assert_eq!(attempts.limit(now + Duration::from_secs(9)), Duration::from_secs(1));
        let (once, now) = self::attempts(Safety::Once);
        assert_eq!(once.limit(now), ONCE_MAX);
        assert_eq!(once.limit(now + Duration::from_secs(9)), Duration::from_secs(1));
    }
}
