//! Many watchers on many threads while one publishes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use rand::{Rng, SeedableRng, rngs::StdRng};
use roster::{
    model::{Hold, Revision, Selector},
    registry::Command,
    watch::{Delivery, Hub, HubLimits, Start},
};
use tokio::sync::{Notify, watch};

use crate::world::{
    Memory, Observer, World, all, batch, deregister, grant, in_zone, key, lease, limits, register, services, spec, ttl,
};

const SERVICES: [&str; 4] = ["api", "db", "web", "webhook"];
const ZONES: [&str; 3] = ["z1", "z2", "z3"];
const ENTRIES: usize = 4_000;
const WATCHERS: usize = 50;
const DEADLINE: Duration = Duration::from_secs(60);

fn random_command(random: &mut StdRng) -> Command {
    let key = key(
        "default",
        SERVICES[random.random_range(0..SERVICES.len())],
        &format!("i{}", random.random_range(0..8)),
    );
    let instance = spec(key.clone(), ZONES[random.random_range(0..ZONES.len())]);
    match random.random_range(0..12) {
        0 => grant(random.random_range(0..3), 2_000),
        1 => deregister(key),
        2 => register(instance, Hold::Own { ttl: ttl(1_000) }),
        3 | 4 => register(
            instance,
            Hold::Shared {
                lease_id: lease(random.random_range(0..3)),
            },
        ),
        5 => batch(
            SERVICES
                .map(|service| spec(self::key("default", service, "b"), "z1"))
                .to_vec(),
        ),
        _ => register(instance, Hold::Permanent),
    }
}

fn random_selector(random: &mut StdRng) -> Selector {
    match random.random_range(0..5) {
        0 => all(),
        1 => in_zone(all(), "z1"),
        2 => services(&["web", "api"]),
        3 => in_zone(services(&["db"]), "z2"),
        _ => services(&["webhook"]),
    }
}

/// A watcher that starts somewhere, dawdles, ends now and then, and resumes where it was.
async fn watch_to_the_end(
    hub: Arc<Hub>,
    memory: Arc<std::sync::Mutex<Memory>>,
    mut finished: watch::Receiver<Option<Revision>>,
    seed: u64,
) -> Revision {
    let mut random = StdRng::seed_from_u64(seed);
    hub.wait_revision(Revision(random.random_range(0..2_000))).await;
    let selector = random_selector(&mut random);
    let mut watcher = if random.random() {
        Observer::open(&hub, &memory, selector, Start::Snapshot, Default::default()).unwrap()
    } else {
        // Who lists and then watches from there.
        let seen = hub.view().state.revision();
        let view = memory.lock().unwrap().selected(&selector, seen);
        Observer::open(&hub, &memory, selector, Start::After(seen), view).unwrap()
    };
    loop {
        let end = *finished.borrow_and_update();
        if end.is_some_and(|end| watcher.watch_position() >= end) {
            return watcher.watch_position();
        }
        tokio::select! {
            _ = watcher.next() => {}
            changed = finished.changed(), if end.is_none() => changed.expect("the publisher says when it is done"),
        }
        for _ in 0..random.random_range(0..4) * random.random_range(0..200) {
            tokio::task::yield_now().await;
        }
        if random.random_ratio(1, 40) && watcher.has_view() {
            let (selector, position, view) = watcher.end();
            watcher = Observer::open(&hub, &memory, selector, Start::After(position), view).unwrap();
        }
    }
}

