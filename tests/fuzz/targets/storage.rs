//! What lies on the disk, read as a start reads it: the identity, a value of the database, a snapshot's file, the
//! write-ahead log. What was damaged is never taken for what was written.

use std::{fs::File, io::Read as _, os::unix::fs::FileExt as _, sync::Arc};

use roster::model::{ClusterId, NodeId, NodeName};

use super::{Verdict, input::Input};

#[path = "../../../src/storage/durable.rs"]
#[allow(dead_code, reason = "mounted as it is")]
mod durable;
#[path = "../../../src/storage/error.rs"]
#[allow(dead_code, unreachable_pub, reason = "mounted as it is")]
mod error;
#[path = "../../../src/storage/identity.rs"]
#[allow(unreachable_pub, reason = "mounted as it is")]
mod identity;
#[path = "../../../src/storage/record.rs"]
#[allow(dead_code, unreachable_pub, reason = "mounted as it is")]
mod record;
#[path = "../../../src/storage/snapshot_file.rs"]
#[allow(dead_code, unreachable_pub, reason = "mounted as it is")]
mod snapshot_file;
#[path = "../../../src/storage/wal.rs"]
#[allow(dead_code, reason = "mounted as it is")]
mod wal;

use identity::Identity;
use snapshot_file::{FOOTER_BYTES, Footer, SnapshotFile};

/// The first byte of an identity that is to get a right checksum before it is read, or damage finds nothing else.
const UNSUMMED: u8 = 0;

pub(crate) fn run_identity(bytes: &[u8]) -> Verdict {
    let text = match bytes.split_first() {
        Some((&UNSUMMED, body)) => durable::with_checksum(String::from_utf8_lossy(body).into_owned()),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    };
    let read = Identity::from_text(&text);
    if let Ok(identity) = &read {
        assert_eq!(Identity::from_text(&identity.to_text()).as_ref(), Ok(identity));
    }
    Verdict::of(&read)
}

pub(crate) fn identity_seeds() -> Vec<Vec<u8>> {
    let identity = Identity {
        cluster_id: ClusterId::new(0xc0ffee).expect("not 0"),
        node_id: NodeId(3),
        name: NodeName::parse("n3").expect("a name"),
    };
    let text = identity.to_text();
    let body = durable::without_checksum(&text).expect("it was just made");
    vec![text.clone().into_bytes(), [&[UNSUMMED], body.as_bytes()].concat()]
}

/// A key of eight bytes, then a value: only the one that was written there is taken.
pub(crate) fn run_stored_value(bytes: &[u8]) -> Verdict {
    let Some((key, value)) = bytes.split_first_chunk::<8>() else {
        return Verdict::Refused;
    };
    let read = record::decode(key, value);
    if let Ok(bytes) = read {
        let mut written = Vec::new();
        record::encode(&mut written, key, bytes);
        assert_eq!(written, value);
    }
    Verdict::of(&read)
}

pub(crate) fn stored_value_seeds() -> Vec<Vec<u8>> {
    let seed = |index: u64, bytes: &[u8]| {
        let key = record::log_key(index);
        assert_eq!(record::log_index(&key), Some(index));
        let mut value = Vec::new();
        record::encode(&mut value, &key, bytes);
        [key.as_slice(), &value].concat()
    };
    vec![seed(1, b""), seed(u64::MAX, b"what the log holds")]
}

thread_local! {
    /// One file for all runs of a thread: making one costs more than reading it.
    static FILE: File = tempfile::tempfile().expect("a temporary file");
}

/// A whole file, or, when the first byte says so, a body that gets a right footer.
pub(crate) fn run_snapshot_file(bytes: &[u8]) -> Verdict {
    let Some((&kind, bytes)) = bytes.split_first() else {
        return Verdict::Refused;
    };
    let mut file_bytes = bytes.to_vec();
    if kind == 0 {
        file_bytes.extend(Footer::new(bytes.len() as u64, crc32c::crc32c(bytes)).to_bytes());
    }
    let Some((body, footer)) = file_bytes.split_last_chunk::<FOOTER_BYTES>() else {
        return Verdict::Refused;
    };
    let Ok(footer) = Footer::from_bytes(footer, file_bytes.len() as u64) else {
        assert_ne!(kind, 0, "the footer of a whole file is read");
        return Verdict::Refused;
    };
    let file = FILE.with(|file| file.try_clone().expect("a handle"));
    file.set_len(0).expect("the file takes writes");
    file.write_all_at(&file_bytes, 0).expect("the file takes writes");
    let snapshot = SnapshotFile {
        id: "id".into(),
        index: 1,
        path: "snapshot".into(),
        size_bytes: file_bytes.len() as u64,
        footer,
        file: Arc::new(file),
    };
    let mut read = Vec::new();
    match snapshot.read().read_to_end(&mut read) {
        Ok(_) => {
            assert!(
                footer.fits(crc32c::crc32c(body)) && read == body,
                "damage was read as data"
            );
            Verdict::Taken
        }
        Err(_) => {
            assert_ne!(kind, 0, "a whole file is read");
            Verdict::Refused
        }
    }
}

