//! Records: `roster.v1.Instance` to and from the model's.
//!
//! A request's instance is held to every limit of the record ([`spec_from_proto`]). One from the log, a snapshot or
//! another node was held to them when it was accepted, by a node that may have known wider ones; it is read by the
//! rules of the types alone ([`instance_from_proto`]), for to refuse it would stop this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
};

use bytes::Bytes;
use prost::Message as _;

use super::{
    DecodeError, FieldErrors,
    field::{Fields, Path},
    span::{instant_from_proto, instant_to_proto, span_to_proto},
    v1,
    writer::{change_bytes, put_bytes, put_record, removal_bytes},
};
use crate::model::{
    Incarnation, Instance, InstanceId, InstanceKey, InstanceSpec, LeaseId, Metadata, Namespace, Port, Revision,
    ServiceName, Status, Tags, Text,
    limits::{
        LABEL_MAX_BYTES, METADATA_KEY_MAX_BYTES, METADATA_MAX, METADATA_VALUE_MAX_BYTES, PORT_NAME_MAX_BYTES,
        PORTS_MAX, RECORD_MAX_BYTES, TAG_MAX_BYTES, TAGS_MAX, WEIGHT_DEFAULT, WEIGHT_MAX,
    },
};

/// A key as the API carries it.
#[must_use]
pub fn key_to_proto(key: &InstanceKey) -> v1::InstanceKey {
    v1::InstanceKey {
        namespace: key.namespace.as_str().into(),
        service: key.service.as_str().into(),
        id: key.id.as_str().into(),
    }
}

/// A status as the API carries it.
#[must_use]
pub fn status_to_proto(status: Status) -> v1::instance::Status {
    match status {
        Status::Starting => v1::instance::Status::Starting,
        Status::Up => v1::instance::Status::Up,
        Status::Draining => v1::instance::Status::Draining,
        Status::Down => v1::instance::Status::Down,
    }
}

/// A status as a reader takes it: one that it does not know is `DOWN`.
#[must_use]
pub fn status_as_read(status: i32) -> Status {
    match v1::instance::Status::try_from(status) {
        Ok(v1::instance::Status::Starting) => Status::Starting,
        Ok(v1::instance::Status::Unspecified | v1::instance::Status::Up) => Status::Up,
        Ok(v1::instance::Status::Draining) => Status::Draining,
        Ok(v1::instance::Status::Down) | Err(_) => Status::Down,
    }
}

/// The owner's fields as the API carries them; the output fields are unset.
#[must_use]
pub fn spec_to_proto(spec: &InstanceSpec) -> v1::Instance {
    v1::Instance {
        key: Some(key_to_proto(&spec.key)),
        address: spec.address.as_str().into(),
        ports: spec.ports.iter().map(port_to_proto).collect(),
        weight: Some(spec.weight),
        region: spec.region.as_str().into(),
        zone: spec.zone.as_str().into(),
        version: spec.version.as_str().into(),
        tags: spec.tags.iter().map(Text::to_string).collect(),
        metadata: (&spec.metadata).into(),
        status: status_to_proto(spec.status).into(),
        incarnation: spec.incarnation.as_i64(),
        ..v1::Instance::default()
    }
}

/// A whole record as the API carries it.
#[must_use]
pub fn instance_to_proto(instance: &Instance) -> v1::Instance {
    v1::Instance {
        lease_id: instance.lease.map_or(0, |(id, _)| id.as_i64()),
        ttl: instance.lease.map(|(_, ttl)| span_to_proto(ttl.as_duration())),
        create_revision: instance.create_revision.as_i64(),
        mod_revision: instance.mod_revision.as_i64(),
        registered_at: Some(instant_to_proto(instance.registered_at_ms)),
        updated_at: Some(instant_to_proto(instance.updated_at_ms)),
        ..spec_to_proto(&instance.spec)
    }
}

/// The bytes of the `roster.v1.Change` that puts a record, encoded at the first asking and kept with it for every later
/// watcher.
#[must_use]
pub fn encoded_put(instance: &Instance) -> Bytes {
    instance.encoded.get_or_init(|| put_bytes(instance)).clone()
}

/// Encodes a record, to be sent later: [`encoded_put`] and [`encoded`] then find it done.
pub fn encode(instance: &Instance) {
    instance.encoded.get_or_init(|| put_bytes(instance));
}

