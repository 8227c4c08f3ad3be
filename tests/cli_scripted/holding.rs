//! Keeping a lease alive: over other nodes, again after its end, and what the application learns meanwhile.

use std::time::{Duration, Instant};

use roster::{
    client::{KeepAlive, KeepAliveEvent, Registration, RegistrationState},
    wire::{error::Reason, v1},
};

use crate::{
    client,
    node::{Mode, Node},
    nodes,
    registry::Registry,
    soon, until,
};

const TTL: Duration = Duration::from_secs(2);

fn instance() -> v1::Instance {
    v1::Instance {
        key: Some(v1::InstanceKey {
            namespace: String::new(),
            service: "web".into(),
            id: "1".into(),
        }),
        address: "10.0.0.7".into(),
        ..Default::default()
    }
}

async fn registered(nodes: &[&Node]) -> Registration {
    let started = soon(
        "a registration",
        Registration::start(client(nodes), instance(), Some(TTL)),
    )
    .await;
    started.expect("registered").0
}

#[tokio::test]
async fn a_registration_renews_its_lease_and_deregisters_in_the_end() {
    let registry = Registry::new();
    let [node] = nodes(&registry);
    let registration = registered(&[&node]).await;
    let known = registry.instance("web", "1").expect("registered");
    assert!(known.incarnation > 0, "the library gives each life a number");
    until("three renewals", || node.calls("renewal") >= 3).await;
    assert!(registration.is_held());
    assert_eq!(node.calls("keep_alive"), 1, "on one stream");
    let answer = soon("closing", registration.close()).await.expect("deregistered");
    assert!(answer.existed);
    assert!(registry.instance("web", "1").is_none());
}

#[tokio::test]
async fn a_renewal_that_is_not_confirmed_goes_to_another_node() {
    let registry = Registry::new();
    let [first, second] = nodes(&registry);
    let registration = registered(&[&first, &second]).await;
    first.set(Mode::Unconfirmed);
    until("renewals elsewhere", || second.calls("renewal") >= 3).await;
    assert!(registration.is_held());
    assert_eq!(second.calls("register"), 0, "the lease was never lost");
}

#[tokio::test]
async fn a_silent_node_is_left_before_the_lease_is_lost() {
    let registry = Registry::new();
    let [first, second] = nodes(&registry);
    let registration = registered(&[&first, &second]).await;
    until("a renewal", || first.calls("renewal") >= 1).await;
    first.set(Mode::Silent);
    until("renewals elsewhere", || second.calls("renewal") >= 2).await;
    assert!(registration.is_held());
    assert_eq!(second.calls("register"), 0, "the lease was never lost");
}

#[tokio::test]
async fn a_broken_stream_is_opened_at_another_node_at_once() {
    let registry = Registry::new();
    let [mut first, second] = nodes(&registry);
    let registration = registered(&[&first, &second]).await;
    until("a renewal", || first.calls("renewal") >= 1).await;
    first.stop();
    until("renewals elsewhere", || second.calls("renewal") >= 2).await;
    assert!(registration.is_held());
    assert_eq!(second.calls("register"), 0, "the lease was never lost");
}

#[tokio::test]
async fn an_instance_whose_lease_ended_is_registered_again_as_the_same_life() {
    let registry = Registry::new();
    let [node] = nodes(&registry);
    let registration = registered(&[&node]).await;
    let before = registry.instance("web", "1").expect("registered");
    registry.expire(before.lease_id);
    until("it is back", || registry.instance("web", "1").is_some()).await;
    let after = registry.instance("web", "1").expect("registered");
    assert_eq!(after.incarnation, before.incarnation);
    assert_ne!(after.lease_id, before.lease_id);
    until("it is held", || registration.is_held()).await;
}

#[tokio::test]
async fn an_instance_that_its_lease_no_longer_holds_is_registered_again() {
    let registry = Registry::new();
    let [node] = nodes(&registry);
    let _registration = registered(&[&node]).await;
    let before = registry.instance("web", "1").expect("registered");
    registry.empty(before.lease_id);
    until("it is back", || registry.instance("web", "1").is_some()).await;
}

