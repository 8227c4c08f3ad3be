//! The leader's proposer: what waits becomes entries of the log.
//!
//! It drains the waiting renewals first, then the commands, stamps the entry with the lease clock *after* the last
//! of them was drained, and proposes it for its own term. What arrives while an entry is on its way shares the next one,
//! which waits for its end, unless much has come or it is slow; commands wait a moment for those of callers that were
//! just answered, and renewals alone a little longer for company, unless they are many. Nothing is proposed after its
//! caller's deadline, nor while no quorum was heard of within the election timeout: such writes wait, and are answered
//! as not applied when their time is up.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Clock,
    waiting::{Failure, ProposerHandle, Queues, RENEWALS_MAX, Renewals, WRITES_MAX, Write, are_company},
};
use crate::{
    lease_clock::{BareStamp, LeaseClock},
    model::{LeaseId, NodeId, Term},
    raft::{Committed, Leadership, Proposal, ProposeError, Raft},
    registry::{Command, Entry, Renewal},
};

/// Entries proposed and not yet answered. More would only be smaller each, and what an entry costs hardly depends on what
/// is in it.
const IN_FLIGHT_MAX: usize = 2;
/// While an entry is on its way, so many commands are worth another one …
const WORTH_ANOTHER: usize = 256;
/// … or one that has waited for so long: the entry before it is slow.
const PATIENCE: Duration = Duration::from_millis(2);
/// Commands in one entry.
const COMMANDS_PER_ENTRY: usize = 4_096;
/// Their size.
const ENTRY_MAX_BYTES: usize = 5 << 19;
/// Renewals in one entry.
const RENEWALS_PER_ENTRY: usize = 100_000;
/// How long commands wait, when nothing is on its way, for those of the callers that were answered last.
const RETURN_WAIT: Duration = Duration::from_millis(2);
/// How long renewals wait for company when there are no commands.
const COMPANY_WAIT: Duration = Duration::from_millis(20);
/// How soon writes that wait for a quorum look again, and how soon a bare stamp follows an entry that was refused.
const QUORUM_RETRY: Duration = Duration::from_millis(10);

/// One term of this node's leadership.
struct Lead {
    term: Term,
    clock: LeaseClock,
    bare: BareStamp,
}

/// Who waits for an entry in flight.
struct Waiters {
    writes: Vec<Write>,
    renewals: Vec<Renewals>,
    ids: Vec<LeaseId>,
}

/// The proposer's task.
pub(super) struct Proposer {
    raft: Raft,
    clock: Arc<dyn Clock>,
    quorum_timeout: Duration,
    leadership: watch::Receiver<Leadership>,
    queues: Queues,
    lead: Option<Lead>,
    writes: VecDeque<Write>,
    renewals: VecDeque<Renewals>,
    in_flight: FuturesUnordered<BoxFuture<'static, (Waiters, Result<Committed, ProposeError>)>>,
    /// When an entry was last refused.
    refused: Option<Instant>,
    /// How many callers were there when an entry was last answered: those of its commands, and those that waited.
    /// Whoever calls again does so soon, and one entry for all of them costs what one for a part of them does.
    callers: usize,
    /// When that was.
    answered: Instant,
}

impl Proposer {
    /// A proposer and the way to it. `quorum_timeout`: how recent a quorum's acknowledgement must be to propose.
    pub(super) fn new(raft: Raft, clock: Arc<dyn Clock>, quorum_timeout: Duration) -> (Self, ProposerHandle) {
        let (handle, queues) = ProposerHandle::new();
        let proposer = Self {
            leadership: raft.leadership(),
            raft,
            clock,
            quorum_timeout,
            queues,
            lead: None,
            writes: VecDeque::new(),
            renewals: VecDeque::new(),
            in_flight: FuturesUnordered::new(),
            refused: None,
            callers: 0,
            answered: Instant::now(),
        };
        (proposer, handle)
    }

