//! Answers Hello and Found on the peer port, before there is a cluster and after.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tonic::Status;

use crate::{
    node::bootstrap::{Belonging, Founded},
    peer::Introduction,
    wire::internal::{FoundRequest, FoundResponse, HelloRequest, HelloResponse},
};

/// Makes a node's identity durable.
pub(super) type Store = dyn Fn(&Founded) -> Result<(), String> + Send + Sync;

/// Says who this node is, and takes the cluster that its founder made.
pub(super) struct Introducer {
    belonging: Arc<Belonging>,
    store: Arc<Store>,
}

impl Introducer {
    pub(super) fn new(belonging: Arc<Belonging>, store: Arc<Store>) -> Self {
        Self { belonging, store }
    }
}

impl Introduction for Introducer {
    fn hello(&self, _request: HelloRequest) -> HelloResponse {
        self.belonging.hello()
    }

    fn found(&self, request: FoundRequest) -> BoxFuture<'static, Result<FoundResponse, Status>> {
        let (belonging, store) = (self.belonging.clone(), self.store.clone());
        Box::pin(async move {
            // Storing waits for the disk, which the threads of Raft must not.
            let taken = tokio::task::spawn_blocking(move || belonging.take(&request, |found| store(found))).await;
            match taken {
                Ok(Ok(())) => Ok(FoundResponse {}),
                Ok(Err(problem)) => Err(Status::failed_precondition(problem)),
                Err(_stopped) => Err(Status::unavailable("this node is stopping")),
            }
        })
    }
}
