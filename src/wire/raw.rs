//! Twins of the answers of which there are most, for the server and for measurements: in a record's place stand its
//! bytes, and so they do for the header and a position, whose texts would be copied for each.
//!
//! A record is encoded once ([`super::instance::encoded`]) and then sent to every reader; a message of bytes has the
//! same wire format as the message that was encoded into them. Whoever receives a twin reads it as the message of
//! `roster.v1` whose name it bears; the fields' numbers are those of `proto/roster/v1`, which a test compares.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType},
};
use tonic_types::pb::Status;

use super::{v1, writer::Writer};

/// `roster.v1.RegisterResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterResponse {
    /// What every answer carries, encoded.
    #[prost(bytes = "bytes", tag = "1")]
    pub header: Bytes,
    /// The record, encoded.
    #[prost(bytes = "bytes", tag = "2")]
    pub instance: Bytes,
    /// What the Register did.
    #[prost(enumeration = "v1::register_response::Outcome", tag = "3")]
    pub outcome: i32,
    /// When to renew.
    #[prost(message, optional, tag = "4")]
    pub renew_after: Option<prost_types::Duration>,
}

/// `roster.v1.UpdateResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateResponse {
    /// What every answer carries, encoded.
    #[prost(bytes = "bytes", tag = "1")]
    pub header: Bytes,
    /// The record, encoded.
    #[prost(bytes = "bytes", tag = "2")]
    pub instance: Bytes,
    /// Whether it differs now.
    #[prost(bool, tag = "3")]
    pub changed: bool,
}

/// `roster.v1.GetResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetResponse {
    /// What every answer carries, encoded.
    #[prost(bytes = "bytes", tag = "1")]
    pub header: Bytes,
    /// The record, encoded.
    #[prost(bytes = "bytes", tag = "2")]
    pub instance: Bytes,
}

/// `roster.v1.ListResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListResponse {
    /// What every answer carries, encoded.
    #[prost(bytes = "bytes", tag = "1")]
    pub header: Bytes,
    /// The records, each encoded.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub instances: Vec<Bytes>,
    /// What to ask the next page with.
    #[prost(string, tag = "3")]
    pub next_page_token: String,
    /// Where all pages of the list stand; encoded.
    #[prost(bytes = "bytes", tag = "4")]
    pub position: Bytes,
}

/// `roster.v1.WatchResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchResponse {
    /// Which watch of the stream.
    #[prost(int64, tag = "1")]
    pub watch_id: i64,
    /// What every answer carries, encoded.
    #[prost(bytes = "bytes", tag = "2")]
    pub header: Bytes,
    /// What kind of message it is.
    #[prost(enumeration = "v1::watch_response::Kind", tag = "3")]
    pub kind: i32,
    /// What has changed: each a `roster.v1.Change`, encoded.
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub changes: Vec<Bytes>,
    /// The view is complete through here; encoded.
    #[prost(bytes = "bytes", tag = "5")]
    pub position: Bytes,
    /// Whether the step goes on.
    #[prost(bool, tag = "6")]
    pub more: bool,
    /// Why the watcher gets a new snapshot.
    #[prost(message, optional, tag = "7")]
    pub reset: Option<v1::Reset>,
    /// Why the watch ended.
    #[prost(message, optional, tag = "8")]
    pub status: Option<Status>,
}

/// `roster.v1.WatchResponse` as a node sends it: changes that several watchers are sent are one run of bytes, which they
/// share ([`changes_field`]). On the wire it comes behind the other fields, whose order no reader minds. One that is read
/// has all its changes in `rest`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WatchMessage {
    /// All but those changes.
    pub rest: WatchResponse,
    /// The field `changes` with those that are shared, encoded.
    pub changes: Bytes,
}

/// The field of a watch's message that holds these changes, each of which is encoded already.
#[must_use]
pub fn changes_field(changes: &[Bytes]) -> Bytes {
    // A tag, and a length of up to five bytes.
    let bytes = changes.iter().map(|change| change.len() + 6).sum();
    let mut field = Writer::with_capacity(bytes);
    for change in changes {
        field.block(4, change);
    }
    field.into_bytes()
}

impl Message for WatchMessage {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.rest.encode_raw(buf);
        buf.put_slice(&self.changes);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        self.rest.merge_field(tag, wire_type, buf, ctx)
    }

    fn encoded_len(&self) -> usize {
        self.rest.encoded_len() + self.changes.len()
    }

    fn clear(&mut self) {
        self.rest.clear();
        self.changes.clear();
    }
}

/// `roster.v1.RenewResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub struct RenewResponse {
    /// What every answer carries, encoded.
    #[prost(bytes = "bytes", tag = "1")]
    pub header: Bytes,
    /// Which sending is acknowledged.
    #[prost(int64, tag = "2")]
    pub seq: i64,
    /// One per id, in the order asked.
    #[prost(message, repeated, tag = "3")]
    pub results: Vec<v1::RenewResult>,
    /// When to renew again.
    #[prost(message, optional, tag = "4")]
    pub renew_after: Option<prost_types::Duration>,
}
