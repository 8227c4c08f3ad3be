//! The state machine once more, as plainly as it can be said: sorted maps, no indexes, every question answered by
//! looking at everything. Slow, and easy to believe.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use roster::{
    model::{
        Hold, Incarnation, Instance, InstanceKey, InstanceSpec, LeaseId, LeaseInfo, LeaseTime, Revision, Ttl,
        limits::{METADATA_MAX, TAGS_MAX},
    },
    registry::{
        Applied, BatchRegister, Change, Command, Deregister, Entry, Outcome, REMOVALS_PER_ENTRY, Register, Registered,
        Rejection, RemoveReason, Renewal, Reply, Settings, Update,
    },
};

const DAY_NS: u64 = 24 * 60 * 60 * 1_000_000_000;

struct Lease {
    ttl: Ttl,
    deadline: LeaseTime,
    own: bool,
}

pub struct Naive {
    revision: Revision,
    clock: LeaseTime,
    next_id: u64,
    settings: Settings,
    records: BTreeMap<InstanceKey, Arc<Instance>>,
    leases: BTreeMap<LeaseId, Lease>,
    /// Greatest refused incarnation, and until when.
    fences: BTreeMap<InstanceKey, (Incarnation, LeaseTime)>,
    wall_ms: u64,
    changes: Vec<Change>,
}

fn invalid(path: &str) -> Rejection {
    Rejection::InvalidField {
        path: path.into(),
        problem: String::new(),
    }
}

/// What a Register would be held by: an existing lease, a new own one, or none.
enum Under {
    Lease(LeaseId, Ttl),
    New(Ttl),
    Nothing,
}

impl Naive {
    pub fn new(settings: Settings) -> Self {
        Self {
            revision: Revision(0),
            clock: LeaseTime(0),
            next_id: 1,
            settings,
            records: BTreeMap::new(),
            leases: BTreeMap::new(),
            fences: BTreeMap::new(),
            wall_ms: 0,
            changes: Vec::new(),
        }
    }

    pub fn records(&self) -> Vec<Arc<Instance>> {
        self.records.values().cloned().collect()
    }

    pub fn leases(&self) -> Vec<LeaseInfo> {
        let info = |(id, lease): (&LeaseId, &Lease)| LeaseInfo {
            lease_id: *id,
            ttl: lease.ttl,
            remaining: lease.deadline.since(self.clock),
            instances: self
                .records
                .values()
                .filter(|record| record.lease_id() == Some(*id))
                .count()
                .try_into()
                .expect("as many as there are instances"),
            own: lease.own,
        };
        self.leases.iter().map(info).collect()
    }

    pub fn apply(&mut self, entry: &Entry) -> Applied {
        self.clock = self.clock.max(entry.stamp);
        self.wall_ms = entry.wall_ms;
        let renewals = entry.renewals.iter().map(|id| self.renew(*id)).collect();
        let (mut ended, mut removals) = (0, 0);
        while let Some(id) = self.due() {
            let more = self.held(id).len().max(1);
            if ended > 0 && removals + more > REMOVALS_PER_ENTRY as usize {
                break;
            }
            self.end(id, RemoveReason::Expired);
            (ended, removals) = (ended + 1, removals + more);
        }
        let replies = entry.commands.iter().map(|command| self.run(command)).collect();
        Applied {
            renewals,
            replies,
            changes: std::mem::take(&mut self.changes),
            revision: self.revision,
        }
    }

    fn held(&self, id: LeaseId) -> Vec<InstanceKey> {
        let held = self.records.values().filter(|record| record.lease_id() == Some(id));
        held.map(|record| record.key().clone()).collect()
    }

    fn renew(&mut self, id: LeaseId) -> Renewal {
        let instances = u32::try_from(self.held(id).len()).unwrap();
        let Some(lease) = self.leases.get_mut(&id) else {
            return Renewal::NotFound;
        };
        lease.deadline = self.clock.after(lease.ttl.as_duration());
        let ttl = lease.ttl;
        Renewal::Renewed { ttl, instances }
    }

    fn due(&self) -> Option<LeaseId> {
        let due = self.leases.iter().filter(|(_, lease)| lease.deadline < self.clock);
        due.min_by_key(|(id, lease)| (lease.deadline, **id)).map(|(id, _)| *id)
    }

