//! What a watcher lives through, one story each.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use roster::{
    model::{Hold, LogIndex, Namespace, Revision, Scope, Selector},
    watch::{ChangeKind, Delivery, GoneReason, HubLimits, ResetReason, Start, WatchRefused},
};

use crate::world::{
    Observer, Seen, World, all, batch, deregister, grant, in_zone, key, lease, limits, put, register, services, spec,
    ttl,
};

/// A world in which revisions 1 to `n` each put another instance of `web`.
fn with_instances(limits: HubLimits, n: u64) -> World {
    let mut world = World::new(limits);
    for i in 1..=n {
        world.apply(0, vec![put("web", &format!("i{i}"), "z1")]);
    }
    assert_eq!(world.revision(), Revision(n));
    world
}

fn tight(history_changes: usize, queue_changes: usize) -> HubLimits {
    HubLimits {
        history_changes,
        queue_changes,
        ..limits()
    }
}

fn step(revision: u64) -> Seen {
    Seen::Step(Revision(revision))
}

/// The removals of the next delivery.
fn removals(watch: &mut roster::watch::Watch) -> Vec<(String, Option<GoneReason>)> {
    let Some(Delivery::Changes { changes, .. }) = watch.next().now_or_never() else {
        panic!("a step is waiting");
    };
    let gone = changes.iter().filter_map(|change| match &change.kind {
        ChangeKind::Remove(key, reason) => Some((key.id.to_string(), *reason)),
        ChangeKind::Put(_) => None,
    });
    gone.collect()
}

#[test]
fn a_watch_begins_with_a_snapshot_and_goes_on_with_changes() {
    let mut world = with_instances(limits(), 3);
    let mut watcher = world.open(services(&["web"]), Start::Snapshot).unwrap();
    assert_eq!(watcher.watch_position(), Revision(0));
    world.apply(
        0,
        vec![put("web", "i4", "z1"), put("api", "i1", "z1"), put("web", "i5", "z1")],
    );
    assert_eq!(watcher.drain(), [Seen::Snapshot(None), step(4), step(6)]);
    assert_eq!(watcher.view.len(), 5);
}

#[test]
fn the_snapshot_of_an_empty_selection_comes_too() {
    let world = World::new(limits());
    let mut watcher = world.open(services(&["nobody"]), Start::Snapshot).unwrap();
    assert_eq!(watcher.drain(), [Seen::Snapshot(None)]);
}

#[test]
fn a_watch_that_starts_now_sees_only_what_comes() {
    let mut world = with_instances(limits(), 3);
    let mut watcher = world.open(all(), Start::Now).unwrap();
    assert_eq!(watcher.look(), Seen::Nothing);
    world.apply(0, vec![put("web", "i4", "z1")]);
    assert_eq!(watcher.drain(), [step(4)]);
}

#[test]
fn a_watch_resumes_after_a_position_without_gap_or_duplicate() {
    let mut world = with_instances(limits(), 3);
    let mut watcher = world.open(all(), Start::Snapshot).unwrap();
    watcher.drain();
    let (selector, position, view) = watcher.end();
    world.apply(0, vec![put("web", "i4", "z1"), put("web", "i5", "z1")]);
    let start = Start::After(position);
    let mut watcher = Observer::open(&world.hub, &world.memory, selector, start, view).unwrap();
    world.apply(0, vec![put("web", "i6", "z1")]);
    assert_eq!(watcher.drain(), [step(4), step(5), step(6)]);
}

#[test]
fn a_position_that_the_history_no_longer_reaches_is_reset_as_compacted() {
    let mut world = with_instances(tight(4, 100), 10);
    let floor = world.hub.stats().history_floor;
    assert_eq!(floor, Revision(6));
    let mut late = world.open(all(), Start::After(Revision(5))).unwrap();
    assert_eq!(late.drain(), [Seen::Snapshot(Some(ResetReason::Compacted))]);
    world.apply(0, vec![put("web", "i11", "z1")]);
    assert_eq!(late.drain(), [step(11)]);
    assert_eq!(world.hub.stats().resets, 1);

    let view = world.memory.lock().unwrap().selected(&all(), Revision(7));
    let start = Start::After(Revision(7));
    let mut in_time = Observer::open(&world.hub, &world.memory, all(), start, view).unwrap();
    assert_eq!(in_time.drain(), [step(8), step(9), step(10), step(11)]);
}

