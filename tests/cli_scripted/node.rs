//! A node that answers as the test tells it to: a real gRPC server on a real port, without a cluster behind it.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::Stream;
use prost::Message;
use roster::wire::{
    error::{ErrorDetail, Reason, WriteOutcome},
    raw,
    served::{
        cluster_server::{Cluster, ClusterServer},
        leases_server::{Leases, LeasesServer},
        registry_server::{Registry as RegistryService, RegistryServer},
    },
    v1::{self, renew_result::Outcome as Renewed, watch_request::Start, watch_response::Kind},
};
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::{
    loopback::free_address,
    registry::{CLUSTER_ID, Registry, invalid, refusal, selects},
};

/// How a node answers from now on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mode {
    /// As it should.
    Serving,
    /// Everything with this reason.
    Refusing(Reason, Option<WriteOutcome>),
    /// Writes are applied, and then it says that it does not know.
    Forgetful,
    /// Nothing, ever.
    Silent,
    /// Renewals can't be confirmed.
    Unconfirmed,
}

/// How a node sends watches.
#[derive(Clone, Debug, Default)]
pub(crate) struct WatchScript {
    /// Each change in a message of its own.
    pub(crate) split: bool,
    /// The stream breaks after so many messages.
    pub(crate) break_after: Option<usize>,
    /// It ends with this reason instead, in order.
    pub(crate) cancel_after: Option<(usize, Reason)>,
    /// No PROGRESS.
    pub(crate) quiet: bool,
}

#[derive(Clone)]
struct Served {
    name: String,
    registry: Registry,
    mode: Arc<Mutex<Mode>>,
    watches: Arc<Mutex<WatchScript>>,
    calls: Arc<Mutex<Vec<Call>>>,
    page_size: Arc<AtomicUsize>,
    expire_pages: Arc<AtomicUsize>,
    members: Arc<Mutex<Vec<v1::Member>>>,
}

/// A call that came in.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) grpc_timeout: Option<String>,
}

/// A running node; stops hard when dropped.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    served: Served,
    runtime: Option<Runtime>,
}

