//! Snapshots: a sequence of items that is believed is a whole state. It keeps every invariant, writes itself as it was
//! read, and goes on: the next entry applies as to any other.

use roster::{
    model::{LeaseId, LeaseTime, LogIndex},
    registry::{Entry, Registry, SnapshotItem, State},
    wire::{
        DecodeError,
        snapshot::{ItemReader, write_item},
    },
};

use super::{Verdict, log_record, sample};

pub(crate) fn run(bytes: &[u8]) -> Verdict {
    let state = State::from_items::<DecodeError>(ItemReader::new(bytes));
    if let Ok(state) = &state {
        assert_eq!(state.check_invariants(), Ok(()));
        let written = body(state.items());
        let again = State::from_items::<DecodeError>(ItemReader::new(written.as_slice())).expect("a state reads back");
        assert_eq!(body(again.items()), written);
        go_on(state.clone());
    }
    Verdict::of(&state)
}

/// Time passes, everything ends, and each kind of command comes.
fn go_on(state: State) {
    let mut registry = Registry::from_state(state);
    let clock = registry.state().clock();
    registry.apply(&log_record::entry());
    assert_eq!(registry.state().check_invariants(), Ok(()));
    registry.apply(&Entry {
        stamp: LeaseTime(clock.0.saturating_add(1 << 50)),
        ..Entry::default()
    });
    assert_eq!(registry.state().check_invariants(), Ok(()));
    // As the API shows them: each number has room there.
    let revision = registry.state().revision();
    assert!(i64::try_from(revision.0).is_ok(), "revision {revision}");
}

fn body(items: impl Iterator<Item = SnapshotItem>) -> Vec<u8> {
    let mut body = Vec::new();
    for item in items {
        write_item(&mut body, &item).expect("memory takes writes");
    }
    body
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut registry = sample::registry(roster::registry::Settings::default());
    let mut bodies = vec![body(registry.state().items())];
    let mut entry = log_record::entry();
    for step in 0..3 {
        entry.stamp = LeaseTime(LogIndex(step + 1).0 * 4_000_000_000);
        // Leases and records stand only before the entry's last command, which ends what they hang on.
        let last = entry.commands.pop();
        registry.apply(&entry);
        bodies.push(body(registry.state().items()));
        entry.commands.extend(last);
        entry.renewals = vec![LeaseId(step + 1)];
        registry.apply(&entry);
        bodies.push(body(registry.state().items()));
    }
    bodies
}
