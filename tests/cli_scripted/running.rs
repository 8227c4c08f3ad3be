//! `roster run`: the command and its registration live and end together.

use std::{net::TcpListener, time::Instant};

use roster::wire::v1::instance::Status;
use rustix::process::Signal;

use crate::{
    SOON, endpoints,
    loopback::free_address,
    node::Node,
    nodes,
    registry::Registry,
    terminal::{Running, roster},
};

fn one_node() -> (Registry, Node, String) {
    let registry = Registry::new();
    let [node] = nodes(&registry);
    let at = endpoints(&[&node]);
    (registry, node, at)
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < SOON, "still not so: {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn status(registry: &Registry) -> Option<Status> {
    registry.instance("web", "1").map(|instance| instance.status())
}

/// `roster run web/1 …` around a shell script.
fn script(flags: &[&str], script: &str) -> Vec<String> {
    let mut words: Vec<String> = ["run", "web/1", "--address", "127.0.0.1"].map(str::to_owned).to_vec();
    words.extend(flags.iter().map(|&flag| flag.to_owned()));
    words.extend(["--", "sh", "-c", script].map(str::to_owned));
    words
}

fn start(at: &str, words: &[String]) -> Running {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Running::start(at, &words)
}

#[test]
fn it_is_starting_until_its_first_port_accepts() {
    let (registry, _node, at) = one_node();
    // Nobody listens there until this test does.
    let address = free_address();
    let mut words = script(&["--port", &address.port().to_string()], "exec sleep 60");
    words[3] = address.ip().to_string();
    let running = start(&at, &words);
    until("it is registered", || status(&registry).is_some());
    assert_eq!(status(&registry), Some(Status::Starting));
    let listener = TcpListener::bind(address).expect("the port is free");
    until("it is up", || status(&registry) == Some(Status::Up));
    drop(listener);
    running.send(Signal::TERM);
    let ran = running.end();
    assert_eq!(ran.code, Some(143), "{ran:?}");
    assert_eq!(status(&registry), None, "{ran:?}");
}

#[test]
fn without_waiting_it_is_up_at_once() {
    let (registry, _node, at) = one_node();
    let running = start(&at, &script(&["--port", "1", "--no-wait"], "exec sleep 60"));
    until("it is registered", || status(&registry).is_some());
    assert_eq!(status(&registry), Some(Status::Up));
    running.send(Signal::TERM);
    assert_eq!(running.end().code, Some(143));
}

#[test]
fn it_exits_as_the_command_does_and_is_gone_then() {
    let (registry, node, at) = one_node();
    for (text, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)] {
        let ran = start(&at, &script(&["--require"], text)).end();
        assert_eq!(ran.code, Some(code), "{text}: {ran:?}");
        assert_eq!(status(&registry), None, "{text}: {ran:?}");
    }
    assert_eq!(node.calls("deregister"), 3);
}

#[test]
fn signals_are_passed_on() {
    let (_registry, _node, at) = one_node();
    let text = "trap 'echo usr1' USR1; trap 'echo hup' HUP; trap 'echo int; exit 3' INT; echo ready; \
                while :; do sleep 0.02; done";
    let running = start(&at, &script(&[], text));
    running.until_seen("ready");
    running.send(Signal::USR1);
    running.until_seen("usr1");
    running.send(Signal::HUP);
    running.until_seen("hup");
    running.send(Signal::INT);
    let ran = running.end();
    assert_eq!(ran.code, Some(3), "{ran:?}");
}

#[test]
fn the_command_starts_without_a_cluster_and_is_registered_when_there_is_one() {
    let (registry, mut node, at) = one_node();
    node.stop();
    let running = start(&at, &script(&[], "echo started; exec sleep 60"));
    running.until_seen("started");
    running.until_seen("trying again");
    node.serve();
    until("it is registered", || status(&registry).is_some());
    running.send(Signal::TERM);
    assert_eq!(running.end().code, Some(143));
    assert_eq!(status(&registry), None);
}

#[test]
fn with_require_the_command_does_not_start_without_a_cluster() {
    let (_registry, mut node, at) = one_node();
    node.stop();
    let ran = start(&at, &script(&["--require"], "echo started")).end();
    assert_eq!((ran.code, ran.out.as_str()), (Some(3), ""), "{ran:?}");
}

#[test]
fn it_is_registered_again_after_its_lease_was_lost() {
    let (registry, _node, at) = one_node();
    let running = start(&at, &script(&["--ttl", "1s"], "exec sleep 60"));
    until("it is registered", || status(&registry).is_some());
    let lease = registry.instance("web", "1").map(|instance| instance.lease_id);
    registry.expire(lease.expect("registered"));
    until("it is registered again", || status(&registry).is_some());
    running.send(Signal::TERM);
    assert_eq!(running.end().code, Some(143));
}

#[test]
fn a_command_that_cannot_start_leaves_nothing_behind() {
    let (registry, _node, at) = one_node();
    let ran = roster(
        &at,
        &[
            "run",
            "web/1",
            "--address",
            "127.0.0.1",
            "--require",
            "--",
            "/no/such/program",
        ],
    );
    assert_eq!(ran.code, Some(127), "{ran:?}");
    assert!(ran.err.contains("cannot start /no/such/program"), "{}", ran.err);
    assert_eq!(status(&registry), None);
}
