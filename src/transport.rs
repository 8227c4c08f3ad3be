//! How connections come about: TCP, or whatever the user brings.
//!
//! Clients and nodes call over HTTP/2; what carries it is a stream of bytes, and this room is where that stream is
//! opened. An application that reaches its cluster through a proxy or a tunnel, and a test that simulates the network,
//! bring a [`Connector`] of their own. The room knows no address and tries nothing twice.

use std::{fmt, future::Future, io};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint};
use tower::{service_fn, util::BoxCloneSyncService};

/// A stream of bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}

/// An open stream, whatever it is.
type Opened = TokioIo<Box<dyn ByteStream>>;

/// Opens streams to addresses; cheap to clone. The default one opens TCP connections without delay (`TCP_NODELAY`).
#[derive(Clone, Default)]
pub struct Connector(Option<BoxCloneSyncService<Uri, Opened, io::Error>>);

impl Connector {
    /// A connector that calls `open` with `http://HOST:PORT` for each connection. A connection that is not open within
    /// the caller's connect timeout is given up by dropping the future.
    pub fn new<O, F, S>(open: O) -> Self
    where
        O: Fn(Uri) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: ByteStream,
    {
        Self(Some(BoxCloneSyncService::new(service_fn(move |uri| {
            let opening = open(uri);
            async move {
                let stream: Box<dyn ByteStream> = Box::new(opening.await?);
                Ok(TokioIo::new(stream))
            }
        }))))
    }

    /// A channel to an endpoint, which connects when it is first used, and again whenever its connection broke. Its
    /// connections are driven by the runtime in whose context this is called.
    #[must_use]
    pub fn channel(&self, endpoint: &Endpoint) -> Channel {
        match &self.0 {
            Some(open) => endpoint.connect_with_connector_lazy(open.clone()),
            None => endpoint.connect_lazy(),
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Connector(own)"
        } else {
            "Connector(TCP)"
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

    use super::*;

    #[tokio::test]
    async fn every_connection_is_opened_by_the_connector_and_its_failure_is_the_calls() {
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        let connector = Connector::new(move |uri: Uri| {
            count.fetch_add(1, Ordering::Relaxed);
            assert_eq!(uri.authority().map(http::uri::Authority::as_str), Some("n1:7400"));
            async { Err::<tokio::io::DuplexStream, _>(io::Error::from(io::ErrorKind::ConnectionRefused)) }
        });
        let endpoint = Endpoint::from_static("http://n1:7400");
        let mut client = HealthClient::new(connector.channel(&endpoint));
        for calls in 1..=2 {
            let refused = client.check(HealthCheckRequest::default()).await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::Unavailable);
            assert_eq!(opened.load(Ordering::Relaxed), calls, "a broken channel connects again");
        }
    }
}
