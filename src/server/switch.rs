//! What the client port answers, which changes once: when the node has joined its cluster.

use std::{
    convert::Infallible,
    error::Error,
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::Service;

use crate::service::{Answer, Api};

/// An [`Api`] that can be put in the place of another, for open connections too.
#[derive(Clone)]
pub(super) struct Switch(Arc<ArcSwap<Api>>);

impl Switch {
    /// Begins with this.
    pub(super) fn new(api: Api) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(api)))
    }

    /// From now on requests go to this.
    pub(super) fn set(&self, api: Api) {
        self.0.store(Arc::new(api));
    }
}

/// Hands each request to the present one.
impl<B> Service<Request<B>> for Switch
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answer {
        self.0.load().answer(request)
    }
}
