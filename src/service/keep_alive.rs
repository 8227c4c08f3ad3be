//! Renew and KeepAlive: one lease's trouble is never the others', and never ends the stream.

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::{
    call::{Answers, CALL_MAX, Freshness, NoRoom, Outlet, header, stalled},
    registry::bad_write,
    status::{CallKind, refused, unreadable},
};
use crate::{
    model::{LeaseId, Revision, limits::RENEWAL_IDS_MAX},
    node::{Node, NodeError, Renewed},
    registry::Renewal,
    wire::{
        lease::renewal_to_proto,
        raw,
        request::{self, Renew},
        span::span_to_proto,
        v1,
    },
};

/// Requests of one stream under way.
const IN_FLIGHT_MAX: usize = 64;
/// Their ids together: the next request is read once there are fewer.
const IDS_IN_FLIGHT_MAX: usize = 2 * RENEWAL_IDS_MAX;
/// Answers of one stream that wait for the transport.
const ANSWERS_WAITING_MAX: usize = 8;

/// Renews leases and answers for each of them. What a deadline cuts off is unconfirmed.
///
/// # Errors
/// `Overloaded`, `ShuttingDown`: nothing was renewed.
pub(super) async fn renew(node: &Node, renew: Renew, deadline: Instant) -> Result<raw::RenewResponse, NodeError> {
    let ids: Vec<LeaseId> = renew.lease_ids.iter().flatten().copied().collect();
    let count = ids.len();
    let (revision, renewed) = if ids.is_empty() {
        (node.revision(), Vec::new())
    } else {
        let in_time = tokio::time::timeout_at(deadline, node.renew(ids)).await;
        in_time.unwrap_or_else(|_elapsed| Ok((node.revision(), vec![Renewed::Unconfirmed; count])))?
    };
    Ok(answer(node, &renew, revision, renewed))
}

fn answer(node: &Node, renew: &Renew, revision: Revision, renewed: Vec<Renewed>) -> raw::RenewResponse {
    let mut renewed = renewed.into_iter();
    let mut shortest = None;
    let mut results = Vec::with_capacity(renew.asked.len());
    for (id, &asked) in renew.lease_ids.iter().zip(&renew.asked) {
        let renewal = match id {
            None => Some(Renewal::NotFound),
            Some(_) => match renewed.next() {
                Some(Renewed::Known(renewal)) => Some(renewal),
                Some(Renewed::Unconfirmed) | None => None,
            },
        };
        if let Some(Renewal::Renewed { ttl, .. }) = renewal {
            shortest = Some(shortest.map_or(ttl, |shortest| ttl.min(shortest)));
        }
        let lease_id = asked;
        results.push(v1::RenewResult {
            lease_id,
            ..renewal_to_proto(id.unwrap_or_default(), renewal)
        });
    }
    raw::RenewResponse {
        header: header(node, revision, Freshness::Linearizable).encoded(),
        seq: renew.seq,
        results,
        renew_after: shortest.map(|ttl| span_to_proto(ttl.renew_after())),
    }
}

/// Answers a stream of renewals, in any order, until the client has closed its side or the node stops.
pub(super) fn stream(node: Node, requests: Streaming<v1::RenewRequest>) -> Answers<raw::RenewResponse> {
    Answers::spawn(ANSWERS_WAITING_MAX, |outlet| async move {
        if let Err(status) = serve(&node, requests, &outlet).await {
            outlet.end_with(status);
        }
    })
}

async fn serve(
    node: &Node,
    mut requests: Streaming<v1::RenewRequest>,
    outlet: &Outlet<raw::RenewResponse>,
) -> Result<(), Status> {
    let stop = node.stopping();
    let mut under_way = FuturesUnordered::new();
    let (mut ids, mut open) = (0, true);
    while open || !under_way.is_empty() {
        let room = under_way.len() < IN_FLIGHT_MAX && ids < IDS_IN_FLIGHT_MAX;
        tokio::select! {
            () = stop.cancelled() => return Err(refused(NodeError::ShuttingDown, CallKind::Write)),
            Some((count, answered)) = under_way.next(), if !under_way.is_empty() => {
                ids -= count;
                let answered: Result<raw::RenewResponse, Status> = answered;
                // A client that does not read is not read from either: its renewals end here, and so do its leases.
                tokio::select! {
                    () = stop.cancelled() => return Err(refused(NodeError::ShuttingDown, CallKind::Write)),
                    room = outlet.room_in_time() => match room {
                        Ok(room) => room.send(answered?),
                        Err(NoRoom::Left) => return Ok(()),
                        Err(NoRoom::Stalled) => return Err(stalled("stream of renewals").into_status()),
                    },
                }
            }
            request = requests.message(), if open && room => match request.map_err(unreadable)? {
                None => open = false,
                Some(request) => {
                    let wanted = request::renew(request).map_err(bad_write)?;
                    let count = wanted.asked.len();
                    ids += count;
                    under_way.push(async move { (count, renew_or_say_so(node, wanted).await) });
                }
            }
        }
    }
    Ok(())
}

/// Too much to do is no reason to end a stream: what could not be renewed is unconfirmed, and its owner tries again.
async fn renew_or_say_so(node: &Node, wanted: Renew) -> Result<raw::RenewResponse, Status> {
    let deadline = Instant::now() + CALL_MAX;
    match renew(node, wanted.clone(), deadline).await {
        Ok(answer) => Ok(answer),
        Err(NodeError::Overloaded { .. }) => Ok(answer(node, &wanted, node.revision(), Vec::new())),
        Err(error) => Err(refused(error, CallKind::Write)),
    }
}
