//! Whatever happens in whatever order, under limits that everything runs into.

use proptest::{collection::vec, prelude::*};
use roster::{
    model::{Hold, LeaseId, Namespace, Revision, Scope, Selector},
    registry::Command,
    watch::{HubLimits, Start},
};

use crate::world::{
    Instances, Observer, Seen, World, all, batch, deregister, grant, in_zone, key, lease, register, services, spec, ttl,
};

/// One thing that happens. Numbers pick among what there is.
#[derive(Clone, Debug)]
enum Event {
    /// An entry is applied and published.
    Publish(Vec<Write>, u64),
    /// Entries are applied elsewhere and come as a snapshot.
    Install(Vec<(Vec<Write>, u64)>),
    Open(usize, How),
    /// A watcher takes so many deliveries.
    Look(usize, usize),
    /// A watcher ends, and may resume later.
    End(usize),
    /// One that ended resumes.
    Resume(usize),
}

#[derive(Clone, Copy, Debug)]
enum How {
    Snapshot,
    Now,
    OtherCluster,
    /// After a revision so far back, with a view of it.
    Back(u64),
}

#[derive(Clone, Debug)]
enum Write {
    Put(usize, usize, Option<u64>),
    PutMany(usize),
    Deregister(usize),
    Grant(u64),
    Revoke(u64),
}

const NAMESPACES: [&str; 2] = ["default", "prod"];
const SERVICES: [&str; 3] = ["api", "web", "webhook"];
const IDS: [&str; 3] = ["a", "b", "c"];
const ZONES: [&str; 2] = ["z1", "z2"];
const KEYS: usize = NAMESPACES.len() * SERVICES.len() * IDS.len();
const WATCHERS_MAX: usize = 12;

fn nth_key(n: usize) -> roster::model::InstanceKey {
    let (namespace, rest) = (n % NAMESPACES.len(), n / NAMESPACES.len());
    let (service, rest) = (rest % SERVICES.len(), rest / SERVICES.len());
    key(NAMESPACES[namespace], SERVICES[service], IDS[rest % IDS.len()])
}

fn command(write: &Write) -> Command {
    match *write {
        Write::Put(n, zone, held) => {
            let mut instance = spec(nth_key(n), ZONES[zone % ZONES.len()]);
            instance.weight = u32::try_from(zone % 3).unwrap();
            let hold = match held {
                None => Hold::Permanent,
                Some(0) => Hold::Own { ttl: ttl(1_500) },
                Some(number) => Hold::Shared {
                    lease_id: lease(number),
                },
            };
            register(instance, hold)
        }
        Write::PutMany(zone) => batch(
            (0..KEYS)
                .step_by(3)
                .map(|n| spec(nth_key(n), ZONES[zone % 2]))
                .collect(),
        ),
        Write::Deregister(n) => deregister(nth_key(n)),
        Write::Grant(number) => grant(number, 2_500),
        Write::Revoke(number) => Command::RevokeLease {
            lease_id: LeaseId(lease(number).0),
        },
    }
}

fn selectors() -> Vec<Selector> {
    let prefix = |text: &str| Selector {
        scope: Scope::Prefix(text.into()),
        ..all()
    };
    vec![
        all(),
        services(&["web"]),
        Selector {
            namespace: None,
            ..services(&["api", "webhook"])
        },
        prefix("web"),
        in_zone(all(), "z1"),
        in_zone(services(&["web", "api"]), "z2"),
        Selector {
            serving: true,
            namespace: Some(Namespace::parse("prod").unwrap()),
            ..prefix("a")
        },
        services(&["nobody"]),
    ]
}

fn writes() -> impl Strategy<Value = (Vec<Write>, u64)> {
    let write = prop_oneof![
        8 => (0..KEYS, 0..6_usize, proptest::option::of(0..3_u64)).prop_map(|(n, zone, held)| Write::Put(n, zone, held)),
        1 => (0..2_usize).prop_map(Write::PutMany),
        3 => (0..KEYS).prop_map(Write::Deregister),
        2 => (1..3_u64).prop_map(Write::Grant),
        1 => (1..3_u64).prop_map(Write::Revoke),
    ];
    (
        vec(write, 0..5),
        prop_oneof![3 => Just(100_u64), 1 => Just(1_600), 1 => Just(3_000)],
    )
}

fn event() -> impl Strategy<Value = Event> {
    let how = prop_oneof![
        Just(How::Snapshot),
        Just(How::Now),
        Just(How::OtherCluster),
        (0..30_u64).prop_map(How::Back)
    ];
    prop_oneof![
        10 => writes().prop_map(|(writes, later_ms)| Event::Publish(writes, later_ms)),
        1 => vec(writes(), 0..4).prop_map(Event::Install),
        3 => (0..8_usize, how).prop_map(|(selector, how)| Event::Open(selector, how)),
        8 => (any::<prop::sample::Index>(), 1..5_usize).prop_map(|(n, times)| Event::Look(n.index(WATCHERS_MAX), times)),
        1 => any::<prop::sample::Index>().prop_map(|n| Event::End(n.index(WATCHERS_MAX))),
        1 => any::<prop::sample::Index>().prop_map(|n| Event::Resume(n.index(WATCHERS_MAX))),
    ]
}

