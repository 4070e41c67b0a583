//! One client's conversation, whatever transport carries it: packets in, effects out. It keeps no clock (heartbeats,
//! the time to CONNECT) and does not know what an event means.
//!
//! Socket.IO protocol 5, "Exchange protocol": CONNECT comes first, a payload that is not what its type carries closes
//! the connection. Engine.IO protocol 4, "Heartbeat": it is the server that pings.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::engine;
use crate::socket::{self, Body, MAIN_NAMESPACE};

/// What a packet leads to.
#[derive(Debug, Clone)]
pub enum Effect<'a> {
    /// Send this packet.
    Send(Bytes),
    /// The client asks to be let in: decide, and send what [`Protocol::accept`] or [`Protocol::refuse`] returns.
    Connect(Auth<'a>),
    /// The client says something.
    Event {
        /// The event's name.
        name: Cow<'a, str>,
        /// Its arguments, as the JSON they are.
        args: Vec<&'a RawValue>,
        /// The id for [`socket::encode_ack`] if the client wants an answer.
        ack: Option<u64>,
    },
    /// The client says something in binary, which is not supported: its attachments are dropped as they come.
    BinaryEvent {
        /// The event's name.
        name: Cow<'a, str>,
        /// The id for [`socket::encode_ack`] if the client wants an answer.
        ack: Option<u64>,
    },
    /// The client answers an event that asked for it.
    Ack {
        /// The ack id of that event.
        id: u64,
        /// The answer, as the JSON it is.
        args: Vec<&'a RawValue>,
    },
    /// The client is alive: it answered the last ping.
    Pong,
    /// The client left the namespace; its transport stays open and it may connect again.
    Disconnect,
    /// Close the transport. Nothing that follows is to be handed in.
    Close(Reason),
}

/// What a client brought to its CONNECT.
#[derive(Debug, Clone, Default)]
pub struct Auth<'a> {
    /// The session it wants to resume.
    pub pid: Option<String>,
    /// The cursor from which it wants to resume.
    pub offset: Option<String>,
    /// All of it, a JSON object.
    pub raw: Option<&'a RawValue>,
}

impl<'a> Auth<'a> {
    /// A field that is no string counts as absent: the client then starts afresh.
    fn read(raw: Option<&'a RawValue>) -> Self {
        #[derive(Default, Deserialize)]
        struct Resume<'r> {
            #[serde(borrow)]
            pid: Option<&'r RawValue>,
            #[serde(borrow)]
            offset: Option<&'r RawValue>,
        }
        let resume = raw.and_then(|raw| serde_json::from_str(raw.get()).ok());
        let Resume { pid, offset } = resume.unwrap_or_default();
        let string = |field: Option<&RawValue>| serde_json::from_str(field?.get()).ok();
        Self { pid: string(pid), offset: string(offset), raw }
    }
}

/// Why a client's transport is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It said so.
    #[error("the client closed the session")]
    ClientClosed,
    /// Its text is no Engine.IO packet.
    #[error(transparent)]
    BadPacket(#[from] engine::PacketError),
    /// Its message is no Socket.IO packet.
    #[error(transparent)]
    BadMessage(#[from] socket::DecodeError),
    /// It sent a packet that only a server sends, or at another time.
    #[error("the client sent a packet that has no place in a session")]
    UnexpectedPacket,
    /// It sent a ping: since Engine.IO 4 it is the server that pings.
    #[error("the client sent a ping, which in Engine.IO 4 is the server's part")]
    UnexpectedPing,
    /// It sent CONNECT twice.
    #[error("the client sent CONNECT although it had before")]
    AlreadyConnected,
    /// It spoke in a namespace to which it is not connected.
    #[error(
        "the client spoke in a namespace to which it is not connected: send CONNECT first and await the answer"
    )]
    NotConnected,
    /// Binary data came without a packet that announced it, or text instead of the announced.
    #[error("the client's binary attachments do not follow the packet that announces them")]
    AttachmentsOutOfPlace,
}

