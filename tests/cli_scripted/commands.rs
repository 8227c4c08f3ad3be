//! The commands: what they print, in each format, and how they exit.

use roster::wire::{
    error::{Reason, WriteOutcome},
    v1,
};
use rustix::process::Signal;

use crate::{
    endpoints,
    node::{Mode, Node},
    nodes,
    registry::Registry,
    terminal::{Running, first_line_only, roster},
};

fn one_node() -> (Registry, Node, String) {
    let registry = Registry::new();
    let [node] = nodes(&registry);
    let at = endpoints(&[&node]);
    (registry, node, at)
}

#[test]
fn register_says_what_it_did_when_it_expires_and_how_to_renew() {
    let (registry, _node, at) = one_node();
    let ran = roster(
        &at,
        &["register", "web", "--port", "http=8080", "--tag", "a", "--meta", "k=v"],
    )
    .done();
    assert_eq!(
        ran.lines(),
        ["registered default/web/127.0.0.1:8080 at 127.0.0.1:8080 (created; lease 1, ttl 15s; revision 1)"]
    );
    assert!(
        ran.err.contains("expires in 15s") && ran.err.contains("roster lease renew 1"),
        "{}",
        ran.err
    );
    let known = registry.instance("web", "127.0.0.1:8080").expect("registered");
    assert_eq!((known.tags, known.incarnation), (vec!["a".to_owned()], 0));

    let ran = roster(
        &at,
        &[
            "register",
            "db/1",
            "--address",
            "db.example.com",
            "--port",
            "5432",
            "--permanent",
        ],
    )
    .done();
    assert!(ran.out.contains("permanent") && ran.err.is_empty(), "{ran:?}");
}

#[test]
fn register_prints_the_response_as_json() {
    let (_registry, _node, at) = one_node();
    let ran = roster(
        &at,
        &[
            "register",
            "web/1",
            "--address",
            "10.0.0.7",
            "--ttl",
            "1m",
            "-o",
            "json",
        ],
    )
    .done();
    let json = ran.json();
    assert_eq!(json["outcome"], "CREATED");
    assert_eq!(json["instance"]["leaseId"], "1");
    assert_eq!(json["instance"]["ttl"], "60s");
    assert_eq!(json["instance"]["status"], "UP");
    assert_eq!(json["instance"]["metadata"], serde_json::json!({}));
    assert_eq!(json["header"]["clusterId"], "00000000deadbeef");
    assert_eq!(ran.lines().len(), 1);
    assert_eq!(ran.err, "");
}

#[test]
fn list_follows_all_pages_and_aligns() {
    let (registry, node, at) = one_node();
    for id in ["1", "2", "3"] {
        registry.put("web", id);
    }
    node.page_size(2);
    let ran = roster(&at, &["list", "web"]).done();
    assert_eq!(
        ran.lines()[..2],
        [
            "SERVICE  ID  ENDPOINT       STATUS  WEIGHT  ZONE  TTL        AGE",
            "web      1   10.0.0.7:8080  UP      100     -     permanent  -",
        ]
    );
    assert_eq!(ran.lines().len(), 4);
    assert!(ran.out.lines().all(|line| !line.ends_with(' ')));
    let json = roster(&at, &["list", "-o", "json"]).done().json();
    assert_eq!(json["instances"].as_array().map(Vec::len), Some(3));
    assert_eq!(json["nextPageToken"], "");
}

#[test]
fn a_service_that_nobody_provides_is_an_empty_list() {
    let (_registry, _node, at) = one_node();
    let ran = roster(&at, &["list", "nobody"]).done();
    assert_eq!(ran.lines().len(), 1, "the header");
}

