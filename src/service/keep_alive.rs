//! Renew and KeepAlive: one lease's trouble is never the others', and never ends the stream.

use std::{future::poll_fn, pin::pin, task::Poll};

use futures_util::{Stream, StreamExt as _, stream::FuturesUnordered};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::{
    call::{Answers, Batches, Freshness, NoRoom, Outlet, header, stalled},
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
/// Batches of answers of one stream that wait for the transport. A batch is closed once it answers for
/// [`RENEWAL_IDS_MAX`] ids.
const BATCHES_WAITING_MAX: usize = 2;

/// Renews leases and answers for each of them. What a deadline cuts off is unconfirmed.
///
/// # Errors
/// `Overloaded`, `ShuttingDown`: nothing was renewed.
pub(super) async fn renew(node: &Node, renew: Renew, deadline: Instant) -> Result<raw::RenewResponse, NodeError> {
    let in_time = tokio::time::timeout_at(deadline, renewed(node, &renew)).await;
    let unconfirmed = |_elapsed| Ok((node.revision(), Vec::new()));
    let (revision, renewed) = in_time.unwrap_or_else(unconfirmed)?;
    Ok(answer(node, &renew, revision, renewed))
}

/// What became of the leases, in the order asked, without what can't be an id; the node bounds how long that takes.
async fn renewed(node: &Node, renew: &Renew) -> Result<(Revision, Vec<Renewed>), NodeError> {
    let ids: Vec<LeaseId> = renew.lease_ids.iter().flatten().copied().collect();
    if ids.is_empty() {
        return Ok((node.revision(), Vec::new()));
    }
    node.renew(ids).await
}

/// What is missing in `renewed` is unconfirmed.
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
pub(super) fn stream(node: Node, requests: Streaming<v1::RenewRequest>) -> Batches<raw::RenewResponse> {
    let batches = Answers::spawn(BATCHES_WAITING_MAX, |outlet| async move {
        if let Err(status) = serve(&node, requests, &outlet).await {
            outlet.end_with(status);
        }
    });
    batches.into()
}

async fn serve(
    node: &Node,
    mut requests: Streaming<v1::RenewRequest>,
    outlet: &Outlet<Vec<raw::RenewResponse>>,
) -> Result<(), Status> {
    let stop = node.stopping();
    let mut stopped = pin!(stop.cancelled());
    let mut under_way = FuturesUnordered::new();
    let (mut ids, mut open) = (0, true);
    while open || !under_way.is_empty() {
        let room = under_way.len() < IN_FLIGHT_MAX && ids < IDS_IN_FLIGHT_MAX;
        tokio::select! {
            () = &mut stopped => return Err(refused(NodeError::ShuttingDown, CallKind::Write)),
            Some(answered) = all_ready(&mut under_way), if !under_way.is_empty() => {
                ids -= answered.iter().map(|(count, _)| count).sum::<usize>();
                let (mut batch, mut failed) = (Vec::with_capacity(answered.len()), None);
                for (_, answered) in answered {
                    match answered {
                        Ok(answer) => batch.push(answer),
                        Err(status) => failed = Some(status),
                    }
                }
                // A client that does not read is not read from either: its renewals end here, and so do its leases.
                tokio::select! {
                    () = &mut stopped => return Err(refused(NodeError::ShuttingDown, CallKind::Write)),
                    room = outlet.room_in_time() => match room {
                        Ok(room) => room.send(batch),
                        Err(NoRoom::Left) => return Ok(()),
                        Err(NoRoom::Stalled) => return Err(stalled("stream of renewals").into_status()),
                    },
                }
                failed.map_or(Ok(()), Err)?;
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

/// Everything that is ready by now, once something is, but no more than makes a batch; `None` at the end. Each item says
/// for how many ids it answers. What was taken is handed out in the same poll, so nothing is lost with the future.
async fn all_ready<T>(stream: &mut (impl Stream<Item = (usize, T)> + Unpin)) -> Option<Vec<(usize, T)>> {
    let (mut all, mut ids) = (Vec::new(), 0);
    poll_fn(|context| {
        while ids < RENEWAL_IDS_MAX {
            match stream.poll_next_unpin(context) {
                Poll::Ready(Some((count, item))) => {
                    ids += count;
                    all.push((count, item));
                }
                Poll::Pending if all.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Ready(())
    })
    .await;
    (!all.is_empty()).then_some(all)
}

/// Too much to do is no reason to end a stream: what could not be renewed is unconfirmed, and its owner tries again.
async fn renew_or_say_so(node: &Node, wanted: Renew) -> Result<raw::RenewResponse, Status> {
    match renewed(node, &wanted).await {
        Ok((revision, renewed)) => Ok(answer(node, &wanted, revision, renewed)),
        Err(NodeError::Overloaded { .. }) => Ok(answer(node, &wanted, node.revision(), Vec::new())),
        Err(error) => Err(refused(error, CallKind::Write)),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, stream};

    use super::*;

    #[tokio::test]
    async fn a_batch_is_what_is_ready_together_and_ends_with_enough_ids() {
        let ready = stream::iter([1, 1, RENEWAL_IDS_MAX, 1]).map(|ids| (ids, ()));
        let mut answers = ready.chain(stream::pending());
        let counts = |batch: Option<Vec<(usize, ())>>| -> Vec<usize> {
            batch.into_iter().flatten().map(|(ids, ())| ids).collect()
        };
        assert_eq!(counts(all_ready(&mut answers).await), [1, 1, RENEWAL_IDS_MAX]);
        assert_eq!(
            counts(all_ready(&mut answers).await),
            [1],
            "what has to wait holds nothing up"
        );
        assert!(all_ready(&mut answers).now_or_never().is_none());
        assert!(all_ready(&mut stream::empty::<(usize, ())>()).await.is_none());
    }
}
