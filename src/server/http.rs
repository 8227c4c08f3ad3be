//! Plain HTTP beside gRPC: `/livez`, `/readyz`, `/metrics`; and the health service kept in step with the node.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use tokio::{sync::watch, time::Instant};

use super::metrics::Metrics;
use crate::{
    node::{Node, ReadOptions},
    service::{HealthReporter, Readiness},
};

/// How long a readiness probe may take.
const READY_WITHIN: Duration = Duration::from_secs(2);
/// A node whose state was confirmed this recently would answer a linearizable read.
const READY_AGE: Duration = Duration::from_secs(2);
/// The text format of Prometheus and OpenMetrics.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Shared {
    node: Node,
    metrics: Arc<Metrics>,
}

/// The three paths.
pub(super) fn router(node: Node, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_page))
        .with_state(Shared { node, metrics })
}

/// The same paths while the node waits for its cluster: it lives and is not ready.
pub(super) fn waiting_router() -> Router {
    let not_ready = || async { (StatusCode::SERVICE_UNAVAILABLE, "this node waits for its cluster\n") };
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(not_ready))
        .route("/metrics", get(not_ready))
}

async fn live() -> &'static str {
    "ok\n"
}

/// Asks for what readiness means: a linearizable read.
async fn ready(State(shared): State<Shared>) -> impl IntoResponse {
    match shared
        .node
        .read(ReadOptions::default(), Instant::now() + READY_WITHIN)
        .await
    {
        Ok(_) => (StatusCode::OK, "ok\n".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

async fn metrics_page(State(shared): State<Shared>) -> impl IntoResponse {
    ([(http::header::CONTENT_TYPE, METRICS_TYPE)], shared.metrics.page())
}

/// Tells the health service what the node's state says, until the node stops.
pub(super) async fn keep_health(node: Node, health: HealthReporter, ready_now: watch::Sender<bool>, every: Duration) {
    let stop = node.stopping();
    loop {
        let ready = node.age().is_some_and(|age| age <= READY_AGE);
        health
            .set(if ready { Readiness::Ready } else { Readiness::NotReady })
            .await;
        ready_now.send_replace(ready);
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(every) => {}
        }
    }
    health.set(Readiness::Stopping).await;
}
