//! When outboxes are written: at once while there is little to do, in fewer and larger writes the busier the shard is.
//! Pure: time goes in. What is written is `shard`'s.
//!
//! A write costs the same for one frame as for a dozen. So after a pass over the outboxes that waited, the shard rests, and
//! what comes meanwhile leaves together. The rest grows with the square of the pass: a short pass is followed by none,
//! and each message leaves when it comes; a pass that takes long, because there is much to write or because others want
//! the processor too, by a long one, which is what gives time to all of them. Few outboxes save little by waiting, however
//! long they took: the square of their number bounds the rest too.

use std::time::Duration;

use tokio::time::Instant;

/// Outboxes that make a full pass: one for which [`EVEN`] and [`REST`] are said.
const FULL: f64 = 750.0;
/// A full pass that takes this is followed by a rest as long; about what so many writes take undisturbed.
const EVEN: Duration = Duration::from_millis(4);
/// The longest rest after a full pass. Twice the outboxes may rest twice as long, half of them a quarter.
const REST: Duration = Duration::from_millis(40);
/// The longest rest of all: what a message may wait for others at most.
const REST_MAX: Duration = Duration::from_millis(150);
/// The shortest; the runtime's timers know nothing finer.
const REST_MIN: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct Pass {
    began: Instant,
    outboxes: usize,
    /// Still to be written.
    left: usize,
}

/// Passes and rests of one queue of outboxes.
#[derive(Debug, Default)]
pub(super) struct Rhythm {
    pass: Option<Pass>,
    rest_until: Option<Instant>,
    /// All rests, the last one to its end.
    rests: Duration,
}

impl Rhythm {
    /// How many outboxes may be written now, of so many that wait.
    pub(super) fn due(&mut self, waiting: usize, now: Instant) -> usize {
        if self.rest_until.is_some_and(|until| now < until) {
            return 0;
        }
        self.rest_until = None;
        if waiting == 0 {
            return 0;
        }
        self.pass.get_or_insert(Pass { began: now, outboxes: waiting, left: waiting }).left
    }

    /// So many were written.
    pub(super) fn wrote(&mut self, count: usize, now: Instant) {
        let Some(pass) = &mut self.pass else { return };
        pass.left = pass.left.saturating_sub(count);
        if pass.left == 0 {
            let rest = rest(pass.outboxes, now.duration_since(pass.began));
            if rest >= REST_MIN {
                self.rest_until = Some(now + rest);
                self.rests += rest;
            }
            self.pass = None;
        }
    }

    /// For how long it has rested, ever.
    pub(super) fn rested(&self, now: Instant) -> Duration {
        let still = self.rest_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        self.rests.saturating_sub(still)
    }

    /// When the rest is over that keeps outboxes waiting.
    pub(super) fn rest_until(&self) -> Option<Instant> {
        self.rest_until
    }
}

/// After a pass over so many outboxes that took so long.
fn rest(outboxes: usize, took: Duration) -> Duration {
    let fullness = outboxes as f64 / FULL;
    let even = EVEN.mul_f64(fullness.max(1.0));
    let most = REST.mul_f64(fullness.min(fullness.powi(2))).min(REST_MAX);
    took.mul_f64(took.as_secs_f64() / even.as_secs_f64()).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_short_pass_is_followed_by_no_rest() {
        let (mut rhythm, now) = (Rhythm::default(), Instant::now());
        assert_eq!(rhythm.due(3, now), 3);
        rhythm.wrote(3, now + MS / 2);
        assert_eq!(rhythm.due(1, now + MS / 2), 1);
    }

    #[test]
    fn a_pass_twice_as_long_is_followed_by_a_rest_four_times_as_long() {
        let (mut rhythm, now) = (Rhythm::default(), Instant::now());
        assert_eq!(rhythm.due(700, now), 700);
        rhythm.wrote(64, now + 3 * MS);
        // what comes during the pass belongs to the next
        assert_eq!(rhythm.due(1_100, now + 3 * MS), 636);
        rhythm.wrote(636, now + 4 * MS);
        assert_eq!(rhythm.due(464, now + 7 * MS), 0);
        assert_eq!(rhythm.rest_until(), Some(now + 8 * MS));
        assert_eq!((rhythm.rested(now + 4 * MS), rhythm.rested(now + 7 * MS)), (Duration::ZERO, 3 * MS));
        assert_eq!(rhythm.due(700, now + 8 * MS), 700);
        assert_eq!((rhythm.rest_until(), rhythm.rested(now + 20 * MS)), (None, 4 * MS));
        rhythm.wrote(700, now + 16 * MS);
        assert_eq!(rhythm.rest_until(), Some(now + 32 * MS));
    }

    #[test]
    fn the_number_of_outboxes_bounds_the_rest() {
        for (outboxes, took, rests) in [
            (750, 500 * MS, REST),
            (375, 500 * MS, REST / 4),
            (25, 500 * MS, REST / 900),
            (1_500, 8 * MS, 8 * MS),
            (1_500, 500 * MS, 2 * REST),
            (1_000_000, 3_600_000 * MS, REST_MAX),
        ] {
            assert_eq!(rest(outboxes, took).as_micros(), rests.as_micros(), "{outboxes} in {took:?}");
        }
    }
}
