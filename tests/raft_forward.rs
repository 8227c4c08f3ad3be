//! Forward streams between two nodes: what is answered, what was certainly not sent, what is unknown.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a test says is for whoever looks into a failure"
)]

mod loopback;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use roster::{
    model::{ClusterId, Member, NodeId, NodeName, Term},
    peer::{
        self, Consensus, ForwardHandler, Introduction, MessageStream, PeerError, PeerService, Peers, PeersConfig, Seat,
    },
    transport::Connector,
    wire::internal::{
        AppendRequest, AppendResponse, ForwardRenewals, ForwardRequest, ForwardResponse, FoundRequest, FoundResponse,
        HelloRequest, HelloResponse, PassPageRequest, PassPageResponse, ReadIndexRequest, SnapshotChunk,
        SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
        forward_request::Request, forward_response::Response,
    },
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::Semaphore,
};
use tonic::Status;

const PATIENCE: Duration = Duration::from_secs(60);
const TERM: Term = Term(3);

/// Answers read indexes with the term, as soon as it may; notes the order in which requests came, and who greeted.
#[derive(Clone)]
struct Leader {
    may_answer: Arc<Semaphore>,
    came: Arc<Mutex<Vec<u64>>>,
    greeted: Arc<Mutex<Vec<NodeId>>>,
}

impl Leader {
    fn new(may_answer: usize) -> Self {
        Self {
            may_answer: Arc::new(Semaphore::new(may_answer)),
            came: Arc::default(),
            greeted: Arc::default(),
        }
    }
}

impl ForwardHandler for Leader {
    fn forwarded(&self, _from: NodeId, request: ForwardRequest) -> BoxFuture<'static, ForwardResponse> {
        let number = match &request.request {
            Some(Request::Renewals(renewals)) => renewals.lease_id_deltas[0],
            _ => request.term,
        };
        self.came.lock().unwrap().push(number);
        let may_answer = Arc::clone(&self.may_answer);
        async move {
            may_answer.acquire().await.unwrap().forget();
            ForwardResponse {
                seq: request.seq,
                response: Some(Response::ReadIndex(number)),
            }
        }
        .boxed()
    }

    fn pass_page(&self, request: PassPageRequest) -> BoxFuture<'static, Result<PassPageResponse, Status>> {
        async move {
            Ok(PassPageResponse {
                response: request.request,
            })
        }
        .boxed()
    }
}

struct Itself;

impl Introduction for Itself {
    fn hello(&self, request: HelloRequest) -> HelloResponse {
        HelloResponse {
            name: format!("not {}", request.name),
            ..HelloResponse::default()
        }
    }

    fn found(&self, _request: FoundRequest) -> BoxFuture<'static, Result<FoundResponse, Status>> {
        async { Ok(FoundResponse {}) }.boxed()
    }
}

/// Forwarding needs none. Notes who greeted.
struct NoRaft(Arc<Mutex<Vec<NodeId>>>);

impl Consensus for NoRaft {
    fn vote(&self, _from: NodeId, _request: VoteRequest) -> BoxFuture<'static, Result<VoteResponse, Status>> {
        async { Err(Status::unimplemented("")) }.boxed()
    }

    fn append(&self, _from: NodeId, _requests: MessageStream<AppendRequest>) -> MessageStream<AppendResponse> {
        Box::pin(futures_util::stream::empty())
    }

    fn install_snapshot(
        &self,
        _from: NodeId,
        _chunks: MessageStream<SnapshotChunk>,
    ) -> BoxFuture<'static, Result<SnapshotResponse, Status>> {
        async { Err(Status::unimplemented("")) }.boxed()
    }

    fn greeted(&self, from: NodeId) -> BoxFuture<'static, ()> {
        self.0.lock().unwrap().push(from);
        async {}.boxed()
    }

    fn transfer_leader(
        &self,
        _from: NodeId,
        _request: TransferLeaderRequest,
    ) -> BoxFuture<'static, Result<TransferLeaderResponse, Status>> {
        async { Err(Status::unimplemented("")) }.boxed()
    }
}