/// The bytes of a change that puts a record at another revision than its own.
#[must_use]
pub fn encoded_put_at(instance: &Instance, revision: Revision) -> Bytes {
    change_bytes(&encoded(instance), revision)
}

/// The bytes of the change that removes a record.
#[must_use]
pub fn encoded_removal(key: &InstanceKey, reason: v1::change::Reason, revision: Revision) -> Bytes {
    removal_bytes(key, reason, revision)
}

/// A whole record's bytes, likewise: they are a part of those.
#[must_use]
pub fn encoded(instance: &Instance) -> Bytes {
    put_record(instance.encoded.get_or_init(|| put_bytes(instance)))
}

/// A whole record's bytes: those kept with it, or fresh ones that are not kept.
pub(crate) fn encoded_once(instance: &Instance) -> Bytes {
    match instance.encoded.get() {
        Some(put) => put_record(put),
        None => put_record(&put_bytes(instance)),
    }
}

/// Reads a request's instance and holds it to every limit of the record. The output fields are ignored.
///
/// `path` is where the instance stands in its request. An empty id is refused; [`super::request`] fills it first.
///
/// # Errors
/// Everything that is wrong with it.
pub fn spec_from_proto(instance: v1::Instance, path: &Path<'_>) -> Result<InstanceSpec, FieldErrors> {
    Fields::check(|fields| fields.spec(path, instance, Bounds::Limits))
}

/// Reads a record's bytes, which stay with it: whoever reads it next gets them.
///
/// # Errors
/// They are no record, or a value of it is one that the model has no room for.
pub fn instance_from_bytes(bytes: &Bytes) -> Result<Instance, DecodeError> {
    let instance = instance_from_proto(v1::Instance::decode(bytes.clone())?)?;
    Ok(Instance {
        encoded: OnceLock::from(change_bytes(bytes, instance.mod_revision)),
        ..instance
    })
}

/// Reads a record that a node wrote.
///
/// # Errors
/// A value that the model has no room for.
pub fn instance_from_proto(instance: v1::Instance) -> Result<Instance, DecodeError> {
    Ok(Fields::check(|fields| fields.instance(&Path::Root, instance))?)
}

/// How far a record is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bounds {
    /// Every limit: it comes from a client.
    Limits,
    /// What the types of the model need: it was checked when it was accepted.
    Types,
}

impl Fields {
    /// A key whose id must be there.
    pub(crate) fn key(&mut self, path: &Path<'_>, key: Option<v1::InstanceKey>) -> Option<InstanceKey> {
        let key = self.required(path, key)?;
        let namespace = self.namespace(&path.field("namespace"), &key.namespace);
        let service = self.accept(&path.field("service"), ServiceName::parse(&key.service));
        let id = self.accept(&path.field("id"), InstanceId::parse(&key.id));
        Some(InstanceKey::new(namespace?, service?, id?))
    }

    /// A namespace; empty = the default one.
    pub(crate) fn namespace(&mut self, path: &Path<'_>, text: &str) -> Option<Namespace> {
        let default = Namespace::default();
        if text.is_empty() || text == default.as_str() {
            Some(default)
        } else {
            self.accept(path, Namespace::parse(text))
        }
    }

    /// A status that must be known: outer `None` = refused, inner `None` = not sent.
    pub(crate) fn status(&mut self, path: &Path<'_>, status: i32) -> Option<Option<Status>> {
        match v1::instance::Status::try_from(status) {
            Ok(v1::instance::Status::Unspecified) => Some(None),
            Ok(_) => Some(Some(status_as_read(status))),
            Err(_) => self.refuse(path, format_args!("is {status}, which is no status")),
        }
    }

    /// A weight.
    pub(crate) fn weight(&mut self, path: &Path<'_>, weight: u32) -> Option<u32> {
        if weight <= WEIGHT_MAX {
            Some(weight)
        } else {
            self.refuse(path, format_args!("is {weight}; at most {WEIGHT_MAX} is allowed"))
        }
    }

    /// Tags, of which each counts once.
    pub(crate) fn tags(&mut self, path: &Path<'_>, tags: Vec<String>) -> Option<BTreeSet<String>> {
        self.at_most(path, tags.len(), TAGS_MAX)?;
        let mut whole = true;
        let mut set = BTreeSet::new();
        for (index, tag) in tags.into_iter().enumerate() {
            match self.word(&path.item(index), tag, TAG_MAX_BYTES) {
                Some(tag) => drop(set.insert(tag)),
                None => whole = false,
            }
        }
        whole.then_some(set)
    }

