//! What the scripted nodes answer from: a registry small enough to be seen through, without Raft and without a clock.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use roster::wire::{
    error::{ErrorDetail, Reason, WriteOutcome},
    v1::{self, change, register_request::Hold, register_response::Outcome, selector::Scope},
};
use tokio::sync::watch;
use tonic::Status;

pub(crate) const CLUSTER_ID: &str = "00000000deadbeef";

type Key = (String, String, String);

/// What all nodes of one cluster share.
#[derive(Clone)]
pub(crate) struct Registry {
    state: Arc<Mutex<State>>,
    revision: watch::Sender<i64>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) revision: i64,
    pub(crate) instances: BTreeMap<Key, v1::Instance>,
    pub(crate) leases: BTreeMap<i64, v1::Lease>,
    pub(crate) history: Vec<v1::Change>,
    /// Changes through this revision are forgotten.
    pub(crate) compacted: i64,
    fences: BTreeMap<Key, i64>,
    next_lease: i64,
}

pub(crate) fn refusal(reason: Reason, message: &str) -> Status {
    ErrorDetail {
        outcome: Some(WriteOutcome::NotApplied),
        ..ErrorDetail::new(reason, message)
    }
    .into_status()
}

fn key_of(key: &v1::InstanceKey) -> Key {
    let namespace = if key.namespace.is_empty() {
        "default"
    } else {
        &key.namespace
    };
    (namespace.into(), key.service.clone(), key.id.clone())
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            state: Arc::default(),
            revision: watch::channel(0).0,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells when something has changed.
    pub(crate) fn subscribe(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }

    fn publish(&self) {
        let revision = self.state().revision;
        self.revision.send_replace(revision);
    }

    pub(crate) fn header(&self) -> v1::Header {
        v1::Header {
            cluster_id: CLUSTER_ID.into(),
            node: "n1".into(),
            term: 1,
            revision: self.state().revision,
            leader: "n1".into(),
            ..Default::default()
        }
    }

    pub(crate) fn position(&self) -> v1::Position {
        v1::Position {
            cluster_id: CLUSTER_ID.into(),
            revision: self.state().revision,
        }
    }

    pub(crate) fn instance(&self, service: &str, id: &str) -> Option<v1::Instance> {
        let key = ("default".into(), service.into(), id.into());
        self.state().instances.get(&key).cloned()
    }

    /// The lease ends, and its instances with it.
    pub(crate) fn expire(&self, lease_id: i64) -> i32 {
        let removed = self.state().end(lease_id, change::Reason::Expired);
        self.publish();
        removed
    }

    /// The lease lives on, but holds nothing any more.
    pub(crate) fn empty(&self, lease_id: i64) {
        let mut state = self.state();
        state.instances.retain(|_, instance| instance.lease_id != lease_id);
    }

    /// A later life of the instance takes its place.
    pub(crate) fn succeed(&self, service: &str, id: &str) {
        let mut state = self.state();
        let key = ("default".into(), service.into(), id.into());
        let lease = state.instances.get(&key).map(|instance| instance.lease_id);
        state.leases.remove(&lease.unwrap_or_default());
        if let Some(instance) = state.instances.get_mut(&key) {
            instance.incarnation = i64::MAX;
            instance.lease_id = 0;
        }
        state.fences.insert(key, i64::MAX);
    }

    pub(crate) fn put(&self, service: &str, id: &str) -> i64 {
        let request = v1::RegisterRequest {
            instance: Some(v1::Instance {
                key: Some(v1::InstanceKey {
                    service: service.into(),
                    id: id.into(),
                    ..Default::default()
                }),
                address: "10.0.0.7".into(),
                ports: vec![v1::Port {
                    name: "http".into(),
                    number: 8080,
                    ..Default::default()
                }],
                ..Default::default()
            }),
            hold: Some(Hold::Permanent(true)),
            expected_mod_revision: None,
        };
        self.register(request).expect("nothing stands against it");
        self.state().revision
    }

    pub(crate) fn register(&self, request: v1::RegisterRequest) -> Result<v1::RegisterResponse, Status> {
        let mut instance = request.instance.unwrap_or_default();
        if instance.address.is_empty() {
            return Err(invalid("instance.address", "must not be empty"));
        }
        let response = {
            let mut state = self.state();
            let mut key = instance.key.clone().unwrap_or_default();
            if key.id.is_empty() {
                key.id = format!("made-up-{}", state.revision + 1);
            }
            let place = key_of(&key);
            key.namespace.clone_from(&place.0);
            instance.key = Some(key);
            if state.fences.get(&place).copied().unwrap_or_default() > instance.incarnation {
                return Err(refusal(Reason::Fenced, "a later life stands there"));
            }
            state.register(place, instance, request.hold)
        };
        self.publish();
        Ok(v1::RegisterResponse {
            header: Some(self.header()),
            ..response
        })
    }

    pub(crate) fn deregister(&self, request: &v1::DeregisterRequest) -> Result<v1::DeregisterResponse, Status> {
        let key = request.key.clone().unwrap_or_default();
        let existed = {
            let mut state = self.state();
            let place = key_of(&key);
            let fence = state.fences.get(&place).copied().unwrap_or_default();
            if request.incarnation != 0 && fence > request.incarnation {
                return Err(refusal(Reason::Fenced, "a later life stands there"));
            }
            let instance = state.instances.remove(&place);
            if let Some(instance) = &instance {
                state.leases.remove(&instance.lease_id);
                let key = instance.key.clone().unwrap_or_default();
                state.removed(key, change::Reason::Deregistered);
            }
            instance.is_some()
        };
        self.publish();
        Ok(v1::DeregisterResponse {
            header: Some(self.header()),
            existed,
        })
    }

    pub(crate) fn update(&self, request: v1::UpdateRequest) -> Result<v1::UpdateResponse, Status> {
        let place = key_of(&request.key.clone().unwrap_or_default());
        let instance = {
            let mut state = self.state();
            let Some(mut instance) = state.instances.get(&place).cloned() else {
                return Err(refusal(Reason::InstanceNotFound, "no such instance"));
            };
            if request.status != 0 {
                instance.status = request.status;
            }
            instance.weight = request.weight.or(instance.weight);
            instance.tags.extend(request.add_tags);
            instance.tags.retain(|tag| !request.remove_tags.contains(tag));
            instance.metadata.extend(request.set_metadata);
            for key in &request.remove_metadata {
                instance.metadata.remove(key);
            }
            state.changed(place, instance)
        };
        self.publish();
        Ok(v1::UpdateResponse {
            header: Some(self.header()),
            instance: Some(instance),
            changed: true,
        })
    }

    pub(crate) fn grant(&self, request: &v1::GrantLeaseRequest) -> v1::Lease {
        let mut state = self.state();
        let lease_id = state.grant(request.ttl, false);
        state.leases.get(&lease_id).copied().unwrap_or_default()
    }

    pub(crate) fn revoke(&self, lease_id: i64) -> (bool, i32) {
        let existed = self.state().leases.contains_key(&lease_id);
        let removed = self.state().end(lease_id, change::Reason::Revoked);
        self.publish();
        (existed, removed)
    }

    pub(crate) fn renew(&self, request: &v1::RenewRequest, outcome: v1::renew_result::Outcome) -> v1::RenewResponse {
        let state = self.state();
        let results = request.lease_ids.iter().map(|&lease_id| {
            let lease = state.leases.get(&lease_id);
            let outcome = match lease {
                Some(_) => outcome,
                None => v1::renew_result::Outcome::NotFound,
            };
            v1::RenewResult {
                lease_id,
                outcome: outcome.into(),
                ttl: lease.and_then(|lease| lease.ttl),
                instances: state.held_by(lease_id),
            }
        });
        v1::RenewResponse {
            header: None,
            seq: request.seq,
            results: results.collect(),
            renew_after: None,
        }
    }

    pub(crate) fn selected(&self, selector: &v1::Selector) -> Vec<v1::Instance> {
        let state = self.state();
        let instances = state.instances.values();
        instances
            .filter(|instance| selects(selector, instance))
            .cloned()
            .collect()
    }
}

