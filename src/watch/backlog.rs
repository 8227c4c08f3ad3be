//! What waits for one watcher.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

use super::{
    filter::{Effect, Filter},
    hub::View,
    limits::HubLimits,
    record::Record,
};
use crate::model::Revision;

/// An empty queue keeps room for so many changes; what a burst added goes back, for there are many watchers.
const ROOM_KEPT: usize = 64;

/// What waits for one watcher: a bounded queue, or the mark that it overflowed.
#[derive(Debug)]
pub(super) enum Backlog {
    /// All that the watcher has not been given, in revision order; whole revisions.
    Queue(Queue),
    /// The queue overflowed and was dropped. Nothing is queued until the watcher has been caught up.
    Lagged(Lag),
}

/// The changes that wait for one watcher.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

/// One change, and what it does to the watcher's view.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) record: Arc<Record>,
    pub(super) effect: Effect,
}

/// From where a watcher must be caught up.
#[derive(Clone, Debug)]
pub(super) struct Lag {
    /// The watcher has everything through here.
    pub(super) after: Revision,
    /// The version at that revision, where it is at hand: what came next was the difference to a snapshot that was
    /// installed, of which the history tells nothing.
    pub(super) since: Option<Arc<View>>,
}

impl Default for Backlog {
    fn default() -> Self {
        Self::Queue(Queue::default())
    }
}

impl Backlog {
    /// The backlog of a watcher that has everything through a revision and must be caught up from there.
    pub(super) fn lagged(after: Revision) -> Self {
        Self::Lagged(Lag { after, since: None })
    }

    /// Adds those of the records that change the watcher's view; says whether anything is new for the watcher. The
    /// records must be covered by the filter.
    pub(super) fn offer<'a>(
        &mut self,
        filter: &Filter,
        records: impl IntoIterator<Item = &'a Arc<Record>>,
        limits: &HubLimits,
    ) -> bool {
        let Self::Queue(queue) = self else {
            return false;
        };
        let mut added = false;
        for record in records {
            let change = &record.change;
            let Some(effect) = filter.effect(change.before.as_ref(), change.after.as_ref()) else {
                continue;
            };
            added = true;
            if !queue.push(record, effect, limits) {
                let lag = queue.lag_at_front(record);
                *self = Self::Lagged(lag);
                break;
            }
        }
        added
    }

    /// Takes the first revision's changes out, and those of later ones until they are `join_max`, as long as no instance
    /// changes twice. Empty when nothing waits, or only what is beyond `settled`: the publisher is still handing that
    /// out, and the rest of the revision may be missing.
    pub(super) fn take_step(&mut self, settled: Revision, join_max: usize) -> Result<Vec<Waiting>, Lag> {
        match self {
            Self::Queue(queue) => Ok(queue.take_step(settled, join_max)),
            Self::Lagged(lag) => Err(lag.clone()),
        }
    }

    /// Through where the watcher has everything, if that is known from what waits; `None` = nothing does.
    pub(super) fn complete_through(&self) -> Option<Revision> {
        match self {
            Self::Queue(queue) => queue.waiting.front().map(|first| first.record.base()),
            Self::Lagged(lag) => Some(lag.after),
        }
    }

    pub(super) fn is_lagged(&self) -> bool {
        matches!(self, Self::Lagged(_))
    }

    /// What waits, by encoded size.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Queue(queue) => queue.bytes,
            Self::Lagged(_) => 0,
        }
    }
}

impl Queue {
    /// Adds a change unless it goes beyond the limits.
    fn push(&mut self, record: &Arc<Record>, effect: Effect, limits: &HubLimits) -> bool {
        let bytes = self.bytes + record.queue_bytes(effect == Effect::Put);
        if bytes > limits.queue_bytes || self.waiting.len() >= limits.queue_changes {
            return false;
        }
        self.bytes = bytes;
        self.waiting.push_back(Waiting {
            record: Arc::clone(record),
            effect,
        });
        true
    }

