//! The log's records: `roster.internal.v1.LogRecord`, `Entry` and `Command` to and from the registry's.
//!
//! ```text
//! LogRecord { term, leader_id, index, payload }     payload = Blank | Entry | Membership
//! Entry     { stamp_ns, wall_ms, renewal_deltas, commands }
//! ```
//!
//! Decoding is total: it checks names, ranges, the order of renewals and the size of batches. The limits of a single
//! record are not checked again (see [`super::instance`]).

use bytes::Bytes;
use prost::Message as _;

use super::{
    DecodeError,
    deltas::ids_to_deltas,
    field::{Fields, Path},
    instance::{Bounds, key_to_proto, spec_to_proto, status_to_proto},
    internal, v1,
    writer::Writer,
};
use crate::{
    model::{
        Hold, Incarnation, InstanceSpec, LeaseId, LeaseTime, LogIndex, NodeId, Revision, Term, Ttl, limits::BATCH_MAX,
    },
    registry::{BatchRegister, Command, Deregister, Entry, Register, Update},
};

/// What a Register takes beside its record, at the most: hold, expected revision, lengths.
const REGISTER_BYTES: usize = 48;
/// What an entry's record takes beside renewals and commands.
const ENTRY_BYTES: usize = 64;
/// What a command takes beside its bytes.
const FIELD_BYTES: usize = 5;

/// One record of the Raft log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogRecord {
    /// The term in which it was appended first.
    pub term: Term,
    /// The leader of that term.
    pub leader_id: NodeId,
    /// Where it stands.
    pub index: LogIndex,
    /// What it says.
    pub payload: LogPayload,
}

/// What a record of the log says.
#[derive(Clone, Debug, PartialEq)]
pub enum LogPayload {
    /// The first record of a term.
    Blank,
    /// What the registry applies.
    Entry(Entry),
    /// The cluster's configuration from here on; `raft` reads it.
    Membership(internal::Membership),
}

/// A record's bytes.
#[must_use]
pub fn encode_record(record: &LogRecord) -> Bytes {
    record_to_proto(record).encode_to_vec().into()
}

/// Reads a record's bytes.
///
/// # Errors
/// They are no record, or one that breaks the rules of the model.
pub fn decode_record(bytes: &[u8]) -> Result<LogRecord, DecodeError> {
    record_from_proto(internal::LogRecord::decode(bytes)?)
}

/// A record as it is written and sent.
#[must_use]
pub fn record_to_proto(record: &LogRecord) -> internal::LogRecord {
    use internal::log_record::Payload;
    let payload = match &record.payload {
        LogPayload::Blank => Payload::Blank(internal::Blank {}),
        LogPayload::Entry(entry) => Payload::Entry(entry_to_proto(entry)),
        LogPayload::Membership(membership) => Payload::Membership(membership.clone()),
    };
    internal::LogRecord {
        term: record.term.0,
        leader_id: record.leader_id.0,
        index: record.index.0,
        payload: Some(payload),
    }
}

/// Reads a record.
///
/// # Errors
/// It breaks the rules of the model.
pub fn record_from_proto(record: internal::LogRecord) -> Result<LogRecord, DecodeError> {
    use internal::log_record::Payload;
    let payload = match record.payload {
        Some(Payload::Blank(internal::Blank {})) => LogPayload::Blank,
        Some(Payload::Entry(entry)) => LogPayload::Entry(entry_from_proto(entry)?),
        Some(Payload::Membership(membership)) => LogPayload::Membership(membership),
        None => return Err(unset("payload")),
    };
    Ok(LogRecord {
        term: Term(record.term),
        leader_id: NodeId(record.leader_id),
        index: LogIndex(record.index),
        payload,
    })
}

pub(super) fn unset(field: &str) -> DecodeError {
    super::FieldErrors::one(
        &Path::Root.field(field),
        "is not set, or of a kind that this version does not know",
    )
    .into()
}

/// An entry as it is written and sent. Its renewals ascend, none twice.
#[must_use]
pub fn entry_to_proto(entry: &Entry) -> internal::Entry {
    internal::Entry {
        stamp_ns: entry.stamp.0,
        wall_ms: entry.wall_ms,
        renewal_deltas: ids_to_deltas(&entry.renewals),
        commands: entry.commands.iter().map(command_to_proto).collect(),
    }
}

/// Reads an entry.
///
/// # Errors
/// It breaks the rules of the model.
pub fn entry_from_proto(entry: internal::Entry) -> Result<Entry, DecodeError> {
    let entry = Fields::check(|fields| {
        let renewals = fields.lease_ids(&Path::Root.field("renewal_deltas"), &entry.renewal_deltas);
        let count = entry.commands.len();
        let mut commands = Vec::with_capacity(count);
        for (index, command) in entry.commands.into_iter().enumerate() {
            commands.extend(fields.command(&Path::Root.field("commands").item(index), command));
        }
        let commands = (commands.len() == count).then_some(commands);
        Some(Entry {
            stamp: LeaseTime(entry.stamp_ns),
            wall_ms: entry.wall_ms,
            renewals: renewals?,
            commands: commands?,
        })
    })?;
    Ok(entry)
}

