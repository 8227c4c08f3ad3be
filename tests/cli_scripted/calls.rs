//! Which calls go on to another node, and which must not.

use std::{net::TcpListener, time::Duration};

use roster::{
    client::{Client, Error, Options},
    wire::{
        error::{Reason, WriteOutcome},
        v1,
    },
};

use crate::{
    client,
    node::{Mode, Node},
    nodes,
    registry::Registry,
    soon,
};

fn key(id: &str) -> Option<v1::InstanceKey> {
    Some(v1::InstanceKey {
        namespace: String::new(),
        service: "web".into(),
        id: id.into(),
    })
}

fn update(id: &str) -> v1::UpdateRequest {
    v1::UpdateRequest {
        key: key(id),
        weight: Some(7),
        ..Default::default()
    }
}

fn register(id: &str) -> v1::RegisterRequest {
    v1::RegisterRequest {
        instance: Some(v1::Instance {
            key: key(id),
            address: "10.0.0.7".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_call_goes_on_to_the_node_that_can() {
    let registry = Registry::new();
    let [first, second] = nodes(&registry);
    registry.put("web", "1");
    first.set(Mode::Refusing(Reason::NoLeader, Some(WriteOutcome::NotApplied)));
    let client = client(&[&first, &second]);
    let updated = soon("an update", client.update(update("1"))).await.expect("updated");
    assert_eq!(updated.instance.and_then(|instance| instance.weight), Some(7));
    // And the next call begins there.
    let got = client
        .get(v1::GetRequest {
            key: key("1"),
            read: None,
        })
        .await;
    assert!(got.is_ok());
    assert_eq!((first.calls("get"), second.calls("get")), (0, 1));
}

#[tokio::test]
async fn a_write_that_may_have_been_applied_is_not_sent_again() {
    let registry = Registry::new();
    let [first, second] = nodes(&registry);
    registry.put("web", "1");
    first.set(Mode::Forgetful);
    let client = client(&[&first, &second]);
    let error = soon("an update", client.update(update("1")))
        .await
        .expect_err("forgotten");
    assert_eq!(error.outcome(), Some(WriteOutcome::Unknown));
    assert_eq!(error.reason(), Some(Reason::LeaderChanged));
    assert_eq!(second.calls("update"), 0);
}

#[tokio::test]
async fn a_register_with_an_id_may_be_sent_again_and_one_without_may_not() {
    let registry = Registry::new();
    let [first, second] = nodes(&registry);
    first.set(Mode::Forgetful);
    let registered = soon("a register", client(&[&first, &second]).register(register("1"))).await;
    let registered = registered.expect("registered");
    assert_eq!(registered.outcome(), v1::register_response::Outcome::Unchanged);
    assert_eq!((first.calls("register"), second.calls("register")), (1, 1));

    let error = soon("a register", client(&[&first, &second]).register(register(""))).await;
    assert_eq!(error.map_err(|error| error.outcome()), Err(Some(WriteOutcome::Unknown)));
    assert_eq!(second.calls("register"), 1);
}

/// A port that takes a request and then hangs up.
fn hanging_up() -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let thread = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut connection, _) = listener.accept().expect("a client");
        // Settings and their acknowledgement, so that the client believes in the connection and sends its request.
        let mut bytes = [0; 1_024];
        let mut read = 0;
        connection.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).expect("settings");
        // The preface is 24 bytes; what follows its frames is the request.
        while read < 150 {
            match connection.read(&mut bytes) {
                Ok(0) | Err(_) => break,
                Ok(count) => read += count,
            }
        }
    });
    (address, thread)
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_write_leaves_its_outcome_unknown() {
    let registry = Registry::new();
    let node = Node::start("n1", &registry);
    registry.put("web", "1");
    let options = Options {
        spread: false,
        ..Options::default()
    };

    let (broken, thread) = hanging_up();
    let list = format!("{broken},{}", node.address);
    let client = Client::new(list.parse().expect("a list"), options.clone());
    let error = soon("an update", client.update(update("1"))).await.expect_err("broken");
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");
    assert_eq!(error.outcome(), Some(WriteOutcome::Unknown));
    assert_eq!(node.calls("update"), 0);
    thread.join().expect("hung up");

    let (broken, thread) = hanging_up();
    let list = format!("{broken},{}", node.address);
    let client = Client::new(list.parse().expect("a list"), options);
    let read = soon(
        "a read",
        client.get(v1::GetRequest {
            key: key("1"),
            read: None,
        }),
    )
    .await;
    assert!(read.is_ok(), "{read:?}");
    thread.join().expect("hung up");
}

#[tokio::test]
async fn a_write_goes_on_from_where_nobody_listens() {
    let registry = Registry::new();
    let [mut first, second] = nodes(&registry);
    registry.put("web", "1");
    first.stop();
    let client = client(&[&first, &second]);
    assert!(soon("an update", client.update(update("1"))).await.is_ok());
}