    /// Where the watcher stands when the queue is dropped because this record does not fit.
    fn lag_at_front(&self, overflowing: &Arc<Record>) -> Lag {
        let first = self.waiting.front().map_or(overflowing, |waiting| &waiting.record);
        Lag {
            after: first.base(),
            since: first.since.clone(),
        }
    }

    fn take_step(&mut self, settled: Revision, join_max: usize) -> Vec<Waiting> {
        let mut count = self.revision_at(0, settled);
        if count == 0 {
            return Vec::new();
        }
        if count < join_max {
            count = self.joined(count, settled, join_max);
        }
        // Plant: one revision is given in parts.
        planted!("revision-in-parts", let count = 1);
        let step: Vec<_> = self.waiting.drain(..count).collect();
        let taken: usize = step
            .iter()
            .map(|waiting| waiting.record.queue_bytes(waiting.effect == Effect::Put))
            .sum();
        self.bytes -= taken;
        if self.waiting.is_empty() && self.waiting.capacity() > ROOM_KEPT {
            self.waiting = VecDeque::new();
        }
        step
    }

    /// How many changes the revision has that begins at this place; 0 when nothing is there, or it is not settled.
    fn revision_at(&self, place: usize, settled: Revision) -> usize {
        let mut rest = self.waiting.range(place.min(self.waiting.len())..);
        match rest.next().map(|first| first.record.revision()) {
            Some(revision) if revision <= settled => {
                1 + rest.take_while(|waiting| waiting.record.revision() == revision).count()
            }
            _ => 0,
        }
    }

    /// How many changes make one step: the first `count`, and the revisions after them in which no instance changes
    /// that is in the step already. Two whose hashes are alike by chance count as one: they are two steps then.
    fn joined(&self, mut count: usize, settled: Revision, join_max: usize) -> usize {
        let mut keys: HashSet<u32, BuildHasherDefault<AsHashed>> = HashSet::default();
        let hashes = |from: usize, count: usize| self.waiting.range(from..from + count).map(|one| one.record.key_hash);
        // What a snapshot brought is a step of its own.
        let brought = |place: usize| self.waiting.get(place).is_some_and(|one| one.record.since.is_some());
        while count < join_max && !brought(0) && !brought(count) {
            let more = self.revision_at(count, settled);
            if more == 0 {
                break;
            }
            if keys.is_empty() {
                keys.extend(hashes(0, count));
            }
            if hashes(count, more).any(|key| keys.contains(&key)) {
                break;
            }
            keys.extend(hashes(count, more));
            count += more;
        }
        count
    }
}

/// Hashes what is a hash already.
#[derive(Debug, Default)]
struct AsHashed(u64);