/// A command as it is written and sent.
#[must_use]
pub fn command_to_proto(command: &Command) -> internal::Command {
    use internal::command::Command as Sent;
    let sent = match command {
        Command::Register(Register {
            instance,
            hold,
            expected_mod_revision,
        }) => Sent::Register(internal::Register {
            instance: Some(spec_to_proto(instance)),
            hold: Some(hold_to_proto(*hold)),
            expected_mod_revision: expected_mod_revision.map(|revision| revision.0),
        }),
        Command::BatchRegister(BatchRegister { instances, hold }) => Sent::BatchRegister(internal::BatchRegister {
            instances: instances.iter().map(spec_to_proto).collect(),
            hold: Some(hold_to_proto(*hold)),
        }),
        Command::Update(update) => Sent::Update(update_to_proto(update)),
        Command::Deregister(deregister) => Sent::Deregister(internal::Deregister {
            key: Some(key_to_proto(&deregister.key)),
            expected_mod_revision: deregister.expected_mod_revision.map(|revision| revision.0),
            incarnation: deregister.incarnation.0,
            lease_id: deregister.lease_id.map_or(0, |id| id.0),
        }),
        Command::GrantLease { lease_id, ttl } => Sent::GrantLease(internal::GrantLease {
            lease_id: lease_id.map_or(0, |id| id.0),
            ttl_ms: ttl.as_ms(),
        }),
        Command::RevokeLease { lease_id } => Sent::RevokeLease(internal::RevokeLease { lease_id: lease_id.0 }),
    };
    internal::Command { command: Some(sent) }
}

/// A command's bytes, as the log and forwarded calls carry them.
#[must_use]
pub fn command_to_bytes(command: &Command) -> Bytes {
    match command {
        Command::Register(register) => {
            let mut writer = Writer::with_capacity(REGISTER_BYTES + register.instance.encoded_bytes());
            writer.message(1, |message| message.register(register));
            writer.into_bytes()
        }
        Command::BatchRegister(batch) => {
            let specs = batch.instances.iter().map(InstanceSpec::encoded_bytes);
            let mut writer = Writer::with_capacity(specs.map(|bytes| bytes + REGISTER_BYTES).sum());
            writer.message(2, |message| message.batch_register(batch));
            writer.into_bytes()
        }
        command => command_to_proto(command).encode_to_vec().into(),
    }
}

/// Reads a command's bytes.
///
/// # Errors
/// They are no command, or one that breaks the rules of the model.
pub fn command_from_bytes(bytes: &[u8]) -> Result<Command, DecodeError> {
    command_from_proto(internal::Command::decode(bytes)?)
}

/// The bytes of an entry's record, from those of its commands.
#[must_use]
pub fn entry_record(term: Term, index: LogIndex, entry: &Entry, commands: &[Bytes]) -> Bytes {
    let bytes: usize = commands.iter().map(|command| command.len() + FIELD_BYTES).sum();
    let mut writer = Writer::with_capacity(ENTRY_BYTES + bytes + entry.renewals.len());
    writer.number(1, term.0);
    writer.number(3, index.0);
    writer.message(5, |message| {
        message.number(1, entry.stamp.0);
        message.number(2, entry.wall_ms);
        message.packed(3, ids_to_deltas(&entry.renewals).into_iter());
        for command in commands {
            message.block(4, command);
        }
    });
    writer.into_bytes()
}

/// Reads a command.
///
/// # Errors
/// It breaks the rules of the model.
pub fn command_from_proto(command: internal::Command) -> Result<Command, DecodeError> {
    Ok(Fields::check(|fields| fields.command(&Path::Root, command))?)
}

fn hold_to_proto(hold: Hold) -> internal::Hold {
    use internal::hold::Hold as Sent;
    let hold = match hold {
        Hold::Own { ttl } => Sent::OwnTtlMs(ttl.as_ms()),
        Hold::Shared { lease_id } => Sent::LeaseId(lease_id.0),
        Hold::Permanent => Sent::Permanent(true),
    };
    internal::Hold { hold: Some(hold) }
}

