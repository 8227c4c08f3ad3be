//! One step of a watch, cut into messages that stay below their limit.

use bytes::Bytes;

use super::super::paging::{Filled, fill};
use crate::{
    watch::{ChangeKind, GoneReason, ResetReason, WatchChange},
    wire::{
        instance::{encoded_put, encoded_put_at, encoded_removal},
        v1,
    },
};

/// What the changes of one message take, encoded: far below the limit of messages, so that a watch of small steps is
/// not held up long by another's large one on the same connection.
pub(super) const CHANGES_MAX_BYTES: usize = 512 << 10;
/// How many changes one message holds.
pub(super) const CHANGES_MAX: usize = 5_000;

fn change(change: &WatchChange) -> Bytes {
    match &change.kind {
        // Its own change, but for one that a snapshot brought: that became known here later.
        ChangeKind::Put(record) if record.mod_revision == change.revision => encoded_put(record),
        ChangeKind::Put(record) => encoded_put_at(record, change.revision),
        ChangeKind::Remove(key, reason) => encoded_removal(key, reason_to_proto(*reason), change.revision),
    }
}

fn reason_to_proto(reason: Option<GoneReason>) -> v1::change::Reason {
    match reason {
        None => v1::change::Reason::Unspecified,
        Some(GoneReason::Deregistered) => v1::change::Reason::Deregistered,
        Some(GoneReason::Expired) => v1::change::Reason::Expired,
        Some(GoneReason::Revoked) => v1::change::Reason::Revoked,
        Some(GoneReason::LeftSelector) => v1::change::Reason::LeftSelector,
    }
}

/// Why a watcher gets a new snapshot, as the API says it.
pub(super) fn reset_to_proto(reason: ResetReason) -> v1::Reset {
    let reason = match reason {
        ResetReason::Compacted => v1::reset::Reason::Compacted,
        ResetReason::Lagged => v1::reset::Reason::Lagged,
        ResetReason::OtherCluster => v1::reset::Reason::OtherCluster,
    };
    v1::Reset { reason: reason.into() }
}

/// The next message's worth of a step's changes; `from` moves on by as many as it holds.
pub(super) fn next_changes(changes: &[WatchChange], from: &mut usize) -> Filled<Bytes> {
    let rest = changes.get(*from..).unwrap_or_default();
    let filled = fill(rest.iter().map(change), CHANGES_MAX, CHANGES_MAX_BYTES, Bytes::len);
    *from += filled.elements.len();
    filled
}
