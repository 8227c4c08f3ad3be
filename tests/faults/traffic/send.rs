//! From a recorded request to the wire's, and from the wire's answer to a recorded one.

use std::{future::Future, time::Duration};

use roster::wire::{
    span::{span_from_proto, span_to_proto},
    v1::{
        self, batch_register_request::Hold as BatchHold, leases_client::LeasesClient,
        register_request::Hold as RegisterHold, registry_client::RegistryClient, renew_result::Outcome,
    },
};
use tonic::{Response, Status, transport::Channel};

use super::{
    content::{key_to_wire, record},
    reads::read,
    session::Logical,
    verdict::{DEADLINE, of_read, of_write},
};
use crate::history::{Answer, Hold, RenewOutcome, Renewed, Reply, Request};

/// How much longer than the deadline that travels with a request it is waited for here.
const GRACE: Duration = Duration::from_millis(100);
/// The revision of an answer that can't be right: without a header, or with pages of several revisions. No state has
/// it, so that every checker refuses it.
pub(super) const NONSENSE: i64 = -1;

/// What came of one attempt.
pub(super) struct Sent {
    pub(super) answer: Answer,
    /// As the answer's header has it.
    pub(super) cluster_id: Option<String>,
}

/// An answer's header, and what it says.
pub(super) struct Answered {
    header: v1::Header,
    reply: Reply,
}

/// Sends a request once, and waits for its answer until the deadline.
pub(super) async fn send(channel: Channel, call: &Logical, limit: Duration) -> Sent {
    let is_read = call.request.is_read();
    match tokio::time::timeout(limit + GRACE, exchange(channel, call, limit)).await {
        Ok(Ok(Answered { header, reply })) => Sent {
            answer: Answer::Done {
                revision: header.revision,
                term: header.term,
                reply,
            },
            cluster_id: Some(header.cluster_id).filter(|id| !id.is_empty()),
        },
        Ok(Err(status)) => Sent {
            answer: if is_read { of_read(&status) } else { of_write(&status) },
            cluster_id: None,
        },
        Err(_elapsed) => {
            let reason = DEADLINE.to_owned();
            Sent {
                answer: if is_read {
                    Answer::Failed { reason }
                } else {
                    Answer::Unknown { reason }
                },
                cluster_id: None,
            }
        }
    }
}

async fn exchange(channel: Channel, call: &Logical, limit: Duration) -> Result<Answered, Status> {
    let mut registry = RegistryClient::new(channel.clone());
    let mut leases = LeasesClient::new(channel);
    match &call.request {
        Request::Register { .. } => {
            let request = timed(register_to_wire(call), limit);
            let answer = plain(registry.register(request)).await?;
            Ok(of_record(answer.header, answer.instance))
        }
        Request::BatchRegister { .. } => {
            let request = timed(batch_to_wire(call), limit);
            let answer = plain(registry.batch_register(request)).await?;
            let changed = answer.changed;
            Ok(answered(answer.header, Reply::Batch { changed }))
        }
        Request::Update {
            key,
            incarnation,
            mark,
            expected,
        } => {
            let update = v1::UpdateRequest {
                expected_mod_revision: *expected,
                ..call.looks.update(key, *incarnation, mark)
            };
            let answer = plain(registry.update(timed(update, limit))).await?;
            Ok(of_record(answer.header, answer.instance))
        }
        Request::Deregister {
            key,
            incarnation,
            expected,
        } => {
            let deregister = v1::DeregisterRequest {
                key: Some(key_to_wire(key)),
                expected_mod_revision: *expected,
                incarnation: *incarnation,
                lease_id: 0,
            };
            let answer = plain(registry.deregister(timed(deregister, limit))).await?;
            let existed = answer.existed;
            Ok(answered(answer.header, Reply::Gone { existed }))
        }
        Request::Grant { lease, ttl_ms } => {
            let grant = v1::GrantLeaseRequest {
                lease_id: *lease,
                ttl: Some(span_to_proto(Duration::from_millis(*ttl_ms))),
            };
            let answer = plain(leases.grant_lease(timed(grant, limit))).await?;
            let granted = answer.lease.unwrap_or_default();
            let ttl = granted.ttl.and_then(span_from_proto).unwrap_or_default();
            let reply = Reply::Lease {
                lease: granted.lease_id,
                ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            };
            Ok(answered(answer.header, reply))
        }
        Request::Revoke { lease } => {
            let revoke = v1::RevokeLeaseRequest { lease_id: *lease };
            let answer = plain(leases.revoke_lease(timed(revoke, limit))).await?;
            let existed = answer.existed;
            Ok(answered(answer.header, Reply::Gone { existed }))
        }
        Request::Renew { leases: ids, .. } => {
            let renew = v1::RenewRequest {
                seq: 0,
                lease_ids: ids.clone(),
            };
            let answer = plain(leases.renew(timed(renew, limit))).await?;
            Ok(answered(answer.header, Reply::Renewed(renewed(&answer.results))))
        }
        Request::Get { .. } | Request::List { .. } | Request::Overview { .. } => {
            read(registry, leases, call, limit).await
        }
    }
}

