//! What the plants of this room do when they are switched on: in test builds only.

use std::io;

use openraft::storage::IOFlushed;

use super::{
    Raft,
    log::Log,
    types::{LogId, Record, SnapshotMeta, TypeConfig},
};
use crate::{
    registry::{Entry, Registry},
    storage,
};

/// How many records of a snapshot's end a restart applies again.
const REWOUND: u64 = 5;

/// The entry as a node that asks its own clock would apply it.
pub(super) fn differing(entry: &Entry) -> Entry {
    Entry {
        wall_ms: entry.wall_ms + 1,
        ..entry.clone()
    }
}

/// The last record of a snapshot, with an index that is too low.
pub(super) fn rewound(meta: &SnapshotMeta) -> Option<LogId> {
    let last = meta.last_log_id?;
    let leader = *last.committed_leader_id();
    Some(LogId::new(leader, last.index().checked_sub(REWOUND)?))
}

impl Log {
    /// Appends, and says at once that it is durable.
    pub(super) fn append_rashly(
        &self,
        records: Vec<storage::Record>,
        decoded: Vec<(Record, usize)>,
        callback: IOFlushed<TypeConfig>,
    ) -> io::Result<()> {
        self.store.append(records, Box::new(drop));
        let mut tail = self.tail();
        for (record, bytes) in decoded {
            tail.push(record, bytes);
        }
        drop(tail);
        callback.io_completed(Ok(()));
        Ok(())
    }
}

impl Raft {
    /// Hands the changes that an entry would make to the watchers, before anyone else knows of it.
    pub(super) fn publish_rashly(&self, entry: &Entry) {
        let view = self.0.hub.view();
        let changes = Registry::from_state(view.state.clone()).apply(entry).changes;
        self.0.hub.publish(view.state.clone(), view.applied, changes);
    }
}