    fn end(&mut self, id: LeaseId, reason: RemoveReason) -> Option<u32> {
        let keys = self.held(id);
        self.leases.remove(&id)?;
        self.revision = self.revision.next();
        for key in &keys {
            let record = self.records.remove(key).unwrap();
            let life = record.spec.incarnation.0;
            if life > 0 {
                self.fence(key, Incarnation(life - 1));
            }
            self.changes.push(Change {
                revision: self.revision,
                before: Some(record),
                after: None,
                reason: Some(reason),
            });
        }
        Some(u32::try_from(keys.len()).unwrap())
    }

    fn fenced_through(&self, key: &InstanceKey) -> Option<Incarnation> {
        let (refused, until) = self.fences.get(key)?;
        (*until >= self.clock).then_some(*refused)
    }

    fn fence(&mut self, key: &InstanceKey, refused: Incarnation) {
        let refused = self.fenced_through(key).unwrap_or_default().max(refused);
        let until = LeaseTime(self.clock.0 + DAY_NS);
        self.fences.insert(key.clone(), (refused, until));
        while self.fences.len() as u64 > self.settings.max_fences {
            let oldest = self.fences.iter().min_by_key(|(key, (_, until))| (*until, *key));
            let oldest = oldest.map(|(key, _)| key.clone()).unwrap();
            self.fences.remove(&oldest);
        }
    }

    fn run(&mut self, command: &Command) -> Reply {
        let before = self.revision;
        let result = match command {
            Command::Register(command) => self.register(command),
            Command::BatchRegister(command) => self.batch(command),
            Command::Update(command) => self.update(command),
            Command::Deregister(command) => self.deregister(command),
            Command::GrantLease { lease_id, ttl } => self.grant(*lease_id, *ttl).map(Outcome::Granted),
            Command::RevokeLease { lease_id } => {
                let removed = self.end(*lease_id, RemoveReason::Revoked);
                Ok(Outcome::Revoked {
                    existed: removed.is_some(),
                    removed: removed.unwrap_or(0),
                })
            }
        };
        assert!(self.revision <= before.next());
        let alive: BTreeSet<LeaseId> = self.records.values().filter_map(|record| record.lease_id()).collect();
        self.leases.retain(|id, lease| !lease.own || alive.contains(id));
        Reply {
            revision: self.revision,
            result,
        }
    }

    fn check_life(&self, key: &InstanceKey, incarnation: Incarnation) -> Result<(), Rejection> {
        let key = key.clone();
        match self.records.get(&key).map(|record| record.spec.incarnation) {
            Some(current) if incarnation < current => Err(Rejection::Fenced { key, current }),
            Some(_) => Ok(()),
            None => match self.fenced_through(&key) {
                Some(current) if incarnation <= current => Err(Rejection::Fenced { key, current }),
                _ => Ok(()),
            },
        }
    }

    fn check_expected(&self, key: &InstanceKey, expected: Option<Revision>) -> Result<(), Rejection> {
        let current = self.records.get(key).map_or(Revision(0), |record| record.mod_revision);
        if expected.is_some_and(|expected| expected != current) {
            let key = key.clone();
            return Err(Rejection::RevisionMismatch { key, current });
        }
        Ok(())
    }

    fn under(&self, spec: &InstanceSpec, hold: Hold) -> Result<Under, Rejection> {
        match hold {
            Hold::Permanent => Ok(Under::Nothing),
            Hold::Shared { lease_id } => match self.leases.get(&lease_id) {
                None => Err(Rejection::LeaseNotFound(lease_id)),
                Some(lease) if lease.own => Err(invalid("lease_id")),
                Some(lease) => Ok(Under::Lease(lease_id, lease.ttl)),
            },
            Hold::Own { ttl } => {
                let before = self.records.get(&spec.key);
                let same_life = before.filter(|before| before.spec.incarnation == spec.incarnation);
                match same_life.and_then(|before| before.lease_id()) {
                    Some(id) if self.leases[&id].own => Ok(Under::Lease(id, ttl)),
                    _ => Ok(Under::New(ttl)),
                }
            }
        }
    }

