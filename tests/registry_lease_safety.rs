//! The promise about leases, on random histories: no lease ends sooner than a TTL after the sending of its last
//! acknowledged renewal, whatever leaders, quorums and pauses do; and without renewals it ends in time.

mod registry_support;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use proptest::{prelude::*, sample::select};
use registry_support::{cluster::Cluster, key, spec, ttl_ms};
use roster::{
    lease_clock::LeaseClock,
    model::{Hold, LeaseId, LeaseTime},
    registry::{Command, Entry, Register, Registry, Renewal},
};

const TTL_MS: u64 = 1_000;
const LEASES: u64 = 4;

/// What happens next; times in milliseconds.
#[derive(Clone, Debug)]
enum Event {
    /// Time passes, and a quorum acknowledges at its end, or does not.
    Pass { ms: u64, acknowledged: bool },
    /// A client sends a renewal; it lies in a queue before the leader.
    Send { lease: u64 },
    /// The leader's timer steps its clock.
    Step,
    /// The leader drains its queue and closes an entry; or the stamp is bare.
    Close { bare: bool },
    /// So many entries in flight commit and are applied.
    Commit { count: usize },
    /// Another node leads; so many of the entries in flight survived.
    Elect { surviving: usize },
}

fn any_event() -> impl Strategy<Value = Event> {
    let ms = prop_oneof![6 => 1_u64..120, 2 => 120_u64..700, 1 => 700_u64..4_000];
    prop_oneof![
        6 => (ms, prop::bool::weighted(0.7)).prop_map(|(ms, acknowledged)| Event::Pass { ms, acknowledged }),
        4 => (1..=LEASES).prop_map(|lease| Event::Send { lease }),
        3 => Just(Event::Step),
        4 => any::<bool>().prop_map(|bare| Event::Close { bare }),
        4 => (1_usize..4).prop_map(|count| Event::Commit { count }),
        1 => (0_usize..4).prop_map(|surviving| Event::Elect { surviving }),
    ]
}

/// The clock under test, and those with a planted fault, to see that the model finds it.
trait Clock {
    fn begin(base: LeaseTime, now: Duration) -> Self;
    fn step(&mut self, now: Duration, last_quorum_ack: Duration) -> LeaseTime;
    /// What the stamp of an entry is that is closed now.
    fn stamp(&mut self, now: Duration, last_quorum_ack: Duration) -> LeaseTime {
        self.step(now, last_quorum_ack)
    }
}

impl Clock for LeaseClock {
    fn begin(base: LeaseTime, now: Duration) -> Self {
        Self::begin(base, now)
    }

    fn step(&mut self, now: Duration, last_quorum_ack: Duration) -> LeaseTime {
        self.step(now, last_quorum_ack)
    }
}

/// Planted: what a step did not credit is credited later.
struct Lagging {
    reading: LeaseTime,
    last: Duration,
}

impl Clock for Lagging {
    fn begin(reading: LeaseTime, last: Duration) -> Self {
        Self { reading, last }
    }

    fn step(&mut self, now: Duration, last_quorum_ack: Duration) -> LeaseTime {
        let reach = now.min(last_quorum_ack + LeaseClock::CAP);
        let credit = reach.saturating_sub(self.last).min(LeaseClock::CAP);
        self.reading = self.reading.after(credit);
        self.last += credit;
        self.reading
    }
}

/// Planted: the clock is stepped by the timer only, so that a stamp is older than what it stamps.
struct TimerOnly(LeaseClock);

impl Clock for TimerOnly {
    fn begin(base: LeaseTime, now: Duration) -> Self {
        Self(LeaseClock::begin(base, now))
    }

    fn step(&mut self, now: Duration, last_quorum_ack: Duration) -> LeaseTime {
        self.0.step(now, last_quorum_ack)
    }

    fn stamp(&mut self, _now: Duration, _last_quorum_ack: Duration) -> LeaseTime {
        self.0.reading()
    }
}

struct Model<C> {
    now: Duration,
    ack: Duration,
    clock: C,
    registry: Registry,
    queue: BTreeMap<LeaseId, Duration>,
    in_flight: VecDeque<(Entry, BTreeMap<LeaseId, Duration>)>,
    /// When the last acknowledged renewal of each lease was sent.
    acknowledged: BTreeMap<LeaseId, Duration>,
}

impl<C: Clock> Model<C> {
    fn new() -> Self {
        let mut registry = Registry::new();
        let register = |n| {
            Command::Register(Register {
                instance: spec(key(&format!("api/{n}"))),
                hold: Hold::Own { ttl: ttl_ms(TTL_MS) },
                expected_mod_revision: None,
            })
        };
        registry.apply(&Entry {
            commands: (1..=LEASES).map(register).collect(),
            ..Entry::default()
        });
        Self {
            now: Duration::ZERO,
            ack: Duration::ZERO,
            clock: C::begin(LeaseTime(0), Duration::ZERO),
            registry,
            queue: BTreeMap::new(),
            in_flight: VecDeque::new(),
            acknowledged: (1..=LEASES).map(|n| (LeaseId(n), Duration::ZERO)).collect(),
        }
    }

