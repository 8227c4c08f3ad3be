//! Watches with one selector: what changes waits for all of them in one queue, in which each has its place.
//!
//! Of most services there are many watchers, who all want the same. A change is looked at, queued and weighed once for
//! all of them, and a step that several are given is made once.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
};

use super::{
    backlog::{Backlog, Lag, Queue, Size, exceeds},
    counters::Counters,
    delivery::Changes,
    filter::Filter,
    limits::HubLimits,
    record::Record,
};
use crate::model::Revision;

/// What the watches of one selector share with each other and with the hub. Its lock is held for a few instructions on
/// either side, and while a step is made, never over an await point; it may be taken while the hub's is held, not the
/// other way around.
#[derive(Debug)]
pub(super) struct Crowd {
    /// In the order in which crowds came.
    pub(super) number: u64,
    pub(super) filter: Filter,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By the numbers of their watches.
    members: HashMap<u64, Member>,
    /// What some member has not been given.
    queue: Queue,
    /// At which places of the queue members stand, and how many at each; those that are not lagged.
    places: BTreeMap<u64, usize>,
    /// Members for whom something waits beside the queue. Some may have taken it.
    resuming: Vec<u64>,
    /// Who waits for something new.
    sleepers: HashMap<u64, Waker>,
    /// The step that was given last, while others may be given the same.
    latest: Option<Latest>,
    /// The number of the last publishing that added something here.
    touched: u64,
}

/// One watch.
#[derive(Debug)]
struct Member {
    /// What it missed before it came, and must be given before what is in the queue; or the mark that it is lagged.
    missed: Backlog,
    /// Where it stands in the queue.
    place: u64,
}

/// A step that some member was given since the last publishing.
#[derive(Debug)]
struct Latest {
    from: u64,
    to: u64,
    settled: Revision,
    join_max: usize,
    step: Step,
}

/// One step's changes, and where they lead.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) changes: Changes,
    pub(super) revision: Revision,
    /// Whether nothing is left to take.
    pub(super) drains: bool,
}

/// One publishing on its way through the watches.
#[derive(Debug)]
pub(super) struct Round<'a> {
    /// Its number, from 1.
    pub(super) number: u64,
    pub(super) limits: &'a HubLimits,
    pub(super) counters: &'a Counters,
    /// The crowds that have something new, each once; to be woken when the round is over.
    pub(super) touched: Vec<Arc<Crowd>>,
}

impl Crowd {
    pub(super) fn new(number: u64, filter: Filter) -> Self {
        Self {
            number,
            filter,
            inner: Mutex::default(),
        }
    }

    /// Adds a watch, which is given `missed` before all that comes from now on.
    pub(super) fn join(&self, watch: u64, missed: Backlog) {
        let mut inner = self.lock();
        let place = inner.queue.end();
        if !missed.is_lagged() {
            *inner.places.entry(place).or_default() += 1;
        }
        if missed.size() != Size::default() {
            inner.resuming.push(watch);
        }
        inner.members.insert(watch, Member { missed, place });
    }

    /// Forgets a watch. Whether it was the last.
    pub(super) fn leave(&self, watch: u64, counters: &Counters) -> bool {
        let mut inner = self.lock();
        if let Some(member) = inner.members.remove(&watch) {
            counters.dequeued(inner.size(&member).bytes);
            if !member.missed.is_lagged() {
                inner.leave_place(member.place);
            }
        }
        inner.sleepers.remove(&watch);
        inner.resuming.retain(|other| *other != watch);
        inner.forget_what_all_have();
        inner.members.is_empty()
    }

    /// Queues those of the records, all of one service, that change these watchers' view.
    pub(super) fn offer(self: &Arc<Self>, records: &[Arc<Record>], round: &mut Round<'_>) {
        let mut inner = self.lock();
        let mut added = false;
        for record in records {
            let Some(effect) = self.filter.effect_of(record) else {
                continue;
            };
            let keeping_up: usize = inner.places.values().sum();
            if keeping_up == 0 {
                // Lagged members are caught up from the history.
                break;
            }
            added = true;
            let bytes = inner.queue.push(record, effect);
            round.counters.queued(bytes.saturating_mul(keeping_up as u64));
            inner.drop_the_slowest(round);
        }
        if !added {
            return;
        }
        inner.latest = None;
        if inner.touched != round.number {
            inner.touched = round.number;
            round.touched.push(Arc::clone(self));
        }
    }

