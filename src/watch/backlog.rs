//! What waits for watchers.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

use super::{
    delivery::WatchChange,
    filter::{Effect, Filter, seen},
    hub::View,
    limits::HubLimits,
    record::Record,
};
use crate::model::Revision;

/// An empty queue keeps room for so many changes; what a burst added goes back, for there may be many queues.
const ROOM_KEPT: usize = 64;

/// What waits for one watcher alone: a bounded queue, or the mark that it overflowed.
#[derive(Debug)]
pub(super) enum Backlog {
    /// What the watcher missed before it was opened and has not been given, in revision order; whole revisions.
    Queue(Queue),
    /// Too much waited, and was dropped. Nothing is queued until the watcher has been caught up.
    Lagged(Lag),
}

/// Changes that wait, in revision order, each at a place that it keeps. Who has been given all before a place stands
/// there.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    /// The place of the first.
    first: u64,
    /// The bytes of all that were before it.
    passed: u64,
    /// The bytes of all that ever were here.
    pushed: u64,
}

/// One change, and what it does to a watcher's view.
#[derive(Debug)]
struct Waiting {
    record: Arc<Record>,
    effect: Effect,
    /// The bytes of all that ever were here, through this one.
    through: u64,
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

    /// Adds those of the records that change the watcher's view. The records must be covered by the filter.
    pub(super) fn offer<'a>(
        &mut self,
        filter: &Filter,
        records: impl IntoIterator<Item = &'a Arc<Record>>,
        limits: &HubLimits,
    ) {
        let Self::Queue(queue) = self else { return };
        for record in records {
            let Some(effect) = filter.effect_of(record) else {
                continue;
            };
            queue.push(record, effect);
            if exceeds(queue.behind(queue.first), limits) {
                let lag = queue.lag_at(queue.first);
                *self = Self::Lagged(lag.expect("something was pushed"));
                return;
            }
        }
    }

    pub(super) fn is_lagged(&self) -> bool {
        matches!(self, Self::Lagged(_))
    }

    /// How much waits.
    pub(super) fn size(&self) -> Size {
        match self {
            Self::Queue(queue) => queue.behind(queue.first),
            Self::Lagged(_) => Size::default(),
        }
    }
}

/// How much waits: changes, and their bytes, encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) changes: u64,
    pub(super) bytes: u64,
}

impl std::ops::Add for Size {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            changes: self.changes + other.changes,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// Whether more waits for one watcher than may.
pub(super) fn exceeds(size: Size, limits: &HubLimits) -> bool {
    size.bytes > limits.queue_bytes as u64 || size.changes > limits.queue_changes as u64
}

impl Queue {
    /// Adds a change behind all others; what it weighs.
    pub(super) fn push(&mut self, record: &Arc<Record>, effect: Effect) -> u64 {
        let bytes = record.queue_bytes(effect == Effect::Put) as u64;
        self.pushed += bytes;
        self.waiting.push_back(Waiting {
            record: Arc::clone(record),
            effect,
            through: self.pushed,
        });
        bytes
    }

    /// The place of the first.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The place behind the last.
    pub(super) fn end(&self) -> u64 {
        self.first + self.waiting.len() as u64
    }

    /// How much waits for who stands at a place.
    pub(super) fn behind(&self, place: u64) -> Size {
        let before = match self.offset(place).checked_sub(1) {
            None => self.passed,
            Some(last) => self.waiting.get(last).map_or(self.pushed, |last| last.through),
        };
        Size {
            changes: self.end().saturating_sub(place),
            bytes: self.pushed - before,
        }
    }

    /// Through where who stands at a place has everything, if that is known from what waits; `None` = nothing does.
    pub(super) fn complete_through(&self, place: u64) -> Option<Revision> {
        self.waiting.get(self.offset(place)).map(|next| next.record.base())
    }

