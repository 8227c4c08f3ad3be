//! HTTP/2 frame by frame, and not always as RFC 9113 would have it: what no library would send.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
const ACK: u8 = 0x1;
const HEADER_BYTES: usize = 9;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;

const INITIAL_WINDOW_SIZE: u16 = 0x4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [head, payload.to_vec()].concat()
}

pub(crate) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(id, value)| [id.to_be_bytes().to_vec(), value.to_be_bytes().to_vec()].concat())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

/// How much of each stream's answer the other end may send, before it is told that more was taken.
pub(crate) fn initial_window(bytes: u32) -> Vec<u8> {
    settings(&[(INITIAL_WINDOW_SIZE, bytes)])
}

pub(crate) fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, flags, stream, block)
}

pub(crate) fn continuation(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(CONTINUATION, flags, stream, block)
}

pub(crate) fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(DATA, flags, stream, payload)
}

pub(crate) fn reset(stream: u32) -> Vec<u8> {
    // CANCEL
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

pub(crate) fn ping() -> Vec<u8> {
    frame(PING, 0, 0, &[7; 8])
}

/// The answer to a ping.
pub(crate) fn pong() -> Vec<u8> {
    frame(PING, ACK, 0, &[8; 8])
}

pub(crate) fn window_update(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

/// A gRPC message in its frame.
pub(crate) fn message(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("a short message").to_be_bytes();
    [&[0], length.as_slice(), bytes].concat()
}

/// A header field that is not to be remembered (RFC 7541, section 6.2.2).
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    [vec![0], text(name), text(value)].concat()
}

fn text(text: &str) -> Vec<u8> {
    [integer(text.len()), text.as_bytes().to_vec()].concat()
}

/// An integer with a prefix of seven bits (RFC 7541, section 5.1).
fn integer(value: usize) -> Vec<u8> {
    let Some(mut rest) = value.checked_sub(127) else {
        return vec![u8::try_from(value).expect("less than 127")];
    };
    let mut bytes = vec![127];
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128 + 128).expect("a byte"));
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).expect("less than 128"));
    bytes
}

/// The header block of a call.
pub(crate) fn call(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // :method POST, :scheme http
    block.extend(field(":path", path));
    block.extend(field(":authority", "n"));
    block.extend(field("te", "trailers"));
    if !more.iter().any(|(name, _)| *name == "content-type") {
        block.extend(field("content-type", "application/grpc"));
    }
    for (name, value) in more {
        block.extend(field(name, value));
    }
    block
}

/// How a connection ended, as seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The other end said why: an error code of HTTP/2.
    GoAway(u32),
    /// It was closed.
    Closed,
    /// It is open still.
    Open,
}

/// A connection without a library.
pub(crate) struct Wire {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
}

impl Wire {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        Ok(Self { read, write })
    }

    /// A connection that has begun to speak HTTP/2.
    pub(crate) async fn begun(address: SocketAddr) -> io::Result<Self> {
        let mut wire = Self::open(address).await?;
        wire.send(&[PREFACE, &settings(&[])].concat()).await?;
        Ok(wire)
    }

    /// Sends; a connection that takes nothing for long is as good as closed.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = tokio::time::timeout(Duration::from_secs(20), self.write.write_all(bytes)).await;
        sent.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Waits until the other end closes, reading, and answering pings if `polite`.
    pub(crate) async fn until_closed(&mut self, polite: bool, within: Duration) -> Ended {
        let mut said = None;
        let reading = async {
            while let Some((kind, flags, payload)) = self.next_frame().await {
                if kind == GOAWAY {
                    let code = payload.get(4..8).and_then(|code| code.try_into().ok());
                    said = code.map(u32::from_be_bytes);
                }
                let asked = kind == PING && flags & ACK == 0;
                if polite && asked && self.send(&frame(PING, ACK, 0, &payload)).await.is_err() {
                    break;
                }
            }
        };
        let ended = tokio::time::timeout(within, reading).await;
        match (ended, said) {
            (_, Some(code)) => Ended::GoAway(code),
            (Ok(()), None) => Ended::Closed,
            (Err(_elapsed), None) => Ended::Open,
        }
    }

    /// Kind, flags and payload; `None` when the connection is closed.
    async fn next_frame(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        let mut head = [0; HEADER_BYTES];
        self.read.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).expect("24 bits")];
        self.read.read_exact(&mut payload).await.ok()?;
        Some((head[3], head[4], payload))
    }

    /// Reads what comes as text, until the other end closes.
    pub(crate) async fn text(&mut self, within: Duration) -> String {
        let mut text = Vec::new();
        // What came in time is what counts.
        let _elapsed = tokio::time::timeout(within, self.read.read_to_end(&mut text)).await;
        String::from_utf8_lossy(&text).into_owned()
    }
}
