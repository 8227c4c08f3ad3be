//! A watch whose client stops reading: what waits is joined, and what is not sent yet does not count as seen.
//!
//! All on one thread and without a network: a client that does not read takes nothing, and the watch comes to a stand
//! after [`WAITING`] messages.

use std::{collections::BTreeMap, time::Duration};

use futures_util::FutureExt as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use roster::{
    node::Node,
    service::Api,
    watch::HubLimits,
    wire::v1::{WatchRequest, WatchResponse, registry_client::RegistryClient, watch_response::Kind},
};
use tonic::Streaming;

use crate::{
    harness::{deregister, put, put_many, registry, tell},
    support::{View, next, of, span},
};

/// Longer than a node that hears its quorum ever takes to know it: half a second, and a question.
const HELD_UP: Duration = Duration::from_millis(1_500);
/// Messages that wait for the client; a client that reads once may take as many at once.
const WAITING: u64 = 4;

/// A watch of `web` from a snapshot.
async fn watch(client: &mut RegistryClient<Api>, progress: Duration) -> Streaming<WatchResponse> {
    let request = WatchRequest {
        selector: Some(of("web")),
        progress_interval: Some(span(progress)),
        ..WatchRequest::default()
    };
    client.watch(request).await.unwrap().into_inner()
}

/// A watch that says nothing of its own accord and has shown instance 0.
async fn quiet_watch(node: &Node, view: &mut View) -> Streaming<WatchResponse> {
    let first = put(node, 0, "first").await;
    let mut watch = watch(&mut registry(node), Duration::from_secs(3_600)).await;
    view.reach(&mut watch, first.as_i64()).await;
    watch
}

fn age_of(message: &WatchResponse) -> Duration {
    let age = message.header.as_ref().and_then(|header| header.age);
    age.expect("an age").try_into().expect("no negative age")
}

#[test]
fn a_step_that_was_taken_and_not_sent_makes_the_view_old() {
    tell(1, HubLimits::default(), 0, async |nodes| {
        let node = &nodes.nodes[0];
        let mut view = View::default();
        let mut watch = quiet_watch(node, &mut view).await;
        // One instance that changes: no two of its steps can be joined, so each message has one, and whoever makes a
        // message has looked at the next step and put it by.
        let steps = 2 * WAITING + 2;
        let mut last = 0;
        for number in 1..=steps {
            last = put(node, 0, &format!("text {number}")).await.as_i64();
        }
        // The first reading makes room for as many messages again. Then the last but one waits for room, and the last one
        // has left the queue: all that waits for this watcher is what was put by.
        view.take(next(&mut watch).await.unwrap());
        tokio::time::sleep(HELD_UP).await;
        for number in 2..=steps {
            let message = next(&mut watch).await.unwrap();
            let (revision, age) = (message.position.as_ref().unwrap().revision, age_of(&message));
            if number == steps - 1 {
                assert_eq!(revision, last - 1);
                assert!(
                    age >= HELD_UP,
                    "the last change was acknowledged {HELD_UP:?} before this message was made, which lacks it and calls \
                     itself {age:?} old"
                );
            }
            if number == steps {
                assert_eq!(revision, last);
                assert!(age < HELD_UP, "nothing is missing, and it calls itself {age:?} old");
            }
            view.take(message);
        }
        assert_eq!(view.records["i000000"].version, format!("text {steps}"));
    });
}

#[test]
fn steps_of_different_instances_come_as_one_and_repeated_ones_apart() {
    tell(1, HubLimits::default(), 0, async |nodes| {
        let node = &nodes.nodes[0];
        let mut view = View::default();
        let mut watch = quiet_watch(node, &mut view).await;
        // The last of these waits for room; what comes now waits behind it.
        for number in 1..=WAITING + 1 {
            put(node, 0, &format!("text {number}")).await;
        }
        let mut ends = Vec::new();
        for numbers in [10..30, 10..15] {
            let mut end = 0;
            for number in numbers {
                end = put(node, number, &format!("text {}", ends.len())).await.as_i64();
            }
            ends.push(end);
        }
        for number in 1..=WAITING + 1 {
            let message = next(&mut watch).await.unwrap();
            assert_eq!(message.changes.len(), 1, "message {number}");
            view.take(message);
        }
        for (end, changes) in ends.into_iter().zip([20, 5]) {
            let message = next(&mut watch).await.unwrap();
            assert_eq!(message.position.as_ref().map(|position| position.revision), Some(end));
            assert_eq!(message.changes.len(), changes);
            assert!(message.changes.is_sorted_by_key(|change| change.revision));
            view.take(message);
        }
        assert_eq!(view.records.len(), 21);
    });
}