impl Hasher for AsHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    /// The place in a table is read from the low bits, and what tells apart those of one place from the high ones.
    fn write_u32(&mut self, hash: u32) {
        self.0 = u64::from(hash) << 32 | u64::from(hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::sample::{all, put, record};

    const LIMITS: HubLimits = HubLimits {
        history_changes: 0,
        history_bytes: 0,
        queue_changes: 3,
        queue_bytes: 1 << 20,
        watches: 0,
    };

    fn offer(backlog: &mut Backlog, limits: &HubLimits, revisions: impl IntoIterator<Item = u64>) -> bool {
        let filter = Filter::new(all());
        let records: Vec<_> = revisions
            .into_iter()
            .map(|revision| record(put(revision, "web", &format!("i{revision}"), "z")))
            .collect();
        backlog.offer(&filter, &records, limits)
    }

    fn step(backlog: &mut Backlog, settled: u64) -> Vec<u64> {
        joined(backlog, settled, 1)
    }

    fn joined(backlog: &mut Backlog, settled: u64, join_max: usize) -> Vec<u64> {
        let step = backlog.take_step(Revision(settled), join_max).expect("not lagged");
        step.iter().map(|waiting| waiting.record.revision().0).collect()
    }

    #[test]
    fn a_revision_is_taken_whole_and_alone() {
        let mut backlog = Backlog::default();
        assert!(offer(&mut backlog, &LIMITS, [5, 5, 7]));
        assert_eq!(step(&mut backlog, 9), [5, 5]);
        assert_eq!(step(&mut backlog, 9), [7]);
        assert!(step(&mut backlog, 9).is_empty());
        assert_eq!(backlog.bytes(), 0);
    }

    #[test]
    fn revisions_are_joined_while_no_instance_changes_twice() {
        let wide = HubLimits {
            queue_changes: 100,
            ..LIMITS
        };
        let mut backlog = Backlog::default();
        let filter = Filter::new(all());
        let offered = [(1, "a"), (2, "b"), (2, "c"), (3, "d"), (4, "b"), (5, "e"), (6, "f")];
        let records = offered.map(|(revision, id)| record(put(revision, "web", id, "z")));
        assert!(backlog.offer(&filter, &records, &wide));
        assert_eq!(joined(&mut backlog, 9, 3), [1, 2, 2]);
        assert_eq!(joined(&mut backlog, 5, 100), [3, 4, 5]);
        assert_eq!(joined(&mut backlog, 9, 100), [6]);
        assert_eq!(backlog.bytes(), 0);

        let mut backlog = Backlog::default();
        backlog.offer(&filter, &records, &wide);
        assert_eq!(joined(&mut backlog, 9, 100), [1, 2, 2, 3], "b changes again");
        assert_eq!(joined(&mut backlog, 9, 100), [4, 5, 6]);
    }

    #[test]
    fn what_a_snapshot_brought_is_a_step_of_its_own() {
        let wide = HubLimits {
            queue_changes: 100,
            ..LIMITS
        };
        let view = Arc::new(View::default());
        let brought = |revision, id| Arc::new(Record::new(put(revision, "web", id, "z"), Some(Arc::clone(&view))));
        let own = |revision, id| record(put(revision, "web", id, "z"));
        let records = [own(1, "a"), brought(4, "b"), brought(4, "c"), own(5, "d"), own(6, "e")];
        let mut backlog = Backlog::default();
        assert!(backlog.offer(&Filter::new(all()), &records, &wide));
        assert_eq!(joined(&mut backlog, 9, 100), [1]);
        assert_eq!(joined(&mut backlog, 9, 100), [4, 4]);
        assert_eq!(joined(&mut backlog, 9, 100), [5, 6]);
    }

    #[test]
    fn a_revision_that_is_still_being_handed_out_waits() {
        let mut backlog = Backlog::default();
        offer(&mut backlog, &LIMITS, [5]);
        assert!(step(&mut backlog, 4).is_empty());
        assert_eq!(step(&mut backlog, 5), [5]);
    }

    #[test]
    fn an_overflow_drops_the_queue_and_remembers_where_the_watcher_stands() {
        let mut backlog = Backlog::default();
        offer(&mut backlog, &LIMITS, [5, 6]);
        assert_eq!(step(&mut backlog, 9), [5]);
        assert!(offer(&mut backlog, &LIMITS, [8, 9, 10]));
        assert_eq!(backlog.complete_through(), Some(Revision(5)));
        assert_eq!(backlog.bytes(), 0);
        assert!(backlog.is_lagged());
        assert!(!offer(&mut backlog, &LIMITS, [11]), "what is lagged takes nothing");
        assert_eq!(
            backlog.take_step(Revision(11), 1).expect_err("lagged").after,
            Revision(5)
        );
    }

    #[test]
    fn bytes_bound_the_queue_too() {
        let tight = HubLimits {
            queue_bytes: 10,
            ..LIMITS
        };
        let mut backlog = Backlog::default();
        assert!(offer(&mut backlog, &tight, [5]));
        assert_eq!(backlog.complete_through(), Some(Revision(4)));
        assert!(backlog.is_lagged());
    }

    #[test]
    fn room_that_a_burst_took_is_given_back() {
        let wide = HubLimits {
            queue_changes: 10_000,
            ..LIMITS
        };
        let mut backlog = Backlog::default();
        offer(&mut backlog, &wide, (1..=1_000).map(|_| 7));
        assert_eq!(step(&mut backlog, 9).len(), 1_000);
        let Backlog::Queue(queue) = &backlog else {
            panic!("not lagged");
        };
        assert!(queue.waiting.capacity() <= ROOM_KEPT);
    }
}
