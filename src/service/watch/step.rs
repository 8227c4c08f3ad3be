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

/// One message's worth of a step's changes: those that other watchers are sent too as one run of bytes, made once for all
/// of them; others each by itself, for what waits for a slow client costs little as long as it is shared with the
/// records.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) shared: Bytes,
    pub(super) own: Vec<Bytes>,
    /// Whether there are more.
    pub(super) more: bool,
}

/// The next message's worth of a step's changes; `from` moves on by as many as it holds.
pub(super) fn next_changes(changes: &Changes, from: &mut usize) -> Part {
    let whole = |shared| Part {
        shared,
        own: Vec::new(),
        more: false,
    };
    if let Some(all) = changes.encoded().get().filter(|_| *from == 0) {
        *from = changes.len();
        return whole(all.clone());
    }
    let rest = changes.get(*from..).unwrap_or_default();
    let filled = fill(rest.iter().map(change), CHANGES_MAX, CHANGES_MAX_BYTES, Bytes::len);
    let first = *from == 0;
    *from += filled.elements.len();
    if first && !filled.more && changes.is_shared() {
        let all = changes.encoded().get_or_init(|| changes_field(&filled.elements));
        return whole(all.clone());
    }
    Part {
        shared: Bytes::new(),
        own: filled.elements,
        more: filled.more,
    }
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
            let Part { shared, own, more } = next_changes(changes, &mut from);
            let mut message = WatchMessage::default();
            (message.changes, message.rest.changes) = (shared, own);
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
    fn what_several_are_sent_in_one_message_is_encoded_once() {
        let changes = removals(3);
        assert_eq!(sent(&changes), [["i0", "i1", "i2"]]);
        assert!(changes.encoded().get().is_none(), "nobody else is given it");
        let others = changes.clone();
        assert_eq!(sent(&changes), [["i0", "i1", "i2"]]);
        assert_eq!(sent(&others), [["i0", "i1", "i2"]]);
        let [one, other] = [&changes, &others].map(|changes| next_changes(changes, &mut 0));
        assert_eq!(one.shared.as_ptr(), other.shared.as_ptr());
    }

    #[test]
    fn a_long_step_is_cut_into_messages() {
        let changes = removals(CHANGES_MAX + 1);
        let _others = changes.clone();
        let messages = sent(&changes);
        let lengths: Vec<_> = messages.iter().map(Vec::len).collect();
        assert_eq!(lengths, [CHANGES_MAX, 1]);
        assert!(changes.encoded().get().is_none());
        let ids: Vec<_> = messages.into_iter().flatten().collect();
        assert!(ids.iter().enumerate().all(|(number, id)| *id == format!("i{number}")));
        assert_eq!(sent(&changes).len(), 2);
    }
}
