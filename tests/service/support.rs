//! What these tests say often.

use std::{collections::BTreeMap, time::Duration};

use roster::wire::{
    ErrorDetail,
    v1::{
        Instance, InstanceKey, Position, RegisterRequest, RegisterResponse, Selector, Services, WatchRequest,
        WatchResponse, change, register_request::Hold, registry_client::RegistryClient, selector::Scope,
        watch_response::Kind,
    },
};
use tonic::{Status, Streaming, transport::Channel};

use crate::harness::PATIENCE;

/// A selector of one service.
pub(crate) fn of(service: &str) -> Selector {
    let names = vec![service.to_owned()];
    Selector {
        scope: Some(Scope::Services(Services { names })),
        ..Selector::default()
    }
}

/// A watch of one service, with a quick sign of life.
pub(crate) fn watch_of(service: &str) -> WatchRequest {
    WatchRequest {
        selector: Some(of(service)),
        progress_interval: Some(span(Duration::from_millis(100))),
        ..WatchRequest::default()
    }
}

pub(crate) fn span(span: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(span).expect("a short span")
}

pub(crate) fn key(service: &str, id: &str) -> InstanceKey {
    InstanceKey {
        service: service.to_owned(),
        id: id.to_owned(),
        ..InstanceKey::default()
    }
}

/// A record with a text of so many bytes in its metadata, cut into values of 4,000.
pub(crate) fn record(service: &str, id: &str, bytes: usize) -> Instance {
    let mut instance = Instance {
        key: Some(key(service, id)),
        address: "10.0.0.1".to_owned(),
        ..Instance::default()
    };
    let whole = (0..bytes / 4_000).map(|_| 4_000);
    for (at, length) in whole.chain([bytes % 4_000]).enumerate() {
        instance.metadata.insert(format!("k{at:02}"), "x".repeat(length));
    }
    instance
}

/// Registers for good.
pub(crate) async fn put(client: &mut RegistryClient<Channel>, instance: Instance) -> RegisterResponse {
    let request = RegisterRequest {
        instance: Some(instance),
        hold: Some(Hold::Permanent(true)),
        ..RegisterRequest::default()
    };
    client.register(request).await.expect("a register").into_inner()
}

/// The next message of a stream.
pub(crate) async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await;
    let message = message.expect("a message in time")?;
    message.ok_or_else(|| Status::ok("the stream ended"))
}

/// The next message that is no PROGRESS.
pub(crate) async fn next_step(stream: &mut Streaming<WatchResponse>) -> WatchResponse {
    loop {
        let message = next(stream).await.expect("the watch goes on");
        if message.kind() != Kind::Progress {
            return message;
        }
    }
}

/// What an error says.
pub(crate) fn told(status: &Status) -> ErrorDetail {
    ErrorDetail::from_status(status).unwrap_or_else(|| panic!("no details: {status:?}"))
}

/// A watcher's view, checked while it is built.
#[derive(Default)]
pub(crate) struct View {
    pub(crate) records: BTreeMap<String, Instance>,
    pub(crate) position: Option<Position>,
    pub(crate) resets: usize,
    staged: Vec<WatchResponse>,
}

impl View {
    pub(crate) fn take(&mut self, message: WatchResponse) {
        assert!(message.header.is_some(), "every message has a header");
        match message.kind() {
            Kind::Progress => {
                assert!(self.staged.is_empty(), "a progress within a step");
                self.move_to(&message);
            }
            Kind::Snapshot | Kind::Changes => {
                assert_eq!(message.position.is_none(), message.more);
                let more = message.more;
                self.staged.push(message);
                if !more {
                    self.act();
                }
            }
            kind => panic!("{kind:?}"),
        }
    }

    fn act(&mut self) {
        let step = std::mem::take(&mut self.staged);
        let (first, last) = (&step[0], &step[step.len() - 1]);
        if first.kind() == Kind::Snapshot {
            self.resets += usize::from(first.reset.is_some());
            self.records.clear();
        }
        for change in step.iter().flat_map(|message| message.changes.iter()) {
            match change.kind() {
                change::Kind::Put => {
                    let instance = change.instance.clone().expect("a PUT has its record");
                    let id = instance.key.clone().expect("a record has a key").id;
                    self.records.insert(id, instance);
                }
                change::Kind::Remove => {
                    let key = change.removed.clone().expect("a REMOVE has its key");
                    assert!(self.records.remove(&key.id).is_some(), "{key:?} was not in the view");
                }
                change::Kind::Unspecified => panic!("a change of no kind"),
            }
        }
        self.move_to(last);
    }

    fn move_to(&mut self, message: &WatchResponse) {
        let position = message.position.clone().expect("the end of a step has a position");
        let header = message.header.as_ref().expect("a header");
        assert_eq!(position.revision, header.revision);
        let before = self.position.as_ref().map_or(0, |position| position.revision);
        assert!(position.revision >= before, "{} after {before}", position.revision);
        self.position = Some(position);
    }

    /// Takes messages until the view is complete through a revision.
    pub(crate) async fn reach(&mut self, stream: &mut Streaming<WatchResponse>, revision: i64) {
        while self
            .position
            .as_ref()
            .is_none_or(|position| position.revision < revision)
        {
            let message = next(stream).await.expect("the watch goes on");
            self.take(message);
        }
    }
}
