//! What a log holds, on the platter or in the view of its node.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use prost::Message as _;
use roster::{
    storage::{Marker, Record},
    wire::internal::{LogRecord, PeerLog},
};

/// What a log holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) start: u64,
    pub(super) is_purged: bool,
    pub(super) records: VecDeque<Bytes>,
    pub(super) markers: BTreeMap<u8, Bytes>,
}

/// What is done to it.
#[derive(Debug)]
pub(super) enum Change {
    Append(Vec<Record>),
    Truncate(u64),
    Purge(u64, Bytes),
    Mark(Marker, Bytes),
}

impl Image {
    pub(super) fn end(&self) -> u64 {
        self.start + self.records.len() as u64
    }

    pub(super) fn get(&self, index: u64) -> Option<&Bytes> {
        let at = usize::try_from(index.checked_sub(self.start)?).ok()?;
        self.records.get(at)
    }

    /// Through which index the records that a purge takes away were committed: all of them, if the log holds the very
    /// record that it purges through; else a snapshot took the place of a log that went another way.
    fn committed_before(&self, index: u64, marker: &Bytes) -> u64 {
        let id = |bytes: &Bytes| PeerLog::decode(bytes.as_ref()).ok().and_then(|marked| marked.log_id);
        let term = |bytes: &Bytes| LogRecord::decode(bytes.as_ref()).ok().map(|record| record.term);
        let purged = id(marker).map(|id| id.term);
        if purged.is_some() && self.get(index).and_then(term) == purged {
            return index;
        }
        let committed = self.markers.get(&place(Marker::Committed)).and_then(id);
        committed.map_or(0, |id| id.index)
    }

    /// Does what was asked; what a purge takes away, and was committed, is handed out.
    pub(super) fn apply(&mut self, change: &Change) -> Vec<(u64, Bytes)> {
        let mut gone = Vec::new();
        match change {
            Change::Append(records) => {
                if let (true, Some(first)) = (self.records.is_empty(), records.first()) {
                    self.start = first.index;
                }
                self.records.extend(records.iter().map(|record| record.bytes.clone()));
            }
            Change::Truncate(index) => {
                let keep = usize::try_from(index.saturating_sub(self.start)).unwrap_or(usize::MAX);
                self.records.truncate(keep);
            }
            Change::Purge(index, marker) => {
                let committed = self.committed_before(*index, marker);
                while self.start <= *index
                    && let Some(record) = self.records.pop_front()
                {
                    if self.start <= committed {
                        gone.push((self.start, record));
                    }
                    self.start += 1;
                }
                self.start = index + 1;
                self.is_purged = true;
                self.markers.insert(place(Marker::Purged), marker.clone());
            }
            Change::Mark(marker, bytes) => {
                self.markers.insert(place(*marker), bytes.clone());
            }
        }
        gone
    }
}

/// Where a marker lies.
pub(super) fn place(marker: Marker) -> u8 {
    match marker {
        Marker::Vote => 0,
        Marker::Committed => 1,
        Marker::Purged => 2,
        Marker::Acknowledged => 3,
    }
}
