//! Register, BatchRegister, Update, Deregister.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    model::{
        Hold, Incarnation, InstanceId, InstanceKey, LeaseId, Revision, Ttl,
        limits::{BATCH_MAX, LABEL_MAX_BYTES, METADATA_MAX},
    },
    registry::{BatchRegister, Deregister, Register, Update},
    wire::{
        FieldErrors,
        field::{Fields, Path},
        instance::Bounds,
        v1,
    },
};

/// Reads a Register. `made_up_id` gives the id of an instance that comes without one.
///
/// # Errors
/// Everything that is wrong with it.
pub fn register(
    request: v1::RegisterRequest,
    made_up_id: impl FnOnce() -> InstanceId,
) -> Result<Register, FieldErrors> {
    use v1::register_request::Hold as Sent;
    Fields::check(|fields| {
        let root = Path::Root;
        let path = root.field("instance");
        let instance = fields.required(&path, request.instance).map(|mut instance| {
            fill_id(&mut instance, made_up_id);
            instance
        });
        let instance = instance.and_then(|instance| fields.spec(&path, instance, Bounds::Limits));
        let hold = match request.hold {
            None => Some(Hold::Own { ttl: Ttl::DEFAULT }),
            Some(Sent::OwnLease(own)) => match own.ttl {
                None => Some(Hold::Own { ttl: Ttl::DEFAULT }),
                Some(ttl) => fields
                    .ttl(&root.field("own_lease").field("ttl"), ttl)
                    .map(|ttl| Hold::Own { ttl }),
            },
            Some(Sent::LeaseId(id)) => fields.held_by(&root.field("lease_id"), id),
            Some(Sent::Permanent(permanent)) => fields
                .chosen(&root.field("permanent"), permanent)
                .map(|()| Hold::Permanent),
        };
        let expected = fields.expected_mod_revision(request.expected_mod_revision);
        Some(Register {
            instance: instance?,
            hold: hold?,
            expected_mod_revision: expected?,
        })
    })
}

/// A batch, and the ids of its instances in the order sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRegisterWithIds {
    /// The command.
    pub batch: BatchRegister,
    /// The ids, made-up ones filled in.
    pub ids: Vec<String>,
}

/// Reads a BatchRegister. `made_up_id` gives the ids of instances that come without one.
///
/// # Errors
/// Everything that is wrong with it.
pub fn batch_register(
    request: v1::BatchRegisterRequest,
    mut made_up_id: impl FnMut() -> InstanceId,
) -> Result<BatchRegisterWithIds, FieldErrors> {
    use v1::batch_register_request::Hold as Sent;
    Fields::check(|fields| {
        let root = Path::Root;
        let path = root.field("instances");
        let count = request.instances.len();
        if count == 0 {
            fields.refuse::<()>(&path, "must not be empty");
        }
        fields.at_most(&path, count, BATCH_MAX)?;
        let mut instances = Vec::with_capacity(count);
        let mut seen: BTreeMap<InstanceKey, usize> = BTreeMap::new();
        for (index, mut instance) in request.instances.into_iter().enumerate() {
            let path = path.item(index);
            fill_id(&mut instance, &mut made_up_id);
            let Some(spec) = fields.spec(&path, instance, Bounds::Limits) else {
                continue;
            };
            if let Some(first) = seen.insert(spec.key.clone(), index) {
                fields.refuse::<()>(&path.field("key"), format_args!("is the key of instances[{first}] too"));
            }
            instances.push(spec);
        }
        let hold = match request.hold {
            Some(Sent::LeaseId(id)) => fields.held_by(&root.field("lease_id"), id),
            Some(Sent::Permanent(permanent)) => fields
                .chosen(&root.field("permanent"), permanent)
                .map(|()| Hold::Permanent),
            None => fields.refuse(&root.field("hold"), "is not set: one of lease_id and permanent must be"),
        };
        let ids = instances.iter().map(|spec| spec.key.id.as_str().to_owned()).collect();
        Some(BatchRegisterWithIds {
            batch: BatchRegister { instances, hold: hold? },
            ids,
        })
    })
}

/// Reads an Update.
///
/// # Errors
/// Everything that is wrong with it.
pub fn update(request: v1::UpdateRequest) -> Result<Update, FieldErrors> {
    Fields::check(|fields| {
        let root = Path::Root;
        let key = fields.key(&root.field("key"), request.key);
        let status = fields.status(&root.field("status"), request.status);
        let weight = match request.weight {
            None => Some(None),
            Some(weight) => fields.weight(&root.field("weight"), weight).map(Some),
        };
        let version = match request.version {
            None => Some(None),
            Some(version) => fields.text(&root.field("version"), version, LABEL_MAX_BYTES).map(Some),
        };
        let add_tags = fields.tags(&root.field("add_tags"), request.add_tags);
        let remove_tags = fields.tags(&root.field("remove_tags"), request.remove_tags);
        let set_metadata = fields.metadata(&root.field("set_metadata"), request.set_metadata);
        let remove_metadata = fields.metadata_keys(&root.field("remove_metadata"), request.remove_metadata);
        let expected = fields.expected_mod_revision(request.expected_mod_revision);
        let incarnation = fields.number(&root.field("incarnation"), request.incarnation);
        Some(Update {
            key: key?,
            status: status?,
            weight: weight?,
            version: version?,
            add_tags: add_tags?,
            remove_tags: remove_tags?,
            set_metadata: set_metadata?,
            remove_metadata: remove_metadata?,
            expected_mod_revision: expected?,
            incarnation: Incarnation(incarnation?),
        })
    })
}

/// Reads a Deregister.
///
/// # Errors
/// Everything that is wrong with it.
pub fn deregister(request: v1::DeregisterRequest) -> Result<Deregister, FieldErrors> {
    Fields::check(|fields| {
        let root = Path::Root;
        let key = fields.key(&root.field("key"), request.key);
        let expected = fields.expected_mod_revision(request.expected_mod_revision);
        let incarnation = fields.number(&root.field("incarnation"), request.incarnation);
        let lease_id = fields.number(&root.field("lease_id"), request.lease_id);
        Some(Deregister {
            key: key?,
            expected_mod_revision: expected?,
            incarnation: Incarnation(incarnation?),
            lease_id: lease_id.map(|id| (id > 0).then_some(LeaseId(id)))?,
        })
    })
}

fn fill_id(instance: &mut v1::Instance, made_up_id: impl FnOnce() -> InstanceId) {
    if let Some(key) = &mut instance.key
        && key.id.is_empty()
    {
        made_up_id().as_str().clone_into(&mut key.id);
    }
}

impl Fields {
    fn held_by(&mut self, path: &Path<'_>, id: i64) -> Option<Hold> {
        self.lease_id(path, id).map(|lease_id| Hold::Shared { lease_id })
    }

    fn expected_mod_revision(&mut self, revision: Option<i64>) -> Option<Option<Revision>> {
        let revision = self.optional_number(&Path::Root.field("expected_mod_revision"), revision)?;
        Some(revision.map(Revision))
    }

    fn metadata_keys(&mut self, path: &Path<'_>, keys: Vec<String>) -> Option<BTreeSet<String>> {
        self.at_most(path, keys.len(), METADATA_MAX)?;
        let count = keys.len();
        let checked: Vec<_> = keys
            .into_iter()
            .filter_map(|key| self.metadata_key(path, key))
            .collect();
        (checked.len() == count).then(|| checked.into_iter().collect())
    }
}
