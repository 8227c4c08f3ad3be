//! Renewals of many clients, merged into a few messages.
//!
//! What waits is merged into one ascending list and handed to the leader, wherever it is; a few such lists are under
//! way at once. A list that failed waits for the next leader, because renewing twice does no harm. A client whose
//! time is up is told `Unconfirmed` and may renew elsewhere meanwhile.

use std::{collections::VecDeque, time::Duration};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    NodeError,
    route::Route,
    waiting::{Failure, are_company},
};
use crate::{
    model::{LeaseId, Revision},
    registry::Renewal,
};

/// Renewal messages that wait, of all clients.
const WAITING_MAX: usize = 65_536;
/// Merged lists under way.
const IN_FLIGHT_MAX: usize = 4;
/// Of these so many may be short. What comes then is merged until it is worth a list, or one is back.
const SHORT_IN_FLIGHT_MAX: usize = 2;
/// Ids in one merged list.
const MERGED_MAX: usize = 100_000;
/// After a failure, how soon to try again when no leadership change tells.
const RETRY_AFTER: Duration = Duration::from_millis(25);

/// One client's renewals and who waits for them.
struct Waiting {
    ids: Vec<LeaseId>,
    until: Instant,
    reply: oneshot::Sender<(Vec<Renewal>, Revision)>,
}

/// The way to the renewals' task.
#[derive(Clone)]
pub(super) struct RenewalsHandle(mpsc::Sender<Waiting>);

impl RenewalsHandle {
    /// Renews `ids` before `until`; results in their order. `None`: not confirmed in time.
    ///
    /// # Errors
    /// Too many wait, or the node is shutting down.
    pub(super) async fn renew(
        &self,
        ids: Vec<LeaseId>,
        until: Instant,
    ) -> Result<Option<(Vec<Renewal>, Revision)>, NodeError> {
        let (reply, answer) = oneshot::channel();
        self.0
            .try_send(Waiting { ids, until, reply })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => NodeError::Overloaded { what: "renewals" },
                mpsc::error::TrySendError::Closed(_) => NodeError::ShuttingDown,
            })?;
        Ok(tokio::time::timeout_at(until, answer).await.ok().and_then(Result::ok))
    }
}

type Outcome = (Vec<Waiting>, Vec<LeaseId>, Result<(Vec<Renewal>, Revision), Failure>);

/// The task that merges.
pub(super) struct Renewals {
    route: Route,
    new: mpsc::Receiver<Waiting>,
    waiting: VecDeque<Waiting>,
    in_flight: FuturesUnordered<BoxFuture<'static, Outcome>>,
    not_before: Option<Instant>,
}

impl Renewals {
    pub(super) fn new(route: Route) -> (Self, RenewalsHandle) {
        let (sender, new) = mpsc::channel(WAITING_MAX);
        let renewals = Self {
            route,
            new,
            waiting: VecDeque::new(),
            in_flight: FuturesUnordered::new(),
            not_before: None,
        };
        (renewals, RenewalsHandle(sender))
    }

    /// Runs until `stop`; callers that still wait then get no confirmation.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let route = self.route.clone();
            let not_before = self.not_before;
            let retry = async move {
                match not_before {
                    Some(at) => route.wait_for_change(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                Some(waiting) = self.new.recv(), if self.waiting.len() < WAITING_MAX => self.waiting.push_back(waiting),
                Some(outcome) = self.in_flight.next(), if !self.in_flight.is_empty() => self.settle(outcome),
                () = retry => self.not_before = None,
            }
            while self.waiting.len() < WAITING_MAX
                && let Ok(waiting) = self.new.try_recv()
            {
                self.waiting.push_back(waiting);
            }
            if self.not_before.is_none() {
                self.send_merged();
            }
        }
    }

    /// Whether a list is due: at once, while few are under way; else when enough waits for it.
    fn may_send(&self) -> bool {
        let under_way = self.in_flight.len();
        let lists = || self.waiting.iter().map(|waiting| waiting.ids.as_slice());
        !self.waiting.is_empty()
            && (under_way < SHORT_IN_FLIGHT_MAX || (under_way < IN_FLIGHT_MAX && are_company(lists())))
    }

    fn send_merged(&mut self) {
        while self.may_send() {
            let (mut clients, mut ids) = (Vec::new(), Vec::new());
            while let Some(next) = self
                .waiting
                .pop_front_if(|next| ids.is_empty() || ids.len() + next.ids.len() <= MERGED_MAX)
            {
                if !next.reply.is_closed() {
                    ids.extend_from_slice(&next.ids);
                    clients.push(next);
                }
            }
            let Some(until) = clients.iter().map(|client| client.until).max() else {
                return;
            };
            ids.sort_unstable();
            ids.dedup();
            let route = self.route.clone();
            // A leader that was replaced answers late or never, and renewing twice does no harm.
            let replaced = self.route.another_leader();
            self.in_flight.push(Box::pin(async move {
                let result = tokio::select! {
                    result = route.renew(ids.clone(), until) => result,
                    () = replaced => Err(Failure::Unknown),
                };
                (clients, ids, result)
            }));
        }
    }

    fn settle(&mut self, (clients, ids, result): Outcome) {
        match result {
            Ok((renewals, revision)) => {
                for client in clients {
                    let of = |id| ids.binary_search(id).ok().and_then(|at| renewals.get(at)).copied();
                    let results = client
                        .ids
                        .iter()
                        .map(|id| of(id).unwrap_or(Renewal::NotFound))
                        .collect();
                    let _client_left = client.reply.send((results, revision));
                }
            }
            Err(_) => {
                self.not_before = Some(Instant::now() + RETRY_AFTER);
                // In front: they have waited longest.
                for client in clients.into_iter().rev().filter(|client| !client.reply.is_closed()) {
                    self.waiting.push_front(client);
                }
            }
        }
    }
}