fn cluster() -> ClusterId {
    ClusterId::new(7).unwrap()
}

/// Node 2's peer port; everything in it stops when the runtime is gone.
struct Port {
    address: String,
    runtime: Option<Runtime>,
}

impl Port {
    fn open(address: &str, leader: &Leader, seated: bool) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let start = Instant::now();
        let listener = loop {
            match std::net::TcpListener::bind(address) {
                Ok(listener) => break listener,
                Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
            }
            std::thread::yield_now();
        };
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = PeerService::new(Arc::new(Itself));
        if seated {
            service.take_seat(Seat {
                cluster_id: cluster(),
                node_id: NodeId(2),
                consensus: Arc::new(NoRaft(Arc::clone(&leader.greeted))),
                forwards: Arc::new(leader.clone()),
            });
        }
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            peer::serve(listener, service, std::future::pending()).await.unwrap();
        });
        Self {
            address,
            runtime: Some(runtime),
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Node 1's ways to node 2.
fn peers(address: &str, cluster_id: ClusterId) -> Arc<Peers> {
    let peers = Peers::new(PeersConfig {
        name: NodeName::parse("n1").unwrap(),
        runtime: Handle::current(),
        connector: Connector::default(),
    });
    peers.belong_to(cluster_id, NodeId(1));
    peers.set(&[Member {
        node_id: NodeId(2),
        name: NodeName::parse("n2").unwrap(),
        peer_address: address.to_owned(),
        client_address: String::new(),
        voter: true,
    }]);
    peers
}

fn numbered(number: u64) -> Request {
    Request::Renewals(ForwardRenewals {
        lease_id_deltas: vec![number],
        timeout_ms: 1_000,
    })
}

fn read_index() -> Request {
    Request::ReadIndex(ReadIndexRequest::default())
}

/// An address at which nobody listens.
fn nowhere() -> String {
    loopback::free_address().to_string()
}

#[tokio::test]
async fn requests_arrive_in_the_order_of_the_calls_and_each_caller_gets_its_own_answer() {
    let leader = Leader::new(1_000);
    let port = Port::open("127.0.0.1:0", &leader, true);
    let peers = peers(&port.address, cluster());
    let asked: Vec<_> = (0..500)
        .map(|number| peers.forward(NodeId(2), TERM, numbered(number), PATIENCE))
        .collect();
    // Whatever is polled first.
    let answers = join_all(asked.into_iter().rev()).await;
    for (number, answer) in (0..500).rev().zip(answers) {
        assert_eq!(answer.unwrap(), Response::ReadIndex(number));
    }
    assert!(leader.came.lock().unwrap().is_sorted());
}

#[tokio::test]
async fn a_request_in_flight_is_unknown_when_its_connection_breaks_and_the_next_one_goes_on() {
    let leader = Leader::new(0);
    let port = Port::open("127.0.0.1:0", &leader, true);
    let address = port.address.clone();
    let peers = peers(&address, cluster());
    let asked = tokio::spawn(peers.forward(NodeId(2), TERM, read_index(), PATIENCE));
    let start = Instant::now();
    while leader.came.lock().unwrap().is_empty() {
        assert!(start.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
    drop(port);
    let error = asked.await.unwrap().unwrap_err();
    assert!(
        matches!(error, PeerError::Broken) && error.outcome_unknown(),
        "{error:?}"
    );

    let leader = Leader::new(10);
    let _port = Port::open(&address, &leader, true);
    let start = Instant::now();
    let answer = loop {
        match peers.forward(NodeId(2), TERM, read_index(), PATIENCE).await {
            Ok(answer) => break answer,
            Err(error) => assert!(!error.outcome_unknown() && start.elapsed() < PATIENCE, "{error:?}"),
        }
    };
    assert_eq!(answer, Response::ReadIndex(TERM.0));
}

#[tokio::test]
async fn a_request_that_found_no_connection_was_certainly_not_sent() {
    let peers = peers(&nowhere(), cluster());
    let error = peers
        .forward(NodeId(2), TERM, read_index(), PATIENCE)
        .await
        .unwrap_err();
    assert!(
        matches!(error, PeerError::NotSent(_)) && !error.outcome_unknown(),
        "{error:?}"
    );
    let error = peers
        .forward(NodeId(9), TERM, read_index(), PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, PeerError::NotSent(_)), "no such member: {error:?}");
}

#[tokio::test]
async fn a_request_whose_answer_takes_too_long_is_unknown() {
    let leader = Leader::new(0);
    let port = Port::open("127.0.0.1:0", &leader, true);
    let peers = peers(&port.address, cluster());
    let error = peers
        .forward(NodeId(2), TERM, read_index(), Duration::from_secs(1))
        .await
        .unwrap_err();
    assert!(
        matches!(error, PeerError::TimedOut) && error.outcome_unknown(),
        "{error:?}"
    );
}

#[tokio::test]
async fn nodes_of_other_clusters_and_nodes_without_a_seat_take_nothing() {
    let leader = Leader::new(10);
    let port = Port::open("127.0.0.1:0", &leader, true);
    let other = ClusterId::new(8).unwrap();
    let error = peers(&port.address, other)
        .forward(NodeId(2), TERM, read_index(), PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, PeerError::NotSent(_)), "{error:?}");

    let early = Port::open("127.0.0.1:0", &leader, false);
    let peers = peers(&early.address, cluster());
    let error = peers
        .forward(NodeId(2), TERM, read_index(), PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, PeerError::NotSent(_)), "{error:?}");
    assert!(leader.came.lock().unwrap().is_empty());
    // Who it is, it says all the same.
    assert_eq!(peers.hello(&early.address).await.unwrap().name, "not n1");
    peers.found(&early.address, FoundRequest::default()).await.unwrap();
}