    fn check_room(&self, specs: &[InstanceSpec], under: &Under) -> Result<(), Rejection> {
        let new = specs
            .iter()
            .filter(|spec| !self.records.contains_key(&spec.key))
            .count();
        let limit = self.settings.max_instances;
        if new > 0 && (self.records.len() + new) as u64 > limit {
            let subject = "cluster".into();
            return Err(Rejection::TooManyInstances { subject, limit });
        }
        match under {
            Under::New(_) => {
                let ending = self.records.get(&specs[0].key).and_then(|record| record.lease_id());
                let ending = ending.is_some_and(|id| self.leases[&id].own);
                let limit = self.settings.max_leases;
                if !ending && self.leases.len() as u64 >= limit {
                    return Err(Rejection::TooManyLeases { limit });
                }
            }
            Under::Lease(id, _) if !self.leases[id].own => {
                let held = self.held(*id);
                let joining = specs.iter().filter(|spec| !held.contains(&spec.key)).count();
                let limit = self.settings.max_instances_per_lease;
                if joining > 0 && (held.len() + joining) as u64 > limit {
                    let subject = format!("lease {id}");
                    return Err(Rejection::TooManyInstances { subject, limit });
                }
            }
            Under::Lease(..) | Under::Nothing => {}
        }
        Ok(())
    }

    fn new_lease(&mut self, id: LeaseId, ttl: Ttl, own: bool) {
        let deadline = self.clock.after(ttl.as_duration());
        self.leases.insert(id, Lease { ttl, deadline, own });
    }

    fn next_lease(&mut self) -> LeaseId {
        self.next_id += 1;
        LeaseId(self.next_id - 1)
    }

    /// Puts the record; the revision is one more than before if anything differs.
    fn place(&mut self, spec: &InstanceSpec, under: &Under) -> (Arc<Instance>, Registered) {
        let lease = match *under {
            Under::Nothing => None,
            Under::Lease(id, ttl) => {
                let own = self.leases[&id].own;
                self.new_lease(id, ttl, own);
                Some((id, ttl))
            }
            Under::New(ttl) => {
                let id = self.next_lease();
                self.new_lease(id, ttl, true);
                Some((id, ttl))
            }
        };
        let before = self.records.get(&spec.key).cloned();
        let how = match &before {
            None => Registered::Created,
            Some(before) if before.lease_id() != lease.map(|lease| lease.0) => Registered::TookOver,
            Some(before) if before.lease != lease || before.spec != *spec => Registered::Changed,
            Some(before) => return (Arc::clone(before), Registered::Unchanged),
        };
        let instance = self.write(spec.clone(), lease, self.revision.next());
        (instance, how)
    }

    fn write(&mut self, spec: InstanceSpec, lease: Option<(LeaseId, Ttl)>, revision: Revision) -> Arc<Instance> {
        let before = self.records.get(&spec.key).cloned();
        let instance = Arc::new(Instance {
            lease,
            create_revision: before.as_ref().map_or(revision, |before| before.create_revision),
            mod_revision: revision,
            registered_at_ms: before.as_ref().map_or(self.wall_ms, |before| before.registered_at_ms),
            updated_at_ms: self.wall_ms,
            encoded: OnceLock::new(),
            spec,
        });
        self.fences.remove(instance.key());
        self.records.insert(instance.key().clone(), Arc::clone(&instance));
        self.changes.push(Change {
            revision,
            before,
            after: Some(Arc::clone(&instance)),
            reason: None,
        });
        instance
    }

    fn register(&mut self, command: &Register) -> Result<Outcome, Rejection> {
        let spec = &command.instance;
        self.check_life(&spec.key, spec.incarnation)?;
        self.check_expected(&spec.key, command.expected_mod_revision)?;
        let under = self.under(spec, command.hold)?;
        self.check_room(std::slice::from_ref(spec), &under)?;
        let (instance, how) = self.place(spec, &under);
        if how != Registered::Unchanged {
            self.revision = self.revision.next();
        }
        Ok(Outcome::Registered { instance, how })
    }

    fn batch(&mut self, command: &BatchRegister) -> Result<Outcome, Rejection> {
        let under = match command.hold {
            Hold::Own { .. } => return Err(invalid("hold")),
            Hold::Shared { lease_id } => match self.leases.get(&lease_id) {
                None => return Err(Rejection::LeaseNotFound(lease_id)),
                Some(lease) if lease.own => return Err(invalid("lease_id")),
                Some(lease) => Under::Lease(lease_id, lease.ttl),
            },
            Hold::Permanent => Under::Nothing,
        };
        let mut specs = BTreeMap::new();
        for (n, spec) in command.instances.iter().enumerate() {
            if specs.insert(&spec.key, spec).is_some() {
                return Err(invalid(&format!("instances[{n}].key")));
            }
        }
        for spec in &command.instances {
            self.check_life(&spec.key, spec.incarnation)?;
        }
        self.check_room(&command.instances, &under)?;
        if let Under::Lease(id, ttl) = under {
            self.new_lease(id, ttl, false);
        }
        let mut changed = false;
        for spec in specs.values() {
            changed |= self.place(spec, &under).1 != Registered::Unchanged;
        }
        if changed {
            self.revision = self.revision.next();
        }
        Ok(Outcome::BatchRegistered { changed })
    }

