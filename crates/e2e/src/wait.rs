//! Waiting for a condition, bounded and never longer than needed. The only place that polls.

use std::time::{Duration, Instant};

/// How long anything may take that takes milliseconds on an idle machine: reached only by a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);
const POLL_EVERY: Duration = Duration::from_millis(15);

/// Asks until there is an answer. Panics with `what` after [`PATIENCE`].
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let mut ticks = tokio::time::interval(POLL_EVERY);
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        ticks.tick().await;
        if let Some(answer) = ask().await {
            return answer;
        }
    }
    panic!("waited {PATIENCE:?} in vain: {what}");
}

/// As [`until`], for what starts and stops processes outside of any runtime.
pub fn until_blocking<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::sleep(POLL_EVERY);
    }
    panic!("waited {PATIENCE:?} in vain: {what}");
}
