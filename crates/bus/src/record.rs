//! What goes in and what comes out: publications, their answers, log entries.

use std::sync::Arc;

use bytes::Bytes;
use herald_wire::envelope::{PREV_TAG, Place, append_place};
use herald_wire::{Position, Target};

/// One message for one target.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Whom it is for.
    pub target: Target,
    /// The encoded `Envelope`, without a place.
    pub envelope: Bytes,
    /// Whether it is logged. Must be what the envelope says.
    pub reliable: bool,
    /// The same id published to the same target again within the dedup window is a duplicate.
    pub message_id: Option<Arc<str>>,
}

/// How a publication went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// Reliable: logged here, and sent to the feeds.
    Logged(Position),
    /// Volatile: sent to this many feeds (in a cluster, and with replicas, those that this node knows of).
    Sent {
        /// How many feeds.
        receivers: u64,
    },
    /// Its `message_id` was published to this target before; nothing was done.
    Duplicate,
}

/// A reliable message in its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub position: Position,
    /// Where the one before it stood; zero when none was known.
    pub prev: Position,
    /// The envelope with its place, as it was published.
    pub envelope: Bytes,
}

impl Entry {
    pub(crate) fn new(envelope: &[u8], place: Place) -> Self {
        Self { position: place.position, prev: place.prev, envelope: append_place(envelope, place) }
    }

    /// An entry as it stands in a log; `None` when it does not end as [`append_place`] makes it.
    pub(crate) fn read(position: Position, envelope: Bytes) -> Option<Self> {
        let prev = prev_of(&envelope)?;
        Some(Self { position, prev, envelope })
    }
}

/// Reads `prev` off the end of an envelope: tag, length, digits. A length of at most 20 is never a digit's byte, so
/// walking back over digits finds it without parsing what comes before.
fn prev_of(envelope: &[u8]) -> Option<Position> {
    let digits = envelope.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (head, digits) = envelope.split_at(envelope.len() - digits);
    let [.., tag, length] = head else { return None };
    if *tag != PREV_TAG || usize::from(*length) != digits.len() {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What Redis holds back for one feed's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedBacklog {
    /// Node and number of the connection.
    pub connection: String,
    /// Its output buffer.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn prev_is_read_off_any_envelope(body: Vec<u8>, position: u64, prev: u64) {
            let place = Place { position: Position(position), prev: Position(prev) };
            let entry = Entry::new(&body, place);
            prop_assert_eq!(Entry::read(place.position, entry.envelope.clone()), Some(entry));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = prev_of(&bytes);
        }
    }

    #[test]
    fn an_envelope_without_a_place_is_not_an_entry() {
        for bytes in [&b""[..], b"1", b"z", b"12345", b"z\x021", b"y\x011"] {
            assert_eq!(prev_of(bytes), None, "{bytes:?}");
        }
    }
}