    /// Metadata.
    pub(crate) fn metadata(
        &mut self,
        path: &Path<'_>,
        metadata: BTreeMap<String, String>,
    ) -> Option<BTreeMap<String, String>> {
        self.at_most(path, metadata.len(), METADATA_MAX)?;
        let mut whole = true;
        let mut map = BTreeMap::new();
        for (key, value) in metadata {
            let value = self.text(&path.entry(&key), value, METADATA_VALUE_MAX_BYTES);
            let key = self.metadata_key(path, key);
            match (key, value) {
                (Some(key), Some(value)) => drop(map.insert(key, value)),
                _ => whole = false,
            }
        }
        whole.then_some(map)
    }

    /// A metadata key; `path` is that of the map or list which holds it.
    pub(crate) fn metadata_key(&mut self, path: &Path<'_>, key: String) -> Option<String> {
        match metadata_key_problem(&key) {
            None => Some(key),
            Some(problem) => self.refuse(&path.entry(&key), problem),
        }
    }

    /// The owner's fields of a record.
    pub(crate) fn spec(&mut self, path: &Path<'_>, mut sent: v1::Instance, bounds: Bounds) -> Option<InstanceSpec> {
        let limited = bounds == Bounds::Limits;
        if limited {
            clear_output(&mut sent);
            let size = sent.encoded_len();
            if size > RECORD_MAX_BYTES {
                self.refuse::<()>(
                    path,
                    format_args!("is {size} bytes long; at most {RECORD_MAX_BYTES} are allowed"),
                );
            }
        }
        let key = self.key(&path.field("key"), sent.key);
        let address = if limited {
            self.address(&path.field("address"), sent.address)
        } else {
            Some(sent.address)
        };
        let ports = self.ports(&path.field("ports"), sent.ports, bounds);
        let weight = self.weight(&path.field("weight"), sent.weight.unwrap_or(WEIGHT_DEFAULT));
        let label = |fields: &mut Self, name, text| {
            if limited {
                fields.text(&path.field(name), text, LABEL_MAX_BYTES)
            } else {
                Some(text)
            }
        };
        let region = label(self, "region", sent.region);
        let zone = label(self, "zone", sent.zone);
        let version = label(self, "version", sent.version);
        let tags = if limited {
            self.tags(&path.field("tags"), sent.tags).map(Tags::from)
        } else {
            Some(sent.tags.into_iter().collect())
        };
        let metadata = if limited {
            self.metadata(&path.field("metadata"), sent.metadata)
                .map(Metadata::from)
        } else {
            Some(sent.metadata.into())
        };
        let status = self.status(&path.field("status"), sent.status);
        let incarnation = self.number(&path.field("incarnation"), sent.incarnation);
        Some(InstanceSpec {
            key: key?,
            address: address?.into(),
            ports: ports?.into(),
            weight: weight?,
            region: region?.into(),
            zone: zone?.into(),
            version: version?.into(),
            tags: tags?,
            metadata: metadata?,
            status: status?.unwrap_or_default(),
            incarnation: Incarnation(incarnation?),
        })
    }

    fn ports(&mut self, path: &Path<'_>, ports: Vec<v1::Port>, bounds: Bounds) -> Option<Vec<Port>> {
        if bounds == Bounds::Limits {
            self.at_most(path, ports.len(), PORTS_MAX)?;
        }
        let mut read = Vec::with_capacity(ports.len());
        let count = ports.len();
        for (index, port) in ports.into_iter().enumerate() {
            read.extend(self.port(&path.item(index), port, bounds));
        }
        (read.len() == count).then_some(read)
    }

    fn port(&mut self, path: &Path<'_>, port: v1::Port, bounds: Bounds) -> Option<Port> {
        let number = match u16::try_from(port.number) {
            Ok(number) if number > 0 => Some(number),
            _ => self.refuse(
                &path.field("number"),
                format_args!("is {}; it must be 1 to 65535", port.number),
            ),
        };
        if bounds == Bounds::Types {
            return Some(Port {
                name: port.name.into(),
                number: number?,
                protocol: port.protocol.into(),
                address: port.address.into(),
            });
        }
        let name = self.text(&path.field("name"), port.name, PORT_NAME_MAX_BYTES);
        let protocol = self.text(&path.field("protocol"), port.protocol, PORT_NAME_MAX_BYTES);
        let address = if port.address.is_empty() {
            Some(port.address)
        } else {
            self.address(&path.field("address"), port.address)
        };
        Some(Port {
            name: name?.into(),
            number: number?,
            protocol: protocol?.into(),
            address: address?.into(),
        })
    }