    /// Runs until `stop`; then refuses what waits and answers what is in flight, for as long as the owner lets it.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        self.follow_leadership();
        let mut wake = Instant::now() + LeaseClock::STEP_EVERY;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                changed = self.leadership.changed() => {
                    if changed.is_err() { break; }
                    self.follow_leadership();
                }
                Some(write) = self.queues.new_writes.recv(), if self.writes.len() < WRITES_MAX => self.writes.push_back(write),
                Some(renewals) = self.queues.new_renewals.recv(), if self.renewals.len() < RENEWALS_MAX => {
                    self.renewals.push_back(renewals);
                }
                Some((waiters, result)) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    if result.is_err() {
                        self.refused = Some(Instant::now());
                    }
                    self.callers = waiters.writes.len() + self.writes.len();
                    answer(waiters, result);
                    self.answered = Instant::now();
                }
                () = tokio::time::sleep_until(wake) => {}
            }
            self.take_what_arrived();
            wake = self.close_entries();
        }
        self.queues.new_writes.close();
        self.queues.new_renewals.close();
        self.take_what_arrived();
        self.refuse_waiting(Failure::ShuttingDown);
        while let Some((waiters, result)) = self.in_flight.next().await {
            answer(waiters, result);
        }
    }

    fn take_what_arrived(&mut self) {
        while self.writes.len() < WRITES_MAX
            && let Ok(write) = self.queues.new_writes.try_recv()
        {
            self.writes.push_back(write);
        }
        while self.renewals.len() < RENEWALS_MAX
            && let Ok(renewals) = self.queues.new_renewals.try_recv()
        {
            self.renewals.push_back(renewals);
        }
    }

    fn follow_leadership(&mut self) {
        let leadership = self.leadership.borrow_and_update().clone();
        let Some(lead) = leadership.lead else {
            self.lead = None;
            self.queues.clock_running.store(false, Ordering::Relaxed);
            return;
        };
        if self.lead.as_ref().is_none_or(|current| current.term != lead.term) {
            // Plant: a new leader takes lease time for later than it is.
            let base = planted!(
                "clock-ahead-at-election",
                lead.base.after(Duration::from_secs(5)),
                lead.base
            );
            let now = self.clock.now();
            // Plant: with each leader all leases are given time again.
            planted!("ttls-begin-anew-at-election", let now = now + Duration::from_secs(5));
            let clock = LeaseClock::begin(base, now);
            self.lead = Some(Lead {
                term: lead.term,
                clock,
                bare: BareStamp::new(),
            });
        }
    }

    fn refuse_waiting(&mut self, failure: Failure) {
        for write in self.writes.drain(..) {
            let _caller_left = write.reply.send(Err(failure));
        }
        for renewals in self.renewals.drain(..) {
            let _caller_left = renewals.reply.send(Err(failure));
        }
    }

    /// Proposes what may be proposed now and says when to look again.
    fn close_entries(&mut self) -> Instant {
        let now = Instant::now();
        let leader = self.leadership.borrow().leader;
        let Some(term) = self.lead.as_ref().map(|lead| lead.term) else {
            self.refuse_waiting(Failure::NotLeader(leader));
            return now + LeaseClock::STEP_EVERY;
        };
        self.drop_overdue(now, term, leader);
        let quorum_heard = self
            .raft
            .last_quorum_ack()
            .is_some_and(|ack| ack.elapsed() <= self.quorum_timeout);
        self.step_clock();
        if !quorum_heard {
            let waiting = !self.writes.is_empty() || !self.renewals.is_empty();
            return now + if waiting { QUORUM_RETRY } else { LeaseClock::STEP_EVERY };
        }
        while self.in_flight.len() < IN_FLIGHT_MAX && (self.company_is_complete(now) || self.bare_stamp_is_due()) {
            self.close_entry();
        }
        self.next_wake(now)
    }

    fn drop_overdue(&mut self, now: Instant, term: Term, leader: Option<NodeId>) {
        let failure = |wanted: Option<Term>, propose_by: Instant| {
            if wanted.is_some_and(|wanted| wanted != term) {
                Some(Failure::NotLeader(leader))
            } else if propose_by <= now {
                Some(Failure::NoQuorum)
            } else {
                None
            }
        };
        let full = self.queues.disk_full.load(Ordering::Relaxed);
        refuse_some(
            &mut self.writes,
            |write| {
                failure(write.term, write.propose_by)
                    .or_else(|| (full && grows(&write.command)).then_some(Failure::DiskFull))
            },
            |write, failure| drop(write.reply.send(Err(failure))),
        );
        self.renewals.retain(|renewals| !renewals.reply.is_closed());
        refuse_some(
            &mut self.renewals,
            |renewals| failure(renewals.term, renewals.propose_by),
            |renewals, failure| drop(renewals.reply.send(Err(failure))),
        );
    }

    /// Whether an entry should be closed for what waits. Commands wait a moment for those of the callers that were there
    /// when the last entry was answered, and longer while an entry is on its way; a lone caller's waits for nothing.
    /// Renewals alone wait for company; many are company enough for each other, unless an entry is on its way.
    fn company_is_complete(&self, now: Instant) -> bool {
        let lists = || self.renewals.iter().map(|renewals| renewals.ids.as_slice());
        self.writes.front().is_some_and(|first| {
            let (enough, until) = self.company_of_commands(first);
            self.writes.len() >= enough || until <= now
        }) || self
            .renewals
            .front()
            .is_some_and(|first| first.since + COMPANY_WAIT <= now)
            || (self.in_flight.is_empty() && are_company(lists()))
    }

    /// How many commands are worth an entry now, and until when `first` waits for so many. What waited for the end of an
    /// entry waits on for the callers of that one: else two halves of the callers would take turns for ever, each with
    /// entries of its own.
    fn company_of_commands(&self, first: &Write) -> (usize, Instant) {
        if self.in_flight.is_empty() {
            let others_return = first.since.max(self.answered) + RETURN_WAIT;
            (self.callers.min(WORTH_ANOTHER), others_return)
        } else {
            (WORTH_ANOTHER, first.since + PATIENCE)
        }
    }

    /// The monotonic time now, and that of the last quorum acknowledgement on the same scale. `now` is read first:
    /// the acknowledgement can then only appear older than it is, never fresher.
    fn times(&self) -> (Duration, Duration) {
        let now = self.clock.now();
        let ack = self
            .raft
            .last_quorum_ack()
            .map_or(Duration::ZERO, |ack| now.saturating_sub(ack.elapsed()));
        (now, ack)
    }

    fn step_clock(&mut self) {
        let (now, ack) = self.times();
        if let Some(lead) = &mut self.lead {
            lead.clock.step(now, ack);
            self.queues
                .clock_running
                .store(lead.clock.is_running(now, ack), Ordering::Relaxed);
        }
    }

    /// Whether an entry should be closed though nothing waits. Raft may refuse entries at once while it still says that
    /// this node leads: if a lease is due then, each refusal would be followed by the next try without a pause.
    fn bare_stamp_is_due(&self) -> bool {
        if self.refused.is_some_and(|at| at.elapsed() < QUORUM_RETRY) {
            return false;
        }
        let now = self.clock.now();
        self.lead.as_ref().is_some_and(|lead| {
            lead.bare.is_due(
                now,
                lead.clock.reading(),
                self.raft.next_deadline(),
                !self.in_flight.is_empty(),
            )
        })
    }

    /// Drains one entry's worth of what waits, stamps it, proposes it.
    fn close_entry(&mut self) {
        let (mut ids, mut renewals) = (Vec::new(), Vec::new());
        while let Some(next) = self
            .renewals
            .pop_front_if(|next| ids.is_empty() || ids.len() + next.ids.len() <= RENEWALS_PER_ENTRY)
        {
            ids.extend_from_slice(&next.ids);
            renewals.push(next);
        }
        ids.sort_unstable();
        ids.dedup();

        let (mut commands, mut encoded, mut writes, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        while commands.len() < COMMANDS_PER_ENTRY
            && let Some(mut next) = self
                .writes
                .pop_front_if(|next| bytes == 0 || bytes + next.encoded.len() <= ENTRY_MAX_BYTES)
        {
            bytes += next.encoded.len();
            encoded.push(std::mem::take(&mut next.encoded));
            commands.push(std::mem::replace(
                &mut next.command,
                Command::RevokeLease { lease_id: LeaseId(0) },
            ));
            writes.push(next);
        }

        let (now, ack) = self.times();
        let Some(lead) = &mut self.lead else { return };
        let stamp = lead.clock.step(now, ack);
        lead.bare.stamped(now, stamp);
        let entry = Entry {
            stamp,
            wall_ms: self.clock.wall_ms(),
            renewals: ids.clone(),
            commands,
        };
        let proposal = self.raft.propose(lead.term, Proposal::encoded(entry, encoded));
        let waiters = Waiters { writes, renewals, ids };
        self.in_flight.push(Box::pin(async move { (waiters, proposal.await) }));
    }

    fn next_wake(&self, now: Instant) -> Instant {
        let step = now + LeaseClock::STEP_EVERY;
        let company = self
            .renewals
            .front()
            .map_or(step, |renewals| renewals.since + COMPANY_WAIT);
        let deadline = self.until_next_deadline().map_or(step, |span| now + span);
        let overdue = self.writes.front().map_or(step, |write| write.propose_by);
        let commands = self
            .writes
            .front()
            .map_or(step, |first| self.company_of_commands(first).1);
        // With the window full, the next completion wakes the loop; waking sooner would only spin.
        let soonest = if self.in_flight.len() < IN_FLIGHT_MAX {
            company.min(deadline).min(commands)
        } else {
            step
        };
        soonest.min(step).min(overdue).max(now + Duration::from_millis(1))
    }

    fn until_next_deadline(&self) -> Option<Duration> {
        let reading = self.lead.as_ref()?.clock.reading();
        let deadline = self.raft.next_deadline()?;
        self.in_flight.is_empty().then(|| deadline.since(reading))
    }
}