#[test]
fn a_position_of_another_cluster_is_reset_and_told_so() {
    let world = with_instances(limits(), 2);
    let mut watcher = world.open(all(), Start::OtherCluster).unwrap();
    assert_eq!(watcher.drain(), [Seen::Snapshot(Some(ResetReason::OtherCluster))]);
}

#[test]
fn a_position_beyond_the_present_is_refused() {
    let mut world = with_instances(limits(), 2);
    let refused = world.hub.watch(all(), Start::After(Revision(3))).unwrap_err();
    assert_eq!(
        refused,
        WatchRefused::RevisionInFuture {
            asked: Revision(3),
            present: Revision(2)
        }
    );
    world.apply(0, vec![put("web", "i3", "z1")]);
    assert!(world.hub.watch(all(), Start::After(Revision(3))).is_ok());
}

#[test]
fn one_watch_too_many_is_refused_until_another_ends() {
    let world = World::new(HubLimits { watches: 2, ..limits() });
    let one = world.hub.watch(all(), Start::Now).unwrap();
    let _two = world.hub.watch(services(&["web"]), Start::Snapshot).unwrap();
    for start in [Start::Now, Start::Snapshot, Start::After(Revision(0))] {
        let refused = world.hub.watch(all(), start).unwrap_err();
        assert_eq!(refused, WatchRefused::TooMany { limit: 2 });
    }
    drop(one);
    assert_eq!(world.hub.stats().watches, 1);
    assert!(world.hub.watch(all(), Start::Now).is_ok());
}

#[test]
fn the_end_of_a_lease_is_one_step_over_all_services() {
    let mut world = World::new(limits());
    let on_lease = |service, id| {
        let hold = Hold::Shared { lease_id: lease(1) };
        register(spec(key("default", service, id), "z1"), hold)
    };
    world.apply(
        0,
        vec![
            grant(1, 1_000),
            on_lease("web", "a"),
            on_lease("api", "b"),
            on_lease("web", "c"),
        ],
    );
    let mut watch = world.hub.watch(services(&["web", "api"]), Start::Now).unwrap();
    let mut web = world.open(services(&["web"]), Start::Now).unwrap();
    world.apply(5_000, vec![]);
    let expired = Some(GoneReason::Expired);
    assert_eq!(
        removals(&mut watch),
        [("b".into(), expired), ("a".into(), expired), ("c".into(), expired)]
    );
    assert!(watch.next().now_or_never().is_none());
    assert_eq!(web.drain(), [Seen::Step(world.revision())]);
    assert!(web.view.is_empty());
}

#[test]
fn an_instance_that_stops_matching_is_a_removal_that_says_so() {
    let mut world = with_instances(limits(), 2);
    let mut watch = world.hub.watch(in_zone(all(), "z1"), Start::Now).unwrap();
    world.apply(0, vec![put("web", "i1", "z2")]);
    assert_eq!(removals(&mut watch), [("i1".into(), Some(GoneReason::LeftSelector))]);
    world.apply(0, vec![put("web", "i1", "z3"), deregister(key("default", "web", "i1"))]);
    assert!(watch.next().now_or_never().is_none(), "what never matched does not go");
    world.apply(0, vec![deregister(key("default", "web", "i2"))]);
    assert_eq!(removals(&mut watch), [("i2".into(), Some(GoneReason::Deregistered))]);
}

#[test]
fn a_position_moves_on_while_nothing_matches_and_never_ahead_of_what_waits() {
    let mut world = with_instances(limits(), 2);
    let mut watcher = world.open(services(&["api"]), Start::Snapshot).unwrap();
    watcher.drain();
    world.apply(0, vec![put("web", "i3", "z1")]);
    world.apply(0, vec![grant(1, 1_000)]);
    assert_eq!(watcher.watch_position(), Revision(4));
    world.apply(
        0,
        vec![put("web", "i4", "z1"), put("api", "a", "z1"), put("web", "i5", "z1")],
    );
    assert_eq!(watcher.watch_position(), Revision(5), "6 waits");
    assert_eq!(watcher.drain(), [step(6)]);
    assert_eq!(watcher.watch_position(), Revision(7));
}