    fn update(&mut self, command: &Update) -> Result<Outcome, Rejection> {
        let key = &command.key;
        let before = self.records.get(key).cloned();
        let before = before.ok_or_else(|| Rejection::InstanceNotFound(key.clone()))?;
        if command.incarnation.0 > 0 {
            self.check_life(key, command.incarnation)?;
        }
        self.check_expected(key, command.expected_mod_revision)?;
        let mut spec = before.spec.clone();
        if let Some(status) = command.status {
            spec.status = status;
        }
        if let Some(weight) = command.weight {
            spec.weight = weight;
        }
        if let Some(version) = &command.version {
            spec.version = version.into();
        }
        for tag in &command.remove_tags {
            spec.tags.remove(tag);
        }
        for key in &command.remove_metadata {
            spec.metadata.remove(key);
        }
        spec.tags.extend(command.add_tags.clone());
        spec.metadata.extend(command.set_metadata.clone());
        if spec == before.spec {
            let instance = before;
            return Ok(Outcome::Updated {
                instance,
                changed: false,
            });
        }
        // No record of this small world is near 64 KiB but by many long metadata values.
        let bytes: usize = spec.metadata.iter().map(|(k, v)| k.len() + v.len() + 8).sum();
        if spec.tags.len() > TAGS_MAX {
            return Err(invalid("add_tags"));
        }
        if spec.metadata.len() > METADATA_MAX || bytes > 65_000 {
            return Err(invalid("set_metadata"));
        }
        self.revision = self.revision.next();
        let instance = self.write(spec, before.lease, self.revision);
        Ok(Outcome::Updated {
            instance,
            changed: true,
        })
    }

    fn deregister(&mut self, command: &Deregister) -> Result<Outcome, Rejection> {
        let key = &command.key;
        let gone = Ok(Outcome::Deregistered { existed: false });
        let Some(record) = self.records.get(key).cloned() else {
            let raises = self
                .fenced_through(key)
                .is_some_and(|refused| refused < command.incarnation);
            if raises && command.lease_id.is_none() {
                self.fence(key, command.incarnation);
            }
            return gone;
        };
        if command.incarnation.0 > 0 {
            self.check_life(key, command.incarnation)?;
        }
        if command.lease_id.is_some() && command.lease_id != record.lease_id() {
            return gone;
        }
        self.check_expected(key, command.expected_mod_revision)?;
        self.revision = self.revision.next();
        self.records.remove(key);
        let life = record.spec.incarnation.max(command.incarnation);
        if life.0 > 0 {
            self.fence(key, life);
        }
        self.changes.push(Change {
            revision: self.revision,
            before: Some(record),
            after: None,
            reason: Some(RemoveReason::Deregistered),
        });
        Ok(Outcome::Deregistered { existed: true })
    }

    fn grant(&mut self, lease_id: Option<LeaseId>, ttl: Ttl) -> Result<LeaseInfo, Rejection> {
        let info = |lease_id, instances| LeaseInfo {
            lease_id,
            ttl,
            remaining: ttl.as_duration(),
            instances,
            own: false,
        };
        if let Some(id) = lease_id {
            if !(1 << 62..1 << 63).contains(&id.0) {
                return Err(invalid("lease_id"));
            }
            if let Some(lease) = self.leases.get(&id) {
                if lease.ttl != ttl {
                    let ttl = lease.ttl;
                    return Err(Rejection::LeaseExists { lease_id: id, ttl });
                }
                self.new_lease(id, ttl, false);
                return Ok(info(id, u32::try_from(self.held(id).len()).unwrap()));
            }
        }
        let limit = self.settings.max_leases;
        if self.leases.len() as u64 >= limit {
            return Err(Rejection::TooManyLeases { limit });
        }
        self.revision = self.revision.next();
        let id = lease_id.unwrap_or_else(|| self.next_lease());
        self.new_lease(id, ttl, false);
        Ok(info(id, 0))
    }
}
