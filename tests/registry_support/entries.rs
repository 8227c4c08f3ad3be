//! Arbitrary entries over a small world, so that commands meet each other.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, sample::select};
use roster::{
    model::{Hold, Incarnation, InstanceKey, InstanceSpec, LeaseId, LeaseTime, Revision, Status, Ttl},
    registry::{BatchRegister, Command, Deregister, Entry, Register, Registry, Settings, SnapshotItem, State, Update},
};

use super::{key, spec, ttl_ms};

const KEYS: [&str; 8] = [
    "a/api/1", "a/api/2", "a/web/1", "a/web/2", "a/web/3", "b/api/1", "b/api/2", "b/web/1",
];
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

fn any_key() -> impl Strategy<Value = InstanceKey> {
    select(KEYS.to_vec()).prop_map(key)
}

fn any_ttl() -> impl Strategy<Value = Ttl> {
    select(vec![1_000_u64, 2_000, 3_500]).prop_map(ttl_ms)
}

fn any_lease() -> impl Strategy<Value = LeaseId> {
    prop_oneof![
        8 => (1_u64..30).prop_map(LeaseId),
        3 => (0_u64..3).prop_map(|n| LeaseId(LeaseId::FIRST_OF_CALLERS.0 + n)),
        1 => select(vec![0_u64, 1 << 61, 1 << 63, u64::MAX]).prop_map(LeaseId),
    ]
}

fn any_hold() -> impl Strategy<Value = Hold> {
    prop_oneof![
        4 => any_ttl().prop_map(|ttl| Hold::Own { ttl }),
        3 => any_lease().prop_map(|lease_id| Hold::Shared { lease_id }),
        1 => Just(Hold::Permanent),
    ]
}

fn any_incarnation() -> impl Strategy<Value = Incarnation> {
    prop_oneof![3 => Just(0_u64), 4 => 1_u64..5].prop_map(Incarnation)
}

fn any_status() -> impl Strategy<Value = Status> {
    select(vec![
        Status::Up,
        Status::Up,
        Status::Starting,
        Status::Draining,
        Status::Down,
    ])
}

fn any_expectation() -> impl Strategy<Value = Option<Revision>> {
    prop_oneof![6 => Just(None), 1 => (0_u64..12).prop_map(|n| Some(Revision(n)))]
}

fn any_spec() -> impl Strategy<Value = InstanceSpec> {
    (any_key(), any_incarnation(), any_status(), 0_u32..2).prop_map(|(key, incarnation, status, weight)| InstanceSpec {
        incarnation,
        status,
        weight,
        ..spec(key)
    })
}

fn words(first: char) -> impl Strategy<Value = BTreeSet<String>> {
    prop_oneof![
        6 => prop::collection::btree_set((0..4_u32).prop_map(move |n| format!("{first}{n}")), 0..3),
        1 => Just((0..60).map(|n| format!("{first}{n}")).collect()),
    ]
}

fn any_update() -> impl Strategy<Value = Command> {
    let tags = (words('t'), words('t'));
    let metadata = (
        words('m'),
        words('m'),
        prop_oneof![9 => Just(1_usize), 1 => Just(4_000)],
    );
    let fields = (prop::option::of(any_status()), prop::option::of(0_u32..3));
    (any_key(), fields, tags, metadata, any_expectation(), any_incarnation()).prop_map(
        |(key, (status, weight), (add_tags, remove_tags), (set, remove_metadata, bytes), expected, incarnation)| {
            let set_metadata: BTreeMap<_, _> = set.into_iter().map(|k| (k, "v".repeat(bytes))).collect();
            Command::Update(Update {
                key,
                status,
                weight,
                version: None,
                add_tags,
                remove_tags,
                set_metadata,
                remove_metadata,
                expected_mod_revision: expected,
                incarnation,
            })
        },
    )
}

/// Any command.
pub fn any_command() -> impl Strategy<Value = Command> {
    let register = (any_spec(), any_hold(), any_expectation()).prop_map(|(instance, hold, expected)| {
        Command::Register(Register {
            instance,
            hold,
            expected_mod_revision: expected,
        })
    });
    let batch = (prop::collection::vec(any_spec(), 0..4), any_hold())
        .prop_map(|(instances, hold)| Command::BatchRegister(BatchRegister { instances, hold }));
    let deregister = (
        any_key(),
        any_expectation(),
        any_incarnation(),
        prop::option::of(any_lease()),
    )
        .prop_map(|(key, expected, incarnation, lease_id)| {
            Command::Deregister(Deregister {
                key,
                expected_mod_revision: expected,
                incarnation,
                lease_id: lease_id.filter(|id| id.0 % 3 == 0),
            })
        });
    let grant =
        (prop::option::of(any_lease()), any_ttl()).prop_map(|(lease_id, ttl)| Command::GrantLease { lease_id, ttl });
    let revoke = any_lease().prop_map(|lease_id| Command::RevokeLease { lease_id });
    prop_oneof![8 => register, 3 => batch, 3 => any_update(), 2 => deregister, 3 => grant, 1 => revoke]
}

/// Entries whose stamps mostly advance, sometimes lag, and rarely leap over a day.
pub fn any_entries(most: usize) -> impl Strategy<Value = Vec<Entry>> {
    let advance = prop_oneof![
        10 => (0_i64..1_500).boxed(),
        2 => (-2_000_i64..0).boxed(),
        1 => Just(DAY_MS).boxed(),
    ];
    let renewals = prop::collection::btree_set(any_lease(), 0..6);
    let commands = prop::collection::vec(any_command(), 0..5);
    prop::collection::vec((advance, renewals, commands), 1..most).prop_map(|parts| {
        let mut now_ms = 0_u64;
        let entry = |(advance, renewals, commands): (i64, BTreeSet<LeaseId>, Vec<Command>)| {
            now_ms = now_ms.saturating_add_signed(advance);
            Entry {
                stamp: LeaseTime(now_ms * 1_000_000),
                wall_ms: now_ms + 7,
                renewals: renewals.into_iter().collect(),
                commands,
            }
        };
        parts.into_iter().map(entry).collect()
    })
}

/// Limits that so small a world runs into.
pub fn tight() -> Settings {
    Settings {
        max_instances: 6,
        max_leases: 5,
        max_instances_per_lease: 2,
        max_fences: 3,
    }
}

/// An empty registry with these limits.
pub fn registry(settings: Settings) -> Registry {
    let item = SnapshotItem::State {
        revision: Revision(0),
        clock: LeaseTime(0),
        next_lease_id: LeaseId(1),
        settings,
    };
    let state = State::from_items([Ok::<_, roster::registry::Corrupt>(item)].into_iter());
    Registry::from_state(state.expect("an empty state contradicts nothing"))
}
