//! `roster.v1.Registry`.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use rand::Rng as _;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::{
    call::{Answers, Freshness, deadline, header, mismatched, read, write},
    paging::{Opened, expired, fill_instances, fill_page, open, pass_on},
    status::{CallKind, invalid, no_instance},
    watch,
};
use crate::{
    model::{Instance, InstanceId},
    node::Node,
    registry::{Command, Outcome},
    wire::{
        FieldErrors, instance::encoded, internal::pass_page_request::Method, lease::count_to_proto,
        member::encoded_position, page_token::After, raw, reply::registered_to_proto, request,
        served::registry_server::Registry, span::span_to_proto, v1,
    },
};

/// Handlers of the service; cheap to clone.
#[derive(Clone)]
pub(super) struct RegistryService {
    node: Node,
}

impl RegistryService {
    pub(super) fn new(node: Node) -> Self {
        Self { node }
    }

    /// A page of instances; `passed` = another node passed the request on, and this one passes it no further.
    pub(super) async fn list_page(
        &self,
        request: v1::ListRequest,
        deadline: Instant,
        passed: bool,
    ) -> Result<raw::ListResponse, Status> {
        let sent = later_page(&request.page_token, || request.encode_to_vec());
        let list = request::list(request).map_err(bad_read)?;
        let version = match open(&self.node, &list.page, list.read, deadline).await? {
            Opened::Here(version) => version,
            Opened::At(_) if passed => return Err(expired()),
            Opened::At(node) => return pass_on(&self.node, node, Method::List, sent, deadline).await,
        };
        let after = match &version.after {
            Some(After::Instance(key)) => Some(key.clone()),
            _ => None,
        };
        let selector = Arc::new(list.selector);
        let filled = fill_instances(&version.state, &selector, after, list.page.size, None).await?;
        let last = filled.last(|record| After::Instance(record.key().clone()));
        let revision = version.state.revision();
        Ok(raw::ListResponse {
            header: header(&self.node, revision, version.freshness).encoded(),
            instances: filled.elements.iter().map(|record| encoded(record)).collect(),
            next_page_token: version.next_token(&self.node, &list.page, last),
            position: encoded_position(self.node.position(revision)),
        })
    }

    /// A page of services.
    pub(super) async fn list_services_page(
        &self,
        request: v1::ListServicesRequest,
        deadline: Instant,
        passed: bool,
    ) -> Result<v1::ListServicesResponse, Status> {
        let sent = later_page(&request.page_token, || request.encode_to_vec());
        let list = request::list_services(&request).map_err(bad_read)?;
        let version = match open(&self.node, &list.page, list.read, deadline).await? {
            Opened::Here(version) => version,
            Opened::At(_) if passed => return Err(expired()),
            Opened::At(node) => return pass_on(&self.node, node, Method::ListServices, sent, deadline).await,
        };
        let after = match &version.after {
            Some(After::Service(namespace, service)) => Some((namespace.clone(), service.clone())),
            _ => None,
        };
        let services = version.state.services(list.namespace.as_ref(), after.as_ref());
        let services = services.map(|summary| v1::ServiceSummary {
            namespace: summary.namespace.as_str().into(),
            service: summary.service.as_str().into(),
            starting: count_to_proto(summary.starting),
            up: count_to_proto(summary.up),
            draining: count_to_proto(summary.draining),
            down: count_to_proto(summary.down),
            mod_revision: summary.mod_revision.as_i64(),
        });
        let filled = fill_page(services, list.page.size);
        let last = filled.elements.last().filter(|_| filled.more);
        let last = last.and_then(|summary| service_after(&summary.namespace, &summary.service));
        Ok(v1::ListServicesResponse {
            header: Some(header(&self.node, version.state.revision(), version.freshness).to_proto()),
            next_page_token: version.next_token(&self.node, &list.page, last),
            services: filled.elements,
        })
    }

    /// A page of namespaces.
    pub(super) async fn list_namespaces_page(
        &self,
        request: v1::ListNamespacesRequest,
        deadline: Instant,
        passed: bool,
    ) -> Result<v1::ListNamespacesResponse, Status> {
        let sent = later_page(&request.page_token, || request.encode_to_vec());
        let list = request::list_namespaces(&request).map_err(bad_read)?;
        let version = match open(&self.node, &list.page, list.read, deadline).await? {
            Opened::Here(version) => version,
            Opened::At(_) if passed => return Err(expired()),
            Opened::At(node) => return pass_on(&self.node, node, Method::ListNamespaces, sent, deadline).await,
        };
        let after = match &version.after {
            Some(After::Namespace(namespace)) => Some(namespace.clone()),
            _ => None,
        };
        let namespaces = version
            .state
            .namespaces(after.as_ref())
            .map(|summary| v1::NamespaceSummary {
                namespace: summary.namespace.as_str().into(),
                services: count_to_proto(summary.services),
                instances: count_to_proto(summary.instances),
            });
        let filled = fill_page(namespaces, list.page.size);
        let last = filled.elements.last().filter(|_| filled.more);
        let last = last
            .and_then(|summary| summary.namespace.parse().ok())
            .map(After::Namespace);
        Ok(v1::ListNamespacesResponse {
            header: Some(header(&self.node, version.state.revision(), version.freshness).to_proto()),
            next_page_token: version.next_token(&self.node, &list.page, last),
            namespaces: filled.elements,
        })
    }
}