pub(crate) fn invalid(field: &str, problem: &str) -> Status {
    ErrorDetail {
        outcome: Some(WriteOutcome::NotApplied),
        violations: vec![(field.into(), problem.into())],
        ..ErrorDetail::new(Reason::InvalidField, "1 field is invalid")
    }
    .into_status()
}

pub(crate) fn selects(selector: &v1::Selector, instance: &v1::Instance) -> bool {
    let key = instance.key.clone().unwrap_or_default();
    let namespace = if selector.namespace.is_empty() {
        "default"
    } else {
        &selector.namespace
    };
    let in_scope = match &selector.scope {
        Some(Scope::Services(services)) => services.names.contains(&key.service),
        Some(Scope::ServicePrefix(prefix)) => key.service.starts_with(prefix.as_str()),
        Some(Scope::AllServices(_)) | None => true,
    };
    let serves = instance.status() == v1::instance::Status::Up && instance.weight.unwrap_or(100) > 0;
    (selector.all_namespaces || key.namespace == namespace) && in_scope && (!selector.serving || serves)
}

fn ttl_of(hold: Hold) -> Option<prost_types::Duration> {
    match hold {
        Hold::OwnLease(own) => own.ttl,
        Hold::LeaseId(_) | Hold::Permanent(_) => None,
    }
}

