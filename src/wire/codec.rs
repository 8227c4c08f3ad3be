//! How the server's answers become bytes: each finds room for the whole of it before its first byte is written.
//!
//! tonic's own codec begins with 8 KiB for every answer and grows from there as it writes. A list of a hundred and a
//! watch's step outgrow that, so that what was written is copied; a registration's answer fills a thirtieth of it.

use std::marker::PhantomData;

use bytes::BufMut as _;
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstDecoder;

/// What an answer begins with, in bytes: most calls' answers fit.
const FIRST_BYTES: usize = 1024;
/// How much an answer asks for at the least when it finds too little room, in bytes: on a stream more answers follow.
const GROWTH_BYTES: usize = 4 * 1024;
/// How much a stream's answers gather before they are handed on, in bytes; as tonic's own codec does it.
const YIELD_BYTES: usize = 32 * 1024;

/// Sends `T`, reads `U`.
#[derive(Clone, Debug)]
pub struct RoomyCodec<T, U> {
    messages: PhantomData<(T, U)>,
}

impl<T, U> Default for RoomyCodec<T, U> {
    fn default() -> Self {
        Self { messages: PhantomData }
    }
}

impl<T, U> Codec for RoomyCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = RoomyEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        RoomyEncoder { message: PhantomData }
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

/// The sending side.
#[derive(Clone, Debug)]
pub struct RoomyEncoder<T> {
    message: PhantomData<T>,
}

impl<T: Message> Encoder for RoomyEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let bytes = item.encoded_len();
        if buf.chunk_mut().len() < bytes {
            buf.reserve(bytes.max(GROWTH_BYTES));
        }
        item.encode_raw(buf);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(FIRST_BYTES, YIELD_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin};

    use bytes::Bytes;
    use futures_util::{FutureExt as _, stream};
    use http_body::Body as _;
    use tonic::codec::{EncodeBody, SingleMessageCompressionOverride};

    use super::*;
    use crate::wire::raw::GetResponse;

    fn answer(bytes: usize) -> GetResponse {
        let filling = u8::try_from(bytes % 251).expect("below 251");
        GetResponse {
            instance: Bytes::from(vec![filling; bytes]),
            ..Default::default()
        }
    }

    /// What a server sends for these answers, one after the other.
    fn sent(answers: &[GetResponse]) -> Vec<u8> {
        let source = stream::iter(answers.iter().cloned().map(Ok));
        let encoder = RoomyCodec::<GetResponse, ()>::default().encoder();
        let unlimited = Some(usize::MAX);
        let body = EncodeBody::new_server(
            encoder,
            source,
            None,
            SingleMessageCompressionOverride::default(),
            unlimited,
        );
        let mut body = pin!(body);
        let mut bytes = Vec::new();
        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).now_or_never().flatten() {
            if let Ok(data) = frame.expect("no answer fails").into_data() {
                bytes.extend_from_slice(&data);
            }
        }
        bytes
    }

    #[test]
    fn answers_of_every_size_are_sent_whole_and_in_order() {
        let sizes = [
            0,
            1,
            1_000,
            FIRST_BYTES,
            1_100,
            3,
            GROWTH_BYTES,
            70_000,
            12,
            YIELD_BYTES,
            5_000_000,
            7,
        ];
        let answers = sizes.map(answer);
        let mut expected = Vec::new();
        for answer in &answers {
            // A frame of gRPC: not compressed, its length, its bytes.
            let length = u32::try_from(answer.encoded_len()).expect("they are short");
            expected.push(0);
            expected.extend_from_slice(&length.to_be_bytes());
            answer.encode(&mut expected).expect("a vector grows");
        }
        assert!(sent(&answers) == expected, "the bytes differ");
        for answer in answers {
            let alone = sent(std::slice::from_ref(&answer));
            assert_eq!(alone.len(), answer.encoded_len() + 5);
        }
    }
}
