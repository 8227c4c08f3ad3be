//! A watch that goes on elsewhere: nothing twice, nothing missing, never half a step.

use std::time::Duration;

use roster::{
    client::{Error, WatchEvent, Watcher},
    wire::{
        error::Reason,
        span::span_to_proto,
        v1::{self, selector::Scope, watch_request::Start},
    },
};

use crate::{
    client,
    node::{Mode, Node, WatchScript},
    nodes,
    registry::{CLUSTER_ID, Registry},
    soon,
};

fn all(start: Option<Start>) -> v1::WatchRequest {
    v1::WatchRequest {
        selector: Some(v1::Selector {
            scope: Some(Scope::AllServices(true)),
            ..Default::default()
        }),
        progress_interval: Some(span_to_proto(Duration::from_millis(100))),
        start,
        ..Default::default()
    }
}

fn watcher(nodes: &[&Node], start: Option<Start>) -> Watcher {
    Watcher::new(client(nodes), all(start))
}

fn ids(watcher: &Watcher) -> Vec<String> {
    let instances = watcher.view().instances();
    instances
        .filter_map(|instance| Some(instance.key.as_ref()?.id.clone()))
        .collect()
}

/// The next step, and what came before it.
async fn step(watcher: &mut Watcher) -> (roster::client::Step, Vec<WatchEvent>) {
    let mut before = Vec::new();
    loop {
        match soon("a step", watcher.next()).await.expect("watching") {
            WatchEvent::Step(step) => return (step, before),
            other => before.push(other),
        }
    }
}

fn revisions(step: &roster::client::Step) -> Vec<i64> {
    step.changes().map(|change| change.revision).collect()
}

#[tokio::test]
async fn a_watch_begins_with_a_snapshot_and_goes_on_with_changes() {
    let registry = Registry::new();
    let [node] = nodes(&registry);
    registry.put("web", "1");
    let mut watcher = watcher(&[&node], None);
    let (first, _) = step(&mut watcher).await;
    assert!(first.snapshot && first.reset.is_none());
    assert_eq!(ids(&watcher), ["1"]);
    let revision = registry.put("web", "2");
    let (second, _) = step(&mut watcher).await;
    assert!(!second.snapshot);
    assert_eq!(revisions(&second), [revision]);
    assert_eq!(ids(&watcher), ["1", "2"]);
    assert_eq!(watcher.position().map(|position| position.revision), Some(revision));
}

#[tokio::test]
async fn a_quiet_watch_is_proved_alive() {
    let registry = Registry::new();
    let [node] = nodes(&registry);
    let mut watcher = watcher(&[&node], None);
    step(&mut watcher).await;
    let event = soon("progress", watcher.next()).await.expect("watching");
    assert!(matches!(event, WatchEvent::Progress(_)), "{event:?}");
}

#[tokio::test]
async fn a_watch_goes_on_at_another_node_where_it_ended() {
    let registry = Registry::new();
    let [mut first, second] = nodes(&registry);
    registry.put("web", "1");
    let mut watcher = watcher(&[&first, &second], None);
    step(&mut watcher).await;
    first.stop();
    let revision = registry.put("web", "2");
    let (next, before) = step(&mut watcher).await;
    assert!(!next.snapshot, "resumed, not begun again");
    assert_eq!(revisions(&next), [revision], "nothing twice, nothing missing");
    assert!(
        before.iter().any(|event| matches!(event, WatchEvent::Interrupted(_))),
        "{before:?}"
    );
    let resumed = before.iter().find_map(|event| match event {
        WatchEvent::Resumed(endpoint) => Some(endpoint.to_string()),
        _ => None,
    });
    assert_eq!(resumed, Some(second.address.to_string()));
}

#[tokio::test]
async fn half_a_step_is_never_shown() {
    let registry = Registry::new();
    let [first, second] = nodes(&registry);
    for id in ["1", "2", "3"] {
        registry.put("web", id);
    }
    first.watches(WatchScript {
        split: true,
        break_after: Some(2),
        ..WatchScript::default()
    });
    second.watches(WatchScript {
        split: true,
        ..WatchScript::default()
    });
    let mut watcher = watcher(&[&first, &second], None);
    let event = soon("the break", watcher.next()).await.expect("watching");
    assert!(matches!(event, WatchEvent::Interrupted(_)), "{event:?}");
    assert!(watcher.view().is_empty() && watcher.position().is_none());
    let (whole, _) = step(&mut watcher).await;
    assert!(whole.snapshot);
    assert_eq!(whole.messages.len(), 3);
    assert_eq!(ids(&watcher), ["1", "2", "3"]);
}