fn register_to_wire(call: &Logical) -> v1::RegisterRequest {
    let Request::Register {
        key,
        incarnation,
        hold,
        mark,
        expected,
    } = &call.request
    else {
        return v1::RegisterRequest::default();
    };
    let hold = match *hold {
        Hold::Own { ttl_ms } => RegisterHold::OwnLease(v1::OwnLease {
            ttl: Some(span_to_proto(Duration::from_millis(ttl_ms))),
        }),
        Hold::Lease(id) => RegisterHold::LeaseId(id),
        Hold::Permanent => RegisterHold::Permanent(true),
    };
    v1::RegisterRequest {
        instance: Some(call.looks.instance(key, *incarnation, mark)),
        hold: Some(hold),
        expected_mod_revision: *expected,
    }
}

fn batch_to_wire(call: &Logical) -> v1::BatchRegisterRequest {
    let Request::BatchRegister {
        keys,
        incarnation,
        hold,
        mark,
    } = &call.request
    else {
        return v1::BatchRegisterRequest::default();
    };
    let instance = |key: &String| call.looks.instance(key, *incarnation, mark);
    v1::BatchRegisterRequest {
        instances: keys.iter().map(instance).collect(),
        hold: match *hold {
            Hold::Lease(id) => Some(BatchHold::LeaseId(id)),
            Hold::Permanent => Some(BatchHold::Permanent(true)),
            // A batch has no own leases: the server says so.
            Hold::Own { .. } => None,
        },
    }
}

/// What became of each lease of a renewal.
pub(super) fn renewed(results: &[v1::RenewResult]) -> Vec<Renewed> {
    let one = |result: &v1::RenewResult| Renewed {
        lease: result.lease_id,
        outcome: match result.outcome() {
            Outcome::Renewed => RenewOutcome::Renewed,
            Outcome::NotFound => RenewOutcome::NotFound,
            Outcome::Unconfirmed | Outcome::Unspecified => RenewOutcome::Unconfirmed,
        },
        instances: u32::try_from(result.instances).unwrap_or(0),
    };
    results.iter().map(one).collect()
}

fn of_record(header: Option<v1::Header>, instance: Option<v1::Instance>) -> Answered {
    answered(header, Reply::Record(record(instance.unwrap_or_default())))
}

/// An answer; one without a header is nonsense.
pub(super) fn answered(header: Option<v1::Header>, reply: Reply) -> Answered {
    let header = header.unwrap_or_else(|| v1::Header {
        revision: NONSENSE,
        ..v1::Header::default()
    });
    Answered { header, reply }
}

/// A request that says how long it is waited for.
pub(super) fn timed<Q>(message: Q, limit: Duration) -> tonic::Request<Q> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(limit);
    request
}

/// An answer without its metadata.
pub(super) async fn plain<R>(answer: impl Future<Output = Result<Response<R>, Status>>) -> Result<R, Status> {
    answer.await.map(Response::into_inner)
}
