//! One step of a watch, cut into messages that stay below their limit.

use crate::{
    watch::{ChangeKind, GoneReason, ResetReason, WatchChange},
    wire::{
        instance::{encoded, key_to_proto},
        raw, v1,
    },
};
use prost::Message as _;

use super::super::paging::{Filled, fill};

/// What the changes of one message take, encoded: far below the limit of messages, so that a watch of small steps is
/// not held up long by another's large one on the same connection.
pub(super) const CHANGES_MAX_BYTES: usize = 512 << 10;
/// How many changes one message holds.
pub(super) const CHANGES_MAX: usize = 5_000;

/// A record of a snapshot as a change.
pub(super) fn put(record: &crate::model::Instance) -> raw::Change {
    raw::Change {
        kind: v1::change::Kind::Put.into(),
        instance: encoded(record),
        removed: None,
        reason: v1::change::Reason::Unspecified.into(),
        revision: record.mod_revision.as_i64(),
    }
}

fn change(change: &WatchChange) -> raw::Change {
    let revision = change.revision.as_i64();
    match &change.kind {
        ChangeKind::Put(record) => raw::Change {
            revision,
            ..put(record)
        },
        ChangeKind::Remove(key, reason) => raw::Change {
            kind: v1::change::Kind::Remove.into(),
            instance: bytes::Bytes::new(),
            removed: Some(key_to_proto(key)),
            reason: reason_to_proto(*reason).into(),
            revision,
        },
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
pub(super) fn next_changes(changes: &[WatchChange], from: &mut usize) -> Filled<raw::Change> {
    let rest = changes.get(*from..).unwrap_or_default();
    let filled = fill(
        rest.iter().map(change),
        CHANGES_MAX,
        CHANGES_MAX_BYTES,
        raw::Change::encoded_len,
    );
    *from += filled.elements.len();
    filled
}
