//! One number for all of an instance that must be equal on all nodes.

use roster::{model::Instance, wire::instance::instance_to_proto};
use sha2::{Digest as _, Sha256};

/// The first eight bytes, big-endian, of SHA-256 over the instance's protobuf form without its wall-clock times, but
/// with its metadata in order. Never 0: that says that there is no digest.
#[must_use]
pub fn digest(instance: &Instance) -> u64 {
    use prost::Message as _;
    let mut message = instance_to_proto(instance);
    (message.registered_at, message.updated_at) = (None, None);
    // A map of protobuf has no order of its own; the model's has.
    message.metadata.clear();
    let mut hash = Sha256::new_with_prefix(message.encode_to_vec());
    for (name, value) in &instance.spec.metadata {
        [name, value].into_iter().for_each(|text| feed(&mut hash, text));
    }
    number(hash)
}

/// Takes in a text, told from what comes before and after it.
pub(super) fn feed(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u64).to_be_bytes());
    hash.update(text);
}

/// The first eight bytes, big-endian, of the hash; never 0.
pub(super) fn number(hash: Sha256) -> u64 {
    let bytes = hash.finalize();
    let first = bytes
        .iter()
        .take(8)
        .fold(0, |number, byte| number << 8 | u64::from(*byte));
    first.max(1)
}
