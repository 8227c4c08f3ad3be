//! What publishing costs: with many watchers of one service, and with many who watch something else.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use roster::watch::{Start, Watch};

use crate::world::{World, limits, put, services};

const WATCHERS: usize = 10_000;
const ROUNDS: u32 = 50;

fn open(world: &World, watchers: usize, service: impl Fn(usize) -> String) -> Vec<Watch> {
    (0..watchers)
        .map(|n| world.hub.watch(services(&[&service(n)]), Start::Now).unwrap())
        .collect()
}

/// What applying and publishing one change takes, on average.
fn publish(world: &mut World, watches: &mut [Watch]) -> Duration {
    let mut spent = Duration::ZERO;
    for n in 0..ROUNDS {
        let commands = vec![put("web", "a", &format!("z{n}"))];
        let begun = Instant::now();
        world.apply(0, commands);
        spent += begun.elapsed();
        for watch in &mut *watches {
            assert!(watch.next().now_or_never().is_some());
        }
    }
    spent / ROUNDS
}

#[test]
fn ten_thousand_watchers_of_one_service_are_served_in_passing() {
    let mut world = World::new(limits());
    let mut watches = open(&world, WATCHERS, |_| "web".to_owned());
    let each = publish(&mut world, &mut watches);
    println!(
        "{} ns a publish, {} ns a watcher",
        each.as_nanos(),
        each.as_nanos() / WATCHERS as u128
    );
    // Some 2.5 ms on a quiet machine, not optimised: what this guards against is another order of growth.
    assert!(each < Duration::from_millis(200), "{each:?}");
}

#[test]
fn watchers_of_other_services_cost_a_publish_nothing() {
    let mut world = World::new(limits());
    let watches = open(&world, WATCHERS, |n| format!("other-{n}"));
    let each = publish(&mut world, &mut []);
    println!(
        "{} ns a publish beside {} watchers of other services",
        each.as_nanos(),
        watches.len()
    );
    assert!(each < Duration::from_millis(5), "{each:?}");
    assert_eq!(world.hub.stats().queued_bytes, 0);
}

#[test]
fn nobody_is_waited_for() {
    let mut world = World::new(limits());
    let watches = open(&world, 100, |_| "web".to_owned());
    let begun = Instant::now();
    for n in 0..2_000 {
        world.apply(0, vec![put("web", "a", &format!("z{n}"))]);
    }
    let spent = begun.elapsed();
    println!("2000 publishes to 100 watchers that never read: {spent:?}");
    assert!(spent < Duration::from_secs(30));
    assert_eq!(world.hub.stats().watches, watches.len());
}