impl Reason {
    /// Its name in metrics.
    #[must_use]
    pub fn metric_label(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::BadPacket(_) => "bad_packet",
            Self::BadMessage(_) => "bad_message",
            Self::UnexpectedPacket => "unexpected_packet",
            Self::UnexpectedPing => "unexpected_ping",
            Self::AlreadyConnected => "already_connected",
            Self::NotConnected => "not_connected",
            Self::AttachmentsOutOfPlace => "attachments_out_of_place",
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Outside,
    Connecting,
    Connected,
}

/// The state of one client's conversation, from the open packet on.
#[derive(Debug, Default)]
pub struct Protocol {
    state: State,
    attachments_due: u8,
}

impl Protocol {
    /// A client that has sent nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the client is connected to the namespace. One that is not within the time allowed is to be closed.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.state == State::Connected
    }

    /// Lets in a client that asked to, and returns the answer to send.
    #[must_use]
    pub fn accept(&mut self, sid: &str, pid: Option<&str>) -> Bytes {
        self.state = State::Connected;
        socket::encode_connect(sid, pid)
    }

    /// Refuses a client that asked to be let in, and returns the answer to send; `data` is one valid JSON value. The
    /// client may try again.
    #[must_use]
    pub fn refuse(&mut self, message: &str, data: Option<&[u8]>) -> Bytes {
        self.state = State::Outside;
        socket::encode_connect_error(MAIN_NAMESPACE, message, data)
    }

    /// Ends the client's stay in the namespace, and returns the packet that tells it.
    #[must_use]
    pub fn disconnect(&mut self) -> Bytes {
        self.state = State::Outside;
        socket::encode_disconnect()
    }