    /// Wakes whoever waits. The lock is taken after the round is over, so that a watcher that looked while it went on, and
    /// was turned away, has left its waker by now.
    pub(super) fn wake(&self) {
        let sleepers: Vec<Waker> = self.lock().sleepers.drain().map(|(_, waker)| waker).collect();
        sleepers.into_iter().for_each(Waker::wake);
    }

    /// The next step of a watch: the first revision's changes, and those of later ones until they are `join_max`, as long
    /// as no instance changes twice. `None` = nothing waits that may be handed out; the task is remembered, and woken when
    /// something does.
    pub(super) fn take_step(
        &self,
        watch: u64,
        settled: impl FnOnce() -> Revision,
        counters: &Counters,
        join_max: usize,
        cx: &mut Context<'_>,
    ) -> Result<Option<Step>, Lag> {
        let mut inner = self.lock();
        // Under the lock: who reads it before may be overtaken by a whole round, its wake included.
        let settled = settled();
        let step = inner.take_step(watch, settled, counters, join_max)?;
        if step.is_none() {
            match inner.sleepers.get_mut(&watch) {
                Some(waker) => waker.clone_from(cx.waker()),
                None => drop(inner.sleepers.insert(watch, cx.waker().clone())),
            }
        }
        Ok(step)
    }

    /// Through where a watcher has everything, if that is known from what waits; `None` = nothing does.
    pub(super) fn complete_through(&self, watch: u64) -> Option<Revision> {
        let inner = self.lock();
        let member = inner.members.get(&watch)?;
        match &member.missed {
            Backlog::Lagged(lag) => Some(lag.after),
            Backlog::Queue(missed) => {
                let missed = missed.complete_through(missed.first());
                missed.or_else(|| inner.queue.complete_through(member.place))
            }
        }
    }

