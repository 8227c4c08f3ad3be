//! One stream of many watches: opened before anything is written, and read until all that was written has come.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::super::measure::{Faults, Live, Mark, Schedule, Seen, Tally, Trouble, Written, micros};
use crate::{
    client::code_name,
    wire::{
        error::ErrorDetail,
        raw,
        unread::registry_client::RegistryClient,
        v1::{self, watch_many_request::Request, watch_request::Start, watch_response::Kind},
    },
};

/// Where a put change holds its record, and where a record holds a mark: its version.
const RECORD: u32 = 2;
const VERSION: u32 = 7;

/// One watch of the stream.
#[derive(Debug)]
struct Watcher {
    seen: Seen,
    /// The node has ended it.
    ended: bool,
}

/// An open stream.
#[derive(Debug)]
pub(super) struct Watching {
    /// Kept open: closing it would only tell the node that no more watches come.
    _requests: mpsc::Sender<v1::WatchManyRequest>,
    messages: Streaming<raw::WatchResponse>,
    watchers: Vec<Watcher>,
}

/// What a stream's watchers came to.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) tally: Tally,
    pub(super) faults: Faults,
    /// Watchers that nodes have ended.
    pub(super) ended: u64,
}

/// What a stream's task goes by.
#[derive(Debug)]
pub(super) struct Around {
    pub(super) schedule: Arc<Schedule>,
    pub(super) live: Arc<Live>,
    pub(super) written: Arc<Written>,
    pub(super) all_written: oneshot::Receiver<()>,
    /// What times are counted from.
    pub(super) epoch: Instant,
    /// How long the last changes may take to come.
    pub(super) limit: Duration,
}

impl Watching {
    /// Opens so many watches of what there is none of yet, and waits until each has begun.
    ///
    /// # Errors
    /// As the node refuses, or when a watch begins with something.
    pub(super) async fn open(
        channel: Channel,
        count: usize,
        selector: &v1::Selector,
        nothing: &Seen,
    ) -> Result<Self, Trouble> {
        let (requests, queue) = mpsc::channel(count);
        for watch_id in (1..).take(count) {
            let watch = v1::WatchRequest {
                selector: Some(selector.clone()),
                start: Some(Start::Snapshot(true)),
                ..Default::default()
            };
            let watch = Some(watch);
            let create = v1::WatchManyRequest {
                request: Some(Request::Create(v1::CreateWatch { watch_id, watch })),
            };
            requests
                .try_send(create)
                .expect("the queue is as long as there are watches");
        }
        let mut client = RegistryClient::new(channel);
        let mut messages = client.watch_many(ReceiverStream::new(queue)).await?.into_inner();
        let mut begun = 0;
        while begun < count {
            let Some(message) = messages.message().await? else {
                return Err(Trouble::new("ENDED", "the node ended the stream"));
            };
            match message.kind() {
                Kind::Canceled => return Err(canceled(&message)),
                Kind::Snapshot if message.changes.is_empty() => begun += 1,
                Kind::Snapshot | Kind::Changes | Kind::Unspecified => {
                    return Err(Trouble::new("FOREIGN", "somebody else writes to a service of this run"));
                }
                Kind::Progress => {}
            }
        }
        let watcher = || Watcher {
            seen: nothing.clone(),
            ended: false,
        };
        Ok(Self {
            _requests: requests,
            messages,
            watchers: std::iter::repeat_with(watcher).take(count).collect(),
        })
    }

    /// Reads until all that was written has been shown to all, or does not come any more.
    pub(super) async fn run(mut self, mut around: Around) -> Watched {
        let mut tally = Tally::new();
        let mut give_up = None;
        loop {
            if let Some(written) = &give_up
                && self.behind(written) == 0
            {
                break;
            }
            let deadline = give_up.as_ref().map(|(_, deadline)| *deadline);
            let message = tokio::select! {
                biased;
                message = self.messages.message() => message,
                told = &mut around.all_written, if give_up.is_none() => {
                    // The writers' tasks tell before they end, and are not dropped before this one.
                    let _told = told;
                    give_up = Some((around.written.counts(), tokio::time::Instant::now() + around.limit));
                    continue;
                }
                () = sleep_until(deadline), if deadline.is_some() => break,
            };
            match message {
                Ok(Some(message)) => self.take(&message, &around, &mut tally),
                Ok(None) => {
                    self.broken(&mut tally, Trouble::new("ENDED", "the node ended the stream"));
                    break;
                }
                Err(status) => {
                    self.broken(&mut tally, status.into());
                    break;
                }
            }
        }
        self.total(tally, give_up.as_ref().map(|(written, _)| written.as_slice()))
    }

