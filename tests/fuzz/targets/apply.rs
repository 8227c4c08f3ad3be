//! The state machine under arbitrary entries. After each of them every invariant holds, what changed is what was said
//! to change, a second replica that was restored from a snapshot in the middle answers the same; and, while the world
//! is small, a plain model of the state machine agrees.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use roster::{
    model::{Hold, Incarnation, InstanceKey, InstanceSpec, LeaseId, LeaseTime, Revision, Status, Ttl},
    registry::{
        Applied, BatchRegister, Change, Command, Corrupt, Deregister, Entry, Register, Registry, Rejection, Settings,
        SnapshotItem, State, Update,
    },
    wire::{internal, log},
};

use super::{Verdict, input::Input, sample};

#[path = "../../registry_support/naive.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared with the state machine's own tests"
)]
mod naive;

use naive::Naive;

/// Entries of one run: an input must be quick.
const ENTRIES_MAX: usize = 24;
/// Stamps of the small world stay below this, for the plain model counts without a limit.
const STAMP_MAX: u64 = 1 << 60;

/// The first byte: an even one makes entries of choices, an odd one reads them as a follower does. Then one for the
/// limits.
pub(crate) fn run(bytes: &[u8]) -> Verdict {
    let mut input = Input::new(bytes);
    let chosen = input.byte().is_multiple_of(2);
    let settings = if input.byte().is_multiple_of(2) {
        Settings::default()
    } else {
        sample::TIGHT
    };
    let entries = if chosen {
        choose_entries(input)
    } else {
        read_entries(input.rest())
    };
    let mut world = World::new(settings, chosen);
    for (at, entry) in entries.iter().enumerate() {
        world.apply(entry, at * 2 == entries.len());
    }
    if entries.is_empty() {
        Verdict::Refused
    } else {
        Verdict::Taken
    }
}

struct World {
    first: Registry,
    second: Registry,
    naive: Option<Naive>,
    view: BTreeMap<InstanceKey, std::sync::Arc<roster::model::Instance>>,
}

impl World {
    fn new(settings: Settings, with_naive: bool) -> Self {
        Self {
            first: sample::registry(settings.clone()),
            second: sample::registry(settings.clone()),
            naive: with_naive.then(|| Naive::new(settings)),
            view: BTreeMap::new(),
        }
    }

    fn apply(&mut self, entry: &Entry, restore_before: bool) {
        if restore_before {
            self.second = Registry::from_state(restored(self.second.state()));
        }
        let applied = self.first.apply(entry);
        assert_eq!(self.first.state().check_invariants(), Ok(()));
        assert_eq!(applied.replies.len(), entry.commands.len());
        assert_eq!(applied.renewals.len(), entry.renewals.len());
        assert_eq!(applied.revision, self.first.state().revision());
        self.replay(&applied.changes);
        assert_eq!(self.second.apply(entry), applied);
        assert_eq!(items(self.first.state()), items(self.second.state()));
        assert_eq!(self.first.next_deadline(), self.second.next_deadline());
        if let Some(naive) = &mut self.naive {
            assert_eq!(without_texts(applied), naive.apply(entry));
        }
    }

    fn replay(&mut self, changes: &[Change]) {
        for change in changes {
            assert_eq!(
                self.view.get(change.key()),
                change.before.as_ref(),
                "before is what stood there"
            );
            match &change.after {
                Some(after) => self.view.insert(change.key().clone(), after.clone()),
                None => self.view.remove(change.key()),
            };
        }
        assert_eq!(self.view.len(), self.first.state().instance_count());
    }
}

fn items(state: &State) -> Vec<SnapshotItem> {
    state.items().collect()
}

fn restored(state: &State) -> State {
    let items = items(state).into_iter().map(Ok::<_, Corrupt>);
    State::from_items(items).expect("a state is restored from its own items")
}

/// The texts of problems are for people; the plain model has none.
fn without_texts(mut applied: Applied) -> Applied {
    for reply in &mut applied.replies {
        if let Err(Rejection::InvalidField { problem, .. }) = &mut reply.result {
            problem.clear();
        }
    }
    applied
}

