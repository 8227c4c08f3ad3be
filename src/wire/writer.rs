//! What the log and every reader get most of, as bytes: records, commands, headers, written straight from the model.
//!
//! A message of generated code would copy each text first, only to drop the copies when it is encoded. The bytes are
//! those that the message would have, which a test compares.

use std::{fmt::Display, io::Write as _, time::Duration};

use bytes::{BufMut as _, Bytes};
use prost::encoding::{WireType, decode_varint, encode_key, encode_varint};

use super::{
    header::Header,
    instance::status_to_proto,
    span::{instant_to_proto, span_to_proto},
    v1,
};
use crate::{
    model::{Hold, Instance, InstanceKey, InstanceSpec, Port, Position, Revision},
    registry::{BatchRegister, Register},
};

/// What a record takes beside its owner's fields, more or less: lease, revisions, times.
const OUTPUT_BYTES: usize = 80;
/// What a header takes beside its names, more or less; and a position.
const HEADER_BYTES: usize = 64;
const POSITION_BYTES: usize = 32;
/// Where the length of the record stands in the bytes of the change that puts it: behind the kind and the record's key.
const RECORD_LENGTH_AT: usize = 3;

/// A message that is being written, field by field in the order of their numbers.
#[derive(Debug)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.0.into()
    }

    /// A number; 0 is left out.
    pub(super) fn number(&mut self, tag: u32, value: u64) {
        if value != 0 {
            self.number_or_zero(tag, value);
        }
    }

    /// A number of a field that may be unset: 0 is written.
    pub(super) fn number_or_zero(&mut self, tag: u32, value: u64) {
        encode_key(tag, WireType::Varint, &mut self.0);
        encode_varint(value, &mut self.0);
    }

    /// A text; an empty one is left out.
    pub(super) fn text(&mut self, tag: u32, text: &str) {
        if !text.is_empty() {
            self.block(tag, text.as_bytes());
        }
    }

    /// A message, a text or bytes, whatever their length.
    pub(super) fn block(&mut self, tag: u32, bytes: &[u8]) {
        encode_key(tag, WireType::LengthDelimited, &mut self.0);
        encode_varint(bytes.len() as u64, &mut self.0);
        self.0.put_slice(bytes);
    }

    /// A message within this one.
    pub(super) fn message(&mut self, tag: u32, write: impl FnOnce(&mut Self)) {
        encode_key(tag, WireType::LengthDelimited, &mut self.0);
        // Most lengths take one byte: the others are made room for once they are known.
        let at = self.0.len();
        self.0.push(0);
        write(self);
        let length = self.0.len() - at - 1;
        match u8::try_from(length) {
            Ok(short @ 0..0x80) => self.0[at] = short,
            _ => {
                let mut prefix = Vec::with_capacity(10);
                encode_varint(length as u64, &mut prefix);
                self.0.splice(at..=at, prefix);
            }
        }
    }

    /// Numbers, one behind the other; none is left out altogether.
    pub(super) fn packed(&mut self, tag: u32, numbers: impl ExactSizeIterator<Item = u64>) {
        if numbers.len() > 0 {
            self.message(tag, |list| {
                numbers.for_each(|number| encode_varint(number, &mut list.0));
            });
        }
    }

    /// `roster.internal.v1.Register`.
    pub(super) fn register(&mut self, register: &Register) {
        self.message(1, |instance| instance.spec(&register.instance));
        self.message(2, |hold| hold.hold(register.hold));
        if let Some(expected) = register.expected_mod_revision {
            self.number_or_zero(3, expected.0);
        }
    }

    /// `roster.internal.v1.BatchRegister`.
    pub(super) fn batch_register(&mut self, batch: &BatchRegister) {
        for spec in &batch.instances {
            self.message(1, |instance| instance.spec(spec));
        }
        self.message(2, |hold| hold.hold(batch.hold));
    }

    fn hold(&mut self, hold: Hold) {
        match hold {
            Hold::Own { ttl } => self.number_or_zero(1, ttl.as_ms()),
            Hold::Shared { lease_id } => self.number_or_zero(2, lease_id.0),
            Hold::Permanent => self.number_or_zero(3, 1),
        }
    }

    /// `roster.v1.Instance`, the owner's fields.
    fn spec(&mut self, spec: &InstanceSpec) {
        self.message(1, |key| key.key(&spec.key));
        self.text(2, &spec.address);
        for port in &spec.ports {
            self.message(3, |written| written.port(port));
        }
        self.number_or_zero(4, spec.weight.into());
        self.text(5, &spec.region);
        self.text(6, &spec.zone);
        self.text(7, &spec.version);
        for tag in &spec.tags {
            self.block(8, tag.as_bytes());
        }
        for (key, value) in &spec.metadata {
            self.message(9, |entry| {
                entry.text(1, key);
                entry.text(2, value);
            });
        }
        self.enumeration(10, status_to_proto(spec.status).into());
        self.number(11, spec.incarnation.0);
    }

    fn key(&mut self, key: &InstanceKey) {
        self.text(1, key.namespace.as_str());
        self.text(2, key.service.as_str());
        self.text(3, key.id.as_str());
    }

    fn port(&mut self, port: &Port) {
        self.text(1, &port.name);
        self.number(2, port.number.into());
        self.text(3, &port.protocol);
        self.text(4, &port.address);
    }

    /// `roster.v1.Instance`, whole.
    fn instance(&mut self, instance: &Instance) {
        self.spec(&instance.spec);
        if let Some((lease_id, ttl)) = instance.lease {
            self.number(20, lease_id.0);
            self.span(21, ttl.as_duration());
        }
        self.number(22, instance.create_revision.0);
        self.number(23, instance.mod_revision.0);
        for (tag, unix_ms) in [(24, instance.registered_at_ms), (25, instance.updated_at_ms)] {
            let instant = instant_to_proto(unix_ms);
            self.message(tag, |time| time.seconds_and_nanos(instant.seconds, instant.nanos));
        }
    }

    /// A text as it is shown.
    fn shown(&mut self, tag: u32, text: impl Display) {
        self.message(tag, |written| {
            write!(written.0, "{text}").expect("there is room in memory");
        });
    }

    fn span(&mut self, tag: u32, span: Duration) {
        let span = span_to_proto(span);
        self.message(tag, |written| written.seconds_and_nanos(span.seconds, span.nanos));
    }

    fn seconds_and_nanos(&mut self, seconds: i64, nanos: i32) {
        self.number(1, seconds.cast_unsigned());
        self.number(2, i64::from(nanos).cast_unsigned());
    }

    fn enumeration(&mut self, tag: u32, value: i32) {
        self.number(tag, i64::from(value).cast_unsigned());
    }
}

