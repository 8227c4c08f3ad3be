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

    /// Whether bytes pass from one end to the other, however slowly, or now and then.
    pub(crate) fn passes(&self, from: End, to: End) -> bool {
        let passes = |flow: &watch::Sender<Flow>| {
            let flow = flow.borrow();
            flow.pass == Pass::Open || flow.flaps
        };
        lock(&self.0.flows).get(&(from, to)).is_none_or(passes)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        time::{Instant, timeout},
    };

    use super::*;

    const CLIENT: End = End::Client(1);
    const NODE: End = End::Node(0);
    /// How long silence is listened to.
    const SOON: Duration = Duration::from_millis(150);
    /// How long what must come may take on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// A proxy in front of a server that sends back what it is sent, and a connection through it.
    struct Echo {
        network: Network,
        address: SocketAddr,
        stream: TcpStream,
    }

    impl Echo {
        async fn new() -> Self {
            let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let onward = server.local_addr().unwrap();
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = server.accept().await {
                    tokio::spawn(async move {
                        let (mut from, mut to) = stream.split();
                        let _ended = tokio::io::copy(&mut from, &mut to).await;
                    });
                }
            });
            let address = crate::loopback::free_address();
            let mut network = Network::new();
            network.add(Some(CLIENT), 0, address, onward).await.unwrap();
            let stream = TcpStream::connect(address).await.unwrap();
            let mut echo = Self {
                network,
                address,
                stream,
            };
            echo.stream.write_all(&[1]).await.unwrap();
            assert_eq!(echo.answer().await, 1);
            echo
        }

        async fn ask(&mut self, byte: u8) -> Option<u8> {
            self.stream.write_all(&[byte]).await.ok()?;
            self.hear().await
        }

        /// What comes soon; `None` for silence or a closed connection.
        async fn hear(&mut self) -> Option<u8> {
            timeout(SOON, self.stream.read_u8()).await.ok()?.ok()
        }

        /// What must come.
        async fn answer(&mut self) -> u8 {
            timeout(PATIENCE, self.stream.read_u8()).await.unwrap().unwrap()
        }

        /// Whether the connection has ended, which it must.
        async fn has_ended(&mut self) -> bool {
            timeout(PATIENCE, self.stream.read_u8()).await.unwrap().is_err()
        }

        fn set(&self, way: (End, End), pass: Pass) {
            self.network.ways().change(way, |flow| flow.pass = pass);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_pulled_cable_held_up_arrives_when_it_is_put_back() {
        let mut echo = Echo::new().await;
        for way in [(CLIENT, NODE), (NODE, CLIENT)] {
            echo.set(way, Pass::Held);
            assert!(!echo.network.ways().passes(way.0, way.1));
            assert_eq!(echo.ask(2).await, None);
            echo.network.ways().heal();
            assert_eq!(echo.answer().await, 2);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_connection_that_lost_bytes_never_goes_on() {
        let mut echo = Echo::new().await;
        echo.set((NODE, CLIENT), Pass::Swallowed);
        assert_eq!(echo.ask(2).await, None);
        echo.set((NODE, CLIENT), Pass::Open);
        assert!(echo.has_ended().await);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cut_ends_connections_and_refuses_new_ones() {
        let mut echo = Echo::new().await;
        echo.set((CLIENT, NODE), Pass::Cut);
        assert!(echo.has_ended().await);
        // The reset may come before the connection is seen to be open.
        if let Ok(stream) = TcpStream::connect(echo.address).await {
            echo.stream = stream;
            assert_eq!(echo.ask(3).await, None);
        }
        echo.network.ways().heal();
        echo.stream = TcpStream::connect(echo.address).await.unwrap();
        echo.stream.write_all(&[4]).await.unwrap();
        assert_eq!(echo.answer().await, 4);
        echo.network.ways().change((CLIENT, NODE), |flow| flow.resets += 1);
        assert!(echo.has_ended().await);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn delays_and_narrow_ways_take_their_time() {
        let mut echo = Echo::new().await;
        let delay = Duration::from_millis(40);
        for way in [(CLIENT, NODE), (NODE, CLIENT)] {
            echo.network.ways().change(way, |flow| flow.delay = delay);
        }
        let began = Instant::now();
        assert_eq!(echo.ask(5).await, Some(5));
        assert!(began.elapsed() >= 2 * delay);

        echo.network.ways().heal();
        echo.network
            .ways()
            .change((CLIENT, NODE), |flow| flow.bytes_per_s = Some(1_000));
        let began = Instant::now();
        echo.stream.write_all(&[6; 200]).await.unwrap();
        let mut all = [0; 200];
        echo.stream.read_exact(&mut all).await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(150), "{:?}", began.elapsed());
        assert_eq!(all, [6; 200]);
    }
}
