//! Calls whose messages are bytes: what no generated client would send.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use futures_util::stream;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    transport::Channel,
};

use crate::harness::PATIENCE;

/// What a call says that it is willing to wait.
pub(crate) const WILLING: Duration = Duration::from_secs(8);
/// Likewise, of one that asks for what may never come.
pub(crate) const HARDLY_WILLING: Duration = Duration::from_millis(400);
/// An answer may be as long as the peer port allows.
const ANSWER_MAX_BYTES: usize = 16 << 20;

/// Bytes as messages.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Makes a call of any kind: sends these messages, ends its side, and returns the first answer, or how it was refused.
/// A stream that ends without an answer is answered with nothing.
pub(crate) async fn call(
    channel: &Channel,
    method: &str,
    messages: Vec<Vec<u8>>,
    metadata: MetadataMap,
    willing: Duration,
) -> Result<Bytes, Status> {
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(ANSWER_MAX_BYTES);
    let ready = grpc.ready().await;
    ready.map_err(|error| Status::new(Code::Unknown, format!("the connection broke: {error}")))?;
    let messages = stream::iter(messages.into_iter().map(Bytes::from));
    let mut request = Request::from_parts(metadata, tonic::Extensions::default(), messages);
    request.set_timeout(willing);
    let path = method.parse().expect("a path");
    let first = async {
        let mut answers = grpc.streaming(request, path, Raw).await?.into_inner();
        answers.message().await
    };
    let first = tokio::time::timeout(PATIENCE, first).await;
    let first = first.unwrap_or_else(|_elapsed| panic!("{method} is not answered within {PATIENCE:?}"));
    Ok(first?.unwrap_or_default())
}
