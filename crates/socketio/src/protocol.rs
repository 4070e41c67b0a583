//! One client's conversation, whatever transport carries it: packets in, effects out. It keeps no clock (heartbeats,
//! the time to CONNECT) and does not know what an event means.

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
    /// What is no string cannot be resumed from, and counts as absent: the client then starts afresh.
    fn read(raw: Option<&'a RawValue>) -> Self {
        #[derive(Default, Deserialize)]
        struct Resume {
            pid: Option<String>,
            offset: Option<String>,
        }
        let resume = raw.and_then(|raw| serde_json::from_str(raw.get()).ok());
        let Resume { pid, offset } = resume.unwrap_or_default();
        Self { pid, offset, raw }
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
