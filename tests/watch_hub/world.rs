//! A registry that publishes to a hub, the memory of what it held at each revision, and watchers who are checked
//! against that memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    sync::{Arc, Mutex},
};

use futures_util::FutureExt;
use roster::{
    model::{
        Hold, Incarnation, Instance, InstanceId, InstanceKey, InstanceSpec, LeaseId, LeaseTime, LogIndex, Match,
        MatchField, MatchOp, Metadata, Namespace, Revision, Scope, Selector, ServiceName, Status, Tags, Ttl,
    },
    registry::{Applied, BatchRegister, Change, Command, Deregister, Entry, Register, Registry, State},
    watch::{ChangeKind, Delivery, GoneReason, Hub, HubLimits, ResetReason, Start, Watch, WatchRefused},
};

/// Every instance there is, or that a watcher has.
pub(crate) type Instances = BTreeMap<InstanceKey, Arc<Instance>>;

/// What the registry held at each revision that changed an instance.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    at: BTreeMap<Revision, Arc<Instances>>,
}

impl Memory {
    pub(crate) fn at(&self, revision: Revision) -> Arc<Instances> {
        let latest = self.at.range(..=revision).next_back();
        latest.map(|(_, instances)| Arc::clone(instances)).unwrap_or_default()
    }

    /// What a selector matched at a revision.
    pub(crate) fn selected(&self, selector: &Selector, revision: Revision) -> Instances {
        let mut instances = Instances::clone(&self.at(revision));
        instances.retain(|_, instance| selector.selects(instance));
        instances
    }

    /// Revisions through which a selector's view changed, after one.
    pub(crate) fn steps(&self, selector: &Selector, after: Revision) -> Vec<Revision> {
        let mut view = self.selected(selector, after);
        let mut steps = Vec::new();
        for &revision in self.at.keys().filter(|&&revision| revision > after) {
            let next = self.selected(selector, revision);
            if next != view {
                steps.push(revision);
            }
            view = next;
        }
        steps
    }

    fn remember(&mut self, changes: &[Change]) {
        for revision in changes.chunk_by(|one, next| one.revision == next.revision) {
            let mut instances = Instances::clone(&self.at(revision[0].revision));
            for change in revision {
                match &change.after {
                    Some(after) => instances.insert(change.key().clone(), Arc::clone(after)),
                    None => instances.remove(change.key()),
                };
            }
            self.at.insert(revision[0].revision, Arc::new(instances));
        }
    }
}

/// A registry that publishes to a hub.
pub(crate) struct World {
    pub(crate) hub: Arc<Hub>,
    pub(crate) memory: Arc<Mutex<Memory>>,
    registry: Registry,
    clock: LeaseTime,
    applied: LogIndex,
}

impl World {
    pub(crate) fn new(limits: HubLimits) -> Self {
        Self {
            hub: Hub::new(limits),
            memory: Arc::default(),
            registry: Registry::new(),
            clock: LeaseTime(0),
            applied: LogIndex(0),
        }
    }

    /// Applies one entry, so many milliseconds of lease time after the last, and publishes it.
    pub(crate) fn apply(&mut self, later_ms: u64, commands: Vec<Command>) -> Applied {
        let applied = self.apply_unpublished(later_ms, commands);
        let state = self.registry.state().clone();
        self.hub.publish(state, self.applied, applied.changes.clone());
        applied
    }

    /// Applies one entry as another node does; here it will come with a snapshot.
    pub(crate) fn apply_unpublished(&mut self, later_ms: u64, commands: Vec<Command>) -> Applied {
        self.clock.0 += later_ms * 1_000_000;
        self.applied = self.applied.next();
        let applied = self.registry.apply(&Entry {
            stamp: self.clock,
            wall_ms: 0,
            renewals: Vec::new(),
            commands,
        });
        self.memory.lock().unwrap().remember(&applied.changes);
        applied
    }

    /// Installs the registry as a snapshot.
    pub(crate) fn install(&mut self) {
        let items = self.registry.state().items().map(Ok::<_, roster::registry::Corrupt>);
        let restored = State::from_items(items).expect("a registry's own items fit together");
        self.hub.replace(restored, self.applied);
    }

    pub(crate) fn revision(&self) -> Revision {
        self.registry.state().revision()
    }