#[tokio::test]
async fn only_a_member_that_says_whom_it_speaks_to_greets() {
    let leader = Leader::new(0);
    let port = Port::open("127.0.0.1:0", &leader, true);
    let member = peers(&port.address, cluster());
    member.hello(&port.address).await.unwrap();
    let stranger = peers(&port.address, ClusterId::new(8).unwrap());
    // It is told who is here, as whoever asks; that is all.
    stranger.greet(NodeId(2)).await.unwrap();
    assert_eq!(*leader.greeted.lock().unwrap(), []);
    member.greet(NodeId(2)).await.unwrap();
    assert_eq!(*leader.greeted.lock().unwrap(), [NodeId(1)]);
    assert!(matches!(member.greet(NodeId(3)).await, Err(PeerError::NotSent(_))));

    // Without a seat there is nobody to be greeted.
    let early = Port::open("127.0.0.1:0", &leader, false);
    peers(&early.address, cluster()).greet(NodeId(2)).await.unwrap();
    assert_eq!(leader.greeted.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn requests_beyond_the_queue_are_refused_at_once() {
    let leader = Leader::new(0);
    let port = Port::open("127.0.0.1:0", &leader, true);
    let peers = peers(&port.address, cluster());
    let mut asked = Vec::new();
    let refused = loop {
        assert!(asked.len() < 100_000, "nothing bounds the requests that wait");
        let mut next = Box::pin(peers.forward(NodeId(2), TERM, read_index(), PATIENCE));
        match (&mut next).now_or_never() {
            Some(refused) => break refused.unwrap_err(),
            None => asked.push(next),
        }
    };
    assert!(
        matches!(refused, PeerError::Full) && !refused.outcome_unknown(),
        "{refused:?}"
    );
}

#[tokio::test]
async fn pages_are_passed_on() {
    let leader = Leader::new(0);
    let port = Port::open("127.0.0.1:0", &leader, true);
    let peers = peers(&port.address, cluster());
    let request = PassPageRequest {
        method: 1,
        request: b"page".as_slice().into(),
    };
    let answer = peers.pass_page(NodeId(2), request, PATIENCE).await.unwrap();
    assert_eq!(&answer.response[..], b"page");
}
