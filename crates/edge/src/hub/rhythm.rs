//! When outboxes are written: at once while there is little to do, in fewer and larger writes the busier the shard is.
//! Pure: time goes in. What is written is `shard`'s.
//!
//! A write costs the same for one frame as for a dozen. So after a pass over the outboxes that waited, the shard rests, and
//! what comes meanwhile leaves together. The rest grows with the square of the pass: a short pass is followed by none,
//! and each message leaves when it comes; a pass that takes long, because there is much to write or because others want
//! the processor too, by a long one, which is what gives time to all of them.

use std::time::Duration;

use tokio::time::Instant;

/// A pass that takes this is followed by a rest as long.
const EVEN: Duration = Duration::from_millis(4);
/// The longest rest: what a message may wait for others at most.
const REST_MAX: Duration = Duration::from_millis(40);
/// The shortest; the runtime's timers know nothing finer.
const REST_MIN: Duration = Duration::from_millis(1);

/// Passes and rests of one queue of outboxes.
#[derive(Debug, Default)]
pub(super) struct Rhythm {
    /// When the pass began, and how many outboxes it has still to write.
    pass: Option<(Instant, usize)>,
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
        let (_, left) = self.pass.get_or_insert((now, waiting));
        *left
    }

    /// So many were written.
    pub(super) fn wrote(&mut self, count: usize, now: Instant) {
        let Some((began, left)) = &mut self.pass else { return };
        *left = left.saturating_sub(count);
        if *left == 0 {
            let pass = now.duration_since(*began);
            let rest = pass.mul_f64(pass.as_secs_f64() / EVEN.as_secs_f64()).min(REST_MAX);
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
        assert_eq!(rhythm.due(100, now), 100);
        rhythm.wrote(64, now + 3 * MS);
        // what comes during the pass belongs to the next
        assert_eq!(rhythm.due(500, now + 3 * MS), 36);
        rhythm.wrote(36, now + 4 * MS);
        assert_eq!(rhythm.due(464, now + 7 * MS), 0);
        assert_eq!(rhythm.rest_until(), Some(now + 8 * MS));
        assert_eq!((rhythm.rested(now + 4 * MS), rhythm.rested(now + 7 * MS)), (Duration::ZERO, 3 * MS));
        assert_eq!(rhythm.due(464, now + 8 * MS), 464);
        assert_eq!((rhythm.rest_until(), rhythm.rested(now + 20 * MS)), (None, 4 * MS));
        rhythm.wrote(464, now + 16 * MS);
        assert_eq!(rhythm.rest_until(), Some(now + 32 * MS));
    }

    #[test]
    fn no_rest_is_longer_than_the_longest() {
        let (mut rhythm, now) = (Rhythm::default(), Instant::now());
        assert_eq!(rhythm.due(1, now), 1);
        rhythm.wrote(1, now + 500 * MS);
        assert_eq!(rhythm.rest_until(), Some(now + 500 * MS + REST_MAX));
    }
}