fn small_limits() -> impl Strategy<Value = HubLimits> {
    (0..25_usize, 500..20_000_usize, 1..8_usize, 100..2_000_usize).prop_map(
        |(history_changes, history_bytes, queue_changes, queue_bytes)| HubLimits {
            history_changes,
            history_bytes,
            queue_changes,
            queue_bytes,
            watches: WATCHERS_MAX,
        },
    )
}

struct Run {
    world: World,
    limits: HubLimits,
    watchers: Vec<Observer>,
    ended: Vec<(Selector, Revision, Instances)>,
}

impl Run {
    fn new(limits: HubLimits) -> Self {
        Self {
            world: World::new(limits),
            limits,
            watchers: Vec::new(),
            ended: Vec::new(),
        }
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Publish(writes, later_ms) => {
                self.world.apply(*later_ms, writes.iter().map(command).collect());
            }
            Event::Install(entries) => {
                for (writes, later_ms) in entries {
                    self.world
                        .apply_unpublished(*later_ms, writes.iter().map(command).collect());
                }
                self.world.install();
            }
            Event::Open(selector, how) => self.open(&selectors()[*selector], *how),
            Event::Look(n, times) => {
                if let Some(watcher) = pick(&mut self.watchers, *n) {
                    for _ in 0..*times {
                        watcher.look();
                    }
                }
            }
            Event::End(n) => {
                if *n < self.watchers.len() && self.watchers[*n].has_view() {
                    self.ended.push(self.watchers.swap_remove(*n).end());
                }
            }
            Event::Resume(n) => {
                if self.watchers.len() < WATCHERS_MAX && *n < self.ended.len() {
                    let (selector, position, view) = self.ended.swap_remove(*n);
                    self.resume(selector, position, view);
                }
            }
        }
        self.check();
    }

    fn open(&mut self, selector: &Selector, how: How) {
        let start = match how {
            How::Snapshot => Start::Snapshot,
            How::Now => Start::Now,
            How::OtherCluster => Start::OtherCluster,
            How::Back(by) => {
                let after = Revision(self.world.revision().0.saturating_sub(by));
                let view = self.world.memory.lock().unwrap().selected(selector, after);
                if self.watchers.len() < WATCHERS_MAX {
                    self.resume(selector.clone(), after, view);
                }
                return;
            }
        };
        match self.world.open(selector.clone(), start) {
            Ok(watcher) => self.watchers.push(watcher),
            Err(_) => assert_eq!(self.watchers.len(), WATCHERS_MAX),
        }
    }

    fn resume(&mut self, selector: Selector, after: Revision, view: Instances) {
        let (hub, memory) = (&self.world.hub, &self.world.memory);
        let watcher = Observer::open(hub, memory, selector, Start::After(after), view);
        self.watchers
            .push(watcher.expect("there is room, and the position is not in the future"));
    }

    /// What holds between any two events.
    fn check(&self) {
        for watcher in &self.watchers {
            watcher.watch_position();
        }
        let stats = self.world.hub.stats();
        assert_eq!(stats.watches, self.watchers.len());
        assert!(stats.history_changes <= self.limits.history_changes);
        assert!(stats.history_bytes <= self.limits.history_bytes);
        let queues = u64::try_from(self.limits.queue_bytes * self.watchers.len()).unwrap();
        assert!(stats.queued_bytes <= queues);
        assert_eq!(self.world.hub.view().state.revision(), self.world.revision());
    }

    /// In the end everybody has everything.
    fn end(mut self) {
        let present = self.world.revision();
        for watcher in &mut self.watchers {
            watcher.drain();
            assert_eq!(watcher.watch_position(), present);
        }
        assert_eq!(self.world.hub.stats().queued_bytes, 0);
        self.watchers.clear();
        assert_eq!(self.world.hub.stats().watches, 0);
    }
}

fn pick<T>(among: &mut [T], n: usize) -> Option<&mut T> {
    let len = among.len();
    if len == 0 { None } else { among.get_mut(n % len) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_view_is_the_selected_part_of_the_registry_at_its_position(
        limits in small_limits(),
        events in vec(event(), 1..120),
    ) {
        let mut run = Run::new(limits);
        for event in &events {
            run.happen(event);
        }
        run.end();
    }

    #[test]
    fn a_watcher_that_keeps_pace_gets_each_revision_that_changes_its_view(
        entries in vec((writes(), any::<bool>()), 1..60),
    ) {
        let mut world = World::new(HubLimits::default());
        let mut watchers: Vec<_> = selectors()
            .into_iter()
            .map(|selector| {
                let watcher = world.open(selector.clone(), Start::Now).unwrap();
                (watcher, selector, Vec::new())
            })
            .collect();
        for ((writes, later_ms), look) in &entries {
            world.apply(*later_ms, writes.iter().map(command).collect());
            for (watcher, _, seen) in watchers.iter_mut().filter(|_| *look) {
                seen.extend(watcher.drain());
            }
        }
        for (watcher, selector, mut seen) in watchers {
            let mut watcher = watcher;
            seen.extend(watcher.drain());
            let steps = world.memory.lock().unwrap().steps(&selector, Revision(0));
            let expected: Vec<_> = steps.into_iter().map(Seen::Step).collect();
            prop_assert_eq!(seen, expected);
        }
    }
}