#[test]
fn a_catching_up_that_is_not_sent_yet_does_not_count_as_sent() {
    let limits = HubLimits {
        queue_changes: 8,
        history_changes: 256,
        ..HubLimits::default()
    };
    tell(1, limits, 0, async |nodes| {
        let node = &nodes.nodes[0];
        let mut view = View::default();
        let mut watch = quiet_watch(node, &mut view).await;
        for number in 1..=WAITING + 1 {
            put(node, 0, &format!("text {number}")).await;
        }
        // More than the queue holds: the watch is caught up, from the history, with many messages.
        for first in [100, 130, 160, 190] {
            put_many(node, first..first + 30, 60_000).await;
        }
        loop {
            let message = next(&mut watch).await.unwrap();
            let begun = message.more;
            view.take(message);
            if begun {
                break;
            }
        }
        // The rest of that step waits for room. Meanwhile the queue overflows again, and the history goes.
        let last = put_many(node, 1_000..1_400, 10).await;
        let mut snapshots = 0;
        while view.position.as_ref().unwrap().revision < last.as_i64() {
            let message = next(&mut watch).await.unwrap();
            snapshots += usize::from(message.kind() == Kind::Snapshot);
            view.take(message);
        }
        assert_eq!(view.records.len(), 1 + 120 + 400);
        assert_eq!(
            (snapshots, view.resets),
            (0, 0),
            "the version that the first catching-up led to was at hand"
        );
    });
}

#[test]
fn a_sign_of_life_that_waited_for_room_does_not_run_ahead_of_the_view() {
    tell(1, HubLimits::default(), 0, async |nodes| {
        let node = &nodes.nodes[0];
        let every = Duration::from_millis(100);
        let (mut view, mut told) = (View::default(), Told::default());
        let first = put(node, 0, "first").await;
        told.at(first.as_i64()).insert(id(0), "first".to_owned());
        let mut watch = watch(&mut registry(node), every).await;
        told.take(&mut view, next(&mut watch).await.unwrap());
        // Signs of life fill the room that there is, and one more waits.
        tokio::time::sleep(every * u32::try_from(WAITING + 3).unwrap()).await;
        let second = put(node, 0, "second").await;
        told.at(second.as_i64()).insert(id(0), "second".to_owned());
        let mut signs = 0;
        while view.position.as_ref().unwrap().revision < second.as_i64() {
            let message = next(&mut watch).await.unwrap();
            signs += u64::from(message.kind() == Kind::Progress);
            told.take(&mut view, message);
        }
        assert!(signs > WAITING, "{signs} signs of life");
    });
}

#[test]
fn whatever_is_joined_or_put_by_a_view_is_always_that_of_its_position() {
    for seed in 1..=4 {
        println!("seed {seed}");
        tell(1, HubLimits::default(), 0, async |nodes| {
            let mut rng = StdRng::seed_from_u64(seed);
            let node = &nodes.nodes[0];
            let mut watch = watch(&mut registry(node), Duration::from_millis(100)).await;
            let mut view = View::default();
            let mut told = Told::default();
            for turn in 0..60 {
                for _ in 0..rng.random_range(0..12) {
                    let number = rng.random_range(0..8);
                    if rng.random_ratio(1, 5) {
                        let revision = deregister(node, number).await;
                        told.at(revision.as_i64()).remove(&id(number));
                    } else {
                        let text = format!("turn {turn}, {}", rng.random::<u32>());
                        let revision = put(node, number, &text).await;
                        told.at(revision.as_i64()).insert(id(number), text);
                    }
                }
                for _ in 0..rng.random_range(0..12) {
                    // The watch's task runs when this one waits.
                    tokio::task::yield_now().await;
                    let Some(message) = next(&mut watch).now_or_never() else {
                        break;
                    };
                    told.take(&mut view, message.unwrap());
                }
            }
            let last = told.last();
            let mut progress = 0;
            while progress < 2 {
                let message = next(&mut watch).await.unwrap();
                let quiet = message.kind() == Kind::Progress;
                told.take(&mut view, message);
                progress += usize::from(quiet && view.position.as_ref().is_some_and(|at| at.revision == last));
            }
        });
    }
}

fn id(number: u64) -> String {
    format!("i{number:06}")
}

/// What each revision held: the texts of the instances there were.
#[derive(Default)]
struct Told(BTreeMap<i64, BTreeMap<String, String>>);

impl Told {
    /// What a revision holds, to be completed; as before, if it is a new one.
    fn at(&mut self, revision: i64) -> &mut BTreeMap<String, String> {
        let before = self
            .0
            .last_key_value()
            .map(|(_, held)| held.clone())
            .unwrap_or_default();
        self.0.entry(revision).or_insert(before)
    }

    fn last(&self) -> i64 {
        self.0.last_key_value().map_or(0, |(revision, _)| *revision)
    }

    /// Shows a view a message: once its step is whole, it must hold what its revision held.
    fn take(&self, view: &mut View, message: WatchResponse) {
        let whole = !message.more;
        view.take(message);
        if !whole {
            return;
        }
        let revision = view.position.as_ref().unwrap().revision;
        let held = self.0.range(..=revision).next_back().map(|(_, held)| held.clone());
        let seen: BTreeMap<String, String> = view
            .records
            .iter()
            .map(|(id, record)| (id.clone(), record.version.clone()))
            .collect();
        assert_eq!(seen, held.unwrap_or_default(), "at revision {revision}");
    }
}
