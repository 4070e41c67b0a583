//! The opaque string a client hands back to resume. What it means is known here only.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::Position;

/// Names one life of the data on Redis: a Redis that lost its data gets a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epoch(pub u32);

/// The position of the last reliable message a client received, and where that position was given.
///
/// As text it is 22 characters of base64url: epoch (4 bytes), slot (2), position (8), check (2), big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The life of the data the position belongs to.
    pub epoch: Epoch,
    /// The Redis Cluster slot of the channel that gave the position; [`Cursor::ONE_REDIS`] outside a cluster.
    pub slot: u16,
    /// Everything up to here was received.
    pub position: Position,
}

/// Why a string is not a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Wrong length or alphabet.
    #[error(
        "the cursor is not 22 characters of base64url: hand back the one that came with the last message"
    )]
    Malformed,
    /// The check does not match the rest.
    #[error("the cursor is damaged: hand back the one that came with the last message")]
    Damaged,
}

const BYTES: usize = 16;
const TEXT: usize = 22;

impl Cursor {
    /// The slot of a position given by a Redis that is not a cluster.
    pub const ONE_REDIS: u16 = u16::MAX;

    /// Reads a cursor that a client handed back.
    pub fn parse(text: &str) -> Result<Self, CursorError> {
        if text.len() != TEXT {
            return Err(CursorError::Malformed);
        }
        let mut bytes = [0; BYTES];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(BYTES) => {}
            _ => return Err(CursorError::Malformed),
        }
        let [e0, e1, e2, e3, s0, s1, p0, p1, p2, p3, p4, p5, p6, p7, c0, c1] = bytes;
        let cursor = Self {
            epoch: Epoch(u32::from_be_bytes([e0, e1, e2, e3])),
            slot: u16::from_be_bytes([s0, s1]),
            position: Position(u64::from_be_bytes([p0, p1, p2, p3, p4, p5, p6, p7])),
        };
        if cursor.check() != u16::from_be_bytes([c0, c1]) {
            return Err(CursorError::Damaged);
        }
        Ok(cursor)
    }

    /// Folds the fields to 16 bits. It catches damage and mix-ups, not malice: a forged cursor can only name a place in
    /// logs that its session may read anyway.
    fn check(&self) -> u16 {
        let mixed = (self.position.0 ^ (u64::from(self.epoch.0) << 16) ^ u64::from(self.slot))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 48) as u16
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(&self.epoch.0.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.slot.to_be_bytes());
        bytes[6..14].copy_from_slice(&self.position.0.to_be_bytes());
        bytes[14..].copy_from_slice(&self.check().to_be_bytes());
        let mut text = [0; TEXT];
        // 16 bytes are 22 characters: neither call can fail
        let length = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&text[..length]).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trips(epoch: u32, slot: u16, position: u64) {
            let cursor = Cursor { epoch: Epoch(epoch), slot, position: Position(position) };
            prop_assert_eq!(Cursor::parse(&cursor.to_string()), Ok(cursor));
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}") {
            let _ = Cursor::parse(&text);
        }

        #[test]
        fn one_changed_character_is_noticed_or_changes_nothing_but_the_check(position: u64, at in 0..TEXT) {
            let text = Cursor { epoch: Epoch(7), slot: Cursor::ONE_REDIS, position: Position(position) }.to_string();
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            prop_assert!(Cursor::parse(std::str::from_utf8(&changed).unwrap()).is_err());
        }
    }

    #[test]
    fn other_text_is_refused_with_a_reason() {
        assert_eq!(Cursor::parse(""), Err(CursorError::Malformed));
        assert_eq!(Cursor::parse("!!!!!!!!!!!!!!!!!!!!!!"), Err(CursorError::Malformed));
        assert_eq!(Cursor::parse("AAAAAAAAAAAAAAAAAAAAAQ"), Err(CursorError::Damaged));
    }
}
