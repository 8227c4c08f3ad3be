//! The witness: what each node committed, from its simulated disk.

use std::time::Duration;

use prost::Message as _;
use roster::{
    registry::State,
    wire::{
        log::{self, LogPayload},
        snapshot::write_item,
    },
};
use sha2::{Digest as _, Sha256};

use super::member::Machine;
use crate::{
    history::{Entry, Event, NodeHash, NodeLog, Payload, Sample},
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

/// Records what every node that runs says of itself, and the hash of its content.
pub(super) fn sample(machines: &[Machine], now: Duration, recorder: &Recorder) {
    let at = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    for machine in machines {
        let Some(running) = machine.running() else { continue };
        let (status, view) = (running.node.raft().status(), running.node.hub().view());
        let leader = status
            .leader
            .and_then(|id| machine.founders.iter().find(|member| member.node_id == id));
        recorder.record(Event::Sample(Sample {
            node: machine.name.clone(),
            sent: at,
            ended: at,
            // A term that is not on the disk yet may be forgotten.
            term: machine
                .disk
                .vote()
                .map_or(0, |vote| i64::try_from(vote.term).unwrap_or(i64::MAX)),
            leader: leader.map(|member| member.name.to_string()).unwrap_or_default(),
            revision: view.state.revision().as_i64(),
            log_index: i64::try_from(status.last_log_index.0).unwrap_or(i64::MAX),
            applied_index: i64::try_from(view.applied.0).unwrap_or(i64::MAX),
            life: u32::try_from(running.life).unwrap_or(u32::MAX),
        }));
        recorder.record(Event::StateHash(NodeHash {
            node: machine.name.clone(),
            applied_index: view.applied.0,
            revision: view.state.revision().as_i64(),
            hash: hex(&content_hash(&view.state)),
        }));
    }
}

/// What GetStateHash answers.
fn content_hash(state: &State) -> Vec<u8> {
    let mut content = Vec::new();
    for item in state.items() {
        write_item(&mut content, &item).expect("a vector takes every byte");
    }
    Sha256::digest(&content).to_vec()
}

/// Whether a record is a client's: neither a new leader's first one, nor a stamp that only tells the time.
pub(super) fn has_command(record: &[u8]) -> bool {
    let payload = log::decode_record(record).map(|record| record.payload);
    matches!(payload, Ok(LogPayload::Entry(entry)) if !entry.commands.is_empty())
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
