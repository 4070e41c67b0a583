//! The envelope that travels on Redis, `proto/herald/bus/v1/envelope.proto`, and the two fields that the publishing
//! script appends to it.

use bytes::Bytes;
use prost::Message as _;

use crate::Position;
pub use crate::generated::bus::Envelope;

/// Field numbers 14 and 15 with wire type 2 (length-delimited), as the script appends them.
pub const POSITION_TAG: u8 = (14 << 3) | 2;
/// See [`POSITION_TAG`].
pub const PREV_TAG: u8 = (15 << 3) | 2;

/// Why bytes from Redis are not an envelope.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Not protobuf, or not this message.
    #[error("not an envelope: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// A reliable message without a position, or one that is not a number.
    #[error("the envelope's {field} is {text:?}, not a number of microseconds")]
    Position {
        /// `position` or `prev`.
        field: &'static str,
        /// What stood there.
        text: String,
    },
}

/// The place of a reliable message in its channel's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where the entry stands.
    pub position: Position,
    /// Where the entry before it stands; zero when the log knows of none.
    pub prev: Position,
}

impl Envelope {
    /// Reads an envelope; `body` shares the bytes it is read from.
    pub fn read(bytes: Bytes) -> Result<Self, EnvelopeError> {
        Ok(Self::decode(bytes)?)
    }

    /// The bytes to publish or log, without position and `prev`.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// The place in the log, for a reliable message; `None` for a volatile one.
    pub fn place(&self) -> Result<Option<Place>, EnvelopeError> {
        if !self.reliable {
            return Ok(None);
        }
        let read = |field, text: &str| {
            text.parse().map_err(|_| EnvelopeError::Position { field, text: text.to_owned() })
        };
        Ok(Some(Place { position: read("position", &self.position)?, prev: read("prev", &self.prev)? }))
    }

    /// Whether its time is over.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms != 0 && self.expires_at_ms <= now_ms
    }
}

/// Appends position and `prev` to an encoded envelope, byte for byte as the script on Redis does.
pub fn append_place(envelope: &[u8], place: Place) -> Bytes {
    let mut bytes = Vec::with_capacity(envelope.len() + 40);
    bytes.extend_from_slice(envelope);
    for (tag, position) in [(POSITION_TAG, place.position), (PREV_TAG, place.prev)] {
        let text = position.to_string();
        bytes.push(tag);
        // at most 20 digits: the length is one byte
        bytes.push(text.len() as u8);
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_appended_place_is_read_back(position: u64, prev: u64, body: Vec<u8>) {
            let sent = Envelope { body: body.into(), reliable: true, message_id: "m".into(), ..Envelope::default() };
            let place = Place { position: Position(position), prev: Position(prev) };
            let read = Envelope::read(append_place(&sent.to_bytes(), place)).unwrap();
            prop_assert_eq!(read.place().unwrap(), Some(place));
            prop_assert_eq!(read.body, sent.body);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(envelope) = Envelope::read(bytes.into()) {
                let _ = envelope.place();
            }
        }
    }

    #[test]
    fn a_volatile_message_has_no_place_and_a_reliable_one_must() {
        assert_eq!(Envelope::default().place().unwrap(), None);
        assert!(Envelope { reliable: true, ..Envelope::default() }.place().is_err());
    }

    #[test]
    fn the_body_shares_the_bytes_it_came_in() {
        let bytes = Envelope { body: Bytes::from_static(b"{}"), ..Envelope::default() }.to_bytes();
        let range = bytes.as_ptr_range();
        let read = Envelope::read(bytes).unwrap();
        assert!(range.contains(&read.body.as_ptr()));
    }
}
