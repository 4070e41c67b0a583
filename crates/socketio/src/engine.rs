//! Engine.IO 4: its packets as text, the payloads in which polling carries several of them, and the handshake.
//! Knows nothing of what a message holds.

use bytes::{BufMut, Bytes, BytesMut};

use crate::json;
use crate::query::Transport;

/// The server's heartbeat.
pub const PING: Bytes = Bytes::from_static(b"2");
/// Tells a client that its session is over.
pub const CLOSE: Bytes = Bytes::from_static(b"1");
/// Ends a pending poll that has nothing to carry.
pub const NOOP: Bytes = Bytes::from_static(b"6");
/// The answer to a WebSocket that probes whether it may replace polling.
pub const PROBE_PONG: Bytes = Bytes::from_static(b"3probe");
/// What the client's probing ping, and the server's answer, carry.
pub const PROBE: &str = "probe";

/// The most packets one payload from a client may hold.
pub const PAYLOAD_PACKETS_MAX: usize = 1_000;
/// The most packets to put in one answer to a poll: python-engineio's client refuses a payload of more.
pub const POLL_PACKETS_MAX: usize = 16;

const SEPARATOR: u8 = 0x1e;

/// One Engine.IO packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// The handshake, which only a server sends.
    Open(&'a str),
    /// The session is over.
    Close,
    /// A heartbeat (from the server), or a client's probe of a new transport.
    Ping(&'a str),
    /// The answer to a ping.
    Pong(&'a str),
    /// Text for the layer above.
    Message(&'a str),
    /// Binary data for the layer above, its bytes left out: a binary WebSocket frame, or `b` and base64 in polling.
    Binary,
    /// The client moves its session to this transport.
    Upgrade,
    /// Nothing.
    Noop,
}

impl<'a> Packet<'a> {
    /// Reads a text packet: a WebSocket text frame, or one packet of a polling payload.
    ///
    /// # Errors
    /// When there is no type, or one that Engine.IO 4 does not have.
    pub fn decode(text: &'a str) -> Result<Self, PacketError> {
        let kind = text.chars().next().ok_or(PacketError::Empty)?;
        let data = &text[kind.len_utf8()..];
        Ok(match kind {
            '0' => Self::Open(data),
            '1' => Self::Close,
            '2' => Self::Ping(data),
            '3' => Self::Pong(data),
            '4' => Self::Message(data),
            '5' => Self::Upgrade,
            '6' => Self::Noop,
            'b' => Self::Binary,
            _ => return Err(PacketError::UnknownType(kind)),
        })
    }

    /// This packet as text. [`Packet::Binary`], whose bytes are not kept, comes out empty.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (kind, data) = match *self {
            Self::Open(data) => (b'0', data),
            Self::Close => (b'1', ""),
            Self::Ping(data) => (b'2', data),
            Self::Pong(data) => (b'3', data),
            Self::Message(data) => (b'4', data),
            Self::Upgrade => (b'5', ""),
            Self::Noop => (b'6', ""),
            Self::Binary => (b'b', ""),
        };
        let mut text = BytesMut::with_capacity(1 + data.len());
        text.put_u8(kind);
        text.put_slice(data.as_bytes());
        text.freeze()
    }
}

/// Why a text is not an Engine.IO packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Not even a type.
    #[error("an Engine.IO packet is empty: it needs a type, 0 to 6")]
    Empty,
    /// A type that the protocol does not have.
    #[error("an Engine.IO packet has the unknown type {0:?}: types are 0 to 6")]
    UnknownType(char),
}

/// Splits the body of a polling POST into its packets, all or none.
///
/// # Errors
/// When the body is longer than `bytes_max` bytes, holds more than [`PAYLOAD_PACKETS_MAX`] packets, is not UTF-8, or
/// any of its packets is malformed.
pub fn decode_payload(body: &[u8], bytes_max: usize) -> Result<Vec<Packet<'_>>, PayloadError> {
    if body.len() > bytes_max {
        return Err(PayloadError::TooLong { bytes: body.len(), bytes_max });
    }
    let text = std::str::from_utf8(body).map_err(PayloadError::NotUtf8)?;
    let mut parts = text.split(char::from(SEPARATOR));
    let packets = parts.by_ref().take(PAYLOAD_PACKETS_MAX).map(Packet::decode).collect::<Result<_, _>>()?;
    match parts.next() {
        None => Ok(packets),
        Some(_) => Err(PayloadError::TooManyPackets),
    }
}

/// Joins packets that are already encoded as text into one payload: the answer to a poll. No more than
/// [`POLL_PACKETS_MAX`] of them suit every client.
#[must_use]
pub fn join_payload(packets: &[Bytes]) -> Bytes {
    if let [packet] = packets {
        return packet.clone();
    }
    let length = packets.iter().map(|packet| packet.len() + 1).sum();
    let mut payload = BytesMut::with_capacity(length);
    for (index, packet) in packets.iter().enumerate() {
        if index > 0 {
            payload.put_u8(SEPARATOR);
        }
        payload.put_slice(packet);
    }
    payload.freeze()
}

/// Why the body of a polling POST was refused. The session is to be closed: what else it held is lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Longer than the handshake's `maxPayload`.
    #[error(
        "a polling payload has {bytes} bytes, more than the {bytes_max} the handshake allows: send less at once"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
        /// What was allowed.
        bytes_max: usize,
    },
    /// More than [`PAYLOAD_PACKETS_MAX`] packets.
    #[error("a polling payload holds more than {PAYLOAD_PACKETS_MAX} packets: send fewer at once")]
    TooManyPackets,
    /// Not text.
    #[error("a polling payload is not UTF-8: send binary data as base64")]
    NotUtf8(#[source] std::str::Utf8Error),
    /// One of its packets is malformed.
    #[error(transparent)]
    Packet(#[from] PacketError),
}

/// What a server tells a client in the open packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake<'a> {
    /// The Engine.IO session's id.
    pub sid: &'a str,
    /// The transport of the session: polling may be upgraded to WebSocket.
    pub transport: Transport,
    /// How often the server pings, in milliseconds.
    pub ping_interval_ms: u64,
    /// How long the client has to answer a ping, in milliseconds.
    pub ping_timeout_ms: u64,
    /// The most bytes a payload from the client may have.
    pub max_payload: u64,
}

impl Handshake<'_> {
    /// The open packet.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut sid = Vec::with_capacity(json::string_len(self.sid));
        json::put_string(&mut sid, self.sid);
        let upgrades = match self.transport {
            Transport::Polling => r#""websocket""#,
            Transport::WebSocket => "",
        };
        format!(
            r#"0{{"sid":{},"upgrades":[{upgrades}],"pingInterval":{},"pingTimeout":{},"maxPayload":{}}}"#,
            String::from_utf8_lossy(&sid),
            self.ping_interval_ms,
            self.ping_timeout_ms,
            self.max_payload,
        )
        .into()
    }
}