    pub(crate) fn applied(&self) -> LogIndex {
        self.applied
    }

    pub(crate) fn open(&self, selector: Selector, start: Start) -> Result<Observer, WatchRefused> {
        Observer::open(&self.hub, &self.memory, selector, start, Instances::new())
    }
}

/// A watcher whose every delivery is checked.
pub(crate) struct Observer {
    watch: Watch,
    memory: Arc<Mutex<Memory>>,
    pub(crate) view: Instances,
    /// Where the last delivery led.
    pub(crate) position: Revision,
    /// Whether there is a view yet: a watch that starts with a snapshot has none before, and one that starts now none
    /// but by `Start::Now`'s leave.
    whole: bool,
    /// Whether a snapshot came last, and the watch has not been seen to keep pace since: no other may follow.
    after_snapshot: bool,
}

/// What one look at a watch gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Nothing,
    Snapshot(Option<ResetReason>),
    /// Led to this revision.
    Step(Revision),
}

impl Observer {
    /// Opens a watch for a watcher who already has a view when it resumes.
    pub(crate) fn open(
        hub: &Arc<Hub>,
        memory: &Arc<Mutex<Memory>>,
        selector: Selector,
        start: Start,
        view: Instances,
    ) -> Result<Self, WatchRefused> {
        let watch = hub.watch(selector, start)?;
        let position = watch.position();
        let (view, whole) = match start {
            // Who starts now has listed what is there; here the memory does it.
            Start::Now => (memory.lock().unwrap().selected(watch.selector(), position), true),
            Start::After(_) => (view, true),
            Start::Snapshot | Start::OtherCluster => (view, false),
        };
        Ok(Self {
            position,
            watch,
            memory: Arc::clone(memory),
            view,
            whole,
            after_snapshot: false,
        })
    }

    /// Where the watch says that it is complete through; checked.
    pub(crate) fn watch_position(&self) -> Revision {
        let position = self.watch.position();
        assert!(position >= self.position, "a position goes back");
        if self.whole {
            let memory = self.memory.lock().unwrap();
            assert_eq!(
                self.view,
                memory.selected(self.watch.selector(), position),
                "at {position}"
            );
        }
        position
    }

    /// Looks once; a future that has nothing to give is dropped.
    pub(crate) fn look(&mut self) -> Seen {
        match self.watch.next().now_or_never() {
            Some(delivery) => self.take(delivery),
            None => {
                self.after_snapshot = false;
                Seen::Nothing
            }
        }
    }