/// Whether a command may make the state larger.
fn grows(command: &Command) -> bool {
    match command {
        Command::Register(_) | Command::BatchRegister(_) | Command::Update(_) | Command::GrantLease { .. } => true,
        Command::Deregister(_) | Command::RevokeLease { .. } => false,
    }
}

fn refuse_some<T>(queue: &mut VecDeque<T>, failure: impl Fn(&T) -> Option<Failure>, refuse: impl Fn(T, Failure)) {
    if !queue.iter().any(|item| failure(item).is_some()) {
        return;
    }
    for item in std::mem::take(queue) {
        match failure(&item) {
            Some(failure) => refuse(item, failure),
            None => queue.push_back(item),
        }
    }
}

/// Hands out the results of one entry. A caller that left is no concern of anyone.
fn answer(waiters: Waiters, result: Result<Committed, ProposeError>) {
    let committed = match result {
        Ok(committed) => committed,
        Err(error) => return answer_failure(waiters, error),
    };
    let Committed { index, applied } = committed;
    for renewals in waiters.renewals {
        let result_of = |id: &LeaseId| {
            let at = waiters.ids.binary_search(id).ok();
            at.and_then(|at| applied.renewals.get(at))
                .copied()
                .unwrap_or(Renewal::NotFound)
        };
        let results = renewals.ids.iter().map(result_of).collect();
        let _caller_left = renewals.reply.send(Ok((results, applied.revision)));
    }
    for (write, reply) in waiters.writes.into_iter().zip(&applied.replies) {
        let _caller_left = write.reply.send(Ok((index, reply.clone())));
    }
}