fn update_to_proto(update: &Update) -> internal::Update {
    internal::Update {
        key: Some(key_to_proto(&update.key)),
        status: update
            .status
            .map_or(v1::instance::Status::Unspecified, status_to_proto)
            .into(),
        weight: update.weight,
        version: update.version.clone(),
        add_tags: update.add_tags.iter().cloned().collect(),
        remove_tags: update.remove_tags.iter().cloned().collect(),
        set_metadata: update.set_metadata.clone(),
        remove_metadata: update.remove_metadata.iter().cloned().collect(),
        expected_mod_revision: update.expected_mod_revision.map(|revision| revision.0),
        incarnation: update.incarnation.0,
    }
}

impl Fields {
    fn command(&mut self, path: &Path<'_>, command: internal::Command) -> Option<Command> {
        use internal::command::Command as Sent;
        match self.required(path, command.command)? {
            Sent::Register(register) => {
                let path = path.field("register");
                let instance = self.written_spec(&path.field("instance"), register.instance);
                let hold = self.hold(&path.field("hold"), register.hold);
                Some(Command::Register(Register {
                    instance: instance?,
                    hold: hold?,
                    expected_mod_revision: register.expected_mod_revision.map(Revision),
                }))
            }
            Sent::BatchRegister(batch) => self
                .batch(&path.field("batch_register"), batch)
                .map(Command::BatchRegister),
            Sent::Update(update) => self.update(&path.field("update"), update).map(Command::Update),
            Sent::Deregister(deregister) => {
                let key = self.key(&path.field("deregister").field("key"), deregister.key);
                Some(Command::Deregister(Deregister {
                    key: key?,
                    expected_mod_revision: deregister.expected_mod_revision.map(Revision),
                    incarnation: Incarnation(deregister.incarnation),
                    lease_id: some_lease(deregister.lease_id),
                }))
            }
            Sent::GrantLease(grant) => {
                let ttl = self.accept(&path.field("grant_lease").field("ttl_ms"), Ttl::from_ms(grant.ttl_ms));
                Some(Command::GrantLease {
                    lease_id: some_lease(grant.lease_id),
                    ttl: ttl?,
                })
            }
            Sent::RevokeLease(revoke) => Some(Command::RevokeLease {
                lease_id: LeaseId(revoke.lease_id),
            }),
        }
    }

    fn batch(&mut self, path: &Path<'_>, batch: internal::BatchRegister) -> Option<BatchRegister> {
        let instances_path = path.field("instances");
        self.at_most(&instances_path, batch.instances.len(), BATCH_MAX)?;
        let count = batch.instances.len();
        let mut instances = Vec::with_capacity(count);
        for (index, instance) in batch.instances.into_iter().enumerate() {
            instances.extend(self.written_spec(&instances_path.item(index), Some(instance)));
        }
        let hold = match self.hold(&path.field("hold"), batch.hold) {
            Some(Hold::Own { .. }) => self.refuse(&path.field("hold"), "must not be a lease of its own in a batch"),
            hold => hold,
        };
        let instances = (instances.len() == count).then_some(instances);
        Some(BatchRegister {
            instances: instances?,
            hold: hold?,
        })
    }

    fn update(&mut self, path: &Path<'_>, update: internal::Update) -> Option<Update> {
        let key = self.key(&path.field("key"), update.key);
        let status = self.status(&path.field("status"), update.status);
        let weight = match update.weight {
            None => Some(None),
            Some(weight) => self.weight(&path.field("weight"), weight).map(Some),
        };
        Some(Update {
            key: key?,
            status: status?,
            weight: weight?,
            version: update.version,
            add_tags: update.add_tags.into_iter().collect(),
            remove_tags: update.remove_tags.into_iter().collect(),
            set_metadata: update.set_metadata,
            remove_metadata: update.remove_metadata.into_iter().collect(),
            expected_mod_revision: update.expected_mod_revision.map(Revision),
            incarnation: Incarnation(update.incarnation),
        })
    }

    fn hold(&mut self, path: &Path<'_>, hold: Option<internal::Hold>) -> Option<Hold> {
        use internal::hold::Hold as Sent;
        match self.required(path, hold.and_then(|hold| hold.hold))? {
            Sent::OwnTtlMs(ms) => self
                .accept(&path.field("own_ttl_ms"), Ttl::from_ms(ms))
                .map(|ttl| Hold::Own { ttl }),
            Sent::LeaseId(0) => self.refuse(&path.field("lease_id"), "must not be 0"),
            Sent::LeaseId(id) => Some(Hold::Shared { lease_id: LeaseId(id) }),
            Sent::Permanent(permanent) => self
                .chosen(&path.field("permanent"), permanent)
                .map(|()| Hold::Permanent),
        }
    }

    fn written_spec(&mut self, path: &Path<'_>, instance: Option<v1::Instance>) -> Option<InstanceSpec> {
        let instance = self.required(path, instance)?;
        self.spec(path, instance, Bounds::Types)
    }
}

fn some_lease(id: u64) -> Option<LeaseId> {
    (id > 0).then_some(LeaseId(id))
}
