//! From a history's log records to the registry's entries, and from commands to what a client would have asked.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use roster::{
    model::{
        Hold, Incarnation, InstanceId, InstanceKey, InstanceSpec, LeaseId, LeaseTime, Namespace, Revision, ServiceName,
        Status, Tags, Text, Ttl,
    },
    registry::{BatchRegister, Command, Deregister, Entry, Register, Update},
    wire::{internal, log::entry_from_proto},
};

use crate::history::{self, MARK, Mark, Request};

/// Reads an entry, however it stands in the history.
///
/// # Errors
/// Says what is wrong with it.
pub fn entry(entry: &history::Entry) -> Result<Entry, String> {
    if let Some(encoded) = &entry.encoded {
        let bytes = from_hex(encoded).ok_or("it is no hex")?;
        let entry = internal::Entry::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
        return entry_from_proto(entry).map_err(|error| error.to_string());
    }
    let mut renewals: Vec<LeaseId> = entry.renewals.iter().map(|id| LeaseId(id.unsigned_abs())).collect();
    renewals.sort_unstable();
    renewals.dedup();
    let commands = entry.commands.iter().map(command).collect::<Result<_, _>>()?;
    Ok(Entry {
        stamp: LeaseTime(entry.stamp_ns),
        wall_ms: 0,
        renewals,
        commands,
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let bytes = (0..text.len()).step_by(2);
    bytes.map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// A command of a history that was written by hand: what it does not say is as plain as can be.
fn command(request: &Request) -> Result<Command, String> {
    Ok(match request {
        Request::Register {
            key,
            incarnation,
            hold,
            mark,
            expected,
        } => Command::Register(Register {
            instance: spec(key, *incarnation, mark)?,
            hold: hold_to_model(*hold)?,
            expected_mod_revision: expected.map(revision),
        }),
        Request::BatchRegister {
            keys,
            incarnation,
            hold,
            mark,
        } => Command::BatchRegister(BatchRegister {
            instances: keys
                .iter()
                .map(|key| spec(key, *incarnation, mark))
                .collect::<Result<_, _>>()?,
            hold: hold_to_model(*hold)?,
        }),
        Request::Update {
            key,
            incarnation,
            mark,
            expected,
        } => Command::Update(Update {
            key: parse_key(key)?,
            status: None,
            weight: None,
            version: None,
            add_tags: BTreeSet::new(),
            remove_tags: BTreeSet::new(),
            set_metadata: marked(mark),
            remove_metadata: BTreeSet::new(),
            expected_mod_revision: expected.map(revision),
            incarnation: Incarnation(incarnation.unsigned_abs()),
        }),
        Request::Deregister {
            key,
            incarnation,
            expected,
        } => Command::Deregister(Deregister {
            key: parse_key(key)?,
            expected_mod_revision: expected.map(revision),
            incarnation: Incarnation(incarnation.unsigned_abs()),
            lease_id: None,
        }),
        Request::Grant { lease, ttl_ms } => Command::GrantLease {
            lease_id: Some(LeaseId(lease.unsigned_abs())),
            ttl: ttl(*ttl_ms)?,
        },
        Request::Revoke { lease } => Command::RevokeLease {
            lease_id: LeaseId(lease.unsigned_abs()),
        },
        Request::Renew { .. } | Request::Get { .. } | Request::List { .. } | Request::Overview { .. } => {
            return Err("a read or a renewal is no command".into());
        }
    })
}

fn revision(revision: i64) -> Revision {
    Revision(revision.unsigned_abs())
}

fn marked(mark: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(MARK.to_owned(), mark.to_owned())])
}

fn ttl(ms: u64) -> Result<Ttl, String> {
    Ttl::from_ms(ms).map_err(|error| error.to_string())
}

fn hold_to_model(hold: history::Hold) -> Result<Hold, String> {
    Ok(match hold {
        history::Hold::Own { ttl_ms } => Hold::Own { ttl: ttl(ttl_ms)? },
        history::Hold::Lease(lease) => Hold::Shared {
            lease_id: LeaseId(lease.unsigned_abs()),
        },
        history::Hold::Permanent => Hold::Permanent,
    })
}

fn spec(key: &str, incarnation: i64, mark: &str) -> Result<InstanceSpec, String> {
    Ok(InstanceSpec {
        key: parse_key(key)?,
        address: Default::default(),
        ports: Box::default(),
        weight: 100,
        region: Default::default(),
        zone: Default::default(),
        version: Default::default(),
        tags: Tags::new(),
        metadata: marked(mark).into(),
        status: Status::Up,
        incarnation: Incarnation(incarnation.unsigned_abs()),
    })
}

fn parse_key(text: &str) -> Result<InstanceKey, String> {
    let parts: Vec<&str> = text.splitn(3, '/').collect();
    let [namespace, service, id] = parts[..] else {
        return Err(format!("{text:?} is no key: namespace/service/id"));
    };
    let wrong = |error: roster::model::NameError| format!("{text:?}: {error}");
    Ok(InstanceKey::new(
        Namespace::parse(namespace).map_err(wrong)?,
        ServiceName::parse(service).map_err(wrong)?,
        InstanceId::parse(id).map_err(wrong)?,
    ))
}

/// What a client asked that became this command.
#[must_use]
pub fn command_to_request(command: &Command) -> Request {
    let mark = |spec: &InstanceSpec| -> Mark { spec.metadata.get(MARK).map(Text::to_string).unwrap_or_default() };
    let expected = |revision: Option<Revision>| revision.map(Revision::as_i64);
    match command {
        Command::Register(register) => Request::Register {
            key: register.instance.key.to_string(),
            incarnation: register.instance.incarnation.as_i64(),
            hold: hold_from_model(register.hold),
            mark: mark(&register.instance),
            expected: expected(register.expected_mod_revision),
        },
        Command::BatchRegister(batch) => Request::BatchRegister {
            keys: batch.instances.iter().map(|spec| spec.key.to_string()).collect(),
            incarnation: batch.instances.first().map_or(0, |spec| spec.incarnation.as_i64()),
            hold: hold_from_model(batch.hold),
            mark: batch.instances.first().map(mark).unwrap_or_default(),
        },
        Command::Update(update) => Request::Update {
            key: update.key.to_string(),
            incarnation: update.incarnation.as_i64(),
            mark: update.set_metadata.get(MARK).cloned().unwrap_or_default(),
            expected: expected(update.expected_mod_revision),
        },
        Command::Deregister(deregister) => Request::Deregister {
            key: deregister.key.to_string(),
            incarnation: deregister.incarnation.as_i64(),
            expected: expected(deregister.expected_mod_revision),
        },
        Command::GrantLease { lease_id, ttl } => Request::Grant {
            lease: lease_id.map_or(0, LeaseId::as_i64),
            ttl_ms: ttl.as_ms(),
        },
        Command::RevokeLease { lease_id } => Request::Revoke {
            lease: lease_id.as_i64(),
        },
    }
}

fn hold_from_model(hold: Hold) -> history::Hold {
    match hold {
        Hold::Own { ttl } => history::Hold::Own { ttl_ms: ttl.as_ms() },
        Hold::Shared { lease_id } => history::Hold::Lease(lease_id.as_i64()),
        Hold::Permanent => history::Hold::Permanent,
    }
}