#[test]
fn a_slow_watcher_gets_the_latest_of_each_instance_in_one_step() {
    let mut world = with_instances(tight(100, 3), 2);
    let mut watcher = world.open(all(), Start::Snapshot).unwrap();
    watcher.drain();
    for zone in ["a", "b", "c", "d"] {
        world.apply(0, vec![put("web", "i1", zone)]);
    }
    world.apply(0, vec![put("web", "i9", "a"), deregister(key("default", "web", "i9"))]);
    world.apply(0, vec![deregister(key("default", "web", "i2"))]);
    assert_eq!(watcher.watch_position(), Revision(2));
    assert_eq!(watcher.drain(), [step(9)]);
    let stats = world.hub.stats();
    assert_eq!((stats.lagged, stats.resets, stats.queued_bytes), (1, 0, 0));
    world.apply(0, vec![put("web", "i2", "z1")]);
    assert_eq!(
        watcher.drain(),
        [step(10)],
        "after catching up it goes revision by revision again"
    );
}

#[test]
fn a_slow_watcher_that_missed_nothing_in_the_end_gets_nothing() {
    let mut world = with_instances(tight(100, 1), 2);
    let mut watcher = world.open(in_zone(all(), "z1"), Start::Snapshot).unwrap();
    watcher.drain();
    for zone in ["z2", "z1"] {
        world.apply(0, vec![put("web", "i9", zone)]);
    }
    world.apply(0, vec![put("web", "i9", "z1"), put("web", "i9", "z2")]);
    assert_eq!(world.hub.stats().lagged, 1);
    assert_eq!(watcher.drain(), []);
    assert_eq!(watcher.watch_position(), world.revision());
}

#[test]
fn a_watcher_slower_than_the_history_is_reset_as_lagged() {
    let mut world = with_instances(tight(3, 2), 2);
    let mut watcher = world.open(all(), Start::Snapshot).unwrap();
    assert_eq!(watcher.drain(), [Seen::Snapshot(None)]);
    for i in 10..20 {
        world.apply(0, vec![put("web", &format!("i{i}"), "z1")]);
    }
    assert_eq!(watcher.drain(), [Seen::Snapshot(Some(ResetReason::Lagged))]);
    assert_eq!(world.hub.stats().resets, 1);
}

#[test]
fn a_watcher_whose_history_goes_while_it_sends_its_snapshot_gets_the_difference() {
    let mut world = with_instances(tight(3, 2), 5);
    let mut watcher = world.open(all(), Start::Snapshot).unwrap();
    assert_eq!(watcher.look(), Seen::Snapshot(None));
    // Each delivery takes as long as the whole history lasts: however often, it never comes to a reset.
    for round in 0..5 {
        for i in 0..10 {
            world.apply(0, vec![put("web", &format!("i{i}"), &format!("z{round}"))]);
        }
        world.apply(0, vec![deregister(key("default", "web", "i1"))]);
        assert_eq!(watcher.look(), Seen::Step(world.revision()));
    }
    assert_eq!(watcher.look(), Seen::Nothing);
    let stats = world.hub.stats();
    assert_eq!((stats.lagged, stats.resets), (5, 0));
}

#[test]
fn a_snapshot_that_was_not_fetched_in_time_is_followed_by_the_difference() {
    let mut world = with_instances(tight(3, 2), 5);
    let mut watcher = world.open(all(), Start::Snapshot).unwrap();
    for i in 10..20 {
        world.apply(0, vec![put("web", &format!("i{i}"), "z1")]);
    }
    assert_eq!(watcher.drain(), [Seen::Snapshot(None), step(15)]);
}

