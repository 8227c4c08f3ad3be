//! What a watcher saw of the removals.

use std::{sync::Arc, time::Instant};

use tonic::Streaming;

use super::super::measure::{Live, Schedule, Tally, Trouble};
use crate::wire::v1::{self, change, watch_response::Kind};

/// Which leases have ended, by their instances' removal, and how late.
#[derive(Debug)]
pub(super) struct Removals {
    /// When each lease is due, by number.
    due: Vec<Instant>,
    gone: Vec<bool>,
    /// Those that are in the present snapshot, after a reset.
    snapshot: Option<Vec<bool>>,
    /// Those that were not early, and what went wrong.
    pub(super) tally: Tally,
    pub(super) early: u64,
    /// Snapshots: the watcher was too slow.
    pub(super) resets: u64,
    /// When the last came.
    pub(super) last: Option<Instant>,
}

impl Removals {
    pub(super) fn of(due: Vec<Instant>) -> Self {
        Self {
            gone: vec![false; due.len()],
            due,
            snapshot: None,
            tally: Tally::new(),
            early: 0,
            resets: 0,
            last: None,
        }
    }

    /// How many have not come.
    pub(super) fn missing(&self) -> u64 {
        self.gone.iter().filter(|&&gone| !gone).count() as u64
    }

    /// Watches until all are gone, or it is too late; then the run is over.
    pub(super) async fn watch(
        mut self,
        mut messages: Streaming<v1::WatchResponse>,
        schedule: Arc<Schedule>,
        live: Arc<Live>,
        until: Instant,
    ) -> Self {
        let mut left = self.due.len();
        while left > 0 {
            let message = tokio::select! {
                message = messages.message() => message,
                () = schedule.wait_until(until) => break,
            };
            let trouble = match message {
                Ok(Some(message)) => {
                    let gone = self.take(&message, Instant::now());
                    live.done(gone as u64);
                    left -= gone;
                    continue;
                }
                Ok(None) => Trouble::new("ENDED", "the node ended the watch"),
                Err(status) => status.into(),
            };
            live.failed();
            self.tally.failed(trouble);
            break;
        }
        schedule.stop();
        self
    }

    /// How many a message says are gone that were still there.
    fn take(&mut self, message: &v1::WatchResponse, now: Instant) -> usize {
        match message.kind() {
            Kind::Changes => message.changes.iter().filter(|change| self.change(change, now)).count(),
            Kind::Snapshot => {
                let count = self.gone.len();
                let present = self.snapshot.get_or_insert_with(|| vec![false; count]);
                let keys = message
                    .changes
                    .iter()
                    .filter_map(|change| change.instance.as_ref()?.key.as_ref());
                for number in keys.filter_map(number) {
                    if let Some(present) = present.get_mut(number) {
                        *present = true;
                    }
                }
                if message.more { 0 } else { self.replace(now) }
            }
            Kind::Progress | Kind::Canceled | Kind::Unspecified => 0,
        }
    }

    /// The snapshot is whole: what is not in it has gone.
    fn replace(&mut self, now: Instant) -> usize {
        self.resets += 1;
        let present = self.snapshot.take().unwrap_or_default();
        let absent = (0..self.gone.len()).filter(|&number| !self.gone[number] && !present[number]);
        let absent: Vec<usize> = absent.collect();
        for &number in &absent {
            self.gone(number, now);
        }
        absent.len()
    }

    /// Whether the change is the removal of one that was still there.
    fn change(&mut self, change: &v1::Change, now: Instant) -> bool {
        let expired = matches!(change.reason(), change::Reason::Expired | change::Reason::Unspecified);
        let removed = change
            .removed
            .as_ref()
            .filter(|_| change.kind() == change::Kind::Remove && expired);
        let Some(number) = removed
            .and_then(number)
            .filter(|&number| self.gone.get(number) == Some(&false))
        else {
            let what = "a change that is no removal by expiry, or its second";
            self.tally.failed(Trouble::new("FOREIGN", what));
            return false;
        };
        self.gone(number, now);
        true
    }

    fn gone(&mut self, number: usize, now: Instant) {
        self.gone[number] = true;
        self.last = Some(now);
        match now.checked_duration_since(self.due[number]) {
            Some(lag) => self.tally.done(1, lag),
            None => self.early += 1,
        }
    }
}

/// The number of the instance, which is its id.
fn number(key: &v1::InstanceKey) -> Option<usize> {
    key.id.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(id: &str) -> v1::InstanceKey {
        v1::InstanceKey {
            id: id.into(),
            ..Default::default()
        }
    }

    fn removal(id: &str, reason: change::Reason) -> v1::WatchResponse {
        let change = v1::Change {
            kind: change::Kind::Remove.into(),
            removed: Some(key(id)),
            reason: reason.into(),
            ..Default::default()
        };
        v1::WatchResponse {
            kind: Kind::Changes.into(),
            changes: vec![change],
            ..Default::default()
        }
    }

    fn snapshot(id: &str, more: bool) -> v1::WatchResponse {
        let instance = v1::Instance {
            key: Some(key(id)),
            ..Default::default()
        };
        v1::WatchResponse {
            kind: Kind::Snapshot.into(),
            changes: vec![v1::Change {
                kind: change::Kind::Put.into(),
                instance: Some(instance),
                ..Default::default()
            }],
            more,
            ..Default::default()
        }
    }

    #[test]
    fn removals_are_counted_once_and_early_ones_apart() {
        let due = Instant::now() + Duration::from_secs(10);
        let mut removals = Removals::of(vec![due; 3]);
        let expired = |id: &str| removal(id, change::Reason::Expired);
        assert_eq!(removals.take(&expired("0"), due + Duration::from_millis(40)), 1);
        assert_eq!(removals.take(&expired("2"), due - Duration::from_millis(1)), 1);
        let second = removals.take(&expired("0"), due + Duration::from_millis(50));
        let unknown = removals.take(&expired("3"), due);
        let otherwise = removals.take(&removal("1", change::Reason::Deregistered), due);
        assert_eq!((second, unknown, otherwise), (0, 0, 0));
        assert_eq!((removals.early, removals.missing()), (1, 1));
        assert_eq!((removals.tally.operations, removals.tally.errors.total()), (1, 3));
        assert!((39_900..=40_100).contains(&removals.tally.took_us.max()));
    }

    #[test]
    fn what_a_fresh_snapshot_lacks_has_gone() {
        let due = Instant::now();
        let mut removals = Removals::of(vec![due; 4]);
        assert_eq!(removals.take(&removal("3", change::Reason::Expired), due), 1);
        assert_eq!(removals.take(&snapshot("0", true), due), 0, "it is not whole");
        assert_eq!(removals.take(&snapshot("2", false), due), 1, "1 is not in it");
        assert_eq!((removals.resets, removals.missing()), (1, 2));
    }
}
