//! The committed log of a node that stands still, read from its disk with the node's own storage.

use std::{io, path::Path};

use prost::Message as _;
use roster::{
    storage::{DataDir, LogStore},
    wire::log::{LogPayload, decode_record, entry_to_proto},
};

use crate::history::{Entry, NodeLog, Payload};

/// The name of what [`Committed::lacks`] finds.
pub(crate) const LOG_IS_WHOLE: &str = "log-is-whole";
/// Read at once.
const PIECE_BYTES: usize = 4 << 20;

/// What a node's log had.
pub(crate) struct Committed {
    pub(crate) records: Vec<NodeLog>,
    /// The log has, or a snapshot stands for, everything before this index.
    pub(crate) until: u64,
}

impl Committed {
    /// A node that applied a record, ended in order, and has the record neither in its log nor behind a snapshot.
    pub(crate) fn lacks(&self, node: &str, through: u64) -> Option<String> {
        (self.until <= through).then(|| {
            let last = self
                .until
                .checked_sub(1)
                .map_or("nothing".to_owned(), |last| last.to_string());
            format!("{node} said that it had applied record {through}, and its log ends with {last}")
        })
    }
}

/// All records from `from` on through `through`, which is known to be committed. The node must not run.
///
/// # Errors
/// The directory can't be opened, or holds what no node writes.
pub(crate) fn committed(node: &str, data: &Path, from: u64, through: u64) -> io::Result<Committed> {
    let directory = DataDir::open(data).map_err(io::Error::other)?;
    let log = LogStore::open(&directory, |_error| {}).map_err(io::Error::other)?;
    let mut records = Vec::new();
    let purged = log.purged_through().map_or(0, |purged| purged + 1);
    let (Some(first), Some(last)) = log.bounds() else {
        return Ok(Committed { records, until: purged });
    };
    let (mut next, end) = (first.max(from), last.min(through) + 1);
    while next < end {
        let piece = log.read(next..end, PIECE_BYTES).map_err(io::Error::other)?;
        if piece.is_empty() {
            return Err(io::Error::other(format!("{node}: the log has no record {next}")));
        }
        for record in piece {
            records.push(read(node, record.index, &record.bytes)?);
            next = record.index + 1;
        }
    }
    Ok(Committed {
        records,
        until: purged.max(end),
    })
}

fn read(node: &str, index: u64, bytes: &[u8]) -> io::Result<NodeLog> {
    let record = decode_record(bytes).map_err(|error| io::Error::other(format!("{node}, record {index}: {error}")))?;
    if record.index.0 != index {
        return Err(io::Error::other(format!(
            "{node}: record {} stands at {index}",
            record.index.0
        )));
    }
    let payload = match record.payload {
        LogPayload::Blank => Payload::Blank,
        LogPayload::Membership(_) => Payload::Membership,
        LogPayload::Entry(entry) => {
            let encoded = entry_to_proto(&entry).encode_to_vec();
            Payload::Entry(Entry {
                stamp_ns: entry.stamp.0,
                encoded: Some(hex(&encoded)),
                ..Entry::default()
            })
        }
    };
    Ok(NodeLog {
        node: node.to_owned(),
        index,
        term: record.term.0,
        payload,
    })
}

/// Two digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a string can't fail.
            let _written = write!(text, "{byte:02x}");
            text
        })
}
