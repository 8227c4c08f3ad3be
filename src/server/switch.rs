//! What the client port answers, which changes once: when the node has joined its cluster.

use std::{convert::Infallible, sync::Arc};

use arc_swap::ArcSwap;
use axum::{Router, extract::Request};
use tower::{ServiceExt as _, service_fn};

/// An app that can be put in the place of another, for open connections too.
#[derive(Clone, Debug)]
pub(super) struct Switch(Arc<ArcSwap<Router>>);

impl Switch {
    /// Begins with an app.
    pub(super) fn new(app: Router) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(app)))
    }

    /// From now on requests go to this app.
    pub(super) fn set(&self, app: Router) {
        self.0.store(Arc::new(app));
    }

    /// The app that hands each request to the present one.
    pub(super) fn router(&self) -> Router {
        let present = self.0.clone();
        Router::new().fallback_service(service_fn(move |request: Request| {
            let app = Router::clone(&present.load());
            async move { Ok::<_, Infallible>(app.oneshot(request).await.unwrap_or_else(|never| match never {})) }
        }))
    }
}