#[test]
fn open_watches_get_the_difference_to_an_installed_snapshot_as_one_step() {
    let mut world = with_instances(tight(100, 4), 6);
    let mut some = world.open(in_zone(all(), "z2"), Start::Snapshot).unwrap();
    let mut every = world.open(all(), Start::Snapshot).unwrap();
    let mut other = world.open(services(&["api"]), Start::Snapshot).unwrap();
    for watcher in [&mut some, &mut every, &mut other] {
        watcher.drain();
    }
    for i in 1..=5 {
        world.apply_unpublished(0, vec![put("web", &format!("i{i}"), "z2")]);
    }
    world.apply_unpublished(0, vec![deregister(key("default", "web", "i1"))]);
    world.apply_unpublished(0, vec![deregister(key("default", "web", "i6"))]);
    assert_eq!(every.watch_position(), Revision(6));
    world.install();

    assert_eq!(some.drain(), [step(13)]);
    // This one's queue is too small for the difference, and it is no reset all the same: it was not slow.
    assert_eq!(every.watch_position(), Revision(6));
    assert_eq!(every.drain(), [step(13)]);
    assert_eq!(other.drain(), []);
    assert_eq!(other.watch_position(), Revision(13));
    let stats = world.hub.stats();
    assert_eq!(
        (stats.resets, stats.history_floor, stats.history_changes),
        (0, Revision(13), 0)
    );

    let mut behind = world.open(all(), Start::After(Revision(12))).unwrap();
    assert_eq!(behind.drain(), [Seen::Snapshot(Some(ResetReason::Compacted))]);
    world.apply(0, vec![put("web", "i7", "z2")]);
    for watcher in [&mut some, &mut every, &mut behind] {
        assert_eq!(watcher.drain(), [step(14)]);
    }
}

#[test]
fn what_waited_before_a_snapshot_install_comes_first() {
    let mut world = with_instances(limits(), 2);
    let mut watcher = world.open(all(), Start::Snapshot).unwrap();
    watcher.drain();
    world.apply(0, vec![put("web", "i3", "z1")]);
    world.apply_unpublished(0, vec![put("web", "i4", "z1"), put("web", "i5", "z1")]);
    world.install();
    world.apply(0, vec![put("web", "i6", "z1")]);
    assert_eq!(watcher.look(), step(3));
    assert_eq!(
        watcher.watch_position(),
        Revision(3),
        "nothing is known between 3 and 5"
    );
    assert_eq!(watcher.drain(), [step(5), step(6)]);
}

#[test]
fn a_hub_starts_with_the_snapshot_that_a_node_restarts_from() {
    let mut world = World::new(limits());
    world.apply_unpublished(0, vec![put("web", "a", "z1"), put("web", "b", "z1")]);
    world.install();
    assert_eq!(world.hub.view().state.instance_count(), 2);
    assert_eq!(world.hub.view().applied, LogIndex(1));
    let mut watcher = world.open(all(), Start::After(Revision(1))).unwrap();
    assert_eq!(watcher.drain(), [Seen::Snapshot(Some(ResetReason::Compacted))]);
}

#[test]
fn a_resume_that_is_more_than_a_queue_behind_is_coalesced() {
    let world = with_instances(tight(100, 3), 9);
    let view = world.memory.lock().unwrap().selected(&all(), Revision(2));
    let start = Start::After(Revision(2));
    let mut watcher = Observer::open(&world.hub, &world.memory, all(), start, view).unwrap();
    assert_eq!(watcher.drain(), [step(9)]);
}

#[test]
fn a_watcher_that_never_reads_holds_no_more_than_its_limit() {
    let limits = HubLimits {
        queue_bytes: 10_000,
        history_bytes: 20_000,
        ..limits()
    };
    let mut world = World::new(limits);
    let watches: Vec<_> = (0..50).map(|_| world.hub.watch(all(), Start::Now).unwrap()).collect();
    for i in 0..500 {
        let mut instance = spec(key("default", "web", &format!("i{}", i % 7)), "z1");
        instance.metadata.insert("note", format!("{i:0>200}"));
        world.apply(0, vec![register(instance, Hold::Permanent)]);
        let stats = world.hub.stats();
        assert!(stats.queued_bytes <= 50 * 10_000, "{stats:?}");
        assert!(stats.history_bytes <= 20_000, "{stats:?}");
    }
    let stats = world.hub.stats();
    assert_eq!(
        (stats.lagged, stats.queued_bytes),
        (50, 0),
        "each lagged once and holds nothing"
    );
    drop(watches);
    assert_eq!(world.hub.stats().watches, 0);
}

