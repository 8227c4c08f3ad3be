//! A watch's messages, gathered to recorded steps; and a stream of watch while it is open.

use roster::wire::{
    ErrorDetail,
    v1::{self, change, reset, watch_response::Kind},
};

use super::{
    content::{key_from_wire, record},
    reads::age_ns,
    send::NONSENSE,
};
use crate::{
    history::{Change, Ended, Event, Selector, Start, Step, StepKind, WatchStream},
    recorder::Recorder,
};

/// The reason of a watch that its client cancelled.
const CANCELED: &str = "CANCELED";

/// What a message came to.
pub(super) enum Taken {
    /// More belongs to its step.
    Staged,
    /// A step is whole.
    Step(Step),
    /// The watch is over, for this reason.
    Canceled(String),
}

/// The messages of a step that is not whole yet.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    step: Option<Step>,
}

impl Gathered {
    /// Takes in a message that was read just now, by the recorder's clock.
    pub(super) fn take(&mut self, message: v1::WatchResponse, at: u64) -> Taken {
        let kind = match message.kind() {
            Kind::Snapshot => StepKind::Snapshot,
            Kind::Changes => StepKind::Changes,
            Kind::Progress => StepKind::Progress,
            Kind::Canceled => return Taken::Canceled(reason(message.status)),
            Kind::Unspecified => return Taken::Canceled("a message of no kind".to_owned()),
        };
        let position = message.position.as_ref().map(|position| position.revision);
        let age_ns = message.header.as_ref().and_then(age_ns);
        let begins = message.reset.is_some() || self.step.as_ref().is_some_and(|step| step.kind != kind);
        let mut step = match self.step.take() {
            Some(step) if !begins => step,
            _ => Step {
                at,
                kind,
                revision: NONSENSE,
                age_ns: None,
                reset: message.reset.as_ref().map(|reset| reset_name(reset.reason())),
                changes: Vec::new(),
            },
        };
        (step.at, step.age_ns) = (at, age_ns);
        step.changes.extend(message.changes.into_iter().map(change));
        if message.more {
            self.step = Some(step);
            return Taken::Staged;
        }
        // A step without a position has none that could be right.
        step.revision = position.unwrap_or(NONSENSE);
        Taken::Step(step)
    }
}

fn change(change: v1::Change) -> Change {
    let reason = match change.reason() {
        change::Reason::Unspecified => None,
        change::Reason::Deregistered => Some("DEREGISTERED"),
        change::Reason::Expired => Some("EXPIRED"),
        change::Reason::Revoked => Some("REVOKED"),
        change::Reason::LeftSelector => Some("LEFT_SELECTOR"),
    };
    let put = (change.kind() == change::Kind::Put).then(|| record(change.instance.unwrap_or_default()));
    Change {
        revision: change.revision,
        key: match &put {
            Some(put) => put.key.clone(),
            None => change.removed.as_ref().map(key_from_wire).unwrap_or_default(),
        },
        put,
        reason: reason.map(str::to_owned),
    }
}

/// A reset's reason as the API names it.
pub(super) fn reset_name(reason: reset::Reason) -> String {
    match reason {
        reset::Reason::Unspecified => "UNSPECIFIED",
        reset::Reason::Compacted => "COMPACTED",
        reset::Reason::Lagged => "LAGGED",
        reset::Reason::OtherCluster => "OTHER_CLUSTER",
    }
    .to_owned()
}

fn reason(status: Option<tonic_types::Status>) -> String {
    let status = status.unwrap_or_default();
    match ErrorDetail::from_proto(&status) {
        Some(detail) => detail.reason.name().to_owned(),
        None if status.code == 0 => CANCELED.to_owned(),
        None => format!("{:?}", tonic::Code::from(status.code)),
    }
}

/// A stream of watch. Recorded when it ends, or when it is dropped: then it was open when the run ended.
pub(super) struct OpenWatch {
    recorder: Recorder,
    stream: Option<WatchStream>,
}