    /// Looks until there is nothing more; gives what it saw.
    pub(crate) fn drain(&mut self) -> Vec<Seen> {
        let mut all = Vec::new();
        loop {
            match self.look() {
                Seen::Nothing => return all,
                seen => all.push(seen),
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Seen {
        let delivery = poll_fn(|cx| {
            let next = self.watch.poll_next(cx);
            self.after_snapshot &= next.is_ready();
            next
        })
        .await;
        self.take(delivery)
    }

    /// Takes a delivery over into the view, and checks all that a watcher may rely on.
    fn take(&mut self, delivery: Delivery) -> Seen {
        let before = self.position;
        let selector = self.watch.selector().clone();
        let seen = match delivery {
            Delivery::Snapshot { state, reset } => {
                assert!(!self.after_snapshot, "a snapshot follows a snapshot");
                assert_eq!(reset.is_some(), self.whole || reset == Some(ResetReason::OtherCluster));
                assert!(state.revision() >= before, "a snapshot goes back");
                self.position = state.revision();
                self.view = state
                    .select(&selector, None)
                    .map(|instance| (instance.key().clone(), Arc::clone(instance)))
                    .collect();
                self.whole = true;
                self.after_snapshot = true;
                Seen::Snapshot(reset)
            }
            Delivery::Changes { changes, revision } => {
                assert!(self.whole, "changes come before the snapshot");
                assert!(revision > before, "{revision} follows {before}");
                assert!(!changes.is_empty(), "a step without changes");
                assert!(
                    changes.is_sorted_by_key(|change| change.revision),
                    "not in revision order"
                );
                let mut keys = BTreeSet::new();
                for change in changes.iter() {
                    assert!(change.revision > before && change.revision <= revision);
                    let key = self.change(change.kind.clone(), revision);
                    assert!(keys.insert(key.clone()), "{key} twice in one step");
                }
                self.position = revision;
                self.after_snapshot = false;
                Seen::Step(revision)
            }
        };
        let memory = self.memory.lock().unwrap();
        assert_eq!(
            self.view,
            memory.selected(&selector, self.position),
            "at {}",
            self.position
        );
        drop(memory);
        self.watch_position();
        seen
    }

    fn change(&mut self, kind: ChangeKind, revision: Revision) -> InstanceKey {
        match kind {
            ChangeKind::Put(instance) => {
                let key = instance.key().clone();
                assert!(self.watch.selector().selects(&instance), "{key} does not match");
                let former = self.view.insert(key.clone(), Arc::clone(&instance));
                assert_ne!(former, Some(instance), "{key} comes twice");
                key
            }
            ChangeKind::Remove(key, reason) => {
                assert!(self.view.remove(&key).is_some(), "{key} goes and was never there");
                let lives = self.memory.lock().unwrap().at(revision).contains_key(&key);
                if let Some(reason) = reason {
                    assert_eq!(lives, reason == GoneReason::LeftSelector, "{key}");
                }
                key
            }
        }
    }

    /// Ends the watch; what the watcher needs to resume elsewhere.
    pub(crate) fn end(self) -> (Selector, Revision, Instances) {
        assert!(self.whole, "who has no view has nothing to resume");
        let position = self.watch_position();
        (self.watch.selector().clone(), position, self.view)
    }

    pub(crate) fn has_view(&self) -> bool {
        self.whole
    }
}

pub(crate) fn key(namespace: &str, service: &str, id: &str) -> InstanceKey {
    InstanceKey::new(
        Namespace::parse(namespace).unwrap(),
        ServiceName::parse(service).unwrap(),
        InstanceId::parse(id).unwrap(),
    )
}

pub(crate) fn spec(key: InstanceKey, zone: &str) -> InstanceSpec {
    InstanceSpec {
        key,
        address: "10.0.0.1".into(),
        ports: Box::default(),
        weight: 100,
        region: Default::default(),
        zone: zone.into(),
        version: Default::default(),
        tags: Tags::new(),
        metadata: Metadata::new(),
        status: Status::Up,
        incarnation: Incarnation(0),
    }
}

/// A permanent instance of the default namespace.
pub(crate) fn put(service: &str, id: &str, zone: &str) -> Command {
    register(spec(key("default", service, id), zone), Hold::Permanent)
}

pub(crate) fn register(instance: InstanceSpec, hold: Hold) -> Command {
    Command::Register(Register {
        instance,
        hold,
        expected_mod_revision: None,
    })
}

pub(crate) fn batch(instances: Vec<InstanceSpec>) -> Command {
    Command::BatchRegister(BatchRegister {
        instances,
        hold: Hold::Permanent,
    })
}

pub(crate) fn deregister(key: InstanceKey) -> Command {
    Command::Deregister(Deregister {
        key,
        expected_mod_revision: None,
        incarnation: Incarnation(0),
        lease_id: None,
    })
}

pub(crate) fn lease(number: u64) -> LeaseId {
    LeaseId(LeaseId::FIRST_OF_CALLERS.0 + number)
}

pub(crate) fn grant(number: u64, ttl_ms: u64) -> Command {
    Command::GrantLease {
        lease_id: Some(lease(number)),
        ttl: ttl(ttl_ms),
    }
}

pub(crate) fn ttl(ms: u64) -> Ttl {
    Ttl::from_ms(ms).unwrap()
}

pub(crate) fn all() -> Selector {
    Selector {
        namespace: None,
        scope: Scope::All,
        serving: false,
        matches: Vec::new(),
    }
}

pub(crate) fn services(names: &[&str]) -> Selector {
    let names = names.iter().map(|name| ServiceName::parse(name).unwrap());
    Selector {
        namespace: Some(Namespace::default()),
        scope: Scope::Services(names.collect()),
        ..all()
    }
}

pub(crate) fn in_zone(selector: Selector, zone: &str) -> Selector {
    Selector {
        matches: vec![Match {
            field: MatchField::Zone,
            op: MatchOp::In(BTreeSet::from([zone.to_owned()])),
        }],
        ..selector
    }
}

/// Limits that nothing in these tests reaches but what a test tightens.
pub(crate) fn limits() -> HubLimits {
    HubLimits::default()
}
