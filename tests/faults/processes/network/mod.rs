//! Every connection of the cluster, through this process: who talks to whom, and what becomes of it on the way.
//!
//! Each node has one proxy in front of its peer port, at the address that it advertises, and one for each client in
//! front of its client port. Which node opened a connection to a peer port is read from the kernel's socket table
//! ([`opener`]): the nodes need not know that there is a proxy.
//!
//! A *way* leads from one end to another, and has a [`Flow`] that may change at any time ([`flow`]); a link between two
//! ends is two ways. What is done to a way is done to all connections that use it, whoever opened them.

mod flow;
mod opener;
mod proxy;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

pub(crate) use flow::{Flow, Pass};

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// A node, by its place in the cluster.
    Node(usize),
    /// A client, by its number.
    Client(u32),
}

/// The proxies of one cluster.
#[derive(Debug)]
pub(crate) struct Network {
    ways: Ways,
    proxies: Vec<JoinHandle<()>>,
}

/// The state of every way: what the proxies look at, and the hand that harms them changes. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ways(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    flows: Mutex<BTreeMap<(End, End), watch::Sender<Flow>>>,
    /// The processes of the nodes that run.
    pids: Mutex<BTreeMap<usize, u32>>,
}

impl Network {
    /// No proxies yet; all ways are open.
    pub(crate) fn new() -> Self {
        Self {
            ways: Ways::default(),
            proxies: Vec::new(),
        }
    }

    /// Puts a proxy in front of a node's port. `from`: whose connections come here; `None` = other nodes', which are
    /// told apart.
    ///
    /// # Errors
    /// The address can't be bound.
    pub(crate) async fn add(
        &mut self,
        from: Option<End>,
        to: usize,
        listen: SocketAddr,
        onward: SocketAddr,
    ) -> io::Result<()> {
        let listener = TcpListener::bind(listen).await?;
        let serving = proxy::run(listener, from, End::Node(to), onward, self.ways.clone());
        self.proxies.push(tokio::spawn(serving));
        Ok(())
    }

    /// What is done to its ways.
    pub(crate) fn ways(&self) -> &Ways {
        &self.ways
    }

    /// A node's process; `None` = it does not run.
    pub(crate) fn set_pid(&self, node: usize, pid: Option<u32>) {
        let mut pids = lock(&self.ways.0.pids);
        match pid {
            Some(pid) => pids.insert(node, pid),
            None => pids.remove(&node),
        };
    }
}

impl Ways {
    fn watch(&self, from: End, to: End) -> watch::Receiver<Flow> {
        lock(&self.0.flows).entry((from, to)).or_default().subscribe()
    }

    /// Changes one way.
    pub(crate) fn change(&self, (from, to): (End, End), change: impl FnOnce(&mut Flow)) {
        lock(&self.0.flows).entry((from, to)).or_default().send_modify(change);
    }

    /// Whether bytes pass from one end to the other, however slowly.
    pub(crate) fn passes(&self, from: End, to: End) -> bool {
        lock(&self.0.flows)
            .get(&(from, to))
            .is_none_or(|flow| flow.borrow().pass == Pass::Open)
    }

    /// All ways are open and quick again.
    pub(crate) fn heal(&self) {
        for flow in lock(&self.0.flows).values() {
            flow.send_modify(Flow::heal);
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for proxy in &self.proxies {
            proxy.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
