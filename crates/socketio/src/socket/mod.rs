//! Socket.IO 5 packets, as the text that an Engine.IO message carries. Arguments stay the JSON they are: nothing here
//! builds a value of them.
//!
//! Socket.IO protocol 5, "Packet encoding".

mod decode;
mod encode;

use std::borrow::Cow;

use serde_json::value::RawValue;

pub use decode::DecodeError;
pub use encode::{Event, encode_ack, encode_connect, encode_connect_error, encode_disconnect, encode_event};

/// The namespace that needs no name, and the only one that Herald serves.
pub const MAIN_NAMESPACE: &str = "/";
/// The longest name of a namespace, in bytes.
pub const NAMESPACE_BYTES_MAX: usize = 256;
/// The most digits of an ack id: clients count in JavaScript's safe integers.
pub const ACK_DIGITS_MAX: usize = 16;
/// The most binary attachments of one packet, as in the reference implementation.
pub const ATTACHMENTS_MAX: u8 = 10;
/// The most arguments of one event or ack, the event's name included.
pub const ARGS_MAX: usize = 64;

/// One Socket.IO packet, borrowed from its text.
#[derive(Debug, Clone)]
pub struct Packet<'a> {
    /// The namespace it is for, `/` if it names none.
    pub namespace: &'a str,
    /// What it says.
    pub body: Body<'a>,
}

/// What a Socket.IO packet says.
#[derive(Debug, Clone)]
pub enum Body<'a> {
    /// Enter the namespace, with a JSON object to authenticate by.
    Connect(Option<&'a RawValue>),
    /// Leave the namespace.
    Disconnect,
    /// An event, binary ones included.
    Event {
        /// Its name; a name that is a number is that number's text.
        name: Cow<'a, str>,
        /// Its arguments.
        args: Vec<&'a RawValue>,
        /// Under which id the sender wants an ack, if it does.
        ack: Option<u64>,
        /// How many binary attachments follow; their places among the arguments hold placeholders.
        attachments: u8,
    },
    /// The answer to an event, binary ones included.
    Ack {
        /// The event's ack id.
        id: u64,
        /// The answer's arguments.
        args: Vec<&'a RawValue>,
        /// How many binary attachments follow.
        attachments: u8,
    },
    /// The namespace was refused, which only a server says.
    ConnectError(&'a RawValue),
}
