//! What a request may take to arrive.
//!
//! A call of one message is answered when the message is whole. A client that sends it byte by byte would keep its
//! stream, and what has come of the message, for as long as it likes; so the message must be whole in time. Streams of
//! messages last as long as they last: what they may keep is bounded where they are served.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::status::unreadable_message;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// From the moment at which it is waited for.
const WHOLE_WITHIN: Duration = Duration::from_secs(10);

/// The methods whose requests are streams.
const STREAMS: &[&str] = &[
    "/roster.v1.Registry/WatchMany",
    "/roster.v1.Leases/KeepAlive",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// The request, which fails when it is no stream and not whole in time.
pub(super) fn hurried<B>(request: Request<B>) -> Request<Hurried<B>> {
    let is_stream = STREAMS.contains(&request.uri().path());
    request.map(|body| Hurried {
        body,
        is_stream,
        until: None,
    })
}

/// What is to be whole in time.
pub(super) struct Hurried<B> {
    body: B,
    is_stream: bool,
    /// From the first time that something was waited for: most messages are there at once.
    until: Option<Pin<Box<Sleep>>>,
}

impl<B> Body for Hurried<B>
where
    B: Body<Data = Bytes, Error: Into<Error>> + Unpin,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if this.is_stream {
            return poll(&mut this.body, cx);
        }
        // Asked first: bytes that trickle in must not put the end off.
        let is_late = this
            .until
            .as_mut()
            .is_some_and(|until| until.as_mut().poll(cx).is_ready());
        if !is_late && let Poll::Ready(frame) = poll(&mut this.body, cx) {
            return Poll::Ready(frame);
        }
        let until = this
            .until
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(WHOLE_WITHIN)));
        if !is_late {
            ready!(until.as_mut().poll(cx));
        }
        let problem = format!("it was not whole within {} s", WHOLE_WITHIN.as_secs());
        Poll::Ready(Some(Err(unreadable_message(&problem).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn poll<B>(body: &mut B, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>>
where
    B: Body<Data = Bytes, Error: Into<Error>> + Unpin,
{
    let frame = ready!(Pin::new(body).poll_frame(cx));
    Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use futures_util::{StreamExt as _, stream};
    use prost_reflect::DescriptorPool;
    use tokio::time::Instant;
    use tonic::{Code, Status};
    use tower::ServiceExt as _;

    use super::*;
    use crate::{
        service::{Api, health},
        wire::{DESCRIPTOR_SET, ErrorDetail, Reason},
    };

    fn trickle() -> Body {
        let bytes = stream::repeat(Ok::<_, Infallible>(Bytes::from_static(&[0])));
        Body::from_stream(bytes.then(|byte| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            byte
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_trickles_in_is_refused_in_time() {
        let (_reporter, health) = health();
        let request = Request::post("/grpc.health.v1.Health/Check").header("content-type", "application/grpc");
        let body = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let began = Instant::now();
        let response = Api::waiting(health).oneshot(request.body(body).unwrap()).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), WHOLE_WITHIN.as_secs());
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(ErrorDetail::from_status(&status).unwrap().reason, Reason::InvalidField);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_come_do_not_put_the_end_off_but_a_stream_has_none() {
        for (path, ends) in [
            ("/roster.v1.Registry/List", true),
            ("/roster.v1.Leases/KeepAlive", false),
        ] {
            let request = Request::post(path).body(trickle()).unwrap();
            let mut frames = Body::new(hurried(request).into_body()).into_data_stream();
            let mut came = 0;
            while came < 100 && frames.next().await.is_some_and(|frame| frame.is_ok()) {
                came += 1;
            }
            assert_eq!(came < 20, ends, "{path}: {came} bytes");
        }
    }

    #[test]
    fn the_streams_are_those_of_the_api() {
        let pool = DescriptorPool::decode(DESCRIPTOR_SET).unwrap();
        let mut streams: Vec<String> = pool
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .filter(prost_reflect::MethodDescriptor::is_client_streaming)
            .map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()))
            .collect();
        streams.sort_unstable();
        let mut known: Vec<_> = STREAMS.iter().filter(|path| path.starts_with("/roster.")).collect();
        known.sort_unstable();
        assert_eq!(
            streams.iter().map(String::as_str).collect::<Vec<_>>(),
            known.into_iter().copied().collect::<Vec<_>>()
        );
    }
}