#[tonic::async_trait]
impl Registry for RegistryService {
    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<raw::RegisterResponse>, Status> {
        let deadline = deadline(request.metadata());
        let register = request::register(request.into_inner(), made_up_id).map_err(bad_write)?;
        let (header, outcome) = write(&self.node, Command::Register(register), deadline).await?;
        let Outcome::Registered { instance, how } = outcome else {
            return Err(mismatched());
        };
        Ok(Response::new(raw::RegisterResponse {
            header: header.encoded(),
            renew_after: renew_after(&instance),
            instance: encoded(&instance),
            outcome: registered_to_proto(how).into(),
        }))
    }

    async fn batch_register(
        &self,
        request: Request<v1::BatchRegisterRequest>,
    ) -> Result<Response<v1::BatchRegisterResponse>, Status> {
        let deadline = deadline(request.metadata());
        let request = request::batch_register(request.into_inner(), made_up_id).map_err(bad_write)?;
        let (header, outcome) = write(&self.node, Command::BatchRegister(request.batch), deadline).await?;
        let Outcome::BatchRegistered { changed } = outcome else {
            return Err(mismatched());
        };
        Ok(Response::new(v1::BatchRegisterResponse {
            header: Some(header.to_proto()),
            ids: request.ids,
            changed,
        }))
    }

    async fn update(&self, request: Request<v1::UpdateRequest>) -> Result<Response<raw::UpdateResponse>, Status> {
        let deadline = deadline(request.metadata());
        let update = request::update(request.into_inner()).map_err(bad_write)?;
        let (header, outcome) = write(&self.node, Command::Update(update), deadline).await?;
        let Outcome::Updated { instance, changed } = outcome else {
            return Err(mismatched());
        };
        Ok(Response::new(raw::UpdateResponse {
            header: header.encoded(),
            instance: encoded(&instance),
            changed,
        }))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let deadline = deadline(request.metadata());
        let deregister = request::deregister(request.into_inner()).map_err(bad_write)?;
        let (header, outcome) = write(&self.node, Command::Deregister(deregister), deadline).await?;
        let Outcome::Deregistered { existed } = outcome else {
            return Err(mismatched());
        };
        Ok(Response::new(v1::DeregisterResponse {
            header: Some(header.to_proto()),
            existed,
        }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<raw::GetResponse>, Status> {
        let deadline = deadline(request.metadata());
        let get = request::get(request.into_inner()).map_err(bad_read)?;
        let read = read(&self.node, get.read, deadline).await?;
        let Some(instance) = read.state.instance(&get.key) else {
            return Err(no_instance(get.key, read.state.revision()));
        };
        Ok(Response::new(raw::GetResponse {
            header: header(&self.node, read.state.revision(), Freshness::of(&read)).encoded(),
            instance: encoded(instance),
        }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<raw::ListResponse>, Status> {
        let deadline = deadline(request.metadata());
        self.list_page(request.into_inner(), deadline, false)
            .await
            .map(Response::new)
    }

    async fn list_services(
        &self,
        request: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        let deadline = deadline(request.metadata());
        self.list_services_page(request.into_inner(), deadline, false)
            .await
            .map(Response::new)
    }

    async fn list_namespaces(
        &self,
        request: Request<v1::ListNamespacesRequest>,
    ) -> Result<Response<v1::ListNamespacesResponse>, Status> {
        let deadline = deadline(request.metadata());
        self.list_namespaces_page(request.into_inner(), deadline, false)
            .await
            .map(Response::new)
    }

    type WatchStream = Answers<raw::WatchMessage>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let deadline = deadline(request.metadata());
        watch::one(self.node.clone(), request.into_inner(), deadline)
            .await
            .map(Response::new)
    }

    type WatchManyStream = Answers<raw::WatchMessage>;

    async fn watch_many(
        &self,
        request: Request<Streaming<v1::WatchManyRequest>>,
    ) -> Result<Response<Self::WatchManyStream>, Status> {
        Ok(Response::new(watch::many(self.node.clone(), request.into_inner())))
    }
}

/// 16 hex digits that nobody has used before, as far as chance can tell.
fn made_up_id() -> InstanceId {
    let text = format!("{:016x}", rand::rng().random::<u64>());
    InstanceId::parse(&text).expect("hex digits are a name")
}

fn renew_after(instance: &Instance) -> Option<prost_types::Duration> {
    instance.lease.map(|(_, ttl)| span_to_proto(ttl.renew_after()))
}

fn service_after(namespace: &str, service: &str) -> Option<After> {
    Some(After::Service(namespace.parse().ok()?, service.parse().ok()?))
}

/// The request's bytes, if it may have to be passed on: only one with a page token is.
pub(super) fn later_page(page_token: &str, encode: impl FnOnce() -> Vec<u8>) -> Bytes {
    if page_token.is_empty() {
        Bytes::new()
    } else {
        encode().into()
    }
}

pub(super) fn bad_read(errors: FieldErrors) -> Status {
    invalid(errors, CallKind::Read)
}

pub(super) fn bad_write(errors: FieldErrors) -> Status {
    invalid(errors, CallKind::Write)
}