    /// Takes a WebSocket text frame; a binary one is [`engine::Packet::Binary`] to [`Protocol::on_packet`].
    pub fn on_text<'a>(&mut self, text: &'a str) -> Option<Effect<'a>> {
        match engine::Packet::decode(text) {
            Ok(packet) => self.on_packet(packet),
            Err(error) => Some(Effect::Close(error.into())),
        }
    }

    /// Takes one packet, and returns what it leads to, if anything.
    pub fn on_packet<'a>(&mut self, packet: engine::Packet<'a>) -> Option<Effect<'a>> {
        let effect = match packet {
            engine::Packet::Message(text) => self.on_message(text),
            engine::Packet::Pong(_) => Ok(Effect::Pong),
            engine::Packet::Noop => return None,
            engine::Packet::Binary if self.attachments_due > 0 => {
                self.attachments_due -= 1;
                return None;
            }
            engine::Packet::Binary => Err(Reason::AttachmentsOutOfPlace),
            engine::Packet::Close => Err(Reason::ClientClosed),
            engine::Packet::Ping(_) => Err(Reason::UnexpectedPing),
            engine::Packet::Open(_) | engine::Packet::Upgrade => Err(Reason::UnexpectedPacket),
        };
        Some(effect.unwrap_or_else(Effect::Close))
    }

    fn on_message<'a>(&mut self, text: &'a str) -> Result<Effect<'a>, Reason> {
        if self.attachments_due > 0 {
            return Err(Reason::AttachmentsOutOfPlace);
        }
        let packet = socket::Packet::decode(text)?;
        if packet.namespace != MAIN_NAMESPACE {
            return match packet.body {
                Body::Connect(_) => Ok(Effect::Send(socket::encode_connect_error(
                    packet.namespace,
                    "Invalid namespace",
                    None,
                ))),
                _ => Err(Reason::NotConnected),
            };
        }
        match (packet.body, self.state) {
            (Body::Connect(auth), State::Outside) => {
                self.state = State::Connecting;
                Ok(Effect::Connect(Auth::read(auth)))
            }
            (Body::Connect(_), _) => Err(Reason::AlreadyConnected),
            (Body::ConnectError(_), _) => Err(Reason::UnexpectedPacket),
            (Body::Disconnect, State::Connected) => {
                self.state = State::Outside;
                Ok(Effect::Disconnect)
            }
            (Body::Event { name, args, ack, attachments: 0 }, State::Connected) => {
                Ok(Effect::Event { name, args, ack })
            }
            (Body::Event { name, ack, attachments, .. }, State::Connected) => {
                self.attachments_due = attachments;
                Ok(Effect::BinaryEvent { name, ack })
            }
            (Body::Ack { id, args, attachments }, State::Connected) => {
                self.attachments_due = attachments;
                Ok(Effect::Ack { id, args })
            }
            (Body::Disconnect | Body::Event { .. } | Body::Ack { .. }, _) => Err(Reason::NotConnected),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::PacketError;
    use crate::socket::DecodeError;
    use proptest::prelude::*;

    fn connected() -> Protocol {
        let mut protocol = Protocol::new();
        assert!(matches!(protocol.on_text("40"), Some(Effect::Connect(_))));
        assert_eq!(protocol.accept("s", Some("p")), r#"40{"sid":"s","pid":"p"}"#);
        protocol
    }

    fn closed(effect: Option<Effect<'_>>) -> Reason {
        match effect {
            Some(Effect::Close(reason)) => reason,
            other => panic!("expected a close, got {other:?}"),
        }
    }

    #[test]
    fn a_client_connects_talks_and_leaves() {
        let mut protocol = connected();
        assert!(protocol.connected());
        let Some(Effect::Event { name, args, ack: Some(7) }) =
            protocol.on_text(r#"427["register",{"socketId":"a"}]"#)
        else {
            panic!("not an event")
        };
        assert_eq!((&*name, args[0].get(), args.len()), ("register", r#"{"socketId":"a"}"#, 1));
        let Some(Effect::Ack { id: 3, args }) = protocol.on_text("433[true]") else { panic!("not an ack") };
        assert_eq!(args[0].get(), "true");
        assert!(matches!(protocol.on_text("3"), Some(Effect::Pong)));
        assert!(protocol.on_text("6").is_none());
        assert!(matches!(protocol.on_text("41"), Some(Effect::Disconnect)));
        assert!(!protocol.connected());
        assert!(matches!(protocol.on_text("40"), Some(Effect::Connect(_))));
    }

    #[test]
    fn what_a_client_resumes_from_is_read() {
        for (text, pid, offset) in [
            ("40", None, None),
            ("40{}", None, None),
            (r#"40{"token":[1]}"#, None, None),
            (r#"40{"pid":"p","offset":"1-0","token":"x"}"#, Some("p"), Some("1-0")),
            (r#"40{"pid":"\u0070"}"#, Some("p"), None),
            (r#"40{"pid":"p","offset":null}"#, Some("p"), None),
            (r#"40{"pid":7,"offset":"1-0"}"#, None, Some("1-0")),
            (r#"40{"pid":"p","offset":["1-0"]}"#, Some("p"), None),
            (r#"40{"pid":{"a":1},"offset":true}"#, None, None),
            (r#"40{"pid":"p","pid":"q"}"#, None, None),
        ] {
            let mut protocol = Protocol::new();
            let Some(Effect::Connect(auth)) = protocol.on_text(text) else { panic!("not a connect: {text}") };
            assert_eq!((auth.pid.as_deref(), auth.offset.as_deref()), (pid, offset), "{text}");
            assert_eq!(auth.raw.map_or("", RawValue::get), &text[2..]);
        }
    }

    #[test]
    fn a_refused_client_may_try_again() {
        let mut protocol = Protocol::new();
        assert!(matches!(protocol.on_text("40"), Some(Effect::Connect(_))));
        assert_eq!(protocol.refuse("full", Some(b"{}")), r#"44{"message":"full","data":{}}"#);
        assert!(!protocol.connected());
        assert!(matches!(protocol.on_text("40"), Some(Effect::Connect(_))));
    }

    #[test]
    fn a_client_that_was_disconnected_is_outside() {
        let mut protocol = connected();
        assert_eq!(protocol.disconnect(), "41");
        assert_eq!(closed(protocol.on_text(r#"42["late"]"#)), Reason::NotConnected);
    }

    #[test]
    fn an_unknown_namespace_is_refused_and_changes_nothing() {
        for mut protocol in [Protocol::new(), connected()] {
            let before = protocol.connected();
            for (text, answer) in [
                ("40/random", r#"44/random,{"message":"Invalid namespace"}"#),
                (r#"40/a?b=c,{"token":1}"#, r#"44/a?b=c,{"message":"Invalid namespace"}"#),
            ] {
                let Some(Effect::Send(packet)) = protocol.on_text(text) else {
                    panic!("not answered: {text}")
                };
                assert_eq!(packet, answer);
            }
            assert_eq!(protocol.connected(), before);
        }
    }

    #[test]
    fn every_breach_closes_with_its_reason() {
        let bad_payload = Reason::BadMessage(DecodeError::BadPayload {
            expected: "a JSON array of the event's name and few enough arguments",
        });
        for (text, reason) in [
            ("", Reason::BadPacket(PacketError::Empty)),
            ("abc", Reason::BadPacket(PacketError::UnknownType('a'))),
            ("4", Reason::BadMessage(DecodeError::UnknownType)),
            ("4abc", Reason::BadMessage(DecodeError::UnknownType)),
            ("42", bad_payload),
            ("42{}", bad_payload),
            ("0{}", Reason::UnexpectedPacket),
            ("1", Reason::ClientClosed),
            ("2", Reason::UnexpectedPing),
            ("2probe", Reason::UnexpectedPing),
            ("5", Reason::UnexpectedPacket),
            ("40", Reason::AlreadyConnected),
            ("44{}", Reason::UnexpectedPacket),
            (r#"42/other,["x"]"#, Reason::NotConnected),
            ("41/other,", Reason::NotConnected),
            ("bAQID", Reason::AttachmentsOutOfPlace),
        ] {
            assert_eq!(closed(connected().on_text(text)), reason, "{text}");
        }
    }

    #[test]
    fn nothing_but_connect_is_heard_before_it_is_answered() {
        let mut connecting = Protocol::new();
        assert!(matches!(connecting.on_text("40"), Some(Effect::Connect(_))));
        assert!(!connecting.connected());
        assert_eq!(closed(connecting.on_text("40")), Reason::AlreadyConnected);
        for text in [r#"42["x"]"#, "431[]", "41", r#"451-["x"]"#] {
            assert_eq!(closed(Protocol::new().on_text(text)), Reason::NotConnected, "{text}");
            let mut connecting = Protocol::new();
            assert!(matches!(connecting.on_text("40"), Some(Effect::Connect(_))));
            assert_eq!(closed(connecting.on_text(text)), Reason::NotConnected, "{text}");
        }
    }

    #[test]
    fn binary_attachments_are_counted_and_dropped() {
        let mut protocol = connected();
        let Some(Effect::BinaryEvent { name, ack: Some(5) }) =
            protocol.on_text(r#"452-5["upload",{"_placeholder":true}]"#)
        else {
            panic!("not a binary event")
        };
        assert_eq!(name, "upload");
        assert!(protocol.on_packet(engine::Packet::Binary).is_none());
        assert!(matches!(protocol.on_text("3"), Some(Effect::Pong)), "heartbeats go on in between");
        assert!(protocol.on_text("bAQID").is_none());
        assert!(matches!(protocol.on_text(r#"42["x"]"#), Some(Effect::Event { .. })));
        assert!(matches!(
            protocol.on_text(r#"461-9[{"_placeholder":true,"num":0}]"#),
            Some(Effect::Ack { id: 9, .. })
        ));
        assert_eq!(closed(protocol.on_text(r#"42["x"]"#)), Reason::AttachmentsOutOfPlace);
    }

    const USUAL: [&str; 12] = [
        "40",
        "40{}",
        "40/x",
        "41",
        "42[\"x\"]",
        "421[\"x\",{}]",
        "430[]",
        "3",
        "6",
        "b",
        "452-[\"x\"]",
        "1",
    ];

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![8 => prop::sample::select(&USUAL).prop_map(str::to_owned), 1 => any::<String>()]
    }

    proptest! {
        // Whatever a client sends: it is heard only while connected, and connects only when it is not.
        #[test]
        fn any_conversation_keeps_its_order(texts in prop::collection::vec(text(), 0..40), accepted in any::<bool>()) {
            let mut protocol = Protocol::new();
            for text in &texts {
                let before = protocol.connected();
                match protocol.on_text(text) {
                    Some(Effect::Close(_)) => break,
                    Some(Effect::Connect(_)) => {
                        prop_assert!(!before && !protocol.connected());
                        let _ = if accepted { protocol.accept("s", None) } else { protocol.refuse("no", None) };
                        prop_assert_eq!(protocol.connected(), accepted);
                    }
                    Some(Effect::Disconnect) => prop_assert!(before && !protocol.connected()),
                    Some(Effect::Event { .. } | Effect::BinaryEvent { .. } | Effect::Ack { .. }) => prop_assert!(before),
                    Some(Effect::Send(_) | Effect::Pong) | None => prop_assert_eq!(before, protocol.connected()),
                }
            }
        }
    }
}