pub(crate) fn snapshot_file_seeds() -> Vec<Vec<u8>> {
    let body = b"the state at one log index";
    let footer = Footer::new(body.len() as u64, crc32c::crc32c(body)).to_bytes();
    vec![
        [&[1], body.as_slice(), &footer].concat(),
        [&[0], body.as_slice()].concat(),
        vec![0],
        vec![0; 70_000],
    ]
}

/// Bytes as a log, or, when the first byte says so, a log that is made of what follows and then damaged: what the
/// check says of it is known beforehand.
pub(crate) fn run_write_ahead_log(bytes: &[u8]) -> Verdict {
    let mut input = Input::new(bytes);
    if input.byte() != 0 {
        let log = input.rest();
        return match wal::read(log).expect("memory can be read") {
            wal::Verdict::Whole => Verdict::Taken,
            wal::Verdict::Torn { offset } => {
                assert!(offset <= log.len() as u64);
                Verdict::Refused
            }
            wal::Verdict::Damaged { offset, later } => {
                assert!(offset < later && later < log.len() as u64);
                Verdict::Refused
            }
        };
    }
    let mut log = Vec::new();
    let mut last = 0;
    while !input.is_empty() && log.len() < 100_000 {
        let step = usize::from(input.byte());
        last = log.len();
        put(&mut log, input.byte(), step * step);
    }
    assert_eq!(
        wal::read(log.as_slice()).expect("memory can be read"),
        wal::Verdict::Whole
    );
    // The same bytes choose where: the log is as long as they made it.
    let at = bytes
        .iter()
        .fold(0_usize, |at, &byte| at.wrapping_mul(31).wrapping_add(byte.into()))
        % log.len().max(1);
    let cut = wal::read(&log[..at]).expect("memory can be read");
    assert!(!matches!(cut, wal::Verdict::Damaged { .. }), "cut at {at}: {cut:?}");
    if at < last {
        log[at] ^= 1 << (at % 8);
        let flipped = wal::read(log.as_slice()).expect("memory can be read");
        assert!(
            matches!(flipped, wal::Verdict::Damaged { .. }),
            "flipped at {at}: {flipped:?}"
        );
    }
    Verdict::Taken
}

/// Appends one logical record as RocksDB does: cut at the ends of blocks, whose last bytes are zeros when no header
/// fits.
fn put(log: &mut Vec<u8>, fill: u8, bytes: usize) {
    const BLOCK_BYTES: usize = 32 << 10;
    const HEADER_BYTES: usize = 7;
    let mut left = bytes;
    let mut first = true;
    loop {
        let room = BLOCK_BYTES - log.len() % BLOCK_BYTES;
        if room < HEADER_BYTES {
            log.resize(log.len() + room, 0);
            continue;
        }
        let part = left.min(room - HEADER_BYTES);
        let last = part == left;
        let kind = match (first, last) {
            (true, true) => 1,
            (true, false) => 2,
            (false, false) => 3,
            (false, true) => 4,
        };
        let payload = vec![fill; part];
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&[kind]), &payload);
        log.extend(checksum.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes());
        log.extend(u16::try_from(part).expect("less than a block").to_le_bytes());
        log.push(kind);
        log.extend(payload);
        (left, first) = (left - part, false);
        if last {
            return;
        }
    }
}

pub(crate) fn write_ahead_log_seeds() -> Vec<Vec<u8>> {
    let (mut small, mut large) = (Vec::new(), Vec::new());
    put(&mut small, 9, 100);
    put(&mut small, 0, 5);
    put(&mut large, 9, 40_000);
    put(&mut large, 0, 5);
    vec![
        [&[1], small.as_slice()].concat(),
        [&[1], large.as_slice()].concat(),
        vec![0, 3, 9, 181, 0, 200, 7, 1, 1, 50, 255],
        vec![0, 255, 1, 255, 2, 3, 3],
    ]
}
