//! The numbers that are missing, as ranges in ascending order: bounded, because a channel that loses every other message
//! must not cost memory for each. What is forgotten stays counted.

use std::collections::VecDeque;

/// Ranges remembered for one client and channel. When there are more, the oldest is only counted.
pub const RANGES_MAX: usize = 256;

#[derive(Clone, Debug, Default)]
pub(super) struct Ranges {
    /// Inclusive, ascending, apart from each other.
    ranges: VecDeque<(u32, u32)>,
    forgotten: u64,
    forgotten_to: u32,
}

impl Ranges {
    /// Adds `from..=to`, which lies behind all others.
    pub(super) fn push(&mut self, from: u32, to: u32) {
        if self.ranges.len() == RANGES_MAX {
            self.forget_oldest();
        }
        self.ranges.push_back((from, to));
    }

    fn forget_oldest(&mut self) {
        if let Some((from, to)) = self.ranges.pop_front() {
            self.forgotten += count(from, to);
            self.forgotten_to = to;
        }
    }

    /// Takes one number out; `false` when it is not there.
    pub(super) fn remove(&mut self, number: u32) -> bool {
        let at = self.ranges.partition_point(|(_, to)| *to < number);
        let Some((from, to)) = self.ranges.get(at).copied().filter(|(from, _)| *from <= number) else {
            return false;
        };
        match (from == number, to == number) {
            (true, true) => drop(self.ranges.remove(at)),
            (true, false) => self.ranges[at] = (number + 1, to),
            (false, true) => self.ranges[at] = (from, number - 1),
            (false, false) => {
                self.ranges[at] = (from, number - 1);
                self.ranges.insert(at + 1, (number + 1, to));
                if self.ranges.len() > RANGES_MAX {
                    self.forget_oldest();
                }
            }
        }
        true
    }

    /// How many numbers are missing, forgotten ones included.
    pub(super) fn len(&self) -> u64 {
        self.forgotten + self.ranges.iter().map(|(from, to)| count(*from, *to)).sum::<u64>()
    }

    /// Up to this number it is no longer known which are missing; 0 when all is known.
    pub(super) fn forgotten_to(&self) -> u32 {
        self.forgotten_to
    }
}

fn count(from: u32, to: u32) -> u64 {
    u64::from(to - from) + 1
}