    fn take(&mut self, message: &raw::WatchResponse, around: &Around, tally: &mut Tally) {
        // Progress of the whole stream has number 0, which is no watch's.
        let place = usize::try_from(message.watch_id - 1).ok();
        let Some(watcher) = place.and_then(|place| self.watchers.get_mut(place)) else {
            return;
        };
        match message.kind() {
            Kind::Canceled => {
                watcher.ended = true;
                around.live.failed();
                tally.failed(canceled(message));
                return;
            }
            Kind::Snapshot => watcher.seen.snapshot(),
            Kind::Changes => {}
            Kind::Progress | Kind::Unspecified => return,
        }
        let now = Instant::now();
        let now_us = micros(now - around.epoch);
        let counts_from_us = micros(around.schedule.measured_from() - around.epoch);
        let mut news = 0;
        for change in &message.changes {
            let Some(mark) = mark_in(change) else {
                tally.failed(Trouble::new("FOREIGN", "a change that no writer of this run made"));
                continue;
            };
            if watcher.seen.put(mark) {
                news += 1;
                if mark.sent_us >= counts_from_us {
                    tally.done(1, Duration::from_micros(now_us.saturating_sub(mark.sent_us)));
                }
            }
        }
        around.live.done(news);
        if !message.more {
            watcher.seen.step_over();
        }
    }

    /// All its watches end with the stream.
    fn broken(&mut self, tally: &mut Tally, trouble: Trouble) {
        for watcher in &mut self.watchers {
            watcher.ended = true;
        }
        tally.failed(trouble);
    }

    /// How many changes those watchers that go on have yet to see.
    fn behind(&self, (written, _): &(Vec<u64>, tokio::time::Instant)) -> u64 {
        let on = self.watchers.iter().filter(|watcher| !watcher.ended);
        on.map(|watcher| watcher.seen.behind(written)).sum()
    }

    fn total(self, tally: Tally, written: Option<&[u64]>) -> Watched {
        let mut watched = Watched {
            tally,
            faults: Faults::default(),
            ended: 0,
        };
        for watcher in self.watchers {
            watched.faults.add(watcher.seen.faults);
            if watcher.ended {
                // It was told so: what it misses is not lost in silence.
                watched.ended += 1;
            } else if let Some(written) = written {
                watched.faults.lost += watcher.seen.behind(written);
            }
        }
        watched
    }
}

/// The mark of a record that was put by one of the run's writers. (A removal has no record.)
fn mark_in(change: &[u8]) -> Option<Mark> {
    Mark::read(field(field(change, RECORD)?, VERSION)?)
}

/// A field of an encoded message; what comes behind it is not looked at.
fn field(mut message: &[u8], wanted: u32) -> Option<&[u8]> {
    while !message.is_empty() {
        let (tag, wire_type) = decode_key(&mut message).ok()?;
        if wire_type == WireType::LengthDelimited {
            let length = decode_varint(&mut message).ok()?;
            let (field, rest) = message.split_at_checked(usize::try_from(length).ok()?)?;
            if tag == wanted {
                return Some(field);
            }
            message = rest;
        } else {
            skip_field(wire_type, tag, &mut message, DecodeContext::default()).ok()?;
        }
    }
    None
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Why a node has ended a watch.
fn canceled(message: &raw::WatchResponse) -> Trouble {
    let status = message.status.clone().unwrap_or_default();
    match ErrorDetail::from_proto(&status) {
        Some(detail) => Trouble::new(detail.reason.name(), detail.message),
        None => Trouble::new(code_name(status.code.into()), status.message),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_mark_is_read_from_a_put_and_from_nothing_else() {
        let mark = Mark {
            writer: 3,
            number: 41,
            sent_us: 1_234,
        };
        let put = |version: String| v1::Change {
            kind: v1::change::Kind::Put.into(),
            instance: Some(v1::Instance {
                key: Some(v1::InstanceKey::default()),
                weight: Some(1_000_000),
                version,
                tags: vec!["behind".into()],
                ..Default::default()
            }),
            revision: 9,
            ..Default::default()
        };
        assert_eq!(mark_in(&put(mark.text()).encode_to_vec()), Some(mark));
        assert_eq!(mark_in(&put("1.2.3".into()).encode_to_vec()), None);
        assert_eq!(mark_in(&put(String::new()).encode_to_vec()), None);
        let removal = v1::Change {
            kind: v1::change::Kind::Remove.into(),
            removed: Some(v1::InstanceKey::default()),
            ..Default::default()
        };
        assert_eq!(mark_in(&removal.encode_to_vec()), None);
        let whole = put(mark.text()).encode_to_vec();
        assert!((0..20).all(|length| mark_in(&whole[..length]).is_none()));
    }
}