#[test]
fn what_a_dropped_watch_had_waiting_is_given_back() {
    let mut world = World::new(limits());
    let watch = world.hub.watch(all(), Start::Now).unwrap();
    world.apply(0, vec![put("web", "a", "z1")]);
    assert!(world.hub.stats().queued_bytes > 0);
    drop(watch);
    assert_eq!(world.hub.stats().queued_bytes, 0);
}

#[test]
fn prefixes_and_namespaces_select() {
    let mut world = World::new(limits());
    let prefix = |text: &str| Selector {
        scope: Scope::Prefix(text.into()),
        ..all()
    };
    let prod = Selector {
        namespace: Some(Namespace::parse("prod").unwrap()),
        ..all()
    };
    let mut web = world.open(prefix("we"), Start::Now).unwrap();
    let mut prod = world.open(prod, Start::Now).unwrap();
    let in_prod = spec(key("prod", "api", "a"), "z1");
    world.apply(
        0,
        vec![
            put("web", "a", "z1"),
            put("api", "a", "z1"),
            register(in_prod, Hold::Permanent),
        ],
    );
    world.apply(
        0,
        vec![batch(vec![
            spec(key("prod", "we", "b"), "z1"),
            spec(key("default", "w", "b"), "z1"),
        ])],
    );
    assert_eq!(web.drain(), [step(1), step(4)]);
    assert_eq!(prod.drain(), [step(3), step(4)]);
}

#[tokio::test]
async fn a_waiting_watcher_is_woken() {
    let mut world = World::new(limits());
    let mut watcher = world.open(services(&["web"]), Start::Now).unwrap();
    let waiting = tokio::spawn(async move { watcher.next().await });
    tokio::task::yield_now().await;
    world.apply(0, vec![put("api", "a", "z1")]);
    world.apply(0, vec![put("web", "a", "z1")]);
    assert_eq!(within_deadline(waiting).await.unwrap(), step(2));
}

#[tokio::test]
async fn a_next_that_is_dropped_while_it_waits_takes_nothing() {
    let mut world = World::new(limits());
    let mut watcher = world.open(all(), Start::Now).unwrap();
    for i in 0..10 {
        assert_eq!(watcher.look(), Seen::Nothing);
        tokio::select! {
            biased;
            seen = watcher.next() => panic!("nothing was published, and yet {seen:?}"),
            () = tokio::task::yield_now() => {}
        }
        world.apply(0, vec![put("web", &format!("i{i}"), "z1")]);
        assert_eq!(within_deadline(watcher.next()).await, step(i + 1));
    }
}

#[tokio::test]
async fn who_waits_for_an_index_or_a_revision_is_woken_when_it_is_readable() {
    let mut world = World::new(limits());
    let hub = Arc::clone(&world.hub);
    within_deadline(hub.wait_applied(LogIndex(0))).await;
    within_deadline(hub.wait_revision(Revision(0))).await;
    let applied = tokio::spawn({
        let hub = Arc::clone(&hub);
        async move {
            hub.wait_applied(LogIndex(3)).await;
            hub.view().applied
        }
    });
    let reached = tokio::spawn(async move {
        hub.wait_revision(Revision(2)).await;
        hub.view().state.revision()
    });
    tokio::task::yield_now().await;
    world.apply(0, vec![put("web", "a", "z1")]);
    world.apply(0, vec![put("web", "a", "z1")]);
    tokio::task::yield_now().await;
    assert!(!applied.is_finished() && !reached.is_finished());
    let own = Hold::Own { ttl: ttl(1_000) };
    world.apply(0, vec![register(spec(key("default", "web", "b"), "z1"), own)]);
    assert_eq!(within_deadline(applied).await.unwrap(), world.applied());
    assert_eq!(within_deadline(reached).await.unwrap(), Revision(2));
}

async fn within_deadline<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("it comes within 10 s")
}
