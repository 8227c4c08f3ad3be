//! The way in from the client port: a call goes straight to the service that its path names.
//!
//! A router boxes what it hands on, once for each of its layers. For a short call that costs as much as the call does,
//! so it is asked only for what is not the API: health, reflection, and what the server adds.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use axum::Router;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tonic::{body::Body, server::NamedService as _};
use tower::{Service, ServiceExt as _};

use super::{
    HealthService, cluster::ClusterService, explain_unreadable, hurry::hurried, leases::LeasesService, not_api,
    registry::RegistryService, waiting_router,
};
use crate::{
    model::limits::MESSAGE_MAX_BYTES,
    node::Node,
    wire::served::{cluster_server::ClusterServer, leases_server::LeasesServer, registry_server::RegistryServer},
};

/// What the client port answers; cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// None before the node has a cluster.
    services: Option<Services>,
    others: Router,
}

#[derive(Clone)]
struct Services {
    registry: RegistryServer<RegistryService>,
    leases: LeasesServer<LeasesService>,
    cluster: ClusterServer<ClusterService>,
}

/// What becomes of a request.
pub type Answer = BoxFuture<'static, Result<Response<Body>, Infallible>>;
type Error = Box<dyn std::error::Error + Send + Sync>;

impl Api {
    /// Of a node at work.
    #[must_use]
    pub fn new(node: Node, health: HealthService) -> Self {
        let registry = RegistryServer::new(RegistryService::new(node.clone()))
            .max_decoding_message_size(MESSAGE_MAX_BYTES)
            .max_encoding_message_size(MESSAGE_MAX_BYTES);
        let leases = LeasesServer::new(LeasesService::new(node.clone()))
            .max_decoding_message_size(MESSAGE_MAX_BYTES)
            .max_encoding_message_size(MESSAGE_MAX_BYTES);
        let cluster = ClusterServer::new(ClusterService::new(node))
            .max_decoding_message_size(MESSAGE_MAX_BYTES)
            .max_encoding_message_size(MESSAGE_MAX_BYTES);
        Self {
            services: Some(Services {
                registry,
                leases,
                cluster,
            }),
            others: not_api(health),
        }
    }

    /// Of a node that has no cluster yet: every call of the API is NOT_READY; health and reflection work.
    #[must_use]
    pub fn waiting(health: HealthService) -> Self {
        Self {
            services: None,
            others: waiting_router(health),
        }
    }

    /// And what else the port answers.
    #[must_use]
    pub fn and(self, others: Router) -> Self {
        Self {
            others: self.others.merge(others),
            ..self
        }
    }

    /// Answers a request.
    pub fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: HttpBody<Data = Bytes, Error: Into<Error>> + Send + Unpin + 'static,
    {
        let service = service_of(request.uri().path());
        let called = match &self.services {
            Some(services) if service == RegistryServer::<RegistryService>::NAME => {
                services.registry.clone().call(hurried(request))
            }
            Some(services) if service == LeasesServer::<LeasesService>::NAME => {
                services.leases.clone().call(hurried(request))
            }
            Some(services) if service == ClusterServer::<ClusterService>::NAME => {
                services.cluster.clone().call(hurried(request))
            }
            _ => {
                let others = self.others.clone();
                return Box::pin(async move {
                    Ok(others.oneshot(request.map(axum::body::Body::new)).await?.map(Body::new))
                });
            }
        };
        Box::pin(async move { Ok(explain_unreadable(called.await?)) })
    }
}

/// `/service/method`
fn service_of(path: &str) -> &str {
    let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    service.map_or("", |(service, _method)| service)
}

impl<B> Service<Request<B>> for Api
where
    B: HttpBody<Data = Bytes, Error: Into<Error>> + Send + Unpin + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answer {
        self.answer(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_of_a_path_is_its_first_part() {
        assert_eq!(
            service_of("/roster.v1.Registry/List"),
            RegistryServer::<RegistryService>::NAME
        );
        assert_eq!(
            service_of("/roster.v1.Leases/KeepAlive"),
            LeasesServer::<LeasesService>::NAME
        );
        assert_eq!(
            service_of("/roster.v1.Cluster/ListMembers"),
            ClusterServer::<ClusterService>::NAME
        );
        for path in ["", "/", "/livez", "roster.v1.Registry/List"] {
            assert_eq!(service_of(path), "", "{path}");
        }
    }
}
