//! The client port's gRPC handlers, one file per service.
//!
//! Promises: every field of a request is checked before anything is done ([`crate::wire::request`]); every answer
//! carries a header; every error is a row of one table (`status`), and says of a write what became of it; no answer
//! is longer than its limit; a stream costs bounded memory, whether its client reads or not, and ends with the node.
//!
//! Never does: decide. A handler decodes, calls [`crate::node`], encodes. It knows neither openraft nor RocksDB, and
//! of the peer port only what a node passes on for its clients ([`Forwards`]).
//!
//! | file | holds |
//! |---|---|
//! | `api` | the way in: which service a call is for |
//! | `registry`, `leases`, `cluster` | the services of `roster.v1` |
//! | `watch`, `keep_alive` | the long streams |
//! | `paging` | lists, page by page, of one version |
//! | `status` | from the node's errors to the API's |
//! | `call` | deadlines, headers, the ends of streams |
//! | `forwards` | what other nodes pass on to this one |
//! | `hurry` | what a request may take to arrive |
//! | `health` | grpc.health.v1 |

mod api;
mod call;
mod cluster;
mod forwards;
mod health;
mod hurry;
mod keep_alive;
mod leases;
mod paging;
mod registry;
mod status;
mod watch;

use axum::{Router, body::Body};
use http::Response;
use tonic::service::Routes;
use tower::util::{MapRequestLayer, MapResponseLayer};

pub use self::{
    api::{Answer, Api},
    forwards::Forwards,
    health::{HealthReporter, HealthService, Readiness, health},
};
use crate::wire::{DESCRIPTOR_SET, ErrorDetail, Reason, WriteOutcome};

/// Health and reflection of a node at work.
fn not_api(health: HealthService) -> Router {
    with_health_and_reflection(Routes::default(), health)
}

/// The client port of a node that has no cluster yet: every call of the API is NOT_READY; health and reflection work.
fn waiting_router(health: HealthService) -> Router {
    let not_ready = || async {
        let problem = "this node waits for the other nodes of its cluster";
        let mut detail = ErrorDetail::new(Reason::NotReady, problem);
        // Whatever was asked, nothing of it was done; of a write, its caller must know that.
        detail.outcome = Some(WriteOutcome::NotApplied);
        detail.into_status().into_http::<Body>()
    };
    let api = axum::routing::any(not_ready);
    with_health_and_reflection(Routes::default(), health)
        .route("/roster.v1.Registry/{method}", api.clone())
        .route("/roster.v1.Leases/{method}", api.clone())
        .route("/roster.v1.Cluster/{method}", api)
}

fn with_health_and_reflection(routes: Routes, health: HealthService) -> Router {
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // Both versions of the protocol are in use: grpcurl of old asks for v1alpha.
    let reflection = described()
        .build_v1()
        .expect("the descriptor set was made by our own build");
    let reflection_of_old = described()
        .build_v1alpha()
        .expect("the descriptor set was made by our own build");
    routes
        .add_service(health)
        .add_service(reflection)
        .add_service(reflection_of_old)
        .into_axum_router()
        .layer(MapRequestLayer::new(|request| hurry::hurried(request).map(Body::new)))
        .layer(MapResponseLayer::new(explain_unreadable))
}

/// tonic refuses a request that is too long or no protobuf before a handler sees it, without any details; its codes
/// for that come from no handler of ours, whose errors all have details.
fn explain_unreadable<B: Default>(response: Response<B>) -> Response<B> {
    let told = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let unreadable = matches!(told("grpc-status"), Some("11" | "13")) && told("grpc-status-details-bin").is_none();
    if !unreadable {
        return response;
    }
    let status = tonic::Status::from_header_map(response.headers());
    let problem = status.map_or_else(
        || "it is no protobuf message".to_owned(),
        |status| status.message().to_owned(),
    );
    status::unreadable_message(&problem).into_http()
}

#[cfg(test)]
mod tests {
    use http::Request;
    use tonic::{Code, Status};
    use tower::ServiceExt as _;

    use super::*;

    async fn answer(path: &str) -> Status {
        let (_reporter, health) = health();
        let request = Request::post(path)
            .header("content-type", "application/grpc")
            .body(Body::empty());
        let response = Api::waiting(health).oneshot(request.unwrap()).await.unwrap();
        Status::from_header_map(response.headers()).unwrap_or_else(|| Status::ok(""))
    }

    #[tokio::test]
    async fn a_node_without_a_cluster_says_that_it_is_not_ready() {
        for path in [
            "/roster.v1.Registry/List",
            "/roster.v1.Leases/KeepAlive",
            "/roster.v1.Cluster/ListMembers",
        ] {
            let detail = ErrorDetail::from_status(&answer(path).await).unwrap();
            assert_eq!(detail.reason, Reason::NotReady);
            assert_eq!(detail.outcome, Some(WriteOutcome::NotApplied));
            assert!(detail.retry_after.is_some());
        }
        assert_eq!(answer("/roster.v2.Registry/List").await.code(), Code::Unimplemented);
    }

    #[tokio::test]
    async fn a_request_that_is_no_protobuf_is_explained() {
        let detail = ErrorDetail::from_status(&answer("/grpc.health.v1.Health/Check").await);
        assert_eq!(
            detail.map(|detail| detail.reason),
            Some(Reason::InvalidField),
            "an empty body holds no message"
        );
    }

    #[test]
    fn an_error_with_details_is_left_as_it_is() {
        let told = ErrorDetail::new(Reason::RevisionInFuture, "beyond").into_status();
        let response = explain_unreadable(told.into_http::<Body>());
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(
            ErrorDetail::from_status(&status).unwrap().reason,
            Reason::RevisionInFuture
        );
    }
}