    /// From where who stands at a place must be caught up when what waits is dropped; `None` = nothing does.
    pub(super) fn lag_at(&self, place: u64) -> Option<Lag> {
        let next = self.waiting.get(self.offset(place))?;
        Some(Lag {
            after: next.record.base(),
            since: next.record.since.clone(),
        })
    }

    /// How far a step goes from a place: over the first revision's changes, and those of later ones until they are
    /// `join_max`, as long as no instance changes twice. Nowhere when nothing waits, or only what is beyond `settled`: the
    /// publisher is still handing that out, and the rest of the revision may be missing.
    pub(super) fn step(&self, place: u64, settled: Revision, join_max: usize) -> u64 {
        let from = self.offset(place);
        let mut count = self.revision_at(from, settled);
        if (1..join_max).contains(&count) {
            count = self.joined(from, count, settled, join_max);
        }
        // Plant: one revision is given in parts.
        planted!("revision-in-parts", let count = count.min(1));
        place + count as u64
    }

    /// The changes between two places as their watchers see them, and the revision of the last.
    pub(super) fn changes(&self, from: u64, to: u64) -> (Vec<WatchChange>, Revision) {
        let range = self.offset(from)..self.offset(to);
        let changes = self.waiting.range(range.clone());
        let last = self.waiting.range(range).next_back();
        let revision = last.map_or(Revision(0), |last| last.record.revision());
        let changes = changes.map(|waiting| seen(&waiting.record.change, waiting.effect));
        (changes.collect(), revision)
    }