    /// A whole record that a node wrote.
    pub(crate) fn instance(&mut self, path: &Path<'_>, mut sent: v1::Instance) -> Option<Instance> {
        let lease_id = self.number(&path.field("lease_id"), sent.lease_id);
        let ttl = match sent.ttl.take() {
            None => Some(None),
            Some(ttl) => self.ttl(&path.field("ttl"), ttl).map(Some),
        };
        let create_revision = self.number(&path.field("create_revision"), sent.create_revision);
        let mod_revision = self.number(&path.field("mod_revision"), sent.mod_revision);
        let instant = |fields: &mut Self, name, sent: Option<prost_types::Timestamp>| match instant_from_proto(
            sent.unwrap_or_default(),
        ) {
            Some(ms) => Some(ms),
            None => fields.refuse(&path.field(name), "is no instant after 1970"),
        };
        let registered_at_ms = instant(self, "registered_at", sent.registered_at);
        let updated_at_ms = instant(self, "updated_at", sent.updated_at);
        let spec = self.spec(path, sent, Bounds::Types);
        let lease = match (lease_id?, ttl?) {
            (0, None) => None,
            (id, Some(ttl)) if id > 0 => Some((LeaseId(id), ttl)),
            _ => return self.refuse(&path.field("ttl"), "and lease_id must be set together"),
        };
        Some(Instance {
            spec: spec?,
            lease,
            create_revision: Revision(create_revision?),
            mod_revision: Revision(mod_revision?),
            registered_at_ms: registered_at_ms?,
            updated_at_ms: updated_at_ms?,
            encoded: OnceLock::new(),
        })
    }
}

fn metadata_key_problem(key: &str) -> Option<String> {
    if key.is_empty() {
        Some("its key must not be empty".into())
    } else if key.len() > METADATA_KEY_MAX_BYTES {
        Some(format!(
            "its key is {} bytes long; at most {METADATA_KEY_MAX_BYTES} are allowed",
            key.len()
        ))
    } else if key.chars().any(char::is_control) {
        Some("its key holds a control character".into())
    } else {
        None
    }
}

/// What a client sends in the output fields counts for nothing, not even for the record's size.
fn clear_output(instance: &mut v1::Instance) {
    instance.lease_id = 0;
    instance.ttl = None;
    instance.create_revision = 0;
    instance.mod_revision = 0;
    instance.registered_at = None;
    instance.updated_at = None;
}

fn port_to_proto(port: &Port) -> v1::Port {
    v1::Port {
        name: port.name.as_str().into(),
        number: i32::from(port.number),
        protocol: port.protocol.as_str().into(),
        address: port.address.as_str().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Incarnation, InstanceId, Metadata, Namespace, ServiceName, Tags};

    #[test]
    fn a_record_says_its_own_encoded_length() {
        let key = InstanceKey::new(
            Namespace::default(),
            ServiceName::parse("api").unwrap(),
            InstanceId::parse("a").unwrap(),
        );
        let small = InstanceSpec {
            key,
            address: Text::new(),
            ports: Box::default(),
            weight: 0,
            region: Text::new(),
            zone: Text::new(),
            version: Text::new(),
            tags: Tags::new(),
            metadata: Metadata::new(),
            status: Status::Up,
            incarnation: Incarnation(0),
        };
        let port = |number| Port {
            name: "http".into(),
            number,
            protocol: Text::new(),
            address: "::1".into(),
        };
        let large = InstanceSpec {
            address: "10.0.0.1".into(),
            ports: [port(1), port(65_535)].into(),
            weight: 65_535,
            version: "x".repeat(300).into(),
            tags: (0..20).map(|n| format!("tag-{n}")).collect(),
            metadata: (0..20).map(|n| (format!("k{n}"), "v".repeat(n * 40))).collect(),
            incarnation: Incarnation(1 << 40),
            ..small.clone()
        };
        for spec in [small, large] {
            assert_eq!(spec.encoded_bytes(), prost::Message::encoded_len(&spec_to_proto(&spec)));
        }
    }
}
