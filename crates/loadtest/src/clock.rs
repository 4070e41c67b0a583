//! The one clock: microseconds of the Unix epoch, which messages carry and several processes compare, but steady: the
//! time of day is read once.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

static STARTED: LazyLock<(Instant, u64)> = LazyLock::new(|| {
    let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (Instant::now(), epoch.as_micros() as u64)
});

/// Now.
pub(crate) fn now_us() -> u64 {
    let (instant, epoch_us) = &*STARTED;
    epoch_us + instant.elapsed().as_micros() as u64
}

/// How long until then.
pub(crate) fn until(at_us: u64) -> Duration {
    Duration::from_micros(at_us.saturating_sub(now_us()))
}