/// Entries as they come from another node: each with a byte pair for its length before it.
fn read_entries(mut bytes: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>()
        && entries.len() < ENTRIES_MAX
    {
        let (message, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        bytes = rest;
        let read = internal::Entry::decode(message).ok().map(log::entry_from_proto);
        entries.extend(read.and_then(Result::ok));
    }
    entries
}

fn choose_entries(mut input: Input<'_>) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut now_ms = 0_u64;
    while !input.is_empty() && entries.len() < ENTRIES_MAX {
        now_ms = match input.byte() {
            step @ 0..200 => now_ms + u64::from(step) * 20,
            step @ 200..240 => now_ms.saturating_sub(u64::from(step) * 10),
            240..252 => now_ms + 24 * 60 * 60 * 1_000,
            _ => input.number() % (STAMP_MAX / 1_000_000),
        };
        now_ms = now_ms.min(STAMP_MAX / 1_000_000);
        let renewals: BTreeSet<LeaseId> = (0..input.below(6)).map(|_| lease_id(&mut input)).collect();
        let commands = (0..input.below(6)).map(|_| command(&mut input)).collect();
        entries.push(Entry {
            stamp: LeaseTime(now_ms * 1_000_000),
            wall_ms: now_ms + 7,
            renewals: renewals.into_iter().collect(),
            commands,
        });
    }
    entries
}

fn key(input: &mut Input<'_>) -> InstanceKey {
    let (service, id) = input.one_of(&[
        ("api", "1"),
        ("api", "2"),
        ("web", "1"),
        ("web", "2"),
        ("web", "3"),
        ("x", "1"),
    ]);
    sample::key(service, id)
}

fn ttl(input: &mut Input<'_>) -> Ttl {
    Ttl::from_ms(input.one_of(&[1_000, 2_000, 3_500, 86_400_000])).expect("in range")
}

fn lease_id(input: &mut Input<'_>) -> LeaseId {
    LeaseId(match input.byte() {
        id @ 0..200 => u64::from(id % 32),
        id @ 200..250 => LeaseId::FIRST_OF_CALLERS.0 + u64::from(id % 4),
        _ => input.number(),
    })
}

fn incarnation(input: &mut Input<'_>) -> Incarnation {
    Incarnation(match input.byte() {
        life @ 0..250 => u64::from(life % 5),
        _ => input.number() >> 1,
    })
}

fn expected(input: &mut Input<'_>) -> Option<Revision> {
    input.chance(40).then(|| Revision(u64::from(input.below(16))))
}

fn spec(input: &mut Input<'_>) -> InstanceSpec {
    let key = key(input);
    InstanceSpec {
        incarnation: incarnation(input),
        status: input.one_of(&[Status::Up, Status::Starting, Status::Draining, Status::Down]),
        weight: u32::from(input.below(2)),
        ..sample::spec(key.service.as_str(), key.id.as_str())
    }
}

fn words(input: &mut Input<'_>) -> BTreeSet<String> {
    let count = input.below(4);
    (0..count).map(|_| format!("w{}", input.below(80))).collect()
}

fn command(input: &mut Input<'_>) -> Command {
    match input.below(16) {
        0..6 => Command::Register(Register {
            instance: spec(input),
            hold: match input.below(8) {
                0..4 => Hold::Own { ttl: ttl(input) },
                4..7 => Hold::Shared {
                    lease_id: lease_id(input),
                },
                _ => Hold::Permanent,
            },
            expected_mod_revision: expected(input),
        }),
        6..8 => Command::BatchRegister(BatchRegister {
            instances: (0..input.below(5)).map(|_| spec(input)).collect(),
            hold: match input.below(4) {
                0 => Hold::Permanent,
                1 => Hold::Own { ttl: ttl(input) },
                _ => Hold::Shared {
                    lease_id: lease_id(input),
                },
            },
        }),
        8..11 => Command::Update(update(input)),
        11..13 => Command::Deregister(Deregister {
            key: key(input),
            expected_mod_revision: expected(input),
            incarnation: incarnation(input),
            lease_id: input.chance(60).then(|| lease_id(input)),
        }),
        13..15 => Command::GrantLease {
            lease_id: input.chance(128).then(|| lease_id(input)),
            ttl: ttl(input),
        },
        _ => Command::RevokeLease {
            lease_id: lease_id(input),
        },
    }
}

fn update(input: &mut Input<'_>) -> Update {
    Update {
        key: key(input),
        status: input.chance(128).then_some(Status::Down),
        weight: input.chance(128).then(|| u32::from(input.below(3))),
        version: input.chance(64).then(|| "v".to_owned()),
        add_tags: words(input),
        remove_tags: words(input),
        set_metadata: words(input).into_iter().map(|word| (word.clone(), word)).collect(),
        remove_metadata: words(input),
        expected_mod_revision: expected(input),
        incarnation: incarnation(input),
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut read = vec![1, 0];
    let mut entry = super::log_record::entry();
    for _ in 0..3 {
        let message = log::entry_to_proto(&entry).encode_to_vec();
        read.extend(u16::try_from(message.len()).expect("a short entry").to_le_bytes());
        read.extend(message);
        entry.stamp = LeaseTime(entry.stamp.0 + 9_000_000_000);
        entry.commands.pop();
    }
    // Any bytes are choices; these make a few hundred of each kind.
    let chosen = |seed: u8| {
        let choices = (0..400_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0] ^ seed);
        [0, seed].into_iter().chain(choices).collect()
    };
    vec![read, chosen(0), chosen(1), chosen(86), chosen(171)]
}
