//! Engine.IO 4 and Socket.IO 5 as a server speaks them: codecs and state machines over bytes.
//!
//! Nothing in here does I/O, reads a clock, draws a random id or knows what an event means: whoever holds the
//! sockets feeds packets in, executes the effects that come out, and owns every timer.
//!
//! - [`query`]: what a request's query string asks for, and the answers to a wrong one
//! - [`engine`]: packets, polling payloads, the handshake
//! - [`upgrade`]: from polling to WebSocket
//! - [`socket`]: Socket.IO packets inside Engine.IO messages
//! - [`protocol`]: one client's conversation

pub mod engine;
mod json;
pub mod protocol;
pub mod query;
pub mod socket;
pub mod upgrade;

pub use protocol::{Auth, Effect, Protocol, Reason};
pub use query::{HandshakeError, Request, Transport};
pub use socket::{Event, encode_ack, encode_event};
pub use upgrade::{Step, Upgrade};
