//! The state machine as openraft wants it: the registry behind it, the hub in front.
//!
//! Each batch of entries is applied, then published, and only then answered: whoever is answered finds its effect in
//! what this node's readers see.

use std::{io, path::PathBuf, sync::Arc};

use futures_util::{Stream, StreamExt as _};
use openraft::{
    EntryPayload, OptionalSend,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine},
};

use super::{
    log::Log,
    progress::Progress,
    snapshot::{self, Builder, SnapshotData},
    types::{LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig},
};
use crate::{
    blocking,
    model::{LogIndex, Term},
    registry::{Applied, Registry},
    storage::SnapshotStore,
    watch::Hub,
    wire,
};

/// Entries that are published together.
const BATCH_MAX_ENTRIES: usize = 64;
/// A batch ends after so many changes, however few its entries.
const BATCH_MAX_CHANGES: usize = 4_096;
/// The same where nobody waits for an answer and more is there than one batch has: a node that starts, or was away. Each
/// version that is published is one that the next can't change in place, so it makes fewer.
const CATCHING_UP_MAX_CHANGES: usize = 32_768;

/// The state machine of one node.
pub(crate) struct Machine {
    registry: Registry,
    applied: Option<LogId>,
    membership: StoredMembership,
    hub: Arc<Hub>,
    snapshots: SnapshotStore,
    /// What is said in the head of a snapshot file, by its path: the file itself must not be held, for its bytes stay on
    /// the disk until nobody does.
    current: Option<(SnapshotMeta, PathBuf)>,
    log: Log,
    progress: Arc<Progress>,
}

/// What was applied and is not published yet.
#[derive(Default)]
struct Batch {
    changes: Vec<crate::registry::Change>,
    answers: Vec<(ApplyResponder<TypeConfig>, Applied)>,
}

impl Machine {
    /// An empty one. openraft restores it from the latest snapshot and the log before anything else happens.
    pub(super) fn new(hub: Arc<Hub>, snapshots: SnapshotStore, log: Log, progress: Arc<Progress>) -> Self {
        Self {
            registry: Registry::new(),
            applied: None,
            membership: StoredMembership::default(),
            hub,
            snapshots,
            current: None,
            log,
            progress,
        }
    }

    fn apply_one(&mut self, (record, responder): EntryResponder<TypeConfig>, batch: &mut Batch) {
        let mut applied = Applied::default();
        match record.payload {
            EntryPayload::Blank => {
                let term = Term(record.log_id.committed_leader_id().term);
                self.progress.term_opened(term, self.registry.state().clock());
            }
            EntryPayload::Normal(entry) => {
                // Plant: this node applies something else than the others.
                applied = planted!(
                    "applied-differently",
                    self.registry.apply(&super::plants::differing(entry.entry())),
                    self.registry.apply(entry.entry())
                );
                self.progress.grew(entry.size_bytes(), entry.entry().renewals.len());
                let changes = std::mem::take(&mut applied.changes);
                for instance in changes.iter().filter_map(|change| change.after.as_ref()) {
                    // Made here once, and then sent to every reader.
                    wire::instance::encode(instance);
                }
                batch.changes.extend(changes);
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(record.log_id), membership);
            }
        }
        self.applied = Some(record.log_id);
        self.progress
            .applied(record.log_id.index(), || self.registry.state().clone());
        if let Some(responder) = responder {
            batch.answers.push((responder, applied));
        }
    }

    /// Makes a batch readable, and only then answers it.
    fn publish(&mut self, batch: &mut Batch) {
        let Some(applied) = self.applied else { return };
        let Batch { changes, answers } = std::mem::take(batch);
        self.hub
            .publish(self.registry.state().clone(), LogIndex(applied.index()), changes);
        self.progress.set_next_deadline(self.registry.next_deadline());
        for (responder, applied) in answers {
            responder.send(applied);
        }
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut entries = entries.ready_chunks(BATCH_MAX_ENTRIES);
        let mut batch = Batch::default();
        while let Some(ready) = entries.next().await {
            let catching_up = ready.len() == BATCH_MAX_ENTRIES;
            for entry in ready {
                // What was applied before is published even if the log can't be read any further.
                match entry {
                    Ok(entry) => self.apply_one(entry, &mut batch),
                    Err(error) => {
                        self.publish(&mut batch);
                        return Err(error);
                    }
                }
                let changes_max = if batch.answers.is_empty() && catching_up {
                    CATCHING_UP_MAX_CHANGES
                } else {
                    BATCH_MAX_CHANGES
                };
                if batch.changes.len() >= changes_max {
                    self.publish(&mut batch);
                }
            }
            if !catching_up || !batch.answers.is_empty() {
                self.publish(&mut batch);
            }
        }
        self.publish(&mut batch);
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.progress.snapshot_begun();
        Builder {
            log: self.log.clone(),
            store: self.snapshots.clone(),
            state: Some(self.registry.state().clone()),
            applied: self.applied,
            membership: self.membership.clone(),
            progress: Arc::clone(&self.progress),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        // A conflicting end of the log was truncated before this, in memory: the disk must not keep it when it has the
        // snapshot.
        self.log.sync().await?;
        fail::fail_point!("crash-before-snapshot-settled");
        let store = self.snapshots.clone();
        let settling = blocking::run(move || snapshot.settle(&store));
        let (file, state) = settling.await.map_err(io::Error::other)??;
        tracing::info!(index = file.index, revision = state.revision().0, "snapshot installed");

        // Plant: the readers get the new state, apply goes on with the old one.
        self.registry = planted!(
            "snapshot-half-installed",
            std::mem::take(&mut self.registry),
            Registry::from_state(state.clone())
        );
        // Plant: after a restart the end of what the snapshot holds is applied again.
        self.applied = planted!(
            "applied-again-after-restart",
            super::plants::rewound(meta),
            meta.last_log_id
        );
        self.membership = meta.last_membership.clone();
        self.progress.snapshot_begun();
        self.progress.snapshot_built(file.size_bytes);
        self.progress.set_next_deadline(self.registry.next_deadline());
        self.current = Some((meta.clone(), file.path));
        let index = meta.last_log_id.map_or(0, |last| last.index());
        fail::fail_point!("crash-after-snapshot-settled");
        self.hub.replace(state.clone(), LogIndex(index));
        self.progress.applied(index, || state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let Some(latest) = self.snapshots.latest() else {
            return Ok(None);
        };
        let known = self.current.take().filter(|(_, path)| *path == latest.path);
        let meta = match known {
            Some((meta, _)) => meta,
            None => {
                let file = latest.clone();
                let reading = blocking::run(move || snapshot::read_meta(&file));
                reading.await.map_err(io::Error::other)??
            }
        };
        self.current = Some((meta.clone(), latest.path.clone()));
        Ok(Some(Snapshot {
            meta,
            snapshot: SnapshotData::Stored(latest),
        }))
    }
}
