//! When each message of a stream is due: a pure function of its index, so that every process knows what was due to whom
//! without being told. Reads no clock.

use serde::{Deserialize, Serialize};

/// A stream's arrivals: a fixed rate, the targets in turn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// When the first message is due, in microseconds of the Unix epoch.
    pub start_us: u64,
    /// Messages a second.
    pub rate: f64,
    /// How many messages there are.
    pub count: u64,
    /// How many targets take turns.
    pub targets: u32,
}

/// One message of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Whom it is for.
    pub target: u32,
    /// Its number among the target's messages, from 1.
    pub number: u32,
    /// When it is due.
    pub at_us: u64,
}

impl Schedule {
    /// When message `index` is due.
    pub fn at_us(&self, index: u64) -> u64 {
        self.start_us + (index as f64 * 1e6 / self.rate) as u64
    }

    /// What message `index` is.
    pub fn arrival(&self, index: u64) -> Arrival {
        let targets = u64::from(self.targets);
        Arrival {
            target: (index % targets) as u32,
            number: (index / targets + 1) as u32,
            at_us: self.at_us(index),
        }
    }

    /// How many messages are due at or before `now_us`.
    pub fn due(&self, now_us: u64) -> u64 {
        if now_us < self.start_us {
            return 0;
        }
        let elapsed_us = (now_us - self.start_us) as f64;
        let mut due = (elapsed_us * self.rate / 1e6) as u64;
        // rounding may be off by a few either way: `at_us` has the last word
        while due > 0 && self.at_us(due - 1) > now_us {
            due -= 1;
        }
        while due < self.count && self.at_us(due) <= now_us {
            due += 1;
        }
        due.min(self.count)
    }

    /// The number of the target's first message that is due after `now_us`, whether or not there is one.
    pub fn first_after(&self, target: u32, now_us: u64) -> u32 {
        self.numbers_below(target, self.due(now_us)) + 1
    }

    /// How many of the first `count` messages are the target's: its last number.
    pub fn numbers_below(&self, target: u32, count: u64) -> u32 {
        let (targets, target) = (u64::from(self.targets), u64::from(target));
        (count / targets + u64::from(count % targets > target)) as u32
    }

    /// The index of a target's message.
    pub fn index(&self, target: u32, number: u32) -> u64 {
        u64::from(number.saturating_sub(1)) * u64::from(self.targets) + u64::from(target)
    }

    /// When the last message is due.
    pub fn end_us(&self) -> u64 {
        self.at_us(self.count.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn schedules()(
            start_us in 0_u64..2_000_000_000_000_000, rate in 0.1_f64..500_000.0, count in 0_u64..2_000, targets in 1_u32..50
        ) -> Schedule {
            Schedule { start_us, rate, count, targets }
        }
    }

    proptest! {
        #[test]
        fn due_counts_exactly_what_is_not_later(schedule in schedules(), at in 0_u64..2_000_000) {
            let now_us = schedule.start_us + at;
            let counted = (0..schedule.count).take_while(|i| schedule.at_us(*i) <= now_us).count() as u64;
            prop_assert_eq!(schedule.due(now_us), counted);
        }

        #[test]
        fn a_target_s_numbers_are_consecutive(schedule in schedules(), at in 0_u64..2_000_000) {
            let now_us = schedule.start_us + at;
            let mut last = vec![0; schedule.targets as usize];
            let mut before = vec![0; schedule.targets as usize];
            for index in 0..schedule.count {
                let arrival = schedule.arrival(index);
                let target = arrival.target as usize;
                prop_assert_eq!(arrival.number, last[target] + 1);
                prop_assert_eq!(schedule.index(arrival.target, arrival.number), index);
                last[target] = arrival.number;
                if arrival.at_us <= now_us {
                    before[target] = arrival.number;
                }
            }
            for target in 0..schedule.targets {
                prop_assert_eq!(schedule.numbers_below(target, schedule.count), last[target as usize]);
                prop_assert_eq!(schedule.first_after(target, now_us), before[target as usize] + 1);
            }
        }
    }

    #[test]
    fn a_rate_is_kept_however_long_it_lasts() {
        let schedule = Schedule { start_us: 7, rate: 3.0, count: 3 * 86_400, targets: 1 };
        assert_eq!(schedule.at_us(3 * 86_400), 7 + 86_400 * 1_000_000);
        assert_eq!(schedule.due(6), 0);
        assert_eq!(schedule.due(7), 1);
        assert_eq!(schedule.due(u64::MAX / 2), schedule.count);
    }
}