    /// Forgets what is before a place.
    pub(super) fn pass(&mut self, place: u64) {
        let count = self.offset(place).min(self.waiting.len());
        let Some(last) = count.checked_sub(1).and_then(|last| self.waiting.get(last)) else {
            return;
        };
        self.passed = last.through;
        self.first += count as u64;
        self.waiting.drain(..count);
        if self.waiting.is_empty() && self.waiting.capacity() > ROOM_KEPT {
            self.waiting = VecDeque::new();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Where a place is among what waits.
    fn offset(&self, place: u64) -> usize {
        usize::try_from(place.saturating_sub(self.first)).unwrap_or(usize::MAX)
    }

    /// How many changes the revision has that begins so far from the first; 0 when nothing is there, or it is not settled.
    fn revision_at(&self, from: usize, settled: Revision) -> usize {
        let mut rest = self.waiting.range(from.min(self.waiting.len())..);
        match rest.next().map(|first| first.record.revision()) {
            Some(revision) if revision <= settled => {
                1 + rest.take_while(|waiting| waiting.record.revision() == revision).count()
            }
            _ => 0,
        }
    }

    /// How many changes make one step: `count`, and the revisions after them in which no instance changes that is in
    /// the step already. Two whose hashes are alike by chance count as one: they are two steps then.
    fn joined(&self, from: usize, mut count: usize, settled: Revision, join_max: usize) -> usize {
        let mut keys: HashSet<u32, BuildHasherDefault<AsHashed>> = HashSet::default();
        let hashes = |at: usize, count: usize| {
            let changes = self.waiting.range(from + at..from + at + count);
            changes.map(|one| one.record.key_hash)
        };
        // What a snapshot brought is a step of its own.
        let brought = |at: usize| {
            let change = self.waiting.get(from + at);
            change.is_some_and(|one| one.record.since.is_some())
        };
        while count < join_max && !brought(0) && !brought(count) {
            let more = self.revision_at(from + count, settled);
            if more == 0 {
                break;
            }
            if keys.is_empty() {
                keys.reserve((self.waiting.len() - from).min(join_max));
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
    use crate::watch::sample::{LIMITS, all, put, record};

    fn offer(backlog: &mut Backlog, limits: &HubLimits, revisions: impl IntoIterator<Item = u64>) {
        let filter = Filter::new(all());
        let records: Vec<_> = revisions
            .into_iter()
            .map(|revision| record(put(revision, "web", &format!("i{revision}"), "z")))
            .collect();
        backlog.offer(&filter, &records, limits);
    }

    fn queue(backlog: &mut Backlog) -> &mut Queue {
        match backlog {
            Backlog::Queue(queue) => queue,
            Backlog::Lagged(lag) => panic!("{lag:?}"),
        }
    }

    fn step(backlog: &mut Backlog, settled: u64) -> Vec<u64> {
        joined(backlog, settled, 1)
    }

    fn joined(backlog: &mut Backlog, settled: u64, join_max: usize) -> Vec<u64> {
        let queue = queue(backlog);
        let from = queue.first();
        let to = queue.step(from, Revision(settled), join_max);
        let (changes, revision) = queue.changes(from, to);
        queue.pass(to);
        let revisions: Vec<_> = changes.iter().map(|change| change.revision.0).collect();
        assert_eq!(revisions.last().copied().unwrap_or(0), revision.0);
        revisions
    }

    #[test]
    fn a_revision_is_taken_whole_and_alone() {
        let mut backlog = Backlog::default();
        offer(&mut backlog, &LIMITS, [5, 5, 7]);
        assert_eq!(step(&mut backlog, 9), [5, 5]);
        assert_eq!(step(&mut backlog, 9), [7]);
        assert!(step(&mut backlog, 9).is_empty());
        assert_eq!(backlog.size(), Size::default());
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
        backlog.offer(&filter, &records, &wide);
        assert_eq!(joined(&mut backlog, 9, 3), [1, 2, 2]);
        assert_eq!(joined(&mut backlog, 5, 100), [3, 4, 5]);
        assert_eq!(joined(&mut backlog, 9, 100), [6]);
        assert_eq!(backlog.size(), Size::default());

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
        backlog.offer(&Filter::new(all()), &records, &wide);
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
    fn each_place_has_its_own_behind_it() {
        let mut backlog = Backlog::default();
        offer(&mut backlog, &LIMITS, [5, 6, 7]);
        let queue = queue(&mut backlog);
        let one = queue.behind(2);
        assert_eq!(queue.behind(0).changes, 3);
        assert_eq!(queue.behind(0).bytes, 3 * one.bytes);
        assert_eq!(queue.behind(3), Size::default());
        queue.pass(1);
        assert_eq!((queue.first(), queue.end()), (1, 3));
        assert_eq!(
            queue.behind(1),
            Size {
                changes: 2,
                bytes: 2 * one.bytes
            }
        );
        assert_eq!(queue.complete_through(2), Some(Revision(6)));
        assert_eq!(queue.lag_at(1).map(|lag| lag.after), Some(Revision(5)));
        assert_eq!(queue.step(2, Revision(9), 100), 3);
        assert_eq!(queue.step(3, Revision(9), 100), 3);
        assert!(queue.lag_at(3).is_none() && queue.complete_through(3).is_none());
    }

    #[test]
    fn an_overflow_drops_the_queue_and_remembers_where_the_watcher_stands() {
        let mut backlog = Backlog::default();
        offer(&mut backlog, &LIMITS, [5, 6]);
        assert_eq!(step(&mut backlog, 9), [5]);
        offer(&mut backlog, &LIMITS, [8, 9, 10]);
        let Backlog::Lagged(lag) = &backlog else {
            panic!("not lagged")
        };
        assert_eq!(lag.after, Revision(5));
        assert_eq!(backlog.size(), Size::default());
        offer(&mut backlog, &LIMITS, [11]);
        assert!(backlog.is_lagged(), "what is lagged takes nothing");
    }

    #[test]
    fn bytes_bound_the_queue_too() {
        let tight = HubLimits {
            queue_bytes: 10,
            ..LIMITS
        };
        let mut backlog = Backlog::default();
        offer(&mut backlog, &tight, [5]);
        let Backlog::Lagged(lag) = &backlog else {
            panic!("not lagged")
        };
        assert_eq!(lag.after, Revision(4));
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
        assert!(queue(&mut backlog).waiting.capacity() <= ROOM_KEPT);
    }
}
