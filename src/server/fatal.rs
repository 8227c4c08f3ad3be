//! What ends a node that can't go on.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Why the node can't go on, once something has said so; the first reason counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Fatal(watch::Sender<Option<String>>);

impl Fatal {
    /// Why, if something said so.
    #[cfg(test)]
    pub(super) fn reason(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Becomes `Some` when something has said so.
    pub(super) fn subscribe(&self) -> watch::Receiver<Option<String>> {
        self.0.subscribe()
    }

    /// Ends the node.
    pub(super) fn set(&self, reason: String) {
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(reason);
            is_first
        });
    }
}

/// Waits for Raft's failure, which is the node's.
pub(super) async fn follow_raft(mut raft: watch::Receiver<Option<String>>, fatal: Fatal, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        failed = raft.wait_for(Option::is_some) => {
            if let Ok(reason) = failed {
                fatal.set(reason.clone().unwrap_or_default());
            }
        }
    }
}
