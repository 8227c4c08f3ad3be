//! The witness: what each node committed, from its simulated disk.

use prost::Message as _;
use roster::wire::log::{self, LogPayload};

use super::member::Machine;
use crate::{
    history::{Entry, Event, NodeLog, Payload},
    recorder::Recorder,
};

/// Records every committed record that a node has or had, purged ones too.
pub(super) fn dump(machines: &[Machine], recorder: &Recorder) {
    for machine in machines {
        let Some(running) = machine.running() else { continue };
        // What is committed and not applied yet may be about to make way for a snapshot.
        let applied = running.node.raft().status().applied_index;
        for (index, bytes) in machine.disk.archive(applied.0) {
            let record = match log::decode_record(&bytes) {
                Ok(record) => record,
                Err(error) => panic!("{} wrote a record at {index} that can't be read: {error}", machine.name),
            };
            let payload = match record.payload {
                LogPayload::Blank => Payload::Blank,
                LogPayload::Membership(_) => Payload::Membership,
                LogPayload::Entry(entry) => Payload::Entry(Entry {
                    stamp_ns: entry.stamp.0,
                    encoded: Some(hex(&log::entry_to_proto(&entry).encode_to_vec())),
                    ..Entry::default()
                }),
            };
            recorder.record(Event::Log(NodeLog {
                node: machine.name.clone(),
                index,
                term: record.term.0,
                payload,
            }));
        }
    }
}

/// Bytes in hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes every text");
            text
        })
}