async fn run(limits: HubLimits, seed: u64) {
    println!("seed {seed}");
    let mut world = World::new(limits);
    let (done, finished) = watch::channel(None);
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|n| {
            let (hub, memory) = (Arc::clone(&world.hub), Arc::clone(&world.memory));
            tokio::spawn(watch_to_the_end(hub, memory, finished.clone(), seed + n as u64))
        })
        .collect();
    let publisher = tokio::task::spawn_blocking(move || {
        let mut random = StdRng::seed_from_u64(seed);
        for entry in 0..ENTRIES {
            let commands = (0..random.random_range(0..4))
                .map(|_| random_command(&mut random))
                .collect();
            if entry % 500 == 499 {
                world.apply_unpublished(50, commands);
                world.install();
            } else {
                world.apply(50, commands);
            }
        }
        done.send_replace(Some(world.revision()));
        world
    });
    let world = publisher.await.unwrap();
    for watcher in watchers {
        let position = tokio::time::timeout(DEADLINE, watcher)
            .await
            .expect("every watcher reaches the end")
            .unwrap();
        assert_eq!(position, world.revision());
    }
    let stats = world.hub.stats();
    println!("{stats:?}");
    assert_eq!((stats.watches, stats.queued_bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn watchers_that_keep_pace_see_everything_while_writes_go_on() {
    run(limits(), rand::random::<u32>().into()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn watchers_that_overflow_all_the_time_see_everything_too() {
    let tight = HubLimits {
        history_changes: 60,
        queue_changes: 5,
        ..limits()
    };
    run(tight, rand::random::<u32>().into()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn waiters_for_a_revision_are_never_forgotten() {
    let mut world = World::new(limits());
    let waiters: Vec<_> = (1..=200_u64)
        .map(|n| {
            let hub = Arc::clone(&world.hub);
            tokio::spawn(async move {
                hub.wait_revision(Revision(n)).await;
                assert!(hub.view().state.revision() >= Revision(n));
                hub.wait_applied(roster::model::LogIndex(n)).await;
                assert!(hub.view().applied.0 >= n);
            })
        })
        .collect();
    let publisher = tokio::task::spawn_blocking(move || {
        for n in 1..=200 {
            world.apply(0, vec![crate::world::put("web", &format!("i{n}"), "z")]);
        }
    });
    publisher.await.unwrap();
    for waiter in waiters {
        tokio::time::timeout(DEADLINE, waiter)
            .await
            .expect("every waiter is woken")
            .unwrap();
    }
}

/// A batch that changes the first and the last of the services at one revision.
fn both_ends(n: usize) -> Command {
    let zone = format!("z{n}");
    batch(
        ["a", "z"]
            .map(|service| spec(key("default", service, "i"), &zone))
            .to_vec(),
    )
}

/// Watches that make it take a while until a change of `a` has been handed to all, and one of `z` follows.
fn crowd(world: &World) -> Vec<roster::watch::Watch> {
    (0..300)
        .map(|_| world.hub.watch(services(&["a"]), Start::Now).unwrap())
        .collect()
}

#[test]
fn a_revision_is_never_seen_in_part_while_it_is_handed_out() {
    const BATCHES: usize = 3_000;
    let mut world = World::new(HubLimits {
        queue_changes: 2 * BATCHES,
        ..limits()
    });
    let mut watch = world.hub.watch(services(&["a", "z"]), Start::Now).unwrap();
    let crowd = crowd(&world);
    let watcher = std::thread::spawn(move || {
        let mut seen = Revision(0);
        let begun = std::time::Instant::now();
        while seen.0 < BATCHES as u64 {
            assert!(begun.elapsed() < DEADLINE, "no more than {seen}");
            // Each revision is one for this watch: it is nowhere but where it has been led.
            assert_eq!(watch.position(), seen);
            if let Some(delivery) = watch.next().now_or_never() {
                let Delivery::Changes { changes, revision } = delivery else {
                    panic!("{delivery:?}");
                };
                assert_eq!((changes.len(), revision), (2, seen.next()));
                seen = revision;
            }
        }
    });
    for n in 0..BATCHES {
        world.apply(0, vec![both_ends(n)]);
    }
    watcher.join().expect("it saw every revision whole");
    drop(crowd);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_looks_while_a_revision_is_handed_out_is_woken_for_it() {
    const BATCHES: usize = 500;
    let mut world = World::new(limits());
    let mut watch = world.hub.watch(services(&["a", "z"]), Start::Now).unwrap();
    let crowd = crowd(&world);
    let (seen, mut last_seen) = watch::channel(Revision(0));
    let look = Arc::new(Notify::new());
    let looking = Arc::clone(&look);
    let watcher = tokio::spawn(async move {
        while watch.position().0 < BATCHES as u64 {
            tokio::select! {
                _ = watch.next() => { seen.send_replace(watch.position()); }
                () = looking.notified() => {}
            }
        }
    });
    for n in 0..BATCHES {
        // It is made to look while the batch is being handed out, and then waits for the hub alone. The next batch
        // comes only when this one was seen: one lost wake-up, and all stands still.
        let look = Arc::clone(&look);
        world = tokio::task::spawn_blocking(move || {
            look.notify_one();
            world.apply(0, vec![both_ends(n)]);
            world
        })
        .await
        .unwrap();
        let published = world.revision();
        tokio::time::timeout(DEADLINE, last_seen.wait_for(|seen| *seen >= published))
            .await
            .expect("the watcher is woken")
            .unwrap();
    }
    watcher.await.unwrap();
    drop(crowd);
}

#[test]
fn history_and_live_join_without_gap_or_duplicate_while_writes_go_on() {
    const RESUMES: usize = 300;
    const BEHIND: u64 = 2_000;
    let mut world = World::new(limits());
    let hub = Arc::clone(&world.hub);
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut n = 0_u64;
            while n < BEHIND || !stop.load(Ordering::Relaxed) {
                n += 1;
                world.apply(
                    0,
                    vec![crate::world::put("web", &format!("i{}", n % 5), &format!("z{n}"))],
                );
            }
        }
    });
    for _ in 0..RESUMES {
        let mut last = Revision(hub.view().state.revision().0.saturating_sub(BEHIND));
        let mut watch = hub.watch(services(&["web"]), Start::After(last)).unwrap();
        assert_eq!(watch.position(), last);
        for _ in 0..BEHIND + 5 {
            let Some(delivery) = watch.next().now_or_never() else {
                continue;
            };
            let Delivery::Changes { changes, revision } = delivery else {
                panic!("{delivery:?}");
            };
            assert_eq!((changes.len(), revision), (1, last.next()));
            last = revision;
        }
    }
    stop.store(true, Ordering::Relaxed);
    publisher.join().expect("it only publishes");
}
