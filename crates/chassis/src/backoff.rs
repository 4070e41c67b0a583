//! How long to wait before trying again: exponential with full jitter. The one implementation for every retry loop.

use std::time::Duration;

use crate::Shutdown;

/// Delays that grow from `min` towards `max` until [`reset`](Self::reset).
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    /// 50 ms to 1 s: for a connection that others wait for.
    pub const EAGER: Self = Self::new(Duration::from_millis(50), Duration::from_secs(1));

    /// Delays between `min` and `max` (at least `min`).
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, attempts: 0 }
    }

    /// The next attempt is the first one again: call it after a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// How often [`next`](Self::next) was asked since the last reset.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The next delay; `random` lies in 0 to 1. Anything from `min` to `min · 2^attempts`, so that those who failed
    /// together do not come back together.
    pub fn next(&mut self, random: f64) -> Duration {
        let doubled = self.min.saturating_mul(2_u32.saturating_pow(self.attempts.saturating_add(1)));
        let ceiling = doubled.min(self.max).max(self.min);
        self.attempts = self.attempts.saturating_add(1);
        let jitter = (ceiling - self.min).as_secs_f64() * random;
        self.min + Duration::try_from_secs_f64(jitter).unwrap_or_default().min(ceiling - self.min)
    }

    /// Waits out the next delay. `false` as soon as the process drains: stop trying then.
    #[must_use = "a retry loop ends when the process drains"]
    pub async fn wait(&mut self, shutdown: &Shutdown) -> bool {
        let delay = self.next(fastrand::f64());
        tokio::select! {
            biased;
            () = shutdown.soft() => false,
            () = tokio::time::sleep(delay) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn delays_double_up_to_the_most() {
        let mut backoff = Backoff::new(100 * MS, 1_000 * MS);
        let delays: Vec<_> = (0..6).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(delays, [200, 400, 800, 1_000, 1_000, 1_000]);
        assert_eq!(backoff.attempts(), 6);
        backoff.reset();
        assert_eq!(backoff.next(1.0), 200 * MS);
    }

    #[test]
    fn jitter_reaches_from_the_least_to_the_ceiling() {
        let mut backoff = Backoff::new(100 * MS, 10_000 * MS);
        assert_eq!(backoff.next(0.0), 100 * MS);
        assert_eq!(backoff.next(0.5), 250 * MS);
        assert_eq!(backoff.next(f64::NAN), 100 * MS);
        assert_eq!(backoff.next(-1.0), 100 * MS);
        assert_eq!(backoff.next(7.0), 3_200 * MS);
    }

    #[test]
    fn no_attempt_overflows() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        backoff.attempts = u32::MAX - 1;
        assert_eq!(backoff.next(1.0), Duration::from_secs(30));
        assert_eq!(backoff.next(1.0), Duration::from_secs(30));
        assert_eq!(Backoff::new(Duration::MAX, MS).next(1.0), Duration::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_the_delay_or_the_drain() {
        let shutdown = Shutdown::new();
        let mut backoff = Backoff::new(100 * MS, 1_000 * MS);
        let start = Instant::now();
        assert!(backoff.wait(&shutdown).await);
        assert!(start.elapsed() >= 100 * MS);
        shutdown.begin();
        let start = Instant::now();
        assert!(!backoff.wait(&shutdown).await);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
