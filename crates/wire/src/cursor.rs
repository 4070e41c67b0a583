//! The opaque string a client hands back to resume. What it means is known here only.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::{Position, Target, TargetKind};

/// Names one life of the data on Redis: a Redis that lost its data gets a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epoch(pub u32);

/// The position of the last reliable message a client received, and where that position was given.
///
/// As text it is 22 characters of base64url: epoch (4 bytes), slot (2), position (8), check (2), big-endian; or 32, with
/// the mailbox position (8) before the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The life of the data the position belongs to.
    pub epoch: Epoch,
    /// The Redis Cluster slot of the channel that gave the position; [`Cursor::ONE_REDIS`] outside a cluster.
    pub slot: u16,
    /// Everything up to here was received.
    pub position: Position,
    /// Except of the mailbox, of which only what stands up to here: it was still being caught up with, while other
    /// channels were further on.
    pub mailbox: Option<Position>,
}

/// Why a string is not a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Wrong length or alphabet.
    #[error(
        "the cursor is not 22 or 32 characters of base64url: hand back the one that came with the last message"
    )]
    Malformed,
    /// The check does not match the rest.
    #[error("the cursor is damaged: hand back the one that came with the last message")]
    Damaged,
}

/// Epoch, slot, position and check.
const BYTES: usize = 16;
/// With a mailbox position.
const BYTES_MAX: usize = 24;
const TEXT_MAX: usize = 32;

impl Cursor {
    /// The slot of a position given by a Redis that is not a cluster.
    pub const ONE_REDIS: u16 = u16::MAX;

    /// In a cluster the nodes' clocks may differ by so much: logs of other slots are replayed from as much earlier.
    pub const CLUSTER_MARGIN_US: u64 = 10_000_000;

    /// From where on this target's log, which lies in `slot`, is news to whoever has the cursor.
    pub fn stands(&self, target: &Target, slot: u16) -> Position {
        match (target.kind(), self.mailbox) {
            (TargetKind::Socket(_), Some(mailbox)) => mailbox,
            _ if self.slot == slot => self.position,
            _ => self.position.earlier_by(Self::CLUSTER_MARGIN_US),
        }
    }

    /// Reads a cursor that a client handed back.
    pub fn parse(text: &str) -> Result<Self, CursorError> {
        let mut bytes = [0; BYTES_MAX];
        let length = match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(length @ (BYTES | BYTES_MAX)) => length,
            _ => return Err(CursorError::Malformed),
        };
        let [e0, e1, e2, e3, s0, s1, rest @ ..] = bytes;
        let number = |at: usize| {
            rest[at..]
                .first_chunk()
                .copied()
                .map_or(Position::ZERO, |chunk| Position(u64::from_be_bytes(chunk)))
        };
        let cursor = Self {
            epoch: Epoch(u32::from_be_bytes([e0, e1, e2, e3])),
            slot: u16::from_be_bytes([s0, s1]),
            position: number(0),
            mailbox: (length == BYTES_MAX).then(|| number(8)),
        };
        if cursor.check().to_be_bytes() != [bytes[length - 2], bytes[length - 1]] {
            return Err(CursorError::Damaged);
        }
        Ok(cursor)
    }

    /// Folds the fields to 16 bits. It catches damage and mix-ups, not malice: a forged cursor can only name a place in
    /// logs that its session may read anyway.
    fn check(&self) -> u16 {
        const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
        let mailbox = self.mailbox.map_or(0, |p| p.0.wrapping_add(1).wrapping_mul(MIX).rotate_left(17));
        let fields = self.position.0 ^ (u64::from(self.epoch.0) << 16) ^ u64::from(self.slot) ^ mailbox;
        (fields.wrapping_mul(MIX) >> 48) as u16
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; BYTES_MAX];
        let length = if self.mailbox.is_some() { BYTES_MAX } else { BYTES };
        bytes[..4].copy_from_slice(&self.epoch.0.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.slot.to_be_bytes());
        bytes[6..14].copy_from_slice(&self.position.0.to_be_bytes());
        if let Some(mailbox) = self.mailbox {
            bytes[14..22].copy_from_slice(&mailbox.0.to_be_bytes());
        }
        bytes[length - 2..length].copy_from_slice(&self.check().to_be_bytes());
        let mut text = [0; TEXT_MAX];
        // 24 bytes are 32 characters: neither call can fail
        let length = URL_SAFE_NO_PAD.encode_slice(&bytes[..length], &mut text).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&text[..length]).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cursor(position: u64, mailbox: Option<u64>) -> Cursor {
        let mailbox = mailbox.map(Position);
        Cursor { epoch: Epoch(7), slot: Cursor::ONE_REDIS, position: Position(position), mailbox }
    }

    proptest! {
        #[test]
        fn round_trips(epoch: u32, slot: u16, position: u64, mailbox: Option<u64>) {
            let cursor = Cursor { epoch: Epoch(epoch), slot, ..cursor(position, mailbox) };
            prop_assert_eq!(Cursor::parse(&cursor.to_string()), Ok(cursor));
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}") {
            let _ = Cursor::parse(&text);
        }

        #[test]
        fn another_position_has_another_check(position in 0..1u64 << 52, step in 1..1_000u64) {
            let check = |p| cursor(p, None).check();
            // neighbours must differ; far ones may collide
            prop_assert_ne!(check(position), check(position + step));
        }
    }

    #[test]
    fn the_length_tells_whether_there_is_a_mailbox() {
        assert_eq!(cursor(1, None).to_string().len(), 22);
        assert_eq!(cursor(1, Some(1)).to_string().len(), 32);
    }

    #[test]
    fn other_text_is_refused_with_a_reason() {
        assert_eq!(Cursor::parse(""), Err(CursorError::Malformed));
        assert_eq!(Cursor::parse("!!!!!!!!!!!!!!!!!!!!!!"), Err(CursorError::Malformed));
        assert_eq!(Cursor::parse("AAAAAAAAAAAAAAAAAAAAAQ"), Err(CursorError::Damaged));
        assert_eq!(Cursor::parse(&"A".repeat(33)), Err(CursorError::Malformed));
    }
}
