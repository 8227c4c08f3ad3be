//! Watch and WatchMany.
//!
//! Each watch is one task: it takes what the hub has for it, one step at a time, cuts it into messages, and sends them
//! when the transport has room. The hub's queue bounds what waits for a slow client, and a client that reads nothing
//! holds a few messages and one version of the registry until it is cut off.

mod many;
mod running;
mod step;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use self::running::{End, Running};
use super::{call::Answers, registry::bad_read};
use crate::{
    node::Node,
    wire::{Path, raw, request, v1},
};

pub(super) use self::many::many;

/// Messages of one stream that wait for the transport. Records are shared, so that each costs little until it is sent.
const MESSAGES_WAITING_MAX: usize = 4;

/// One watch on one stream. The stream of a watch that can't begin is its error.
pub(super) async fn one(
    node: Node,
    request: v1::WatchRequest,
    deadline: Instant,
) -> Result<Answers<raw::WatchMessage>, Status> {
    let wanted = request::watch(request, &Path::Root).map_err(bad_read)?;
    let opened = Running::open(node, 0, wanted, deadline)
        .await
        .map_err(|detail| (*detail).into_status())?;
    Ok(Answers::spawn(MESSAGES_WAITING_MAX, |outlet| async move {
        match opened.run(&outlet, &CancellationToken::new()).await {
            End::Failed(detail) => outlet.end_with(detail.into_status()),
            End::Cancelled | End::Gone => {}
        }
    }))
}
