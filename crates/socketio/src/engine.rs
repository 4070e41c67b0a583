//! Engine.IO 4: its packets as text, the payloads in which polling carries several of them, and the handshake.
//! Knows nothing of what a message holds.
//!
//! Engine.IO protocol 4, "Protocol", "Packet encoding" and "Handshake".

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

impl PayloadError {
    /// The HTTP status of the answer.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        match self {
            Self::TooLong { .. } => 413,
            _ => 400,
        }
    }
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
        let upgrades = match self.transport {
            Transport::Polling => r#""websocket""#,
            Transport::WebSocket => "",
        };
        let rest = format!(
            r#","upgrades":[{upgrades}],"pingInterval":{},"pingTimeout":{},"maxPayload":{}}}"#,
            self.ping_interval_ms, self.ping_timeout_ms, self.max_payload,
        );
        let mut packet =
            BytesMut::with_capacity(br#"0{"sid":"#.len() + json::string_len(self.sid) + rest.len());
        packet.put_slice(br#"0{"sid":"#);
        json::put_string(&mut packet, self.sid);
        packet.put_slice(rest.as_bytes());
        packet.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packets(text: &str) -> [Packet<'_>; 8] {
        use Packet::{Binary, Close, Message, Noop, Open, Ping, Pong, Upgrade};
        [Open(text), Close, Ping(text), Pong(text), Message(text), Binary, Upgrade, Noop]
    }

    proptest! {
        #[test]
        fn a_packet_survives_its_text(text in any::<String>()) {
            for packet in packets(&text) {
                let encoded = packet.encode();
                prop_assert_eq!(Packet::decode(std::str::from_utf8(&encoded).unwrap()), Ok(packet));
            }
        }

        #[test]
        fn packets_survive_a_payload(texts in prop::collection::vec("[^\x1e]{0,20}", 1..POLL_PACKETS_MAX)) {
            let sent: Vec<_> = texts.iter().flat_map(|text| packets(text)).collect();
            let encoded: Vec<_> = sent.iter().map(Packet::encode).collect();
            let payload = join_payload(&encoded);
            prop_assert_eq!(decode_payload(&payload, usize::MAX), Ok(sent));
        }

        #[test]
        fn arbitrary_bytes_are_refused_in_peace(body in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(packets) = decode_payload(&body, 100) {
                prop_assert!(body.len() <= 100 && !packets.is_empty());
            }
        }
    }

    #[test]
    fn the_documents_examples_are_read() {
        assert_eq!(Packet::decode("4hello"), Ok(Packet::Message("hello")));
        assert_eq!(Packet::decode("2"), Ok(Packet::Ping("")));
        assert_eq!(Packet::decode("bAQIDBA=="), Ok(Packet::Binary));
        let payload = decode_payload(b"4hello\x1e2\x1e4world\x1ebAQIDBA==", 100);
        let expected =
            vec![Packet::Message("hello"), Packet::Ping(""), Packet::Message("world"), Packet::Binary];
        assert_eq!(payload, Ok(expected));
    }

    #[test]
    fn the_ready_made_packets_are_what_they_say() {
        assert_eq!(PING, Packet::Ping("").encode());
        assert_eq!(CLOSE, Packet::Close.encode());
        assert_eq!(NOOP, Packet::Noop.encode());
        assert_eq!(PROBE_PONG, Packet::Pong(PROBE).encode());
    }

    #[test]
    fn every_malformed_packet_is_named() {
        assert_eq!(Packet::decode(""), Err(PacketError::Empty));
        for (text, kind) in
            [("abc", 'a'), ("7", '7'), ("\u{1e}", '\u{1e}'), ("€uro", '€'), (" 4", ' '), ("-1", '-')]
        {
            assert_eq!(Packet::decode(text), Err(PacketError::UnknownType(kind)), "{text:?}");
        }
    }

    #[test]
    fn every_malformed_payload_is_named_and_answered() {
        let many = vec!["2"; PAYLOAD_PACKETS_MAX].join("\x1e");
        assert_eq!(
            decode_payload(many.as_bytes(), 10_000).map(|packets| packets.len()),
            Ok(PAYLOAD_PACKETS_MAX)
        );
        let too_many = format!("{many}\x1e2");
        let cases: [(&[u8], u16, &str); 6] = [
            (b"4hello", 413, "a polling payload has 6 bytes, more than the 5"),
            (b"", 400, "an Engine.IO packet is empty"),
            (b"2\x1e", 400, "an Engine.IO packet is empty"),
            (b"4a\x1eabc", 400, "an Engine.IO packet has the unknown type 'a'"),
            (b"4\xff", 400, "a polling payload is not UTF-8"),
            (too_many.as_bytes(), 400, "a polling payload holds more than 1000 packets"),
        ];
        for (body, status, message) in cases {
            let bytes_max = if status == 413 { body.len() - 1 } else { body.len() };
            let error = decode_payload(body, bytes_max).unwrap_err();
            assert_eq!(error.http_status(), status, "{error}");
            assert!(error.to_string().starts_with(message), "{error}");
        }
    }

    #[test]
    fn a_lone_packet_is_joined_without_a_copy() {
        let packet = Bytes::from(vec![b'4'; 100]);
        assert_eq!(join_payload(std::slice::from_ref(&packet)).as_ptr(), packet.as_ptr());
        assert_eq!(join_payload(&[]), Bytes::new());
    }

    #[test]
    fn the_handshake_says_what_the_document_wants() {
        let handshake = |transport| Handshake {
            sid: "lv_VI97HAXpY6yYWAAAC",
            transport,
            ping_interval_ms: 25_000,
            ping_timeout_ms: 20_000,
            max_payload: 1_000_000,
        };
        assert_eq!(
            handshake(Transport::Polling).encode(),
            concat!(
                r#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"#,
                r#""pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#
            )
        );
        assert_eq!(
            handshake(Transport::WebSocket).encode(),
            concat!(
                r#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":[],"#,
                r#""pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#
            )
        );
    }
}