    /// The first lease that ended early, if one does.
    fn run(mut self, events: &[Event]) -> Option<String> {
        events.iter().find_map(|event| self.happen(event))
    }

    fn happen(&mut self, event: &Event) -> Option<String> {
        match *event {
            Event::Pass { ms, acknowledged } => {
                self.now += Duration::from_millis(ms);
                if acknowledged {
                    self.ack = self.now;
                }
            }
            Event::Send { lease } => {
                self.queue.insert(LeaseId(lease), self.now);
            }
            Event::Step => {
                self.clock.step(self.now, self.ack);
            }
            Event::Close { bare } => {
                let sent = if bare {
                    BTreeMap::new()
                } else {
                    std::mem::take(&mut self.queue)
                };
                let stamp = self.clock.stamp(self.now, self.ack);
                let entry = Entry {
                    stamp,
                    renewals: sent.keys().copied().collect(),
                    ..Entry::default()
                };
                self.in_flight.push_back((entry, sent));
            }
            Event::Commit { count } => return self.commit(count),
            Event::Elect { surviving } => {
                let early = self.commit(surviving);
                self.in_flight.clear();
                self.ack = self.now;
                self.clock = C::begin(self.registry.state().clock(), self.now);
                return early;
            }
        }
        None
    }

    fn commit(&mut self, count: usize) -> Option<String> {
        let count = count.min(self.in_flight.len());
        for (entry, sent) in self.in_flight.drain(..count) {
            let before = self.registry.state().clock();
            let applied = self.registry.apply(&entry);
            assert!(self.registry.state().clock() >= before);
            for (id, renewal) in entry.renewals.iter().zip(&applied.renewals) {
                if let Renewal::Renewed { .. } = renewal {
                    let last = self.acknowledged.get_mut(id).expect("all leases are known");
                    *last = (*last).max(sent[id]);
                }
            }
            for change in &applied.changes {
                let lease = change.before.as_ref().and_then(|before| before.lease_id());
                let sent = self.acknowledged[&lease.expect("what expires has a lease")];
                if self.now < sent + Duration::from_millis(TTL_MS) {
                    return Some(format!("{} ended at {:?}, renewed at {sent:?}", change.key(), self.now));
                }
            }
        }
        None
    }
}

/// Runs the same histories with another clock; how many end a lease early.
fn found<C: Clock>(histories: usize) -> usize {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = prop::collection::vec(any_event(), 40..160);
    (0..histories)
        .filter(|_| {
            use proptest::strategy::ValueTree;
            let events = strategy.new_tree(&mut runner).expect("events are made").current();
            Model::<C>::new().run(&events).is_some()
        })
        .count()
}

#[test]
fn the_model_finds_a_clock_that_makes_up_for_lost_time() {
    assert!(found::<Lagging>(500) > 0);
}

#[test]
fn the_model_finds_a_clock_that_only_the_timer_steps() {
    assert!(found::<TimerOnly>(500) > 0);
}

#[test]
fn on_the_same_histories_the_lease_clock_ends_no_lease_early() {
    assert_eq!(found::<LeaseClock>(2_000), 0);
}

proptest! {
    #[test]
    fn no_acknowledged_renewal_is_followed_by_an_early_end(
        events in prop::collection::vec(any_event(), 1..250),
    ) {
        prop_assert_eq!(Model::<LeaseClock>::new().run(&events), None);
    }

    /// Leaders that do their duty, each for a while, with gaps between them, pauses and lost quorums: the lease of a
    /// dead client ends within what is promised. [`Cluster`] checks that it does not end too early.
    #[test]
    fn a_dead_clients_lease_ends_in_time(
        turns in prop::collection::vec((select(vec![0, 1, 2, 3]), 100_u64..2_500), 0..12),
        ttl in 1_000_u64..8_000,
        renewals in 0_u64..3,
    ) {
        let mut cluster = Cluster::default();
        cluster.elect("n1");
        let register = |name: &str, ttl| Command::Register(Register {
            instance: spec(key(name)),
            hold: Hold::Own { ttl: ttl_ms(ttl) },
            expected_mod_revision: None,
        });
        cluster.run(register("api/dead", ttl)).expect("it is registered");
        for _ in 0..renewals {
            cluster.pass(Duration::from_millis(ttl / 3));
            cluster.renew(LeaseId(1));
            cluster.pass(Duration::from_millis(50));
        }
        for (turn, ms) in turns {
            let span = Duration::from_millis(ms);
            match turn {
                0 => cluster.pass(span),
                1 => cluster.pause(span),
                2 => {
                    cluster.set_quorum(false);
                    cluster.pass(span);
                    cluster.set_quorum(true);
                }
                _ => {
                    cluster.crash(ms % 2 == 0);
                    cluster.pass(span);
                    cluster.elect("n2");
                }
            }
        }
        cluster.pass(Duration::from_millis(ttl + 1_500));
        let gone = cluster.gone.get(&key("api/dead")).copied();
        let gone = gone.expect("it is gone");
        prop_assert!(gone.took() <= gone.allowed(), "{:?} of {:?}", gone.took(), gone.allowed());
    }
}
