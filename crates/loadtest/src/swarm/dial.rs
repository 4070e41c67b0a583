//! Who connects when: evenly at first, later whoever lost its connection. Pure.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The first delay before a client whose attempt failed tries again; it doubles up to [`RETRY_US_MAX`].
const RETRY_US: u64 = 100_000;
const RETRY_US_MAX: u64 = 2_000_000;

/// Clients that wait to connect, by when.
#[derive(Debug, Default)]
pub(super) struct Dials {
    waiting: BinaryHeap<Reverse<(u64, usize)>>,
}

impl Dials {
    /// A client connects at this time.
    pub(super) fn at(&mut self, at_us: u64, slot: usize) {
        self.waiting.push(Reverse((at_us, slot)));
    }

    /// A client whose attempts failed so often tries again; `random` lies in 0 to 1.
    pub(super) fn again(&mut self, now_us: u64, slot: usize, (attempts, random): (u32, f64)) {
        let most = RETRY_US.saturating_mul(1 << attempts.min(10)).min(RETRY_US_MAX);
        let delay = most as f64 * (0.5 + random / 2.0);
        self.at(now_us + delay as u64, slot);
    }

    /// The next one whose time has come.
    pub(super) fn next(&mut self, now_us: u64) -> Option<usize> {
        self.waiting.peek().filter(|Reverse((at, _))| *at <= now_us)?;
        self.waiting.pop().map(|Reverse((_, slot))| slot)
    }

    /// When the next one's time comes.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.waiting.peek().map(|Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connects_in_its_time() {
        let mut dials = Dials::default();
        dials.at(20, 1);
        dials.at(10, 2);
        assert_eq!((dials.next(9), dials.next_at()), (None, Some(10)));
        assert_eq!((dials.next(30), dials.next(30), dials.next(30)), (Some(2), Some(1), None));
        dials.again(0, 7, (0, 0.0));
        assert_eq!(dials.next_at(), Some(50_000));
        dials.again(0, 8, (40, 1.0));
        assert_eq!((dials.next(60_000), dials.next_at()), (Some(7), Some(2_000_000)));
    }
}