#[test]
fn an_instance_is_shown_changed_and_removed() {
    let (registry, _node, at) = one_node();
    registry.put("web", "1");
    assert!(roster(&at, &["get", "web/1"]).done().out.contains("10.0.0.7:8080"));
    let ran = roster(
        &at,
        &[
            "update", "web", "1", "--status", "draining", "--tag", "+x", "--tag", "-y",
        ],
    )
    .done();
    assert_eq!(ran.out, "updated default/web/1 (revision 2)\n");
    let known = registry.instance("web", "1").expect("there");
    assert_eq!(
        (known.status(), known.tags),
        (v1::instance::Status::Draining, vec!["x".to_owned()])
    );
    assert_eq!(
        roster(&at, &["deregister", "web/1"]).done().out,
        "deregistered default/web/1\n"
    );
    assert_eq!(
        roster(&at, &["deregister", "web/1"]).done().out,
        "default/web/1 was not registered\n"
    );
    let ran = roster(&at, &["get", "web/1"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.starts_with("error: INSTANCE_NOT_FOUND:"), "{}", ran.err);
}

#[test]
fn resolve_prints_what_can_be_connected_to() {
    let (registry, _node, at) = one_node();
    registry.put("web", "1");
    assert_eq!(roster(&at, &["resolve", "web"]).done().out, "10.0.0.7:8080\n");
    assert_eq!(
        roster(&at, &["resolve", "web", "--port", "http", "--one"]).done().out,
        "10.0.0.7:8080\n"
    );
    let ran = roster(&at, &["resolve", "web", "--port", "grpc"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert!(ran.err.contains("no instance of web serves with a port"), "{}", ran.err);
}

#[test]
fn services_and_namespaces_are_tables() {
    let (_registry, _node, at) = one_node();
    let ran = roster(&at, &["services"]).done();
    assert_eq!(ran.lines()[0], "SERVICE  UP  STARTING  DRAINING  DOWN");
    let ran = roster(&at, &["namespaces"]).done();
    assert_eq!(
        ran.lines(),
        ["NAMESPACE  SERVICES  INSTANCES", "default    1         2"]
    );
}

#[test]
fn wait_ends_when_enough_serve_and_fails_when_too_few_do() {
    let (registry, _node, at) = one_node();
    registry.put("web", "1");
    let ran = roster(&at, &["wait", "web", "--count", "2", "--timeout", "300ms"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("1 of web serve after 300ms, not 2"), "{}", ran.err);
    let waiting = Running::start(&at, &["wait", "web", "--count", "2"]);
    registry.put("web", "2");
    assert_eq!(waiting.end().done().out, "2 of web serve\n");
    // Longer than any clock counts: it waits all the same.
    let ran = roster(&at, &["wait", "web", "--count", "2", "--timeout", "580000000000y"]).done();
    assert_eq!(ran.out, "2 of web serve\n");
}

#[test]
fn leases_are_granted_renewed_shown_and_revoked() {
    let (registry, node, at) = one_node();
    let json = roster(&at, &["lease", "grant", "--ttl", "30s", "-o", "json"])
        .done()
        .json();
    assert_eq!(json["lease"]["leaseId"], "1");
    roster(&at, &["register", "web/1", "--address", "10.0.0.7", "--lease", "1"]).done();
    let ran = roster(&at, &["lease", "renew", "1"]).done();
    assert_eq!(ran.lines()[1], "1      RENEWED  30s  1");
    let ran = roster(&at, &["lease", "show", "1"]).done();
    assert!(ran.out.ends_with("\n  default/web/1\n"), "{}", ran.out);
    assert_eq!(roster(&at, &["lease", "list"]).done().lines().len(), 2);

    let ran = roster(&at, &["lease", "renew", "1", "77"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("no lease 77"), "{}", ran.err);
    node.set(Mode::Unconfirmed);
    let ran = roster(&at, &["lease", "renew", "1", "--timeout", "300ms"]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    node.set(Mode::Serving);

    let ran = roster(&at, &["lease", "revoke", "1"]).done();
    assert_eq!(ran.out, "revoked lease 1 (instances removed: 1)\n");
    assert!(registry.instance("web", "1").is_none());
    assert_eq!(
        roster(&at, &["lease", "revoke", "1"]).done().out,
        "there was no lease 1\n"
    );
}

#[test]
fn keep_alive_renews_until_it_is_told_to_end() {
    let (_registry, node, at) = one_node();
    roster(&at, &["lease", "grant", "--ttl", "1s"]).done();
    let kept = Running::start(&at, &["lease", "keep-alive", "1", "-o", "json"]);
    kept.until_seen(r#""outcome":"RENEWED""#);
    assert!(node.calls("renewal") >= 1);
    kept.send(Signal::INT);
    kept.end().done();
    let ran = roster(&at, &["lease", "keep-alive", "99"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
}

#[test]
fn cluster_status_shows_who_cannot_be_reached() {
    let registry = Registry::new();
    let [first, mut second] = nodes(&registry);
    let member = |name: &str, node: &Node| v1::Member {
        name: name.into(),
        client_address: node.address.to_string(),
        peer_address: "127.0.0.1:7500".into(),
        role: v1::member::Role::Voter.into(),
        ..Default::default()
    };
    first.members(vec![member("n1", &first), member("n2", &second)]);
    second.stop();
    let at = endpoints(&[&first]);
    let ran = roster(&at, &["cluster", "status"]).done();
    let lines = ran.lines();
    assert!(lines[1].starts_with("n1") && lines[1].contains("leader"), "{ran:?}");
    assert!(
        lines[2].starts_with("n2") && lines[2].contains("unreachable"),
        "{ran:?}"
    );
    let ran = roster(&at, &["cluster", "status", "-o", "json"]).done();
    let nodes: Vec<serde_json::Value> = ran
        .lines()
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    assert_eq!(nodes[0]["role"], "leader");
    assert_eq!(nodes[0]["error"], serde_json::Value::Null);
    assert_eq!(nodes[1]["error"]["code"], "UNAVAILABLE");
    let ran = roster(&at, &["cluster", "members"]).done();
    assert_eq!(ran.lines().len(), 3);
    let ran = roster(&endpoints(&[&second]), &["cluster", "status"]);
    assert_eq!(ran.code, Some(3));
    assert!(ran.out.contains("unreachable"), "{ran:?}");
}

#[test]
fn health_is_an_exit_code() {
    let (_registry, mut node, at) = one_node();
    assert_eq!(roster(&at, &["health"]).done().out, "SERVING\n");
    let ran = roster(&at, &["health", "--ready"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), "NOT_SERVING\n"));
    node.stop();
    assert_eq!(roster(&at, &["health"]).code, Some(3));
}

#[test]
fn failures_exit_as_they_should_and_are_objects_in_json() {
    let (registry, mut node, at) = one_node();
    registry.put("web", "1");
    let ran = roster(&at, &["register", "web/1", "--address", "", "-o", "json"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    let error: serde_json::Value = serde_json::from_str(&ran.err).expect("JSON");
    assert_eq!(error["code"], "INVALID_ARGUMENT");
    assert_eq!(error["reason"], "INVALID_FIELD");
    assert_eq!(error["outcome"], "not_applied");
    assert_eq!(error["details"]["fieldViolations"][0]["field"], "instance.address");

    assert_eq!(roster(&at, &["get", "web"]).code, Some(2));
    assert_eq!(roster(&at, &["list", "--max-age", "1s"]).code, Some(2));

    node.set(Mode::Refusing(Reason::NoQuorum, Some(WriteOutcome::NotApplied)));
    let ran = roster(&at, &["update", "web/1", "--weight", "1", "--timeout", "300ms"]);
    assert_eq!(ran.code, Some(3));
    assert!(
        ran.err.contains("NO_QUORUM") && ran.err.contains("roster cluster status"),
        "{}",
        ran.err
    );
    assert_eq!(ran.err.lines().count(), 1);

    node.set(Mode::Forgetful);
    let ran = roster(&at, &["update", "web/1", "--weight", "1", "--timeout", "300ms"]);
    assert_eq!(ran.code, Some(4));
    assert!(ran.err.contains("may have been applied"), "{}", ran.err);

    node.stop();
    let ran = roster(&at, &["list"]);
    assert_eq!(ran.code, Some(3));
    assert!(
        ran.err.contains("cannot connect") && ran.err.contains("ROSTER_ENDPOINTS"),
        "{}",
        ran.err
    );
}

#[test]
fn watch_tells_who_comes_goes_and_changes_and_where_to_go_on() {
    let (registry, _node, at) = one_node();
    registry.put("web", "1");
    let watching = Running::start(&at, &["watch", "web"]);
    watching.until_seen("+  web  1  10.0.0.7:8080  UP  weight 100");
    roster(&at, &["update", "web/1", "--weight", "5"]).done();
    watching.until_seen("~  web  1  10.0.0.7:8080  UP  weight 5");
    roster(&at, &["deregister", "web/1"]).done();
    watching.until_seen("-  web  1  10.0.0.7:8080  deregistered");
    watching.send(Signal::INT);
    let ran = watching.end().done();
    assert!(ran.err.contains("go on with --after 00000000deadbeef:3"), "{}", ran.err);
    let resumed = Running::start(&at, &["watch", "web", "--after", "00000000deadbeef:1", "-o", "json"]);
    resumed.until_seen(r#""reason":"DEREGISTERED""#);
    resumed.send(Signal::TERM);
    let first: serde_json::Value = resumed
        .end()
        .done()
        .lines()
        .first()
        .and_then(|line| serde_json::from_str(line).ok())
        .expect("JSON");
    assert_eq!(first["kind"], "CHANGES");
}

#[test]
fn watch_goes_on_at_another_node_and_says_so() {
    let registry = Registry::new();
    let [mut first, second] = nodes(&registry);
    let watching = Running::start(&endpoints(&[&first, &second]), &["watch"]);
    registry.put("web", "1");
    watching.until_seen("+  web  1");
    first.stop();
    watching.until_seen("asking another node");
    registry.put("web", "2");
    watching.until_seen("+  web  2");
    assert!(watching.seen().1.contains(&format!("watching at {}", second.address)));
    watching.send(Signal::INT);
    watching.end().done();
}

#[test]
fn watch_gives_up_only_when_it_never_began_and_says_what_a_node_said() {
    let registry = Registry::new();
    let [first, mut second] = nodes(&registry);
    first.set(Mode::Refusing(Reason::NoQuorum, None));
    second.stop();
    let ran = roster(&endpoints(&[&first, &second]), &["watch", "--timeout", "500ms"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains("error: NO_QUORUM"), "{}", ran.err);
}

#[test]
fn a_command_whose_output_nobody_reads_ends_in_silence() {
    let (registry, _node, at) = one_node();
    registry.put("web", "1");
    let ran = first_line_only(&at, &["watch", "-o", "json"], || {
        registry.put("web", "2");
    });
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    // A quiet one, too: it finds out by itself.
    let ran = first_line_only(&at, &["watch"], || {});
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
}

#[test]
fn completion_and_help_are_printed() {
    let ran = roster("127.0.0.1:1", &["completion", "bash"]).done();
    assert!(ran.out.contains("_roster()") && ran.out.contains("keep-alive"));
    let ran = roster("127.0.0.1:1", &["list", "--help"]).done();
    assert!(ran.out.contains("Examples:"));
    assert_eq!(roster("127.0.0.1:1", &["no-such-command"]).code, Some(2));
}

#[test]
fn register_with_hold_keeps_alive_until_it_is_told_to_end() {
    let (registry, node, at) = one_node();
    let words = ["register", "web/1", "--address", "10.0.0.7", "--ttl", "1s", "--hold"];
    let held = Running::start(&at, &words);
    held.until_seen("registered default/web/1");
    held.until_seen("Ctrl-C deregisters");
    let began = std::time::Instant::now();
    while node.calls("renewal") < 3 {
        assert!(began.elapsed() < crate::SOON, "no renewals");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    held.send(Signal::INT);
    let ran = held.end().done();
    assert!(ran.err.contains("deregistered default/web/1"), "{}", ran.err);
    assert!(registry.instance("web", "1").is_none());
}

#[test]
fn who_was_stopped_longer_than_its_lease_lives_knows_it_when_it_goes_on() {
    let (_registry, node, at) = one_node();
    let words = ["register", "web/1", "--address", "10.0.0.7", "--ttl", "1s", "--hold"];
    let held = Running::start(&at, &words);
    held.until_seen("Ctrl-C deregisters");
    held.send(Signal::STOP);
    let renewals = node.calls("renewal");
    // Time itself is what is waited for here: longer than the lease lives.
    let stopped = std::time::Instant::now();
    while stopped.elapsed() < std::time::Duration::from_millis(1_300) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(node.calls("renewal") <= renewals + 1, "it was stopped");
    held.send(Signal::CONT);
    held.until_seen("may have ended; registering again");
    held.until_seen("default/web/1 is registered");
    held.send(Signal::INT);
    held.end().done();
}
