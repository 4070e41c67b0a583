//! What registry replicas tell each other: what an edge that is attached elsewhere must hear. Losing one is made good
//! by the audit of that edge's claims.

use herald_wire::registry::registry_message::Kind;
use herald_wire::registry::{Close, Evict, RegistryMessage};
use prost::Message as _;

use crate::directory::Eviction;

/// A message for an edge, wherever it is attached.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The edge; empty for a probe.
    pub edge_id: String,
    /// What it must hear.
    pub message: RegistryMessage,
}

impl Event {
    /// Says nothing to nobody: shows that events arrive at all.
    pub fn probe() -> Self {
        Self { edge_id: String::new(), message: RegistryMessage::default() }
    }

    /// Asks an edge to close a connection.
    pub fn close(edge_id: String, close: Close) -> Self {
        Self { edge_id, message: RegistryMessage { kind: Some(Kind::Close(close)) } }
    }

    /// As bytes: the edge's id, which holds no control character, a line feed, the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.edge_id.len() + 1 + self.message.encoded_len());
        bytes.extend_from_slice(self.edge_id.as_bytes());
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.message.encode_to_vec());
        bytes
    }

    /// Reads it back; `None` when these bytes are no event.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (edge_id, message) = bytes.split_at(end);
        let edge_id = str::from_utf8(edge_id).ok()?.to_owned();
        Some(Self { edge_id, message: RegistryMessage::decode(message.get(1..)?).ok()? })
    }
}

impl From<Eviction> for Event {
    fn from(Eviction { edge_id, evict }: Eviction) -> Self {
        Self { edge_id, message: message(evict) }
    }
}

pub(crate) fn message(evict: Evict) -> RegistryMessage {
    RegistryMessage { kind: Some(Kind::Evict(evict)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn events_round_trip(edge in "[^\\x00-\\x1f\\x7f]{0,20}", socket in ".{0,20}", connection: u64) {
            let close = Close { socket_id: socket, connection, reason: "r".into() };
            let event = Event::close(edge, close);
            prop_assert_eq!(Event::decode(&event.encode()), Some(event));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Event::decode(&bytes);
        }
    }

    #[test]
    fn a_probe_round_trips() {
        assert_eq!(Event::decode(&Event::probe().encode()), Some(Event::probe()));
    }
}