    /// Lets a lagged watch that is being caught up begin anew at the present.
    pub(super) fn begin_anew(&self, watch: u64) {
        let mut inner = self.lock();
        let end = inner.queue.end();
        let Some(member) = inner.members.get_mut(&watch) else {
            return;
        };
        if member.missed.is_lagged() {
            member.missed = Backlog::default();
            member.place = end;
            *inner.places.entry(end).or_default() += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under this lock panics half-way through a change, so what a panicking thread left is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// How much waits for a member.
    fn size(&self, member: &Member) -> Size {
        if member.missed.is_lagged() {
            Size::default()
        } else {
            member.missed.size() + self.queue.behind(member.place)
        }
    }

    fn take_step(
        &mut self,
        watch: u64,
        settled: Revision,
        counters: &Counters,
        join_max: usize,
    ) -> Result<Option<Step>, Lag> {
        let Some(member) = self.members.get_mut(&watch) else {
            return Ok(None);
        };
        let missed = match &mut member.missed {
            Backlog::Lagged(lag) => return Err(lag.clone()),
            Backlog::Queue(missed) => missed,
        };
        if !missed.is_empty() {
            let from = missed.first();
            let to = missed.step(from, settled, join_max);
            if to == from {
                return Ok(None);
            }
            let (changes, revision) = missed.changes(from, to);
            let before = missed.behind(from).bytes;
            missed.pass(to);
            counters.dequeued(before - missed.behind(to).bytes);
            return Ok(Some(Step {
                changes: changes.into(),
                revision,
                drains: missed.is_empty() && member.place == self.queue.end(),
            }));
        }
        let from = member.place;
        let known = self
            .latest
            .as_ref()
            .filter(|latest| (latest.from, latest.settled, latest.join_max) == (from, settled, join_max));
        let (to, step) = match known {
            Some(latest) => (latest.to, latest.step.clone()),
            None => {
                let to = self.queue.step(from, settled, join_max);
                if to == from {
                    return Ok(None);
                }
                let (changes, revision) = self.queue.changes(from, to);
                let step = Step {
                    changes: changes.into(),
                    revision,
                    drains: to == self.queue.end(),
                };
                self.latest = Some(Latest {
                    from,
                    to,
                    settled,
                    join_max,
                    step: step.clone(),
                });
                (to, step)
            }
        };
        member.place = to;
        counters.dequeued(self.queue.behind(from).bytes - self.queue.behind(to).bytes);
        self.leave_place(from);
        *self.places.entry(to).or_default() += 1;
        self.forget_what_all_have();
        Ok(Some(step))
    }

    fn leave_place(&mut self, place: u64) {
        if let Some(members) = self.places.get_mut(&place) {
            *members -= 1;
            if *members == 0 {
                self.places.remove(&place);
            }
        }
    }

    /// Of what nobody is to be given any more, nothing stays.
    fn forget_what_all_have(&mut self) {
        let slowest = self.places.first_key_value().map(|(place, _)| *place);
        self.queue.pass(slowest.unwrap_or(self.queue.end()));
        // The next one that may be given the same stands where that step began.
        if self
            .latest
            .as_ref()
            .is_some_and(|latest| !self.places.contains_key(&latest.from))
        {
            self.latest = None;
        }
    }

    /// Members for whom more waits than may are lagged from now on.
    fn drop_the_slowest(&mut self, round: &Round<'_>) {
        let at_first = self.places.first_key_value().map(|(place, _)| *place);
        let too_slow = at_first.is_some_and(|place| exceeds(self.queue.behind(place), round.limits));
        if !too_slow && self.resuming.is_empty() {
            return;
        }
        let members = &self.members;
        self.resuming.retain(|watch| {
            let member = members.get(watch);
            member.is_some_and(|member| member.missed.size() != Size::default())
        });
        let over = |member: &Member| exceeds(self.size(member), round.limits);
        let dropped: Vec<u64> = if too_slow {
            let over = self.members.iter().filter(|(_, member)| over(member));
            over.map(|(watch, _)| *watch).collect()
        } else {
            let resuming = self.resuming.iter().copied();
            resuming
                .filter(|watch| self.members.get(watch).is_some_and(over))
                .collect()
        };
        for watch in dropped {
            self.drop_what_waits(watch, round.counters);
        }
        self.forget_what_all_have();
    }

    fn drop_what_waits(&mut self, watch: u64, counters: &Counters) {
        let Some(member) = self.members.get_mut(&watch) else {
            return;
        };
        let Backlog::Queue(missed) = &member.missed else { return };
        let place = member.place;
        let Some(lag) = missed.lag_at(missed.first()).or_else(|| self.queue.lag_at(place)) else {
            return;
        };
        counters.dequeued(missed.behind(missed.first()).bytes + self.queue.behind(place).bytes);
        counters.count_lagged(1);
        member.missed = Backlog::Lagged(lag);
        self.leave_place(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::sample::{LIMITS, all, put, record};

    struct Room {
        crowd: Arc<Crowd>,
        counters: Counters,
        rounds: u64,
    }

    impl Room {
        fn with(watches: impl IntoIterator<Item = u64>) -> Self {
            let crowd = Arc::new(Crowd::new(1, Filter::new(all())));
            for watch in watches {
                crowd.join(watch, Backlog::default());
            }
            Self {
                crowd,
                counters: Counters::default(),
                rounds: 0,
            }
        }

        fn publish(&mut self, revisions: impl IntoIterator<Item = u64>) -> usize {
            let put = |revision| record(put(revision, "web", &format!("i{revision}"), "z"));
            let records: Vec<_> = revisions.into_iter().map(put).collect();
            self.rounds += 1;
            let mut round = Round {
                number: self.rounds,
                limits: &LIMITS,
                counters: &self.counters,
                touched: Vec::new(),
            };
            self.crowd.offer(&records, &mut round);
            round.touched.len()
        }

        fn take(&self, watch: u64, settled: u64) -> Result<Option<Step>, Lag> {
            let mut cx = Context::from_waker(Waker::noop());
            self.crowd
                .take_step(watch, || Revision(settled), &self.counters, 100, &mut cx)
        }

        /// The revisions that a watch is given.
        fn step(&self, watch: u64, settled: u64) -> Vec<u64> {
            let step = self.take(watch, settled).expect("not lagged");
            let changes = step.into_iter().flat_map(|step| step.changes.to_vec());
            changes.map(|change| change.revision.0).collect()
        }
    }

    /// A watcher that reads what is settled, and only then waits for the lock, can be overtaken by a whole publishing,
    /// its wake included: it would then leave its waker for nobody and sleep over what is new.
    #[test]
    fn what_is_settled_is_read_under_the_lock_so_that_no_wake_comes_in_between() {
        let Room { crowd, counters, .. } = Room::with([1]);
        let mut cx = Context::from_waker(Waker::noop());
        let mut publisher_was_kept_out = false;
        let settled = || {
            publisher_was_kept_out = crowd.inner.try_lock().is_err();
            Revision(1)
        };
        let step = crowd.take_step(1, settled, &counters, 1, &mut cx).expect("not lagged");
        assert!(step.is_none());
        assert!(publisher_was_kept_out);
        assert!(crowd.lock().sleepers.contains_key(&1));
        crowd.wake();
        assert!(crowd.lock().sleepers.is_empty());
    }

    #[test]
    fn those_who_stand_together_are_given_one_step_and_others_their_own() {
        let mut room = Room::with([1, 2, 3]);
        assert_eq!(room.publish([5]), 1);
        assert_eq!(room.step(3, 5), [5]);
        assert_eq!(room.publish([6]), 1);
        let [one, two] = [1, 2].map(|watch| room.take(watch, 6).expect("not lagged").expect("something waits"));
        assert_eq!(one.changes.len(), 2);
        assert!(std::ptr::eq(&*one.changes, &*two.changes));
        assert_eq!((two.revision, two.drains), (Revision(6), true));
        assert_eq!(room.step(3, 6), [6]);
        assert!(room.step(1, 9).is_empty());
        assert_eq!(room.counters.queued_bytes(), 0);
        let inner = room.crowd.lock();
        assert!(
            inner.queue.is_empty() && inner.latest.is_none(),
            "nothing stays that all have"
        );
    }

    #[test]
    fn a_step_is_shared_only_with_those_who_may_be_given_as_much() {
        let mut room = Room::with([1, 2]);
        room.publish([5, 6]);
        assert_eq!(room.step(1, 5), [5]);
        assert_eq!(room.step(2, 6), [5, 6]);
        assert_eq!(room.step(1, 6), [6]);
    }

    #[test]
    fn who_is_too_slow_is_dropped_and_the_others_go_on() {
        let mut room = Room::with([1, 2]);
        room.publish([5, 6]);
        assert_eq!(room.step(2, 6), [5, 6]);
        room.publish([7, 8]);
        assert_eq!(room.take(1, 8).expect_err("lagged").after, Revision(4));
        assert_eq!(room.crowd.complete_through(1), Some(Revision(4)));
        assert_eq!(room.crowd.complete_through(2), Some(Revision(6)));
        assert_eq!(room.step(2, 8), [7, 8]);
        assert_eq!((room.counters.lagged(), room.counters.queued_bytes()), (1, 0));
        room.publish([9]);
        assert!(room.take(1, 9).is_err(), "what is lagged takes nothing");
        room.crowd.begin_anew(1);
        assert!(room.step(1, 9).is_empty());
        room.publish([10]);
        assert_eq!(room.step(1, 10), [10]);
        assert_eq!(room.step(2, 10), [9, 10]);
    }

    #[test]
    fn where_all_are_lagged_nothing_is_queued() {
        let mut room = Room::with([1]);
        assert_eq!(room.publish([5, 6, 7, 8]), 1);
        assert!(room.take(1, 8).is_err());
        assert_eq!(room.publish([9]), 0);
        assert!(room.crowd.lock().queue.is_empty());
    }

    #[test]
    fn what_was_missed_comes_first_and_counts() {
        let mut room = Room::with([1]);
        let missed = |revisions: &[u64]| {
            let records = revisions.iter().map(|&revision| record(put(revision, "web", "a", "z")));
            let mut missed = Backlog::default();
            missed.offer(&Filter::new(all()), &records.collect::<Vec<_>>(), &LIMITS);
            room.counters.queued(missed.size().bytes);
            missed
        };
        let (two, three) = (missed(&[3, 4]), missed(&[2, 3, 4]));
        room.crowd.join(2, two);
        room.crowd.join(3, three);
        room.publish([5]);
        assert_eq!(room.take(3, 5).expect_err("lagged").after, Revision(1));
        assert_eq!(room.crowd.complete_through(2), Some(Revision(2)));
        assert_eq!(room.step(2, 5), [3], "the same instance twice");
        assert_eq!(room.step(2, 5), [4]);
        assert_eq!(room.step(2, 5), [5]);
        assert_eq!(room.step(1, 5), [5]);
        assert_eq!(room.counters.queued_bytes(), 0);
        room.publish([6]);
        assert!(room.crowd.lock().resuming.is_empty());
    }

    #[test]
    fn who_leaves_takes_along_what_waited_for_it_alone() {
        let mut room = Room::with([1, 2]);
        room.publish([5]);
        assert_eq!(room.step(2, 5), [5]);
        assert!(!room.crowd.leave(1, &room.counters));
        assert!(room.crowd.lock().queue.is_empty());
        assert_eq!(room.counters.queued_bytes(), 0);
        assert!(room.crowd.leave(2, &room.counters));
    }
}