#[tokio::test]
async fn no_connection_anywhere_is_said_soon_and_nothing_was_applied() {
    let registry = Registry::new();
    let [mut first, mut second] = nodes(&registry);
    first.stop();
    second.stop();
    let client = client(&[&first, &second]);
    let began = std::time::Instant::now();
    let error = soon("an update", client.update(update("1"))).await.expect_err("nobody");
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert_eq!(error.outcome(), Some(WriteOutcome::NotApplied));
    assert!(error.is_unavailable());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn no_quorum_anywhere_is_said_within_the_patience() {
    let registry = Registry::new();
    let [first, second] = nodes(&registry);
    for node in [&first, &second] {
        node.set(Mode::Refusing(Reason::NoQuorum, Some(WriteOutcome::NotApplied)));
    }
    let client = client(&[&first, &second]);
    let began = std::time::Instant::now();
    let error = soon("an update", client.update(update("1")))
        .await
        .expect_err("no quorum");
    assert_eq!(error.reason(), Some(Reason::NoQuorum));
    assert_eq!(error.outcome(), Some(WriteOutcome::NotApplied));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(first.calls("update") > 1 && second.calls("update") > 1);
}

#[tokio::test]
async fn a_node_that_never_answers_is_left() {
    let registry = Registry::new();
    let [first, second] = nodes(&registry);
    registry.put("web", "1");
    first.set(Mode::Silent);
    let client = client(&[&first, &second]);
    let read = soon(
        "a read",
        client.get(v1::GetRequest {
            key: key("1"),
            read: None,
        }),
    )
    .await;
    assert!(read.is_ok(), "{read:?}");
}

#[tokio::test]
async fn a_deadline_travels_with_the_request_and_is_kept() {
    let registry = Registry::new();
    let [first] = nodes(&registry);
    registry.put("web", "1");
    let client = client(&[&first]).with_timeout(Duration::from_millis(400));
    assert!(
        client
            .get(v1::GetRequest {
                key: key("1"),
                read: None
            })
            .await
            .is_ok()
    );
    let sent = first.last_call().and_then(|call| call.grpc_timeout);
    let micros = sent
        .as_deref()
        .and_then(|text| text.strip_suffix('u'))
        .and_then(|n| n.parse::<u64>().ok());
    assert!(micros.is_some_and(|n| (1..=400_000).contains(&n)), "{sent:?}");

    first.set(Mode::Silent);
    let began = std::time::Instant::now();
    let error = soon("an update", client.update(update("1")))
        .await
        .expect_err("silence");
    assert!(matches!(error, Error::NoAnswer { .. }), "{error:?}");
    assert_eq!(error.outcome(), Some(WriteOutcome::Unknown));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_refused_request_is_not_carried_to_other_nodes() {
    let registry = Registry::new();
    let [first, second] = nodes(&registry);
    let mut request = register("1");
    request.instance.get_or_insert_default().address.clear();
    let client = client(&[&first, &second]);
    let error = soon("a register", client.register(request))
        .await
        .expect_err("no address");
    let detail = error.detail().expect("a node said why");
    assert_eq!(detail.reason, Reason::InvalidField);
    assert_eq!(detail.violations[0].0, "instance.address");
    assert_eq!(second.calls("register"), 0);
}

#[tokio::test]
async fn a_list_is_read_to_its_end_and_begun_again_when_its_pages_expire() {
    let registry = Registry::new();
    let [node] = nodes(&registry);
    for id in 0..7 {
        registry.put("web", &id.to_string());
    }
    node.page_size(3);
    let client = client(&[&node]);
    let whole = soon("a list", client.list_all(v1::ListRequest::default()))
        .await
        .expect("listed");
    assert_eq!(whole.instances.len(), 7);
    assert_eq!(whole.next_page_token, "");
    assert_eq!(node.calls("list"), 3);

    node.expire_pages(1);
    let whole = soon("a list", client.list_all(v1::ListRequest::default()))
        .await
        .expect("listed");
    assert_eq!(whole.instances.len(), 7);

    node.expire_pages(usize::MAX);
    let error = soon("a list", client.list_all(v1::ListRequest::default()))
        .await
        .expect_err("expired");
    assert!(matches!(error, Error::PagesExpired { .. }), "{error:?}");
}

#[tokio::test]
async fn what_no_node_can_confirm_is_asked_of_each_and_said_in_the_end() {
    let registry = Registry::new();
    let [first, second] = nodes(&registry);
    let lease = registry.grant(&v1::GrantLeaseRequest::default());
    first.set(Mode::Unconfirmed);
    let client = client(&[&first, &second]);
    let renewed = soon("a renewal", client.renew(vec![lease.lease_id]))
        .await
        .expect("answered");
    assert_eq!(renewed.results[0].outcome(), v1::renew_result::Outcome::Renewed);
    second.set(Mode::Unconfirmed);
    let renewed = soon("a renewal", client.renew(vec![lease.lease_id]))
        .await
        .expect("answered");
    assert_eq!(renewed.results[0].outcome(), v1::renew_result::Outcome::Unconfirmed);
}

#[tokio::test]
async fn a_port_that_speaks_something_else_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let thread = std::thread::spawn(move || {
        use std::io::Write as _;
        // As often as it is tried; ends with the test.
        while let Ok((mut connection, _)) = listener.accept() {
            let sent = connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            if sent.is_err() || connection.peer_addr().is_err() {
                break;
            }
        }
    });
    let client = Client::new(
        address.parse().expect("an endpoint"),
        Options {
            timeout: Duration::from_secs(1),
            ..Options::default()
        },
    );
    let error = soon("a status", client.node_status()).await.expect_err("no node");
    assert!(error.to_string().contains(&address), "{error}");
    assert!(error.is_unavailable(), "{error:?}");
    drop(thread);
}
