//! The place of a reliable message in time: one number, strictly increasing on one Redis.

use std::fmt;
use std::str::FromStr;

/// Microseconds since the Unix epoch by Redis' clock, moved on by one wherever that clock stood still or went back, so
/// that no two messages of one Redis share a position. As a stream id it is `<milliseconds>-<microseconds within>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

const MICROS_PER_MILLI: u64 = 1_000;

impl Position {
    /// Before every message.
    pub const ZERO: Self = Self(0);

    /// The Redis stream id of a log entry at this position.
    pub fn stream_id(self) -> String {
        format!("{}-{}", self.0 / MICROS_PER_MILLI, self.0 % MICROS_PER_MILLI)
    }

    /// The position of a log entry with this stream id; `None` when it is not one that [`Position::stream_id`] makes.
    pub fn from_stream_id(id: &str) -> Option<Self> {
        let (millis, micros) = id.split_once('-')?;
        let (millis, micros): (u64, u64) = (millis.parse().ok()?, micros.parse().ok()?);
        if micros >= MICROS_PER_MILLI {
            return None;
        }
        Some(Self(millis.checked_mul(MICROS_PER_MILLI)?.checked_add(micros)?))
    }

    /// The position `micros` microseconds earlier, or zero.
    #[must_use]
    pub fn earlier_by(self, micros: u64) -> Self {
        Self(self.0.saturating_sub(micros))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Position {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stream_ids_round_trip_and_keep_the_order(a in 0..1u64 << 53, b in 0..1u64 << 53) {
            let (a, b) = (Position(a), Position(b));
            prop_assert_eq!(Position::from_stream_id(&a.stream_id()), Some(a));
            let key = |p: Position| {
                let id = p.stream_id();
                let (ms, seq) = id.split_once('-').unwrap();
                (ms.parse::<u64>().unwrap(), seq.parse::<u64>().unwrap())
            };
            prop_assert_eq!(a.cmp(&b), key(a).cmp(&key(b)));
        }
    }

    #[test]
    fn what_is_not_a_stream_id_of_ours_is_refused() {
        for bad in [
            "",
            "1",
            "-",
            "1-",
            "-1",
            "1-1000",
            "x-1",
            "1-x",
            "99999999999999999999-0",
            "18446744073709551615-1",
        ] {
            assert_eq!(Position::from_stream_id(bad), None, "{bad}");
        }
    }
}
