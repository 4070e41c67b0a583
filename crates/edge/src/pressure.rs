//! How far this edge is behind, measured with its own clock alone: two machines' clocks may differ by more than what is
//! measured, and ingests' clocks among each other. So no message's publish time is looked at. Two stretches are, and
//! added:
//!
//! - **the feed**: a message that the edge sends to itself through Redis now and then ([`crate::feed`]'s probe) stands in
//!   line behind everything else for this edge, in Redis' output buffer, on the wire and in the feed's queue. One that is
//!   not back yet counts as late as it is by now; one that is lost is not lateness but an outage, and counts no more.
//! - **the hub**: each shard follows messages from the feed until every outbox that was waiting when one was appended had
//!   its turn to be written ([`crate::hub`]'s passes).
//!
//! A client that does not read is nowhere in this: its turn is over when its socket refuses. A group that is more than
//! the machine can write is: the turn comes late for all.
//!
//! What is noted are maxima in atomics, a few for each pass; nothing is locked or allocated on a message's way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use herald_bus::FeedGauge;
use herald_chassis::Shutdown;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::hub::Hub;
use crate::metrics::PressureMetrics;

/// How often pressure is measured, and told while there is some.
const MEASURE_EVERY: Duration = Duration::from_millis(100);
/// Less than this is quiet, and is told with the heartbeats only.
const QUIET: Duration = Duration::from_millis(10);
const QUIET_PERMILLE: u32 = 50;

/// How far behind the edge is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    /// From Redis to the feed's reader.
    pub(crate) feed: Duration,
    /// From there to the sockets.
    pub(crate) hub: Duration,
    /// How full the queues between are, 0 to 1000: up to 500 the hub's, beyond it the feed's.
    pub(crate) fullness_permille: u32,
}

impl Pressure {
    /// From Redis to the sockets.
    pub(crate) fn lateness(&self) -> Duration {
        self.feed + self.hub
    }

    fn is_quiet(&self) -> bool {
        self.lateness() < QUIET && self.fullness_permille < QUIET_PERMILLE
    }

    /// Whether it must be told at once, after that was.
    fn is_news_after(&self, told: &Self) -> bool {
        !(self.is_quiet() && told.is_quiet())
    }
}

/// Where lateness is noted. Cloning is a reference count.
#[derive(Clone, Debug)]
pub(crate) struct Lateness(Arc<Noted>);

#[derive(Debug)]
struct Noted {
    began: Instant,
    hub_worst_us: AtomicU64,
    probe_us: AtomicU64,
    /// When the probe was sent that is not back yet, in microseconds since `began`, plus one; 0: none is out.
    probing_us: AtomicU64,
}

impl Lateness {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Noted {
            began: Instant::now(),
            hub_worst_us: AtomicU64::new(0),
            probe_us: AtomicU64::new(0),
            probing_us: AtomicU64::new(0),
        }))
    }

    /// A probe was sent.
    pub(crate) fn probing(&self, sent: Instant) {
        let since_us = micros(sent.duration_since(self.0.began)) + 1;
        self.0.probing_us.store(since_us, Ordering::Relaxed);
    }

    /// It came back after so long, or was given up.
    pub(crate) fn probed(&self, took: Option<Duration>) {
        self.0.probe_us.store(took.map_or(0, micros), Ordering::Relaxed);
        self.0.probing_us.store(0, Ordering::Relaxed);
    }

    /// A message waited so long in the hub until its connections had their turn.
    pub(crate) fn handed_on(&self, after: Duration) {
        self.0.hub_worst_us.fetch_max(micros(after), Ordering::Relaxed);
    }

    fn feed(&self, now: Instant) -> Duration {
        let last = self.0.probe_us.load(Ordering::Relaxed);
        let out = match self.0.probing_us.load(Ordering::Relaxed) {
            0 => 0,
            since => (micros(now.duration_since(self.0.began)) + 1).saturating_sub(since),
        };
        Duration::from_micros(last.max(out))
    }

    /// The longest of those, since this was asked last.
    pub(crate) fn take_hub_worst(&self) -> Duration {
        Duration::from_micros(self.0.hub_worst_us.swap(0, Ordering::Relaxed))
    }
}

/// What is looked at.
pub(crate) struct Gauges {
    pub(crate) lateness: Lateness,
    pub(crate) hub: Hub,
    pub(crate) feed: FeedGauge,
    pub(crate) metrics: PressureMetrics,
}

impl Gauges {
    /// Measures until the edge stops. What is sent is news.
    pub(crate) async fn run(self, told: watch::Sender<Pressure>, shutdown: Shutdown) {
        let mut ticks = interval(MEASURE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // a pass over many sockets may end only in every other measurement
        let mut hub_before = Duration::ZERO;
        loop {
            tokio::select! {
                () = shutdown.hard() => return,
                _ = ticks.tick() => {}
            }
            let hub = self.lateness.take_hub_worst();
            let pressure = Pressure {
                feed: self.lateness.feed(Instant::now()),
                hub: if hub.is_zero() { hub_before } else { hub },
                fullness_permille: u32::midpoint(self.hub.fullness_permille(), self.feed.fullness_permille()),
            };
            hub_before = hub;
            self.metrics.measured(&pressure);
            told.send_if_modified(|last| {
                let news = pressure.is_news_after(last);
                *last = pressure;
                news
            });
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_not_back_counts_by_its_age_and_a_lost_one_not() {
        let lateness = Lateness::new();
        lateness.probed(Some(3 * MS));
        assert_eq!(lateness.feed(Instant::now()), 3 * MS);
        lateness.probing(Instant::now());
        advance(2 * MS).await;
        assert_eq!(lateness.feed(Instant::now()), 3 * MS);
        advance(398 * MS).await;
        assert_eq!(lateness.feed(Instant::now()), 400 * MS);
        lateness.probed(None);
        assert_eq!(lateness.feed(Instant::now()), Duration::ZERO);
    }

    #[test]
    fn pressure_is_told_while_there_is_some_and_once_more_when_it_ends() {
        let some = Pressure { hub: 20 * MS, ..Pressure::default() };
        let full = Pressure { fullness_permille: 100, ..Pressure::default() };
        let quiet = Pressure { feed: 2 * MS, ..Pressure::default() };
        for (now, told, news) in [
            (some, quiet, true),
            (some, some, true),
            (quiet, some, true),
            (quiet, quiet, false),
            (full, quiet, true),
        ] {
            assert_eq!(now.is_news_after(&told), news, "{now:?} after {told:?}");
        }
    }
}