/// `roster.v1.Change`: a record is put, at its own revision. Holds the record's bytes ([`put_record`]).
pub(super) fn put_bytes(instance: &Instance) -> Bytes {
    let mut writer = Writer::with_capacity(instance.spec.encoded_bytes() + OUTPUT_BYTES);
    writer.enumeration(1, v1::change::Kind::Put.into());
    writer.message(2, |record| record.instance(instance));
    writer.number(5, instance.mod_revision.0);
    // It is kept as long as the record: without what the estimate was too large by.
    writer.0.into_boxed_slice().into()
}

/// The record within the bytes of the change that puts it.
pub(super) fn put_record(put: &Bytes) -> Bytes {
    let mut rest = &put[RECORD_LENGTH_AT..];
    let length = decode_varint(&mut rest).expect("a length was written there");
    let from = put.len() - rest.len();
    put.slice(from..from + usize::try_from(length).expect("as long as the bytes that hold it"))
}

/// `roster.v1.Change`: a record is put, of which the bytes are known.
pub(super) fn change_bytes(record: &[u8], revision: Revision) -> Bytes {
    let mut writer = Writer::with_capacity(record.len() + OUTPUT_BYTES);
    writer.enumeration(1, v1::change::Kind::Put.into());
    writer.block(2, record);
    writer.number(5, revision.0);
    writer.into_bytes()
}

/// `roster.v1.Change`: a record is removed.
pub(super) fn removal_bytes(key: &InstanceKey, reason: v1::change::Reason, revision: Revision) -> Bytes {
    let mut writer = Writer::with_capacity(OUTPUT_BYTES);
    writer.enumeration(1, v1::change::Kind::Remove.into());
    writer.message(3, |removed| removed.key(key));
    writer.enumeration(4, reason.into());
    writer.number(5, revision.0);
    writer.into_bytes()
}

/// `roster.v1.Header`.
pub(super) fn header_bytes(header: &Header<'_>) -> Bytes {
    let leader = header.leader.as_ref().map_or("", |leader| leader.as_str());
    let mut writer = Writer::with_capacity(header.node.as_str().len() + leader.len() + HEADER_BYTES);
    writer.shown(1, header.cluster_id);
    writer.text(2, header.node.as_str());
    writer.number(3, header.term.0);
    writer.number(4, header.revision.0);
    writer.number(5, header.stale.into());
    if let Some(age) = header.age {
        writer.span(6, age);
    }
    writer.text(7, leader);
    writer.into_bytes()
}

/// `roster.v1.Position`.
pub(super) fn position_bytes(position: Position) -> Bytes {
    let mut writer = Writer::with_capacity(POSITION_BYTES);
    writer.shown(1, position.cluster_id);
    writer.number(2, position.revision.0);
    writer.into_bytes()
}