impl State {
    fn register(&mut self, place: Key, mut instance: v1::Instance, hold: Option<Hold>) -> v1::RegisterResponse {
        let known = self.instances.get(&place).cloned();
        if instance.status == 0 {
            instance.set_status(v1::instance::Status::Up);
        }
        instance.weight = Some(instance.weight.unwrap_or(100));
        let same_life = known
            .as_ref()
            .is_some_and(|known| known.incarnation == instance.incarnation);
        instance.lease_id = match hold {
            Some(Hold::Permanent(_)) => 0,
            Some(Hold::LeaseId(lease_id)) => lease_id,
            Some(Hold::OwnLease(_)) | None => match &known {
                Some(known) if same_life && self.leases.contains_key(&known.lease_id) => known.lease_id,
                _ => self.grant(hold.and_then(ttl_of), true),
            },
        };
        instance.ttl = self.leases.get(&instance.lease_id).and_then(|lease| lease.ttl);
        self.fences.insert(place.clone(), instance.incarnation);
        let outcome = match &known {
            None => Outcome::Created,
            Some(known) => {
                instance.create_revision = known.create_revision;
                instance.mod_revision = known.mod_revision;
                instance.registered_at = known.registered_at;
                if *known == instance {
                    Outcome::Unchanged
                } else if known.lease_id == instance.lease_id {
                    Outcome::Changed
                } else {
                    Outcome::TookOver
                }
            }
        };
        if outcome != Outcome::Unchanged {
            instance = self.changed(place, instance);
        }
        v1::RegisterResponse {
            header: None,
            instance: Some(instance),
            outcome: outcome.into(),
            renew_after: None,
        }
    }

    fn changed(&mut self, place: Key, mut instance: v1::Instance) -> v1::Instance {
        self.revision += 1;
        instance.mod_revision = self.revision;
        if instance.create_revision == 0 {
            instance.create_revision = self.revision;
        }
        self.instances.insert(place, instance.clone());
        self.history.push(v1::Change {
            kind: change::Kind::Put.into(),
            instance: Some(instance.clone()),
            revision: self.revision,
            ..Default::default()
        });
        instance
    }

    fn removed(&mut self, key: v1::InstanceKey, reason: change::Reason) {
        self.revision += 1;
        self.history.push(v1::Change {
            kind: change::Kind::Remove.into(),
            removed: Some(key),
            reason: reason.into(),
            revision: self.revision,
            ..Default::default()
        });
    }

    fn grant(&mut self, ttl: Option<prost_types::Duration>, own: bool) -> i64 {
        self.next_lease += 1;
        let ttl = Some(ttl.unwrap_or(prost_types::Duration { seconds: 15, nanos: 0 }));
        let lease = v1::Lease {
            lease_id: self.next_lease,
            ttl,
            remaining: ttl,
            instances: 0,
            own,
        };
        self.leases.insert(self.next_lease, lease);
        self.next_lease
    }

    pub(crate) fn held_by(&self, lease_id: i64) -> i32 {
        let held = self.instances.values().filter(|instance| instance.lease_id == lease_id);
        i32::try_from(held.count()).unwrap_or(i32::MAX)
    }

    fn end(&mut self, lease_id: i64, reason: change::Reason) -> i32 {
        self.leases.remove(&lease_id);
        let ended: Vec<Key> = self
            .instances
            .iter()
            .filter(|(_, instance)| instance.lease_id == lease_id)
            .map(|(place, _)| place.clone())
            .collect();
        for place in &ended {
            if let Some(instance) = self.instances.remove(place) {
                self.removed(instance.key.unwrap_or_default(), reason);
            }
        }
        i32::try_from(ended.len()).unwrap_or(i32::MAX)
    }
}