#[tokio::test]
async fn the_old_view_is_served_until_the_new_snapshot_is_whole() {
    let registry = Registry::new();
    let [mut first, second, third] = nodes(&registry);
    registry.put("web", "1");
    let mut watcher = watcher(&[&first, &second, &third], None);
    step(&mut watcher).await;
    first.stop();
    // Meanwhile the history is forgotten, and the node that sends a snapshot instead breaks in the middle of it.
    registry.put("web", "2");
    registry.put("web", "3");
    let newest = registry.state().revision;
    registry.state().compacted = newest;
    second.watches(WatchScript {
        split: true,
        break_after: Some(2),
        ..WatchScript::default()
    });
    let mut interrupted = 0;
    let reset = loop {
        match soon("a reset", watcher.next()).await.expect("watching") {
            WatchEvent::Step(step) => break step,
            WatchEvent::Interrupted(_) => {
                interrupted += 1;
                assert_eq!(ids(&watcher), ["1"], "the old view stays");
            }
            WatchEvent::Progress(_) | WatchEvent::Resumed(_) => {}
        }
    };
    assert_eq!(interrupted, 2, "once for the first node, once for the second");
    assert!(reset.snapshot);
    assert_eq!(reset.reset, Some(v1::reset::Reason::Compacted));
    assert_eq!(ids(&watcher), ["1", "2", "3"]);
}

#[tokio::test]
async fn a_position_of_another_cluster_is_reset() {
    let registry = Registry::new();
    let [node] = nodes(&registry);
    registry.put("web", "1");
    let elsewhere = v1::Position {
        cluster_id: "00000000cafecafe".into(),
        revision: 9_999,
    };
    let mut watcher = watcher(&[&node], Some(Start::After(elsewhere)));
    let (first, _) = step(&mut watcher).await;
    assert_eq!(first.reset, Some(v1::reset::Reason::OtherCluster));
    assert_eq!(ids(&watcher), ["1"]);
}

#[tokio::test]
async fn a_watch_after_a_position_gets_what_came_later() {
    let registry = Registry::new();
    let [node] = nodes(&registry);
    let revision = registry.put("web", "1");
    let later = registry.put("web", "2");
    let after = v1::Position {
        cluster_id: CLUSTER_ID.into(),
        revision,
    };
    let mut watcher = watcher(&[&node], Some(Start::After(after)));
    let (first, _) = step(&mut watcher).await;
    assert!(!first.snapshot);
    assert_eq!(revisions(&first), [later]);
}

#[tokio::test]
async fn a_node_that_falls_silent_is_left() {
    let registry = Registry::new();
    let [first, second] = nodes(&registry);
    first.watches(WatchScript {
        quiet: true,
        ..WatchScript::default()
    });
    let mut watcher = watcher(&[&first, &second], None);
    step(&mut watcher).await;
    let event = soon("the break", watcher.next()).await.expect("watching");
    assert!(
        matches!(event, WatchEvent::Interrupted(Error::NoAnswer { .. })),
        "{event:?}"
    );
    let (next, _) = {
        registry.put("web", "1");
        step(&mut watcher).await
    };
    assert_eq!(next.changes().count(), 1);
}

#[tokio::test]
async fn a_node_that_lost_its_quorum_says_so_and_is_left() {
    let registry = Registry::new();
    let [first, second] = nodes(&registry);
    first.watches(WatchScript {
        cancel_after: Some((1, Reason::NoQuorum)),
        ..WatchScript::default()
    });
    let mut watcher = watcher(&[&first, &second], None);
    step(&mut watcher).await;
    let event = loop {
        match soon("the end", watcher.next()).await.expect("watching") {
            WatchEvent::Progress(_) => {}
            other => break other,
        }
    };
    let WatchEvent::Interrupted(error) = event else {
        panic!("{event:?}");
    };
    assert_eq!(error.reason(), Some(Reason::NoQuorum));
    let event = soon("the other node", watcher.next()).await.expect("watching");
    assert!(matches!(event, WatchEvent::Resumed(_)), "{event:?}");
}

#[tokio::test]
async fn a_watch_that_is_refused_ends() {
    let registry = Registry::new();
    let [first, second] = nodes(&registry);
    first.set(Mode::Refusing(Reason::RevisionInFuture, None));
    let mut watcher = watcher(&[&first, &second], None);
    let error = soon("the refusal", watcher.next()).await.expect_err("refused");
    assert_eq!(error.reason(), Some(Reason::RevisionInFuture));
    assert_eq!(second.calls("watch"), 0);
}
