//! How long to wait before the next attempt: longer each time, never more than a second, never the same for all.

use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

const FIRST: Duration = Duration::from_millis(20);
const MAX: Duration = Duration::from_secs(1);

impl Backoff {
    /// Between half and all of the step; nothing before the first failure.
    pub(super) fn delay(&self) -> Duration {
        if self.failures == 0 {
            return Duration::ZERO;
        }
        let step = FIRST.saturating_mul(1 << self.failures.min(10)).min(MAX);
        step.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    pub(super) fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_a_second_and_starts_anew() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.delay(), Duration::ZERO);
        for _ in 0..100 {
            backoff.failed();
            assert!(backoff.delay() >= FIRST && backoff.delay() <= MAX);
        }
        assert!(backoff.delay() >= MAX / 2);
        backoff.reset();
        assert_eq!(backoff.delay(), Duration::ZERO);
    }
}