/// The same message as the server's side has it: with its records encoded.
fn twin<T: Message + Default>(message: &impl Message) -> T {
    T::decode(message.encode_to_vec().as_slice()).expect("a twin has the same wire format")
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    /// Starts a node on a port that stays its own when it stops.
    pub(crate) fn start(name: &str, registry: &Registry) -> Self {
        let served = Served {
            name: name.into(),
            registry: registry.clone(),
            mode: Arc::new(Mutex::new(Mode::Serving)),
            watches: Arc::default(),
            calls: Arc::default(),
            page_size: Arc::new(AtomicUsize::new(500)),
            expire_pages: Arc::default(),
            members: Arc::default(),
        };
        let mut node = Self {
            address: free_address(),
            served,
            runtime: None,
        };
        node.serve();
        node
    }

    /// Serves on its address, again after a stop.
    pub(crate) fn serve(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let std_listener = bind_again(self.address);
        self.address = std_listener.local_addr().expect("bound");
        let served = self.served.clone();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(std_listener).expect("a listener");
            let (health, health_service) = tonic_health::server::health_reporter();
            health
                .set_service_status("", tonic_health::ServingStatus::Serving)
                .await;
            health
                .set_service_status("roster.v1.Registry", tonic_health::ServingStatus::NotServing)
                .await;
            Server::builder()
                .add_service(health_service)
                .add_service(RegistryServer::new(served.clone()))
                .add_service(LeasesServer::new(served.clone()))
                .add_service(ClusterServer::new(served))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .expect("serves until it is stopped");
        });
        self.runtime = Some(runtime);
    }

    /// Stops it as kill -9 would: connections are reset, nobody is told.
    pub(crate) fn stop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        // On a thread of its own, for tests that run on a runtime may not wait for another.
        let stopped = std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(5)));
        stopped.join().expect("stopped");
    }

    pub(crate) fn set(&self, mode: Mode) {
        *locked(&self.served.mode) = mode;
    }

    pub(crate) fn watches(&self, script: WatchScript) {
        *locked(&self.served.watches) = script;
    }

    pub(crate) fn members(&self, members: Vec<v1::Member>) {
        *locked(&self.served.members) = members;
    }

    pub(crate) fn page_size(&self, size: usize) {
        self.served.page_size.store(size, Ordering::SeqCst);
    }

    /// The next so many pages that are continued have expired.
    pub(crate) fn expire_pages(&self, count: usize) {
        self.served.expire_pages.store(count, Ordering::SeqCst);
    }

    pub(crate) fn calls(&self, method: &str) -> usize {
        let calls = locked(&self.served.calls);
        calls.iter().filter(|call| call.method == method).count()
    }

    pub(crate) fn last_call(&self) -> Option<Call> {
        locked(&self.served.calls).last().cloned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A port that was just left may take a moment to be free.
fn bind_again(address: SocketAddr) -> std::net::TcpListener {
    let began = std::time::Instant::now();
    loop {
        match std::net::TcpListener::bind(address) {
            Ok(listener) => {
                listener.set_nonblocking(true).expect("a listener");
                return listener;
            }
            Err(error) => assert!(began.elapsed() < Duration::from_secs(10), "{address}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Served {
    /// Notes the call, and answers as the mode says; `Ok` = serve it.
    async fn enter<T>(&self, method: &'static str, request: &Request<T>) -> Result<(), Status> {
        let grpc_timeout = request
            .metadata()
            .get("grpc-timeout")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        locked(&self.calls).push(Call { method, grpc_timeout });
        let mode = locked(&self.mode).clone();
        match mode {
            Mode::Serving | Mode::Forgetful | Mode::Unconfirmed => Ok(()),
            Mode::Refusing(reason, outcome) => Err(ErrorDetail {
                outcome,
                ..ErrorDetail::new(reason, "as the test says")
            }
            .into_status()),
            Mode::Silent => std::future::pending().await,
        }
    }

    /// The answer to a write, unless the node forgets.
    fn leave<T>(&self, answer: T) -> Result<Response<T>, Status> {
        if *locked(&self.mode) == Mode::Forgetful {
            return Err(ErrorDetail {
                outcome: Some(WriteOutcome::Unknown),
                ..ErrorDetail::new(Reason::LeaderChanged, "forgotten")
            }
            .into_status());
        }
        Ok(Response::new(answer))
    }

    fn header(&self) -> Option<v1::Header> {
        Some(v1::Header {
            node: self.name.clone(),
            ..self.registry.header()
        })
    }

    fn renewed(&self) -> Renewed {
        if *locked(&self.mode) == Mode::Unconfirmed {
            Renewed::Unconfirmed
        } else {
            Renewed::Renewed
        }
    }

    fn page<T: Clone>(&self, items: &[T], token: &str) -> Result<(Vec<T>, String), Status> {
        let begin = if token.is_empty() {
            0
        } else {
            let left = self.expire_pages.load(Ordering::SeqCst);
            if left > 0 {
                self.expire_pages.store(left - 1, Ordering::SeqCst);
                return Err(refusal(Reason::PageExpired, "too old"));
            }
            token.parse::<usize>().map_err(|_| invalid("page_token", "is none"))?
        };
        let end = items.len().min(begin + self.page_size.load(Ordering::SeqCst));
        let next = if end < items.len() {
            end.to_string()
        } else {
            String::new()
        };
        Ok((items[begin.min(end)..end].to_vec(), next))
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RegistryService for Served {
    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<raw::RegisterResponse>, Status> {
        self.enter("register", &request).await?;
        let answer = self.registry.register(request.into_inner())?;
        self.leave(twin(&answer))
    }

    async fn batch_register(
        &self,
        request: Request<v1::BatchRegisterRequest>,
    ) -> Result<Response<v1::BatchRegisterResponse>, Status> {
        self.enter("batch_register", &request).await?;
        self.leave(v1::BatchRegisterResponse::default())
    }

    async fn update(&self, request: Request<v1::UpdateRequest>) -> Result<Response<raw::UpdateResponse>, Status> {
        self.enter("update", &request).await?;
        let answer = self.registry.update(request.into_inner())?;
        self.leave(twin(&answer))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        self.enter("deregister", &request).await?;
        let answer = self.registry.deregister(request.get_ref())?;
        self.leave(answer)
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<raw::GetResponse>, Status> {
        self.enter("get", &request).await?;
        let key = request.into_inner().key.unwrap_or_default();
        let instance = self.registry.instance(&key.service, &key.id);
        let instance = instance.ok_or_else(|| refusal(Reason::InstanceNotFound, "no such instance"))?;
        Ok(Response::new(twin(&v1::GetResponse {
            header: self.header(),
            instance: Some(instance),
        })))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<raw::ListResponse>, Status> {
        self.enter("list", &request).await?;
        let request = request.into_inner();
        let selected = self.registry.selected(&request.selector.unwrap_or_default());
        let (instances, next_page_token) = self.page(&selected, &request.page_token)?;
        Ok(Response::new(twin(&v1::ListResponse {
            header: self.header(),
            instances,
            next_page_token,
            position: Some(self.registry.position()),
        })))
    }

    async fn list_services(
        &self,
        request: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        self.enter("list_services", &request).await?;
        let up = i32::try_from(self.registry.state().instances.len()).unwrap_or(i32::MAX);
        Ok(Response::new(v1::ListServicesResponse {
            header: self.header(),
            services: vec![v1::ServiceSummary {
                namespace: "default".into(),
                service: "web".into(),
                up,
                ..Default::default()
            }],
            next_page_token: String::new(),
        }))
    }

    async fn list_namespaces(
        &self,
        request: Request<v1::ListNamespacesRequest>,
    ) -> Result<Response<v1::ListNamespacesResponse>, Status> {
        self.enter("list_namespaces", &request).await?;
        Ok(Response::new(v1::ListNamespacesResponse {
            header: self.header(),
            namespaces: vec![v1::NamespaceSummary {
                namespace: "default".into(),
                services: 1,
                instances: 2,
            }],
            next_page_token: String::new(),
        }))
    }

    type WatchStream = Answers<raw::WatchMessage>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.enter("watch", &request).await?;
        let request = request.into_inner();
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(self.clone().send_watch(request, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type WatchManyStream = Answers<raw::WatchMessage>;

    async fn watch_many(
        &self,
        _: Request<Streaming<v1::WatchManyRequest>>,
    ) -> Result<Response<Self::WatchManyStream>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }
}

impl Served {
    async fn send_watch(self, request: v1::WatchRequest, sender: mpsc::Sender<Result<raw::WatchMessage, Status>>) {
        let selector = request.selector.clone().unwrap_or_default();
        let interval = request.progress_interval.and_then(roster::wire::span::span_from_proto);
        let interval = interval.unwrap_or(Duration::from_secs(2));
        let mut changed = self.registry.subscribe();
        let mut sent = 0;
        let mut first = self.first_step(&request, &selector);
        let mut position = first.last().and_then(|last| last.position.clone()).unwrap_or_default();
        loop {
            for message in first.drain(..) {
                let script = locked(&self.watches).clone();
                if let Some((count, reason)) = script.cancel_after
                    && sent >= count
                {
                    let canceled = v1::WatchResponse {
                        kind: Kind::Canceled.into(),
                        status: Some(ErrorDetail::new(reason, "as the test says").into_proto()),
                        ..Default::default()
                    };
                    let told = sender.send(Ok(twin(&canceled))).await;
                    return drop(told);
                }
                if script.break_after.is_some_and(|count| sent >= count) {
                    let told = sender.send(Err(Status::unavailable("broken by the test"))).await;
                    return drop(told);
                }
                if sender.send(Ok(twin(&message))).await.is_err() {
                    return;
                }
                sent += 1;
            }
            let waited = tokio::time::timeout(interval, changed.changed()).await;
            let script = locked(&self.watches).clone();
            first = self.later_step(position.revision, &selector, script.split);
            if let Some(last) = first.last() {
                position = last.position.clone().unwrap_or_default();
            } else if waited.is_err() && !script.quiet {
                first = vec![v1::WatchResponse {
                    header: self.header(),
                    kind: Kind::Progress.into(),
                    position: Some(position.clone()),
                    ..Default::default()
                }];
            }
            if waited.is_err() && sender.is_closed() {
                return;
            }
        }
    }

    fn first_step(&self, request: &v1::WatchRequest, selector: &v1::Selector) -> Vec<v1::WatchResponse> {
        let split = locked(&self.watches).split;
        let reset = match &request.start {
            Some(Start::After(after)) => {
                let compacted = self.registry.state().compacted;
                if after.cluster_id != CLUSTER_ID {
                    Some(v1::reset::Reason::OtherCluster)
                } else if after.revision < compacted {
                    Some(v1::reset::Reason::Compacted)
                } else {
                    let mut step = self.later_step(after.revision, selector, split);
                    if step.is_empty() {
                        step = self.step(Kind::Changes, Vec::new(), split);
                    }
                    return step;
                }
            }
            _ => None,
        };
        let puts = self.registry.selected(selector).into_iter().map(|instance| v1::Change {
            kind: v1::change::Kind::Put.into(),
            revision: instance.mod_revision,
            instance: Some(instance),
            ..Default::default()
        });
        let mut step = self.step(Kind::Snapshot, puts.collect(), split);
        if let (Some(first), Some(reason)) = (step.first_mut(), reset) {
            first.reset = Some(v1::Reset { reason: reason.into() });
        }
        step
    }

    fn later_step(&self, after: i64, selector: &v1::Selector, split: bool) -> Vec<v1::WatchResponse> {
        let changes: Vec<v1::Change> = {
            let state = self.registry.state();
            let later = state.history.iter().filter(|change| change.revision > after);
            later
                .filter(|change| match (&change.instance, &change.removed) {
                    (Some(instance), _) => selects(selector, instance),
                    (None, Some(_)) => true,
                    (None, None) => false,
                })
                .cloned()
                .collect()
        };
        if changes.is_empty() {
            return Vec::new();
        }
        self.step(Kind::Changes, changes, split)
    }

    fn step(&self, kind: Kind, changes: Vec<v1::Change>, split: bool) -> Vec<v1::WatchResponse> {
        let position = v1::Position {
            cluster_id: CLUSTER_ID.into(),
            revision: self.registry.state().revision,
        };
        let groups: Vec<Vec<v1::Change>> = if split && !changes.is_empty() {
            changes.into_iter().map(|change| vec![change]).collect()
        } else {
            vec![changes]
        };
        let count = groups.len();
        let messages = groups.into_iter().enumerate().map(|(at, changes)| {
            let last = at + 1 == count;
            v1::WatchResponse {
                header: self.header(),
                kind: kind.into(),
                changes,
                position: last.then(|| position.clone()),
                more: !last,
                ..Default::default()
            }
        });
        messages.collect()
    }
}

#[tonic::async_trait]
impl Leases for Served {
    async fn grant_lease(
        &self,
        request: Request<v1::GrantLeaseRequest>,
    ) -> Result<Response<v1::GrantLeaseResponse>, Status> {
        self.enter("grant_lease", &request).await?;
        let lease = self.registry.grant(request.get_ref());
        self.leave(v1::GrantLeaseResponse {
            header: self.header(),
            lease: Some(lease),
            renew_after: None,
        })
    }

    async fn revoke_lease(
        &self,
        request: Request<v1::RevokeLeaseRequest>,
    ) -> Result<Response<v1::RevokeLeaseResponse>, Status> {
        self.enter("revoke_lease", &request).await?;
        let (existed, removed) = self.registry.revoke(request.get_ref().lease_id);
        self.leave(v1::RevokeLeaseResponse {
            header: self.header(),
            existed,
            removed,
        })
    }

    async fn get_lease(&self, request: Request<v1::GetLeaseRequest>) -> Result<Response<v1::GetLeaseResponse>, Status> {
        self.enter("get_lease", &request).await?;
        let lease_id = request.get_ref().lease_id;
        let state = self.registry.state();
        let Some(lease) = state.leases.get(&lease_id).copied() else {
            return Err(refusal(Reason::LeaseNotFound, "no such lease"));
        };
        let held = state
            .instances
            .values()
            .filter(|instance| instance.lease_id == lease_id);
        let instances: Vec<_> = held.filter_map(|instance| instance.key.clone()).collect();
        drop(state);
        Ok(Response::new(v1::GetLeaseResponse {
            header: self.header(),
            lease: Some(lease),
            instances,
            next_page_token: String::new(),
        }))
    }

    async fn list_leases(
        &self,
        request: Request<v1::ListLeasesRequest>,
    ) -> Result<Response<v1::ListLeasesResponse>, Status> {
        self.enter("list_leases", &request).await?;
        let leases = self.registry.state().leases.values().copied().collect();
        Ok(Response::new(v1::ListLeasesResponse {
            header: self.header(),
            leases,
            next_page_token: String::new(),
        }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<raw::RenewResponse>, Status> {
        self.enter("renew", &request).await?;
        let answer = self.registry.renew(request.get_ref(), self.renewed());
        Ok(Response::new(twin(&answer)))
    }

    type KeepAliveStream = Answers<raw::RenewResponse>;

    async fn keep_alive(
        &self,
        request: Request<Streaming<v1::RenewRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        self.enter("keep_alive", &request).await?;
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::channel(4);
        let node = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                locked(&node.calls).push(Call {
                    method: "renewal",
                    grpc_timeout: None,
                });
                let mode = locked(&node.mode).clone();
                let answer = match mode {
                    Mode::Silent => continue,
                    Mode::Refusing(reason, _) => Err(refusal(reason, "as the test says")),
                    _ => Ok(twin(&node.registry.renew(&request, node.renewed()))),
                };
                if sender.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl Cluster for Served {
    async fn get_node_status(
        &self,
        request: Request<v1::GetNodeStatusRequest>,
    ) -> Result<Response<v1::GetNodeStatusResponse>, Status> {
        self.enter("get_node_status", &request).await?;
        Ok(Response::new(v1::GetNodeStatusResponse {
            header: self.header(),
            version: "0.1.0".into(),
            role: if self.name == "n1" { "leader" } else { "follower" }.into(),
            leader: "n1".into(),
            lease_clock_running: true,
            ..Default::default()
        }))
    }

    async fn list_members(
        &self,
        request: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        self.enter("list_members", &request).await?;
        Ok(Response::new(v1::ListMembersResponse {
            header: self.header(),
            members: locked(&self.members).clone(),
        }))
    }

    async fn get_state_hash(
        &self,
        _: Request<v1::GetStateHashRequest>,
    ) -> Result<Response<v1::GetStateHashResponse>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }
}