fn answer_failure(waiters: Waiters, error: ProposeError) {
    let failure = match error {
        ProposeError::NotLeader { leader } => Failure::NotLeader(leader),
        ProposeError::NoQuorum => Failure::NoQuorum,
        ProposeError::Unknown => Failure::Unknown,
        ProposeError::ShuttingDown => Failure::ShuttingDown,
    };
    for write in waiters.writes {
        let _caller_left = write.reply.send(Err(failure));
    }
    for renewals in waiters.renewals {
        let _caller_left = renewals.reply.send(Err(failure));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Incarnation, InstanceId, InstanceKey, Namespace, ServiceName, Ttl};
    use crate::registry::Deregister;

    #[test]
    fn a_full_disk_still_takes_what_makes_the_state_smaller() {
        let key = InstanceKey::new(
            Namespace::default(),
            ServiceName::parse("api").unwrap(),
            InstanceId::parse("a").unwrap(),
        );
        let deregister = Deregister {
            key,
            expected_mod_revision: None,
            incarnation: Incarnation(0),
            lease_id: None,
        };
        assert!(!grows(&Command::Deregister(deregister)));
        assert!(!grows(&Command::RevokeLease { lease_id: LeaseId(1) }));
        assert!(grows(&Command::GrantLease {
            lease_id: None,
            ttl: Ttl::DEFAULT
        }));
    }

    #[test]
    fn refusing_some_keeps_the_order_of_the_others() {
        let mut queue: VecDeque<u32> = (0..6).collect();
        let refused = std::cell::RefCell::new(Vec::new());
        refuse_some(
            &mut queue,
            |item| (item % 2 == 0).then_some(Failure::NoQuorum),
            |item, _| refused.borrow_mut().push(item),
        );
        assert_eq!((queue, refused.into_inner()), ([1, 3, 5].into(), vec![0, 2, 4]));
    }
}
