//! Records of the log, and the entries and commands in them: what is taken is written as it was read.

use prost::Message as _;
use roster::{
    model::{Hold, LeaseId, LeaseTime, LogIndex, NodeId, Revision, Term, Ttl, limits::BATCH_MAX},
    registry::{BatchRegister, Command, Deregister, Entry, Register, Update},
    wire::{
        internal,
        log::{LogPayload, LogRecord, decode_record, encode_record},
    },
};

use super::{Verdict, sample};

pub(crate) fn run(bytes: &[u8]) -> Verdict {
    let record = decode_record(bytes);
    if let Ok(record) = &record {
        let written = encode_record(record);
        assert_eq!(decode_record(&written).expect("a record reads back"), *record);
        if let LogPayload::Entry(entry) = &record.payload {
            check(entry);
        }
    }
    Verdict::of(&record)
}

/// What apply takes for granted of an entry.
pub(crate) fn check(entry: &Entry) {
    assert!(entry.renewals.is_sorted_by(|a, b| a < b));
    assert!(entry.renewals.iter().all(|id| id.0 > 0 && i64::try_from(id.0).is_ok()));
    for command in &entry.commands {
        if let Command::BatchRegister(batch) = command {
            assert!(batch.instances.len() <= BATCH_MAX);
            assert!(!matches!(batch.hold, Hold::Own { .. }));
        }
    }
}

/// An entry with every command.
pub(crate) fn entry() -> Entry {
    let spec = |id| sample::spec("web", id);
    let lease_id = LeaseId(LeaseId::FIRST_OF_CALLERS.0 + 1);
    let update = Update {
        key: sample::key("web", "1"),
        status: None,
        weight: Some(3),
        version: Some("v".into()),
        add_tags: ["t".to_owned()].into(),
        remove_tags: ["blue".to_owned()].into(),
        set_metadata: [("k".to_owned(), "v".to_owned())].into(),
        remove_metadata: ["team".to_owned()].into(),
        expected_mod_revision: None,
        incarnation: spec("1").incarnation,
    };
    Entry {
        stamp: LeaseTime(5_000_000_000),
        wall_ms: 1_763_000_000_000,
        renewals: vec![LeaseId(1), LeaseId(700), lease_id],
        commands: vec![
            Command::GrantLease {
                lease_id: Some(lease_id),
                ttl: Ttl::DEFAULT,
            },
            Command::Register(Register {
                instance: spec("1"),
                hold: Hold::Own { ttl: Ttl::DEFAULT },
                expected_mod_revision: Some(Revision(0)),
            }),
            Command::BatchRegister(BatchRegister {
                instances: vec![spec("2"), spec("3")],
                hold: Hold::Shared { lease_id },
            }),
            Command::Update(update),
            Command::Deregister(Deregister {
                key: sample::key("web", "2"),
                expected_mod_revision: None,
                incarnation: spec("2").incarnation,
                lease_id: Some(lease_id),
            }),
            Command::RevokeLease { lease_id },
        ],
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let membership = internal::Membership {
        configs: vec![internal::VoterSet {
            node_ids: vec![1, 2, 3],
        }],
        nodes: Vec::new(),
    };
    [
        LogPayload::Blank,
        LogPayload::Entry(entry()),
        LogPayload::Membership(membership),
    ]
    .into_iter()
    .map(|payload| {
        let record = LogRecord {
            term: Term(3),
            leader_id: NodeId(1),
            index: LogIndex(44),
            payload,
        };
        encode_record(&record).to_vec()
    })
    .chain([internal::LogRecord {
        payload: Some(internal::log_record::Payload::Entry(internal::Entry::default())),
        ..internal::LogRecord::default()
    }
    .encode_to_vec()])
    .collect()
}
