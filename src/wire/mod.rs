//! Generated code, and total conversions between the model and its messages.
//!
//! Promises: every function here answers for every input, with a value or with everything that is wrong with it, and
//! never panics on bytes; what is encoded is read back as it was. Reasons of errors are encoded and decoded side by
//! side ([`error`]).
//!
//! Never does: I/O, business rules. Whether a lease exists or a revision fits is the registry's to say.
//!
//! | file | converts |
//! |---|---|
//! | [`request`] | requests of clients → checked values; the limits of the API are enforced here |
//! | [`instance`], [`selector`], [`lease`], [`member`], [`span`] | the nouns, both ways |
//! | [`header`] | what every answer says of itself |
//! | [`error`] | reasons and details of errors ⇄ `google.rpc.Status` |
//! | [`raw`] | answers whose records and headers are encoded already |
//! | [`codec`] | the server's answers → frames |
//! | [`page_token`] | where a list goes on ⇄ opaque text |
//! | [`log`], [`snapshot`], [`reply`], [`deltas`] | what nodes write to disk and to each other |
//! | `writer` | records and commands → bytes, without a message in between |

pub mod codec;
pub mod decode;
pub mod deltas;
pub mod error;
pub mod field;
pub mod header;
pub mod instance;
pub mod lease;
pub mod log;
pub mod member;
pub mod page_token;
pub mod raw;
pub mod reply;
pub mod request;
pub mod selector;
pub mod snapshot;
pub mod span;
mod writer;

pub use decode::DecodeError;
pub use error::{ErrorDetail, Reason, WriteOutcome};
pub use field::{FieldErrors, Path, Violation};
pub use generated::{internal, served, unread, v1};

#[allow(missing_docs, unreachable_pub, reason = "generated; documented in proto/")]
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
mod generated {
    /// The API: its messages and its client.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/roster.v1.rs"));
    }
    /// The API's server: its most frequent answers are the twins in [`super::raw`].
    pub mod served {
        include!(concat!(env!("OUT_DIR"), "/served/roster.v1.rs"));
    }
    /// The API's client for whoever does not look into the records: its most frequent answers are those twins, too.
    pub mod unread {
        include!(concat!(env!("OUT_DIR"), "/unread/roster.v1.rs"));
    }
    /// What nodes write and say to each other.
    pub mod internal {
        include!(concat!(env!("OUT_DIR"), "/written/roster.internal.v1.rs"));
    }
}

/// The public API's descriptor set, for reflection and for JSON.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/roster_v1.bin"));
