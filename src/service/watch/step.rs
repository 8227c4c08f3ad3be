//! One step of a watch, cut into messages that stay below their limit.

use bytes::Bytes;

use super::super::paging::fill;
use crate::{
    watch::{ChangeKind, Changes, GoneReason, ResetReason, WatchChange},
    wire::{
        instance::{encoded_put, encoded_put_at, encoded_removal},
        raw::changes_field,
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

/// The next message's worth of a step's changes, as the field that holds them; `from` moves on by as many as it holds.
/// Whether there are more. What one message holds is encoded once, for all who are sent it.
pub(super) fn next_changes(changes: &Changes, from: &mut usize) -> (Bytes, bool) {
    if let Some(all) = changes.encoded().get().filter(|_| *from == 0) {
        *from = changes.len();
        return (all.clone(), false);
    }
    let rest = changes.get(*from..).unwrap_or_default();
    let filled = fill(rest.iter().map(change), CHANGES_MAX, CHANGES_MAX_BYTES, Bytes::len);
    let field = changes_field(&filled.elements);
    if *from == 0 && !filled.more {
        // Who encoded the same meanwhile has the same bytes.
        let _kept = changes.encoded().set(field.clone());
    }
    *from += filled.elements.len();
    (field, filled.more)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::{
        model::{InstanceId, InstanceKey, Namespace, Revision, ServiceName},
        wire::raw::WatchMessage,
    };

    fn removals(count: usize) -> Changes {
        let removal = |number| WatchChange {
            revision: Revision(7),
            kind: ChangeKind::Remove(
                InstanceKey::new(
                    Namespace::default(),
                    ServiceName::parse("web").unwrap(),
                    InstanceId::parse(&format!("i{number}")).unwrap(),
                ),
                Some(GoneReason::Expired),
            ),
        };
        (0..count).map(removal).collect::<Vec<_>>().into()
    }

    /// The ids in the messages that a step is cut into.
    fn sent(changes: &Changes) -> Vec<Vec<String>> {
        let (mut messages, mut from) = (Vec::new(), 0);
        loop {
            let (field, more) = next_changes(changes, &mut from);
            let message = WatchMessage {
                changes: field,
                ..WatchMessage::default()
            };
            let bytes = message.encode_to_vec();
            assert_eq!(bytes.len(), message.encoded_len());
            let read = v1::WatchResponse::decode(bytes.as_slice()).unwrap();
            messages.push(
                read.changes
                    .into_iter()
                    .map(|change| change.removed.unwrap().id)
                    .collect(),
            );
            if !more {
                assert_eq!(from, changes.len());
                return messages;
            }
        }
    }

    #[test]
    fn what_fits_one_message_is_encoded_once() {
        let changes = removals(3);
        assert_eq!(sent(&changes), [["i0", "i1", "i2"]]);
        let encoded = changes.encoded().get().expect("kept").clone();
        assert_eq!(sent(&changes), [["i0", "i1", "i2"]]);
        let (again, _) = next_changes(&changes, &mut 0);
        assert_eq!(again.as_ptr(), encoded.as_ptr());
    }

    #[test]
    fn a_long_step_is_cut_into_messages() {
        let changes = removals(CHANGES_MAX + 1);
        let messages = sent(&changes);
        let lengths: Vec<_> = messages.iter().map(Vec::len).collect();
        assert_eq!(lengths, [CHANGES_MAX, 1]);
        assert!(changes.encoded().get().is_none());
        let ids: Vec<_> = messages.into_iter().flatten().collect();
        assert!(ids.iter().enumerate().all(|(number, id)| *id == format!("i{number}")));
        assert_eq!(sent(&changes).len(), 2);
    }
}
