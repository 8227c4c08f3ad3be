//! The client library and the command line against nodes that answer as each test tells them to: real sockets, no
//! cluster. What a cluster does is tested elsewhere; here it is what a client makes of it.

mod calls;
mod commands;
mod holding;
#[path = "../loopback/mod.rs"]
mod loopback;
mod node;
mod registry;
mod running;
mod terminal;
mod watching;

use std::{future::Future, time::Duration};

use node::Node;
use registry::Registry;
use roster::client::{Client, Options};

/// How long anything may take that a test waits for.
const SOON: Duration = Duration::from_secs(20);

/// So many nodes that answer from one registry.
fn nodes<const N: usize>(registry: &Registry) -> [Node; N] {
    std::array::from_fn(|at| Node::start(&format!("n{}", at + 1), registry))
}

/// Their addresses as `--endpoints` takes them.
fn endpoints(nodes: &[&Node]) -> String {
    let texts: Vec<String> = nodes.iter().map(|node| node.address.to_string()).collect();
    texts.join(",")
}

/// A client that begins with the first of them, and is impatient.
fn client(nodes: &[&Node]) -> Client {
    let options = Options {
        timeout: Duration::from_secs(10),
        unavailable_patience: Duration::from_millis(1_500),
        unreachable_patience: Duration::from_millis(500),
        spread: false,
        ..Options::default()
    };
    Client::new(endpoints(nodes).parse().expect("a list"), options)
}

/// Waits until it is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < SOON, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The future's value, which must not take long.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, future).await {
        Ok(value) => value,
        Err(_) => panic!("takes too long: {what}"),
    }
}
