//! What other nodes forward to this one, when they take it for the leader.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Node,
    route::{CALL_MAX, failure_to_proto, read_failure},
    waiting::Failure,
};
use crate::{
    model::{LogIndex, NodeId, Term},
    wire::{
        deltas,
        internal::{ForwardRequest, ForwardResponse, forward_request::Request, forward_response::Response},
        log, reply,
    },
};

impl Node {
    /// Does what another node forwarded, if this node leads the term that the other believes in. One hop only: it is
    /// never forwarded again, and a leader of another term answers that it was not applied. Whether this node vouches for
    /// `from` it says whoever leads.
    pub async fn forwarded(&self, from: NodeId, request: ForwardRequest) -> ForwardResponse {
        let ForwardRequest { seq, term, request } = request;
        let response = match request {
            Some(request) => self.forwarded_request(from, Term(term), request).await,
            None => Err(Failure::NotLeader(None)),
        };
        let response = response.unwrap_or_else(|failure| Response::Failure(failure_to_proto(failure)));
        ForwardResponse {
            seq,
            response: Some(response),
        }
    }

    async fn forwarded_request(&self, from: NodeId, term: Term, request: Request) -> Result<Response, Failure> {
        // Plant: a leader takes what was sent to its former terms, or to another one.
        planted!("forward-of-another-term", let term = self.0.route.term());
        let leads = self.0.route.term() == term && self.0.route.leader_id() == Some(self.0.node_id);
        match request {
            Request::Vouch(_) => match self.0.raft.vouch(term, from) {
                Some(last) => Ok(Response::VouchedThrough(last.0)),
                None => Err(Failure::NotLeader(self.0.route.leader_id())),
            },
            _ if !leads => Err(Failure::NotLeader(self.0.route.leader_id())),
            Request::Command(forwarded) => {
                let propose_by = propose_by(forwarded.timeout_ms);
                // Our own nodes send only commands that decode; anything else is not ours to apply.
                let encoded = forwarded.command;
                let command = log::command_from_bytes(&encoded).map_err(|_| Failure::NotLeader(None))?;
                let written = self.0.proposer.write(command, encoded, Some(term), propose_by);
                let (index, answer) = written.await?;
                Ok(Response::Command(reply::reply_to_proto(index, &answer)))
            }
            Request::Renewals(forwarded) => {
                let propose_by = propose_by(forwarded.timeout_ms);
                let ids = deltas::ids_from_deltas(&forwarded.lease_id_deltas).map_err(|_| Failure::NotLeader(None))?;
                let (renewals, revision) = self.0.proposer.renew(ids, Some(term), propose_by).await?;
                Ok(Response::Renewals(reply::renewals_to_proto(&renewals, revision)))
            }
            Request::ReadIndex(question) => {
                let named = async {
                    match question.vouched_through {
                        Some(last) => self.0.raft.read_index_vouched(term, from, LogIndex(last)).await,
                        None => self.0.raft.read_index().await,
                    }
                };
                match tokio::time::timeout(CALL_MAX, named).await {
                    Ok(Ok(index)) => Ok(Response::ReadIndex(index.0)),
                    Ok(Err(error)) => Err(read_failure(&error)),
                    Err(_elapsed) => Err(Failure::NoQuorum),
                }
            }
        }
    }
}

fn propose_by(timeout_ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(timeout_ms).min(CALL_MAX)
}
