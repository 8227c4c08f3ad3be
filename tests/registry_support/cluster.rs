//! A cluster reduced to what lease time sees: one log, a leader with a lease clock or none, a quorum that
//! acknowledges or not, entries in flight, and two replicas that apply them. Real time is a number.
//!
//! It does what the proposer of a leader does: it steps the clock every 100 ms and when an entry is closed, after
//! the last renewal was drained; it proposes a bare stamp when one is due; it proposes nothing when no quorum was
//! heard of within the election timeout. And it checks, at every expiry, that no acknowledged renewal was sent less
//! than a TTL before.

use std::{collections::BTreeMap, collections::VecDeque, time::Duration};

use roster::{
    lease_clock::{BareStamp, LeaseClock},
    model::{InstanceKey, LeaseId, LeaseTime, Ttl},
    registry::{Applied, Command, Corrupt, Entry, Outcome, Registry, Rejection, RemoveReason, Renewal, State},
};

/// Time passes in steps of this.
pub const QUANTUM: Duration = Duration::from_millis(10);
/// Without a quorum for longer, a leader proposes nothing.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(450);

#[derive(Debug)]
struct Leader {
    name: String,
    clock: LeaseClock,
    bare: BareStamp,
    stepped: Duration,
}

struct InFlight {
    proposed: Duration,
    entry: Entry,
    /// When each of the entry's renewals was sent.
    sent: BTreeMap<LeaseId, Duration>,
    commands_sent: Duration,
}

/// What an expiry may not come too early for, nor too late.
#[derive(Clone, Copy, Debug)]
pub struct Renewed {
    pub sent: Duration,
    pub ttl: Ttl,
    /// Time without a leader or a quorum, or with the leader standing still, since then.
    pub unavailable: Duration,
    pub leader_changes: u32,
}

/// An instance that expired.
#[derive(Clone, Copy, Debug)]
pub struct Gone {
    pub at: Duration,
    pub renewed: Renewed,
}

impl Gone {
    /// When it must be gone at the latest, counted from its last renewal.
    pub fn allowed(&self) -> Duration {
        let changes = Duration::from_millis(250) * self.renewed.leader_changes;
        self.renewed.ttl.as_duration() + Duration::from_secs(1) + self.renewed.unavailable + changes
    }

    pub fn took(&self) -> Duration {
        self.at - self.renewed.sent
    }
}

pub struct Cluster {
    pub now: Duration,
    pub registry: Registry,
    replica: Registry,
    leader: Option<Leader>,
    quorum: bool,
    last_ack: Duration,
    /// How long a renewal without commands waits for company.
    pub company: Duration,
    renewals: BTreeMap<LeaseId, Duration>,
    commands: Vec<Command>,
    in_flight: VecDeque<InFlight>,
    pub renewed: BTreeMap<LeaseId, Renewed>,
    pub gone: BTreeMap<InstanceKey, Gone>,
    /// What happened, with its time.
    pub told: Vec<String>,
    replies: Vec<Result<Outcome, Rejection>>,
    pub entries: usize,
    pub most_removed: usize,
    /// Whether each expiry is told.
    pub tells: bool,
}

pub fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

pub fn lease_seconds(time: LeaseTime) -> String {
    seconds(Duration::from_nanos(time.0))
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            now: Duration::ZERO,
            registry: Registry::new(),
            replica: Registry::new(),
            leader: None,
            quorum: true,
            last_ack: Duration::ZERO,
            company: Duration::ZERO,
            renewals: BTreeMap::new(),
            commands: Vec::new(),
            in_flight: VecDeque::new(),
            renewed: BTreeMap::new(),
            gone: BTreeMap::new(),
            told: Vec::new(),
            replies: Vec::new(),
            entries: 0,
            most_removed: 0,
            tells: true,
        }
    }
}

impl Cluster {
    fn tell(&mut self, what: &str) {
        self.told.push(format!("{} {what}", seconds(self.now)));
    }

