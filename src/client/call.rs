//! One call's way from node to node.

use std::{future::Future, time::Duration};

use tokio::time::Instant;
use tonic::{Request, Response, Status, transport::Channel};

use super::{
    error::Error,
    handle::Client,
    moment::Moment,
    retry::{Attempts, Next, Safety},
};

/// How much longer than its deadline an attempt is waited for on this side: the deadline that travels with the
/// request is kept on both sides, and this one must not be the only one that is believed.
const GRACE: Duration = Duration::from_millis(50);

/// An answer, and when the attempt that it answers was sent.
#[derive(Clone, Debug)]
pub(super) struct Answered<R> {
    pub(super) response: R,
    pub(super) sent_at: Moment,
}

impl Client {
    /// Makes a call: asks one node after another as `safety` allows, until one answers or patience ends.
    pub(super) async fn call<Q, R, F>(
        &self,
        safety: Safety,
        request: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<R, Error>
    where
        Q: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        self.call_timed(safety, request, send)
            .await
            .map(|answered| answered.response)
    }

    /// The same; also tells when the attempt that was answered was sent.
    pub(super) async fn call_timed<Q, R, F>(
        &self,
        safety: Safety,
        request: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<Answered<R>, Error>
    where
        Q: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let nodes = self.nodes();
        let mut attempts = Attempts::new(safety, self.patience(), nodes.count(), Instant::now());
        loop {
            let node = nodes.current();
            let limit = attempts.limit(Instant::now());
            let sent_at = self.now();
            let mut attempt = Request::new(request.clone());
            attempt.set_timeout(limit);
            let answer = match nodes.channel(node) {
                Ok(channel) => {
                    let endpoint = nodes.endpoint(node).to_string();
                    answer_within(limit, endpoint, send(channel, attempt)).await
                }
                Err(error) => Err(error),
            };
            let error = match answer {
                Ok(response) => return Ok(Answered { response, sent_at }),
                Err(error) => error,
            };
            tracing::debug!(%error, "an attempt failed");
            if error.may_go_elsewhere() {
                nodes.leave(node);
            }
            match attempts.after(error, Instant::now()) {
                Next::Again(pause) => tokio::time::sleep(pause).await,
                Next::GiveUp(error) => return Err(error),
            }
        }
    }
}

/// The answer, or what its failure means.
async fn answer_within<R>(
    limit: Duration,
    endpoint: String,
    answer: impl Future<Output = Result<Response<R>, Status>>,
) -> Result<R, Error> {
    let began = Instant::now();
    match tokio::time::timeout(limit + GRACE, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Error::from_status(&status, endpoint, began.elapsed())),
        Err(_) => Err(Error::NoAnswer {
            endpoint,
            waited: began.elapsed(),
            outcome: None,
        }),
    }
}