#[tokio::test]
async fn the_application_learns_that_the_lease_is_lost_before_it_can_be() {
    let registry = Registry::new();
    let [mut first, mut second] = nodes(&registry);
    let mut registration = registered(&[&first, &second]).await;
    until("a renewal", || first.calls("renewal") >= 1).await;
    first.stop();
    second.stop();
    // What was acknowledged last was sent before now.
    let stopped = Instant::now();
    loop {
        if matches!(soon("the loss", registration.changed()).await, RegistrationState::Lost) {
            break;
        }
    }
    assert!(stopped.elapsed() < TTL, "told after {:?}", stopped.elapsed());
    assert!(!registration.is_held());

    second.serve();
    until("it is held again", || registration.is_held()).await;
    assert!(second.calls("register") >= 1);
}

#[tokio::test]
async fn a_life_that_has_a_successor_ends_and_leaves_it_alone() {
    let registry = Registry::new();
    let [node] = nodes(&registry);
    let mut registration = registered(&[&node]).await;
    registry.succeed("web", "1");
    let error = loop {
        if let RegistrationState::Ended(error) = soon("the end", registration.changed()).await {
            break error;
        }
    };
    assert_eq!(error.reason(), Some(Reason::Fenced));
    let answer = soon("closing", registration.close()).await.expect("nothing to do");
    assert!(!answer.existed);
    assert!(registry.instance("web", "1").is_some(), "the successor's record stays");
}

#[tokio::test]
async fn a_change_of_what_is_registered_is_registered_under_the_same_lease() {
    let registry = Registry::new();
    let [node] = nodes(&registry);
    let registration = registered(&[&node]).await;
    let before = registry.instance("web", "1").expect("registered");
    registration.update(|instance| {
        instance.set_status(v1::instance::Status::Draining);
        instance.incarnation = 0;
    });
    let draining = v1::instance::Status::Draining;
    until("it drains", || {
        registry
            .instance("web", "1")
            .is_some_and(|now| now.status() == draining)
    })
    .await;
    let after = registry.instance("web", "1").expect("registered");
    assert_eq!(
        (after.lease_id, after.incarnation),
        (before.lease_id, before.incarnation)
    );
}

#[tokio::test]
async fn a_registration_that_begins_without_a_cluster_comes_about_with_it() {
    let registry = Registry::new();
    let [mut node] = nodes(&registry);
    node.stop();
    let mut registration = Registration::begin(client(&[&node]), instance(), Some(TTL));
    let problem = loop {
        if let RegistrationState::Registering { problem: Some(problem) } =
            soon("a first failure", registration.changed()).await
        {
            break problem;
        }
    };
    assert!(problem.is_unavailable());
    node.serve();
    until("it is held", || registration.is_held()).await;
}

#[tokio::test]
async fn what_never_was_registered_needs_no_deregistering() {
    let registry = Registry::new();
    let [mut node] = nodes(&registry);
    node.stop();
    let registration = Registration::begin(client(&[&node]), instance(), Some(TTL));
    let began = Instant::now();
    let closed = soon("closing", registration.close()).await;
    // An attempt that was under way is of unknown outcome, and then it is asked for; at most one patience.
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}: {closed:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_refused_registration_says_why() {
    let registry = Registry::new();
    let [node] = nodes(&registry);
    let mut nowhere = instance();
    nowhere.address.clear();
    let started = soon("a registration", Registration::start(client(&[&node]), nowhere, None)).await;
    let error = started.map(|_| ()).expect_err("refused");
    assert_eq!(error.reason(), Some(Reason::InvalidField));
}

#[tokio::test]
async fn a_lease_alone_is_kept_alive_and_its_end_is_told() {
    let registry = Registry::new();
    let [first, second] = nodes(&registry);
    let lease = registry.grant(&v1::GrantLeaseRequest {
        lease_id: 0,
        ttl: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
    });
    let mut kept = KeepAlive::start(client(&[&first, &second]), lease.lease_id, TTL);
    let event = soon("a renewal", kept.next()).await;
    assert!(matches!(event, Some(KeepAliveEvent::Renewed { .. })), "{event:?}");
    first.set(Mode::Unconfirmed);
    let hop = loop {
        match soon("a hop", kept.next()).await {
            Some(KeepAliveEvent::Hop(error)) => break error,
            Some(KeepAliveEvent::Renewed { .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(hop.to_string().contains("could not be confirmed"), "{hop}");
    registry.revoke(lease.lease_id);
    loop {
        match soon("the end", kept.next()).await {
            Some(KeepAliveEvent::Gone) => break,
            Some(KeepAliveEvent::Renewed { .. } | KeepAliveEvent::Hop(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(soon("nothing more", kept.next()).await.is_none());
}
