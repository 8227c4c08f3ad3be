//! How large a command is in the log, near enough to keep entries below their limit.

use crate::{
    model::InstanceKey,
    registry::{BatchRegister, Command, Deregister, Register, Update},
};

/// What a field costs beside its text.
const FIELD_BYTES: usize = 4;

/// The command's encoded size in bytes: an estimate that is never much too small.
pub(super) fn command_bytes(command: &Command) -> usize {
    match command {
        Command::Register(Register { instance, .. }) => 32 + instance.encoded_bytes(),
        Command::BatchRegister(BatchRegister { instances, .. }) => {
            32 + instances
                .iter()
                .map(|instance| FIELD_BYTES + instance.encoded_bytes())
                .sum::<usize>()
        }
        Command::Update(Update {
            key,
            version,
            add_tags,
            remove_tags,
            set_metadata,
            remove_metadata,
            ..
        }) => {
            let texts = add_tags.iter().chain(remove_tags).chain(remove_metadata).chain(version);
            64 + key_bytes(key)
                + texts.map(|text| FIELD_BYTES + text.len()).sum::<usize>()
                + set_metadata
                    .iter()
                    .map(|(k, v)| 3 * FIELD_BYTES + k.len() + v.len())
                    .sum::<usize>()
        }
        Command::Deregister(Deregister { key, .. }) => 48 + key_bytes(key),
        Command::GrantLease { .. } | Command::RevokeLease { .. } => 32,
    }
}

fn key_bytes(key: &InstanceKey) -> usize {
    4 * FIELD_BYTES + key.namespace.as_str().len() + key.service.as_str().len() + key.id.as_str().len()
}
