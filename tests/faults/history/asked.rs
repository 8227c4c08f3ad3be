//! One number for what a write asks for, made from what the client sends and from what the log holds, by two ways that
//! share nothing but this file: so a field that is lost or changed between the two is seen.

use roster::{
    model::InstanceSpec,
    registry::{Command, Update},
};
use sha2::{Digest as _, Sha256};

use super::digest::{feed, number};

/// A part of what is asked for: its name, and what it is to be.
pub type Part = (&'static str, String);

/// The first eight bytes, big-endian, of SHA-256 over the parts of each instance, in order of their names. Never 0: that
/// says that nothing was recorded.
#[must_use]
pub fn asked(instances: impl IntoIterator<Item = Vec<Part>>) -> u64 {
    let mut hash = Sha256::new();
    for mut parts in instances {
        parts.sort_unstable();
        hash.update((parts.len() as u64).to_be_bytes());
        for text in parts.iter().flat_map(|(name, value)| [*name, value.as_str()]) {
            feed(&mut hash, text);
        }
    }
    number(hash)
}

/// The same of a command of the log; 0 = of none that has it.
#[must_use]
pub fn asked_by(command: &Command) -> u64 {
    match command {
        Command::Register(register) => asked([of_instance(&register.instance)]),
        Command::BatchRegister(batch) => asked(batch.instances.iter().map(of_instance)),
        Command::Update(update) => asked([of_update(update)]),
        Command::Deregister(_) | Command::GrantLease { .. } | Command::RevokeLease { .. } => 0,
    }
}

fn of_instance(spec: &InstanceSpec) -> Vec<Part> {
    let mut parts = vec![
        ("key", spec.key.to_string()),
        ("address", spec.address.to_string()),
        ("weight", spec.weight.to_string()),
        ("region", spec.region.to_string()),
        ("zone", spec.zone.to_string()),
        ("version", spec.version.to_string()),
        ("status", spec.status.name().to_owned()),
        ("incarnation", spec.incarnation.0.to_string()),
    ];
    parts.extend(spec.ports.iter().map(|port| ("port", format!("{port:?}"))));
    parts.extend(spec.tags.iter().map(|tag| ("tag", tag.to_string())));
    parts.extend(
        spec.metadata
            .iter()
            .map(|(name, value)| ("metadata", format!("{name}={value}"))),
    );
    parts
}

fn of_update(update: &Update) -> Vec<Part> {
    let mut parts = vec![
        ("key", update.key.to_string()),
        ("incarnation", update.incarnation.0.to_string()),
    ];
    parts.extend(update.status.map(|it| ("status", it.name().to_owned())));
    parts.extend(update.weight.map(|weight| ("weight", weight.to_string())));
    parts.extend(update.version.clone().map(|version| ("version", version)));
    parts.extend(update.add_tags.iter().map(|tag| ("add tag", tag.clone())));
    parts.extend(update.remove_tags.iter().map(|tag| ("remove tag", tag.clone())));
    parts.extend(
        update
            .set_metadata
            .iter()
            .map(|(name, value)| ("metadata", format!("{name}={value}"))),
    );
    parts.extend(
        update
            .remove_metadata
            .iter()
            .map(|name| ("remove metadata", name.clone())),
    );
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_number_for_the_same_parts_in_any_order_and_another_for_others() {
        let part = |name, value: &str| (name, value.to_owned());
        let one = asked([vec![part("zone", "a"), part("weight", "1")]]);
        assert_eq!(asked([vec![part("weight", "1"), part("zone", "a")]]), one);
        assert_ne!(asked([vec![part("weight", "1")]]), one);
        assert_ne!(asked([vec![part("weight", "1"), part("zone", "b")]]), one);
        assert_ne!(asked([vec![part("zone", "a")], vec![part("weight", "1")]]), one);
    }
}