    /// A node leads in a new term: what is still in flight is committed with the term's blank entry, which is
    /// applied; then its lease clock begins.
    pub fn elect(&mut self, name: &str) {
        let carried = self.in_flight.len();
        while let Some(entry) = self.in_flight.pop_front() {
            self.apply(entry);
        }
        for renewed in self.renewed.values_mut() {
            renewed.leader_changes += 1;
        }
        let base = self.registry.state().clock();
        self.quorum = true;
        self.last_ack = self.now;
        self.leader = Some(Leader {
            name: name.to_owned(),
            clock: LeaseClock::begin(base, self.now),
            bare: BareStamp::new(),
            stepped: self.now,
        });
        let committed = if carried > 0 {
            format!(" and commits what its predecessor had in flight ({carried})")
        } else {
            String::new()
        };
        self.tell(&format!(
            "{name} leads{committed}; its lease clock begins at {}",
            lease_seconds(base)
        ));
    }

    /// The leader is gone. What it had in flight is lost, or was received by enough nodes to survive it.
    pub fn crash(&mut self, in_flight_survives: bool) {
        let name = self.leader.take().map_or_else(String::new, |leader| leader.name);
        let lost = if in_flight_survives { 0 } else { self.in_flight.len() };
        if !in_flight_survives {
            self.in_flight.clear();
        }
        let lost = if lost > 0 {
            format!("; what it had in flight ({lost}) is lost")
        } else {
            String::new()
        };
        self.tell(&format!("{name} is gone{lost}"));
    }

    /// Whether followers acknowledge.
    pub fn set_quorum(&mut self, quorum: bool) {
        self.quorum = quorum;
        self.tell(if quorum {
            "the quorum is back"
        } else {
            "the quorum is lost"
        });
    }

    /// The leader stands still: SIGSTOP, a frozen machine.
    pub fn pause(&mut self, span: Duration) {
        self.tell("the leader stands still");
        self.now += span;
        self.add_unavailable(span);
        self.tell("the leader goes on");
    }

    /// A renewal arrives at the leader, sent now.
    pub fn renew(&mut self, id: LeaseId) {
        self.renewals.insert(id, self.now);
    }

    /// A command, proposed with the next entry; time passes until it is applied.
    pub fn run(&mut self, command: Command) -> Result<Outcome, Rejection> {
        self.commands.push(command);
        for _ in 0..1_000 {
            self.tick();
            if let Some(reply) = self.replies.pop() {
                return reply;
            }
        }
        panic!("no leader applied it within 10 s");
    }

