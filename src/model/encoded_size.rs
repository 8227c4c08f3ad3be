//! How large a record is in the API's encoding, without encoding it: the state machine must refuse a record that grew too
//! large, and it knows no encoding.

use super::InstanceSpec;

/// How many bytes the owner's fields take in the API's encoding (protobuf): every field has a number below 16, hence a
/// key of one byte; empty texts are left out; the weight is always written.
pub(super) fn of_spec(spec: &InstanceSpec) -> usize {
    let key = [
        spec.key.namespace.as_str(),
        spec.key.service.as_str(),
        spec.key.id.as_str(),
    ];
    let texts = [&spec.address, &spec.region, &spec.zone, &spec.version];
    let ports = spec.ports.iter().map(|port| {
        let texts = [&port.name, &port.protocol, &port.address];
        let texts: usize = texts.into_iter().map(|text| text_len(text)).sum();
        block_len(texts + 1 + varint_len(u64::from(port.number)))
    });
    let entries = spec.metadata.iter();
    let metadata = entries.map(|(key, value)| block_len(text_len(key) + text_len(value)));
    block_len(key.into_iter().map(text_len).sum())
        + texts.into_iter().map(|text| text_len(text)).sum::<usize>()
        + ports.sum::<usize>()
        + spec.tags.iter().map(|tag| block_len(tag.len())).sum::<usize>()
        + metadata.sum::<usize>()
        + (1 + varint_len(u64::from(spec.weight)))
        + 2 // status
        + if spec.incarnation.0 == 0 { 0 } else { 1 + varint_len(spec.incarnation.0) }
}

/// A text of its own field.
fn text_len(text: &str) -> usize {
    if text.is_empty() { 0 } else { block_len(text.len()) }
}

/// A field that says its length.
fn block_len(bytes: usize) -> usize {
    1 + varint_len(bytes as u64) + bytes
}

fn varint_len(value: u64) -> usize {
    let bits = (64 - value.leading_zeros()).max(1);
    bits.div_ceil(7) as usize
}
