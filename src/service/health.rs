//! grpc.health.v1: `""` says that the process works, the API's services whether they would answer a linearizable read.

use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter as Statuses, HealthService as Health},
};

/// The services that are ready only with a quorum.
const SERVICES: [&str; 2] = ["roster.v1.Registry", "roster.v1.Leases"];

/// The gRPC service, to be handed to [`Api`](super::Api).
pub type HealthService = HealthServer<Health>;

/// What the node can say of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It would answer a linearizable read.
    Ready,
    /// It lives, and has no quorum or no state yet.
    NotReady,
    /// It shuts down.
    Stopping,
}

/// Tells the health service how the node does.
#[derive(Clone, Debug)]
pub struct HealthReporter(Statuses);

impl HealthReporter {
    /// From now on the node does so.
    pub async fn set(&self, readiness: Readiness) {
        let (process, services) = match readiness {
            Readiness::Ready => (ServingStatus::Serving, ServingStatus::Serving),
            Readiness::NotReady => (ServingStatus::Serving, ServingStatus::NotServing),
            Readiness::Stopping => (ServingStatus::NotServing, ServingStatus::NotServing),
        };
        self.0.set_service_status("", process).await;
        for service in SERVICES {
            self.0.set_service_status(service, services).await;
        }
        // Cluster calls ask nobody else.
        self.0.set_service_status("roster.v1.Cluster", process).await;
    }
}

/// The health service and the way to tell it; alive and not ready at first.
#[must_use]
pub fn health() -> (HealthReporter, HealthService) {
    let statuses = Statuses::new();
    let service = HealthServer::new(Health::from_health_reporter(statuses.clone()));
    (HealthReporter(statuses), service)
}
