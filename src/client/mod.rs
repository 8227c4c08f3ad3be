//! The client library: what an application imports to register itself, to find others and to watch them.
//!
//! It owns the ways of a client through a cluster whose nodes come and go: which node is asked next, what may be
//! sent again and what must not, how long is waited, and what the application is told meanwhile.
//!
//! * [`Client`]: one method for each call of the API. A call goes to one node; on a lost connection, without a
//!   leader or a quorum it goes on to the next, until its deadline. A write is sent again only when it is known not
//!   to have been applied, or when the API promises that it may be repeated blindly.
//! * [`Registration`]: one instance, registered and kept alive in the background, registered again after its lease
//!   was lost, deregistered in the end. The application learns that a lease may be lost *before* it can be.
//! * [`KeepAlive`]: the same care for a lease alone.
//! * [`Watcher`]: a stream of steps that survives the node that it came from, and a view of the present.
//!
//! It never shows a half-received snapshot, never takes silence for consent, and never sends a write of unknown
//! outcome twice unless that is harmless. It knows `model` and `wire` only; the messages of the API
//! ([`crate::wire::v1`]) are its vocabulary.

mod call;
mod catalog;
mod cluster;
mod endpoints;
mod error;
mod handle;
mod keep_alive;
mod leases;
mod moment;
mod nodes;
mod registration;
mod retry;
mod view;
mod watcher;

pub use endpoints::{DEFAULT_ENDPOINTS, Endpoint, EndpointError, Endpoints};
pub use error::{Error, code_name};
pub use handle::{Client, Options};
pub use keep_alive::{KeepAlive, KeepAliveEvent};
pub use moment::{Clock, Moment};
pub use nodes::Node;
pub use registration::{Registration, RegistrationState};
pub use view::View;
pub use watcher::{Step, WatchEvent, Watcher};
