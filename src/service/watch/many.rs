//! Many watches on one stream.
//!
//! One task reads the requests and owns a task for each watch; all of them send through one outlet. Closing the
//! sending side leaves the watches running; the stream ends when none is left.
//!
//! A watch's last word, CANCELED, is said by the task that reads the requests, once it has struck the watch off its
//! list: whoever has heard it may use the number again at once.

use std::{collections::BTreeMap, time::Duration};

use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::{
    super::{
        call::{Answers, CALL_MAX, Freshness, Outlet, header},
        registry::bad_read,
        status::{CallKind, detail, unreadable},
    },
    MESSAGES_WAITING_MAX,
    running::{End, Running},
};
use crate::{
    model::limits::WATCHES_PER_STREAM_MAX,
    node::{Node, NodeError},
    wire::{
        ErrorDetail, FieldErrors, Path, Reason, raw,
        request::{self, WatchMany},
        v1,
    },
};

/// How long the end of a watch waits for room when the node stops.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

/// Many watches on one stream.
pub(in super::super) fn many(node: Node, requests: Streaming<v1::WatchManyRequest>) -> Answers<raw::WatchMessage> {
    Answers::spawn(MESSAGES_WAITING_MAX, |outlet| async move {
        let stream = Stream {
            node,
            outlet: outlet.clone(),
            open: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        if let Err(status) = stream.serve(requests).await {
            outlet.end_with(status);
        }
    })
}

struct Stream {
    node: Node,
    outlet: Outlet<raw::WatchMessage>,
    /// Open watches, and how each is cancelled.
    open: BTreeMap<i64, CancellationToken>,
    /// Their tasks; each returns its watch's number and why it is over.
    tasks: JoinSet<(i64, End)>,
}

impl Stream {
    async fn serve(mut self, mut requests: Streaming<v1::WatchManyRequest>) -> Result<(), Status> {
        let stop = self.node.stopping();
        let mut reading = true;
        while reading || !self.tasks.is_empty() {
            tokio::select! {
                () = stop.cancelled() => {
                    self.hear_last_words().await;
                    return Err(detail(NodeError::ShuttingDown, CallKind::Read).into_status());
                }
                () = self.outlet.closed() => return Ok(()),
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    // A task that panicked took the process with it.
                    if let Ok((watch_id, end)) = ended {
                        self.open.remove(&watch_id);
                        self.unless_stopped(self.last_word(watch_id, end)).await;
                    }
                }
                request = requests.message(), if reading => match request.map_err(unreadable)? {
                    None => reading = false,
                    Some(request) => self.take(request::watch_many(request).map_err(bad_read)?).await,
                }
            }
        }
        Ok(())
    }

    async fn take(&mut self, request: WatchMany) {
        let (watch_id, wanted) = match request {
            WatchMany::Create { watch_id, watch } => (watch_id, watch),
            WatchMany::Cancel { watch_id } => {
                // Of a watch that is not open there is nothing to cancel: it has ended, and said so.
                if let Some(cancel) = self.open.get(&watch_id) {
                    cancel.cancel();
                }
                return;
            }
        };
        match self.check(watch_id, wanted) {
            // Waiting for room keeps a client that does not read from asking for more.
            Err(detail) => self.unless_stopped(self.say_canceled(watch_id, Some(detail))).await,
            Ok(wanted) => {
                let cancel = CancellationToken::new();
                self.open.insert(watch_id, cancel.clone());
                let (node, outlet) = (self.node.clone(), self.outlet.clone());
                self.tasks
                    .spawn(async move { (watch_id, serve_one(node, outlet, watch_id, wanted, cancel).await) });
            }
        }
    }

    fn check(
        &self,
        watch_id: i64,
        wanted: Result<request::Watch, FieldErrors>,
    ) -> Result<request::Watch, Box<ErrorDetail>> {
        let wanted = wanted.map_err(|errors| Box::new(ErrorDetail::from(errors)))?;
        if self.open.contains_key(&watch_id) {
            let create = Path::Root.field("create");
            let problem = "is that of an open watch, which goes on";
            let refused = FieldErrors::one(&create.field("watch_id"), problem);
            return Err(Box::new(refused.into()));
        }
        if self.open.len() >= WATCHES_PER_STREAM_MAX {
            let problem = format!("this stream has {WATCHES_PER_STREAM_MAX} watches, its limit");
            let mut detail = ErrorDetail::new(Reason::TooManyWatches, problem);
            detail.quota = Some(("stream".into(), format!("{WATCHES_PER_STREAM_MAX} watches")));
            return Err(Box::new(detail));
        }
        Ok(wanted)
    }

    /// Waits until something is said, but when the node stops not long: `serve` then goes on with the stream's end.
    async fn unless_stopped(&self, said: impl Future<Output = ()>) {
        let stop = self.node.stopping();
        let too_late = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_WORDS_MAX).await;
        };
        tokio::select! {
            () = too_late => {}
            () = said => {}
        }
    }

    /// The node stops: every watch says so, if there is room for it in time.
    async fn hear_last_words(&mut self) {
        let all_ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Ok((watch_id, end)) = ended {
                    self.last_word(watch_id, end).await;
                }
            }
        };
        // Who does not read can't be told; the stream's own end tells it later.
        let _in_time = tokio::time::timeout(LAST_WORDS_MAX, all_ended).await;
    }

    async fn last_word(&self, watch_id: i64, end: End) {
        match end {
            End::Gone => {}
            End::Cancelled => self.say_canceled(watch_id, None).await,
            End::Failed(detail) => self.say_canceled(watch_id, Some(detail)).await,
        }
    }

    async fn say_canceled(&self, watch_id: i64, why: Option<Box<ErrorDetail>>) {
        let Some(room) = self.outlet.room().await else { return };
        let asked_for = || tonic_types::pb::Status {
            code: Code::Ok.into(),
            ..Default::default()
        };
        let node = &self.node;
        let rest = raw::WatchResponse {
            watch_id,
            header: header(node, node.revision(), Freshness::Stale(node.age())).encoded(),
            kind: v1::watch_response::Kind::Canceled.into(),
            status: Some(why.map_or_else(asked_for, |detail| (*detail).into_proto())),
            ..raw::WatchResponse::default()
        };
        room.send(raw::WatchMessage {
            rest,
            ..raw::WatchMessage::default()
        });
    }
}

/// One watch, from its opening to its end.
async fn serve_one(
    node: Node,
    outlet: Outlet<raw::WatchMessage>,
    watch_id: i64,
    wanted: request::Watch,
    cancel: CancellationToken,
) -> End {
    let deadline = Instant::now() + CALL_MAX;
    let opened = tokio::select! {
        () = cancel.cancelled() => return End::Cancelled,
        opened = Running::open(node, watch_id, wanted, deadline) => opened,
    };
    match opened {
        Ok(running) => running.run(&outlet, &cancel).await,
        Err(detail) => End::Failed(detail),
    }
}