impl OpenWatch {
    /// Begins now: before the first byte can leave.
    pub(super) fn begin(
        recorder: &Recorder,
        watcher: u64,
        node: Option<String>,
        selector: Selector,
        start: Start,
    ) -> Self {
        Self {
            recorder: recorder.clone(),
            stream: Some(WatchStream {
                id: recorder.next_id(),
                watcher,
                node,
                opened: recorder.now(),
                selector,
                start,
                max_age_ns: None,
                slow: false,
                steps: Vec::new(),
                ended: None,
            }),
        }
    }

    /// The same, which ends when its view is older than this.
    pub(super) fn with_max_age(mut self, max_age_ns: Option<u64>) -> Self {
        if let Some(stream) = &mut self.stream {
            stream.max_age_ns = max_age_ns;
        }
        self
    }

    /// The same, whose client stops reading now and then.
    pub(super) fn slow(mut self, slow: bool) -> Self {
        if let Some(stream) = &mut self.stream {
            stream.slow = slow;
        }
        self
    }

    /// It is known now which node serves it.
    pub(super) fn serves(&mut self, node: Option<String>) {
        if let Some(stream) = &mut self.stream {
            stream.node = node;
        }
    }

    /// A step was received.
    pub(super) fn step(&mut self, step: Step) {
        if let Some(stream) = &mut self.stream {
            stream.steps.push(step);
        }
    }

    /// The position of the last step.
    pub(super) fn position(&self) -> Option<i64> {
        let steps = &self.stream.as_ref()?.steps;
        steps.last().map(|step| step.revision)
    }

    /// It has ended.
    pub(super) fn end(mut self, reason: impl Into<String>) {
        let at = self.recorder.now();
        if let Some(stream) = &mut self.stream {
            stream.ended = Some(Ended {
                at,
                reason: reason.into(),
            });
        }
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.recorder.record(Event::Watch(stream));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: Kind, revisions: &[i64], more: bool, position: Option<i64>) -> v1::WatchResponse {
        let put = |&revision: &i64| v1::Change {
            kind: change::Kind::Put.into(),
            instance: Some(v1::Instance::default()),
            revision,
            ..v1::Change::default()
        };
        v1::WatchResponse {
            kind: kind.into(),
            changes: revisions.iter().map(put).collect(),
            more,
            position: position.map(|revision| v1::Position {
                revision,
                ..v1::Position::default()
            }),
            ..v1::WatchResponse::default()
        }
    }

    fn step(taken: Taken) -> Step {
        match taken {
            Taken::Step(step) => step,
            Taken::Staged => panic!("staged"),
            Taken::Canceled(reason) => panic!("{reason}"),
        }
    }

    #[test]
    fn the_messages_of_one_step_are_one_step() {
        let mut gathered = Gathered::default();
        assert!(matches!(
            gathered.take(message(Kind::Changes, &[5, 6], true, None), 1),
            Taken::Staged
        ));
        let whole = step(gathered.take(message(Kind::Changes, &[7], false, Some(7)), 2));
        assert_eq!((whole.at, whole.revision, whole.changes.len()), (2, 7, 3));
        let progress = step(gathered.take(message(Kind::Progress, &[], false, Some(9)), 3));
        assert_eq!((progress.kind, progress.revision), (StepKind::Progress, 9));
    }

    #[test]
    fn what_was_staged_is_thrown_away_when_something_else_begins() {
        let mut gathered = Gathered::default();
        gathered.take(message(Kind::Changes, &[5], true, None), 1);
        let mut reset = message(Kind::Snapshot, &[6], false, Some(8));
        reset.reset = Some(v1::Reset {
            reason: reset::Reason::Lagged.into(),
        });
        let snapshot = step(gathered.take(reset, 2));
        assert_eq!((snapshot.changes.len(), snapshot.reset.as_deref()), (1, Some("LAGGED")));
    }

    #[test]
    fn a_step_without_a_position_has_one_that_no_state_has() {
        let lost = step(Gathered::default().take(message(Kind::Changes, &[5], false, None), 1));
        assert_eq!(lost.revision, NONSENSE);
    }
}
