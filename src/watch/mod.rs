//! The hub between apply and the streams.
//!
//! Owns: the version of the registry that this node's readers see, the history of its latest changes, and every open
//! watch with what waits for it.
//!
//! Promises:
//! * A version becomes readable and its changes go to the watches in one critical section. Who saw a revision in
//!   [`Hub::view`] and starts a watch after it misses nothing and gets nothing twice.
//! * A watch gives the effect of every change that its selector matches, in revision order, all changes of one revision
//!   together. After each [`Delivery`] the watcher's view is the selected part of the registry at
//!   [`Watch::position`].
//! * Publishing never waits for a watcher. What waits for one is bounded; one that overflows is *lagged*: its queue is
//!   dropped and it is caught up in one coalesced step from the history or, where the history no longer reaches back, by
//!   a snapshot that says so. A watcher whose history went while it was being caught up gets the difference between the
//!   version it was sent and the present, so that no reset follows from a reset.
//! * Starting, catching up and ending a watch hold apply up for no longer than a few look-ups: the history is scanned
//!   outside of the critical section.
//!
//! Never: tasks, timers, gRPC, Raft; it waits only where its caller does. It encodes nothing either: sizes are taken
//! from records that `wire` has encoded, and estimated for others.
//!
//! A change's way: [`Hub::publish`] → `index` finds the crowds of watches with one selector that may match → `filter`
//! decides for each → the queue of the `crowd` keeps it → [`Watch::next`] hands it out, the same [`Changes`] to all who
//! stand at one place; `history` keeps it for those who come later or fell behind.

mod backlog;
mod counters;
mod crowd;
mod delivery;
mod filter;
mod history;
mod hub;
mod index;
mod limits;
#[cfg(feature = "failpoints")]
mod plants;
mod record;
#[cfg(test)]
mod sample;
mod watcher;

pub use counters::HubStats;
pub use delivery::{ChangeKind, Changes, Delivery, GoneReason, ResetReason, Start, WatchChange, WatchRefused};
pub use hub::{Hub, View};
pub use limits::{HubLimits, QUEUE_MAX_CHANGES};
pub use watcher::Watch;
