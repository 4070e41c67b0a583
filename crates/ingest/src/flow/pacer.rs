//! Spreads what the window allows over time: a bucket of tokens, one for each publication. Pure.
//!
//! The bucket holds a whole window, so that a burst after quiet passes at once; in the long run no more than the pace
//! goes out. Without it, a window's messages would go out together, each time the first of them is released, and an
//! edge would be late by the whole window again and again.

use std::time::{Duration, Instant};

/// What one message may cost at most: what passes in this time. One for a thousand targets must not shut a narrow window
/// for minutes.
const DEBT_MAX: Duration = Duration::from_secs(1);
/// The shortest wait: timers are no finer.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// The bucket.
#[derive(Clone, Debug)]
pub struct Pacer {
    tokens: f64,
    filled_at: Instant,
    pace: f64,
    size: f64,
}

impl Pacer {
    /// A full bucket.
    pub fn new(now: Instant, pace: f64, size: f64) -> Self {
        Self { tokens: size, filled_at: now, pace, size }
    }

    /// From now on at this pace, into a bucket of this size.
    pub fn set(&mut self, now: Instant, pace: f64, size: f64) {
        self.fill(now);
        (self.pace, self.size) = (pace, size);
        self.tokens = self.tokens.min(size);
    }

    /// How many publications may go out now.
    pub fn room(&mut self, now: Instant) -> usize {
        self.fill(now);
        self.tokens.max(0.0) as usize
    }

    /// So many went out, also when there was less room: what comes next waits the longer.
    pub fn spend(&mut self, count: usize) {
        let least = -(self.pace * DEBT_MAX.as_secs_f64()).max(1.0);
        self.tokens = (self.tokens - count as f64).max(least.min(self.tokens));
    }

    /// How long until there is room for one.
    pub fn wait(&self, now: Instant) -> Duration {
        let passed = now.duration_since(self.filled_at).as_secs_f64();
        let missing = (1.0 - self.tokens) / self.pace - passed;
        Duration::from_secs_f64(missing.max(0.0)).max(WAIT_MIN)
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.duration_since(self.filled_at).as_secs_f64();
        self.filled_at = now;
        self.tokens = (self.tokens + passed * self.pace).min(self.size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_at_once_and_the_rest_at_the_pace() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start, 100.0, 10.0);
        assert_eq!(pacer.room(start), 10);
        pacer.spend(10);
        assert_eq!(pacer.room(start), 0);
        assert_eq!(pacer.wait(start), Duration::from_millis(10));
        assert_eq!(pacer.room(start + Duration::from_millis(55)), 5);
        assert_eq!(pacer.room(start + Duration::from_secs(9)), 10);
    }

    #[test]
    fn what_was_overdrawn_is_waited_for_but_not_for_ever() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start, 10.0, 10.0);
        pacer.spend(15);
        assert_eq!(pacer.room(start + Duration::from_millis(500)), 0);
        assert_eq!(pacer.room(start + Duration::from_millis(610)), 1);
        pacer.spend(1_000_000);
        assert_eq!(pacer.room(start + Duration::from_millis(1_750)), 1);
    }

    #[test]
    fn a_slower_pace_holds_from_now_on_and_a_smaller_bucket_spills() {
        let start = Instant::now();
        let mut pacer = Pacer::new(start, 1_000.0, 500.0);
        pacer.set(start, 4.0, 1.0);
        assert_eq!(pacer.room(start), 1);
        pacer.spend(1);
        assert_eq!(pacer.wait(start), Duration::from_millis(250));
    }
}