    /// Time passes.
    pub fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.tick();
        }
    }

    /// Everything starts anew from the snapshot; the log is empty.
    pub fn restart_from_snapshot(&mut self) -> usize {
        let items: Vec<_> = self.registry.state().items().collect();
        let count = items.len();
        let restore = |items: Vec<_>| {
            let items = items.into_iter().map(Ok::<_, Corrupt>);
            Registry::from_state(State::from_items(items).expect("a state is restored from its own items"))
        };
        self.replica = restore(items.clone());
        self.registry = restore(items);
        count
    }

    /// An entry that comes from somewhere else.
    pub fn inject(&mut self, entry: Entry) {
        let sent = entry.renewals.iter().map(|id| (*id, self.now)).collect();
        self.apply(InFlight {
            proposed: self.now,
            entry,
            sent,
            commands_sent: self.now,
        });
    }

    pub fn reading(&self) -> Option<LeaseTime> {
        self.leader.as_ref().map(|leader| leader.clock.reading())
    }

    fn add_unavailable(&mut self, span: Duration) {
        for renewed in self.renewed.values_mut() {
            renewed.unavailable += span;
        }
    }

    fn tick(&mut self) {
        self.now += QUANTUM;
        if self.leader.is_none() || !self.quorum {
            self.add_unavailable(QUANTUM);
        }
        if self.leader.is_none() {
            return;
        }
        if self.quorum {
            self.last_ack = self.now;
            while self.in_flight.front().is_some_and(|first| first.proposed < self.now) {
                let entry = self.in_flight.pop_front().expect("there is a first");
                self.apply(entry);
            }
        }
        self.propose();
    }

    fn propose(&mut self) {
        let (now, ack) = (self.now, self.last_ack);
        let Some(leader) = &mut self.leader else {
            return;
        };
        if now >= leader.stepped + LeaseClock::STEP_EVERY {
            leader.stepped = now;
            leader.clock.step(now, ack);
        }
        if now > ack + ELECTION_TIMEOUT {
            return;
        }
        let waited = self
            .renewals
            .values()
            .min()
            .is_some_and(|first| now >= *first + self.company);
        let next_deadline = self.registry.next_deadline();
        let reading = leader.clock.reading();
        let bare = leader
            .bare
            .is_due(now, reading, next_deadline, !self.in_flight.is_empty());
        if self.commands.is_empty() && !waited && !bare {
            return;
        }
        // Drained first, stamped then.
        let sent = std::mem::take(&mut self.renewals);
        let commands = std::mem::take(&mut self.commands);
        let stamp = leader.clock.step(now, ack);
        leader.bare.stamped(now, stamp);
        if self.company > Duration::ZERO && !sent.is_empty() {
            let first = sent.values().min().copied().unwrap_or_default();
            let waited = seconds(now - first);
            self.tell(&format!(
                "a renewal waited {waited} for company; stamped {}",
                lease_seconds(stamp)
            ));
        }
        self.in_flight.push_back(InFlight {
            proposed: now,
            entry: Entry {
                stamp,
                wall_ms: 0,
                renewals: sent.keys().copied().collect(),
                commands,
            },
            sent,
            commands_sent: now.saturating_sub(QUANTUM),
        });
    }

    fn apply(&mut self, in_flight: InFlight) {
        let InFlight {
            entry,
            sent,
            commands_sent,
            ..
        } = in_flight;
        let applied = self.registry.apply(&entry);
        assert_eq!(applied, self.replica.apply(&entry), "replicas differ");
        self.entries += 1;
        for (id, renewal) in entry.renewals.iter().zip(&applied.renewals) {
            match renewal {
                Renewal::Renewed { ttl, .. } => {
                    self.remember(*id, *ttl, sent[id]);
                    if self.tells {
                        self.tell(&format!("lease {id} is renewed"));
                    }
                }
                Renewal::NotFound => self.tell(&format!("lease {id} is renewed: NOT FOUND")),
            }
        }
        self.note_removals(&applied);
        for reply in &applied.replies {
            match &reply.result {
                Ok(Outcome::Registered { instance, .. }) => {
                    if let Some((id, ttl)) = instance.lease {
                        self.remember(id, ttl, commands_sent);
                    }
                }
                Ok(Outcome::Granted(lease)) => self.remember(lease.lease_id, lease.ttl, commands_sent),
                Ok(_) | Err(_) => {}
            }
        }
        self.replies
            .extend(applied.replies.into_iter().map(|reply| reply.result));
    }

    fn remember(&mut self, id: LeaseId, ttl: Ttl, sent: Duration) {
        let renewed = Renewed {
            sent,
            ttl,
            unavailable: Duration::ZERO,
            leader_changes: 0,
        };
        self.renewed.insert(id, renewed);
    }

    fn note_removals(&mut self, applied: &Applied) {
        let mut removed = 0;
        for change in applied.changes.iter().filter(|change| change.after.is_none()) {
            removed += usize::from(change.reason == Some(RemoveReason::Expired));
            if self.tells {
                let reason = change
                    .reason
                    .map_or_else(String::new, |reason| format!("{reason:?}").to_lowercase());
                let (key, revision) = (change.key().to_string(), change.revision);
                let clock = lease_seconds(self.registry.state().clock());
                self.tell(&format!(
                    "{key} is gone: {reason}, revision {revision}, lease time {clock}"
                ));
            }
            if change.reason != Some(RemoveReason::Expired) {
                continue;
            }
            let lease = change.before.as_ref().and_then(|before| before.lease_id());
            let renewed = self.renewed[&lease.expect("what expires has a lease")];
            let gone = Gone { at: self.now, renewed };
            assert!(
                gone.took() >= renewed.ttl.as_duration(),
                "{} went {} after the sending of a renewal",
                change.key(),
                seconds(gone.took())
            );
            self.gone.insert(change.key().clone(), gone);
        }
        self.most_removed = self.most_removed.max(removed);
    }
}
