//! The ways between the nodes of one cluster: calls to other nodes, and the port on which they call.
//!
//! **Owns** the connections to other nodes (one cached channel per node and purpose, dialled when first needed), the
//! forward streams, the metadata that names cluster, sender and receiver on every call, and the gRPC adapter of the
//! peer port.
//!
//! **Promises.** A call for another cluster or another node is refused before its message is read. A request handed
//! to a forward stream ends in one of three ways, and the caller is told which: answered; certainly not sent; sent,
//! and its outcome unknown. A connection on which nothing comes back is given up within [`SILENCE_MAX`]. Every queue
//! is bounded.
//!
//! **Never** does it know what the messages mean, who leads, or try anything twice: what was not sent is for its caller
//! to send elsewhere.

mod accept;
mod dial;
mod error;
mod forward;
mod metadata;
mod serve;

pub use dial::{Lane, Peers, PeersConfig, SILENCE_MAX};
pub use error::PeerError;
pub use forward::ForwardConnection;
pub use metadata::check_metadata;
pub use serve::{Consensus, ForwardHandler, Introduction, MessageStream, PeerService, Seat, serve, serve_connections};

/// The largest message on the peer port, in bytes: an append carries about 2 MiB of records, or one record larger
/// than that.
pub const MESSAGE_MAX_BYTES: usize = 8 << 20;
