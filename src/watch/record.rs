//! A change as history and queues share it: made once, weighed once.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use super::hub::View;
use crate::{
    model::{Instance, InstanceKey, Revision},
    registry::Change,
};

/// What a record's fields and their tags take on the wire beside the texts: numbers, times, lease.
const FIXED_BYTES: usize = 64;
/// What the tag and the length of one text take.
const TEXT_OVERHEAD_BYTES: usize = 3;

/// One published change.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) change: Change,
    /// For a change that a snapshot install brought: the version that it leads from, for between the two no revision is
    /// known here. `None` = it leads from the revision before its own.
    pub(super) since: Option<Arc<View>>,
    /// Of its key: changes with different ones are of different instances.
    pub(super) key_hash: u32,
    /// What it weighs in a queue as a put. (There are many records: 32 bits are enough for one's bytes.)
    put_bytes: u32,
    /// What it weighs in a queue as a removal.
    remove_bytes: u32,
    /// What it weighs in the history.
    history_bytes: u32,
}

impl Record {
    pub(super) fn new(change: Change, since: Option<Arc<View>>) -> Self {
        let put_bytes = change.after.as_deref().map_or(0, instance_bytes);
        let before_bytes = change.before.as_deref().map_or(0, instance_bytes);
        let remove_bytes = FIXED_BYTES + key_bytes(change.key());
        let mut hasher = DefaultHasher::new();
        change.key().hash(&mut hasher);
        Self {
            since,
            key_hash: high_half(hasher.finish()),
            put_bytes: short(put_bytes),
            remove_bytes: short(remove_bytes),
            history_bytes: short(remove_bytes + put_bytes + before_bytes),
            change,
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.change.revision
    }

    pub(super) fn key(&self) -> &InstanceKey {
        self.change.key()
    }

    /// Through where a watcher is complete that has everything before this change.
    pub(super) fn base(&self) -> Revision {
        self.since.as_ref().map_or_else(
            || Revision(self.revision().0.saturating_sub(1)),
            |older| older.state.revision(),
        )
    }

    pub(super) fn queue_bytes(&self, put: bool) -> usize {
        long(if put { self.put_bytes } else { self.remove_bytes })
    }

    /// What it weighs in the history, which may be the last to hold a record's former side.
    pub(super) fn history_bytes(&self) -> usize {
        long(self.history_bytes)
    }
}

fn high_half(hash: u64) -> u32 {
    u32::try_from(hash >> 32).expect("32 bits are left")
}

/// A record's bytes, of which there are at most as many as a message has.
fn short(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn long(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A record's encoded length; what it will be about, when nobody has encoded it yet.
fn instance_bytes(instance: &Instance) -> usize {
    if let Some(encoded) = instance.encoded.get() {
        return encoded.len();
    }
    let spec = &instance.spec;
    let text = |text: &str| {
        if text.is_empty() {
            0
        } else {
            text.len() + TEXT_OVERHEAD_BYTES
        }
    };
    let ports = spec.ports.iter().map(|port| {
        // A port is a message of its own, with its number in up to four bytes.
        2 * TEXT_OVERHEAD_BYTES + text(&port.name) + text(&port.protocol) + text(&port.address)
    });
    let metadata = spec
        .metadata
        .iter()
        .map(|(key, value)| TEXT_OVERHEAD_BYTES + text(key) + text(value));
    FIXED_BYTES
        + key_bytes(&spec.key)
        + text(&spec.address)
        + text(&spec.region)
        + text(&spec.zone)
        + text(&spec.version)
        + ports.sum::<usize>()
        + spec.tags.iter().map(|tag| text(tag)).sum::<usize>()
        + metadata.sum::<usize>()
}

fn key_bytes(key: &InstanceKey) -> usize {
    key.namespace.as_str().len() + key.service.as_str().len() + key.id.as_str().len() + 3 * TEXT_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::sample;

    #[test]
    fn an_encoded_record_weighs_what_it_takes_on_the_wire() {
        let change = sample::put(7, "web", "a", "z1");
        let encoded = bytes::Bytes::from_static(&[0; 1234]);
        change.after.as_ref().unwrap().encoded.set(encoded).unwrap();
        assert_eq!(Record::new(change, None).queue_bytes(true), 1234);
    }

    #[test]
    fn a_record_that_nobody_encoded_is_estimated_by_its_texts() {
        let mut spec = sample::spec("web", "a", "z1");
        let lean = instance_bytes(&sample::instance(spec.clone(), 1));
        spec.metadata.insert("key", "v".repeat(1000));
        let fat = instance_bytes(&sample::instance(spec, 1));
        assert!((fat - lean).abs_diff(1003) < 16, "{lean} {fat}");
    }

    #[test]
    fn a_removal_weighs_little_in_a_queue_and_its_record_in_the_history() {
        let mut spec = sample::spec("web", "a", "z1");
        spec.metadata.insert("key", "v".repeat(1000));
        let removal = Change {
            revision: Revision(8),
            before: Some(Arc::new(sample::instance(spec, 1))),
            after: None,
            reason: None,
        };
        let record = Record::new(removal, None);
        assert!(record.queue_bytes(false) < 200);
        assert!(record.history_bytes() > 1000);
        assert_eq!(record.base(), Revision(7));
    }
}
